//! `.dockerignore`: which files of the context do not exist for a build.
//!
//! The rules are those of moby's matcher, exactly. Each line is a pattern for paths from the root of the
//! context; the last pattern that matches a path *or one of its parents* decides, and `!` makes it an
//! exception. So a file below an excluded directory can come back, and a walk has to look there; see
//! [`Ignore::may_hold_kept`].

use std::borrow::Cow;
use std::iter::Peekable;
use std::str::Chars;

use regex::Regex;

use super::glob::{BadPattern, glob_match};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A pattern that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// A line with nothing after `!`.
    #[error("illegal exclusion pattern: \"!\"")]
    LoneMark,
    /// A malformed class, range or escape.
    #[error("syntax error in pattern `{0}`")]
    Syntax(String),
}

/// The patterns of a `.dockerignore`, or of `--exclude`, in their order.
#[derive(Clone, Debug, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
}

impl Ignore {
    /// Reads the text of a `.dockerignore`.
    ///
    /// # Errors
    /// A line is no pattern.
    pub fn parse(text: &[u8]) -> Result<Self, IgnoreError> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"#"));
        Self::new(lines.filter_map(normal_line))
    }

    /// Takes patterns as they are, for instance those of `--exclude`.
    ///
    /// # Errors
    /// One of them is no pattern.
    pub fn new<P: AsRef<[u8]>>(patterns: impl IntoIterator<Item = P>) -> Result<Self, IgnoreError> {
        let mut rules = Vec::new();
        for pattern in patterns {
            let pattern = trim(pattern.as_ref());
            if !pattern.is_empty() {
                rules.push(Rule::new(pattern)?);
            }
        }
        Ok(Self { rules })
    }

    /// Whether a path does not exist for the build. The path is relative to the context, with `/` between
    /// its parts and none around them.
    #[must_use]
    pub fn matches(&self, path: &[u8]) -> bool {
        let path = clean(path);
        path != b"." && self.decide(|rule| rule.matches_any(&path))
    }

    /// Whether anything below an excluded directory can be kept: a walk need not enter it otherwise.
    /// Errs on the side of looking.
    #[must_use]
    pub fn may_hold_kept(&self, directory: &[u8]) -> bool {
        let directory = clean(directory);
        self.rules.iter().any(|rule| rule.exception && rule.may_match_below(&directory))
    }

    /// Whether a pattern may match something below a directory that it does not match itself. Errs on
    /// the side of looking.
    #[must_use]
    pub fn may_match_below(&self, directory: &[u8]) -> bool {
        let directory = clean(directory);
        self.rules.iter().any(|rule| !rule.exception && rule.may_match_below(&directory))
    }

    /// Whether anything is taken back by `!`.
    #[must_use]
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.exception)
    }

    /// Whether a pattern is for everything there is.
    #[must_use]
    pub fn covers_root(&self) -> bool {
        self.rules
            .iter()
            .any(|rule| !rule.exception && rule.matches_any(b"any") && rule.fixed.is_empty())
    }

    /// The last rule that says anything wins.
    fn decide(&self, hit: impl Fn(&Rule) -> bool) -> bool {
        self.rules.iter().fold(false, |ignored, rule| {
            // A rule that would say what is already so need not be asked.
            if rule.exception == ignored && hit(rule) { !rule.exception } else { ignored }
        })
    }
}

#[derive(Clone, Debug)]
struct Rule {
    exception: bool,
    shape: Shape,
    /// What every match begins with, up to the first wildcard.
    fixed: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Shape {
    Exact(Vec<u8>),
    /// `x**`: anything that begins with it.
    Prefix(Vec<u8>),
    /// `**x`: anything that ends in it.
    Suffix(Vec<u8>),
    Pattern(Regex),
}

impl Rule {
    fn new(pattern: &[u8]) -> Result<Self, IgnoreError> {
        let pattern = clean(pattern);
        let (exception, pattern) = match pattern.strip_prefix(b"!") {
            Some([]) => return Err(IgnoreError::LoneMark),
            Some(rest) => (true, rest),
            None => (false, pattern.as_slice()),
        };
        let bad = || IgnoreError::Syntax(String::from_utf8_lossy(pattern).into_owned());
        glob_match(pattern, b".").map_err(|BadPattern| bad())?;
        // A `^` is no literal either once the pattern is a regex, an oddity of the reference.
        let special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b'\\' | b'^');
        let wildcard = pattern.iter().position(special);
        let fixed = pattern[..wildcard.unwrap_or(pattern.len())].to_vec();
        Ok(Self { exception, shape: Shape::new(pattern).ok_or_else(bad)?, fixed })
    }

    /// The path itself, or one of the directories above it.
    fn matches_any(&self, path: &[u8]) -> bool {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        self.shape.matches(path)
            || slashes.into_iter().any(|(at, _)| self.shape.matches(&path[..at]))
    }

    fn may_match_below(&self, directory: &[u8]) -> bool {
        let common = self.fixed.len().min(directory.len() + 1);
        let inside: Vec<u8> = directory.iter().copied().chain([b'/']).collect();
        self.fixed[..common] == inside[..common] || self.matches_any(directory)
    }
}

impl Shape {
    fn new(pattern: &[u8]) -> Option<Self> {
        let text = decoded(pattern);
        let (kind, regex) = translate(&text);
        Some(match kind {
            Kind::Exact => Self::Exact(pattern.to_vec()),
            Kind::Prefix => Self::Prefix(pattern[..pattern.len() - 2].to_vec()),
            Kind::Suffix => Self::Suffix(pattern[2..].to_vec()),
            Kind::Regex => Self::Pattern(Regex::new(&regex).ok()?),
        })
    }

    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path.starts_with(prefix),
            Self::Suffix(suffix) => {
                path.ends_with(suffix) || suffix.strip_prefix(b"/").is_some_and(|rest| path == rest)
            }
            Self::Pattern(regex) => regex.is_match(&decoded(path)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Exact,
    Prefix,
    Suffix,
    Regex,
}

/// Bytes as characters; each byte that is part of none becomes U+FFFD, so that `?` can stand for it.
fn decoded(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let chunks = bytes.utf8_chunks();
    let chunks =
        chunks.map(|chunk| chunk.valid().to_owned() + &"\u{fffd}".repeat(chunk.invalid().len()));
    Cow::Owned(chunks.collect())
}

/// A pattern as a regex, and whether a simpler test would do.
fn translate(pattern: &str) -> (Kind, String) {
    let mut translation = Translation { regex: String::from("^"), kind: Kind::Exact };
    let mut chars = pattern.chars().peekable();
    let mut first = true;
    while let Some(c) = chars.next() {
        translation.character(c, &mut chars);
        if first && c == '*' && pattern.starts_with("**") {
            translation.kind = Kind::Suffix;
        }
        first = false;
    }
    translation.regex.push('$');
    (translation.kind, translation.regex)
}

struct Translation {
    regex: String,
    kind: Kind,
}

impl Translation {
    fn character(&mut self, c: char, rest: &mut Peekable<Chars<'_>>) {
        match c {
            '*' if rest.next_if_eq(&'*').is_some() => {
                rest.next_if_eq(&'/');
                self.stars(rest.peek().is_none());
            }
            '*' => self.wildcard("[^/]*"),
            '?' => self.wildcard("[^/]"),
            '.' | '+' | '(' | ')' | '|' | '{' | '}' | '$' => self.regex.extend(['\\', c]),
            '\\' => match rest.next() {
                Some(escaped) => self.wildcard(&escape(escaped)),
                None => self.regex.push_str("\\\\"),
            },
            '[' => {
                self.wildcard("[");
                self.class(rest);
            }
            ']' => self.wildcard("]"),
            c => self.regex.push(c),
        }
    }

    fn wildcard(&mut self, regex: &str) {
        self.regex.push_str(regex);
        self.kind = Kind::Regex;
    }

    /// `**`: any directories, and at the end anything at all.
    fn stars(&mut self, at_end: bool) {
        match (at_end, self.kind) {
            (true, Kind::Exact) => self.kind = Kind::Prefix,
            (true, _) => self.wildcard(".*"),
            (false, _) => self.wildcard("(.*/)?"),
        }
    }

    /// Up to the end of a class. Characters with a meaning of their own only in Rust's classes lose it.
    fn class(&mut self, rest: &mut Peekable<Chars<'_>>) {
        while let Some(c) = rest.next() {
            match c {
                ']' => return self.regex.push(c),
                '\\' => self.regex.extend(rest.next().map(escape)),
                '[' if rest.peek() == Some(&':') => self.regex.push(c),
                '[' | '&' | '~' => self.regex.extend(['\\', c]),
                c => self.regex.push(c),
            }
        }
    }
}

/// The reference hands an escape on to its regex: `\d` is a digit there.
fn escape(c: char) -> String {
    if c.is_ascii_alphanumeric() {
        return format!("\\{c}");
    }
    regex::escape(c.encode_utf8(&mut [0; 4]))
}

/// One line as a clean pattern: blanks gone, relative to the context.
fn normal_line(line: &[u8]) -> Option<Vec<u8>> {
    let line = trim(line);
    let (mark, pattern) = match line.strip_prefix(b"!") {
        Some(rest) => (&b"!"[..], trim(rest)),
        None => (&b""[..], line),
    };
    if pattern.is_empty() {
        return Some(mark.to_vec()).filter(|mark| !mark.is_empty());
    }
    let cleaned = clean(pattern);
    let relative = match cleaned.strip_prefix(b"/") {
        Some(rest) if !rest.is_empty() => rest,
        Some(_) | None => &cleaned,
    };
    Some([mark, relative].concat())
}

fn trim(text: &[u8]) -> &[u8] {
    match str::from_utf8(text) {
        Ok(text) => text.trim().as_bytes(),
        Err(_) => text.trim_ascii(),
    }
}

/// A path without `.`, `..` where it can go, and repeated slashes; Go's `path.Clean`.
fn clean(path: &[u8]) -> Vec<u8> {
    let rooted = path.starts_with(b"/");
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => {
                parts.pop();
            }
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    match (rooted, joined.is_empty()) {
        (true, _) => [b"/".as_slice(), &joined].concat(),
        (false, true) => b".".to_vec(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::glob::glob_match;
    use super::*;

    /// One line of `testdata/patterns.jsonl`: what the reference answers for a path and patterns; a
    /// malformed pattern counts as one that does not match.
    fn rows(kind: &str) -> Vec<(String, Vec<String>, Value)> {
        let rows = include_str!("../../testdata/patterns.jsonl").lines();
        let rows = rows.map(|row| serde_json::from_str::<Value>(row).unwrap());
        let wanted = rows.filter(|row| row["kind"] == kind);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        wanted
            .map(|row| {
                let patterns = row["pats"].as_array().unwrap().iter().map(text).collect();
                (text(&row["path"]), patterns, row)
            })
            .collect()
    }

    #[test]
    fn agrees_with_moby() {
        let rows = rows("ignore");
        assert_eq!(rows.len(), 1517);
        for (path, patterns, row) in rows {
            let ours = Ignore::new(&patterns).is_ok_and(|ignore| ignore.matches(path.as_bytes()));
            assert_eq!(ours, row["match"], "{row}");
        }
    }

    #[test]
    fn agrees_with_go() {
        let rows = rows("match");
        assert_eq!(rows.len(), 702);
        for (path, patterns, row) in rows {
            let ours = glob_match(patterns[0].as_bytes(), path.as_bytes());
            assert_eq!(ours == Ok(true), row["match"], "{row}");
        }
    }

    #[test]
    fn lines() {
        for (text, path, want) in [
            ("\u{feff}a", "a", true),
            (" a \r\n", "a", true),
            ("/a/", "a/b", true),
            ("#a", "a", false),
            (" #a", "#a", true),
            ("! a", "a", false),
            ("*\n! a", "a", false),
            ("a/../b", "b", true),
            ("**", "a/b", true),
            (".", "a", false),
            ("*", ".", false),
            ("[[]x", "[x", true),
            ("[a&&b]", "&", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
        ] {
            let ignore = Ignore::parse(text.as_bytes()).unwrap();
            assert_eq!(ignore.matches(path.as_bytes()), want, "{text:?} {path}");
        }
    }

    #[test]
    fn names_that_are_no_text() {
        let ignore = Ignore::parse(b"*.txt\nb?r").unwrap();
        assert!(ignore.matches(b"caf\xe9.txt") && ignore.matches(b"b\xe9r"));
        assert!(!ignore.matches(b"b\xc3\xc3r"));
    }

    #[test]
    fn refused() {
        assert_eq!(Ignore::parse(b"!").unwrap_err(), IgnoreError::LoneMark);
        let open = Ignore::parse(b"a\nb[").unwrap_err();
        assert_eq!(open.to_string(), "syntax error in pattern `b[`");
    }

    #[test]
    fn where_to_look() {
        for (text, directory, want) in [
            ("*\n!a/b", "a", true),
            ("*\n!a/b", "c", false),
            ("*\n!a/b", "ab", false),
            ("*\n!a/b", "a/b", true),
            ("*\n!a/b", "a/b/c", true),
            ("*\n!**/x", "c", true),
            ("*\n!a*/x", "ab/c", true),
            ("*\n!^*", "a", true),
            ("*", "a", false),
        ] {
            let ignore = Ignore::parse(text.as_bytes()).unwrap();
            assert_eq!(ignore.may_hold_kept(directory.as_bytes()), want, "{text:?} {directory}");
        }
    }

    /// A directory that need not be entered holds nothing that is kept.
    fn walk_misses_nothing(ignore: &Ignore, path: &[u8]) -> bool {
        let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let mut above = slashes.map(|(at, _)| &path[..at]).filter(|above| !above.is_empty());
        let hidden = above.any(|above| ignore.matches(above) && !ignore.may_hold_kept(above));
        ignore.matches(path) || !hidden
    }

    #[test]
    fn walks_of_the_reference_rows() {
        for (path, patterns, row) in rows("ignore") {
            let Ok(ignore) = Ignore::new(&patterns) else { continue };
            assert!(walk_misses_nothing(&ignore, path.as_bytes()), "{row}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 20_000,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn walks(text in r"([ab/*?!\[\]^\\.-]{0,6}\n){1,4}", path in "[ab]{1,2}(/[ab]{1,2}){0,3}") {
            if let Ok(ignore) = Ignore::parse(text.as_bytes()) {
                prop_assert!(walk_misses_nothing(&ignore, path.as_bytes()), "{:?}", text);
            }
        }

        #[test]
        fn any_bytes(text in prop::collection::vec(any::<u8>(), 0..32), path in any::<Vec<u8>>()) {
            if let Ok(ignore) = Ignore::parse(&text) {
                prop_assert!(walk_misses_nothing(&ignore, &path));
            }
        }
    }
}
