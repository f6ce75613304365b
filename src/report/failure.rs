//! A failure is told once: a sentence, its causes, a way out.

use std::error::Error;
use std::fmt;

/// The exit status of the executor: that of a failing RUN, else 1; 128 + n
/// after signal n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExitStatus(u8);

impl ExitStatus {
    /// Every failure that is not the failure of a RUN.
    pub const FAILURE: Self = Self(1);

    /// The status of a command; anything outside 1 to 255 is told as 1.
    pub fn of_command(code: i32) -> Self {
        match u8::try_from(code) {
            Ok(0) | Err(_) => Self::FAILURE,
            Ok(code) => Self(code),
        }
    }

    /// The status a shell gives for a process that a signal ended.
    pub fn of_signal(signal: i32) -> Self {
        Self::of_command(128 + signal)
    }

    /// As `std::process::exit` wants it.
    pub fn code(self) -> i32 {
        i32::from(self.0)
    }
}

/// What ends a build, ready to be shown to a person.
#[derive(Debug)]
pub struct Failure(Box<Parts>);

#[derive(Debug)]
struct Parts {
    message: String,
    excerpt: Option<String>,
    hint: Option<String>,
    cause: Option<Box<dyn Error + Send + Sync>>,
    status: ExitStatus,
    /// What is wrong elsewhere and does not come of this one.
    others: Vec<Failure>,
}

impl Failure {
    /// The first one, which the others follow when it is told; [`None`] for none.
    pub fn all_of(failures: Vec<Self>) -> Option<Self> {
        let mut failures = failures.into_iter();
        let mut first = failures.next()?;
        first.0.others = failures.collect();
        Some(first)
    }

    /// A failure that is told by `message` alone: lower case, no full stop.
    pub fn new(message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            message: message.into(),
            excerpt: None,
            hint: None,
            cause: None,
            status: ExitStatus::FAILURE,
            others: Vec::new(),
        }))
    }

    /// Adds the error that caused it; the causes of that error are shown too.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// Adds what the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Whether it has a hint already.
    pub fn has_hint(&self) -> bool {
        self.0.hint.is_some()
    }

    /// Whether the kernel refused something for want of a right: `EPERM` or `EACCES` among the causes,
    /// or told in the sentence.
    pub fn is_refusal(&self) -> bool {
        self.is(std::io::ErrorKind::PermissionDenied, "Operation not permitted")
    }

    /// Whether a file system is full.
    pub fn is_out_of_space(&self) -> bool {
        self.is(std::io::ErrorKind::StorageFull, "No space left on device")
    }

    /// Whether a cause is of that kind, or the sentence tells one whose type was lost on the way.
    fn is(&self, kind: std::io::ErrorKind, sentence: &str) -> bool {
        let mut cause: Option<&dyn Error> = match &self.0.cause {
            Some(cause) => Some(cause.as_ref()),
            None => None,
        };
        while let Some(error) = cause {
            let io = error.downcast_ref::<std::io::Error>();
            if io.is_some_and(|io| io.kind() == kind) || error.to_string().contains(sentence) {
                return true;
            }
            cause = error.source();
        }
        self.0.message.contains(sentence)
    }

    /// Adds source lines to show below the sentence. The title of an annotated excerpt goes: the
    /// sentence says it already.
    #[must_use]
    pub fn excerpt(mut self, excerpt: &str) -> Self {
        let lines = match excerpt.split_once('\n') {
            Some((title, lines)) if title.starts_with("error") => lines,
            _ => excerpt,
        };
        self.0.excerpt = Some(lines.to_owned());
        self
    }

    /// Sets the exit status.
    #[must_use]
    pub fn status(mut self, status: ExitStatus) -> Self {
        self.0.status = status;
        self
    }

    /// The exit status to end with.
    pub fn exit_status(&self) -> ExitStatus {
        self.0.status
    }

    /// Puts where it happened before the sentence: `Dockerfile:7: …`.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.0.message)?;
        let mut told = self.0.message.clone();
        let mut cause = self.0.cause.as_deref().map(|cause| cause as &dyn Error);
        while let Some(error) = cause {
            let text = error.to_string();
            // Library errors often repeat their source in their own sentence.
            if !told.contains(&text) {
                write!(f, ": {text}")?;
                told.push_str(&text);
            }
            cause = error.source();
        }
        if let Some(excerpt) = &self.0.excerpt {
            write!(f, "\n{}", excerpt.trim_end_matches('\n'))?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, "\nhint: {hint}")?;
        }
        self.0.others.iter().try_for_each(|other| write!(f, "\n\n{other}"))
    }
}

/// Turns an error into a [`Failure`] by adding what was being done.
pub trait Explain<T> {
    /// `doing` completes the sentence "could not …".
    fn could_not(self, doing: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Explain<T> for Result<T, E> {
    fn could_not(self, doing: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|cause| Failure::new(format!("could not {}", doing())).because(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_a_sentence_its_causes_and_a_hint() {
        let cause = std::io::Error::from_raw_os_error(13);
        let failure = Failure::new("could not read /etc/x").because(cause).hint("run as root");
        assert_eq!(
            failure.to_string(),
            "error: could not read /etc/x: Permission denied (os error 13)\nhint: run as root"
        );
    }

    #[test]
    fn an_excerpt_does_not_repeat_the_sentence() {
        let failure = Failure::new("D:1: bad").excerpt("error: bad\n --> D:1:1\n  | x");
        assert_eq!(failure.to_string(), "error: D:1: bad\n --> D:1:1\n  | x");
    }

    #[test]
    fn several_failures_are_told_one_after_the_other() {
        let failures = ["a", "b", "c"].map(|text| Failure::new(text).hint("mend it"));
        let told = Failure::all_of(failures.into()).map(|all| all.to_string());
        let want = "error: a\nhint: mend it\n\nerror: b\nhint: mend it\n\nerror: c\nhint: mend it";
        assert_eq!(told.as_deref(), Some(want));
        assert!(Failure::all_of(Vec::new()).is_none());
    }

    #[test]
    fn exit_statuses() {
        for (status, want) in [
            (ExitStatus::of_command(3), 3),
            (ExitStatus::of_command(0), 1),
            (ExitStatus::of_command(-1), 1),
            (ExitStatus::of_command(300), 1),
            (ExitStatus::of_signal(15), 143),
        ] {
            assert_eq!(status.code(), want);
        }
    }
}
