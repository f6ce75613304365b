//! Stages: a base, then step after step.

use std::collections::HashMap;

use tracer::Marks;

use super::builder::Builder;
use super::layers::{Gathered, flavor_for};
use super::needs::{Need, need};
use super::repositories;
use crate::dockerfile::Instruction;
use crate::image::{Flavor, Image, ImageLayer};
use crate::plan::{Action, Base, Plan, PlannedStage, Scope, step};
use crate::registry::PendingUpload;
use crate::report::Failure;
use crate::rootfs::Rootfs;

/// A stage that is built.
pub(super) struct Finished {
    pub(super) image: Image,
    /// Its tree, while a later stage may need it.
    pub(super) rootfs: Option<Rootfs>,
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
    uploads: Vec<PendingUpload>,
}

impl<'a, 'p> Stages<'a, 'p> {
    pub(super) fn new(builder: &'a Builder<'a>, plan: &'p Plan<'p>) -> Result<Self, Failure> {
        for stage in &plan.stages {
            if let (Base::Image(image, _), true) = (&stage.base, need(plan, stage) != Need::Nothing)
            {
                builder.images.prefetch(image, &builder.work.blobs());
            }
        }
        Ok(Self {
            builder,
            plan,
            finished: HashMap::new(),
            foreign: HashMap::new(),
            prepared: HashMap::new(),
            uploads: Vec::new(),
        })
    }

    /// The uploads that were begun.
    pub(super) fn into_uploads(self) -> Vec<PendingUpload> {
        self.uploads
    }

    /// Builds all stages, in the plan's order; answers the image of the one that was asked for.
    pub(super) fn build_all(&mut self) -> Result<Image, Failure> {
        let count = self.plan.stages.len();
        let mut result = None;
        for (place, stage) in self.plan.stages.iter().enumerate() {
            if count > 1 {
                tracing::info!("Building stage {} ({} of {count})", stage.label, place + 1);
            }
            let wanted = stage.number == self.plan.result;
            let finished = self.build(stage, wanted)?;
            if wanted {
                result = Some(finished.image.clone());
            }
            if let Some(next) = self.plan.stages.get(place + 1) {
                self.keep(stage, finished, next)?;
            }
        }
        result.ok_or_else(|| Failure::new("the Dockerfile has no stage"))
    }

    fn build(&mut self, stage: &PlannedStage<'_>, last: bool) -> Result<Finished, Failure> {
        let needed = need(self.plan, stage) != Need::Nothing;
        let image = self.base_image(stage)?;
        let image = if last { self.in_format(image)? } else { image };
        let image = self.in_flavor(image)?;
        let rootfs = if needed { Some(self.root(stage)?) } else { None };
        let image = self.builder.images.with_fetched(&image, &self.builder.order.outputs);
        if last {
            self.upload_base(&image);
        }
        let mut config = image.config().clone();
        config.config.on_build.clear();
        if last {
            config.config.labels.extend(self.builder.order.outputs.labels.clone());
        }
        let inherited = match &stage.base {
            Base::Stage(number) => self.finished.get(number).map(|below| below.scope.clone()),
            Base::Scratch | Base::Image(..) => None,
        };
        let (arguments, globals) = (self.builder.arguments, self.builder.globals);
        let scope = inherited.unwrap_or_else(|| Scope::new(arguments, globals, &config.config.env));
        let image = image.with_config(config);
        let mut fold = Fold {
            image,
            rootfs,
            marks: None,
            scope,
            command_is_own: false,
            gathered: None,
            last,
            number: 0,
        };
        for (number, instruction) in stage.instructions.iter().enumerate() {
            fold.number = number + 1;
            self.one_step(stage, instruction, number, &mut fold)?;
        }
        self.take_gathered(&mut fold)?;
        Ok(Finished { image: fold.image, rootfs: fold.rootfs, scope: fold.scope })
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
                "Docker's media types have no name for layers of zstd: the image gets OCI's"
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
        let outcome = match &ready.action {
            Action::Configure if builder.order.layers.metadata && ready.created_by.is_some() => {
                let layer = self.pack_nothing(fold).map_err(shown)?;
                self.record(&ready, Some(layer), fold);
                return Ok(());
            }
            Action::Configure => None,
            Action::Run(run) => Some(self.run(run, &ready, fold)),
            Action::Copy(copy) => Some(self.copy(copy, fold)),
            Action::Workdir(path) => Some(self.workdir(path, fold)),
        };
        let layer = match outcome {
            None => None,
            Some(done) => {
                let difference = done.map_err(shown)?;
                self.take(difference, fold).map_err(shown)?
            }
        };
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
    scope: Scope,
    command_is_own: bool,
    pub(super) gathered: Option<Gathered>,
    last: bool,
    number: usize,
}

impl Fold {
    pub(super) fn root(&self) -> Result<&Rootfs, Failure> {
        self.rootfs.as_ref().ok_or_else(no_root)
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

/// A size for people.
pub(super) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} GB")
}
