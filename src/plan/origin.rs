//! What `--from` names: a stage before this one, a context, an image.

use std::collections::BTreeSet;

use super::stages::{BaseImages, PlanError, file};
use crate::dockerfile::{Dockerfile, Instruction, Span, Stage};
use crate::image::Reference;

/// Where `COPY --from` takes files from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The build context.
    Context,
    /// A named context.
    Named(String),
    /// A stage of the plan, by number.
    Stage(usize),
    /// An image.
    Image(Reference),
    /// `scratch`: a tree with nothing in it.
    Scratch,
}

/// What `--from=…` of an instruction in stage `stage` means.
///
/// # Errors
/// A number or name that is no stage before this one and no image either.
pub(super) fn resolve_origin(
    from: &str,
    stage: usize,
    dockerfile: &Dockerfile,
    images: &dyn BaseImages,
) -> Result<Origin, String> {
    if images.has_context(from) {
        return Ok(Origin::Named(from.to_owned()));
    }
    let name = from.to_lowercase();
    let stages = &dockerfile.stages;
    let named = |stage: &Stage| stage.name.as_deref() == Some(name.as_str());
    if let Some(found) = stages[..stage].iter().rposition(named) {
        return Ok(Origin::Stage(found));
    }
    if let Some(later) = stages[stage..].iter().position(named) {
        let line = stages[stage + later].line;
        return Err(if later == 0 {
            format!("--from={from} names the stage it stands in")
        } else {
            format!("--from={from} names a stage that begins later, on line {line}")
        });
    }
    if let Ok(number) = from.parse::<usize>() {
        return if number < stage {
            Ok(Origin::Stage(number))
        } else {
            Err(format!("--from={from} is not the number of an earlier stage"))
        };
    }
    if from == "scratch" {
        return Ok(Origin::Scratch);
    }
    from.parse().map(Origin::Image).map_err(|error: crate::image::ImageError| error.to_string())
}

/// The `--from` values of an instruction, and where they are written.
pub(super) fn origins(instruction: &Instruction) -> Vec<(&str, Span)> {
    match instruction {
        Instruction::Copy(copy) => {
            copy.from.iter().map(|word| (word.text.as_str(), word.span)).collect()
        }
        Instruction::Run(run) => run
            .mounts
            .iter()
            .filter_map(|mount| mount.value("from").map(|word| (word.text.as_str(), word.span)))
            .collect(),
        _ => Vec::new(),
    }
}

/// Refuses a name or number of a stage that is not built yet, before anything is built. What
/// [`is_readable`] refuses is not told again.
pub(super) fn looks_back(
    from: &str,
    stage: usize,
    line: usize,
    span: Span,
    dockerfile: &Dockerfile,
    images: &dyn BaseImages,
) -> Result<(), PlanError> {
    if images.has_context(from) || resolve_origin(from, stage, dockerfile, images).is_ok() {
        return Ok(());
    }
    let Some(later) = later_stage(from, stage, dockerfile) else { return Ok(()) };
    let other = &dockerfile.stages[later];
    let message = if names(other, stage, dockerfile) {
        format!("--from={from} names a stage that needs this one: a cycle")
    } else {
        format!("--from={from} names a stage that begins later, on line {}", other.line)
    };
    Err(PlanError::BadOrigin { file: file(dockerfile), line, span, stage: other.span, message })
}

/// Refuses what no stage may say, needed or not: a number that no stage has, a name that is none, a cycle.
pub(super) fn is_readable(
    from: &str,
    stage: usize,
    line: usize,
    span: Span,
    dockerfile: &Dockerfile,
    images: &dyn BaseImages,
) -> Result<(), PlanError> {
    if from.is_empty() || resolve_origin(from, stage, dockerfile, images).is_ok() {
        return Ok(());
    }
    let file = file(dockerfile);
    match later_stage(from, stage, dockerfile) {
        None => {
            let last = dockerfile.stages.len() - 1;
            let message = match from.parse::<usize>() {
                Ok(_) => format!("--from={from} is the number of no stage: the last one is {last}"),
                Err(_) => match from.parse::<Reference>() {
                    Ok(_) => return Ok(()),
                    Err(error) => format!("--from={from}: {error}"),
                },
            };
            Err(PlanError::BadBase { file, line, span, message, hint: None })
        }
        Some(later) if takes_from(later, stage, dockerfile, &mut BTreeSet::new()) => {
            let message = if later == stage {
                format!("--from={from} names the stage it stands in")
            } else {
                format!("--from={from} names a stage that needs this one: a cycle")
            };
            let stage = dockerfile.stages[later].span;
            Err(PlanError::BadOrigin { file, line, span, stage, message })
        }
        Some(_) => Ok(()),
    }
}

/// Whether `stage` is `wanted`, or takes files from it by however many others.
fn takes_from(
    stage: usize,
    wanted: usize,
    dockerfile: &Dockerfile,
    seen: &mut BTreeSet<usize>,
) -> bool {
    if stage == wanted {
        return true;
    }
    let instructions = &dockerfile.stages[stage].instructions;
    let named = instructions.iter().flat_map(|instruction| origins(&instruction.node));
    let sources = named.filter_map(|(from, _)| later_stage(from, 0, dockerfile));
    let sources: Vec<usize> = sources.collect();
    seen.insert(stage)
        && sources.into_iter().any(|source| takes_from(source, wanted, dockerfile, seen))
}

fn later_stage(from: &str, stage: usize, dockerfile: &Dockerfile) -> Option<usize> {
    let name = from.to_lowercase();
    let named = |stage: &Stage| stage.name.as_deref() == Some(name.as_str());
    let later = dockerfile.stages[stage..].iter().position(named).map(|place| stage + place);
    later.or_else(|| from.parse().ok()).filter(|number| *number < dockerfile.stages.len())
}

/// Whether a stage itself names another one.
fn names(stage: &Stage, wanted: usize, dockerfile: &Dockerfile) -> bool {
    let wanted_name = dockerfile.stages[wanted].name.as_deref();
    let is = |text: &str| {
        text.parse() == Ok(wanted) || Some(text.to_lowercase().as_str()) == wanted_name
    };
    let copied = stage.instructions.iter().flat_map(|instruction| origins(&instruction.node));
    is(&stage.base.text) || copied.into_iter().any(|(from, _)| is(from))
}
