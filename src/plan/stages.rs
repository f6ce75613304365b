//! Which stages are built, on what, and what they need of each other.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::dockerfile::{
    Dockerfile, ExpandError, Instruction, Located, ParseError, Span, Stage, Word, nearest,
    parse_trigger,
};
use crate::image::{Image, Platform, Reference};
use crate::report::Failure;

use super::goals::Goals;
use super::origin::{At, From, Origin, is_readable, origins, resolve_origin};
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

    /// Whether the named context `name` is `docker-image://scratch`: nothing at all.
    fn is_scratch(&self, name: &str) -> bool;
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
    /// The instructions, those that the base left as triggers first. Where it is a context of files, which
    /// has no triggers, the first one copies these, in the place of `FROM`.
    pub instructions: Vec<Located<Instruction>>,
    /// How many of `instructions` are triggers.
    pub triggers: usize,
    /// The platform it is built for.
    pub platform: Platform,
    /// Stages of the plan that copy files from this one.
    pub copied_by: BTreeSet<usize>,
    /// Stages of the plan that start from this one.
    pub base_of: BTreeSet<usize>,
    /// Whether its files are wanted after the build.
    pub kept: bool,
}

/// The stages to build, in order.
#[derive(Debug)]
pub struct Plan<'a> {
    /// In an order in which everything is built before it is needed.
    pub stages: Vec<PlannedStage<'a>>,
    /// The number of the stage whose image is the result.
    pub result: usize,
    /// The arguments before the first `FROM`, evaluated.
    pub globals: BTreeMap<String, String>,
    /// Arguments that were given and that no stage of the Dockerfile declares.
    pub unused_arguments: Vec<String>,
}

impl Plan<'_> {
    /// The files of the result are wanted after the build, not only its image.
    pub fn keep_result(&mut self) {
        for stage in &mut self.stages {
            stage.kept |= stage.number == self.result;
        }
    }

    /// What instructions name as the place to take files from, in lower case: stages, contexts, images.
    #[must_use]
    pub fn origins(&self) -> BTreeSet<String> {
        let instructions = self.stages.iter().flat_map(|stage| &stage.instructions);
        let named = instructions.flat_map(|instruction| origins(&instruction.node));
        named.map(|(from, _)| from.text.to_lowercase()).collect()
    }
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
        /// What was perhaps meant.
        hint: Option<String>,
    },
    /// A variable of `FROM` or of a global `ARG` cannot be expanded.
    #[error("{file}:{line}: {source}")]
    Expand {
        /// The Dockerfile.
        file: String,
        /// The line.
        line: usize,
        /// The part that is wrong.
        span: Span,
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
        /// The part that is wrong.
        span: Span,
        /// What is wrong.
        message: String,
        /// What was perhaps meant.
        hint: Option<String>,
    },
    /// `--from` or `from=` names a stage that cannot be had there.
    #[error("{file}:{line}: {message}")]
    BadOrigin {
        /// The Dockerfile.
        file: String,
        /// The line.
        line: usize,
        /// Where it is named.
        span: Span,
        /// Where that stage begins.
        stage: Span,
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
        /// The `FROM`.
        span: Span,
        /// Why.
        failure: Failure,
    },
}

/// Plans the build of what is wanted.
///
/// # Errors
/// A target does not exist, a `FROM` or `--from` cannot be understood, or a base cannot be had.
pub fn plan<'a>(
    dockerfile: &'a Dockerfile,
    goals: &Goals,
    arguments: &Arguments,
    platform: &Platform,
    images: &dyn BaseImages,
) -> Result<Plan<'a>, PlanError> {
    let escape = dockerfile.escape();
    let globals =
        arguments.globals(&dockerfile.global_args, escape).map_err(|(line, span, source)| {
            PlanError::Expand { file: file(dockerfile), line, span, source }
        })?;
    let goals = goals.find(dockerfile)?;
    let mut planner =
        Planner { dockerfile, globals, platform, images, done: BTreeMap::new(), order: Vec::new() };
    let wanted: Vec<usize> = goals.others.into_iter().chain([goals.result]).collect();
    planner.read_bases()?;
    let mut looked_at = BTreeSet::new();
    for stage in &wanted {
        planner.look(*stage, &mut looked_at)?;
    }
    for stage in wanted {
        planner.visit(stage)?;
    }
    let Planner { mut done, order, globals, .. } = planner;
    let unused_arguments = unused(dockerfile, arguments);
    let stages = order.iter().filter_map(|number| done.remove(number)).collect();
    Ok(Plan { stages, result: goals.result, globals, unused_arguments })
}

pub(super) fn file(dockerfile: &Dockerfile) -> String {
    dockerfile.source.name.clone()
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
    /// What every `FROM` and `--from` says has to be readable, also in a stage that nobody needs.
    fn read_bases(&self) -> Result<(), PlanError> {
        for (number, stage) in self.dockerfile.stages.iter().enumerate() {
            let name = self.base_name(stage)?;
            self.stage_platform(stage)?;
            let is_image = !self.images.has_context(&name)
                && name != "scratch"
                && self.stage_named(&name, number).is_none();
            if is_image {
                self.reference(stage, number, &name)?;
            }
            for instruction in &stage.instructions {
                for (from, span) in origins(&instruction.node) {
                    let at = At { stage: number, line: instruction.line, span };
                    is_readable(from, at, false, self.dockerfile, self.images)?;
                }
            }
        }
        Ok(())
    }

    fn reference(&self, stage: &Stage, number: usize, name: &str) -> Result<Reference, PlanError> {
        name.parse().map_err(|error: crate::image::ImageError| {
            let lower = name.to_lowercase();
            let is_stage = self.stage_named(&lower, number).is_some();
            let hint = is_stage.then(|| format!("the stage is FROM {lower}: case counts there"));
            PlanError::BadBase {
                file: file(self.dockerfile),
                line: stage.line,
                span: stage.base.span,
                message: error.to_string(),
                hint,
            }
        })
    }

    /// Looks at the names in stage `number` and in all that it needs, before any image is asked for.
    fn look(&self, number: usize, looked_at: &mut BTreeSet<usize>) -> Result<(), PlanError> {
        if !looked_at.insert(number) {
            return Ok(());
        }
        let stage = &self.dockerfile.stages[number];
        if self.replaced(stage).is_some() {
            return Ok(());
        }
        if let Some(below) = self.look_at_base(number, stage)? {
            self.look(below, looked_at)?;
        }
        for instruction in &stage.instructions {
            for (from, span) in origins(&instruction.node) {
                self.warn_of_number(from, instruction.line);
                let at = At { stage: number, line: instruction.line, span };
                is_readable(from, at, true, self.dockerfile, self.images)?;
                if let Ok(Origin::Stage(source)) = self.origin(from, number) {
                    self.look(source, looked_at)?;
                }
            }
        }
        Ok(())
    }

    /// As in Docker, a mount goes by names alone: what looks like the number of a stage is an image's name.
    fn warn_of_number(&self, from: From<'_>, line: usize) {
        let text = from.text;
        let is_number = !from.counts && text.parse::<usize>().is_ok();
        if is_number && !self.images.has_context(text) {
            let file = file(self.dockerfile);
            tracing::warn!(
                "{file}:{line}: --mount with from={text} means an image: a mount takes stages by name only"
            );
        }
    }

    /// The stage that a stage starts from. As in Docker, the name of one that begins later is an image's:
    /// that is told, since it is seldom meant.
    fn look_at_base(&self, number: usize, stage: &Stage) -> Result<Option<usize>, PlanError> {
        let name = self.base_name(stage)?;
        if self.images.has_context(&name) {
            return Ok(None);
        }
        if let Some(below) = self.stage_named(&name, number) {
            return Ok(Some(below));
        }
        if name == "scratch" {
            return Ok(None);
        }
        let lower = name.to_lowercase();
        let mut later = self.dockerfile.stages[number + 1..].iter();
        if let Some(later) = later.find(|stage| stage.name.as_ref() == Some(&lower)) {
            tracing::warn!(
                "{}:{}: FROM {name} means an image: the stage of that name begins later, on line {}",
                file(self.dockerfile),
                stage.line,
                later.line
            );
        }
        Ok(None)
    }

    fn base_name(&self, stage: &Stage) -> Result<String, PlanError> {
        let name = self.expand(&stage.base, stage.line)?;
        if name.is_empty() {
            let message = format!("FROM {} is empty after expansion", stage.base.text);
            return Err(self.bad_base(stage, message));
        }
        Ok(name)
    }

    /// Plans stage `number` after everything it needs. Stages only look back, so this ends.
    fn visit(&mut self, number: usize) -> Result<(), PlanError> {
        if self.done.contains_key(&number) {
            return Ok(());
        }
        let stage = &self.dockerfile.stages[number];
        let platform = self.stage_platform(stage)?;
        let replaced = self.replaced(stage);
        let (base, mut instructions) = match replaced {
            Some(name) => self.context_base(number, stage, name, &platform)?,
            None => self.base(number, stage, &platform)?,
        };
        let mut triggers = 0;
        if replaced.is_none() {
            let carried = self.triggers(stage, &base)?;
            triggers = carried.len();
            instructions.extend(carried);
            instructions.extend(stage.instructions.iter().cloned());
        }
        let sources = self.sources(number, &instructions);
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
            kept: false,
        };
        self.done.insert(number, planned);
        self.order.push(number);
        Ok(())
    }

    /// The stages that instructions take files from.
    fn sources(&self, stage: usize, instructions: &[Located<Instruction>]) -> BTreeSet<usize> {
        let named = instructions.iter().flat_map(|instruction| origins(&instruction.node));
        let sources = named.filter_map(|(from, _)| match self.origin(from, stage) {
            Ok(Origin::Stage(source)) => Some(source),
            Ok(Origin::Context | Origin::Named(_) | Origin::Image(_) | Origin::Scratch)
            | Err(_) => None,
        });
        sources.collect()
    }

    fn expand(&self, word: &Word, line: usize) -> Result<String, PlanError> {
        word.expand(&self.globals, self.dockerfile.escape()).map_err(|source| PlanError::Expand {
            file: file(self.dockerfile),
            line,
            span: word.span,
            source,
        })
    }

    fn stage_platform(&self, stage: &Stage) -> Result<Platform, PlanError> {
        let Some(word) = &stage.platform else { return Ok(self.platform.clone()) };
        let text = self.expand(word, stage.line)?;
        let bad = |message, hint| PlanError::BadBase {
            file: file(self.dockerfile),
            line: stage.line,
            span: word.span,
            message,
            hint,
        };
        if text.is_empty() {
            let known: Vec<&str> = self.globals.keys().map(String::as_str).collect();
            let name = word.text.trim_matches(['$', '{', '}']);
            let message = format!("--platform={} is empty after expansion", word.text);
            return Err(bad(message, nearest(name, &known)));
        }
        text.parse::<Platform>().map_err(|error| bad(error.to_string(), None))
    }

    fn bad_base(&self, stage: &Stage, message: String) -> PlanError {
        let (file, line, span) = (file(self.dockerfile), stage.line, stage.base.span);
        PlanError::BadBase { file, line, span, message, hint: None }
    }

    /// An image that cannot be had may be a stage that is misspelt, or that begins later.
    fn no_base(&self, number: usize, name: &str, failure: Failure) -> PlanError {
        let stage = &self.dockerfile.stages[number];
        let (file, line, span) = (file(self.dockerfile), stage.line, stage.base.span);
        let later = &self.dockerfile.stages[number..];
        let lower = name.to_lowercase();
        if let Some(later) = later.iter().find(|stage| stage.name.as_deref() == Some(&lower)) {
            let message = match later.line {
                at if at == line => format!("FROM {name} names the stage that it begins"),
                at => format!("FROM {name} names a stage that begins later, on line {at}"),
            };
            return PlanError::BadOrigin { file, line, span, stage: later.span, message };
        }
        let stages = self.dockerfile.stages[..number].iter();
        let known: Vec<&str> = stages.filter_map(|stage| stage.name.as_deref()).collect();
        let failure = match nearest(name, &known) {
            Some(hint) if !failure.has_hint() => failure.hint(hint),
            _ => failure,
        };
        PlanError::NoBase { file, line, span, failure }
    }

    /// What a stage starts from, and what is to be done before anything that it says.
    fn base(
        &self,
        number: usize,
        stage: &Stage,
        platform: &Platform,
    ) -> Result<(Base, Vec<Located<Instruction>>), PlanError> {
        let name = self.base_name(stage)?;
        if self.images.has_context(&name) {
            return self.context_base(number, stage, &name, platform);
        }
        if let Some(below) = self.stage_named(&name, number) {
            return Ok((Base::Stage(below), Vec::new()));
        }
        if name == "scratch" {
            return Ok((Base::Scratch, Vec::new()));
        }
        let reference = self.reference(stage, number, &name)?;
        let no_base = |failure| self.no_base(number, &name, failure);
        let image = self.images.image(&reference, platform).map_err(no_base)?;
        Ok((Base::Image(Box::new(image), name), Vec::new()))
    }

    /// The context that is built instead of a stage, because it has its name.
    fn replaced<'s>(&self, stage: &'s Stage) -> Option<&'s str> {
        stage.name.as_deref().filter(|name| self.images.has_context(name))
    }

    /// A context as a base. One of files is an image of its files: nothing, into which they are copied.
    fn context_base(
        &self,
        number: usize,
        stage: &Stage,
        name: &str,
        platform: &Platform,
    ) -> Result<(Base, Vec<Located<Instruction>>), PlanError> {
        if self.images.is_scratch(name) {
            return Ok((Base::Scratch, Vec::new()));
        }
        let image = self.images.context_image(name, platform);
        if let Some(image) = image.map_err(|failure| self.no_base(number, name, failure))? {
            return Ok((Base::Image(Box::new(image), name.to_owned()), Vec::new()));
        }
        match parse_trigger(&format!("COPY --from={name} . /")) {
            Ok(copy) => {
                let copy = Located { line: stage.line, span: stage.base.span, ..copy };
                Ok((Base::Scratch, vec![copy]))
            }
            Err(error) => Err(self.bad_base(
                stage,
                format!("the files of the build context {name:?} cannot be copied: {error}"),
            )),
        }
    }

    /// The nearest stage of that name before `before`. As in Docker, `FROM` has to say it in lower case,
    /// however it was written where the stage begins.
    fn stage_named(&self, name: &str, before: usize) -> Option<usize> {
        self.dockerfile.stages[..before]
            .iter()
            .rposition(|stage| stage.name.as_deref() == Some(name))
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

    fn origin(&self, from: From<'_>, stage: usize) -> Result<Origin, String> {
        resolve_origin(from, stage, self.dockerfile, self.images)
    }
}
