//! What became of a command, and what it may have changed.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::reads::Reads;

/// The end of a command that was started.
#[derive(Debug)]
pub struct Outcome {
    /// How its main process ended.
    pub status: Status,
    /// What it and everything it started may have changed.
    pub touched: Touched,
    /// What it may have known of the tree, if that was asked for.
    pub reads: Reads,
    /// What it could not do because it was watched.
    pub denied: Denied,
    /// What watching it took.
    pub stats: Stats,
}

/// What a command tried in vain because somebody watched it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denied {
    /// To trace a process of its own: a process has one tracer.
    pub ptrace: bool,
    /// To run these programs with the user, group or capabilities that their
    /// files give.
    pub programs: BTreeSet<Vec<u8>>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this exit status.
    Exited(i32),
    /// By this signal; `true` if the kernel wrote a core file.
    Signaled(i32, bool),
}

impl Status {
    /// Whether the process exited with 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Status::Exited(0)
    }

    /// The exit status a shell would show: 128 + *n* for signal *n*.
    #[must_use]
    pub fn code(self) -> i32 {
        match self {
            Status::Exited(code) => code,
            Status::Signaled(signal, _) => 128 + signal,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Exited(code) => write!(f, "exit status {code}"),
            Status::Signaled(signal, false) => write!(f, "ended by signal {signal}"),
            Status::Signaled(signal, true) => write!(f, "ended by signal {signal} (core dumped)"),
        }
    }
}

/// The answer of a tracer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Nothing outside this set changed.
    Only(TouchedSet),
    /// The tracer cannot tell; the reason goes to the log and the report.
    Anything(Blindness),
}

/// Paths that may have changed.
///
/// All are absolute, without `.`, `..`, doubled slashes or symbolic links
/// before the last component, and as seen from the command's outermost root.
/// Whoever uses the set looks at the parents of created and removed names too,
/// and at the other names of a file that has several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TouchedSet {
    /// Names that were created, removed, written or whose metadata was set.
    pub paths: BTreeSet<Vec<u8>>,
    /// Directories that were renamed, under their old and new names, or made:
    /// everything below may be new or gone.
    pub trees: BTreeSet<Vec<u8>>,
}

impl TouchedSet {
    /// Whether `path` is in the set, or below one of its trees.
    #[must_use]
    pub fn contains(&self, path: &[u8]) -> bool {
        self.paths.contains(path) || self.trees.iter().any(|tree| is_within(path, tree))
    }
}

/// Whether `path` is `dir` or below it; both canonical.
pub(crate) fn is_within(path: &[u8], dir: &[u8]) -> bool {
    match path.strip_prefix(dir) {
        Some(rest) => rest.is_empty() || rest.starts_with(b"/") || dir == b"/",
        None => false,
    }
}

/// Why a tracer cannot tell what a command changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blindness {
    /// Nobody watched, because tracing is off.
    NotTraced,
    /// This step cannot be watched by the backend at hand, for this reason.
    Unwatchable(&'static str),
    /// A system call that changes what paths mean, or reaches files without
    /// one.
    Call(&'static str),
    /// The kernel wrote a core file, wherever its pattern says.
    CoreDump,
    /// The names of an event could not be read.
    Unresolved {
        /// The system call that was stopped.
        call: &'static str,
        /// The process that made it.
        pid: i32,
        /// What stood in the way.
        why: String,
    },
    /// More events than resolving is worth.
    Budget(u64),
    /// A path outside the root of the command.
    OutsideRoot(Vec<u8>),
    /// A file was changed after this name of it was removed, while it had
    /// others.
    LostName(Vec<u8>),
    /// Directories could not be marked, or the marks not be read.
    Marks(String),
    /// More events than the kernel keeps until they are read.
    QueueOverflow,
    /// A name that came and went, or a directory that came: an old file may
    /// have been changed under a further name that nobody saw.
    UnseenLink(Vec<u8>),
}

impl fmt::Display for Blindness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Blindness::NotTraced => f.write_str("the command was not traced"),
            Blindness::Unwatchable(why) => f.write_str(why),
            Blindness::Call(call) => write!(f, "the command called {call}"),
            Blindness::CoreDump => f.write_str("the kernel wrote a core file"),
            Blindness::Unresolved { call, pid, why } => {
                write!(f, "{call} of process {pid} could not be resolved: {why}")
            }
            Blindness::Budget(events) => {
                write!(f, "more than {events} events, which cost more than a walk")
            }
            Blindness::OutsideRoot(path) => {
                write!(f, "{} is outside the command's root", path.escape_ascii())
            }
            Blindness::LostName(path) => {
                write!(f, "{} was changed after it lost that name", path.escape_ascii())
            }
            Blindness::Marks(why) => write!(f, "the marks lost sight: {why}"),
            Blindness::QueueOverflow => f.write_str(
                "there were more events than the kernel keeps (max_queued_events) before they were read",
            ),
            Blindness::UnseenLink(path) => write!(
                f,
                "{} came unseen: it may have been another name of an older file",
                path.escape_ascii()
            ),
        }
    }
}

/// Counts and costs of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Times a process stopped for the tracer.
    pub stops: u64,
    /// Stops at a system call that could change the tree.
    pub events: u64,
    /// Events whose names were resolved.
    pub resolved: u64,
    /// Names whose directory was known already.
    pub from_cache: u64,
    /// Events whose names could not be read.
    pub unresolved: u64,
    /// Times the tracer had to make a process readable first.
    pub unlocked: u64,
    /// Processes and threads that were started.
    pub forks: u64,
    /// CPU time of the command and everything it started.
    pub cpu: Duration,
    /// The largest resident set among them, in bytes; never less than that of
    /// the caller, of whose memory the first process starts as a copy.
    pub max_rss: u64,
}
