//! The flags of one instruction, checked against those it has.

use super::node::{Node, split_word};
use super::span::Fault;
use super::suggest;
use super::words::Word;

/// What follows a flag.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `--x`, `--x=true`, `--x=false`
    Switch,
    /// `--x=value`, once.
    Text,
    /// `--x=value`, any number of times.
    List,
}

/// Checked flags.
#[derive(Default)]
pub(super) struct Flags(Vec<(&'static str, Option<Word>)>);

impl Flags {
    /// Checks a node's flags against a table.
    pub(super) fn check(node: &Node, table: &[(&'static str, Kind)]) -> Result<Self, Fault> {
        let mut flags = Self::default();
        for word in &node.flags {
            let (flag, value) = match split_word(word, '=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (word.clone(), None),
            };
            let (name, kind) = known(&flag, table)?;
            if kind != Kind::List && flags.has(name) {
                return Err(fault(word, format!("duplicate flag specified: {}", flag.text)));
            }
            check_value(kind, &flag, value.as_ref())?;
            flags.0.push((name, value));
        }
        Ok(flags)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| *key == name)
    }

    /// All values of a flag in order.
    pub(super) fn list(&self, name: &str) -> Vec<Word> {
        let named = self.0.iter().filter(|(key, _)| *key == name);
        named.filter_map(|(_, value)| value.clone()).collect()
    }

    /// The value of a flag; an empty one is none, as in the reference.
    pub(super) fn text(&self, name: &str) -> Option<Word> {
        self.list(name).pop().filter(|value| !value.text.is_empty())
    }

    /// Whether a switch is given, and how.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        let (_, value) = self.0.iter().find(|(key, _)| *key == name)?;
        Some(value.as_ref().is_none_or(|value| value.text.eq_ignore_ascii_case("true")))
    }
}

fn known(flag: &Word, table: &[(&'static str, Kind)]) -> Result<(&'static str, Kind), Fault> {
    let name = flag.text.strip_prefix("--").unwrap_or(&flag.text);
    if let Some(entry) = table.iter().find(|(known, _)| *known == name) {
        return Ok(*entry);
    }
    let names: Vec<String> = table.iter().map(|(name, _)| format!("--{name}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let hint = suggest::nearest(&flag.text, &names);
    Err(fault(flag, format!("unknown flag: {}", flag.text)).with_hint(hint))
}

fn check_value(kind: Kind, flag: &Word, value: Option<&Word>) -> Result<(), Fault> {
    let missing = || Err(fault(flag, format!("missing a value on flag: {}", flag.text)));
    match (kind, value) {
        (Kind::Text | Kind::List, None) => missing(),
        (Kind::Text | Kind::List, Some(_)) | (Kind::Switch, None) => Ok(()),
        (Kind::Switch, Some(value)) => match value.text.to_lowercase().as_str() {
            "" => missing(),
            "true" | "false" => Ok(()),
            _ => {
                let message = format!("expecting boolean value for flag {}", flag.text);
                Err(fault(value, format!("{message}, not: {}", value.text)))
            }
        },
    }
}

fn fault(word: &Word, message: String) -> Fault {
    Fault::new(word.span, message)
}
