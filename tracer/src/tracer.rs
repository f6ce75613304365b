//! The choice of a backend, and the way into it.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::marks::Kind;
use crate::{Command, Error, Interrupt, Marks, Outcome};

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

/// Backends that were found to work here, and the rule which of them watches a
/// command.
#[derive(Clone, Debug)]
pub struct Tracer {
    rule: Rule,
    reason: String,
    /// Whether a mark on the file system watches all commands that it sees all of.
    marks_file_system: bool,
    /// What a stop was measured to cost.
    stop: Duration,
}

/// Why a backend is taken of which nothing more is to be said.
const WORKS: &str = "it works here";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    Always(Backend),
    /// ptrace, and this one where it would take something from the command.
    PtraceOr(Backend),
}

/// Who watches one command, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pick {
    backend: Backend,
    reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Ptrace,
    Inotify,
    Fanotify,
    Untraced,
}

impl Tracer {
    /// Finds out whether `choice` works on this kernel, with these privileges,
    /// by trying it: ptrace on a child, inotify on a write, fanotify by a mark. Takes a few
    /// milliseconds.
    ///
    /// # Errors
    /// [`Error::NotAvailable`] if it does not; never for
    /// [`Auto`](Choice::Auto), which then watches nothing.
    pub fn probe(choice: Choice) -> Result<Tracer, Error> {
        Tracer::probe_on(choice, Path::new("/"))
    }

    /// As [`probe`](Tracer::probe), for trees on the file system of `root`:
    /// not every file system can be marked by fanotify.
    ///
    /// # Errors
    /// As [`probe`](Tracer::probe).
    pub fn probe_on(choice: Choice, root: &Path) -> Result<Tracer, Error> {
        let asked_for = |backend| Tracer::new(Rule::Always(backend), "asked for".to_owned());
        match choice {
            Choice::Off => Ok(asked_for(Backend::Untraced)),
            Choice::Inotify => crate::marks::probe().map(|()| asked_for(Backend::Inotify)),
            Choice::Fanotify => {
                crate::marks::probe_file_system(root).map(|()| asked_for(Backend::Fanotify))
            }
            Choice::Ptrace => {
                crate::run::probe().map(|stop| Tracer { stop, ..asked_for(Backend::Ptrace) })
            }
            Choice::Auto => {
                let best = Tracer::best(crate::run::probe(), crate::marks::probe());
                let marks_file_system = crate::marks::probe_file_system(root).is_ok();
                Ok(Tracer { marks_file_system, ..best })
            }
        }
    }

    fn best(ptrace: Result<Duration, Error>, inotify: Result<(), Error>) -> Tracer {
        let works = WORKS.to_owned();
        match (ptrace, inotify) {
            (Ok(stop), Ok(())) => {
                Tracer { stop, ..Tracer::new(Rule::PtraceOr(Backend::Inotify), works) }
            }
            (Ok(stop), Err(error)) => {
                let reason = format!("{works}, but {error}");
                Tracer { stop, ..Tracer::new(Rule::PtraceOr(Backend::Untraced), reason) }
            }
            (Err(error), Ok(())) => Tracer::new(Rule::Always(Backend::Inotify), error.to_string()),
            (Err(error), Err(other)) => {
                Tracer::new(Rule::Always(Backend::Untraced), format!("{error}, and {other}"))
            }
        }
    }

    /// Leaves marks on file systems aside, for commands of which calls have to be seen: whose
    /// [reads](Command::reads) are recorded, or whose opened files are looked at twice.
    #[must_use]
    pub fn by_calls(self) -> Tracer {
        Tracer { marks_file_system: false, ..self }
    }

    fn new(rule: Rule, reason: String) -> Tracer {
        Tracer { rule, reason, marks_file_system: false, stop: Duration::ZERO }
    }

    /// What a stop at which nothing is done was measured to cost; zero for
    /// other backends than ptrace.
    #[must_use]
    pub fn stop_cost(&self) -> Duration {
        self.stop
    }

    /// Whether most commands are stopped at what they do, which makes them slower.
    #[must_use]
    pub fn stops(&self) -> bool {
        !self.marks_file_system
            && matches!(self.rule, Rule::Always(Backend::Ptrace) | Rule::PtraceOr(_))
    }

    /// What resolving the names of an event of ptrace costs here, about: it was found to take
    /// half as much as the stop, which was measured. Zero for other backends.
    #[must_use]
    pub fn resolving_cost(&self) -> Duration {
        self.stop / 2
    }

    /// What an event of ptrace costs here, about: a stop, and what is done in it. A change to a file that a mark tells of
    /// is cheaper, but there are several for each that ptrace sees, so that the sum is of the same order. Zero where
    /// no stop was measured.
    #[must_use]
    pub fn event_cost(&self) -> Duration {
        self.stop + self.resolving_cost()
    }

    /// Who is going to watch `command`.
    #[must_use]
    pub fn pick(&self, command: &Command) -> Pick {
        let has_marks = self.marks_file_system && !command.reads && !command.strict;
        if has_marks && crate::marks::what_marks_cannot_see(command).is_none() {
            return Pick { backend: Backend::Fanotify, reason: WORKS.to_owned() };
        }
        match self.rule {
            Rule::Always(backend) => Pick { backend, reason: self.reason.clone() },
            Rule::PtraceOr(other) => match crate::run::what_watching_would_take(command) {
                Some(why) => Pick { backend: other, reason: why.to_owned() },
                None => Pick { backend: Backend::Ptrace, reason: self.reason.clone() },
            },
        }
    }

    /// Runs `command` to its end and tells what it may have changed. When
    /// this returns, every process it started is dead and reaped.
    ///
    /// # Errors
    /// When the command could not be started, was interrupted, or a call of
    /// the tracer was refused. How the command itself ended is no error.
    pub fn run(&self, command: &Command, interrupt: &Interrupt) -> Result<Outcome, Error> {
        self.run_in(&mut Marks::of(command), command, interrupt)
    }

    /// As [`run`](Tracer::run), with what is kept from command to command on
    /// the same tree. Changes outside that tree are not told where the backend
    /// needs marks.
    ///
    /// # Errors
    /// As [`run`](Tracer::run).
    pub fn run_in(
        &self,
        marks: &mut Marks,
        command: &Command,
        interrupt: &Interrupt,
    ) -> Result<Outcome, Error> {
        let unwatched = |command| crate::run::run(false, command, interrupt);
        match self.pick(command).backend {
            Backend::Ptrace => crate::run::run(true, command, interrupt),
            Backend::Untraced => unwatched(command),
            Backend::Inotify => marks.listen(Kind::Directories, command, || unwatched(command)),
            Backend::Fanotify => marks.listen(Kind::FileSystem, command, || unwatched(command)),
        }
    }

    /// The name of the backend that watches most commands.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.rule {
            _ if self.marks_file_system => Backend::Fanotify.name(),
            Rule::Always(backend) => backend.name(),
            Rule::PtraceOr(_) => Backend::Ptrace.name(),
        }
    }

    /// That name and why it was taken, for a line of information.
    #[must_use]
    pub fn describe(&self) -> String {
        let reason = if self.marks_file_system { WORKS } else { &self.reason };
        format!("{} ({reason})", self.name())
    }
}

impl Pick {
    /// The backend's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.backend.name()
    }
}

impl fmt::Display for Pick {
    /// Name and reason.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.reason)
    }
}

impl Backend {
    fn name(self) -> &'static str {
        match self {
            Backend::Ptrace => "ptrace",
            Backend::Inotify => "inotify",
            Backend::Fanotify => "fanotify",
            Backend::Untraced => "off",
        }
    }
}
