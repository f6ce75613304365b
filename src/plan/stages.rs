//! Which stages are built, on what, and what they need of each other.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::dockerfile::{
    Dockerfile, ExpandError, Instruction, Located, ParseError, Stage, parse_trigger,
};
use crate::image::{Image, Platform, Reference};
use crate::report::Failure;

use super::scope::{Arguments, is_predefined};

/// Where the images of `FROM` come from; the one thing the plan has to ask for.
pub trait BaseImages {
    /// Manifest and config of an image; its layers stay where they are.
    ///
    /// # Errors
    /// The image cannot be had.
    fn image(&self, reference: &Reference, platform: &Platform) -> Result<Image, Failure>;

    /// The image of the named context `name`, if there is such a context and it is an image.
    ///
    /// # Errors
    /// There is one, but it cannot be read.
    fn context_image(&self, name: &str, platform: &Platform) -> Result<Option<Image>, Failure>;

    /// Whether there is a named context `name` of any kind.
    fn has_context(&self, name: &str) -> bool;
}

/// What a stage starts from.
#[derive(Debug)]
pub enum Base {
    /// `FROM scratch`.
    Scratch,
    /// An earlier stage, by number.
    Stage(usize),
    /// An image and what it is called.
    Image(Box<Image>, String),
}

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
}

/// One stage that will be built.
#[derive(Debug)]
pub struct PlannedStage<'a> {
    /// Its number in the Dockerfile, counted from 0.
    pub number: usize,
    /// Its name, else its number: what a person calls it.
    pub label: String,
    /// The stage as written.
    pub source: &'a Stage,
    /// What it starts from.
    pub base: Base,
    /// The instructions, those that the base left as triggers first.
    pub instructions: Vec<Located<Instruction>>,
    /// How many of `instructions` are triggers.
    pub triggers: usize,
    /// The platform it is built for.
    pub platform: Platform,
    /// Stages of the plan that copy files from this one.
    pub copied_by: BTreeSet<usize>,
    /// Stages of the plan that start from this one.
    pub base_of: BTreeSet<usize>,
}

/// The stages to build, in order, the target last.
#[derive(Debug)]
pub struct Plan<'a> {
    /// In an order in which everything is built before it is needed.
    pub stages: Vec<PlannedStage<'a>>,
    /// The arguments before the first `FROM`, evaluated.
    pub globals: BTreeMap<String, String>,
    /// Arguments that were given and that no stage of the Dockerfile declares.
    pub unused_arguments: Vec<String>,
}

/// Why there is no plan.
#[derive(Debug, Error)]
pub enum PlanError {
    /// `--target` names no stage.
    #[error("there is no stage {wanted:?} in {file}; it has {known}")]
    NoSuchTarget {
        /// What was asked for.
        wanted: String,
        /// The Dockerfile.
        file: String,
        /// The stages there are.
        known: String,
    },
    /// A variable of `FROM` or of a global `ARG` cannot be expanded.
    #[error("{file}:{line}: {source}")]
    Expand {
        /// The Dockerfile.
        file: String,
        /// The line.
        line: usize,
        /// Why.
        source: ExpandError,
    },
    /// `FROM` names nothing that can be an image.
    #[error("{file}:{line}: {message}")]
    BadBase {
        /// The Dockerfile.
        file: String,
        /// The line.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A trigger that the base image carries is no instruction.
    #[error("the base of stage {stage} has a broken ONBUILD trigger: {source}")]
    BadTrigger {
        /// The stage.
        stage: String,
        /// Why.
        source: Box<ParseError>,
    },
    /// The base image could not be had.
    #[error("{file}:{line}: could not get the base image")]
    NoBase {
        /// The Dockerfile.
        file: String,
        /// The line.
        line: usize,
        /// Why.
        failure: Failure,
    },
}

/// Plans the build of `target`, by name or number, or of the last stage.
///
/// # Errors
/// The target does not exist, a `FROM` cannot be understood, or a base cannot be had.
pub fn plan<'a>(
    dockerfile: &'a Dockerfile,
    target: Option<&str>,
    arguments: &Arguments,
    platform: &Platform,
    images: &dyn BaseImages,
) -> Result<Plan<'a>, PlanError> {
    let escape = dockerfile.escape();
    let globals = arguments
        .globals(&dockerfile.global_args, escape)
        .map_err(|(line, source)| PlanError::Expand { file: file(dockerfile), line, source })?;
    let goal = find_target(dockerfile, target)?;
    let mut planner =
        Planner { dockerfile, globals, platform, images, done: BTreeMap::new(), order: Vec::new() };
    planner.visit(goal)?;
    let Planner { mut done, order, globals, .. } = planner;
    let unused_arguments = unused(dockerfile, arguments);
    let stages = order.iter().filter_map(|number| done.remove(number)).collect();
    Ok(Plan { stages, globals, unused_arguments })
}

fn file(dockerfile: &Dockerfile) -> String {
    dockerfile.source.name.clone()
}

fn find_target(dockerfile: &Dockerfile, target: Option<&str>) -> Result<usize, PlanError> {
    let stages = &dockerfile.stages;
    let Some(wanted) = target else { return Ok(stages.len().saturating_sub(1)) };
    let name = wanted.to_lowercase();
    if let Some(found) = stages.iter().rposition(|stage| stage.name.as_ref() == Some(&name)) {
        return Ok(found);
    }
    if let Some(number) = wanted.parse().ok().filter(|number| *number < stages.len()) {
        return Ok(number);
    }
    let known: Vec<_> = stages
        .iter()
        .enumerate()
        .map(|(number, stage)| stage.name.clone().unwrap_or_else(|| number.to_string()))
        .collect();
    Err(PlanError::NoSuchTarget {
        wanted: wanted.to_owned(),
        file: file(dockerfile),
        known: known.join(", "),
    })
}

/// Given arguments that neither the global scope nor any stage declares.
fn unused(dockerfile: &Dockerfile, arguments: &Arguments) -> Vec<String> {
    let in_stages = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let declared: BTreeSet<&str> = in_stages
        .filter_map(|instruction| match &instruction.node {
            Instruction::Arg(arg) => Some(arg),
            _ => None,
        })
        .chain(dockerfile.global_args.iter().map(|arg| &arg.node))
        .flat_map(|arg| arg.items.iter().map(|item| item.name.text.as_str()))
        .collect();
    let given = arguments.given().keys();
    given
        .filter(|name| !declared.contains(name.as_str()) && !is_predefined(name))
        .cloned()
        .collect()
}

struct Planner<'a, 'p> {
    dockerfile: &'a Dockerfile,
    globals: BTreeMap<String, String>,
    platform: &'p Platform,
    images: &'p dyn BaseImages,
    done: BTreeMap<usize, PlannedStage<'a>>,
    order: Vec<usize>,
}

impl<'a> Planner<'a, '_> {
    /// Plans stage `number` after everything it needs. Stages only look back, so this ends.
    fn visit(&mut self, number: usize) -> Result<(), PlanError> {
        if self.done.contains_key(&number) {
            return Ok(());
        }
        let stage = &self.dockerfile.stages[number];
        let platform = self.stage_platform(stage)?;
        let base = self.base(number, stage, &platform)?;
        let mut instructions = self.triggers(stage, &base)?;
        let triggers = instructions.len();
        instructions.extend(stage.instructions.iter().cloned());
        let sources: BTreeSet<usize> = instructions
            .iter()
            .flat_map(|instruction| origins(&instruction.node))
            .filter_map(|from| match self.origin(&from, number) {
                Ok(Origin::Stage(source)) => Some(source),
                _ => None,
            })
            .collect();
        if let Base::Stage(below) = base {
            self.visit(below)?;
            self.done.entry(below).and_modify(|stage| {
                stage.base_of.insert(number);
            });
        }
        for source in sources {
            self.visit(source)?;
            self.done.entry(source).and_modify(|stage| {
                stage.copied_by.insert(number);
            });
        }
        let label = stage.name.clone().unwrap_or_else(|| number.to_string());
        let (copied_by, base_of) = (BTreeSet::new(), BTreeSet::new());
        let planned = PlannedStage {
            number,
            label,
            source: stage,
            base,
            instructions,
            triggers,
            platform,
            copied_by,
            base_of,
        };
        self.done.insert(number, planned);
        self.order.push(number);
        Ok(())
    }

    fn expand(&self, word: &crate::dockerfile::Word, line: usize) -> Result<String, PlanError> {
        word.expand(&self.globals, self.dockerfile.escape()).map_err(|source| PlanError::Expand {
            file: file(self.dockerfile),
            line,
            source,
        })
    }

    fn stage_platform(&self, stage: &Stage) -> Result<Platform, PlanError> {
        let Some(word) = &stage.platform else { return Ok(self.platform.clone()) };
        let text = self.expand(word, stage.line)?;
        if text.is_empty() {
            return Ok(self.platform.clone());
        }
        text.parse::<Platform>().map_err(|error| self.bad_base(stage, error.to_string()))
    }

    fn bad_base(&self, stage: &Stage, message: String) -> PlanError {
        PlanError::BadBase { file: file(self.dockerfile), line: stage.line, message }
    }

    fn base(&self, number: usize, stage: &Stage, platform: &Platform) -> Result<Base, PlanError> {
        let name = self.expand(&stage.base, stage.line)?;
        if name.is_empty() {
            let message = format!("FROM {} is empty after expansion", stage.base.text);
            return Err(self.bad_base(stage, message));
        }
        let no_base =
            |failure| PlanError::NoBase { file: file(self.dockerfile), line: stage.line, failure };
        if self.images.has_context(&name) {
            let image = self.images.context_image(&name, platform).map_err(no_base)?;
            return match image {
                Some(image) => Ok(Base::Image(Box::new(image), name)),
                None => Err(self.bad_base(
                    stage,
                    format!("the build context {name:?} is a directory; FROM needs an image"),
                )),
            };
        }
        if name == "scratch" {
            return Ok(Base::Scratch);
        }
        if let Some(below) = self.stage_named(&name, number) {
            return Ok(Base::Stage(below));
        }
        let reference: Reference = name
            .parse()
            .map_err(|error: crate::image::ImageError| self.bad_base(stage, error.to_string()))?;
        let image = self.images.image(&reference, platform).map_err(no_base)?;
        Ok(Base::Image(Box::new(image), name))
    }

    /// The nearest stage of that name before `before`.
    fn stage_named(&self, name: &str, before: usize) -> Option<usize> {
        let name = name.to_lowercase();
        self.dockerfile.stages[..before]
            .iter()
            .rposition(|stage| stage.name.as_deref() == Some(name.as_str()))
    }

    fn triggers(&self, stage: &Stage, base: &Base) -> Result<Vec<Located<Instruction>>, PlanError> {
        let label = stage.name.clone().unwrap_or_else(|| stage.base.text.clone());
        let texts: Vec<String> = match base {
            Base::Scratch => Vec::new(),
            Base::Image(image, _) => image.config().config.on_build.clone(),
            Base::Stage(below) => {
                let below = &self.dockerfile.stages[*below].instructions;
                let triggers = below.iter().filter_map(|instruction| match &instruction.node {
                    Instruction::Onbuild(onbuild) => Some(onbuild.expression.clone()),
                    _ => None,
                });
                triggers.collect()
            }
        };
        let parse = |text: &String| {
            parse_trigger(text).map_err(|source| PlanError::BadTrigger {
                stage: label.clone(),
                source: Box::new(source),
            })
        };
        texts.iter().map(parse).collect()
    }

    fn origin(&self, from: &str, stage: usize) -> Result<Origin, String> {
        resolve_origin(from, stage, self.dockerfile, self.images)
    }
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
    from.parse().map(Origin::Image).map_err(|error: crate::image::ImageError| error.to_string())
}

/// The `--from` values of an instruction.
fn origins(instruction: &Instruction) -> Vec<String> {
    match instruction {
        Instruction::Copy(copy) => copy.from.iter().map(|word| word.text.clone()).collect(),
        Instruction::Run(run) => run
            .mounts
            .iter()
            .filter_map(|mount| mount.value("from").map(|word| word.text.clone()))
            .collect(),
        _ => Vec::new(),
    }
}
