//! What a `RUN` gives to the kernel once its here-documents are put in place.

use std::borrow::Cow;

use super::heredoc;
use super::instruction::{CommandLine, Run};

/// Where a step that is a script finds itself: read-only, gone after the step, in no layer.
pub const SCRIPT_DIR: &str = "/dev/pipes";

/// What a `RUN` runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program<'a> {
    /// A program and its arguments, without a shell.
    Exec(&'a [String]),
    /// Text for the shell of `SHELL`.
    Shell(Cow<'a, str>),
    /// A here-document that begins with `#!`: a file of mode 0755 in [`SCRIPT_DIR`], whose path is the
    /// text that the shell gets.
    Script {
        /// The name of the file, which is that of the here-document.
        name: &'a str,
        /// What is in it.
        body: Cow<'a, str>,
    },
}

impl Program<'_> {
    /// The arguments as the kernel gets them; `shell` is that of the image, for instance `/bin/sh -c`.
    #[must_use]
    pub fn argv(&self, shell: &[String]) -> Vec<String> {
        let text = match self {
            Self::Exec(argv) => return argv.to_vec(),
            Self::Shell(text) => text.clone().into_owned(),
            Self::Script { name, .. } => format!("{SCRIPT_DIR}/{name}"),
        };
        shell.iter().cloned().chain([text]).collect()
    }
}

impl Run {
    /// What to run. A here-document that is the whole command is the shell's text itself, or a script if
    /// it begins with `#!`; variables in it are never replaced here. Other here-documents are put back
    /// behind the text, tabs and all, for the shell to read.
    #[must_use]
    pub fn program(&self) -> Program<'_> {
        let text = match &self.command {
            CommandLine::Exec(argv) => return Program::Exec(argv),
            CommandLine::Shell(text) => text,
        };
        let Some(first) = self.heredocs.first() else {
            return Program::Shell(Cow::Borrowed(text));
        };
        let alone = heredoc::operator(text).is_ok_and(|operator| operator.is_some());
        match (alone, first.body()) {
            (true, body) if body.starts_with("#!") => Program::Script { name: &first.name, body },
            (true, body) => Program::Shell(body),
            (false, _) => Program::Shell(Cow::Owned(self.with_bodies(text))),
        }
    }

    fn with_bodies(&self, text: &str) -> String {
        let bodies = self.heredocs.iter().map(|h| format!("\n{}{}", h.content, h.name));
        std::iter::once(text.to_owned()).chain(bodies).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::dockerfile::{Instruction, parse};

    #[test]
    fn forms() {
        for (text, want) in [
            ("RUN echo hi", "sh|-c|echo hi"),
            ("RUN", "sh|-c|"),
            (r#"RUN ["ls", "-l"]"#, "ls|-l"),
            ("RUN []", ""),
            ("RUN <<EOF\na\nb\nEOF", "sh|-c|a\nb\n"),
            ("RUN <<-EOF\n\ta\n\t\tb\n\tEOF", "sh|-c|a\nb\n"),
            ("RUN --network=none <<'EOF'\n$a\nEOF", "sh|-c|$a\n"),
            ("RUN <<EOF\n#!/bin/x\nEOF", "sh|-c|/dev/pipes/EOF"),
            ("RUN python3 <<EOF\na\nEOF", "sh|-c|python3 <<EOF\na\nEOF"),
            ("RUN cat <<-A <<B >x\n\ta\n\tA\nb\nB", "sh|-c|cat <<-A <<B >x\n\ta\nA\nb\nB"),
        ] {
            let file = parse("Dockerfile", format!("FROM x\n{text}\n").as_bytes()).unwrap();
            let Instruction::Run(run) = &file.stages[0].instructions[0].node else {
                panic!("{text} is no RUN");
            };
            let shell = ["sh".to_owned(), "-c".to_owned()];
            assert_eq!(run.program().argv(&shell).join("|"), want, "{text}");
        }
    }
}
