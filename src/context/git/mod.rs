//! Git repositories as build contexts and as sources of ADD.
//!
//! # The promises
//!
//! - No program runs: neither git nor a filter, hook or helper that a repository
//!   or this machine's configuration names. `ssh` is the exception, for URLs of
//!   its own.
//! - A login goes to the origin it was given for: not to submodules elsewhere,
//!   not along redirects.
//! - What is checked out is the commit that was asked for, with all its files.

mod checkout;
mod fetch;
mod source;
mod submodules;
mod web;

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tracer::Interrupt;

pub use source::{GitOptions, GitSource, History, Login, Pass, Remote};

use super::http::FetchSettings;
use crate::report::Failure;
use fetch::FetchError;

/// How to reach repositories.
#[derive(Debug, Clone, Default)]
pub struct GitAccess {
    /// The user and password of the context's own host.
    pub login: Option<Login>,
    /// The `ssh` program of this machine, or a command for a shell.
    pub ssh: Option<OsString>,
}

impl GitAccess {
    /// What the environment says, for the host of `source`.
    #[must_use]
    pub fn with_login(mut self, source: &GitSource, pass: &Pass) -> Self {
        self.login = source.remote().clone().or_login(pass).login;
        self
    }
}

/// What everything that is fetched for one source has in common.
struct Session<'a> {
    access: &'a GitAccess,
    settings: &'a FetchSettings,
    interrupt: &'a Interrupt,
    /// Throws when the build is interrupted, for code that knows no more than this.
    stop: Arc<AtomicBool>,
}

/// Fetches a repository, and checks out what is wanted into the empty directory `into`; answers the time of
/// the commit, in seconds since 1970.
///
/// # Errors
/// The repository, the reference or the commit is not to be had, or the disk does not take it.
pub(super) fn clone(
    source: &GitSource,
    into: &Path,
    access: &GitAccess,
    settings: &FetchSettings,
    interrupt: &Interrupt,
) -> Result<i64, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let thrown = stop.clone();
    interrupt.also(move || thrown.store(true, std::sync::atomic::Ordering::SeqCst));
    let session = Session { access, settings, interrupt, stop };
    session.take(source, into, 0).map_err(|error| explained(source, &error))
}

fn explained(source: &GitSource, error: &FetchError) -> Failure {
    let failure = Failure::new(format!("could not fetch {source}: {error}"));
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
