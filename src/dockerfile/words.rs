//! Words of a Dockerfile and the variables in them.
//!
//! The rules are those of the reference's lexer, which resembles a shell's without being one: `$x` and
//! `${x}` with the modifiers `-`, `+`, `?` (each also with a colon), `#`, `##`, `%`, `%%`, `/` and `//`;
//! single quotes keep everything, double quotes keep all but variables and escapes. A value put in for
//! a variable is never read again.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::LazyLock;

use regex::Regex;

use super::pattern::{self, BadShellPattern, Reach};
use super::span::Span;

/// How deep substitutions may be nested.
const DEPTH: usize = 100;

static LETTER: LazyLock<Regex> = LazyLock::new(|| class(r"^\p{L}"));
static DIGIT: LazyLock<Regex> = LazyLock::new(|| class(r"^\p{Nd}"));

fn class(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the pattern is a constant")
}

/// Text as it was written, not yet expanded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// Quotes, escapes and variables included.
    pub text: String,
    /// Where it was written.
    pub span: Span,
}

impl Word {
    /// The word as one value: variables replaced, quotes and escapes taken away.
    ///
    /// # Errors
    /// The word is malformed, or demands a variable (`${x:?}`) that is missing.
    pub fn expand(&self, vars: &impl Variables, escape: char) -> Result<String, ExpandError> {
        Ok(self.expand_reporting(vars, escape)?.text)
    }

    /// Like [`Word::expand`], and tells which variables it looked up.
    ///
    /// # Errors
    /// As [`Word::expand`].
    pub fn expand_reporting(
        &self,
        vars: &impl Variables,
        escape: char,
    ) -> Result<Expanded, ExpandError> {
        Lexer::new(escape).word(&self.text, vars)
    }

    /// The word as a list: unquoted blanks in it, and in the values of its variables, separate.
    ///
    /// # Errors
    /// As [`Word::expand`].
    pub fn expand_list(
        &self,
        vars: &impl Variables,
        escape: char,
    ) -> Result<Vec<String>, ExpandError> {
        Lexer::new(escape).list(&self.text, vars)
    }
}

/// Replaces the variables in the body of a here-document; quotes are ordinary characters there, and the
/// escape character is the backslash whatever the directive says.
///
/// # Errors
/// As [`Word::expand`].
pub fn expand_body(text: &str, vars: &impl Variables) -> Result<Expanded, ExpandError> {
    Lexer { quotes: Quotes::Ordinary, ..Lexer::new('\\') }.word(text, vars)
}

/// What a word became.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The value.
    pub text: String,
    /// Variables that were looked up and found.
    pub used: BTreeSet<String>,
    /// Variables that were looked up and not found.
    pub unset: BTreeSet<String>,
}

/// Where values come from.
pub trait Variables {
    /// The value of a variable, `None` where it is not set.
    fn value(&self, name: &str) -> Option<Cow<'_, str>>;
}

/// No variables at all.
impl Variables for () {
    fn value(&self, _name: &str) -> Option<Cow<'_, str>> {
        None
    }
}

impl Variables for HashMap<String, String> {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).map(|value| Cow::Borrowed(value.as_str()))
    }
}

impl Variables for BTreeMap<String, String> {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).map(|value| Cow::Borrowed(value.as_str()))
    }
}

/// Names and values in order; the last one of a name counts.
impl Variables for [(String, String)] {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        let found = self.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| Cow::Borrowed(value.as_str()))
    }
}

impl Variables for Vec<(String, String)> {
    fn value(&self, name: &str) -> Option<Cow<'_, str>> {
        self.as_slice().value(name)
    }
}

/// Why a word cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// A quote without its partner.
    #[error("missing closing {0} quote in `{1}`")]
    OpenQuote(&'static str, String),
    /// `${x` without its end.
    #[error("missing `{0}` in the substitution in `{1}`")]
    OpenSubstitution(char, String),
    /// `${}`, `${:x}` or `${{x}`.
    #[error("bad substitution in `{0}`")]
    BadSubstitution(String),
    /// A modifier that does not exist.
    #[error("unsupported modifier `{0}` in the substitution in `{1}`")]
    UnsupportedModifier(String, String),
    /// `${x?}` or `${x:?}` and there is no value.
    #[error("{name}: {message}")]
    Required {
        /// The variable.
        name: String,
        /// The message of the Dockerfile, or which rule was broken.
        message: String,
    },
    /// Substitutions in substitutions, beyond what anyone writes and the stack could hold.
    #[error("substitutions are nested more than {DEPTH} deep")]
    TooDeep,
    /// The pattern of `#`, `%` or `/`.
    #[error("{0} in the substitution in `{1}`")]
    Pattern(BadShellPattern, String),
}

/// What becomes of a variable that is not set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unset {
    Empty,
    Keep,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Remove,
    Keep,
    Ordinary,
}

/// How to read text; the variants of the reference's lexer.
#[derive(Clone, Copy)]
pub(super) struct Lexer {
    escape: char,
    quotes: Quotes,
    raw_escapes: bool,
    unset: Unset,
}

impl Lexer {
    pub(super) fn new(escape: char) -> Self {
        Self { escape, quotes: Quotes::Remove, raw_escapes: false, unset: Unset::Empty }
    }

    pub(super) fn unset(self, unset: Unset) -> Self {
        Self { unset, ..self }
    }

    pub(super) fn raw_quotes(self) -> Self {
        Self { quotes: Quotes::Keep, ..self }
    }

    pub(super) fn raw_escapes(self) -> Self {
        Self { raw_escapes: true, ..self }
    }

    fn word(self, text: &str, vars: &dyn Variables) -> Result<Expanded, ExpandError> {
        let mut scan = Scan::new(self, text, vars);
        let text = scan.until(None, self.raw_escapes)?.text;
        Ok(Expanded { text, used: scan.used, unset: scan.unset })
    }

    pub(super) fn list(self, text: &str, vars: &dyn Variables) -> Result<Vec<String>, ExpandError> {
        let mut scan = Scan::new(self, text, vars);
        Ok(scan.until(None, self.raw_escapes)?.finish())
    }
}

/// What was read: as one value, and split at blanks.
#[derive(Default)]
struct Output {
    text: String,
    words: Vec<String>,
    word: String,
}

impl Output {
    /// Characters that blanks do not separate.
    fn push_raw(&mut self, text: &str) {
        self.text.push_str(text);
        self.word.push_str(text);
    }

    fn push(&mut self, text: &str) {
        self.text.push_str(text);
        for c in text.chars() {
            if c.is_whitespace() {
                self.end_word();
            } else {
                self.word.push(c);
            }
        }
    }

    fn end_word(&mut self) {
        if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn finish(mut self) -> Vec<String> {
        self.end_word();
        self.words
    }
}

struct Scan<'a> {
    lexer: Lexer,
    vars: &'a dyn Variables,
    source: &'a str,
    rest: &'a str,
    raw_escapes: bool,
    depth: usize,
    used: BTreeSet<String>,
    unset: BTreeSet<String>,
}

impl<'a> Scan<'a> {
    fn new(lexer: Lexer, source: &'a str, vars: &'a dyn Variables) -> Self {
        let (used, unset) = (BTreeSet::new(), BTreeSet::new());
        let (rest, raw_escapes) = (source, lexer.raw_escapes);
        Self { lexer, vars, source, rest, raw_escapes, depth: 0, used, unset }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.next();
        }
        found
    }

    /// Reads up to a character, which is taken too, or to the end.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<Output, ExpandError> {
        if self.depth > DEPTH {
            return Err(ExpandError::TooDeep);
        }
        let outer = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        self.depth += 1;
        let output = self.read_until(stop);
        self.depth -= 1;
        self.raw_escapes = outer;
        output
    }

    fn read_until(&mut self, stop: Option<char>) -> Result<Output, ExpandError> {
        let mut out = Output::default();
        while let Some(c) = self.peek() {
            if stop == Some(c) {
                self.next();
                return Ok(out);
            }
            self.piece(c, &mut out)?;
        }
        match stop {
            None => Ok(out),
            Some(stop) => Err(ExpandError::OpenSubstitution(stop, self.source.to_owned())),
        }
    }

    fn piece(&mut self, c: char, out: &mut Output) -> Result<(), ExpandError> {
        let quoting = self.lexer.quotes != Quotes::Ordinary;
        match c {
            '$' => out.push(&self.dollar()?),
            '<' => out.push_raw(&self.less_than()),
            '\'' if quoting => out.push_raw(&self.single_quoted()?),
            '"' if quoting => out.push_raw(&self.double_quoted()?),
            c if c == self.lexer.escape => self.escaped(out),
            c => {
                self.next();
                out.push(c.encode_utf8(&mut [0; 4]));
            }
        }
        Ok(())
    }

    fn escaped(&mut self, out: &mut Output) {
        let escape = self.next();
        let kept = if self.raw_escapes { escape } else { None };
        for c in kept.into_iter().chain(self.next()) {
            out.push_raw(c.encode_utf8(&mut [0; 4]));
        }
    }

    /// `<<` and the blanks after it stay one word with what follows.
    fn less_than(&mut self) -> String {
        self.next();
        if !self.take('<') {
            return "<".to_owned();
        }
        let rest = self.rest.trim_start_matches(['\t', '\r', ' ']);
        let blanks = &self.rest[..self.rest.len() - rest.len()];
        self.rest = rest;
        format!("<<{blanks}")
    }

    fn quote(&mut self) -> String {
        let quote = self.next();
        let kept = if self.lexer.quotes == Quotes::Keep { quote } else { None };
        kept.into_iter().collect()
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let mut text = self.quote();
        let Some(end) = self.rest.find('\'') else {
            return Err(ExpandError::OpenQuote("single", self.source.to_owned()));
        };
        text.push_str(&self.rest[..end]);
        self.rest = &self.rest[end..];
        text.push_str(&self.quote());
        Ok(text)
    }

    fn double_quoted(&mut self) -> Result<String, ExpandError> {
        let mut text = self.quote();
        loop {
            match self.peek() {
                None => return Err(ExpandError::OpenQuote("double", self.source.to_owned())),
                Some('"') => {
                    text.push_str(&self.quote());
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(c) if c == self.lexer.escape => self.escaped_in_quotes(&mut text),
                Some(c) => {
                    self.next();
                    text.push(c);
                }
            }
        }
    }

    /// Between double quotes only `"`, `$` and the escape character itself can be escaped.
    fn escaped_in_quotes(&mut self, text: &mut String) {
        let escape = self.next();
        if self.raw_escapes {
            text.extend(escape);
        }
        match self.peek() {
            None => {}
            Some(c) if ['"', '$', self.lexer.escape].contains(&c) => text.extend(self.next()),
            Some(_) => text.extend(escape),
        }
    }

    fn dollar(&mut self) -> Result<String, ExpandError> {
        self.next();
        if self.take('{') {
            return self.substitution();
        }
        let name = self.name();
        if name.is_empty() {
            return Ok("$".to_owned());
        }
        Ok(match self.look_up(name) {
            None if self.keeps_unset() => format!("${name}"),
            value => value.unwrap_or_default(),
        })
    }

    fn substitution(&mut self) -> Result<String, ExpandError> {
        match self.peek() {
            None => return Err(self.open('}')),
            Some('{' | '}' | ':') => {
                return Err(ExpandError::BadSubstitution(self.source.to_owned()));
            }
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => Ok(match self.look_up(name) {
                None if self.keeps_unset() => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some(':') => match self.next() {
                Some(c @ ('-' | '+' | '?')) => self.default(name, c, true),
                c => Err(self.unsupported(":", c)),
            },
            Some(c @ ('-' | '+' | '?')) => self.default(name, c, false),
            Some(c @ ('#' | '%')) => self.trim(name, c),
            Some('/') => self.replace(name),
            c => Err(self.unsupported("", c)),
        }
    }

    /// `-`, `+` and `?`; after a colon an empty value counts as none.
    fn default(&mut self, name: &str, kind: char, colon: bool) -> Result<String, ExpandError> {
        let word = self.until(Some('}'), false)?.text;
        let value = self.look_up(name);
        if value.is_none() && self.keeps_unset() {
            let colon = if colon { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{kind}{word}}}"));
        }
        let unset = value.is_none();
        let value = value.filter(|value| !(colon && value.is_empty()));
        Ok(match (kind, value) {
            ('+', Some(_)) | ('-', None) => word,
            ('+', None) => String::new(),
            (_, Some(value)) => value,
            (_, None) => return Err(required(name, word, unset)),
        })
    }

    fn trim(&mut self, name: &str, kind: char) -> Result<String, ExpandError> {
        let word = self.until(Some('}'), true)?.text;
        let value = self.look_up(name);
        if value.is_none() && self.keeps_unset() {
            return Ok(format!("${{{name}{kind}{word}}}"));
        }
        let value = value.unwrap_or_default();
        let (reach, shape) = match word.strip_prefix(kind) {
            Some(shape) => (Reach::Longest, shape),
            None => (Reach::Shortest, word.as_str()),
        };
        let trimmed = match kind {
            '#' => pattern::without_prefix(&value, shape, reach),
            _ => pattern::without_suffix(&value, shape, reach),
        };
        trimmed.map_err(|e| ExpandError::Pattern(e, self.source.to_owned()))
    }

    fn replace(&mut self, name: &str) -> Result<String, ExpandError> {
        let all = self.take('/');
        let shape = self.until(Some('/'), true)?.text;
        let with = self.until(Some('}'), true)?.text;
        let value = self.look_up(name);
        if value.is_none() && self.keeps_unset() {
            return Ok(format!("${{{name}/{shape}/{with}}}"));
        }
        let value = value.unwrap_or_default();
        pattern::replaced(&value, &shape, &with, all)
            .map_err(|e| ExpandError::Pattern(e, self.source.to_owned()))
    }

    /// A name, a number, or one of the special parameters; perhaps empty.
    fn name(&mut self) -> &'a str {
        let rest = self.rest;
        let length = match self.peek() {
            Some(c) if is_digit(c) => run(rest, is_digit),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => 1,
            _ => run(rest, |c| c == '_' || is_letter(c) || is_digit(c)),
        };
        let (name, rest) = rest.split_at(length);
        self.rest = rest;
        name
    }

    fn look_up(&mut self, name: &str) -> Option<String> {
        let value = self.vars.value(name).map(Cow::into_owned);
        let seen = if value.is_some() { &mut self.used } else { &mut self.unset };
        seen.insert(name.to_owned());
        value
    }

    fn keeps_unset(&self) -> bool {
        self.lexer.unset == Unset::Keep
    }

    fn open(&self, missing: char) -> ExpandError {
        ExpandError::OpenSubstitution(missing, self.source.to_owned())
    }

    fn unsupported(&self, colon: &str, modifier: Option<char>) -> ExpandError {
        match modifier {
            None => self.open('}'),
            Some(c) => {
                ExpandError::UnsupportedModifier(format!("{colon}{c}"), self.source.to_owned())
            }
        }
    }
}

fn required(name: &str, message: String, unset: bool) -> ExpandError {
    let rule = if unset { "is not allowed to be unset" } else { "is not allowed to be empty" };
    let message = if message.is_empty() { rule.to_owned() } else { message };
    ExpandError::Required { name: name.to_owned(), message }
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || !c.is_ascii() && LETTER.is_match(c.encode_utf8(&mut [0; 4]))
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit() || !c.is_ascii() && DIGIT.is_match(c.encode_utf8(&mut [0; 4]))
}
