//! Rules that need the variables of a stage, its base or its context.

use std::collections::{BTreeMap, BTreeSet};

use super::report::{Findings, Place};
use super::rule::Rule;
use super::text::hint;
use super::words::{self, Text};
use crate::context::Ignore;
use crate::dockerfile::{
    CommandLine, Dockerfile, Instruction, Located, Pairs, Source, Transfer, Word, expand_body,
};
use crate::image::ImageConfig;
use crate::plan::{Arguments, Base, BaseImages, Plan, PlannedStage, Scope, step};

/// Words that secrets are called by, each as a part of a name between underscores.
const SECRET: [&str; 10] = [
    "apikey",
    "auth",
    "credential",
    "credentials",
    "key",
    "passwd",
    "password",
    "pword",
    "secret",
    "token",
];

/// Parts that say that it is none.
const NO_SECRET: [&str; 3] = ["file", "public", "version"];

/// Switches of the reference that are no variables.
const NO_VARIABLES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// What a stage is looked at with.
#[derive(Clone, Copy)]
pub struct Surroundings<'s> {
    /// The file.
    pub dockerfile: &'s Dockerfile,
    /// The build arguments.
    pub arguments: &'s Arguments,
    /// What of the context does not count.
    pub ignore: &'s Ignore,
    /// Where images and named contexts come from.
    pub images: &'s dyn BaseImages,
}

/// A stage after its last instruction.
#[derive(Clone)]
struct Ended {
    scope: Scope,
    config: ImageConfig,
    has_workdir: bool,
}

/// Looks at the stages of a plan.
pub fn stages(plan: &Plan<'_>, around: Surroundings<'_>, found: &mut Findings) {
    let mut ended: BTreeMap<usize, Ended> = BTreeMap::new();
    for stage in &plan.stages {
        let below = match &stage.base {
            Base::Stage(number) => ended.get(number).cloned(),
            Base::Scratch | Base::Image(..) => None,
        };
        let start = below.unwrap_or_else(|| start(stage, plan, around));
        base_platform(stage, found);
        let mut walk = Walk { around, stage, now: start, commands: BTreeMap::new(), found };
        walk.now.config.config.on_build.clear();
        walk.now.scope.begin_stage(&walk.now.config.config.env);
        for (place, instruction) in stage.instructions.iter().enumerate() {
            let place = match place < stage.triggers {
                true => Place::of_triggers(stage.source),
                false => Place::from(instruction),
            };
            walk.look(instruction, place);
            walk.go_on(instruction);
        }
        ended.insert(stage.number, walk.now);
    }
}

fn start(stage: &PlannedStage<'_>, plan: &Plan<'_>, around: Surroundings<'_>) -> Ended {
    let image = match &stage.base {
        Base::Image(image, _) => (**image).clone(),
        Base::Scratch | Base::Stage(_) => {
            crate::image::Image::scratch(crate::image::Flavor::Docker, &stage.platform)
        }
    };
    let config = image.config().clone();
    let scope = Scope::new(around.arguments, &plan.globals, &config.config.env);
    Ended { scope, config, has_workdir: false }
}

fn base_platform(stage: &PlannedStage<'_>, found: &mut Findings) {
    let Base::Image(image, name) = &stage.base else { return };
    let (config, wanted) = (image.config(), &stage.platform);
    if config.os != wanted.os || config.architecture != wanted.architecture {
        let is = format!("{}/{}", config.os, config.architecture);
        let message = format!("{name} is an image for {is}, and {wanted} is built for");
        found.add(Rule::InvalidBaseImagePlatform, stage.source.into(), message);
    }
}

struct Walk<'w, 'f> {
    around: Surroundings<'w>,
    stage: &'w PlannedStage<'w>,
    now: Ended,
    /// The last instruction of each kind that counts once.
    commands: BTreeMap<&'static str, Place<'w>>,
    found: &'f mut Findings,
}

impl<'w> Walk<'w, '_> {
    /// Takes the instruction into variables and settings. What is wrong with it the build tells.
    fn go_on(&mut self, instruction: &Located<Instruction>) {
        let Surroundings { dockerfile, images, .. } = self.around;
        let Ended { scope, config, .. } = &mut self.now;
        let number = self.stage.number;
        if let Err(error) = step(instruction, number, dockerfile, images, config, scope, &mut false)
        {
            tracing::debug!("line {}: {error}", instruction.line);
        }
    }

    /// Triggers are looked at where they are carried out, as everything below.
    fn look(&mut self, instruction: &'w Located<Instruction>, place: Place<'w>) {
        self.undefined(&instruction.node, place);
        match &instruction.node {
            Instruction::Arg(arg) => {
                for item in &arg.items {
                    self.secret("ARG", &item.name.text, place);
                }
            }
            Instruction::Env(pairs) => {
                self.legacy("ENV", pairs, place);
                for pair in &pairs.items {
                    let key = self.expand(&pair.key).unwrap_or_default();
                    self.secret("ENV", &key, place);
                }
            }
            Instruction::Label(pairs) => self.legacy("LABEL", pairs, place),
            Instruction::Cmd(command) => self.command("CMD", Some(command), place),
            Instruction::Entrypoint(command) => self.command("ENTRYPOINT", Some(command), place),
            Instruction::Healthcheck(_) => self.command("HEALTHCHECK", None, place),
            Instruction::Workdir(word) => self.workdir(word, place),
            Instruction::Expose(expose) => self.ports(&expose.ports, place),
            Instruction::Copy(copy) if copy.from.is_none() => self.ignored(&copy.files, place),
            Instruction::Add(add) => self.ignored(&add.files, place),
            Instruction::Copy(_)
            | Instruction::Maintainer(_)
            | Instruction::Run(_)
            | Instruction::Shell(_)
            | Instruction::User(_)
            | Instruction::Volume(_)
            | Instruction::StopSignal(_)
            | Instruction::Onbuild(_) => {}
        }
    }

    fn expand(&self, word: &Word) -> Option<String> {
        word.expand(&self.now.scope, self.around.dockerfile.escape()).ok()
    }

    fn undefined(&mut self, instruction: &Instruction, place: Place<'_>) {
        let escape = self.around.dockerfile.escape();
        let scope = &self.now.scope;
        let mut unset = BTreeSet::new();
        let mut declared: BTreeSet<String> =
            scope.arguments().iter().map(|(name, _)| name.clone()).collect();
        let reported = |text: &Text<'_>| match text {
            Text::Word(word) => word.expand_reporting(scope, escape).ok(),
            Text::Body(body) => expand_body(body, scope).ok(),
        };
        if let Instruction::Arg(arg) = instruction {
            for item in &arg.items {
                let default =
                    item.value.as_ref().filter(|_| scope.given(&item.name.text).is_none());
                let expanded = default.and_then(|word| word.expand_reporting(scope, escape).ok());
                let names = expanded.into_iter().flat_map(|expanded| expanded.unset);
                unset.extend(names.filter(|name| !declared.contains(name)));
                declared.insert(item.name.text.clone());
            }
        }
        for text in words::of(instruction) {
            let names = reported(&text).into_iter().flat_map(|expanded| expanded.unset);
            unset.extend(names.filter(|name| !declared.contains(name)));
        }
        let known: BTreeSet<&str> = scope.names().collect();
        let unset = unset.iter().filter(|name| !NO_VARIABLES.contains(&name.as_str()));
        let messages: Vec<String> = unset
            .map(|name| format!("${name} is not defined here{}", hint(name, &known)))
            .collect();
        for message in messages {
            self.found.add(Rule::UndefinedVar, place, message);
        }
    }

    fn secret(&mut self, keyword: &str, name: &str, place: Place<'_>) {
        let lower = name.to_lowercase();
        let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
        if has(&SECRET) && !has(&NO_SECRET) {
            let message = format!(
                "{keyword} {name} would leave a secret in the image: give it with RUN --mount=type=secret"
            );
            self.found.add(Rule::SecretsUsedInArgOrEnv, place, message);
        }
    }

    fn legacy(&mut self, keyword: &str, pairs: &Pairs, place: Place<'_>) {
        if pairs.legacy {
            let message = format!(
                "{keyword} with a blank between name and value: write {keyword} NAME=VALUE"
            );
            self.found.add(Rule::LegacyKeyValueFormat, place, message);
        }
    }

    fn command(&mut self, keyword: &'static str, command: Option<&CommandLine>, place: Place<'w>) {
        if let Some(earlier) = self.commands.insert(keyword, place) {
            let message =
                format!("this {keyword} has no effect: line {} has another one", place.line);
            // The comments are those of the instruction that counts.
            let earlier = Place { comments: place.comments, ..earlier };
            self.found.add(Rule::MultipleInstructionsDisallowed, earlier, message);
        }
        let in_shell = matches!(command, Some(CommandLine::Shell(_)));
        if in_shell && self.now.config.config.shell.is_empty() {
            let message = format!(
                "{keyword} is run by a shell, which passes no signals on: write it as a JSON array"
            );
            self.found.add(Rule::JSONArgsRecommended, place, message);
        }
    }

    fn workdir(&mut self, word: &Word, place: Place<'_>) {
        let path = self.expand(word);
        let relative = path.as_ref().filter(|path| !path.starts_with('/'));
        if let (Some(path), false) = (relative, self.now.has_workdir) {
            let message = format!(
                "where {path} is depends on the base image: begin with an absolute WORKDIR"
            );
            self.found.add(Rule::WorkdirRelativePath, place, message);
        }
        self.now.has_workdir = true;
    }

    fn ports(&mut self, words: &[Word], place: Place<'_>) {
        let escape = self.around.dockerfile.escape();
        let lists = words.iter().filter_map(|word| word.expand_list(&self.now.scope, escape).ok());
        for port in lists.flatten().collect::<Vec<_>>() {
            let (outer, inner) = port.rsplit_once(':').unwrap_or(("", &port));
            let protocol = inner.split_once('/').map_or("", |(_, protocol)| protocol);
            if protocol != protocol.to_lowercase() {
                let message = format!("the protocol of {port} is not in lower case");
                self.found.add(Rule::ExposeProtoCasing, place, message);
            }
            if !outer.trim_matches(':').is_empty() {
                let message =
                    format!("{port} names more than a port of the container, without effect");
                self.found.add(Rule::ExposeInvalidFormat, place, message);
            }
        }
    }

    /// What can come back by an exception is not told: that takes a look at the files.
    fn ignored(&mut self, files: &Transfer, place: Place<'_>) {
        let ignore = self.around.ignore;
        if ignore.has_exceptions() {
            return;
        }
        for source in &files.sources {
            let Source::Path(word) = source else { continue };
            let Some(path) = self.expand(word).filter(|path| !path.contains("://")) else {
                continue;
            };
            let is_root = path.split('/').all(|part| matches!(part, "" | "."));
            let ignored =
                if is_root { ignore.covers_root() } else { ignore.matches(path.as_bytes()) };
            if ignored {
                let message = format!("{path} is excluded by .dockerignore");
                self.found.add(Rule::CopyIgnoredFile, place, message);
            }
        }
    }
}
