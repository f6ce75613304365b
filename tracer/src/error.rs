//! What can go wrong, by what a caller can do about it.

use std::fmt;

/// Why a command could not be run, or not be watched.
///
/// A command that ran and ended badly is no error: see
/// [`Outcome::status`](crate::Outcome).
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The chosen backend does not work here.
    #[error("{backend} tracing is not available: {why}")]
    NotAvailable {
        /// The backend that was asked for.
        backend: &'static str,
        /// The call that was refused, or a sentence.
        why: String,
    },
    /// A call that prepares the command's surroundings was refused.
    #[error("{call}: {errno}")]
    Setup {
        /// The call, as written.
        call: String,
        /// Its answer.
        errno: Errno,
    },
    /// None of the command's programs could be executed.
    #[error("{}: {errno}", .program.escape_ascii())]
    Exec {
        /// The program that was refused: the first that exists, else the
        /// first that was tried.
        program: Vec<u8>,
        /// What execve(2) said: `ENOENT` if there is none.
        errno: Errno,
    },
    /// A program that becomes root by its file could not, because ptrace
    /// watches without the capabilities that this takes.
    #[error(
        "{} is set-user-id root, which has no effect while ptrace watches",
        .program.escape_ascii()
    )]
    SetId {
        /// The program, as the command sees it.
        program: Vec<u8>,
    },
    /// [`Interrupt::trigger`](crate::Interrupt::trigger) ended the command.
    #[error("interrupted")]
    Interrupted,
    /// A call of the tracer itself was refused.
    #[error("{call}: {errno}")]
    Call {
        /// The call, as written.
        call: String,
        /// Its answer.
        errno: Errno,
    },
    /// The process that looks after the command was killed by it, so nobody
    /// knows how the command ended or what it left running.
    #[error("the process that looks after the command was killed")]
    KeeperLost,
}

/// An error number of the kernel; prints as its sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(nix::errno::Errno::from_raw(self.0).desc())
    }
}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> std::io::Error {
        std::io::Error::from_raw_os_error(errno.0)
    }
}
