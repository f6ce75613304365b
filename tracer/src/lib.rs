//! Runs one command and tells which paths it may have changed.
//!
//! # The promise
//!
//! A tracer may name too many paths; it may never miss one. A path named in
//! vain costs one `lstat`; a path missed is a wrong image. A backend that lost
//! sight of the command answers [`Touched::Anything`] with the reason.
//!
//! # How a command is watched
//!
//! **ptrace**: a seccomp filter lets everything run at full speed that cannot change the
//! tree, stops what can, and refuses what could not be seen (with the errno an
//! older kernel would give). At each stop the names the call was given are
//! resolved as the kernel will resolve them, before the call runs.
//!
//! **inotify**: the kernel tells what happens in each directory of the tree.
//! It takes nothing from the command, so that set-id programs and debuggers
//! work, but it sees names only: see [`Marks`].
//!
//! # How a command ends
//!
//! When [`Tracer::run`] returns, every process the command started is dead and
//! reaped, whatever became of it: late writes through a mapping do not move a
//! file's times, so nothing may outlive the look at the tree.

mod arch;
mod arriving;
mod command;
mod directories;
mod error;
mod filter;
mod interrupt;
mod marks;
mod names;
mod outcome;
mod pairing;
mod reads;
mod record;
mod report;
mod run;
mod start;
mod sys;
mod tracee;
mod tracer;
mod watch;
mod withheld;

pub use command::{
    CapSet, Command, Credentials, Hidden, IdMap, IdMaps, Namespaces, Preparation, Setup,
};
pub use error::{Errno, Error};
pub use interrupt::Interrupt;
pub use marks::Marks;
pub use outcome::{Blindness, Denied, Outcome, Stats, Status, Touched, TouchedSet};
pub use reads::{Access, Reads};
pub use sys::mapping::are_stores_stamped;
pub use tracer::{Choice, Pick, Tracer, UnknownChoice};
