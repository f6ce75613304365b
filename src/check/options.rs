//! `# check=skip=…;error=…;experimental=…`, for a file or for the instruction below.

use thiserror::Error;

use super::rule::Rule;

/// Which rules are looked at, and whether a finding ends the build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    skip: Names,
    experimental: Names,
    /// A finding ends the build.
    pub error: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Names {
    all: bool,
    some: Vec<String>,
}

/// Options that cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BadOptions {
    /// Neither skip nor error nor experimental.
    #[error("{0:?} is no option of the checks: there are skip=, error= and experimental=")]
    Unknown(String),
    /// Not a boolean.
    #[error("error={0} is neither true nor false")]
    NoBoolean(String),
}

impl Options {
    /// Reads the value of the directive, or of the build argument `BUILDKIT_DOCKERFILE_CHECK`.
    ///
    /// # Errors
    /// An option that does not exist.
    pub fn parse(text: &str) -> Result<Self, BadOptions> {
        let mut options = Self::default();
        for part in text.trim().splitn(3, ';').filter(|_| !text.trim().is_empty()) {
            let unknown = || BadOptions::Unknown(part.to_owned());
            let (name, value) = part.split_once('=').ok_or_else(unknown)?;
            let value = value.trim();
            match name.trim() {
                "skip" => options.skip = Names::read(value),
                "experimental" => options.experimental = Names::read(value),
                "error" => {
                    let wrong = || BadOptions::NoBoolean(value.to_owned());
                    options.error = boolean(value).ok_or_else(wrong)?;
                }
                _ => return Err(unknown()),
            }
        }
        Ok(options)
    }

    /// Reads the value of a directive or comment, in which what follows a blank is the reason.
    ///
    /// # Errors
    /// As [`Options::parse`].
    pub fn of_comment(text: &str) -> Result<Self, BadOptions> {
        Self::parse(text.trim().split(' ').next().unwrap_or_default())
    }

    /// With the options in the comments above an instruction, which can skip more and ask for more.
    pub(super) fn with_comments(&self, comments: &[String]) -> Self {
        let mut merged = self.clone();
        let mut own = comments.iter().filter_map(|comment| {
            let (key, value) = comment.split_once('=')?;
            Some(value).filter(|_| key.trim().eq_ignore_ascii_case("check"))
        });
        // The first one counts, even where it cannot be read.
        if let Some(Ok(own)) = own.next().map(Self::of_comment) {
            merged.skip.add(own.skip);
            merged.experimental.add(own.experimental);
        }
        merged
    }

    pub(super) fn allow(&self, rule: Rule) -> bool {
        match rule.is_experimental() {
            true => self.experimental.has(rule),
            false => !self.skip.has(rule),
        }
    }

    /// Names that are those of no rule.
    #[must_use]
    pub fn unknown_rules(&self) -> Vec<&str> {
        let names = self.skip.some.iter().chain(&self.experimental.some);
        let known = |name: &&String| Rule::ALL.iter().any(|rule| rule.to_string() == **name);
        names.filter(|name| !known(name)).map(String::as_str).collect()
    }
}

impl Names {
    fn read(value: &str) -> Self {
        match value {
            "all" => Self { all: true, some: Vec::new() },
            value => Self {
                all: false,
                some: value.split(',').map(|name| name.trim().to_owned()).collect(),
            },
        }
    }

    fn add(&mut self, other: Self) {
        self.all |= other.all;
        self.some.extend(other.some);
    }

    fn has(&self, rule: Rule) -> bool {
        self.all || self.some.contains(&rule.to_string())
    }
}

/// As Go reads one.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped() {
        use Rule::{InvalidDefinitionDescription as Described, UndefinedVar, WorkdirRelativePath};
        for (text, comment, rule, want) in [
            ("", "", UndefinedVar, true),
            ("", "", Described, false),
            ("skip=all", "", UndefinedVar, false),
            ("skip=all", "", Described, false),
            ("skip=UndefinedVar,WorkdirRelativePath", "", WorkdirRelativePath, false),
            ("skip=UndefinedVar", "", WorkdirRelativePath, true),
            ("experimental=all;error=true", "", Described, true),
            ("experimental=InvalidDefinitionDescription", "", Described, true),
            ("", "check=skip=UndefinedVar it is set by the base", UndefinedVar, false),
            ("", "check=skip=UndefinedVar", WorkdirRelativePath, true),
            ("", "check = skip=all", WorkdirRelativePath, false),
            ("", "check=nonsense", UndefinedVar, true),
            ("skip=UndefinedVar it is set", "", UndefinedVar, false),
            ("skip=JSONArgsRecommended, UndefinedVar", "", UndefinedVar, true),
            ("", "a check=skip=all", UndefinedVar, true),
        ] {
            let options =
                Options::of_comment(text).expect(text).with_comments(&[comment.to_owned()]);
            assert_eq!(options.allow(rule), want, "{text} {comment} {rule}");
        }
        let given = Options::parse(" skip=A, UndefinedVar; error=true").expect("well formed");
        assert!(given.error && !given.allow(UndefinedVar));
    }

    #[test]
    fn refused() {
        for text in ["x", "x=1", "error=maybe", "skip", "skip=all;", ";error=true"] {
            assert!(Options::parse(text).is_err(), "{text}");
        }
        let options = Options::parse("skip=UndefinedVars,UndefinedVar").expect("well formed");
        assert_eq!(options.unknown_rules(), ["UndefinedVars"]);
    }
}
