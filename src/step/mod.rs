//! The steps of a build that do something: run a command, copy files, make a directory.
//!
//! Each answers what it may have changed; comparing and packing come after it.

pub mod add;
mod attributes;
mod contents;
mod copy;
mod known;
mod mounts;
mod network;
mod output;
mod run;
mod selection;
mod sources;
mod workdir;

pub use contents::{Wanted, contents, contents_of};
pub use copy::{Copier, CopyError, CopyRules};
pub use known::KnownFiles;
pub use mounts::{
    AgentSource, BadKey, CacheDir, CacheError, CacheHold, CacheKey, CacheStore, Content, KeyRing,
    MountError, Mounted, Mounts, StoredCache, Trimmed,
};
pub use run::{Ran, RunError, Runner, run};
pub use sources::{Found, SourceTree};
pub use workdir::{WorkdirError, make_workdir};
