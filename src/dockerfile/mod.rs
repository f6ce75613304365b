//! The Dockerfile front end: text in, a value with places out.
//!
//! # The promise
//!
//! What Docker's current frontend accepts is accepted and means the same; what it refuses is refused,
//! with the place and a better message. Everything here is pure: no file, no environment, no clock.
//! Two limits of the reference are not kept, since no one can rely on them: lines longer than 64 KiB are
//! read, and bytes that are no UTF-8 are replaced by U+FFFD everywhere.

use std::sync::Arc;

pub use chmod::{BadMode, Chmod};
pub(crate) use git_ref::percent_decoded;
pub use git_ref::{GitRef, is_commit};
pub use heredoc::Heredoc;
pub use instruction::{
    Add, Arg, ArgItem, CommandLine, Copy, Device, Expose, HealthTiming, Healthcheck, Instruction,
    Network, Onbuild, Pair, Pairs, Run, Security, Source, Transfer, Volume,
};
pub use lines::Blank;
pub use mount::comma_separated;
pub use mount::{Mount, MountError, MountField, MountKind, MountSpec, Sharing};
pub use parse::{blank_continuations, parse, parse_trigger};
pub use pattern::BadShellPattern;
pub use program::{Program, SCRIPT_DIR};
pub use span::{Located, ParseError, SourceText, Span};
pub use suggest::nearest;
pub use words::{ExpandError, Expanded, Variables, Word, expand_body};

mod check;
mod chmod;
mod duration;
pub(crate) use duration::parse as parse_duration;
mod flags;
mod git_ref;
mod healthcheck;
mod heredoc;
pub mod history;
mod instruction;
mod lines;
mod mount;
mod node;
mod parse;
mod pattern;
pub mod ports;
mod print;
mod program;
mod span;
mod suggest;
mod words;

#[cfg(test)]
mod tests;

/// A parsed Dockerfile: at least one stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    /// The parser directives at its top.
    pub directives: Directives,
    /// The `ARG`s before the first `FROM`.
    pub global_args: Vec<Located<Arg>>,
    /// In the order written.
    pub stages: Vec<Stage>,
    /// Name and text, to show parts of.
    pub source: Arc<SourceText>,
}

impl Dockerfile {
    /// The escape character in force.
    #[must_use]
    pub fn escape(&self) -> char {
        self.directives.escape.unwrap_or('\\')
    }
}

/// The comments at the top that are more than comments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`: the frontend asked for; noted, never loaded.
    pub syntax: Option<String>,
    /// `# escape=`: backslash or backtick.
    pub escape: Option<char>,
    /// `# check=`: options of the checks.
    pub check: Option<String>,
}

/// `FROM` and the instructions up to the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// After `AS`, in lower case.
    pub name: Option<String>,
    /// An image, an earlier stage or a named context. Expanded with the global arguments.
    pub base: Word,
    /// `--platform`, expanded with the global arguments.
    pub platform: Option<Word>,
    /// In the order written.
    pub instructions: Vec<Located<Instruction>>,
    /// The `FROM` itself.
    pub span: Span,
    /// The first line of the `FROM`, counted from 1.
    pub line: usize,
    /// The last line of the `FROM`.
    pub end_line: usize,
    /// The `FROM` as one logical line.
    pub text: String,
    /// The comment lines above it, without `#`.
    pub comments: Vec<String>,
}
