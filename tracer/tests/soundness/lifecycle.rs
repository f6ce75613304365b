//! How a command starts, ends, and is ended.

use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{self, Stdio};
use std::thread;

use tracer::{
    Blindness, CapSet, Choice, Command, Credentials, Error, Interrupt, Setup, Status, Touched,
    Tracer,
};

use crate::proof::{Place, Scene, cstring, mount};

fn shell(script: &str) -> Command {
    let argv = [c"sh".into(), c"-c".into(), CString::new(script).unwrap()];
    let mut command = Command::new(c"/bin/sh".into(), argv.to_vec());
    command.envp = vec![c"PATH=/usr/bin:/bin".into()];
    command
}

fn each_backend() -> [Tracer; 2] {
    [Choice::Ptrace, Choice::Off].map(|choice| Tracer::probe(choice).unwrap())
}

/// Runs a command and returns what it said on standard output, too.
fn listen(tracer: &Tracer, mut command: Command) -> (Result<Status, Error>, String) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    command.stdout = Some(OwnedFd::from(writer));
    thread::scope(|scope| {
        let text = scope.spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        let outcome = tracer.run(&command, &Interrupt::new());
        drop(command);
        (outcome.map(|outcome| outcome.status), text.join().unwrap())
    })
}

#[test]
fn a_command_starts_in_clean_surroundings() {
    for (script, want) in [
        ("umask", "0022\n"),
        ("ulimit -c", "0\n"),
        ("cat; echo end", "end\n"),
        ("ls /proc/self/fd | tr '\\n' ' '", "0 1 2 3 "),
        ("test -t 0 || echo no terminal", "no terminal\n"),
        ("echo $(( $(cut -d' ' -f6 /proc/self/stat) == $$ ))", "1\n"),
        (
            "grep -E '^Sig(Blk|Ign)' /proc/self/status",
            "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n",
        ),
        ("exit 3", ""),
    ] {
        for tracer in each_backend() {
            let (status, text) = listen(&tracer, shell(script));
            let code = if script == "exit 3" { 3 } else { 0 };
            assert_eq!((status.unwrap(), text.as_str()), (Status::Exited(code), want), "{script}");
        }
    }
}

#[test]
fn a_refused_start_reads_like_the_call() {
    let dir = tempfile::tempdir().unwrap();
    let no_program = dir.path().join("text");
    fs::write(&no_program, "").unwrap();
    type Change = fn(&mut Command);
    let cases: [(Change, &str); 7] = [
        (|c| c.programs = vec![c"/none".into()], "/none: No such file or directory"),
        (
            |c| c.programs = vec![c"/none".into(), c"/etc/passwd".into(), c"/x".into()],
            "/etc/passwd: Permission denied",
        ),
        (|c| c.programs = vec![], ": No such file or directory"),
        (|c| c.cwd = c"/none".into(), "chdir(\"/none\"): No such file or directory"),
        (
            |c| {
                c.prepare(Setup::Chroot { root: c"/none".into() });
            },
            "chroot(\"/none\"): No such file or directory",
        ),
        (
            |c| {
                c.namespaces.mount = true;
                c.prepare(mount("none", "/", "nofs", 0));
            },
            "mount(\"none\", \"/\", \"nofs\"): No such device",
        ),
        (
            |c| {
                c.namespaces.pid = true;
                c.cwd = c"/none".into();
            },
            "chdir(\"/none\"): No such file or directory",
        ),
    ];
    for (change, want) in cases {
        for tracer in each_backend() {
            let mut command = shell("exit 0");
            change(&mut command);
            let error = tracer.run(&command, &Interrupt::new()).unwrap_err();
            assert_eq!(error.to_string(), want);
        }
    }
}

#[test]
fn what_may_fail_and_what_is_tried_next() {
    let mut command = shell("exit 4");
    command.programs = vec![c"/none/sh".into(), c"/etc/passwd/sh".into(), c"/bin/sh".into()];
    command.prepare_if_possible(Setup::Chroot { root: c"/none".into() });
    for tracer in each_backend() {
        let outcome = tracer.run(&command, &Interrupt::new()).unwrap();
        assert_eq!(outcome.status, Status::Exited(4));
    }
}

#[test]
fn nothing_outlives_a_command() {
    for tracer in each_backend() {
        for place in Place::ALL {
            let scene = Scene::new(place);
            let seen = scene.run(&tracer, "behaviours", "daemon_writes_later").unwrap();
            assert!(seen.outcome.status.success(), "{}", seen.stderr);
            let inside = |cwd: &Path| cwd.starts_with(scene.root());
            let left: Vec<_> = fs::read_dir("/proc")
                .unwrap()
                .filter_map(|entry| fs::read_link(entry.ok()?.path().join("cwd")).ok())
                .filter(|cwd| inside(cwd))
                .collect();
            assert!(left.is_empty(), "{place:?}: {left:?}");
        }
    }
}

#[test]
fn other_children_of_the_caller_are_left_to_it() {
    for tracer in each_backend() {
        let mut child = process::Command::new("/bin/sh").args(["-c", "exit 5"]).spawn().unwrap();
        let mut waiting = process::Command::new("/bin/cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        tracer.run(&shell("(exec sleep 100 &) ; exit 0"), &Interrupt::new()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(5));
        assert!(waiting.try_wait().unwrap().is_none(), "ended with the command");
        drop(waiting.stdin.take());
        assert!(waiting.wait().unwrap().success());
    }
}

#[test]
fn an_interrupt_ends_everything() {
    for tracer in each_backend() {
        for in_namespace in [false, true] {
            let mut command = shell("trap '' TERM INT; sleep 1000 & echo started; wait");
            command.namespaces.pid = in_namespace;
            let (mut reader, writer) = std::io::pipe().unwrap();
            command.stdout = Some(OwnedFd::from(writer));
            let interrupt = Interrupt::new();
            let outcome = thread::scope(|scope| {
                scope.spawn(|| {
                    reader.read_exact(&mut [0; 8]).unwrap();
                    interrupt.trigger();
                });
                tracer.run(&command, &interrupt)
            });
            assert!(matches!(outcome, Err(Error::Interrupted)), "{outcome:?}");
            drop(command);
            // Nobody is left who could write.
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
            let again = tracer.run(&shell("exit 0"), &interrupt);
            assert!(matches!(again, Err(Error::Interrupted)));
        }
    }
}

#[test]
fn above_the_budget_names_are_no_longer_resolved() {
    let scene = Scene::new(Place::Plain);
    let tracer = Tracer::probe(Choice::Auto).unwrap();
    for (budget, want) in [(2, true), (1000, false)] {
        let mut command = scene.command("behaviours", "open_variants");
        command.event_budget = Some(budget);
        let outcome = tracer.run(&command, &Interrupt::new()).unwrap();
        let is_over = outcome.touched == Touched::Anything(Blindness::Budget(budget));
        assert_eq!(is_over, want, "{:?}", outcome.touched);
    }
}

/// The fork, the child's first stop and the parent's SIGCHLD; none for the exec,
/// and none for calls that change nothing.
#[test]
fn a_short_process_stops_three_times() {
    let tracer = Tracer::probe(Choice::Ptrace).unwrap();
    let command = shell("i=0; while [ $i -lt 50 ]; do /bin/true; i=$((i + 1)); done");
    let stats = tracer.run(&command, &Interrupt::new()).unwrap().stats;
    assert_eq!(stats.forks, 50);
    assert!(stats.stops <= 3 * 50 + 2, "{stats:?}");
}

/// A copy of the shell's `id` that belongs to root and is set-id.
fn effective_id_of_set_id_program(tracer: &Tracer, keep: Option<CapSet>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let id = dir.path().join("id");
    fs::copy("/usr/bin/id", &id).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&id, fs::Permissions::from_mode(0o4755)).unwrap();
    let mut command = Command::new(cstring(&id), vec![c"id".into(), c"-u".into()]);
    command.credentials = Some(Credentials { uid: 1000, gid: 1000, groups: vec![] });
    command.capabilities = keep;
    let (status, text) = listen(tracer, command);
    assert_eq!(status.unwrap(), Status::Exited(0));
    text
}

#[test]
fn set_id_programs_of_another_user_work() {
    for tracer in each_backend() {
        for keep in [None, Some(CapSet::CONTAINER_DEFAULT)] {
            assert_eq!(effective_id_of_set_id_program(&tracer, keep), "0\n");
        }
    }
}

/// What `set_id_programs_work_in_a_container` runs with fewer capabilities:
/// rather than break the program, the tracer does not watch.
#[test]
#[ignore = "started by set_id_programs_work_in_a_container"]
fn set_id_in_place() {
    let tracer = Tracer::probe(Choice::Ptrace).unwrap();
    assert_eq!(effective_id_of_set_id_program(&tracer, None), "0\n");
    let mut command = shell("exit 0");
    command.credentials = Some(Credentials { uid: 1000, gid: 1000, groups: vec![] });
    let outcome = tracer.run(&command, &Interrupt::new()).unwrap();
    assert!(matches!(outcome.touched, Touched::Anything(Blindness::Unwatchable(_))));
}

#[test]
fn set_id_programs_work_in_a_container() {
    let test = std::env::current_exe().unwrap();
    let argv = ["test", "--exact", "lifecycle::set_id_in_place", "--ignored"];
    let argv = argv.iter().map(|arg| CString::new(*arg).unwrap()).collect();
    let mut command = Command::new(cstring(&test), argv);
    command.capabilities = Some(CapSet::CONTAINER_DEFAULT);
    let (status, text) = listen(&Tracer::probe(Choice::Off).unwrap(), command);
    assert!(status.unwrap().success() && text.contains("1 passed"), "{text}");
}

/// How often the threads of this program went to sleep.
fn sleeps() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    tasks
        .map(|task| {
            let status = fs::read_to_string(task.join("status")).unwrap();
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            line.unwrap().trim().parse::<u64>().unwrap()
        })
        .sum()
}

#[test]
#[ignore = "started by a_stop_wakes_nobody_but_the_tracer, without other tests at its side"]
fn stops_in_quiet() {
    let tracer = Tracer::probe(Choice::Ptrace).unwrap();
    let before = sleeps();
    let command = shell("i=0; while [ $i -lt 2000 ]; do : > /dev/null; i=$((i + 1)); done");
    let outcome = tracer.run(&command, &Interrupt::new()).unwrap();
    let slept = sleeps() - before;
    assert!(outcome.stats.events >= 2000);
    assert!(slept < 200, "{slept} times for {} events", outcome.stats.events);
}

#[test]
fn a_stop_wakes_nobody_but_the_tracer() {
    let test = std::env::current_exe().unwrap();
    let test = process::Command::new(test)
        .args(["--exact", "lifecycle::stops_in_quiet", "--ignored"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&test.stdout);
    assert!(test.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn capabilities_and_ids_are_taken() {
    for tracer in each_backend() {
        let mut command = shell("grep CapBnd /proc/self/status; id -u; id -g; id -G");
        command.capabilities = Some(CapSet::CONTAINER_DEFAULT);
        command.credentials = Some(Credentials { uid: 1000, gid: 1001, groups: vec![1001, 7] });
        let (status, text) = listen(&tracer, command);
        assert!(status.unwrap().success());
        assert_eq!(text, "CapBnd:\t00000000a80425fb\n1000\n1001\n1001 7\n");
    }
}

#[test]
fn a_user_namespace_makes_namespaces_possible() {
    let one = |inside| vec![tracer::IdMap { inside, outside: 0, count: 1 }];
    for tracer in each_backend() {
        let mut command = shell("id -u; hostname; echo $$");
        command.namespaces = tracer::Namespaces {
            mount: true,
            pid: true,
            uts: true,
            user: Some(tracer::IdMaps { uids: one(0), gids: one(0) }),
            ..Default::default()
        };
        command.prepare(Setup::Hostname(c"inside".into()));
        let (status, text) = listen(&tracer, command);
        assert!(status.unwrap().success());
        assert_eq!(text, "0\ninside\n1\n");
    }
}

#[test]
fn a_backend_that_is_not_there_says_so() {
    let error = Tracer::probe_on(Choice::Fanotify, Path::new("/proc")).unwrap_err().to_string();
    assert!(error.starts_with("fanotify tracing is not available: "), "{error}");
    for choice in [Choice::Auto, Choice::Ptrace, Choice::Inotify, Choice::Fanotify, Choice::Off] {
        assert_eq!(choice.to_string().parse(), Ok(choice));
    }
    let wrong = "strace".parse::<Choice>().unwrap_err().to_string();
    assert_eq!(wrong, "\"strace\" is none of auto, ptrace, inotify, fanotify, off");
}

#[test]
fn a_command_that_kills_its_keeper_is_still_ended() {
    let tracer = Tracer::probe(Choice::Ptrace).unwrap();
    // The second has a process of which nothing is heard after its first stop.
    for script in
        ["sleep 1000 & kill -9 $PPID; sleep 1000", "(while :; do :; done) & kill -9 $PPID; exit"]
    {
        for _ in 0..20 {
            let (status, _) = listen(&tracer, shell(script));
            assert!(matches!(status, Err(Error::KeeperLost)), "{script}: {status:?}");
        }
    }
}
