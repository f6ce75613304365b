//! The choice of a backend, and the way into it.

use std::fmt;
use std::str::FromStr;

use crate::{Command, Error, Interrupt, Outcome};

/// Who is asked to watch a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The first backend that works, for each command.
    Auto,
    /// ptrace behind a seccomp filter.
    Ptrace,
    /// inotify marks on directories.
    Inotify,
    /// fanotify marks on file systems.
    Fanotify,
    /// Nobody.
    Off,
}

impl Choice {
    const NAMES: [(&'static str, Choice); 5] = [
        ("auto", Choice::Auto),
        ("ptrace", Choice::Ptrace),
        ("inotify", Choice::Inotify),
        ("fanotify", Choice::Fanotify),
        ("off", Choice::Off),
    ];
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Choice::Auto => "auto",
            Choice::Ptrace => "ptrace",
            Choice::Inotify => "inotify",
            Choice::Fanotify => "fanotify",
            Choice::Off => "off",
        })
    }
}

/// A word that names no backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of auto, ptrace, inotify, fanotify, off")]
pub struct UnknownChoice(String);

impl FromStr for Choice {
    type Err = UnknownChoice;

    fn from_str(word: &str) -> Result<Choice, UnknownChoice> {
        let known = Choice::NAMES.iter().find(|(name, _)| *name == word);
        known.map(|(_, choice)| *choice).ok_or_else(|| UnknownChoice(word.to_owned()))
    }
}

/// A backend that was found to work here.
#[derive(Clone, Debug)]
pub struct Tracer {
    backend: Backend,
    reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Ptrace,
    Untraced,
}

impl Tracer {
    /// Finds out whether `choice` works on this kernel, with these privileges,
    /// by trying it on a child. Takes a few milliseconds.
    ///
    /// # Errors
    /// [`Error::NotAvailable`] if it does not; never for
    /// [`Auto`](Choice::Auto), which then watches nothing.
    pub fn probe(choice: Choice) -> Result<Tracer, Error> {
        let unavailable = |backend| Error::NotAvailable {
            backend,
            why: "this version does not have it; choose ptrace or off".to_owned(),
        };
        match choice {
            Choice::Off => {
                Ok(Tracer { backend: Backend::Untraced, reason: "asked for".to_owned() })
            }
            Choice::Inotify => Err(unavailable("inotify")),
            Choice::Fanotify => Err(unavailable("fanotify")),
            Choice::Ptrace => crate::run::probe().map(|()| Tracer::ptrace("asked for")),
            Choice::Auto => Ok(match crate::run::probe() {
                Ok(()) => Tracer::ptrace("it works here"),
                Err(error) => Tracer { backend: Backend::Untraced, reason: error.to_string() },
            }),
        }
    }

    /// Runs `command` to its end and tells what it may have changed. When
    /// this returns, every process it started is dead and reaped.
    ///
    /// # Errors
    /// When the command could not be started, was interrupted, or a call of
    /// the tracer was refused. How the command itself ended is no error.
    pub fn run(&self, command: &Command, interrupt: &Interrupt) -> Result<Outcome, Error> {
        crate::run::run(self.backend == Backend::Ptrace, command, interrupt)
    }

    /// The backend's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.backend {
            Backend::Ptrace => "ptrace",
            Backend::Untraced => "off",
        }
    }

    /// The backend's name and why it was taken, for a line of information.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{} ({})", self.name(), self.reason)
    }

    fn ptrace(reason: &str) -> Tracer {
        Tracer { backend: Backend::Ptrace, reason: reason.to_owned() }
    }
}
