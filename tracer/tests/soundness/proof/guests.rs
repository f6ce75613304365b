//! The guests, built once.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};

use tempfile::TempDir;

/// Where they are built already: in a container there is no compiler.
pub(crate) const BUILT: &str = "TRACER_GUESTS";

/// A small program and its argument.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// The file it is written in.
    pub(crate) source: String,
    pub(crate) program: &'static str,
    pub(crate) behaviour: String,
}

/// Whether the machine runs 32-bit programs that the tracer follows.
pub(crate) const HAS_I386: bool = cfg!(target_arch = "x86_64");

/// The programs that list their behaviours.
const PROGRAMS: &[&str] =
    if HAS_I386 { &["behaviours", "i386", "rust"] } else { &["behaviours", "rust"] };

/// A directory with the programs, where every user may run them.
pub(crate) struct Guests {
    path: PathBuf,
    /// Nothing where they were built elsewhere.
    _dir: Option<TempDir>,
}

impl Guests {
    /// The programs, for as long as some test has them.
    pub(crate) fn built() -> Arc<Guests> {
        static GUESTS: Mutex<Weak<Guests>> = Mutex::new(Weak::new());
        let mut guests = GUESTS.lock().unwrap();
        guests.upgrade().unwrap_or_else(|| {
            let made = Arc::new(match std::env::var_os(BUILT) {
                Some(path) => Guests { path: path.into(), _dir: None },
                None => Guests::copied_from(&build()),
            });
            *guests = Arc::downgrade(&made);
            made
        })
    }

    /// A guest that changed its user still has to find its program: the
    /// directories of a build may be closed to it.
    fn copied_from(build: &Path) -> Guests {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // Not by this process: what another thread forks meanwhile would hold
        // them open for writing, and they could not be executed.
        let programs = PROGRAMS.iter().chain(&["interpreter"]).map(|name| build.join(name));
        succeed(Command::new("cp").args(programs).arg(dir.path()));
        Guests { path: dir.path().to_owned(), _dir: Some(dir) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Every behaviour, in the order of the programs' lists.
    pub(crate) fn all(&self) -> Vec<Guest> {
        let mut all: Vec<Guest> = PROGRAMS.iter().flat_map(|name| self.listed(name)).collect();
        all.sort_by(|a, b| (a.program, &a.source).cmp(&(b.program, &b.source)));
        all
    }

    fn listed(&self, program: &'static str) -> Vec<Guest> {
        let output = Command::new(self.path.join(program)).arg("--list").output().unwrap();
        assert!(output.status.success(), "{program} --list: {output:?}");
        let guest = |line: &str| {
            let (source, behaviour) = line.split_once(' ').unwrap();
            Guest { source: source.to_owned(), program, behaviour: behaviour.to_owned() }
        };
        String::from_utf8(output.stdout).unwrap().lines().map(guest).collect()
    }
}

/// Compiles what is older than its sources.
fn build() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    fs::create_dir_all(&home).unwrap();
    let lock = File::create(home.join("lock")).unwrap();
    lock.lock().unwrap();
    let sources = super::tests().join("guests");
    let c = |name: &str, flags: &[&str], sources: Vec<PathBuf>| {
        let mut gcc = Command::new("gcc");
        gcc.args(["-O1", "-w", "-static"]).args(flags);
        make(gcc, &home.join(name), &sources);
    };
    c("behaviours", &["-pthread"], files(&sources.join("behaviours")));
    c("interpreter", &["-pthread"], vec![sources.join("interpreter.c")]);
    if HAS_I386 {
        let bare = ["-m32", "-nostdlib", "-fno-stack-protector", "-fno-pie", "-no-pie"];
        c("i386", &bare, vec![sources.join("i386.c")]);
    }
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc.args(["--edition=2024", "-Ctarget-feature=+crt-static"]);
    make(rustc, &home.join("rust"), &[sources.join("rust.rs")]);
    home
}

fn make(mut compiler: Command, to: &Path, sources: &[PathBuf]) {
    let modified = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified());
    let newest = sources.iter().map(|source| modified(source).unwrap()).max();
    if modified(to).ok() < newest {
        let is_header = |path: &&PathBuf| path.extension() == Some(OsStr::new("h"));
        compiler.arg("-o").arg(to).args(sources.iter().filter(|path| !is_header(path)));
        succeed(&mut compiler);
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
