//! Stages: a base, then step after step.

use std::collections::HashMap;

use tracer::Marks;
use tracing::field::Empty;

use super::ahead::Ahead;
use super::builder::Builder;
use super::by_content::ByContent;
use super::by_reads::Contents;
use super::downloads::Downloads;
use super::keys::{Keys, known_files};
use super::layers::{Gathered, flavor_for};
use super::needs::touches_root;
use super::repositories;
use crate::cache::{Lineage, ReadSet};
use crate::dockerfile::Instruction;
use crate::image::{Digest, Flavor, Image, ImageLayer};
use crate::plan::{Action, Base, Plan, PlannedStage, Scope, step};
use crate::registry::PendingUpload;
use crate::report::{Failure, in_span};
use crate::rootfs::Rootfs;
use crate::step::KnownFiles;

/// A stage that is built.
pub(super) struct Finished {
    pub(super) image: Image,
    /// Its tree, while a later stage may need it.
    pub(super) rootfs: Option<Rootfs>,
    /// How many layers of the image are in the tree.
    pub(super) on_disk: usize,
    pub(super) lineage: Lineage,
    by_content: ByContent,
    /// The variables at its end, which a stage that starts from it begins with.
    scope: Scope,
}

/// The fold over the stages.
pub(super) struct Stages<'a, 'p> {
    pub(super) builder: &'a Builder<'a>,
    pub(super) plan: &'p Plan<'p>,
    pub(super) finished: HashMap<usize, Finished>,
    /// Trees of images that files are copied from.
    pub(super) foreign: HashMap<String, Rootfs>,
    /// Trees of stages that start from the image of an earlier one.
    pub(super) prepared: HashMap<usize, Rootfs>,
    /// Files of the web that were fetched, by URL.
    pub(super) downloads: Downloads,
    known: KnownFiles,
    pub(super) ahead: Ahead,
    uploads: Vec<PendingUpload>,
}

impl<'a, 'p> Stages<'a, 'p> {
    pub(super) fn new(builder: &'a Builder<'a>, plan: &'p Plan<'p>) -> Result<Self, Failure> {
        let (finished, foreign, uploads) = (HashMap::new(), HashMap::new(), Vec::new());
        let (downloads, ahead) = (Downloads::default(), Ahead::nothing(plan));
        let known =
            builder.cache.map(|it| known_files(it.settings(), builder.context)).unwrap_or_default();
        let prepared = HashMap::new();
        let mut stages =
            Self { builder, plan, finished, foreign, prepared, downloads, known, ahead, uploads };
        if let Some(cache) = builder.cache {
            stages.ahead = Ahead::look(&stages.keys(), cache);
            stages.look_up_by_reads();
        }
        for stage in plan.stages.iter().filter(|stage| stages.ahead.needs_tree(stage.number)) {
            if let Base::Image(image, _) = &stage.base {
                builder.images.prefetch(image, &builder.work.blobs());
            }
        }
        Ok(stages)
    }

    pub(super) fn keys(&self) -> Keys<'_> {
        let Builder { order, context, dockerfile, arguments, images, interrupt, work, .. } =
            *self.builder;
        let (latest, plan, downloads) = (self.builder.times.latest, self.plan, &self.downloads);
        Keys {
            order,
            context,
            dockerfile,
            arguments,
            plan,
            images,
            interrupt,
            work,
            latest,
            downloads,
            known: &self.known,
        }
    }

    /// The uploads that were begun.
    pub(super) fn into_uploads(self) -> Vec<PendingUpload> {
        self.uploads
    }

    /// Builds all stages, in the plan's order; answers the image of the one that was asked for.
    pub(super) fn build_all(&mut self) -> Result<Image, Failure> {
        let all = self.plan.stages.iter();
        let (stages, left): (Vec<_>, Vec<_>) = all.partition(|it| self.ahead.wants(it.number));
        for stage in left {
            tracing::info!("Stage {} is not needed: what is copied from it is cached", stage.label);
        }
        let count = stages.len();
        let mut result = None;
        for (place, stage) in stages.iter().enumerate() {
            if count > 1 {
                tracing::info!("Building stage {} ({} of {count})", stage.label, place + 1);
            }
            let wanted = stage.number == self.plan.result;
            let span =
                tracing::info_span!("stage", kaniko.stage = stage.label.as_str(), error = Empty);
            let finished = in_span(span, || self.build(stage, wanted))?;
            if wanted {
                result = Some(finished.image.clone());
            }
            match stages.get(place + 1) {
                Some(next) => self.keep(stage, finished, next)?,
                None if self.builder.order.own_root.materialize && !wanted => {
                    self.materialize(finished)?;
                }
                None => {}
            }
        }
        result.ok_or_else(|| Failure::new("the Dockerfile has no stage"))
    }

    fn build(&mut self, stage: &PlannedStage<'_>, last: bool) -> Result<Finished, Failure> {
        let image = self.base_image(stage)?;
        let image = if last { self.in_format(image)? } else { image };
        let image = self.in_flavor(image)?;
        let mut config = image.config().clone();
        config.config.on_build.clear();
        if last {
            config.config.labels.extend(self.builder.order.outputs.labels.clone());
        }
        let below = match &stage.base {
            Base::Stage(number) => self.finished.get(number),
            Base::Scratch | Base::Image(..) => None,
        };
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
        self.look_again(stage, &fold)?;
        if self.ahead.needs_tree(stage.number) {
            let why = self.ahead.first_with_tree(stage.number);
            let why = why.and_then(|number| stage.instructions.get(number));
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
            in_span(span, || self.one_step(stage, instruction, number, &mut fold))?;
        }
        self.take_gathered(&mut fold)?;
        if stage.kept {
            self.lay_out(stage, "--materialize", &mut fold)?;
        }
        let Fold { image, rootfs, on_disk, lineage, by_content, scope, .. } = fold;
        Ok(Finished { image, rootfs, on_disk, lineage, by_content, scope })
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
            Base::Stage(number) => match self.finished.get(number) {
                Some(finished) => Ok(finished.image.clone()),
                None => Err(Failure::new(format!("stage {number} is needed before it is built"))),
            },
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
    fn upload_base(&mut self, image: &Image) {
        for layer in image.layers() {
            self.upload(layer);
        }
    }

    /// A new layer of the image that is pushed goes up while the next steps run.
    pub(super) fn send(&mut self, layer: &ImageLayer, fold: &Fold) {
        if fold.last {
            self.upload(layer);
        }
    }

    fn upload(&mut self, layer: &ImageLayer) {
        let outputs = &self.builder.order.outputs;
        if outputs.push && !outputs.destinations.is_empty() {
            let to = repositories(&outputs.destinations);
            let pending =
                self.builder.registry.start_upload(layer, &to, &self.builder.work.blobs());
            self.uploads.push(pending);
        }
    }

    fn one_step(
        &mut self,
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
            let count = stage.instructions.len();
            tracing::info!("[{}/{count}] {trigger}{}", fold.number, shown(&ready.text));
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

    pub(super) fn root_mut(&mut self) -> Result<&mut Rootfs, Failure> {
        self.rootfs.as_mut().ok_or_else(no_root)
    }
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
