//! Places in a Dockerfile, and errors that show them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

/// A range of bytes in the source text, the byte order mark included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

impl Span {
    /// The same as a range.
    #[must_use]
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub node: T,
    /// The instruction's lines without the bodies of here-documents.
    pub span: Span,
    /// The first line, counted from 1.
    pub line: usize,
    /// The last line, bodies of here-documents included.
    pub end_line: usize,
    /// The instruction as one logical line: continuations joined, comments between them dropped.
    pub text: String,
    /// The comment lines above it, without `#`.
    pub comments: Vec<String>,
}

/// The name and the text of a Dockerfile, to show parts of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceText {
    /// What a person calls it, for instance `Dockerfile`.
    pub name: String,
    /// All of it; bytes that are no UTF-8 are replaced by U+FFFD.
    pub text: String,
}

impl SourceText {
    /// The line of a byte, counted from 1.
    #[must_use]
    pub fn line_of(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().iter().take(offset);
        1 + before.filter(|&&byte| byte == b'\n').count()
    }

    /// The column of a byte in characters, counted from 1.
    #[must_use]
    pub fn column_of(&self, offset: usize) -> usize {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        1 + line.chars().filter(|c| *c != '\u{feff}').count()
    }

    /// A message with the part of the text it is about, underlined; several lines, no newline at the end.
    #[must_use]
    pub fn annotate(&self, span: Span, message: &str, hint: Option<&str>, colour: bool) -> String {
        let snippet = Snippet::source(self.text.as_str())
            .path(self.name.as_str())
            .annotation(AnnotationKind::Primary.span(span.range()));
        let mut group = Level::ERROR.primary_title(message).element(snippet);
        if let Some(hint) = hint {
            group = group.element(Level::HELP.message(hint));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }
}

impl SourceText {
    /// As [`SourceText::annotate`], for what is allowed.
    #[must_use]
    pub fn warn(&self, span: Span, message: &str, help: &str, colour: bool) -> String {
        let snippet = Snippet::source(self.text.as_str())
            .path(self.name.as_str())
            .annotation(AnnotationKind::Primary.span(span.range()));
        let title = Level::WARNING.primary_title(message).element(snippet);
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[title.element(Level::HELP.message(help))])
    }

    /// Two places that do not go together, the second one with a label.
    #[must_use]
    pub fn annotate_both(&self, span: Span, other: Span, label: &str) -> String {
        let snippet = Snippet::source(self.text.as_str())
            .path(self.name.as_str())
            .annotation(AnnotationKind::Primary.span(span.range()))
            .annotation(AnnotationKind::Context.span(other.range()).label(label));
        Renderer::plain().render(&[Level::ERROR.primary_title("").element(snippet)])
    }
}

/// What is wrong and where, while the source is still at hand elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) span: Span,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

impl Fault {
    pub(super) fn new(span: Span, message: String) -> Self {
        Self { span, message, hint: None }
    }

    pub(super) fn with_hint(self, hint: Option<String>) -> Self {
        Self { hint, ..self }
    }

    pub(super) fn in_source(self, source: &Arc<SourceText>) -> ParseError {
        ParseError::new(source, vec![self])
    }
}

/// Why a Dockerfile was refused, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError(Box<Refusal>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    source: Arc<SourceText>,
    fault: Fault,
    /// What is wrong elsewhere, in order.
    more: Vec<Fault>,
}

impl ParseError {
    /// The first of `faults` with the others; there is one at least.
    pub(super) fn new(source: &Arc<SourceText>, faults: Vec<Fault>) -> Self {
        let mut faults = faults.into_iter();
        let fault = faults.next().unwrap_or_else(|| Fault::new(Span::default(), String::new()));
        Self(Box::new(Refusal { source: Arc::clone(source), fault, more: faults.collect() }))
    }

    /// The line, counted from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.0.source.line_of(self.0.fault.span.start)
    }

    /// The column in characters, counted from 1.
    #[must_use]
    pub fn column(&self) -> usize {
        self.0.source.column_of(self.0.fault.span.start)
    }

    /// The part of the text that is wrong.
    #[must_use]
    pub fn span(&self) -> Span {
        self.0.fault.span
    }

    /// What is wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.fault.message
    }

    /// What was perhaps meant.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.fault.hint.as_deref()
    }

    /// How many other things are wrong.
    #[must_use]
    pub fn others(&self) -> usize {
        self.0.more.len()
    }

    /// All that is wrong, each with its source line underlined, for a terminal or for a log.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let Refusal { source, fault, more } = &*self.0;
        let faults = std::iter::once(fault).chain(more);
        let render = |fault: &Fault| {
            source.annotate(fault.span, &fault.message, fault.hint.as_deref(), colour)
        };
        faults.map(render).collect::<Vec<_>>().join("\n\n")
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.0.source.name, self.line(), self.message())?;
        self.hint().iter().try_for_each(|hint| write!(f, " ({hint})"))
    }
}

impl std::error::Error for ParseError {}
