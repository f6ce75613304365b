//! The way through a whole Dockerfile: stages, and the instructions in them.

use std::sync::{Arc, LazyLock};

use regex::Regex;

use super::check::instruction;
use super::flags::{Flags, Kind};
use super::instruction::{Arg, Instruction};
use super::lines::{Lines, Logical};
use super::node::{Args, Node};
use super::span::{Fault, Located, ParseError, SourceText, Span};
use super::words::Word;
use super::{Dockerfile, Stage};

static STAGE_NAME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("^[a-z][a-z0-9_.-]*$").expect("the pattern is a constant"));

/// Parses a Dockerfile; `name` is what errors call it.
///
/// # Errors
/// The first thing that the reference would refuse without looking at anything but the text.
pub fn parse(name: &str, text: &[u8]) -> Result<Dockerfile, ParseError> {
    let source = source(name, text);
    match file(&source) {
        Ok(file) => Ok(file),
        Err(fault) => Err(fault.in_source(&source)),
    }
}

/// Parses a trigger from a base image's config: one instruction with its here-documents.
///
/// # Errors
/// The text is not exactly one instruction, or one that cannot be a trigger.
pub fn parse_trigger(text: &str) -> Result<Located<Instruction>, ParseError> {
    let source = source("ONBUILD", text.as_bytes());
    let mut lines = Lines::new(&source.text);
    trigger(&mut lines).map_err(|fault| fault.in_source(&source))
}

/// Empty lines in the middle of instructions, which are passed over.
#[must_use]
pub fn blank_continuations(source: &SourceText) -> Vec<Span> {
    let mut lines = Lines::new(&source.text);
    // What is wrong with the file ends this like any other reading of it.
    while let Ok(Some(line)) = lines.next() {
        if Node::read(&line, &mut lines).is_err() {
            break;
        }
    }
    lines.blank
}

fn source(name: &str, text: &[u8]) -> Arc<SourceText> {
    let text = String::from_utf8_lossy(text).into_owned();
    Arc::new(SourceText { name: name.to_owned(), text })
}

fn trigger(lines: &mut Lines<'_>) -> Result<Located<Instruction>, Fault> {
    let single = |span| Fault::new(span, "an ONBUILD trigger must be one instruction".to_owned());
    let Some(line) = lines.next()? else {
        return Err(single(Span::default()));
    };
    let node = Node::read(&line, lines)?;
    let instruction = instruction(&node)?;
    let located = located(instruction, &node, line, lines.line);
    match lines.next()? {
        Some(second) => Err(single(second.whole())),
        None => Ok(located),
    }
}

fn file(source: &Arc<SourceText>) -> Result<Dockerfile, Fault> {
    let mut lines = Lines::new(&source.text);
    let mut global_args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    let mut instructions = 0;
    while let Some(line) = lines.next()? {
        instructions += 1;
        let node = Node::read(&line, &mut lines)?;
        if node.keyword.text.eq_ignore_ascii_case("from") {
            stages.push(stage(&node, line, lines.line)?);
            continue;
        }
        let instruction = instruction(&node)?;
        match (stages.last_mut(), instruction) {
            (Some(stage), instruction) => {
                stage.instructions.push(located(instruction, &node, line, lines.line));
            }
            (None, Instruction::Arg(arg)) => {
                global_args.push(located::<Arg>(arg, &node, line, lines.line));
            }
            (None, _) => return Err(before_from(&node)),
        }
    }
    if stages.is_empty() {
        return Err(no_stage(source, instructions));
    }
    let directives = lines.directives;
    Ok(Dockerfile { directives, global_args, stages, source: Arc::clone(source) })
}

fn before_from(node: &Node) -> Fault {
    let message = "no build stage in current context: only ARG may stand before the first FROM";
    Fault::new(node.span, message.to_owned())
}

fn no_stage(source: &SourceText, instructions: usize) -> Fault {
    let message = match (source.text.is_empty(), instructions) {
        (true, _) => "the Dockerfile is empty",
        (false, 0) => "file with no instructions",
        (false, _) => "the Dockerfile has no stage to build: it has no FROM",
    };
    let end = source.text.trim_end().len();
    Fault::new(Span { start: end, end }, message.to_owned())
}

fn located<T>(value: T, node: &Node, line: Logical, end_line: usize) -> Located<T> {
    Located {
        node: value,
        span: node.span,
        line: line.line,
        end_line,
        text: node.text.clone(),
        comments: line.comments,
    }
}

fn stage(node: &Node, line: Logical, end_line: usize) -> Result<Stage, Fault> {
    let Args::Words { words, .. } = &node.args else {
        return Err(from_arguments(node));
    };
    let (base, name) = match words.as_slice() {
        [base] => (base, None),
        [base, keyword, name] if keyword.text.eq_ignore_ascii_case("as") => {
            (base, Some(stage_name(name)?))
        }
        _ => return Err(from_arguments(node)),
    };
    let flags = Flags::check(node, &[("platform", Kind::Text)])?;
    Ok(Stage {
        name,
        base: base.clone(),
        platform: flags.text("platform"),
        instructions: Vec::new(),
        span: node.span,
        line: line.line,
        end_line,
        text: node.text.clone(),
        comments: line.comments,
    })
}

fn from_arguments(node: &Node) -> Fault {
    Fault::new(node.span, "FROM requires either one or three arguments".to_owned())
}

fn stage_name(word: &Word) -> Result<String, Fault> {
    let name = word.text.to_lowercase();
    if STAGE_NAME.is_match(&name) {
        return Ok(name);
    }
    let rule = "it must start with a letter and hold only letters, digits, `-`, `_` and `.`";
    Err(Fault::new(word.span, format!("invalid name for a build stage `{}`: {rule}", word.text)))
}
