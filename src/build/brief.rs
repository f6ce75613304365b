//! Whether a RUN step is brief, as far as its words tell: a few programs, each of which starts none and makes
//! a few changes.
//!
//! It decides what watching costs, never what is found; so what is not understood is not brief.

use crate::plan::RunStep;

/// Programs of which each starts none, or hardly any, and changes what it is given by name.
const BRIEF: [&str; 53] = [
    ":", "[", "addgroup", "adduser", "basename", "cat", "cd", "chgrp", "chmod", "chown", "command",
    "cp", "cut", "date", "dirname", "echo", "exit", "export", "false", "getent", "grep",
    "groupadd", "groupmod", "head", "hostname", "id", "install", "ln", "ls", "mkdir", "mv",
    "passwd", "printf", "pwd", "readlink", "realpath", "rm", "rmdir", "sed", "set", "sort", "stat",
    "tail", "tee", "test", "touch", "tr", "true", "umask", "uname", "useradd", "usermod", "whoami",
];

/// Words before a command that are none themselves.
const RESERVED: [&str; 9] = ["!", "elif", "else", "fi", "if", "then", "{", "}", "exec"];

pub(super) fn is_brief(step: &RunStep) -> bool {
    if step.script.is_some() {
        return false;
    }
    match step.argv.as_slice() {
        [.., flags, text] if runs_text(flags) => is_brief_text(text),
        [program, arguments @ ..] => is_brief_command(program, arguments),
        [] => true,
    }
}

/// `-c`, or flags of which it is the last.
fn runs_text(flags: &str) -> bool {
    flags.strip_prefix('-').is_some_and(|flags| !flags.starts_with('-') && flags.ends_with('c'))
}

/// The text of a shell: simple commands and lists of them.
fn is_brief_text(text: &str) -> bool {
    let Some(commands) = commands(text) else { return false };
    commands.iter().all(|words| {
        let is_before = |word: &&String| RESERVED.contains(&word.as_str()) || is_assignment(word);
        let before = words.iter().take_while(is_before).count();
        match &words[before..] {
            [program, arguments @ ..] => is_brief_command(program, arguments),
            [] => true,
        }
    })
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric())
    })
}

fn is_brief_command(program: &str, arguments: &[String]) -> bool {
    let name = program.rsplit('/').next().unwrap_or(program);
    BRIEF.binary_search(&name).is_ok() && !arguments.iter().any(|word| is_of_trees(name, word))
}

/// A flag that takes a command to all that is below a directory.
fn is_of_trees(name: &str, word: &str) -> bool {
    let letters = match name {
        "cp" => "aRr",
        "chgrp" | "chmod" | "chown" | "grep" | "ls" | "rm" => "Rr",
        _ => return false,
    };
    match word.strip_prefix('-') {
        Some(long) if long.starts_with('-') => ["-recursive", "-archive"].contains(&long),
        Some(flags) => flags.contains(|flag| letters.contains(flag)),
        None => false,
    }
}

/// The words of each command, quotes taken away; `None` where a command is made of the output of another, and
/// in here-documents, which are not told from commands.
fn commands(text: &str) -> Option<Vec<Vec<String>>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('\''), _) => word.get_or_insert_default().push(c),
            (_, '`') => return None,
            (_, '$') if chars.peek() == Some(&'(') => return None,
            (_, '\\') => match chars.next() {
                Some('\n') | None => {}
                Some(next) => word.get_or_insert_default().push(next),
            },
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '<') if chars.peek() == Some(&'<') => return None,
            (None, '#') if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            (None, '<' | '>') => {
                chars.next_if_eq(&'&'); // `2>&1` ends no command
                end(&mut word, &mut commands);
            }
            (None, ' ' | '\t') => end(&mut word, &mut commands),
            (None, ';' | '&' | '|' | '\n' | '(' | ')') => {
                end(&mut word, &mut commands);
                commands.push(Vec::new());
            }
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    end(&mut word, &mut commands);
    quote.is_none().then_some(commands)
}

fn end(word: &mut Option<String>, commands: &mut [Vec<String>]) {
    if let (Some(word), Some(command)) = (word.take(), commands.last_mut()) {
        command.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_in_order() {
        assert!(BRIEF.is_sorted());
    }

    #[test]
    fn texts_of_a_shell() {
        for (text, want) in [
            ("mkdir -p /app && chown app:app /app", true),
            ("A=b true; echo \"$A; make\" > /x || exit 1", true),
            ("if [ -e /x ]; then\n  rm -f /x # make\nfi", true),
            ("umask 022 && (cd /x && touch y) | cat", true),
            ("set -eux; \\\n  groupadd -r app; \\\n  useradd -r -g app app", true),
            ("/bin/sed -i 's|make;gcc|x y|' /etc/f", true),
            ("id app > /dev/null 2>&1 || useradd app", true),
            ("", true),
            ("make", false),
            ("./configure", false),
            ("echo x && make", false),
            ("echo x &\nmake", false),
            ("for i in 1 2; do touch $i; done", false),
            ("echo $(make)", false),
            ("echo \"`make`\"", false),
            ("echo '$(make)'", true),
            ("cat <<E > x\ny\nE", false),
            ("rm -rf /x", false),
            ("chmod --recursive 0 /x", false),
            ("cp -a /x /y", false),
            ("cp -p /x /y", true),
            ("useradd -r x", true),
            ("echo \"", false),
        ] {
            assert_eq!(is_brief_text(text), want, "{text}");
        }
    }

    #[test]
    fn the_words_of_a_step() {
        let words = |argv: &[&str]| argv.iter().map(|word| (*word).to_owned()).collect();
        for (argv, script, want) in [
            (vec!["/bin/sh", "-c", "echo x"], false, true),
            (vec!["/bin/bash", "-o", "pipefail", "-ec", "make"], false, false),
            (vec!["/bin/mkdir", "/x"], false, true),
            (vec!["/bin/rm", "-r", "/x"], false, false),
            (vec!["make", "-C", "/x"], false, false),
            (vec!["/bin/sh", "-c", "/dev/pipes/EOF"], true, false),
        ] {
            let step = RunStep {
                argv: words(&argv),
                env: Vec::new(),
                user: String::new(),
                dir: "/".to_owned(),
                network_none: false,
                mounts: Vec::new(),
                script: script.then(|| ("EOF".to_owned(), String::new())),
            };
            assert_eq!(is_brief(&step), want, "{argv:?}");
        }
    }
}
