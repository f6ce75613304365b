//! The inotify backend: marks on the directories of one tree. And, in
//! `handles`, that of fanotify: one mark on the file system.
//!
//! # What a mark tells
//!
//! The kernel names, for each marked directory, the entries that come, go and
//! move, and those that are written or whose metadata is set, whoever does it
//! and by whatever descriptor. Nothing is taken from the command: set-id
//! programs, debuggers and filters of its own work.
//!
//! # What it does not tell, and what follows
//!
//! Events name the file under the name it was reached by. A further name of an
//! old file may come, be written through, and go, without an event at the old
//! one: link(2) is told at the new name only. So a name that came, whose file was
//! changed, and that went, and a directory that was made (and has no mark yet, so that names come and go in
//! it unseen), make everything suspect: [`Blindness::UnseenLink`].
//!
//! Stores to a mapping are told when the file behind it is closed for the last
//! time, which is before its last process is reaped, unless the kernel itself still holds the file: for a request of aio
//! or io_uring, or in the queue of a socket that only other such queues lead to.
//!
//! # Paths
//!
//! A mark follows its directory when that is renamed. Its events are reported
//! under the path it had when the command started, and both names of a renamed
//! directory as whole trees. That is enough: if no directory above a file was
//! moved, the old path is right; if one was, the topmost one was moved to
//! where it is by an event in a directory whose path is right, and so the file
//! is in that tree.

mod handles;
mod notes;
mod place;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fmt::{self, Display};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use crate::command::CapSet;
use crate::error::{Errno, Error};
use crate::outcome::{Blindness, Outcome, Stats, Touched, TouchedSet};
use crate::{Command, Setup, sys};
use notes::{Notes, Queue};
use place::Placed;

const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_SYS_ADMIN: u32 = 21;

/// What is asked of each directory. IN_OPEN is not among it: reading is more
/// frequent than writing, and who opens for writing also closes.
const EVENTS: WatchFlags = WatchFlags::ATTRIB
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVE)
    .union(WatchFlags::ONLYDIR);

/// Marks on the directories of one tree, kept from command to command. That on its file system is there
/// while a command runs.
///
/// Nobody else may write in the tree while a command runs; between commands it
/// may change in any way. The marks are placed when the first command runs,
/// and after that only where directories came or moved.
pub struct Marks {
    root: PathBuf,
    /// What the command calls the root; empty for `/`.
    called: Vec<u8>,
    placed: Option<Placed>,
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marks").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Marks {
    /// For the tree at `root`, which the command sees at `called`: `/` if it
    /// is going to be its root.
    #[must_use]
    pub fn new(root: &Path, called: &[u8]) -> Marks {
        let called = if called == b"/" { Vec::new() } else { called.to_vec() };
        Marks { root: root.to_owned(), called, placed: None }
    }

    /// For the root that the command's preparations give it.
    pub(crate) fn of(command: &Command) -> Marks {
        let root = command.setup.iter().rev().find_map(|preparation| match &preparation.setup {
            Setup::PivotRoot { new_root: root } | Setup::Chroot { root } => {
                Some(Path::new(OsStr::from_bytes(root.as_bytes())))
            }
            _ => None,
        });
        Marks::new(root.unwrap_or(Path::new("/")), b"/")
    }

    /// Listens while `body` runs a command to its end, unwatched; answers what
    /// it touched.
    pub(crate) fn listen(
        &mut self,
        kind: Kind,
        command: &Command,
        body: impl FnOnce() -> Result<Outcome, Error>,
    ) -> Result<Outcome, Error> {
        let blind = |why| move |outcome| Outcome { touched: Touched::Anything(why), ..outcome };
        if let Some(why) = what_marks_cannot_see(command) {
            return body().map(blind(Blindness::Unwatchable(why)));
        }
        // A walk does without all of this.
        let listening = self.refresh(kind).and_then(|placed| {
            let queue = placed.events().map_err(|errno| unable("dup", errno))?;
            let stop = sys::pipe().map_err(|errno| unable("pipe2", errno))?;
            Ok((placed, queue, stop))
        });
        let (placed, queue, stop) = match listening {
            Ok(listening) => listening,
            Err(why) => return body().map(blind(why)),
        };
        let budget = command.event_budget.unwrap_or(u64::MAX);
        let (outcome, notes) = listen_while(queue, budget, stop, body)?;
        let events = notes.events();
        let touched = placed.settle(notes);
        if kind == Kind::FileSystem {
            // It would make everything slower that writes on this file system.
            self.placed = None;
        }
        let outcome = outcome?;
        let stats = Stats { events, ..outcome.stats };
        Ok(Outcome { touched: self.named(touched), stats, ..outcome })
    }

    /// Takes in what happened to the tree since the last command.
    fn refresh(&mut self, kind: Kind) -> Result<&mut Placed, Blindness> {
        let current = match self.placed.take().filter(|placed| placed.kind() == kind) {
            Some(placed) => placed.refreshed()?,
            None => None,
        };
        let placed = match current {
            Some(placed) => placed,
            None => Placed::on(&self.root, kind)?,
        };
        Ok(self.placed.insert(placed))
    }

    /// Paths as the command sees them.
    fn named(&self, touched: Touched) -> Touched {
        let name = |path: Vec<u8>| match [self.called.as_slice(), &path].concat() {
            empty if empty.is_empty() => b"/".to_vec(),
            path => path,
        };
        match touched {
            Touched::Only(TouchedSet { paths, trees }) => Touched::Only(TouchedSet {
                paths: paths.into_iter().map(name).collect(),
                trees: trees.into_iter().map(name).collect(),
            }),
            Touched::Anything(why) => Touched::Anything(why),
        }
    }
}

/// What is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Each directory, by inotify.
    Directories,
    /// The file system, by fanotify.
    FileSystem,
}

/// Finds out whether the file system of `directory` can be marked as a whole.
pub(crate) fn probe_file_system(directory: &Path) -> Result<(), Error> {
    let unavailable = |why| Error::NotAvailable { backend: "fanotify", why };
    let top = std::fs::File::open(directory)
        .map_err(|error| unavailable(format!("open({:?}): {error}", directory.display())))?;
    place::marked_file_system(&top.into()).map(place::close_aside).map_err(unavailable)
}

/// Finds out whether a mark tells of a write.
pub(crate) fn probe() -> Result<(), Error> {
    // Runtimes without `CAP_MKNOD` mount the machine's null over a file: a write to it is told to
    // those who marked the machine's /dev.
    probe_by(c"/dev", c"null").or_else(|error| {
        tracing::debug!(%error, "trying another file");
        probe_by(c"/proc/self", c"comm")
    })
}

/// Opens `name` of `directory` for writing, and expects to be told. Nothing is written.
fn probe_by(directory: &CStr, name: &CStr) -> Result<(), Error> {
    let unavailable = |what: &str, why: &dyn Display| Error::NotAvailable {
        backend: "inotify",
        why: format!("{what}: {why}"),
    };
    let failed =
        |call: &str, errno: rustix::io::Errno| unavailable(call, &Errno(errno.raw_os_error()));
    let queue = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
        .map_err(|errno| failed("inotify_init1", errno))?;
    inotify::add_watch(&queue, directory, EVENTS)
        .map_err(|errno| failed("inotify_add_watch", errno))?;
    let path =
        Path::new(OsStr::from_bytes(directory.to_bytes())).join(OsStr::from_bytes(name.to_bytes()));
    let write = format!("a write to {}", path.display());
    drop(
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(|error| unavailable(&write, &error))?,
    );
    let mut buffer = Queue::buffer();
    let mut events = inotify::Reader::new(&queue, &mut buffer);
    loop {
        let event = events.next().map_err(|errno| match errno {
            rustix::io::Errno::AGAIN => unavailable(&write, &"nobody was told"),
            errno => failed("read", errno),
        })?;
        if event.events().contains(ReadFlags::CLOSE_WRITE) && event.file_name() == Some(name) {
            return Ok(());
        }
    }
}

/// A command that may open files by handle reaches them under no name; one
/// that may mount reaches directories that lie hidden below mounts, and writes
/// through what the kernel keeps open itself.
pub(crate) fn what_marks_cannot_see(command: &Command) -> Option<&'static str> {
    if command.namespaces.user.is_some() {
        return None; // capabilities in a user namespace are none outside of it
    }
    let may = |number: u32| {
        command.capabilities.is_none_or(|keep: CapSet| keep.contains(number))
            && sys::may_hold(number)
    };
    if may(CAP_SYS_ADMIN) {
        Some("marks cannot watch a command that may hold CAP_SYS_ADMIN: it could mount")
    } else if may(CAP_DAC_READ_SEARCH) {
        Some(
            "marks cannot watch a command that may hold CAP_DAC_READ_SEARCH: it could open \
             files by handle",
        )
    } else {
        None
    }
}

/// Reads events on a thread of its own while `body` runs, then those that are
/// left.
fn listen_while<T>(
    queue: Queue,
    budget: u64,
    (stop, stopper): (OwnedFd, OwnedFd),
    body: impl FnOnce() -> T,
) -> Result<(T, Notes), Error> {
    thread::scope(|scope| {
        let reader = thread::Builder::new().name("marks".to_owned());
        let reader = reader.spawn_scoped(scope, move || read_until(queue, budget, &stop));
        // Where there is no room for a thread, there is none for a command.
        let reader =
            reader.map_err(|error| call("clone", Errno(error.raw_os_error().unwrap_or(0))))?;
        let answer = body();
        drop(stopper);
        let notes = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((answer, notes))
    })
}

/// Empties the queue every few milliseconds: once for each event would cost a
/// switch of processes each, and the queue holds thousands. Above `budget` nothing more is kept, or read.
fn read_until(mut queue: Queue, budget: u64, stop: &OwnedFd) -> Notes {
    const SHORTEST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_millis(8);
    sys::block_signals();
    let mut notes = Notes::default();
    let mut pause = SHORTEST;
    loop {
        let is_over = waited(stop, Some(pause));
        let count = queue.read(&mut notes);
        if is_over {
            queue.settle(&mut notes);
            return notes;
        }
        if notes.are_over(budget) && queue.give_up() {
            waited(stop, None);
            return notes;
        }
        pause = if count > 256 { SHORTEST } else { LONGEST.min(pause * 2) };
    }
}

/// Waits until the other end of `stop` is closed, or no longer than `pause`.
fn waited(stop: &OwnedFd, pause: Option<Duration>) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
    let pause = pause.map(|it| Timespec { tv_sec: 0, tv_nsec: it.subsec_nanos().into() });
    poll(&mut polled, pause.as_ref()).is_ok_and(|ready| ready > 0)
}

/// Directories by the mark on them, or another number, relative to the root: empty, or with a
/// leading slash.
type Paths = HashMap<i32, Vec<u8>>;

fn unable(call: &str, errno: Errno) -> Blindness {
    Blindness::Marks(format!("{call}: {errno}"))
}

fn call(name: &str, errno: Errno) -> Error {
    Error::Call { call: name.to_owned(), errno }
}
