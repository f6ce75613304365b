//! One logical line, taken apart: keyword, flags, arguments.
//!
//! Each keyword has its own way to split its arguments; whether they make sense is decided later.

use super::heredoc::{self, Heredoc};
use super::instruction::{Pair, Pairs};
use super::lines::{Lines, Logical, Part};
use super::span::{Fault, Span};
use super::words::Word;

/// An instruction before it is checked.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// As typed.
    pub(super) keyword: Word,
    /// Quotes and escapes removed.
    pub(super) flags: Vec<Word>,
    pub(super) args: Args,
    pub(super) heredocs: Vec<Heredoc>,
    /// The text from the keyword on, as one line.
    pub(super) text: String,
    pub(super) span: Span,
    /// The escape character of the file.
    pub(super) escape: char,
}

#[derive(Clone, Debug)]
pub(super) enum Args {
    Words {
        words: Vec<Word>,
        json: bool,
    },
    Pairs(Pairs),
    /// What `ONBUILD` holds.
    Nested(Option<Box<Node>>),
}

impl Args {
    fn words(words: Vec<Word>) -> Self {
        Self::Words { words, json: false }
    }

    fn one(part: Part<'_>) -> Self {
        Self::words(if part.text().is_empty() { Vec::new() } else { vec![part.word()] })
    }
}

impl Node {
    /// Reads one logical line and the here-documents that belong to it.
    pub(super) fn read(line: &Logical, lines: &mut Lines<'_>) -> Result<Self, Fault> {
        let mut node = Self::parse(Part::all(line), lines.escape())?;
        if node.takes_heredocs() && line.text.contains("<<") {
            let operators = heredoc::operators(&line.text);
            for operator in operators.map_err(|e| Fault::new(node.span, e.to_string()))? {
                let body = lines.body(operator, node.span)?;
                node.heredocs.push(body);
            }
        }
        Ok(node)
    }

    fn parse(part: Part<'_>, escape: char) -> Result<Self, Fault> {
        let (keyword, rest) = part.split_blank();
        let rest = rest.unwrap_or(part.slice(part.text().len(), part.text().len()));
        let (flags, rest) = flags(rest, escape);
        Ok(Self {
            args: arguments(keyword.text(), rest.trim(), escape)?,
            keyword: keyword.word(),
            flags,
            heredocs: Vec::new(),
            text: part.text().to_owned(),
            span: part.span(),
            escape,
        })
    }

    /// What `ONBUILD` holds. A second `ONBUILD` is refused later and need not be taken apart.
    fn nested(part: Part<'_>, escape: char) -> Result<Self, Fault> {
        let (keyword, _) = part.split_blank();
        if keyword.text().eq_ignore_ascii_case("onbuild") {
            return Self::parse(keyword, escape);
        }
        Self::parse(part, escape)
    }

    fn takes_heredocs(&self) -> bool {
        match (self.keyword.text.to_lowercase().as_str(), &self.args) {
            ("onbuild", Args::Nested(Some(nested))) => nested.takes_heredocs(),
            ("run" | "copy" | "add", Args::Words { json, .. }) => !json,
            _ => false,
        }
    }
}

fn arguments(keyword: &str, rest: Part<'_>, escape: char) -> Result<Args, Fault> {
    Ok(match keyword.to_lowercase().as_str() {
        "add" | "copy" | "volume" => match json_array(rest)? {
            Some(words) => Args::Words { words, json: true },
            None => Args::words(separated(rest)),
        },
        "cmd" | "entrypoint" | "run" | "shell" => json_or_text(rest)?,
        "env" | "label" => pairs(keyword, rest, escape)?,
        "expose" | "from" => Args::words(separated(rest)),
        "arg" => Args::words(quoted_words(rest, escape)),
        "maintainer" | "stopsignal" | "user" | "workdir" => Args::one(rest),
        "healthcheck" => health(rest)?,
        "onbuild" if rest.text().is_empty() => Args::Nested(None),
        "onbuild" => Args::Nested(Some(Box::new(Node::nested(rest, escape)?))),
        _ => Args::words(Vec::new()),
    })
}

fn separated(rest: Part<'_>) -> Vec<Word> {
    let mut words = Vec::new();
    let mut next = Some(rest).filter(|rest| !rest.text().is_empty());
    while let Some(part) = next {
        let (word, after) = part.split_blank();
        words.push(word.word());
        next = after;
    }
    words
}

fn json_or_text(rest: Part<'_>) -> Result<Args, Fault> {
    Ok(match json_array(rest)? {
        Some(words) => Args::Words { words, json: true },
        None => Args::one(rest),
    })
}

/// A JSON array of strings. Text that is no JSON at all is left to other readings, an array with
/// something else in it is an error.
fn json_array(rest: Part<'_>) -> Result<Option<Vec<Word>>, Fault> {
    if !rest.text().starts_with('[') {
        return Ok(None);
    }
    let Ok(items) = serde_json::from_str::<Vec<serde_json::Value>>(rest.text()) else {
        return Ok(None);
    };
    let words = items.into_iter().map(|item| match item {
        serde_json::Value::String(text) => Some(Word { text, span: rest.span() }),
        _ => None,
    });
    let message = "when using JSON array syntax, arrays must be comprised of strings only";
    let words: Option<Vec<Word>> = words.collect();
    words.map(Some).ok_or_else(|| Fault::new(rest.span(), message.to_owned()))
}

fn health(rest: Part<'_>) -> Result<Args, Fault> {
    let text = rest.text();
    let end = text.find(char::is_whitespace).unwrap_or(text.len());
    if end == 0 {
        return Ok(Args::words(Vec::new()));
    }
    let kind = rest.slice(0, end).word();
    Ok(match json_or_text(rest.slice(end, text.len()).trim())? {
        Args::Words { mut words, json } => {
            words.insert(0, kind);
            Args::Words { words, json }
        }
        other @ (Args::Pairs(_) | Args::Nested(_)) => other,
    })
}

/// `k=v …`, or in the old form one key and the rest of the line. Which it is, the first word tells.
fn pairs(keyword: &str, rest: Part<'_>, escape: char) -> Result<Args, Fault> {
    let words = quoted_words(rest, escape);
    let legacy = words.first().is_some_and(|word| !word.text.contains('='));
    if !legacy {
        let items = words.iter().map(pair).collect::<Result<_, _>>()?;
        return Ok(Args::Pairs(Pairs { items, legacy }));
    }
    let (key, Some(value)) = rest.split_blank() else {
        let message = format!("{} must have two arguments", keyword.to_uppercase());
        return Err(Fault::new(rest.span(), message));
    };
    let items = vec![Pair { key: key.word(), value: value.word() }];
    Ok(Args::Pairs(Pairs { items, legacy }))
}

fn pair(word: &Word) -> Result<Pair, Fault> {
    match split_word(word, '=') {
        Some((key, value)) => Ok(Pair { key, value }),
        None => {
            let message = format!("cannot find = in `{}`, it must be name=value", word.text);
            Err(Fault::new(word.span, message))
        }
    }
}

/// Splits at a character. The places are exact where the word stands in the source as it is.
pub(super) fn split_word(word: &Word, at: char) -> Option<(Word, Word)> {
    let (left, right) = word.text.split_once(at)?;
    let Span { start, end } = word.span;
    let exact = end - start == word.text.len();
    let (to, from) = if exact { (start + left.len(), end - right.len()) } else { (end, start) };
    let left = Word { text: left.to_owned(), span: Span { start, end: to } };
    let right = Word { text: right.to_owned(), span: Span { start: from, end } };
    Some((left, right))
}

/// Words that may hold quoted blanks; quotes and escapes stay in them.
fn quoted_words(rest: Part<'_>, escape: char) -> Vec<Word> {
    let text = rest.text();
    let mut words = Vec::new();
    let mut position = skip_blanks(text, 0);
    while position < text.len() {
        let (word, end) = quoted_word(text, position, escape);
        if !word.is_empty() {
            let part = rest.slice(position, end);
            words.push(Word { text: word, span: part.span() });
        }
        position = skip_blanks(text, end);
    }
    words
}

fn skip_blanks(text: &str, from: usize) -> usize {
    text.len() - text[from..].trim_start().len()
}

/// One word and where it ends. An escape character at the very end is dropped.
fn quoted_word(text: &str, from: usize, escape: char) -> (String, usize) {
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text[from..].char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            return (word, from + at);
        }
        if c == escape && quote != Some('\'') {
            if let Some((_, escaped)) = chars.next() {
                word.extend([c, escaped]);
            }
            continue;
        }
        quote = next_quote(quote, c);
        word.push(c);
    }
    (word, text.len())
}

fn next_quote(open: Option<char>, c: char) -> Option<char> {
    match open {
        Some(quote) if quote == c => None,
        None if matches!(c, '\'' | '"') => Some(c),
        open => open,
    }
}

/// The words at the beginning that start with `--`, and what follows them. A bare `--` ends them.
fn flags(rest: Part<'_>, escape: char) -> (Vec<Word>, Part<'_>) {
    let text = rest.text();
    let mut flags = Vec::new();
    let mut position = skip_blanks(text, 0);
    while text[position..].starts_with("--") {
        let (flag, end) = flag(text, position, escape);
        let after = rest.slice(end, text.len());
        if flag == "--" {
            return (flags, after);
        }
        flags.push(Word { text: flag, span: rest.slice(position, end).span() });
        position = skip_blanks(text, end);
    }
    (flags, rest.slice(position, text.len()))
}

/// One flag without quotes and escapes, and where it ends.
fn flag(text: &str, from: usize, escape: char) -> (String, usize) {
    let mut flag = String::new();
    let mut quote = None;
    let mut chars = text[from..].char_indices();
    while let Some((at, c)) = chars.next() {
        if quote.is_none() && c.is_whitespace() {
            return (flag, from + at);
        }
        let next = next_quote(quote, c);
        if next != quote {
            quote = next;
        } else if c == escape {
            flag.extend(chars.next().map(|(_, escaped)| escaped));
        } else {
            flag.push(c);
        }
    }
    (flag, text.len())
}
