//! What the checks found.

use super::options::Options;
use super::rule::Rule;
use crate::dockerfile::{Located, SourceText, Span, Stage};

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// The line, counted from 1.
    pub line: usize,
    /// The part of the Dockerfile.
    pub span: Span,
    /// What is wrong with it.
    pub message: String,
}

impl Finding {
    /// One line for a log.
    #[must_use]
    pub fn line(&self, source: &SourceText) -> String {
        let Self { rule, line, message, .. } = self;
        format!("{}:{line}: {rule}: {message} ({})", source.name, rule.link())
    }

    /// With its lines, for a person.
    #[must_use]
    pub fn render(&self, source: &SourceText, colour: bool) -> String {
        let title = format!("{}: {}", self.rule, self.message);
        source.warn(self.span, &title, &format!("see {}", self.rule.link()), colour)
    }
}

/// Findings while they are made.
#[derive(Debug)]
pub struct Findings {
    options: Options,
    found: Vec<Finding>,
}

/// Where something may be found, and the comments above it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'p> {
    pub(super) line: usize,
    pub(super) span: Span,
    pub(super) comments: &'p [String],
    /// Of a trigger, which has no place of its own: that of the `FROM` which brings it.
    pub(super) is_trigger: bool,
}

impl Place<'_> {
    /// Of something that is no instruction.
    pub(super) fn bare(line: usize, span: Span) -> Self {
        Self { line, span, comments: &[], is_trigger: false }
    }

    /// Of the triggers that begin the stage.
    pub(super) fn of_triggers(stage: &Stage) -> Self {
        Self { is_trigger: true, ..Self::bare(stage.line, stage.span) }
    }
}

impl<'p, T> From<&'p Located<T>> for Place<'p> {
    fn from(located: &'p Located<T>) -> Self {
        Self { comments: &located.comments, ..Self::bare(located.line, located.span) }
    }
}

impl<'p> From<&'p Stage> for Place<'p> {
    fn from(stage: &'p Stage) -> Self {
        Self { comments: &stage.comments, ..Self::bare(stage.line, stage.span) }
    }
}

impl Findings {
    /// None yet.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self { options, found: Vec::new() }
    }

    pub(super) fn add(&mut self, rule: Rule, place: Place<'_>, message: String) {
        if self.options.with_comments(place.comments).allow(rule) {
            let message = match place.is_trigger {
                true => format!("ONBUILD of the base: {message}"),
                false => message,
            };
            let finding = Finding { rule, line: place.line, span: place.span, message };
            if !self.found.contains(&finding) {
                self.found.push(finding);
            }
        }
    }

    /// Whether a finding ends the build.
    #[must_use]
    pub fn are_errors(&self) -> bool {
        self.options.error && !self.found.is_empty()
    }

    /// In the order of the lines.
    #[must_use]
    pub fn sorted(&self) -> Vec<&Finding> {
        let mut sorted: Vec<&Finding> = self.found.iter().collect();
        sorted.sort_by_key(|finding| (finding.line, finding.rule, finding.span.start));
        sorted
    }
}
