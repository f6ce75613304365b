//! What `--from` names: a stage before this one, a context, an image.

use std::collections::BTreeSet;

use super::stages::{BaseImages, PlanError, file};
use crate::dockerfile::{Dockerfile, Instruction, Span, Word};
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

/// One `--from`. COPY counts stages as well as naming them; for a mount of RUN, as in Docker, a number is
/// the name of an image like any other.
#[derive(Debug, Clone, Copy)]
pub(super) struct From<'i> {
    pub(super) text: &'i str,
    pub(super) counts: bool,
}

/// Where a `--from` is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct At {
    pub(super) stage: usize,
    pub(super) line: usize,
    pub(super) span: Span,
}

impl From<'_> {
    fn number(self) -> Option<usize> {
        self.text.parse().ok().filter(|_| self.counts)
    }

    /// The stage that it means, wherever that is: of several with one name the last one of the file.
    fn stage(self, dockerfile: &Dockerfile) -> Option<usize> {
        let stages = &dockerfile.stages;
        let name = self.text.to_lowercase();
        match self.number() {
            Some(number) => Some(number).filter(|number| *number < stages.len()),
            None => stages.iter().rposition(|stage| stage.name.as_ref() == Some(&name)),
        }
    }
}

/// What a `--from` of an instruction in stage `stage` means.
///
/// # Errors
/// A number or name that is no stage before this one and no image either.
pub(super) fn resolve_origin(
    from: From<'_>,
    stage: usize,
    dockerfile: &Dockerfile,
    images: &dyn BaseImages,
) -> Result<Origin, String> {
    let text = from.text;
    if from.number().is_none() && images.has_context(text) {
        return Ok(match images.is_scratch(text) {
            true => Origin::Scratch,
            false => Origin::Named(text.to_owned()),
        });
    }
    match (from.stage(dockerfile), from.number()) {
        (Some(found), _) if found < stage => Ok(Origin::Stage(found)),
        (Some(found), _) => Err(not_before(text, found, stage, dockerfile)),
        (None, Some(_)) => {
            let last = dockerfile.stages.len().saturating_sub(1);
            Err(format!("--from={text} is the number of no stage: the last one is {last}"))
        }
        (None, None) if text == "scratch" => Ok(Origin::Scratch),
        (None, None) => text
            .parse()
            .map(Origin::Image)
            .map_err(|error: crate::image::ImageError| format!("--from={text}: {error}")),
    }
}

/// Why stage `found` is none that `stage` can take files from.
fn not_before(text: &str, found: usize, stage: usize, dockerfile: &Dockerfile) -> String {
    let other = &dockerfile.stages[found];
    if found == stage {
        return format!("--from={text} names the stage it stands in");
    }
    let own = dockerfile.stages[stage].name.as_deref();
    let is_based_on = own.is_some_and(|name| other.base.text == name);
    if is_based_on || takes_from(found, stage, dockerfile, &mut BTreeSet::new()) {
        return format!("--from={text} names a stage that needs this one: a cycle");
    }
    format!("--from={text} names a stage that begins later, on line {}", other.line)
}

/// The `--from` values of an instruction, and where they are written.
pub(super) fn origins(instruction: &Instruction) -> Vec<(From<'_>, Span)> {
    fn named(word: &Word, counts: bool) -> (From<'_>, Span) {
        (From { text: &word.text, counts }, word.span)
    }
    match instruction {
        Instruction::Copy(copy) => copy.from.iter().map(|word| named(word, true)).collect(),
        Instruction::Run(run) => {
            let words = run.mounts.iter().filter_map(|mount| mount.value("from"));
            words.map(|word| named(word, false)).collect()
        }
        _ => Vec::new(),
    }
}

/// Refuses what a `--from` says, before anything is built: a number that no stage has, a name that is
/// none, a cycle, and in a stage that is needed what is not built yet.
pub(super) fn is_readable(
    from: From<'_>,
    at: At,
    is_needed: bool,
    dockerfile: &Dockerfile,
    images: &dyn BaseImages,
) -> Result<(), PlanError> {
    let At { stage, line, span } = at;
    if from.text.is_empty() {
        return Ok(());
    }
    let Err(message) = resolve_origin(from, stage, dockerfile, images) else { return Ok(()) };
    let file = file(dockerfile);
    let Some(other) = from.stage(dockerfile) else {
        return Err(PlanError::BadBase { file, line, span, message, hint: None });
    };
    if !is_needed && !takes_from(other, stage, dockerfile, &mut BTreeSet::new()) {
        return Ok(());
    }
    let other = dockerfile.stages[other].span;
    Err(PlanError::BadOrigin { file, line, span, stage: other, message })
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
    let sources: Vec<usize> = named.filter_map(|(from, _)| from.stage(dockerfile)).collect();
    seen.insert(stage)
        && sources.into_iter().any(|source| takes_from(source, wanted, dockerfile, seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::parse;
    use crate::image::{Image, Platform};
    use crate::report::Failure;

    /// No images; contexts called `dir`, `nothing` and `0`.
    struct Contexts;

    impl BaseImages for Contexts {
        fn image(&self, reference: &Reference, _: &Platform) -> Result<Image, Failure> {
            Err(Failure::new(format!("there is no {reference}")))
        }

        fn context_image(&self, _: &str, _: &Platform) -> Result<Option<Image>, Failure> {
            Ok(None)
        }

        fn has_context(&self, name: &str) -> bool {
            ["dir", "nothing", "0"].contains(&name)
        }

        fn is_scratch(&self, name: &str) -> bool {
            name == "nothing"
        }
    }

    #[test]
    fn what_is_named() {
        let text = "FROM x AS a\nFROM x AS B\nFROM x AS a\nFROM x AS here\nFROM x AS later\n";
        let file = parse("Dockerfile", text.as_bytes()).expect("well formed");
        for (text, of_copy, of_mount) in [
            ("a", "Stage(2)", "Stage(2)"),
            ("b", "Stage(1)", "Stage(1)"),
            ("0", "Stage(0)", "Named(\"0\")"),
            ("+1", "Stage(1)", "--from=+1: image name"),
            ("2", "Stage(2)", "library/2"),
            ("3", "names the stage it stands in", "library/3"),
            ("4", "begins later, on line 5", "library/4"),
            ("5", "is the number of no stage: the last one is 4", "library/5"),
            ("here", "names the stage it stands in", "names the stage it stands in"),
            ("Later", "begins later, on line 5", "begins later, on line 5"),
            ("dir", "Named(\"dir\")", "Named(\"dir\")"),
            ("nothing", "Scratch", "Scratch"),
            ("scratch", "Scratch", "Scratch"),
            ("busybox", "library/busybox", "library/busybox"),
            ("Busybox", "--from=Busybox: image name", "--from=Busybox: image name"),
        ] {
            for (counts, want) in [(true, of_copy), (false, of_mount)] {
                let found = resolve_origin(From { text, counts }, 3, &file, &Contexts);
                let told = match found {
                    Ok(Origin::Image(reference)) => reference.to_string(),
                    Ok(origin) => format!("{origin:?}"),
                    Err(message) => message,
                };
                assert!(told.contains(want), "{text} {counts}: {told}");
            }
        }
    }
}
