//! The wildcard patterns of `${x#…}`, `${x%…}` and `${x/…/…}`.
//!
//! `*` is any text of one line, `?` any character of it; brackets mean nothing. A backslash may stand
//! before `*`, `?`, itself, and the characters that would end the substitution.

use regex::Regex;

/// Why a pattern is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid pattern `{pattern}`: {reason}")]
pub struct BadShellPattern {
    pattern: String,
    reason: String,
}

/// How much a `*` takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    Shortest,
    Longest,
}

pub(super) fn without_prefix(
    value: &str,
    pattern: &str,
    reach: Reach,
) -> Result<String, BadShellPattern> {
    let regex = compile(pattern, reach, "^")?;
    let end = regex.find(value).map_or(0, |found| found.end());
    Ok(value[end..].to_owned())
}

/// A regex finds the leftmost match, not the shortest on the right: both sides are turned around.
pub(super) fn without_suffix(
    value: &str,
    pattern: &str,
    reach: Reach,
) -> Result<String, BadShellPattern> {
    let trimmed = without_prefix(&reversed(value), &reversed_pattern(pattern), reach)?;
    Ok(reversed(&trimmed))
}

/// Replaces the first match or all of them; `$1` and `${1}` in the replacement stand for nothing where
/// all are replaced, as in the reference.
pub(super) fn replaced(
    value: &str,
    pattern: &str,
    with: &str,
    all: bool,
) -> Result<String, BadShellPattern> {
    let regex = compile(pattern, Reach::Longest, "")?;
    if all {
        return Ok(regex.replace_all(value, with).into_owned());
    }
    Ok(regex.replace(value, regex::NoExpand(with)).into_owned())
}

fn compile(pattern: &str, reach: Reach, anchor: &str) -> Result<Regex, BadShellPattern> {
    let bad = |reason: String| BadShellPattern { pattern: pattern.to_owned(), reason };
    let mut regex = anchor.to_owned();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => regex.push_str(if reach == Reach::Longest { ".*" } else { ".*?" }),
            '?' => regex.push('.'),
            '\\' if matches!(chars.peek(), Some('}' | '/')) => {}
            '\\' => match chars.next() {
                Some(c @ ('*' | '?' | '\\')) => regex.extend(['\\', c]),
                Some(c) => return Err(bad(format!("invalid escape `\\{c}`"))),
                None => return Err(bad("it ends in an escape".to_owned())),
            },
            c => regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    Regex::new(&regex).map_err(|e| bad(e.to_string()))
}

fn reversed(text: &str) -> String {
    text.chars().rev().collect()
}

/// Turned around, but each escape stays before its character.
fn reversed_pattern(pattern: &str) -> String {
    let mut units: Vec<String> = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        let escaped = if c == '\\' { chars.next() } else { None };
        units.push(std::iter::once(c).chain(escaped).collect());
    }
    units.into_iter().rev().collect()
}
