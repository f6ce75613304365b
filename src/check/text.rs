//! Rules about the text alone, for all stages.

use std::collections::{BTreeMap, BTreeSet};

use super::report::{Findings, Place};
use super::rule::Rule;
use crate::dockerfile::{
    Arg, Blank, Dockerfile, Expanded, Instruction, Located, Span, Stage, Word, blank_continuations,
    nearest,
};
use crate::image::{Platform, Reference};
use crate::plan::Arguments;

/// Names of stages that mean something else where a stage can be named.
const RESERVED: [&str; 2] = ["context", "scratch"];

/// Looks at what needs neither a base image nor a context.
pub fn text(file: &Dockerfile, arguments: &Arguments, found: &mut Findings) {
    for Blank { empty, last } in blank_continuations(&file.source) {
        let line = |span: Span| file.source.line_of(span.start);
        let message = format!("line {} is empty, and the instruction goes on", line(empty));
        found.add(Rule::NoEmptyContinuation, Place::bare(line(last), last), message);
    }
    casing(file, found);
    names(file, found);
    for stage in &file.stages {
        described("FROM", stage.name.as_deref().as_slice(), stage.into(), found);
        for instruction in &stage.instructions {
            deprecated(instruction, found);
        }
    }
    for arg in &file.global_args {
        described("ARG", &keys(&arg.node), arg.into(), found);
    }
    bases(file, arguments, found);
}

fn deprecated(instruction: &Located<Instruction>, found: &mut Findings) {
    match &instruction.node {
        Instruction::Maintainer(_) => found.add(
            Rule::MaintainerDeprecated,
            instruction.into(),
            "MAINTAINER is deprecated: write LABEL org.opencontainers.image.authors=…".to_owned(),
        ),
        Instruction::Arg(arg) => {
            described("ARG", &keys(arg), instruction.into(), found);
        }
        _ => {}
    }
}

fn keys(arg: &Arg) -> Vec<&str> {
    arg.items.iter().map(|item| item.name.text.as_str()).collect()
}

/// The last comment above a definition begins with its name.
fn described(keyword: &str, keys: &[&str], place: Place<'_>, found: &mut Findings) {
    let (Some(comment), Some(first)) = (place.comments.last(), keys.first()) else { return };
    if keys.contains(&comment.split(' ').next().unwrap_or_default()) {
        return;
    }
    let key = if keys.len() > 1 { "NAME" } else { first };
    let message = format!("the comment above this {keyword} does not read `# {key} DESCRIPTION`");
    found.add(Rule::InvalidDefinitionDescription, place, message);
}

fn keyword(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

fn is_lower(text: &str) -> bool {
    text == text.to_lowercase()
}

fn is_upper(text: &str) -> bool {
    text == text.to_uppercase()
}

/// All keywords are in the case of most of them.
fn casing(file: &Dockerfile, found: &mut Findings) {
    let keywords: Vec<(&str, Place<'_>)> = file
        .stages
        .iter()
        .flat_map(|stage| {
            let own = (keyword(&stage.text), Place::from(stage));
            let below = stage.instructions.iter().map(|it| (keyword(&it.text), Place::from(it)));
            std::iter::once(own).chain(below)
        })
        .collect();
    let lower = keywords.iter().filter(|(word, _)| is_lower(word)).count();
    let upper = keywords.iter().filter(|(word, _)| is_upper(word)).count();
    let (fits, case): (fn(&str) -> bool, &str) =
        if lower > upper { (is_lower, "lower") } else { (is_upper, "upper") };
    for (word, place) in keywords.into_iter().filter(|(word, _)| !fits(word)) {
        let message = format!("{word} is not in {case} case, as most keywords of this file are");
        found.add(Rule::ConsistentInstructionCasing, place, message);
    }
}

/// `FROM`'s words as typed, without flags.
fn from_words(stage: &Stage) -> Vec<&str> {
    let words = stage.text.split_whitespace();
    words
        .enumerate()
        .filter(|(at, word)| *at == 0 || !word.starts_with("--"))
        .map(|(_, w)| w)
        .collect()
}

fn names(file: &Dockerfile, found: &mut Findings) {
    let mut seen = BTreeMap::new();
    for stage in &file.stages {
        let place = Place::from(stage);
        if let [from, _, keyword, typed] = from_words(stage).as_slice() {
            as_casing(from, keyword, place, found);
            if !is_lower(typed) {
                let message = format!("the name {typed} of the stage is not in lower case");
                found.add(Rule::StageNameCasing, place, message);
            }
        }
        let Some(name) = &stage.name else { continue };
        if RESERVED.contains(&name.as_str()) {
            let message =
                format!("a stage cannot be reached by the name {name}, which means something else");
            found.add(Rule::ReservedStageName, place, message);
        }
        if let Some(line) = seen.insert(name, stage.line) {
            let message = format!("the stage on line {line} is called {name} too");
            found.add(Rule::DuplicateStageName, place, message);
        }
    }
}

fn as_casing(from: &str, keyword: &str, place: Place<'_>, found: &mut Findings) {
    // What is neither is another rule's.
    let differs = (is_lower(from) && !is_lower(keyword)) || (is_upper(from) && !is_upper(keyword));
    if differs {
        let message = format!("{keyword} is not in the case of {from}");
        found.add(Rule::FromAsCasing, place, message);
    }
}

/// The variables of `FROM`.
fn bases(file: &Dockerfile, arguments: &Arguments, found: &mut Findings) {
    let escape = file.escape();
    let Ok(globals) = arguments.globals(&file.global_args, escape) else { return };
    let defaults = arguments.defaults().globals(&file.global_args, escape).unwrap_or_default();
    let declared = file.global_args.iter().flat_map(|arg| &arg.node.items);
    let mut known: BTreeSet<&str> = globals.keys().map(String::as_str).collect();
    known.extend(declared.map(|item| item.name.text.as_str()));
    for stage in &file.stages {
        let place = Place::from(stage);
        default_base(&stage.base, &defaults, escape, place, found);
        let words = std::iter::once(&stage.base).chain(&stage.platform);
        for word in words {
            let Ok(expanded) = word.expand_reporting(&globals, escape) else { continue };
            for name in expanded.unset.iter().filter(|name| !known.contains(name.as_str())) {
                let message =
                    format!("no ARG before the first FROM declares {name}{}", hint(name, &known));
                found.add(Rule::UndefinedArgInFrom, place, message);
            }
        }
        if let Some(word) = &stage.platform
            && let Ok(expanded) = word.expand_reporting(&globals, escape)
        {
            platform(stage, word, &expanded, &globals, found);
        }
    }
}

/// The nearest name, in brackets.
pub(super) fn hint(name: &str, known: &BTreeSet<&str>) -> String {
    let known: Vec<&str> = known.iter().copied().collect();
    nearest(name, &known).map(|hint| format!(" ({hint})")).unwrap_or_default()
}

/// What a base is where no argument is given.
fn default_base(
    base: &Word,
    defaults: &BTreeMap<String, String>,
    escape: char,
    place: Place<'_>,
    found: &mut Findings,
) {
    let Ok(expanded) = base.expand_reporting(defaults, escape) else { return };
    let is_constant = expanded.used.is_empty() && expanded.unset.is_empty();
    if !is_constant && expanded.text.parse::<Reference>().is_err() {
        let message = match expanded.text.as_str() {
            "" => format!("without --build-arg {} is empty", base.text),
            text => format!("without --build-arg {} is {text}, which names no image", base.text),
        };
        found.add(Rule::InvalidDefaultArgInFrom, place, message);
    }
}

fn platform(
    stage: &Stage,
    word: &Word,
    expanded: &Expanded,
    globals: &BTreeMap<String, String>,
    found: &mut Findings,
) {
    let place = Place::from(stage);
    let only_target = expanded.unset.is_empty()
        && expanded.used.iter().map(String::as_str).eq(["TARGETPLATFORM"]);
    if only_target && globals.get("TARGETPLATFORM") == Some(&expanded.text) {
        let message = format!("--platform={} is what is built for anyway", word.text);
        found.add(Rule::RedundantTargetPlatform, place, message);
    }
    if !expanded.used.is_empty() || !expanded.unset.is_empty() {
        return;
    }
    let Ok(platform) = expanded.text.parse::<Platform>() else { return };
    let name = stage.name.as_deref().unwrap_or_default();
    if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
        let message =
            format!("--platform={} is a constant, and the stage's name does not tell", word.text);
        found.add(Rule::FromPlatformFlagConstDisallowed, place, message);
    }
}
