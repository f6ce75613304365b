//! Booleans as Go's flag parser reads them: `--x`, `--x=true`, `--x=F`, never `--x true`.

use std::str::FromStr;

use thiserror::Error;

/// The value of a boolean flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct GoBool(pub(super) bool);

/// A text that Go's `strconv.ParseBool` does not take.
#[derive(Debug, Error)]
#[error("not a boolean: use true or false")]
pub(super) struct NotABoolean;

impl FromStr for GoBool {
    type Err = NotABoolean;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Self(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Self(false)),
            _ => Err(NotABoolean),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spellings_of_go() {
        for (text, want) in
            [("true", Some(true)), ("T", Some(true)), ("0", Some(false)), ("yes", None), ("", None)]
        {
            assert_eq!(text.parse::<GoBool>().ok().map(|GoBool(value)| value), want, "{text}");
        }
    }
}
