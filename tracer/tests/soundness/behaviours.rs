//! One behaviour at a time, in every setting, and with the privileges of a
//! container.

use std::ffi::CString;

use tracer::{Blindness, CapSet, Choice, Command, Interrupt, Status, Touched, Tracer};

use crate::scene::{Scene, Setting, cstring};

/// What the tracer is to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    /// A set, in which nothing is missing.
    Set,
    /// That it cannot tell.
    Anything,
}

use Want::{Anything, Set};

const DONE: Status = Status::Exited(0);
const BEHAVIOURS: &[(&str, Want, Status)] = &[
    ("open_variants", Set, DONE),
    ("creat_call", Set, DONE),
    ("truncating_read_only", Set, DONE),
    ("open_how", Set, DONE),
    ("tmpfile_by_proc", Set, DONE),
    ("tmpfile_by_fd", Set, DONE),
    ("rename_file", Set, DONE),
    ("rename_at2", Set, DONE),
    ("exchange", Set, DONE),
    ("rename_dir", Set, DONE),
    ("link_calls", Set, DONE),
    ("symlink_calls", Set, DONE),
    ("fifo", Set, DONE),
    ("removals", Set, DONE),
    ("mmap_write", Set, DONE),
    ("fd_over_socket", Set, DONE),
    ("proc_self_fd", Set, DONE),
    ("proc_self_fd_dir", Set, DONE),
    ("proc_self_cwd", Set, DONE),
    ("proc_self_root", Set, DONE),
    ("empty_path", Set, DONE),
    ("read_only_fd_metadata", Set, DONE),
    ("xattr_fd", Set, DONE),
    ("times", Set, DONE),
    ("chmod_chown", Set, DONE),
    ("chroot_escape", Set, DONE),
    ("chdir_in_thread", Set, DONE),
    ("exec_from_thread", Set, DONE),
    ("vforked", Set, DONE),
    ("daemon_writes_later", Set, DONE),
    ("bind_socket", Set, DONE),
    ("truncate_call", Set, DONE),
    ("dirfd_after_rename", Set, DONE),
    ("link_parent", Set, DONE),
    ("link_final", Set, DONE),
    ("link_before_dot", Set, DONE),
    ("link_dangling", Set, DONE),
    ("link_swapped", Set, DONE),
    ("dir_becomes_link", Set, DONE),
    ("dir_made_again", Set, DONE),
    ("removed_cwd", Set, DONE),
    ("hard_link_write", Set, DONE),
    ("unlinked_then_fchmod", Set, DONE),
    ("lost_name", Anything, DONE),
    ("x32_attempt", Set, DONE),
    ("io_uring_denied", Set, DONE),
    ("future_call_denied", Set, DONE),
    ("listener_denied", Set, DONE),
    ("own_filter", Set, DONE),
    ("own_trace_filter", Set, DONE),
    ("clone_untraced", Set, DONE),
    ("clone3_refused", Set, DONE),
    ("killed_children", Set, DONE),
    ("other_user", Set, DONE),
    ("effective_user", Set, DONE),
    ("user_of_program", Set, DONE),
    ("creat_new", Set, DONE),
    ("not_dumpable", Set, DONE),
    ("stopped_child", Set, DONE),
    ("real_time_signal", Set, DONE),
    ("threads_setuid", Set, DONE),
    ("leader_exits_first", Set, DONE),
    ("mounting", Anything, DONE),
    ("ptraces_itself", Set, DONE),
    ("nothing", Set, DONE),
    ("proc_write", Set, DONE),
    ("page_border", Set, DONE),
];

#[test]
fn the_trace_has_what_each_behaviour_changes() {
    for setting in Setting::ALL {
        check(setting);
    }
}

/// Root of a container: what `the_tracer_knows_its_way_in_a_container` runs
/// with the capabilities of one.
#[test]
#[ignore = "started by the_tracer_knows_its_way_in_a_container"]
fn behaviours_in_place() {
    // As a builder that holds credentials is: its children start as copies of it.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).unwrap();
    check(Setting::Plain);
}

/// Without CAP_SYS_PTRACE and CAP_SYS_ADMIN, processes that changed their user
/// have to be read in other ways.
#[test]
fn the_tracer_knows_its_way_in_a_container() {
    let test = std::env::current_exe().unwrap();
    let argv = ["test", "--exact", "behaviours::behaviours_in_place", "--ignored"];
    let argv = argv.iter().map(|arg| CString::new(*arg).unwrap()).collect();
    let mut command = Command::new(cstring(&test), argv);
    command.envp = vec![c"PATH=/usr/bin:/bin".into()];
    command.capabilities = Some(CapSet::CONTAINER_DEFAULT);
    let output = tempfile::NamedTempFile::new().unwrap();
    command.stdout = Some(output.reopen().unwrap().into());
    command.stderr = Some(output.reopen().unwrap().into());
    let outcome = Tracer::probe(Choice::Off).unwrap().run(&command, &Interrupt::new()).unwrap();
    let said = std::fs::read_to_string(output.path()).unwrap();
    assert_eq!(outcome.status, DONE, "{said}");
    assert!(said.contains("1 passed"), "{said}");
    assert_eq!(outcome.touched, Touched::Anything(Blindness::NotTraced));
}

fn check(setting: Setting) {
    let tracer = Tracer::probe(Choice::Ptrace).unwrap();
    let mut wrong = String::new();
    for (name, want, status) in BEHAVIOURS {
        wrong += &judge(&tracer, setting, ("behaviours", name), *want, *status);
    }
    wrong += &judge(&tracer, setting, ("i386", ""), Set, DONE);
    assert!(wrong.is_empty(), "{setting:?}:\n{wrong}");
}

#[test]
fn a_command_that_ends_badly_is_seen_to_its_end() {
    let tracer = Tracer::probe(Choice::Ptrace).unwrap();
    for setting in Setting::ALL {
        // The kernel ignores signals a PID namespace's first process sends to
        // itself.
        if setting != Setting::Namespaced {
            let killed = Status::Signaled(libc::SIGKILL, false);
            assert_eq!(judge(&tracer, setting, ("behaviours", "kill_itself"), Set, killed), "");
        }
    }
    // Where core_pattern is a pipe, or the limit cannot be raised, there is no
    // core file, and nothing to miss.
    let seen = Scene::new(Setting::Plain).run(&tracer, "behaviours", "core_dump").unwrap();
    match (seen.outcome.status, seen.outcome.touched) {
        (Status::Signaled(libc::SIGABRT, true), Touched::Anything(Blindness::CoreDump)) => {}
        (Status::Signaled(libc::SIGABRT, false), Touched::Only(set)) => {
            assert_eq!(seen.after.missing(&seen.before, &set), [""; 0]);
        }
        other => panic!("{other:?}"),
    }
}

/// Runs one guest; what is wrong with it, as a line, or nothing.
fn judge(
    tracer: &Tracer,
    setting: Setting,
    (guest, arg): (&str, &str),
    want: Want,
    status: Status,
) -> String {
    let scene = Scene::new(setting);
    let seen = match scene.run(tracer, guest, arg) {
        Ok(seen) => seen,
        Err(error) => return format!("{guest} {arg}: {error}\n"),
    };
    let mut wrong = Vec::new();
    if seen.outcome.status != status {
        wrong.push(format!("{} {}", seen.outcome.status, seen.stderr.trim_end()));
    }
    match (&seen.outcome.touched, want) {
        (Touched::Only(set), Set) => {
            let missing = seen.after.missing(&seen.before, set);
            if !missing.is_empty() {
                wrong.push(format!("missing {missing:?}, has {}", names(&set.paths)));
            }
        }
        (Touched::Anything(_), Anything) => {}
        (Touched::Anything(why), Set) => wrong.push(format!("anything: {why}")),
        (Touched::Only(_), Anything) => wrong.push("said to know".to_owned()),
    }
    if wrong.is_empty() { String::new() } else { format!("{guest} {arg}: {}\n", wrong.join("; ")) }
}

fn names(paths: &std::collections::BTreeSet<Vec<u8>>) -> String {
    paths.iter().map(|path| path.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
}
