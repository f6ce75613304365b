//! The words of an instruction in which variables are replaced.

use crate::dockerfile::{Instruction, Pairs, Source, Transfer, Word};

/// A word, or the body of a here-document.
#[derive(Debug)]
pub(super) enum Text<'i> {
    Word(&'i Word),
    Body(String),
}

/// What of an instruction is expanded; ARG and EXPOSE excepted.
pub(super) fn of(instruction: &Instruction) -> Vec<Text<'_>> {
    match instruction {
        Instruction::Env(pairs) | Instruction::Label(pairs) => of_pairs(pairs),
        Instruction::User(word) | Instruction::Workdir(word) | Instruction::StopSignal(word) => {
            vec![Text::Word(word)]
        }
        Instruction::Volume(volume) => volume.paths.iter().map(Text::Word).collect(),
        Instruction::Copy(copy) => of_transfer(&copy.files),
        Instruction::Add(add) => {
            let mut texts = of_transfer(&add.files);
            texts.extend(add.checksum.iter().map(Text::Word));
            texts
        }
        Instruction::Run(run) => {
            let fields = run.mounts.iter().flat_map(|mount| &mount.fields);
            fields.filter_map(|field| field.value.as_ref()).map(Text::Word).collect()
        }
        Instruction::Arg(_)
        | Instruction::Expose(_)
        | Instruction::Maintainer(_)
        | Instruction::Cmd(_)
        | Instruction::Entrypoint(_)
        | Instruction::Shell(_)
        | Instruction::Healthcheck(_)
        | Instruction::Onbuild(_) => Vec::new(),
    }
}

fn of_pairs(pairs: &Pairs) -> Vec<Text<'_>> {
    pairs.items.iter().flat_map(|pair| [Text::Word(&pair.key), Text::Word(&pair.value)]).collect()
}

fn of_transfer(files: &Transfer) -> Vec<Text<'_>> {
    let sources = files.sources.iter().filter_map(|source| match source {
        Source::Path(word) => Some(Text::Word(word)),
        Source::Heredoc { heredoc, .. } => {
            heredoc.expand.then(|| Text::Body(heredoc.body().into_owned()))
        }
    });
    let others = files.chown.iter().chain(&files.chmod).chain([&files.dest]).map(Text::Word);
    sources.chain(others).collect()
}
