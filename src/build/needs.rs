//! How much of its files a stage has to have on disk.
//!
//! A stage that only copies and configures does not read the files of its
//! base: directories, links and accounts tell where things go and whose they
//! are, and the index what is replaced. Such a stage gets an outline.

use crate::dockerfile::{Instruction, Source};
use crate::plan::{Base, Plan, PlannedStage};

/// What a stage needs on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// It changes the config only.
    Nothing,
    /// Directories, links, accounts.
    Outline,
    /// Everything.
    Files,
}

/// What a stage needs on disk, for itself and for those that start from it or copy from it.
pub(super) fn need(plan: &Plan<'_>, stage: &PlannedStage<'_>) -> Need {
    let above = need_of_later(plan, stage);
    match (&stage.base, above) {
        // The tree of the base is used as it is.
        (Base::Stage(below), Need::Outline) => {
            by_number(plan, *below).map_or(Need::Files, |below| need(plan, below)).max(above)
        }
        _ => above,
    }
}

fn need_of_later(plan: &Plan<'_>, stage: &PlannedStage<'_>) -> Need {
    if stage.kept || !stage.copied_by.is_empty() {
        return Need::Files;
    }
    let own = stage.instructions.iter().map(|instruction| of(&instruction.node));
    let above = stage.base_of.iter().map(|number| match by_number(plan, *number) {
        Some(above) => need_of_later(plan, above),
        None => Need::Nothing,
    });
    own.chain(above).max().unwrap_or(Need::Nothing)
}

fn by_number<'p, 'a>(plan: &'p Plan<'a>, number: usize) -> Option<&'p PlannedStage<'a>> {
    plan.stages.iter().find(|stage| stage.number == number)
}

/// Whether an instruction may change files.
pub(super) fn touches_root(instruction: &Instruction) -> bool {
    of(instruction) != Need::Nothing
}

/// What one instruction needs.
pub(super) fn of(instruction: &Instruction) -> Need {
    match instruction {
        Instruction::Run(_) => Need::Files,
        Instruction::Copy(_) | Instruction::Workdir(_) => Need::Outline,
        Instruction::Add(add) => {
            // Hard links of an archive may lead to files of the base.
            let is_archive = |source: &Source| match source {
                Source::Path(word) => {
                    !["http://", "https://"].iter().any(|scheme| word.text.starts_with(scheme))
                }
                Source::Heredoc { .. } => false,
            };
            match add.unpack {
                Some(false) => Need::Outline,
                None if !add.files.sources.iter().any(is_archive) => Need::Outline,
                None | Some(true) => Need::Files,
            }
        }
        Instruction::Arg(_)
        | Instruction::Cmd(_)
        | Instruction::Entrypoint(_)
        | Instruction::Env(_)
        | Instruction::Expose(_)
        | Instruction::Healthcheck(_)
        | Instruction::Label(_)
        | Instruction::Maintainer(_)
        | Instruction::Onbuild(_)
        | Instruction::Shell(_)
        | Instruction::StopSignal(_)
        | Instruction::User(_)
        | Instruction::Volume(_) => Need::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Image, Platform, Reference};
    use crate::plan::{Arguments, BaseImages, Goals, plan};
    use crate::report::Failure;

    struct Scratch;

    impl BaseImages for Scratch {
        fn image(&self, _: &Reference, platform: &Platform) -> Result<Image, Failure> {
            Ok(Image::scratch(crate::image::Flavor::Oci, platform))
        }

        fn context_image(&self, _: &str, _: &Platform) -> Result<Option<Image>, Failure> {
            Ok(None)
        }

        fn has_context(&self, _: &str) -> bool {
            false
        }

        fn is_scratch(&self, _: &str) -> bool {
            false
        }
    }

    #[test]
    fn what_stages_need() {
        use Need::{Files, Nothing, Outline};
        for (text, want) in [
            ("FROM x\nENV A=1\n", vec![Nothing]),
            ("FROM x\nCOPY a b\nWORKDIR /w\nUSER 1\n", vec![Outline]),
            ("FROM x\nCOPY a b\nRUN true\n", vec![Files]),
            ("FROM x\nADD https://h/x /\nADD --unpack=false x.tar /\n", vec![Outline]),
            ("FROM x\nADD x.tar /\n", vec![Files]),
            ("FROM x\nADD $SOURCE /\n", vec![Files]),
            ("FROM x\nADD --unpack=true https://h/x.tar /\n", vec![Files]),
            ("FROM x AS a\nCOPY a b\nFROM a\nWORKDIR /w\n", vec![Outline, Outline]),
            ("FROM x AS a\nCOPY a b\nFROM a\nRUN true\n", vec![Files, Files]),
            ("FROM x AS a\nRUN true\nFROM a\nCOPY a b\n", vec![Files, Files]),
            ("FROM x AS a\nRUN true\nFROM a\nENV A=1\n", vec![Files, Nothing]),
            ("FROM x AS a\nCOPY a b\nFROM x\nCOPY --from=a b c\n", vec![Files, Outline]),
            ("FROM x AS a\nENV A=1\nFROM a AS b\nCOPY a b\nFROM b\nRUN true\n", vec![Files; 3]),
        ] {
            let dockerfile = crate::dockerfile::parse("Dockerfile", text.as_bytes()).expect(text);
            let host = Platform::host();
            let arguments = Arguments::new(std::collections::BTreeMap::new(), &host, &host, None);
            let plan =
                plan(&dockerfile, &Goals::default(), &arguments, &host, &Scratch).expect(text);
            let found: Vec<Need> = plan.stages.iter().map(|stage| need(&plan, stage)).collect();
            assert_eq!(found, want, "{text}");
        }
    }
}
