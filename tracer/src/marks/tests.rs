use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::{CapSet, Choice, Command, Interrupt, Marks, Touched, Tracer};

/// A tree with its marks, and what commands in it are said to touch.
struct Watched {
    dir: tempfile::TempDir,
    marks: Marks,
    budget: Option<u64>,
    /// A child that another thread forks closes what this one has open a
    /// little later: one at a time.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Watched {
    fn new() -> Watched {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("d/e")).expect("directories");
        for file in ["a", "d/b", "d/e/c"] {
            fs::write(dir.path().join(file), "old").expect("a file");
        }
        let marks = Marks::new(dir.path(), b"/");
        Watched { dir, marks, budget: None, _alone: alone }
    }

    fn run(&mut self, script: &str) -> String {
        self.run_with(Choice::Inotify, script)
    }

    fn run_with(&mut self, choice: Choice, script: &str) -> String {
        let argv = [c"sh".into(), c"-c".into(), CString::new(script).expect("no zero")];
        let mut command = Command::new(c"/bin/sh".into(), argv.to_vec());
        command.cwd = CString::new(self.dir.path().as_os_str().as_bytes()).expect("no zero");
        command.envp = vec![c"PATH=/usr/bin:/bin".into()];
        command.capabilities = Some(CapSet::CONTAINER_DEFAULT);
        let tracer = Tracer::probe_on(choice, self.dir.path()).expect("a backend");
        command.event_budget = self.budget;
        let outcome = tracer.run_in(&mut self.marks, &command, &Interrupt::new());
        let outcome = outcome.expect("it runs");
        assert!(outcome.status.success(), "{script}: {}", outcome.status);
        match outcome.touched {
            Touched::Anything(why) => format!("anything: {why}"),
            Touched::Only(set) => {
                let text = |path: &Vec<u8>| path.escape_ascii().to_string();
                let trees = set.trees.iter().map(|path| format!("{}/**", text(path)));
                set.paths.iter().map(text).chain(trees).collect::<Vec<_>>().join(" ")
            }
        }
    }
}

const UNSEEN: &str = "came unseen";

#[test]
fn marks_tell_what_a_command_touched() {
    for (script, want) in [
        (":", ""),
        ("cat a d/b d/e/c >/dev/null", ""),
        ("echo new >> a", "/a"),
        ("echo new > d/f", "/d/f"),
        ("rm d/e/c", "/d/e/c"),
        ("chmod 600 d/b", "/d/b"),
        ("chmod 700 .", "/"),
        ("chmod 700 d", "/d"),
        ("touch d/e/c", "/d/e/c"),
        ("ln -s x d/l", "/d/l"),
        ("mv a z", "/a /z"),
        ("exec 3<>a; mv a z; echo x >&3", "/a /z"),
        ("mv d g; echo new > g/e/c", "/d /d/e/c /g /d/** /g/**"),
        ("mv d/e e; mv d f; echo new > e/c", "/d /d/e /d/e/c /e /f /d/** /d/e/** /e/** /f/**"),
        ("rm -r d", "/d /d/b /d/e /d/e/c"),
        // A file made beside and put in place is what most editors do.
        ("cp a a.new; mv a.new a", "/a /a.new"),
        ("ln a d/e/x; echo new > d/e/x", "/d/e/x"),
        // The hole: no event says that `a` was changed.
        ("ln a d/x; echo new > d/x; rm d/x", UNSEEN),
        ("ln a d/x; echo new > d/x; mv d/b d/x", UNSEEN),
        ("ln a d/x; mv d/x y; echo new > y; rm y", UNSEEN),
        ("mkdir n; ln a n/x; echo new > n/x; rm -r n", UNSEEN),
        ("ln a d/x; exec 3<>d/x; rm d/x; echo new >&3", UNSEEN),
        ("ln a d/x; exec 3<>d/x; mv d/x y; rm y; echo new >&3", UNSEEN),
        ("ln a d/x; chmod 600 d/x; rm d/x", UNSEEN),
        // A name that comes again for another file, while the first is still open.
        ("ln a d/x; exec 3<>d/x; rm d/x; echo other > d/x; echo new >&3", UNSEEN),
        ("echo other > y; ln a d/x; exec 3<>d/x; mv y d/x; echo new >&3", UNSEEN),
        // Nothing was changed through the name that came and went.
        ("ln a d/x; rm d/x; ln -s a y; rm y", "/d/x /y"),
        ("(sleep 0.05; echo new > a) &", ""),
    ] {
        let told = Watched::new().run(script);
        let is_right = if want == UNSEEN { told.contains(UNSEEN) } else { told == want };
        assert!(is_right, "{script}: {told}");
    }
}

#[test]
fn marks_stay_and_follow_the_tree() {
    for (between, script, want) in [
        ("", "echo new > d/e/c", "/d/e/c"),
        ("mkdir -p n/m", "echo new > n/m/x", "/n/m/x"),
        ("mv d g", "echo new > g/e/c", "/g/e/c"),
        ("mv d t; mkdir d; mv t d/e", "echo new > d/e/e/c; echo new > d/x", "/d/e/e/c /d/x"),
        ("rm -r d; mkdir d", "echo new > d/b", "/d/b"),
        ("mkdir n; mv d/e n; mv n/e d; rmdir n", "echo new > d/e/c", "/d/e/c"),
        ("i=0; while [ $i -lt 9000 ]; do echo > $i; i=$((i+1)); done; mkdir n", ": > n/x", "/n/x"),
    ] {
        // Before, once by a command under watch and once by nobody.
        for watched in [true, false] {
            let mut tree = Watched::new();
            tree.run(":");
            if watched {
                tree.run(between);
            } else {
                let mut shell = std::process::Command::new("/bin/sh");
                shell.arg("-c").arg(between).current_dir(tree.dir.path());
                assert!(shell.status().expect("a shell").success());
            }
            assert_eq!(tree.run(script), want, "{between}, watched: {watched}");
        }
    }
}

#[test]
fn a_directory_that_moves_out_of_sight_takes_no_mark_along() {
    let mut tree = Watched::new();
    tree.run(":");
    let outside = tempfile::tempdir().expect("a directory");
    fs::rename(tree.dir.path().join("d"), outside.path().join("d")).expect("the same disk");
    assert_eq!(tree.run(":"), "");
    fs::write(outside.path().join("d/b"), "new").expect("a file");
    assert_eq!(tree.run("echo new > a"), "/a");
}

#[test]
fn who_may_mount_or_open_by_handle_is_not_watched() {
    for (number, want) in [(2, "CAP_DAC_READ_SEARCH"), (21, "CAP_SYS_ADMIN")] {
        let mut command = Command::new(c"/bin/true".into(), vec![c"true".into()]);
        command.capabilities = Some(CapSet::of(&[number]));
        let why = super::what_marks_cannot_see(&command).expect("a reason");
        assert!(why.contains(want), "{why}");
    }
}

/// An old file is changed under a name that came by link(2) and rename(2), and goes by both.
const BY_ONE_LINK: &str = "perl -e 'link q(a), q(d/z); rename q(d/z), q(d/w); open F, q(>>), q(d/w); print F 1; \
     close F; rename q(d/w), q(d/z); unlink q(d/z)'";

/// The same, under the name that the link had first.
const BY_TWO_RENAMES: &str = "perl -e 'link q(a), q(d/z); rename q(d/z), q(d/w); rename q(d/w), q(d/z); \
     open F, q(>>), q(d/z); print F 1; close F; rename q(d/z), q(d/w); unlink q(d/w)'";

#[test]
fn a_mark_on_the_file_system_tells_more() {
    for (script, want) in [
        ("cat a d/b d/e/c >/dev/null", ""),
        ("echo new > d/f", "/d/f"),
        ("chmod 700 d", "/d"),
        ("chmod 700 .", "/"),
        ("mv d g; echo new > g/e/c", "/d /g /g/e/c /d/** /g/**"),
        ("rm -r d", "/d /d/**"),
        ("rm -r d; mkdir d; echo new > d/b", "/d /d/**"),
        ("mkdir 'n (deleted)'; mv d 'n (deleted)'", "/d /n (deleted) /d/** /n (deleted)/**"),
        ("mkdir n; mv d/e n; echo new > n/e/c; rm -r n", "/d/e /n /d/e/** /n/**"),
        ("cp a a.new; mv a.new a", "/a /a.new"),
        ("echo > d/t; rm d/t", "/d/t"),
        ("mkdir n; echo > n/x; rm -r n", "/n /n/**"),
        ("mkdir -p n/m; mv a n/m; mv d n", "/a /d /n /d/** /n/**"),
        ("ln a d/x; echo new > d/x; rm d/x", UNSEEN),
        ("mkdir n; ln a n/x; echo new > n/x; rm -r n", UNSEEN),
        ("mkdir n; ln a n/x; echo new > n/x", "/n /n/**"),
        ("mkdir -p n/m; ln a n/m/x; chmod 600 n/m/x; rm -r n", UNSEEN),
        ("echo 1 > d/x; ln d/x d/y; echo 2 > d/y; rm d/y", "/d/x /d/y"),
        // Of one process equal events become one, and come where the first of them stood.
        (BY_ONE_LINK, UNSEEN),
        (BY_TWO_RENAMES, UNSEEN),
        ("mkdir work", "the marks lost sight"),
    ] {
        let told = Watched::new().run_with(Choice::Fanotify, script);
        let is_right = match want {
            UNSEEN | "the marks lost sight" => told.contains(want),
            want => told == want,
        };
        assert!(is_right, "{script}: {told}");
    }
    for (between, script, want) in [
        ("mkdir -p n/m", "echo new > n/m/x", "/n/m/x"),
        ("mv d t; mkdir d; mv t d/e", "echo new > d/e/e/c; echo new > d/x", "/d/e/e/c /d/x"),
        ("mkdir 'x (deleted)'", "echo new > 'x (deleted)/y'", "/x (deleted)/y"),
        ("rm -r d; mkdir d", "echo new > d/b", "/d/b"),
    ] {
        let mut tree = Watched::new();
        tree.run_with(Choice::Fanotify, ":");
        tree.run_with(Choice::Fanotify, between);
        assert_eq!(tree.run_with(Choice::Fanotify, script), want, "{between}");
    }
}

/// Whether this process has a file system under a mark (`/proc/PID/fdinfo`, proc(5)).
fn is_marked() -> bool {
    let entries = fs::read_dir("/proc/self/fdinfo").expect("/proc");
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    texts.into_iter().any(|text| text.contains("fanotify sdev:"))
}

#[test]
fn above_the_budget_the_mark_is_taken_off() {
    let mut tree = Watched::new();
    tree.budget = Some(2);
    let (path, is_over) = (tree.dir.path().to_owned(), AtomicBool::new(false));
    let (told, was_in_time) = thread::scope(|scope| {
        let observer = scope.spawn(|| {
            while !path.join("done").exists() || is_marked() {
                if is_over.load(Ordering::Acquire) {
                    return false;
                }
                thread::yield_now();
            }
            fs::write(path.join("go"), "").expect("a file");
            true
        });
        let wait = "i=0; until [ -e go ] || [ $i = 3000 ]; do sleep 0.01; i=$((i + 1)); done";
        let script = format!("echo > x; echo > y; echo > done; {wait}; echo > later");
        let told = tree.run_with(Choice::Fanotify, &script);
        is_over.store(true, Ordering::Release);
        (told, observer.join().expect("it ends"))
    });
    assert!(told.contains("more than 2 events"), "{told}");
    assert!(was_in_time, "while the command runs");
    while is_marked() {
        thread::yield_now(); // it goes behind the command, on a thread of its own
    }
}
