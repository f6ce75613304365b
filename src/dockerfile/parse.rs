//! The way through a whole Dockerfile: stages, and the instructions in them.

use std::sync::{Arc, LazyLock};

use regex::Regex;

use super::check::{instruction, is_keyword};
use super::flags::{Flags, Kind};
use super::instruction::{Arg, Instruction};
use super::lines::{Blank, Lines, Logical};
use super::node::{Args, Node};
use super::span::{Fault, Located, ParseError, SourceText, Span};
use super::words::Word;
use super::{Dockerfile, Stage};

static STAGE_NAME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("^[a-z][a-z0-9_.-]*$").expect("the pattern is a constant"));

/// Parses a Dockerfile; `name` is what errors call it.
///
/// # Errors
/// What the reference would refuse without looking at anything but the text: the first thing, and with
/// it what is wrong elsewhere and does not come from it.
pub fn parse(name: &str, text: &[u8]) -> Result<Dockerfile, ParseError> {
    let source = source(name, text);
    file(&source).map_err(|faults| ParseError::new(&source, faults))
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

/// Empty lines in the middle of instructions, which are passed over; of each instruction the last one.
#[must_use]
pub fn blank_continuations(source: &SourceText) -> Vec<Blank> {
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

/// After that many faults nobody reads on.
const FAULTS: usize = 20;

fn file(source: &Arc<SourceText>) -> Result<Dockerfile, Vec<Fault>> {
    let mut lines = Lines::new(&source.text);
    let mut reader = Reader::default();
    loop {
        match lines.next() {
            Ok(Some(line)) => reader.take(line, &mut lines),
            Ok(None) => break,
            Err(fault) => {
                reader.faults.push(fault);
                reader.lost = true;
            }
        }
        if reader.lost || reader.faults.len() >= FAULTS {
            return Err(reader.faults);
        }
    }
    let Reader { global_args, stages, mut faults, instructions, no_stage: bad_from, .. } = reader;
    if stages.is_empty() && !bad_from && faults.is_empty() {
        faults.push(no_stage(source, instructions));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let directives = lines.directives;
    Ok(Dockerfile { directives, global_args, stages, source: Arc::clone(source) })
}

/// What was read so far, and what was wrong with it.
#[derive(Default)]
struct Reader {
    global_args: Vec<Located<Arg>>,
    stages: Vec<Stage>,
    instructions: usize,
    faults: Vec<Fault>,
    /// The last line began with no keyword: it may be the rest of another instruction, and so the next.
    astray: bool,
    /// Something stands before the first `FROM`, or that is wrong: told once.
    no_stage: bool,
    /// Where the next instruction begins is not known any more.
    lost: bool,
}

impl Reader {
    fn take(&mut self, line: Logical, lines: &mut Lines<'_>) {
        self.instructions += 1;
        let has_body = line.text.contains("<<");
        let node = match Node::read(&line, lines) {
            Ok(node) => node,
            Err(fault) => {
                self.faults.push(fault);
                self.lost = has_body;
                return;
            }
        };
        let was_astray = std::mem::replace(&mut self.astray, !is_keyword(&node));
        if let Err(fault) = self.place(&node, line, lines.line) {
            // Of the lines of an instruction that lost its continuation one is enough.
            if !(was_astray && self.astray && fault.hint.is_none()) {
                self.faults.push(fault);
            }
            self.lost = self.astray && has_body;
        }
    }

    fn place(&mut self, node: &Node, line: Logical, end_line: usize) -> Result<(), Fault> {
        if node.keyword.text.eq_ignore_ascii_case("from") {
            let stage = stage(node, line, end_line).inspect_err(|_| self.no_stage = true)?;
            self.stages.push(stage);
            return Ok(());
        }
        let instruction = instruction(node)?;
        match (self.stages.last_mut(), instruction) {
            (Some(stage), instruction) => {
                stage.instructions.push(located(instruction, node, line, end_line));
            }
            (None, Instruction::Arg(arg)) => {
                self.global_args.push(located::<Arg>(arg, node, line, end_line));
            }
            (None, _) if self.no_stage => {}
            (None, _) => {
                self.no_stage = true;
                return Err(before_from(node));
            }
        }
        Ok(())
    }
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
