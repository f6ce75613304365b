//! From the text to logical lines: directives, comments, continuations and the bodies of here-documents.

use std::sync::LazyLock;

use regex::Regex;

use super::heredoc::Heredoc;
use super::span::{Fault, Span};
use super::{Directives, words};

static DIRECTIVE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=[\t\n\f\r ]*(.+?)[\t\n\f\r ]*$")
        .expect("the pattern is a constant")
});

const BYTE_ORDER_MARK: char = '\u{feff}';

/// One instruction's text, and where each part of it stands in the source.
#[derive(Debug, Default)]
pub(super) struct Logical {
    pub(super) text: String,
    /// Offset in `text` and in the source of each physical line's part.
    pieces: Vec<(usize, usize)>,
    pub(super) line: usize,
    pub(super) comments: Vec<String>,
}

impl Logical {
    /// The place of a range of `text`.
    pub(super) fn span(&self, start: usize, end: usize) -> Span {
        let last = end.max(start + 1) - 1;
        Span { start: self.place(start), end: self.place(last) + (end - start).min(1) }
    }

    /// The place of all of `text`, without blanks around it.
    pub(super) fn whole(&self) -> Span {
        let start = self.text.len() - self.text.trim_start().len();
        self.span(start, self.text.trim_end().len().max(start))
    }

    fn place(&self, offset: usize) -> usize {
        let before = self.pieces.partition_point(|(start, _)| *start <= offset);
        let piece = before.checked_sub(1).and_then(|at| self.pieces.get(at));
        piece.map_or(0, |(start, place)| place + offset - start)
    }

    fn push(&mut self, part: &str, place: usize) {
        self.pieces.push((self.text.len(), place));
        self.text.push_str(part);
    }
}

/// An empty line in the middle of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blank {
    /// The line.
    pub empty: Span,
    /// The last line of the instruction.
    pub last: Span,
}

/// Reads logical lines one after the other.
pub(super) struct Lines<'a> {
    text: &'a str,
    position: usize,
    /// Lines read so far.
    pub(super) line: usize,
    directives_over: bool,
    has_check: bool,
    /// Empty lines in the middle of instructions, the last one of each.
    pub(super) blank: Vec<Blank>,
    pub(super) directives: Directives,
    comments: Vec<String>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let position =
            if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len_utf8() } else { 0 };
        let directives = Directives { check: checks(&text[position..]), ..Directives::default() };
        let comments = Vec::new();
        Self {
            text,
            position,
            line: 0,
            directives_over: false,
            has_check: false,
            blank: Vec::new(),
            directives,
            comments,
        }
    }

    pub(super) fn escape(&self) -> char {
        self.directives.escape.unwrap_or('\\')
    }

    /// The next instruction, `None` at the end of the text.
    pub(super) fn next(&mut self) -> Result<Option<Logical>, Fault> {
        while let Some((physical, place)) = self.physical() {
            let indent = physical.len() - physical.trim_start().len();
            // As in the reference, the `#` of a comment that is indented is a part of it, so that it can be
            // neither a description nor an option of the checks.
            let whole = physical.chars();
            let (physical, place) = (physical.trim_start(), place + indent);
            let comment = physical.starts_with('#').then(|| after_first(whole));
            if self.directive(physical, place)? {
                continue;
            }
            match comment {
                Some(comment) => self.comment(comment.trim()),
                None if physical.is_empty() => {}
                None => return Ok(Some(self.logical(physical, place))),
            }
        }
        Ok(None)
    }

    /// Reads the body of a here-document, its last line included.
    pub(super) fn body(&mut self, mut heredoc: Heredoc, operator: Span) -> Result<Heredoc, Fault> {
        loop {
            let start = self.position;
            if self.physical().is_none() {
                let message = format!("unterminated heredoc: no line `{}` follows", heredoc.name);
                return Err(Fault::new(operator, message));
            }
            let line = &self.text[start..self.position];
            if heredoc.ends_at(line) {
                return Ok(heredoc);
            }
            heredoc.content.push_str(line);
        }
    }

    /// The next line without its line ending, and its place.
    fn physical(&mut self) -> Option<(&'a str, usize)> {
        let place = self.position;
        let line = self.text[place..].split_inclusive('\n').next()?;
        self.position += line.len();
        self.line += 1;
        Some((line.trim_end_matches(['\r', '\n']), place))
    }

    fn logical(&mut self, first: &str, place: usize) -> Logical {
        let comments = std::mem::take(&mut self.comments);
        let mut logical = Logical { line: self.line, comments, ..Logical::default() };
        let (part, mut continued) = without_continuation(first, self.escape());
        logical.push(part, place);
        let mut blank: Option<Blank> = None;
        while continued {
            let Some((line, place)) = self.physical() else { break };
            let content = line.trim_start();
            let span = Span { start: place, end: place + line.len() };
            match &mut blank {
                _ if content.is_empty() => blank = Some(Blank { empty: span, last: span }),
                Some(blank) => blank.last = span,
                None => {}
            }
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let part;
            (part, continued) = without_continuation(line, self.escape());
            logical.push(part, place);
        }
        self.blank.extend(blank);
        logical
    }

    fn comment(&mut self, comment: &str) {
        if comment.is_empty() {
            self.comments.clear();
        } else {
            self.comments.push(comment.to_owned());
        }
    }

    /// Takes a line that is a directive; the first line that is none ends them.
    fn directive(&mut self, line: &str, place: usize) -> Result<bool, Fault> {
        if self.directives_over {
            return Ok(false);
        }
        let body = line.strip_prefix('#').map(str::trim_start).unwrap_or_default();
        let known = DIRECTIVE.captures(body).map(|found| {
            let (_, [key, value]) = found.extract();
            self.assign(&key.to_lowercase(), value)
        });
        let span = Span { start: place, end: place + line.trim_end().len() };
        match known {
            Some(Ok(true)) => Ok(true),
            Some(Err(message)) => Err(Fault::new(span, message)),
            Some(Ok(false)) | None => {
                self.directives_over = true;
                Ok(false)
            }
        }
    }

    fn assign(&mut self, key: &str, value: &str) -> Result<bool, String> {
        let directives = &mut self.directives;
        let twice = match key {
            "syntax" => directives.syntax.replace(value.to_owned()).is_some(),
            "check" => std::mem::replace(&mut self.has_check, true),
            "escape" => directives.escape.replace(escape(value)?).is_some(),
            _ => return Ok(false),
        };
        if twice {
            return Err(format!("only one {key} parser directive can be used"));
        }
        Ok(true)
    }
}

fn after_first(mut chars: std::str::Chars<'_>) -> &str {
    chars.next();
    chars.as_str()
}

/// The options of the checks: unlike other directives they may follow a `#!`, and are not indented, nor is
/// any before them.
fn checks(text: &str) -> Option<String> {
    let mut lines = text.lines().skip(usize::from(text.starts_with("#!")));
    loop {
        let line = lines.next()?.strip_prefix('#')?.trim_start();
        let (_, [key, value]) = DIRECTIVE.captures(line)?.extract();
        match key.to_lowercase().as_str() {
            "check" => return Some(value.to_owned()),
            "syntax" | "escape" => {}
            _ => return None,
        }
    }
}

fn escape(value: &str) -> Result<char, String> {
    match value {
        "\\" => Ok('\\'),
        "`" => Ok('`'),
        _ => Err(format!("invalid escape token `{value}`: it must be ` or \\")),
    }
}

/// A line goes on where its last character is the escape character, alone or not after another one.
fn without_continuation(line: &str, escape: char) -> (&str, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, true),
        Some(_) | None => (line, false),
    }
}

/// Whether a line goes on in the next one.
pub(super) fn continues(line: &str, escape: char) -> bool {
    without_continuation(line, escape).1
}

/// A part of a logical line.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    line: &'a Logical,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl<'a> Part<'a> {
    pub(super) fn all(line: &'a Logical) -> Self {
        Self { line, start: 0, end: line.text.len() }.trim()
    }

    pub(super) fn text(self) -> &'a str {
        &self.line.text[self.start..self.end]
    }

    pub(super) fn span(self) -> Span {
        self.line.span(self.start, self.end)
    }

    pub(super) fn word(self) -> words::Word {
        words::Word { text: self.text().to_owned(), span: self.span() }
    }

    /// Bytes from and to, counted from the beginning of this part.
    pub(super) fn slice(self, from: usize, to: usize) -> Self {
        Self { start: self.start + from, end: self.start + to, ..self }
    }

    pub(super) fn trim(self) -> Self {
        let from = self.text().len() - self.text().trim_start().len();
        self.slice(from, self.text().trim_end().len().max(from))
    }

    /// Splits at the first run of blanks; the second part begins after it.
    pub(super) fn split_blank(self) -> (Self, Option<Self>) {
        let text = self.text();
        let Some(end) = text.find(BLANKS) else {
            return (self, None);
        };
        let rest = text[end..].trim_start_matches(BLANKS);
        (self.slice(0, end), Some(self.slice(text.len() - rest.len(), text.len())))
    }
}

/// What separates words on one line.
const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];
