//! Runs the executor on a small project and says how it ended.
//!
//! A [`Build`] is a build context and a command line. Paths that differ between
//! a shell on the host and a pod are written as `{context}`, `{out}` or
//! `{NAME}` for what [`Build::bring`] brought. Every build has a directory
//! of its own for its work and its temporary files, so that what it leaves
//! behind can be seen.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::image::Image;
use crate::pod::{Pod, Privileges, give_to_mapped_root};
use crate::tools;

/// A build that takes longer than this hangs.
fn limit() -> Duration {
    let long = std::env::var_os("KANIKO_LONG_RUN").is_some();
    Duration::from_secs(if long { 3600 } else { 300 })
}

/// Where the executor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A shell on this host; steps run in namespaces.
    Host,
    /// A container with a pod's privileges; steps run in place.
    Pod(Privileges),
}

/// The two places where everything has to work.
pub(crate) const PLACES: [Place; 2] = [Place::Host, Place::Pod(Privileges::DEFAULT)];

/// Where a build runs of which the test does not say it: `PLACE=pod` takes all of them to a pod.
fn usual_place() -> Place {
    match std::env::var("PLACE").as_deref() {
        Ok("pod") => Place::Pod(Privileges::DEFAULT),
        _ => Place::Host,
    }
}

/// A build before it starts.
pub(crate) struct Build {
    home: TempDir,
    place: Place,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    brought: Vec<Brought>,
    stdin: Stdio,
    canary: Option<String>,
}

/// A host path that the build may use.
struct Brought {
    name: String,
    path: PathBuf,
    /// `ro` or `rw`, in a pod.
    access: &'static str,
}

impl Build {
    /// A build whose context holds this Dockerfile. Its image goes to an OCI layout.
    pub(crate) fn of(dockerfile: &str) -> Self {
        Self::bare()
            .file("Dockerfile", dockerfile)
            .flag("--no-push")
            .flag("--oci-layout-path={out}/image")
    }

    /// A build with an empty context and no flag but the context's.
    pub(crate) fn bare() -> Self {
        let home = tempfile::tempdir().expect("a directory for the build");
        for part in ["context", "out", "tmp", "home"] {
            fs::create_dir(home.path().join(part)).expect("a directory for the build");
        }
        Self {
            home,
            place: usual_place(),
            flags: vec!["--context={context}".to_owned()],
            environment: Vec::new(),
            brought: Vec::new(),
            stdin: Stdio::null(),
            canary: None,
        }
    }

    /// Gives the executor this standard input; without it, an empty one.
    pub(crate) fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.stdin = stdin.into();
        self
    }

    /// Puts a file into the context.
    pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let file = self.context().join(path);
        fs::create_dir_all(file.parent().expect("a file has a parent")).expect("its directory");
        fs::write(&file, content).expect("a file of the context");
        self
    }

    /// Lets the test make what `file` cannot: links, modes, FIFOs.
    pub(crate) fn context_by(self, make: impl FnOnce(&Path)) -> Self {
        make(&self.context());
        self
    }

    pub(crate) fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }

    pub(crate) fn flags<const N: usize>(self, flags: [&str; N]) -> Self {
        flags.into_iter().fold(self, Self::flag)
    }

    pub(crate) fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Makes a host path visible, read-only in a pod, as `{name}` in flags and variables.
    pub(crate) fn bring(self, name: &str, path: impl Into<PathBuf>) -> Self {
        self.visible(name, path.into(), "ro")
    }

    /// As [`Build::bring`], and the build may write there.
    pub(crate) fn share(self, name: &str, path: impl Into<PathBuf>) -> Self {
        self.visible(name, path.into(), "rw")
    }

    fn visible(mut self, name: &str, path: PathBuf, access: &'static str) -> Self {
        self.brought.push(Brought { name: name.to_owned(), path, access });
        self
    }

    /// Lets `FROM name` mean the image in an OCI layout.
    pub(crate) fn base(self, name: &str, layout: impl Into<PathBuf>) -> Self {
        self.bring(name, layout).flag(format!("--build-context={name}=oci-layout://{{{name}}}"))
    }

    /// A text that no file which the build leaves may hold.
    pub(crate) fn canary(mut self, text: &str) -> Self {
        self.canary = Some(text.to_owned());
        self
    }

    pub(crate) fn place(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// Runs the build to its end.
    pub(crate) fn run(self) -> Ended {
        self.start().end()
    }

    /// Runs the build, which has to succeed, and reads and validates its image.
    pub(crate) fn image(self) -> Image {
        self.run().succeeded().image()
    }

    /// Starts the build.
    pub(crate) fn start(self) -> Running {
        let (mut command, pod) = match self.place {
            Place::Host => (self.on_host(), None),
            Place::Pod(privileges) => {
                let pod = self.in_pod(privileges);
                (pod.command(), Some(pod))
            }
        };
        let mut child = command
            .stdin(self.stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = read_lines(&mut child);
        let deadline = Instant::now() + limit();
        let (home, canary) = (Some(self.home), self.canary);
        Running { child, pod, lines, deadline, log: String::new(), home, canary }
    }

    fn context(&self) -> PathBuf {
        self.home.path().join("context")
    }

    fn on_host(&self) -> Command {
        let home = self.home.path();
        let fill = |text: &str| {
            let places = [("context", home.join("context")), ("out", home.join("out"))];
            places.iter().chain(&self.brought_by_name()).fold(
                text.to_owned(),
                |text, (name, path)| {
                    text.replace(&format!("{{{name}}}"), &path.display().to_string())
                },
            )
        };
        let mut command = Command::new(static_executor());
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", home.join("home"))
            .env("TMPDIR", home.join("tmp"))
            .envs(self.environment.iter().map(|(name, value)| (name, fill(value))))
            .current_dir(home.join("home"))
            .args(self.unless_said("--isolation", "namespace"))
            .args(self.unless_said("--kaniko-dir", &home.join("work").display().to_string()))
            .args(self.flags.iter().map(|flag| fill(flag)));
        command
    }

    fn in_pod(&self, privileges: Privileges) -> Pod {
        let home = self.home.path();
        let fill = |text: &str| {
            let text = text.replace("{context}", "/workspace").replace("{out}", "/out");
            self.brought.iter().fold(text, |text, Brought { name, .. }| {
                text.replace(&format!("{{{name}}}"), &format!("/brought/{name}"))
            })
        };
        if privileges.user_namespace {
            give_to_mapped_root(home);
        }
        let mut pod = Pod::new(static_executor(), privileges)
            .mount(&home.join("context"), "/workspace", "rw")
            .mount(&home.join("out"), "/out", "rw");
        for Brought { name, path, access } in &self.brought {
            pod = pod.mount(path, &format!("/brought/{name}"), access);
        }
        for (name, value) in &self.environment {
            pod = pod.variable(name, &fill(value));
        }
        pod.arguments(self.flags.iter().map(|flag| fill(flag)).collect())
    }

    /// A flag that every build on the host has, unless the test gives its own.
    fn unless_said(&self, flag: &str, value: &str) -> Option<String> {
        let said = self.flags.iter().any(|given| given.starts_with(flag));
        (!said).then(|| format!("{flag}={value}"))
    }

    fn brought_by_name(&self) -> Vec<(&str, PathBuf)> {
        self.brought.iter().map(|it| (it.name.as_str(), it.path.clone())).collect()
    }
}

/// A build that was started.
pub(crate) struct Running {
    child: Child,
    pod: Option<Pod>,
    lines: Receiver<String>,
    deadline: Instant,
    log: String,
    home: Option<TempDir>,
    canary: Option<String>,
}

impl Running {
    /// Waits for a line of output that contains `marker`.
    pub(crate) fn until(&mut self, marker: &str) {
        while let Some(line) = self.next_line() {
            if line.contains(marker) {
                return;
            }
        }
        panic!("ended without saying {marker:?}:\n{}", self.log);
    }

    /// Sends a signal to the executor; runc passes it on to the first process of a pod.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the build runs");
    }

    /// Sends a signal to the build's whole process group, as a terminal does.
    pub(crate) fn signal_group(&self, signal: Signal) {
        killpg(self.pid(), signal).expect("the build runs");
    }

    /// Waits for the end.
    pub(crate) fn end(mut self) -> Ended {
        while self.next_line().is_some() {}
        let status = self.child.wait().expect("the build is our child");
        let log = std::mem::take(&mut self.log);
        let home = self.home.take().expect("a build ends once");
        let mut left = mounts_below(home.path());
        left.extend(self.pod.iter().flat_map(Pod::leftovers));
        if let Some(canary) = &self.canary {
            left.extend(files_with(canary, home.path()));
            left.extend(self.pod.iter().flat_map(|pod| files_with(canary, &pod.written())));
        }
        let root = self.pod.as_ref().map(Pod::root).unwrap_or_default();
        let pod = self.pod.take();
        Ended { status, log, left, root, pod, home }
    }

    /// The next line of either stream; [`None`] at the end of both.
    fn next_line(&mut self) -> Option<String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => {
                self.log.push_str(&line);
                self.log.push('\n');
                Some(line)
            }
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("still running:\n{}", self.log),
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are small"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(pod) = &self.pod {
            pod.kill();
        }
        // A build that ended is reaped already; only a hanging one has a group left.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = killpg(self.pid(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// A build that is over.
pub(crate) struct Ended {
    status: ExitStatus,
    /// Both streams, line by line as they came.
    pub(crate) log: String,
    left: Vec<String>,
    /// The names in the root of the pod it ran in.
    pub(crate) root: Vec<String>,
    pod: Option<Pod>,
    home: TempDir,
}

impl Ended {
    /// The context that was built.
    pub(crate) fn context(&self) -> PathBuf {
        self.home.path().join("context")
    }

    /// The exit status as a shell counts it: 128 and the signal for a killed executor.
    pub(crate) fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
    }

    /// Fails unless the build succeeded.
    pub(crate) fn succeeded(self) -> Self {
        assert!(self.status.success(), "{}\n{}", self.status, self.log);
        self
    }

    /// Fails unless the build was refused in these words and left nothing behind.
    pub(crate) fn refused(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code(), code, "{}", self.log);
        self.refused_with_any_status(words);
    }

    /// As [`Ended::refused`], where a step that could not start may have a status of its own.
    pub(crate) fn refused_with_any_status(&self, words: &[&str]) {
        self.refused_in_words(words);
        assert_eq!(self.leftovers(), Vec::<String>::new(), "{}", self.log);
    }

    /// Fails unless the build was refused in these words; caches may be left.
    pub(crate) fn refused_in_words(&self, words: &[&str]) {
        assert_ne!(self.code(), 0, "{}", self.log);
        for word in words {
            assert!(self.log.contains(word), "nothing about {word:?} in:\n{}", self.log);
        }
    }

    /// A line for each path in the root of the pod it ran in.
    pub(crate) fn left_in_root(&self) -> Vec<String> {
        self.pod.as_ref().map(Pod::left_in_root).unwrap_or_default()
    }

    /// A path below the output directory.
    pub(crate) fn out(&self, name: &str) -> PathBuf {
        self.home.path().join("out").join(name)
    }

    /// Reads and validates the image of the OCI layout.
    pub(crate) fn image(&self) -> Image {
        let image = Image::open(&self.out("image"));
        image.validate();
        image
    }

    /// Files, temporary files, work and mounts that a build left behind.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = self.left.clone();
        for part in ["out", "tmp", "home", "work"] {
            left.extend(files_below(&self.home.path().join(part)));
        }
        left
    }
}

/// Command lines of live processes that have the mark as an argument.
pub(crate) fn processes_with(mark: &str) -> Vec<String> {
    fs::read_dir("/proc")
        .expect("proc is mounted")
        .filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.split(' ').any(|word| word == mark))
        .collect()
}

/// A statically linked executor: the form that is shipped, and that a pod without libraries runs.
///
/// The variable `EXECUTOR` names another to be tested, such as one that was released.
pub(crate) fn static_executor() -> &'static Path {
    static EXECUTOR: OnceLock<PathBuf> = OnceLock::new();
    EXECUTOR.get_or_init(|| match std::env::var_os("EXECUTOR") {
        Some(path) => PathBuf::from(path),
        None => {
            let built = PathBuf::from(env!("CARGO_BIN_EXE_executor"));
            if is_static(&built) { built } else { build_static() }
        }
    })
}

/// Whether an ELF file asks for no dynamic loader: it has no `PT_INTERP` (elf(5)).
fn is_static(program: &Path) -> bool {
    const PT_INTERP: usize = 3;
    let elf = fs::read(program).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let number = |at: usize, length: usize| {
        elf[at..at + length].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
    };
    let (table, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).all(|entry| number(table + entry * size, 4) != PT_INTERP)
}

fn build_static() -> PathBuf {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("static");
    tools::output(
        Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--bin", "executor", "--target", &target])
            .arg("--target-dir")
            .arg(&directory)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            // `--target` keeps procedural macros out of it: they have to be dynamic.
            .env("RUSTFLAGS", "-C target-feature=+crt-static"),
    );
    directory.join(target).join("debug/executor")
}

fn read_lines(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    read_stream(child.stdout.take().expect("stdout is piped"), sender.clone());
    read_stream(child.stderr.take().expect("stderr is piped"), sender);
    receiver
}

fn read_stream(stream: impl Read + Send + 'static, sender: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            // The receiver is gone only when the test has failed.
            let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
        }
    });
}

/// Every file below a directory; directories count only where they are empty.
pub(crate) fn files_below(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.expect("an entry");
        let below = match entry.file_type().expect("a type").is_dir() {
            true => files_below(&entry.path()),
            false => Vec::new(),
        };
        match below.is_empty() {
            true => files.push(entry.path().display().to_string()),
            false => files.extend(below),
        }
    }
    files
}

/// The files below a directory whose content holds this text.
fn files_with(text: &str, directory: &Path) -> Vec<String> {
    let found = tools::command("grep")
        .args(["--recursive", "--files-with-matches", "--devices=skip", text])
        .arg(directory)
        .output()
        .expect("grep runs");
    String::from_utf8_lossy(&found.stdout).lines().map(|path| format!("in {path}")).collect()
}

fn mounts_below(directory: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| Path::new(point).starts_with(directory))
        .map(|point| format!("mount {point}"))
        .collect()
}
