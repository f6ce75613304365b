//! A fresh tree, a guest to run in it, and the surroundings it runs in.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use tracer::{CapSet, Command, Credentials, Error, Interrupt, Marks, Outcome, Setup, Tracer};

use super::Guests;
use super::oracle::Snapshot;

/// A guest that takes longer than this hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// How a guest is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the surroundings of the test.
    Plain,
    /// In mount and PID namespaces, with the tree as root.
    Namespaced,
    /// In a mount namespace, with chroot only.
    Chrooted,
}

impl Place {
    pub(crate) const ALL: [Place; 3] = [Place::Plain, Place::Namespaced, Place::Chrooted];
}

/// A tree of its own for one guest.
pub(crate) struct Scene {
    dir: TempDir,
    place: Place,
    /// Who runs the guest and owns the tree.
    user: Option<u32>,
    /// What the guest may hold.
    keep: Option<CapSet>,
    /// Whether opened files are looked at twice.
    is_strict: bool,
    /// Whether what is read is recorded.
    reads: bool,
    guests: Arc<Guests>,
}

/// What a guest did, by the trace and by the walk.
pub(crate) struct Seen {
    pub(crate) outcome: Outcome,
    pub(crate) before: Snapshot,
    pub(crate) after: Snapshot,
    pub(crate) stderr: String,
}

impl Seen {
    /// Fails where a changed path is not in the answer, or there is none.
    pub(crate) fn expect_complete(&self) {
        let tracer::Touched::Only(set) = &self.outcome.touched else {
            panic!("{:?}", self.outcome.touched)
        };
        assert_eq!(self.after.missing(&self.before, set), [""; 0]);
    }
}

impl Scene {
    pub(crate) fn new(place: Place) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let guests = Guests::built();
        let (user, keep, is_strict, reads) = (None, None, false, false);
        let scene = Scene { dir, place, user, keep, is_strict, reads, guests };
        for name in ["proc", "dev", "guest", "work/dir/sub"] {
            fs::create_dir_all(scene.root().join(name)).unwrap();
        }
        let work = scene.root().join("work");
        for (name, content) in [("a", "first"), ("b", "second"), ("dir/sub/file", "deep")] {
            fs::write(work.join(name), content).unwrap();
        }
        for (target, name) in [("a", "link"), ("dir", "dlink"), ("made", "dangling")] {
            symlink(target, work.join(name)).unwrap();
        }
        scene
    }

    /// Gives the tree to a user, who will run the guest; the root stays root's.
    pub(crate) fn of(mut self, user: Option<u32>, keep: Option<CapSet>) -> Scene {
        self.user = user;
        self.keep = keep;
        if let Some(user) = user {
            for name in ["", "a", "b", "link", "dlink", "dangling", "dir"] {
                self.give(name, user);
            }
            for name in ["dir/sub", "dir/sub/file"] {
                self.give(name, user);
            }
        }
        self
    }

    /// Has ptrace look at opened files twice.
    pub(crate) fn strict(mut self, is_strict: bool) -> Scene {
        self.is_strict = is_strict;
        self
    }

    /// Has what is read recorded.
    pub(crate) fn reading(mut self, reads: bool) -> Scene {
        self.reads = reads;
        self
    }

    fn give(&self, name: &str, user: u32) {
        let path = self.root().join("work").join(name);
        std::os::unix::fs::lchown(path, Some(user), Some(user)).unwrap();
    }

    /// Runs a guest with one argument and an input on the tree.
    pub(crate) fn run(&self, tracer: &Tracer, guest: &str, arg: &str) -> Result<Seen, Error> {
        self.run_in(&mut self.marks(), tracer, guest, arg)
    }

    /// Marks for the tree, which may outlive one guest.
    pub(crate) fn marks(&self) -> Marks {
        Marks::new(&self.root(), self.called().as_bytes())
    }

    /// As [`Scene::run`], with marks of a guest before.
    pub(crate) fn run_in(
        &self,
        marks: &mut Marks,
        tracer: &Tracer,
        guest: &str,
        arg: &str,
    ) -> Result<Seen, Error> {
        let mut command = self.command(guest, arg);
        let mut stderr = tempfile::tempfile().unwrap();
        command.stderr = Some(stderr.try_clone().unwrap().into());
        let before = self.snapshot();
        let outcome = within_limit(|interrupt| tracer.run_in(marks, &command, interrupt))?;
        let after = self.snapshot();
        let mut text = String::new();
        stderr.rewind().unwrap();
        File::read_to_string(&mut stderr, &mut text).unwrap();
        Ok(Seen { outcome, before, after, stderr: text })
    }

    pub(crate) fn command(&self, guest: &str, arg: &str) -> Command {
        let program = match self.place {
            Place::Plain => self.guests.path().join(guest),
            Place::Namespaced | Place::Chrooted => Path::new("/guest").join(guest),
        };
        let argv = vec![cstring(&program), CString::new(arg).unwrap()];
        let mut command = Command::new(cstring(&program), argv);
        command.capabilities = self.keep;
        command.strict = self.is_strict;
        command.reads = self.reads;
        command.credentials = self.user.map(|id| Credentials { uid: id, gid: id, groups: vec![] });
        match self.place {
            Place::Plain => command.cwd = cstring(&self.root().join("work")),
            Place::Namespaced | Place::Chrooted => self.enclose(&mut command),
        }
        command
    }

    fn enclose(&self, command: &mut Command) {
        let root = self.root();
        command.cwd = c"/work".into();
        command.namespaces.mount = true;
        command.prepare(mount("", "/", "", libc::MS_REC | libc::MS_PRIVATE));
        command.prepare(bind(&root, &root));
        command.prepare(bind(self.guests.path(), &root.join("guest")));
        command.prepare(bind(Path::new("/dev"), &root.join("dev")));
        command.prepare(mount("proc", root.join("proc").to_str().unwrap(), "proc", 0));
        let root = cstring(&root);
        if self.place == Place::Namespaced {
            command.namespaces.pid = true;
            command.prepare(Setup::PivotRoot { new_root: root });
        } else {
            command.prepare(Setup::Chroot { root });
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.root(), &self.called())
    }

    /// What the guest calls the root of the tree.
    pub(crate) fn called(&self) -> String {
        match self.place {
            Place::Plain => self.root().to_str().unwrap().to_owned(),
            Place::Namespaced | Place::Chrooted => "/".to_owned(),
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap()
    }
}

/// Ends what hangs.
fn within_limit<T: Send>(work: impl FnOnce(&Interrupt) -> T + Send) -> T {
    let interrupt = Interrupt::new();
    thread::scope(|scope| {
        let (done, waiting) = mpsc::channel::<()>();
        let (interrupt, is_late) = (&interrupt, mpsc::RecvTimeoutError::Timeout);
        scope.spawn(move || {
            if waiting.recv_timeout(LIMIT) == Err(is_late) {
                interrupt.trigger();
            }
        });
        let answer = work(interrupt);
        drop(done);
        answer
    })
}

pub(crate) fn cstring(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

pub(crate) fn mount(source: &str, target: &str, fstype: &str, flags: u64) -> Setup {
    let text = |text: &str| CString::new(text).unwrap();
    Setup::Mount {
        source: text(source),
        target: text(target),
        fstype: text(fstype),
        flags,
        data: CString::default(),
    }
}

fn bind(source: &Path, target: &Path) -> Setup {
    Setup::Bind {
        source: cstring(source),
        target: cstring(target),
        recursive: true,
        read_only: false,
        no_devices: false,
    }
}
