//! Stages: a base, then step after step.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

use snapshot::{Difference, ImagePath, Options, Suspects};
use tracer::{Interrupt, Touched, Tracer};

use super::images::{Images, NamedContext};
use super::tree::{copy_tree, in_place_exclusions, move_tree};
use super::work::WorkDir;
use super::{Order, SnapshotMode, Verify, Watch, repositories};
use crate::context::http::{self, FetchSettings};
use crate::context::{Context, Ignore};
use crate::dockerfile::{Dockerfile, Instruction, history};
use crate::image::{
    Blob, BlobFile, Compression, Descriptor, Digest, Flavor, HistoryEntry, Image, ImageLayer,
};
use crate::plan::{
    Action, Arguments, Base, BaseImages as _, CopySource, CopyStep, Origin, Plan, PlannedStage,
    RunStep, Scope, Step, StepError, step,
};
use crate::registry::{PendingUpload, Registry, Settings};
use crate::report::{ExitStatus, Explain as _, Failure};
use crate::rootfs::{Exclusions, Isolation, Rootfs, inflate};
use crate::step::{Chmod, Copier, CopyRules, Found, Runner, SourceTree, add, make_workdir, run};

/// The compression level of new layers: "best speed", as kaniko has it by default.
const GZIP_LEVEL: u32 = 1;

/// What all stages of a build share.
pub(super) struct Builder<'a> {
    pub(super) order: &'a Order,
    pub(super) context: &'a Context,
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) arguments: &'a Arguments,
    pub(super) globals: &'a BTreeMap<String, String>,
    pub(super) registry: &'a Registry,
    pub(super) images: &'a Images<'a>,
    pub(super) isolation: Isolation,
    pub(super) tracer: &'a Tracer,
    pub(super) interrupt: &'a Interrupt,
    pub(super) work: &'a WorkDir,
}

/// A stage that is built.
struct Finished {
    image: Image,
    /// Its tree, while a later stage may need it.
    rootfs: Option<Rootfs>,
}

/// The fold over the stages.
pub(super) struct Stages<'a, 'p> {
    builder: &'a Builder<'a>,
    plan: &'p Plan<'p>,
    finished: HashMap<usize, Finished>,
    /// Trees of images that files are copied from.
    foreign: HashMap<String, Rootfs>,
    uploads: Vec<PendingUpload>,
}

impl<'a, 'p> Stages<'a, 'p> {
    pub(super) fn new(builder: &'a Builder<'a>, plan: &'p Plan<'p>) -> Result<Self, Failure> {
        for stage in &plan.stages {
            if let (Base::Image(image, _), true) = (&stage.base, needs_root(plan, stage)) {
                builder.images.prefetch(image, &builder.work.blobs());
            }
        }
        let (finished, foreign, uploads) = (HashMap::new(), HashMap::new(), Vec::new());
        Ok(Self { builder, plan, finished, foreign, uploads })
    }

    /// The uploads that were begun.
    pub(super) fn into_uploads(self) -> Vec<PendingUpload> {
        self.uploads
    }

    /// Builds all stages, in the plan's order; answers the image of the last.
    pub(super) fn build_all(&mut self) -> Result<Image, Failure> {
        let count = self.plan.stages.len();
        for (place, stage) in self.plan.stages.iter().enumerate() {
            if count > 1 {
                tracing::info!("Building stage {} ({} of {count})", stage.label, place + 1);
            }
            let finished = self.build(stage, place + 1 == count)?;
            if place + 1 == count {
                return Ok(finished.image);
            }
            self.keep(stage, finished, &self.plan.stages[place + 1])?;
        }
        Err(Failure::new("the Dockerfile has no stage"))
    }

    fn build(&mut self, stage: &PlannedStage<'_>, last: bool) -> Result<Finished, Failure> {
        let needed = needs_root(self.plan, stage);
        let image = self.base_image(stage)?;
        let rootfs = if needed { Some(self.root(stage)?) } else { None };
        let image = self.builder.images.with_fetched(&image, &self.builder.order.outputs);
        if last {
            self.upload_base(&image);
        }
        let mut config = image.config().clone();
        config.config.on_build.clear();
        let scope = Scope::new(self.builder.arguments, self.builder.globals, &config.config.env);
        let image = image.with_config(config);
        let mut fold = Fold { image, rootfs, scope, command_is_own: false, last, number: 0 };
        for (number, instruction) in stage.instructions.iter().enumerate() {
            fold.number = number + 1;
            self.one_step(stage, instruction, number, &mut fold)?;
        }
        Ok(Finished { image: fold.image, rootfs: fold.rootfs })
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

    /// What the base brings can go up while the steps run.
    fn upload_base(&mut self, image: &Image) {
        for layer in image.layers() {
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

    /// The tree that a stage starts from.
    fn root(&mut self, stage: &PlannedStage<'_>) -> Result<Rootfs, Failure> {
        match &stage.base {
            Base::Stage(number) => self.root_of_stage(stage, *number),
            Base::Scratch => self.fresh_root(stage),
            Base::Image(image, name) => {
                let mut rootfs = self.fresh_root(stage)?;
                let why = stage.instructions.iter().find(|it| touches_root(&it.node));
                let why = why.map_or("a later stage copies from it", |it| it.text.as_str());
                tracing::info!("Unpacking rootfs of {name} as {why:?} requires it");
                self.builder.unpack(image, &mut rootfs)?;
                Ok(rootfs)
            }
        }
    }

    fn fresh_root(&self, stage: &PlannedStage<'_>) -> Result<Rootfs, Failure> {
        match self.builder.isolation {
            Isolation::Namespace { .. } => {
                let path = self.builder.work.root(&stage.number.to_string())?;
                Rootfs::empty(&path).could_not(|| "open the root file system".to_owned())
            }
            Isolation::InPlace => Rootfs::occupied(Path::new("/"), self.builder.exclusions()?)
                .could_not(|| "look at the root file system".to_owned()),
        }
    }

    /// `FROM` an earlier stage: its tree itself where nobody else needs it, else a copy.
    fn root_of_stage(&mut self, stage: &PlannedStage<'_>, below: usize) -> Result<Rootfs, Failure> {
        let shared = self.is_needed_after(below, stage.number);
        let missing = || Failure::new(format!("the files of stage {below} are gone"));
        let in_place = self.builder.isolation == Isolation::InPlace;
        let entry = self.finished.get_mut(&below).ok_or_else(missing)?;
        let is_slash =
            entry.rootfs.as_ref().is_some_and(|root| root.tree().path() == Path::new("/"));
        if !shared && (!in_place || is_slash) {
            return entry.rootfs.take().ok_or_else(missing);
        }
        let source = entry.rootfs.as_ref().ok_or_else(missing)?;
        let (to, exclusions) = if in_place {
            (PathBuf::from("/"), self.builder.exclusions()?)
        } else {
            (self.builder.work.root(&stage.number.to_string())?, Exclusions::default())
        };
        copy_tree(source, &to, exclusions)
    }

    /// Whether a stage after `number` in the plan still needs the files of stage `which`.
    fn is_needed_after(&self, which: usize, number: usize) -> bool {
        let place = self.plan.stages.iter().position(|stage| stage.number == number);
        let later = self.plan.stages.iter().skip(place.map_or(0, |place| place + 1));
        let source = self.plan.stages.iter().find(|stage| stage.number == which);
        let Some(source) = source else { return false };
        let own = source.copied_by.contains(&number);
        own || later.into_iter().any(|stage| {
            source.copied_by.contains(&stage.number)
                || (source.base_of.contains(&stage.number) && needs_root(self.plan, stage))
        })
    }

    /// Keeps what later stages need of a stage that is built. In place the root has to be free for
    /// the next one, unless that goes on from here.
    fn keep(
        &mut self,
        stage: &PlannedStage<'_>,
        mut finished: Finished,
        next: &PlannedStage<'_>,
    ) -> Result<(), Failure> {
        if let Some(mut rootfs) = finished.rootfs.take() {
            let needed = self.is_needed_after(stage.number, stage.number);
            let in_place = self.builder.isolation == Isolation::InPlace;
            let goes_on = matches!(next.base, Base::Stage(below) if below == stage.number)
                && needs_root(self.plan, next)
                && !self.is_needed_after(stage.number, next.number);
            if in_place && !goes_on {
                if needed {
                    let to = self.builder.work.root(&stage.number.to_string())?;
                    let kept = move_tree(&rootfs, &to)?;
                    finished.rootfs = Some(kept);
                }
                tracing::info!("Deleting filesystem...");
                rootfs.wipe().could_not(|| "free the root for the next stage".to_owned())?;
            } else if needed {
                finished.rootfs = Some(rootfs);
            }
        }
        if let Base::Image(image, _) = &stage.base {
            let later = self.plan.stages.iter().skip_while(|it| it.number != stage.number).skip(1);
            let again = later.into_iter().filter_map(|it| match &it.base {
                Base::Image(image, _) => Some(&**image),
                Base::Scratch | Base::Stage(_) => None,
            });
            self.builder.images.forget(image, &again.collect::<Vec<_>>());
        }
        self.finished.insert(stage.number, finished);
        Ok(())
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
            Action::Configure => None,
            Action::Run(run) => Some(self.run(run, &ready, fold)),
            Action::Copy(copy) => Some(self.copy(copy, fold)),
            Action::Workdir(path) => Some(self.workdir(path, fold)),
        };
        let layer = match outcome {
            None => None,
            Some(done) => {
                let difference = done.map_err(shown)?;
                Some(self.pack(difference, fold).map_err(shown)?)
            }
        };
        self.record(&ready, layer, fold);
        Ok(())
    }

    /// The layer and the history line of a step.
    fn record(&mut self, step: &Step, layer: Option<ImageLayer>, fold: &mut Fold) {
        let empty_layer = layer.is_none();
        if let Some(layer) = layer {
            if fold.last {
                self.upload(&layer);
            }
            fold.image = fold.image.clone().with_layer(layer);
        }
        if let Some(created_by) = &step.created_by {
            fold.image = fold.image.clone().with_history(HistoryEntry {
                created: Some(self.builder.order.created.clone()),
                created_by: Some(created_by.clone()),
                comment: Some(history::COMMENT.to_owned()),
                empty_layer,
                ..HistoryEntry::default()
            });
        }
    }

    fn run(
        &mut self,
        step: &RunStep,
        ready: &Step,
        fold: &mut Fold,
    ) -> Result<Difference, Failure> {
        let builder = self.builder;
        let rootfs = fold.root()?;
        let accounts = rootfs.accounts().could_not(|| "read the users of the image".to_owned())?;
        let who = accounts.identity(&step.user).map_err(|error| {
            Failure::new(format!("USER {}: {error}", step.user))
                .hint("give a number, or create the user in an earlier step")
        })?;
        let made = make_own_dir(&step.dir, fold.root()?)?;
        let rootfs = fold.root()?;
        let scratch = builder.work.scratch();
        let runner = Runner {
            tracer: builder.tracer,
            isolation: builder.isolation,
            interrupt: builder.interrupt,
            scratch: &scratch,
            event_budget,
        };
        let started = Instant::now();
        let ran = run(&runner, rootfs, step, &who)
            .map_err(|error| run_failure(&error, step.argv.first().map_or("", String::as_str)))?;
        let took = started.elapsed();
        builder.work.restore()?;
        let status = ran.outcome.status;
        builder.go_on()?;
        if !status.success() {
            let command = shown(&ready.text);
            let code = ExitStatus::of_command(status.code());
            return Err(Failure::new(format!("{command}: {status}")).status(code));
        }
        let mut suspects = ran.suspects;
        if let Suspects::Only { paths, .. } = &mut suspects {
            paths.extend(made);
        }
        warn_of_mounts(&suspects, fold.root()?.exclusions());
        let difference = self.after_run(&ran.outcome.touched, &suspects, fold)?;
        tracing::debug!(
            "the command took {took:?}: {} stops, {} events, {} resolved",
            ran.outcome.stats.stops,
            ran.outcome.stats.events,
            ran.outcome.stats.resolved
        );
        Ok(difference)
    }

    /// Looks where the tracer says, or everywhere.
    fn after_run(
        &self,
        touched: &Touched,
        suspects: &Suspects,
        fold: &mut Fold,
    ) -> Result<Difference, Failure> {
        let watch = self.builder.order.watch;
        let compare = |rootfs: &Rootfs, suspects: &Suspects| {
            rootfs.difference(suspects).map_err(|error| {
                Failure::new("could not tell what the step changed").because(error)
            })
        };
        match (watch, touched) {
            (Watch::Walk(mode), _) => {
                tracing::info!("Taking snapshot of full filesystem...");
                if mode == SnapshotMode::Full {
                    fold.root_mut()?.distrust();
                }
                compare(fold.root()?, &Suspects::Everything)
            }
            (Watch::Trace { .. }, Touched::Anything(why)) => {
                tracing::info!("Taking snapshot of full filesystem: {why}");
                compare(fold.root()?, &Suspects::Everything)
            }
            (Watch::Trace { verify, .. }, Touched::Only(_)) => {
                let traced = compare(fold.root()?, suspects)?;
                if verify == Verify::Off {
                    return Ok(traced);
                }
                let walked = compare(fold.root()?, &Suspects::Everything)?;
                verdict(verify, traced, walked)
            }
        }
    }

    fn copy(&mut self, step: &CopyStep, fold: &mut Fold) -> Result<Difference, Failure> {
        let rules = rules(step, fold.root()?)?;
        self.prepare_origin(&step.from)?;
        let rootfs = fold.root()?;
        let sources = self.sources(&step.from)?;
        let mut copier = Copier::new(rootfs, rules);
        let failed = |error: crate::step::CopyError| Failure::new(error.to_string());
        for source in &step.sources {
            let pattern = match source {
                CopySource::Path(pattern) => pattern,
                CopySource::Url(url) => {
                    self.add_fetched(step, url, &mut copier)?;
                    continue;
                }
                CopySource::Inline(..) => continue,
            };
            let found = sources.find(pattern).map_err(failed)?;
            if found.is_empty() {
                tracing::warn!("{pattern}: no file of {} matches", sources.label());
            }
            let unpack = step.add.as_ref().is_some_and(|add| add.unpack.unwrap_or(true));
            for one in found {
                if unpack && self.unpacked(step, &sources, &one, &mut copier)? {
                    continue;
                }
                copier.copy(&sources, &one, &step.dest).map_err(failed)?;
            }
        }
        for source in &step.sources {
            let CopySource::Inline(name, body) = source else { continue };
            copier.write(name, body.as_bytes(), &step.dest).map_err(failed)?;
        }
        let paths = copier.into_written();
        self.compare_named(paths, rootfs)
    }

    /// Unpacks a source of ADD if it is an archive; tells whether it was one.
    fn unpacked(
        &self,
        step: &CopyStep,
        sources: &SourceTree<'_>,
        found: &Found,
        copier: &mut Copier<'_>,
    ) -> Result<bool, Failure> {
        let archive =
            add::archive(sources, found).map_err(|error| Failure::new(error.to_string()))?;
        let Some(archive) = archive else { return Ok(false) };
        let archive = Interruptible { archive, interrupt: self.builder.interrupt };
        add::unpack(copier, archive, &step.dest).map_err(|error| {
            Failure::new(format!("could not unpack {}: {error}", found.name.display()))
        })?;
        Ok(true)
    }

    /// Adds a file of the web.
    fn add_fetched(
        &self,
        step: &CopyStep,
        url: &str,
        copier: &mut Copier<'_>,
    ) -> Result<(), Failure> {
        let builder = self.builder;
        let dir = tempfile::tempdir_in(builder.work.scratch())
            .could_not(|| "make a directory for what is fetched".to_owned())?;
        let shown = http::without_credentials(url);
        tracing::info!("Fetching {shown}");
        let fetched = http::fetch(
            url,
            &dir.path().join("file"),
            &fetch_settings(&builder.order.registry),
            || builder.interrupt.is_triggered(),
        )
        .map_err(|error| Failure::new(format!("could not add {error}")))?;
        let digest = Digest::from_bytes(fetched.sha256);
        let expected = step.add.as_ref().and_then(|add| add.checksum);
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(Failure::new(format!("{shown} has the checksum {digest}, not {expected}"))
                .hint(
                    "the file has changed since the Dockerfile was written, or was tampered with",
                ));
        }
        let sources = SourceTree::context(dir.path(), None, &shown)
            .could_not(|| "open what was fetched".to_owned())?;
        let found = Found { path: "file".into(), name: fetched.name.into() };
        let unpack = step.add.as_ref().is_some_and(|add| add.unpack == Some(true));
        if unpack && self.unpacked(step, &sources, &found, copier)? {
            return Ok(());
        }
        copier
            .copy(&sources, &found, &step.dest)
            .map_err(|error| Failure::new(format!("could not add {shown}: {error}")))
    }

    fn workdir(&mut self, path: &ImagePath, fold: &mut Fold) -> Result<Difference, Failure> {
        let user = fold.image.config().config.user.clone();
        let rootfs = fold.root()?;
        let accounts = rootfs.accounts().could_not(|| "read the users of the image".to_owned())?;
        let owner = accounts
            .identity(&user)
            .map(|who| (who.uid, who.gid))
            .map_err(|error| Failure::new(format!("USER {user}: {error}")))?;
        let made =
            make_workdir(rootfs, path, owner).map_err(|error| Failure::new(error.to_string()))?;
        self.compare_named(made, rootfs)
    }

    fn compare_named(&self, paths: Vec<ImagePath>, rootfs: &Rootfs) -> Result<Difference, Failure> {
        rootfs
            .difference(&Suspects::Only { paths, trees: Vec::new() })
            .could_not(|| "compare what was written".to_owned())
    }

    /// Unpacks the image that files are copied from, once.
    fn prepare_origin(&mut self, from: &Origin) -> Result<(), Failure> {
        let (name, image) = match from {
            Origin::Context | Origin::Stage(_) => return Ok(()),
            Origin::Image(reference) => (
                reference.to_string(),
                self.builder.images.image(reference, &self.builder.order.platform)?,
            ),
            Origin::Named(name) => {
                let platform = &self.builder.order.platform;
                match self.builder.images.context_image(name, platform)? {
                    Some(image) => (format!("context {name}"), image),
                    None => return Ok(()),
                }
            }
        };
        if self.foreign.contains_key(&name) {
            return Ok(());
        }
        let dir = self.builder.work.root(&format!("image-{}", self.foreign.len()))?;
        let mut rootfs = Rootfs::empty(&dir).could_not(|| format!("unpack {name}"))?;
        tracing::info!("Unpacking {name} to copy from it");
        self.builder.images.prefetch(&image, &self.builder.work.blobs());
        self.builder.unpack(&image, &mut rootfs)?;
        self.builder.images.forget(&image, &[]);
        self.foreign.insert(name, rootfs);
        Ok(())
    }

    fn sources(&self, from: &Origin) -> Result<SourceTree<'a>, Failure> {
        let context = self.builder.context;
        let opened = match from {
            Origin::Context => {
                SourceTree::context(&context.dir, Some(&context.ignore), "the build context")
            }
            Origin::Stage(number) => {
                let finished = self.finished.get(number);
                let rootfs = finished.and_then(|finished| finished.rootfs.as_ref());
                let Some(rootfs) = rootfs else {
                    return Err(Failure::new(format!("the files of stage {number} are gone")));
                };
                SourceTree::rootfs(rootfs.tree().path(), &format!("stage {number}"))
            }
            Origin::Image(reference) => self.foreign_source(&reference.to_string())?,
            Origin::Named(name) => match self.builder.images.named(name) {
                Some(NamedContext::Dir(dir)) => {
                    SourceTree::context(dir, None, &format!("the build context {name:?}"))
                }
                _ => self.foreign_source(&format!("context {name}"))?,
            },
        };
        opened.could_not(|| "open what is to be copied from".to_owned())
    }

    fn foreign_source(&self, name: &str) -> Result<std::io::Result<SourceTree<'a>>, Failure> {
        match self.foreign.get(name) {
            Some(rootfs) => Ok(SourceTree::rootfs(rootfs.tree().path(), name)),
            None => Err(Failure::new(format!("the files of {name} are not there"))),
        }
    }

    /// Packs a difference and takes it into the index.
    fn pack(&mut self, mut difference: Difference, fold: &mut Fold) -> Result<ImageLayer, Failure> {
        let builder = self.builder;
        let flavor = fold.image.flavor();
        let rootfs = fold.root_mut()?;
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let options =
            Options { compression: snapshot::Compression::Gzip { level: GZIP_LEVEL }, threads };
        let packed = rootfs
            .pack(&mut difference, &builder.work.layers(), options)
            .could_not(|| "pack the layer".to_owned())?;
        rootfs.accept(&difference);
        let digest = Digest::from_bytes(packed.digest.0);
        let diff_id = Digest::from_bytes(packed.diff_id.0);
        let size = packed.size;
        tracing::info!(
            "Layer of {} {}, {}",
            difference.changes.len(),
            if difference.changes.len() == 1 { "entry" } else { "entries" },
            bytes(size)
        );
        let media_type = flavor.layer(Compression::Gzip).unwrap_or_default();
        let path = packed.into_temp_path();
        Ok(ImageLayer {
            descriptor: Descriptor::new(media_type, digest, size),
            diff_id,
            blob: Blob::File(BlobFile::temporary(path)),
        })
    }
}

/// What a stage is at one point.
struct Fold {
    image: Image,
    rootfs: Option<Rootfs>,
    scope: Scope,
    command_is_own: bool,
    last: bool,
    number: usize,
}

impl Fold {
    fn root(&self) -> Result<&Rootfs, Failure> {
        self.rootfs.as_ref().ok_or_else(no_root)
    }

    fn root_mut(&mut self) -> Result<&mut Rootfs, Failure> {
        self.rootfs.as_mut().ok_or_else(no_root)
    }
}

fn no_root() -> Failure {
    Failure::new("this step needs files, but the plan said that the stage needs none")
}

impl Builder<'_> {
    /// Ends the build where somebody asked for that.
    pub(super) fn go_on(&self) -> Result<(), Failure> {
        if self.interrupt.is_triggered() { Err(Failure::new("interrupted")) } else { Ok(()) }
    }

    fn exclusions(&self) -> Result<Exclusions, Failure> {
        let own: Vec<&Path> = self
            .order
            .own_dirs
            .iter()
            .map(PathBuf::as_path)
            .chain([self.order.kaniko_dir.as_path(), self.work.path()])
            .collect();
        in_place_exclusions(&own)
    }

    /// Wipes the container's root at the end; a root of its own goes with the working directory.
    pub(super) fn clean_up(&self) -> Result<(), Failure> {
        if self.isolation == Isolation::InPlace {
            tracing::info!("Deleting filesystem...");
            let mut rootfs =
                Rootfs::open(Path::new("/"), snapshot::Index::new(), self.exclusions()?)
                    .could_not(|| "open /".to_owned())?;
            rootfs.wipe().could_not(|| "clean up".to_owned())?;
        }
        Ok(())
    }

    /// Applies the layers of an image, in order; the next ones download meanwhile.
    fn unpack(&self, image: &Image, rootfs: &mut Rootfs) -> Result<(), Failure> {
        let started = Instant::now();
        let count = image.layers().len();
        let mut unpacker = rootfs.unpack();
        for (place, layer) in image.layers().iter().enumerate() {
            self.go_on()?;
            let digest = layer.descriptor.digest;
            let file = self.images.blob(layer, &self.work.blobs())?;
            let doing = || format!("unpack layer {} of {count} ({digest})", place + 1);
            let compression = layer.compression().ok_or_else(|| {
                let what = format!("{} is no media type of a layer", layer.descriptor.media_type);
                Failure::new(format!("could not {}: {what}", doing()))
            })?;
            let blob = file.open().could_not(doing)?;
            let archive = inflate(blob, compression, Some(layer.diff_id)).could_not(doing)?;
            let archive = Interruptible { archive, interrupt: self.interrupt };
            let done = unpacker.apply(archive).could_not(doing)?;
            tracing::debug!("layer {} of {count}: {done:?}", place + 1);
        }
        unpacker.finish().could_not(|| "finish unpacking".to_owned())?;
        rootfs.settle();
        tracing::info!(
            "Unpacked {} paths of {count} layers in {:.1}s",
            rootfs.index().len(),
            started.elapsed().as_secs_f64()
        );
        Ok(())
    }

    fn place(&self, step: &Step, trigger: bool) -> String {
        if trigger {
            return "ONBUILD trigger of the base image".to_owned();
        }
        format!("{}:{}", self.context.dockerfile_name, step.line)
    }

    /// The lines of an instruction, marked.
    fn excerpt(&self, span: crate::dockerfile::Span) -> String {
        self.dockerfile.source.annotate(span, "", None, false)
    }

    fn step_failure(&self, error: &StepError, trigger: bool) -> Failure {
        if trigger {
            return Failure::new(error.kind.to_string()).at("ONBUILD trigger of the base image");
        }
        let place = format!("{}:{}", self.context.dockerfile_name, error.line);
        let message = error.kind.to_string();
        let excerpt = self.dockerfile.source.annotate(error.span, &message, None, false);
        Failure::new(message).at(place).excerpt(&excerpt)
    }
}

/// An archive that ends with an error when the build is interrupted.
struct Interruptible<'a, R> {
    archive: R,
    interrupt: &'a Interrupt,
}

impl<R: std::io::Read> std::io::Read for Interruptible<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.interrupt.is_triggered() {
            return Err(std::io::Error::other("the build was interrupted"));
        }
        self.archive.read(buffer)
    }
}

/// A working directory that the image names but does not have, as the runtime of Docker makes it:
/// root's. Answers what was made, which belongs into the layer of the step.
fn make_own_dir(dir: &str, rootfs: &Rootfs) -> Result<Vec<ImagePath>, Failure> {
    let path = ImagePath::parse(dir.as_bytes()).could_not(|| format!("work in {dir}"))?;
    make_workdir(rootfs, &path, (0, 0))
        .map_err(|error| Failure::new(format!("could not work in {dir}: {error}")))
}

/// Whether a stage has to be on disk.
fn needs_root(plan: &Plan<'_>, stage: &PlannedStage<'_>) -> bool {
    stage.instructions.iter().any(|instruction| touches_root(&instruction.node))
        || !stage.copied_by.is_empty()
        || stage.base_of.iter().any(|number| {
            plan.stages.iter().any(|above| above.number == *number && needs_root(plan, above))
        })
}

fn touches_root(instruction: &Instruction) -> bool {
    matches!(
        instruction,
        Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
    )
}

fn fetch_settings(registry: &Settings) -> FetchSettings {
    FetchSettings {
        http_proxy: registry.proxies.http.clone(),
        https_proxy: registry.proxies.https.clone(),
        no_proxy: registry.proxies.exceptions.clone(),
        user_agent: registry.user_agent.clone(),
        connect: registry.patience.connect,
        idle: registry.patience.idle,
    }
}

fn rules(step: &CopyStep, rootfs: &Rootfs) -> Result<CopyRules, Failure> {
    let accounts = || rootfs.accounts().could_not(|| "read the users of the image".to_owned());
    let owner = match &step.chown {
        None => None,
        Some(spec) => Some(accounts()?.owner(spec).map_err(|error| {
            Failure::new(format!("--chown={spec}: {error}"))
                .hint("give a number, or create the user in an earlier step")
        })?),
    };
    let mode = match &step.chmod {
        None => None,
        Some(text) => Some(
            text.parse::<Chmod>()
                .map_err(|error| Failure::new(format!("--chmod={text}: {error}")))?,
        ),
    };
    let exclude = match step.exclude.as_slice() {
        [] => None,
        patterns => Some(Ignore::new(patterns).could_not(|| "read --exclude".to_owned())?),
    };
    Ok(CopyRules { owner, mode, exclude })
}

fn run_failure(error: &crate::step::RunError, program: &str) -> Failure {
    use crate::step::RunError;
    let failure = Failure::new(error.to_string());
    match error {
        RunError::Tracer(tracer::Error::Exec { errno, .. }) => {
            let not_there = errno.0 == libc::ENOENT;
            let status = ExitStatus::of_command(if not_there { 127 } else { 126 });
            let failure = Failure::new(format!("could not run {program:?}: {errno}"));
            failure.status(status).hint(if not_there {
                "the image has no such program in its PATH, or not the interpreter that the file names"
            } else {
                "is the file executable, and built for this platform?"
            })
        }
        RunError::Tracer(tracer::Error::NotAvailable { .. } | tracer::Error::Call { .. }) => {
            failure.hint("build with --run-tracer=off to walk the file system instead")
        }
        _ => failure,
    }
}

/// Mounts that every container has, and into which programs write as a matter of course.
const USUAL_MOUNTS: [&str; 6] =
    ["/proc", "/dev", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// What a step writes into a mount of the container is in no layer. Kaniko loses it without a word.
fn warn_of_mounts(suspects: &Suspects, exclusions: &Exclusions) {
    let Suspects::Only { paths, .. } = suspects else { return };
    let usual = |path: &ImagePath| {
        USUAL_MOUNTS.iter().any(|mount| {
            ImagePath::parse(mount.as_bytes()).is_ok_and(|mount| path.starts_with(&mount))
        })
    };
    let lost: Vec<&ImagePath> =
        paths.iter().filter(|path| exclusions.excludes(path) && !usual(path)).collect();
    if let Some(first) = lost.first() {
        tracing::warn!(
            "the step wrote {first}{}, which lies on a mount of this container: not in the image",
            match lost.len() {
                1 => String::new(),
                count => format!(" and {} more paths", count - 1),
            }
        );
    }
}

/// Holds the trace against the walk.
fn verdict(verify: Verify, traced: Difference, walked: Difference) -> Result<Difference, Failure> {
    if traced.changes == walked.changes {
        tracing::debug!("the walk found what the trace found: {} changes", traced.changes.len());
        return Ok(traced);
    }
    let listed = |difference: &Difference| -> Vec<String> {
        snapshot::listing::changes(&difference.changes).lines().map(str::to_owned).collect()
    };
    let (trace, walk) = (listed(&traced), listed(&walked));
    let only = |these: &[String], those: &[String]| {
        let missing = these.iter().filter(|line| !those.contains(line)).take(20).cloned();
        missing.collect::<Vec<_>>().join("\n  ")
    };
    let told = format!(
        "the trace and the walk differ\nfound by the walk only:\n  {}\nfound by the trace only:\n  {}",
        only(&walk, &trace),
        only(&trace, &walk)
    );
    if verify == Verify::Fail {
        return Err(Failure::new(told).hint(
            "this is a bug of the tracer; please report the step. --run-tracer=off avoids it",
        ));
    }
    tracing::warn!("{told}");
    Ok(walked)
}

/// Events cost about 5.5 µs, looking at a path about 1.55 µs; below some thousands of events the
/// difference is not worth giving up the names for.
fn event_budget(entries: usize) -> Option<u64> {
    Some((entries as u64 * 28 / 100).max(20_000))
}

/// An instruction for a log line: its first line, cut.
fn shown(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut cut: String = line.chars().take(160).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

/// A size for people.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} GB")
}
