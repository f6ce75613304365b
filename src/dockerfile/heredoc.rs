//! Here-documents: `<<EOF` and the lines up to `EOF`.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::words::{ExpandError, Lexer, Unset};

static OPERATOR: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)$").expect("the pattern is a constant")
});

/// One here-document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The terminator without quotes; for `COPY` and `ADD` also the name of the file.
    pub name: String,
    /// No part of the name was quoted: `COPY` and `ADD` replace variables in the content.
    pub expand: bool,
    /// Written `<<-`: leading tabs go, see [`Heredoc::body`].
    pub dash: bool,
    /// The file descriptor before the operator, 0 without one.
    pub fd: u32,
    /// The lines as written, line endings included.
    pub content: String,
}

impl Heredoc {
    /// The content as a program sees it: without the leading tabs of each line after `<<-`.
    #[must_use]
    pub fn body(&self) -> Cow<'_, str> {
        if !self.dash {
            return Cow::Borrowed(&self.content);
        }
        let lines = self.content.split_inclusive('\n');
        Cow::Owned(lines.map(|line| line.trim_start_matches('\t')).collect())
    }

    /// Whether a line ends this here-document.
    pub(super) fn ends_at(&self, line: &str) -> bool {
        let line = line.trim_end_matches(['\r', '\n']);
        let line = if self.dash { line.trim_start_matches('\t') } else { line };
        line == self.name
    }
}

/// Reads one word as an operator; `None` where it is none. The content is still empty.
pub(super) fn operator(word: &str) -> Result<Option<Heredoc>, ExpandError> {
    let Some(parts) = OPERATOR.captures(word) else {
        return Ok(None);
    };
    let lexer = Lexer::new('\\').unset(Unset::Keep);
    let [name] = lexer.list(&parts[3], &())?.try_into().unwrap_or_default();
    if name.is_empty() {
        return Ok(None);
    }
    let raw = lexer.raw_quotes().list(&parts[3], &())?.concat();
    Ok(Some(Heredoc {
        expand: quotes(&name) == quotes(&raw),
        name,
        dash: &parts[2] == "-",
        fd: parts[1].parse().unwrap_or(0),
        content: String::new(),
    }))
}

/// The operators of a logical line in their order. Text that no shell could read has none.
pub(super) fn operators(line: &str) -> Result<Vec<Heredoc>, ExpandError> {
    let lexer = Lexer::new('\\').unset(Unset::Keep).raw_quotes().raw_escapes();
    let words = lexer.list(line, &()).unwrap_or_default();
    words.iter().filter_map(|word| operator(word).transpose()).collect()
}

fn quotes(word: &str) -> usize {
    word.matches(['\'', '"']).count()
}
