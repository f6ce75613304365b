//! Stages: a base, then step after step.

use std::sync::{Arc, RwLock};

use tracer::Marks;
use tracing::field::Empty;

use super::ahead::Again;
use super::at_once::{Schedule, name_of};
use super::between::{Between, Finished, KeptTree};
use super::builder::Builder;
use super::by_content::ByContent;
use super::by_reads::Contents;
use super::keys::Keys;
use super::layers::{Gathered, flavor_for};
use super::needs::touches_root;
use super::repositories;
use crate::cache::{Lineage, ReadSet};
use crate::dockerfile::Instruction;
use crate::image::{Digest, Flavor, Image, ImageLayer};
use crate::plan::{Action, Base, Key, Plan, PlannedStage, Scope, step};
use crate::report::{Failure, in_span, label, labelled};
use crate::rootfs::Rootfs;

/// The fold over the stages, as one of them sees it.
#[derive(Clone, Copy)]
pub(super) struct Stages<'a, 'p> {
    pub(super) builder: &'a Builder<'a>,
    pub(super) plan: &'p Plan<'p>,
    pub(super) between: &'a Between,
}

impl Stages<'_, '_> {
    pub(super) fn keys(&self) -> Keys<'_> {
        let Between { downloads, known, .. } = self.between;
        Keys::of(self.builder, self.plan, downloads, known)
    }

    /// A stage that is built before this one.
    pub(super) fn finished(&self, number: usize) -> Result<Arc<Finished>, Failure> {
        let missing = || Failure::new(format!("stage {number} is needed before it is built"));
        self.between.finished(number).ok_or_else(missing)
    }

    /// Builds all stages; answers the image of the one that was asked for.
    pub(super) fn build_all(self) -> Result<Image, Failure> {
        let all = self.plan.stages.iter();
        let (stages, left): (Vec<_>, Vec<_>) =
            all.partition(|it| self.between.ahead.wants(it.number));
        for stage in left {
            tracing::info!("Stage {} is not needed: what is copied from it is cached", stage.label);
        }
        let schedule = Schedule::new(self.plan, &stages);
        let most = self.builder.most_at_once;
        if most == 1 || !schedule.is_any_independent() {
            return self.build_in_turn(&stages);
        }
        tracing::info!("Independent stages are built at the same time, at most {most}");
        self.build_at_once(&stages, schedule, most)?;
        Ok(self.finished(self.plan.result)?.image.clone())
    }

    /// In the plan's order.
    fn build_in_turn(self, stages: &[&PlannedStage<'_>]) -> Result<Image, Failure> {
        let mut result = None;
        for (place, stage) in stages.iter().enumerate() {
            let finished = self.build_one(stage, place, stages.len())?;
            let wanted = stage.number == self.plan.result;
            if wanted {
                result = Some(finished.image.clone());
            }
            match stages.get(place + 1) {
                Some(next) => self.keep(stage, finished, Some(next))?,
                None if self.builder.order.own_root.materialize && !wanted => {
                    self.materialize(finished)?;
                }
                None => {}
            }
        }
        result.ok_or_else(|| Failure::new("the Dockerfile has no stage"))
    }

    /// Builds the stage at this place among those that are built.
    pub(super) fn build_one(
        self,
        stage: &PlannedStage<'_>,
        place: usize,
        count: usize,
    ) -> Result<Finished, Failure> {
        if count > 1 {
            tracing::info!("Building stage {} ({} of {count})", stage.label, place + 1);
        }
        let span = tracing::info_span!("stage", kaniko.stage = stage.label.as_str(), error = Empty);
        in_span(span, || self.build(stage, stage.number == self.plan.result))
    }

    fn build(&self, stage: &PlannedStage<'_>, last: bool) -> Result<Finished, Failure> {
        self.between.begin(stage.number);
        let image = self.base_image(stage)?;
        let image = if last { self.in_format(image)? } else { image };
        let image = self.in_flavor(image)?;
        let mut config = image.config().clone();
        config.config.on_build.clear();
        if last {
            config.config.labels.extend(self.builder.order.outputs.labels.clone());
        }
        let below = match &stage.base {
            Base::Stage(number) => Some(self.finished(*number)?),
            Base::Scratch | Base::Image(..) => None,
        };
        let below = below.as_deref();
        let inherited = below.map(|below| below.scope.clone());
        let lineage = below.map_or_else(Lineage::start, |below| below.lineage);
        let by_content = below.map_or(ByContent::Same, |below| below.by_content);
        let (arguments, globals) = (self.builder.arguments, self.builder.globals);
        let env = &config.config.env;
        let mut scope = inherited.unwrap_or_else(|| Scope::new(arguments, globals, env));
        scope.begin_stage(env);
        let image = image.with_config(config);
        let mut fold = Fold {
            image,
            rootfs: None,
            on_disk: 0,
            lineage,
            by_content,
            again: None,
            made: None,
            read: None,
            contents: Contents::default(),
            missed: false,
            marks: None,
            scope,
            command_is_own: false,
            gathered: None,
            last,
            number: 0,
        };
        fold.again = self.look_again(stage, &fold)?;
        if let Some(first) = self.first_with_tree(stage, &fold) {
            let why = first.and_then(|number| stage.instructions.get(number));
            let other = if stage.kept { "--materialize" } else { "a later stage" };
            let why = why.map_or(other, |it| it.text.as_str());
            self.lay_out(stage, why, &mut fold)?;
        }
        if last {
            self.upload_base(&fold.image);
        }
        for (number, instruction) in stage.instructions.iter().enumerate() {
            fold.number = number + 1;
            let span = tracing::info_span!(
                "Command",
                kaniko.command = instruction.text.as_str(),
                kaniko.stage = stage.label.as_str(),
                kaniko.instruction.index = fold.number as u64,
                kaniko.cache.hit = Empty,
                kaniko.cache.key = Empty,
                error = Empty
            );
            let mut step = || self.one_step(stage, instruction, number, &mut fold);
            in_span(span, || match label() {
                None => step(),
                Some(_) => labelled(
                    format!("{} {}/{}", name_of(stage), number + 1, stage.instructions.len()),
                    step,
                ),
            })?;
        }
        self.take_gathered(&mut fold)?;
        if stage.kept {
            self.lay_out(stage, "--materialize", &mut fold)?;
        }
        let Fold { image, rootfs, on_disk, lineage, by_content, scope, .. } = fold;
        let tree = RwLock::new(KeptTree { rootfs, on_disk });
        Ok(Finished { image, lineage, by_content, scope, tree })
    }

    /// The first step that needs the tree, or that only others do; nothing where nobody is known to need it.
    fn first_with_tree(&self, stage: &PlannedStage<'_>, fold: &Fold) -> Option<Option<usize>> {
        let ahead = &self.between.ahead;
        match &fold.again {
            Some(again) => again.open.map(Some),
            None if ahead.needs_tree(stage.number) => Some(ahead.first_with_tree(stage.number)),
            None => None,
        }
    }

    /// In the media types that are wanted. All layers that come get theirs from here.
    fn in_format(&self, image: Image) -> Result<Image, Failure> {
        let flavor = self.builder.order.outputs.flavor.unwrap_or(image.flavor());
        image.with_flavor(flavor).map_err(|error| {
            Failure::new(format!("--image-format: {error}"))
                .hint("an image with zstd layers is an OCI image: use --image-format=oci")
        })
    }

    fn base_image(&self, stage: &PlannedStage<'_>) -> Result<Image, Failure> {
        match &stage.base {
            Base::Scratch => Ok(Image::scratch(Flavor::Docker, &stage.platform)),
            Base::Image(image, _) => Ok((**image).clone()),
            Base::Stage(number) => Ok(self.finished(*number)?.image.clone()),
        }
    }

    /// The base in a family of media types that has a name for the layers to come.
    fn in_flavor(&self, image: Image) -> Result<Image, Failure> {
        let flavor = flavor_for(self.builder.order.layers.compression, image.flavor());
        if flavor != image.flavor() {
            tracing::warn!(
                "Docker's media types have no name for layers of zstd, and no tables of contents: the \
                 image gets OCI's"
            );
        }
        let doing = "could not give the base OCI's media types";
        image.with_flavor(flavor).map_err(|error| Failure::new(doing).because(error))
    }

    /// What the base brings can go up while the steps run.
    fn upload_base(&self, image: &Image) {
        for layer in image.layers() {
            self.upload(layer);
        }
    }

    /// A new layer of the image that is pushed goes up while the next steps run.
    pub(super) fn send(&self, layer: &ImageLayer, fold: &Fold) {
        if fold.last {
            self.upload(layer);
        }
    }

    fn upload(&self, layer: &ImageLayer) {
        let outputs = &self.builder.order.outputs;
        if outputs.push && !outputs.destinations.is_empty() {
            let to = repositories(&outputs.destinations);
            let pending =
                self.builder.registry.start_upload(layer, &to, &self.builder.work.blobs());
            self.between.keep_upload(pending);
        }
    }

    fn one_step(
        &self,
        stage: &PlannedStage<'_>,
        instruction: &crate::dockerfile::Located<Instruction>,
        number: usize,
        fold: &mut Fold,
    ) -> Result<(), Failure> {
        let builder = self.builder;
        builder.go_on()?;
        let mut config = fold.image.config().clone();
        let trigger = number < stage.triggers;
        let ready = step(
            instruction,
            stage.number,
            builder.dockerfile,
            builder.images,
            &mut config,
            &mut fold.scope,
            &mut fold.command_is_own,
        )
        .map_err(|error| builder.step_failure(&error, trigger))?;
        if !matches!(instruction.node, Instruction::Arg(_)) {
            let trigger = if trigger { "ONBUILD " } else { "" };
            let what = shown(&ready.text);
            match label() {
                // It says so already.
                Some(_) => tracing::info!("{trigger}{what}"),
                None => {
                    let count = stage.instructions.len();
                    tracing::info!("[{}/{count}] {trigger}{what}", fold.number);
                }
            }
        }
        fold.image = fold.image.clone().with_config(config);
        let place = builder.place(&ready, trigger);
        let shown = |failure: Failure| {
            let failure = failure.at(&place);
            if trigger { failure } else { failure.excerpt(&builder.excerpt(instruction.span)) }
        };
        if touches_root(&instruction.node) && ready.action != Action::Configure {
            let cached = self.cached_layer(stage, number, &ready.action, fold);
            if builder.cache.is_some() {
                tracing::Span::current().record("kaniko.cache.hit", cached.is_some());
            }
            if let Some(layer) = cached {
                self.record(&ready, Some(layer), fold);
                return Ok(());
            }
            self.lay_out(stage, &ready.text, fold)?;
            if let Some(layer) = self.layer_by_reads(stage, number, &ready.action, fold) {
                tracing::Span::current().record("kaniko.cache.hit", true);
                self.record(&ready, Some(layer), fold);
                return Ok(());
            }
        }
        let outcome = match &ready.action {
            Action::Configure if builder.order.layers.metadata && ready.created_by.is_some() => {
                let layer = self.pack_nothing(fold).map_err(shown)?;
                // Where the tree lacks layers before it, it is unpacked with them.
                fold.on_disk += usize::from(fold.on_disk == fold.image.layers().len());
                self.record(&ready, Some(layer), fold);
                return Ok(());
            }
            Action::Configure => None,
            Action::Run(run) => {
                Some(self.run(run, &ready, (stage, instruction.text.as_str()), fold))
            }
            Action::Copy(copy) => Some(self.copy(copy, fold)),
            Action::Workdir(path) => Some(self.workdir(path, fold)),
        };
        let layer = match outcome {
            None => None,
            Some(done) => {
                let difference = done.map_err(shown)?;
                fold.contents.forget(&difference);
                self.take(difference, fold).map_err(shown)?
            }
        };
        if let Some(layer) = &layer {
            self.keep_in_cache(stage, number, &ready.action, layer, fold);
            fold.on_disk += 1;
        }
        self.record(&ready, layer, fold);
        Ok(())
    }
}

/// What a stage is at one point.
pub(super) struct Fold {
    pub(super) image: Image,
    rootfs: Option<Rootfs>,
    /// What a tracer keeps of the tree between steps.
    marks: Option<Marks>,
    /// How many layers of the image are in the tree.
    pub(super) on_disk: usize,
    pub(super) lineage: Lineage,
    pub(super) by_content: ByContent,
    /// What was found out when the stage began.
    again: Option<Again>,
    /// What the last step made, where somebody wants to know.
    pub(super) made: Option<Digest>,
    /// What it read, where that is known.
    pub(super) read: Option<ReadSet>,
    /// Of files of the tree.
    pub(super) contents: Contents,
    /// Whether a step of this stage was not in the cache.
    pub(super) missed: bool,
    scope: Scope,
    command_is_own: bool,
    pub(super) gathered: Option<Gathered>,
    last: bool,
    pub(super) number: usize,
}

impl Fold {
    pub(super) fn root(&self) -> Result<&Rootfs, Failure> {
        self.rootfs.as_ref().ok_or_else(no_root)
    }

    pub(super) fn take_root(&mut self) -> Option<Rootfs> {
        self.rootfs.take()
    }

    pub(super) fn put_root(&mut self, rootfs: Rootfs) {
        self.rootfs = Some(rootfs);
    }

    /// Forgets what a tracer keeps of the tree: layers were laid over it.
    pub(super) fn forget_marks(&mut self) {
        self.marks = None;
    }

    pub(super) fn root_and_marks(&mut self) -> Result<(&Rootfs, &mut Marks), Failure> {
        let rootfs = self.rootfs.as_ref().ok_or_else(no_root)?;
        let marks = self.marks.get_or_insert_with(|| Marks::new(rootfs.tree().path(), b"/"));
        Ok((rootfs, marks))
    }

    /// The key of a step by the content of what is copied, where that differs from the other and is known.
    pub(super) fn own_key(&self, stage: &PlannedStage<'_>, number: usize) -> Option<Key> {
        self.again.as_ref()?.by_content.get(&(stage.number, number)).copied()
    }

    pub(super) fn root_mut(&mut self) -> Result<&mut Rootfs, Failure> {
        self.rootfs.as_mut().ok_or_else(no_root)
    }
}

/// The tree of a stage that should have been kept.
pub(super) fn gone(number: usize) -> Failure {
    Failure::new(format!("the files of stage {number} are gone"))
}

fn no_root() -> Failure {
    Failure::new("this step needs files, but the plan said that the stage needs none")
}

/// An instruction for a log line: its first line, cut.
pub(super) fn shown(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut cut: String = line.chars().take(160).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}
