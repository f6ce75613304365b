//! `--chmod`: octal, or symbolic, which is nearly what chmod(1) has.

use std::str::FromStr;

use thiserror::Error;

/// A change of permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chmod {
    /// Octal: the bits, whatever they were.
    Absolute(u32),
    /// Symbolic clauses, applied in order.
    Symbolic(Vec<Clause>),
}

/// `u=rwX`: who, how, which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clause {
    /// The bits of the classes it speaks of: 0o700, 0o070, 0o007 and the set-id bits of the first two.
    who: u32,
    operator: char,
    /// `rwx` as three bits, for one class.
    permissions: u32,
    /// `X`: execute for directories and for what somebody may execute already.
    conditional: bool,
    set_id: bool,
    sticky: bool,
    /// `u=g`: the class whose bits are copied, as a shift.
    copied: Option<u32>,
}

/// A value of `--chmod` that means nothing.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is no mode: give octal digits up to 7777, or clauses like u=rwX,go=rX")]
pub struct BadMode(String);

impl FromStr for Chmod {
    type Err = BadMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadMode(text.to_owned());
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).map_err(|_| bad())?;
            return if mode <= 0o7777 { Ok(Self::Absolute(mode)) } else { Err(bad()) };
        }
        let clauses: Option<Vec<Vec<Clause>>> = text.split(',').map(clause).collect();
        match clauses {
            Some(clauses) => Ok(Self::Symbolic(clauses.concat())),
            None => Err(bad()),
        }
    }
}

/// What `a` speaks of; the sticky bit changes only where it is named.
const ALL: u32 = 0o6777;

/// One comma-separated part: classes, then one or more operators with permissions.
fn clause(text: &str) -> Option<Vec<Clause>> {
    let operators = text.find(['+', '-', '='])?;
    let mut who = 0;
    for class in text[..operators].chars() {
        who |= match class {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o0007,
            'a' => ALL,
            _ => return None,
        };
    }
    if who == 0 {
        who = ALL;
    }
    let mut clauses = Vec::new();
    let mut rest = &text[operators..];
    while let Some(operator) = rest.chars().next() {
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |end| end + 1);
        clauses.push(permissions(who, operator, &rest[1..end])?);
        rest = &rest[end..];
    }
    Some(clauses)
}

fn permissions(who: u32, operator: char, text: &str) -> Option<Clause> {
    let mut clause = Clause {
        who,
        operator,
        permissions: 0,
        conditional: false,
        set_id: false,
        sticky: false,
        copied: None,
    };
    for permission in text.chars() {
        match permission {
            'r' => clause.permissions |= 4,
            'w' => clause.permissions |= 2,
            'x' => clause.permissions |= 1,
            'X' => clause.conditional = true,
            's' => clause.set_id = true,
            't' => clause.sticky = true,
            'u' | 'g' | 'o' if text.len() == 1 => {
                clause.copied = Some(match permission {
                    'u' => 6,
                    'g' => 3,
                    _ => 0,
                });
            }
            _ => return None,
        }
    }
    Some(clause)
}

impl Chmod {
    /// The bits of a file that has `mode`.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Absolute(mode) => *mode,
            Self::Symbolic(clauses) => {
                let runs = is_dir || mode & 0o111 != 0;
                clauses.iter().fold(mode & 0o7777, |mode, clause| clause.apply(mode, runs))
            }
        }
    }
}

impl Clause {
    /// `runs`: it is a directory, or was executable before the first clause.
    fn apply(self, mode: u32, runs: bool) -> u32 {
        let mut one = self.permissions;
        if self.conditional && (runs || self.operator == '-') {
            one |= 1;
        }
        if let Some(shift) = self.copied {
            one = (mode >> shift) & 7;
        }
        let mut bits = (one << 6 | one << 3 | one) & self.who;
        if self.set_id {
            bits |= self.who & 0o6000;
        }
        if self.sticky && self.who != 0o007 {
            bits |= 0o1000;
        }
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            // Set-id bits go, also those of a directory, which chmod(1) keeps; a class that is copied has none.
            _ => {
                let cleared = if self.copied.is_some() { self.who & 0o777 } else { self.who };
                (mode & !cleared) | bits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (text, from, is_dir, want) in [
            ("755", 0o644, false, Some(0o755)),
            ("0644", 0o4755, false, Some(0o644)),
            ("7777", 0, true, Some(0o7777)),
            ("10000", 0, false, None),
            ("u=rwX,go=rX", 0o600, false, Some(0o644)),
            ("u=rwX,go=rX", 0o700, false, Some(0o755)),
            ("u=rwX,go=rX", 0o700, true, Some(0o755)),
            ("+x", 0o644, false, Some(0o755)),
            ("a-w", 0o666, false, Some(0o444)),
            ("u+s", 0o755, false, Some(0o4755)),
            ("g=u", 0o640, false, Some(0o660)),
            ("go-rwx", 0o755, false, Some(0o700)),
            ("u+rw-x", 0o500, false, Some(0o600)),
            ("a=rX", 0o2755, true, Some(0o555)),
            ("=r", 0o1755, true, Some(0o1444)),
            ("u=rw", 0o2755, true, Some(0o2655)),
            ("u=rw,go=rX", 0o700, false, Some(0o655)),
            ("g=u", 0o2640, false, Some(0o2660)),
            ("a-X", 0o755, false, Some(0o644)),
            ("o+t", 0o755, true, Some(0o755)),
            ("+t", 0o755, true, Some(0o1755)),
            ("q=r", 0, false, None),
            ("", 0, false, None),
            ("8", 0, false, None),
        ] {
            let got = text.parse::<Chmod>().ok().map(|chmod| chmod.apply(from, is_dir));
            assert_eq!(got, want, "{text:?} on {from:o}");
        }
    }
}
