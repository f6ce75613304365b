//! A fresh tree, a guest to run in it, and the surroundings it runs in.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::OnceLock;

use tempfile::TempDir;
use tracer::{Command, Error, Interrupt, Outcome, Setup, Tracer};

use crate::snapshot::Snapshot;

/// How a guest is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// In the surroundings of the test.
    Plain,
    /// In mount and PID namespaces, with the tree as root.
    Namespaced,
    /// In a mount namespace, with chroot only.
    Chrooted,
}

impl Setting {
    pub(crate) const ALL: [Setting; 3] = [Setting::Plain, Setting::Namespaced, Setting::Chrooted];
}

/// The guests, built once.
pub(crate) struct Guests {
    dir: TempDir,
}

impl Guests {
    pub(crate) fn built() -> &'static Guests {
        static GUESTS: OnceLock<Guests> = OnceLock::new();
        GUESTS.get_or_init(Guests::build)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn build() -> Guests {
        let guests = Guests { dir: tempfile::tempdir().unwrap() };
        // A guest that changed its user still has to find its program.
        fs::set_permissions(guests.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        guests.compile("behaviours", &["-static", "-pthread"]);
        guests.compile("interpreter", &["-static", "-pthread"]);
        let bare = ["-m32", "-static", "-nostdlib", "-fno-stack-protector", "-fno-pie", "-no-pie"];
        guests.compile("i386", &bare);
        guests
    }

    fn compile(&self, name: &str, flags: &[&str]) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/guests/{name}.c"));
        let mut gcc = process::Command::new("gcc");
        gcc.args(["-O1", "-w", "-o"]).arg(self.path(name)).args(flags).arg(source);
        assert!(gcc.status().unwrap().success(), "{gcc:?}");
    }
}

/// A tree of its own for one guest.
pub(crate) struct Scene {
    dir: TempDir,
    setting: Setting,
}

/// What a guest did, by the trace and by the walk.
pub(crate) struct Seen {
    pub(crate) outcome: Outcome,
    pub(crate) before: Snapshot,
    pub(crate) after: Snapshot,
    pub(crate) stderr: String,
}

impl Scene {
    pub(crate) fn new(setting: Setting) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let scene = Scene { dir, setting };
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

    /// Runs a guest with one argument and an input on the tree.
    pub(crate) fn run(&self, tracer: &Tracer, guest: &str, arg: &str) -> Result<Seen, Error> {
        let mut command = self.command(guest, arg);
        let mut stderr = tempfile::tempfile().unwrap();
        command.stderr = Some(stderr.try_clone().unwrap().into());
        let before = self.snapshot();
        let outcome = tracer.run(&command, &Interrupt::new())?;
        let after = self.snapshot();
        let mut text = String::new();
        stderr.rewind().unwrap();
        File::read_to_string(&mut stderr, &mut text).unwrap();
        Ok(Seen { outcome, before, after, stderr: text })
    }

    pub(crate) fn command(&self, guest: &str, arg: &str) -> Command {
        let guests = Guests::built();
        let program = match self.setting {
            Setting::Plain => guests.path(guest),
            Setting::Namespaced | Setting::Chrooted => Path::new("/guest").join(guest),
        };
        let argv = vec![cstring(&program), CString::new(arg).unwrap()];
        let mut command = Command::new(cstring(&program), argv);
        match self.setting {
            Setting::Plain => command.cwd = cstring(&self.root().join("work")),
            Setting::Namespaced | Setting::Chrooted => self.enclose(&mut command),
        }
        command
    }

    fn enclose(&self, command: &mut Command) {
        let root = self.root();
        command.cwd = c"/work".into();
        command.namespaces.mount = true;
        command.prepare(mount("", "/", "", libc::MS_REC | libc::MS_PRIVATE));
        command.prepare(bind(&root, &root));
        command.prepare(bind(&Guests::built().path(""), &root.join("guest")));
        command.prepare(bind(Path::new("/dev"), &root.join("dev")));
        command.prepare(mount("proc", root.join("proc").to_str().unwrap(), "proc", 0));
        let root = cstring(&root);
        if self.setting == Setting::Namespaced {
            command.namespaces.pid = true;
            command.prepare(Setup::PivotRoot { new_root: root });
        } else {
            command.prepare(Setup::Chroot { root });
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        match self.setting {
            Setting::Plain => Snapshot::of(&self.root(), self.root().to_str().unwrap()),
            Setting::Namespaced | Setting::Chrooted => Snapshot::of(&self.root(), "/"),
        }
    }

    pub(crate) fn root(&self) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap()
    }
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
