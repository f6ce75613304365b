//! Wildcards of `COPY` and `ADD`, to the rules of Go's `filepath.Match` on Linux.
//!
//! `*` and `?` stop at `/`, `[a-z]` and `[^a-z]` are classes of characters, a backslash takes the next
//! character as it is. The pattern must match the whole name. Unlike Go this reads the whole pattern
//! before it matches, so a malformed pattern is an error even where the name would never reach the fault.

/// The pattern is malformed: an open class, a class that is empty, or an escape at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

/// Whether a pattern matches all of a name.
///
/// # Errors
/// The pattern is malformed.
pub fn glob_match(pattern: &[u8], name: &[u8]) -> Result<bool, BadPattern> {
    let tokens = tokens(pattern)?;
    let name: Vec<Unit> = units(name).collect();
    Ok(matches(&tokens, &name))
}

/// Whether one part of a path is a pattern: an unescaped `*`, `?` or `[`. A part without one names
/// itself, its backslashes included, as in the reference.
#[must_use]
pub fn is_pattern(part: &[u8]) -> bool {
    let mut bytes = part.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// A character, or a byte that is part of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Char(char),
    Byte(u8),
}

enum Token {
    Literal(Unit),
    AnyOne,
    AnyRun,
    Class { negated: bool, ranges: Vec<(Unit, Unit)> },
}

impl Token {
    fn accepts(&self, unit: Unit) -> bool {
        match self {
            Self::Literal(wanted) => *wanted == unit,
            Self::AnyOne => unit != Unit::Char('/'),
            Self::AnyRun => false,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&unit)) != *negated
            }
        }
    }
}

fn units(text: &[u8]) -> impl Iterator<Item = Unit> {
    text.utf8_chunks().flat_map(|chunk| {
        let chars = chunk.valid().chars().map(Unit::Char);
        chars.chain(chunk.invalid().iter().copied().map(Unit::Byte))
    })
}

fn tokens(pattern: &[u8]) -> Result<Vec<Token>, BadPattern> {
    let mut units = units(pattern);
    let mut tokens = Vec::new();
    while let Some(unit) = units.next() {
        tokens.push(match unit {
            Unit::Char('*') => Token::AnyRun,
            Unit::Char('?') => Token::AnyOne,
            Unit::Char('[') => class(&mut units)?,
            Unit::Char('\\') => Token::Literal(units.next().ok_or(BadPattern)?),
            unit => Token::Literal(unit),
        });
    }
    Ok(tokens)
}

fn class(units: &mut impl Iterator<Item = Unit>) -> Result<Token, BadPattern> {
    let mut units = units.peekable();
    let negated = units.next_if_eq(&Unit::Char('^')).is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && units.next_if_eq(&Unit::Char(']')).is_some() {
            return Ok(Token::Class { negated, ranges });
        }
        let low = member(&mut units)?;
        let ranged = units.next_if_eq(&Unit::Char('-')).is_some();
        let high = if ranged { member(&mut units)? } else { low };
        if units.peek().is_none() {
            return Err(BadPattern);
        }
        ranges.push((low, high));
    }
}

fn member(units: &mut impl Iterator<Item = Unit>) -> Result<Unit, BadPattern> {
    match units.next() {
        Some(Unit::Char('\\')) => units.next().ok_or(BadPattern),
        Some(Unit::Char('-' | ']') | Unit::Byte(_)) | None => Err(BadPattern),
        Some(unit) => Ok(unit),
    }
}

/// Goes back to the last `*` only: an earlier one could not do better.
fn matches(tokens: &[Token], name: &[Unit]) -> bool {
    let (mut token, mut at) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match (tokens.get(token), name.get(at)) {
            (None, None) => return true,
            (Some(Token::AnyRun), _) => {
                retry = Some((token, at));
                token += 1;
                continue;
            }
            (Some(expected), Some(unit)) if expected.accepts(*unit) => {
                (token, at) = (token + 1, at + 1);
                continue;
            }
            (Some(_) | None, Some(_) | None) => {}
        }
        match retry {
            Some((star, from)) if name.get(from).is_some_and(|u| *u != Unit::Char('/')) => {
                retry = Some((star, from + 1));
                (token, at) = (star + 1, from + 1);
            }
            Some(_) | None => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed() {
        for pattern in ["[", "[]", "[]a]", "[a", "[^", "[a-", "[a-]", "[-x]", "a\\", "[\\"] {
            assert_eq!(glob_match(pattern.as_bytes(), b"a"), Err(BadPattern), "{pattern}");
        }
    }

    #[test]
    fn bytes_that_are_no_text() {
        for (pattern, name, want) in [
            (&b"*.txt"[..], &b"caf\xe9.txt"[..], true),
            (b"caf?.txt", b"caf\xe9.txt", true),
            (b"caf\xe9*", b"caf\xe9.txt", true),
            (b"caf\xe8*", b"caf\xe9.txt", false),
            (b"caf[^a]", b"caf\xc3\xa9", true),
        ] {
            assert_eq!(glob_match(pattern, name), Ok(want), "{pattern:?} {name:?}");
        }
    }

    #[test]
    fn patterns() {
        for (part, want) in [
            ("a*", true),
            ("[a]", true),
            ("a?", true),
            ("a\\*", false),
            ("a\\\\*", true),
            ("plain", false),
        ] {
            assert_eq!(is_pattern(part.as_bytes()), want, "{part}");
        }
    }
}
