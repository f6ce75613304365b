//! The guests on a host: with all capabilities, with a container's, and as
//! another user. `integration/tracer_in_pod.rs` has them in containers.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tracer::{Blindness, CapSet, Choice, Command, Interrupt, Status, Touched, Tracer};

use crate::proof::{BUILT, Place, SETTINGS, Scene, Setting, TABLES, compare, cstring, write};

#[test]
fn on_a_host_answers_are_those_of_the_table() {
    let tables = tempfile::tempdir().unwrap();
    let settings = [Setting::FULL, Setting::HOST, Setting::USER];
    write(&settings, tables.path());
    compare(&settings, tables.path());
}

/// Without CAP_SYS_PTRACE and CAP_SYS_ADMIN, processes that changed their user
/// have to be read in other ways.
#[test]
fn with_the_capabilities_of_a_container_answers_are_those_of_the_table() {
    let tables = tempfile::tempdir().unwrap();
    let test = std::env::current_exe().unwrap();
    let argv = ["test", "--exact", "proof::answers::inside", "--ignored"];
    let argv = argv.iter().map(|arg| CString::new(*arg).unwrap()).collect();
    let mut command = Command::new(cstring(&test), argv);
    command.envp = vec![
        c"PATH=/usr/bin:/bin".into(),
        variable(TABLES, tables.path()),
        variable(SETTINGS, Path::new(Setting::CAPABILITIES.name)),
    ];
    for name in ["PATH", "HOME", "RUSTUP_HOME", "CARGO_HOME"] {
        let value = std::env::var_os(name).unwrap_or_default();
        command.envp.push(variable(name, Path::new(&value)));
    }
    // Where they were built elsewhere.
    if let Some(value) = std::env::var_os(BUILT) {
        command.envp.push(variable(BUILT, Path::new(&value)));
    }
    command.capabilities = Some(CapSet::CONTAINER_DEFAULT);
    let output = tempfile::NamedTempFile::new().unwrap();
    command.stdout = Some(output.reopen().unwrap().into());
    command.stderr = Some(output.reopen().unwrap().into());
    let outcome = Tracer::probe(Choice::Off).unwrap().run(&command, &Interrupt::new()).unwrap();
    let said = std::fs::read_to_string(output.path()).unwrap();
    assert!(outcome.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(outcome.touched, Touched::Anything(Blindness::NotTraced));
    compare(&[Setting::CAPABILITIES], tables.path());
}

fn variable(name: &str, value: &Path) -> CString {
    let text = [name.as_bytes(), b"=", value.as_os_str().as_bytes()].concat();
    CString::new(text).unwrap()
}

/// Names and links that another thread exchanges while they are opened.
#[test]
fn nothing_is_won_by_a_race_where_opened_files_are_looked_at_twice() {
    let tracer = Tracer::probe(Choice::Ptrace).unwrap();
    for guest in ["race_of_a_name", "race_of_a_link"] {
        for place in Place::ALL {
            let seen = Scene::new(place).strict(true).run(&tracer, "behaviours", guest).unwrap();
            assert_eq!(seen.outcome.status, Status::Exited(0), "{guest}, {place:?}");
            seen.expect_complete();
        }
    }
}

/// A link that comes between a look and a call is noticed, though not where it
/// leads in every case.
#[test]
fn a_race_of_links_is_followed_or_told() {
    let tracer = Tracer::probe(Choice::Ptrace).unwrap();
    for place in Place::ALL {
        let seen = Scene::new(place).run(&tracer, "behaviours", "race_of_a_link").unwrap();
        assert_eq!(seen.outcome.status, Status::Exited(0), "{place:?}");
        match &seen.outcome.touched {
            Touched::Anything(Blindness::Unresolved { why, .. }) => {
                assert!(why.contains("a link may come in its way"), "{place:?}: {why}");
            }
            Touched::Anything(why) => panic!("{place:?}: {why}"),
            Touched::Only(_) => seen.expect_complete(),
        }
    }
}

#[test]
fn a_command_that_ends_badly_is_seen_to_its_end() {
    let tracer = Tracer::probe(Choice::Ptrace).unwrap();
    // The kernel ignores signals a PID namespace's first process sends to
    // itself.
    for place in [Place::Plain, Place::Chrooted] {
        let seen = Scene::new(place).run(&tracer, "behaviours", "kill_itself").unwrap();
        assert_eq!(seen.outcome.status, Status::Signaled(libc::SIGKILL, false), "{place:?}");
        seen.expect_complete();
    }
    // Where core_pattern is a pipe, or the limit cannot be raised, there is no
    // core file, and nothing to miss.
    let seen = Scene::new(Place::Plain).run(&tracer, "behaviours", "core_dump").unwrap();
    match (seen.outcome.status, &seen.outcome.touched) {
        (Status::Signaled(libc::SIGABRT, true), Touched::Anything(Blindness::CoreDump)) => {}
        (Status::Signaled(libc::SIGABRT, false), Touched::Only(_)) => seen.expect_complete(),
        other => panic!("{other:?}"),
    }
}
