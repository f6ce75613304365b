//! Keys of all steps, from what is on this machine and in manifests: no step is executed for them.

use std::collections::HashMap;

use snapshot::Timestamp;
use tracer::Interrupt;

use super::Order;
use super::ahead::{Fate, Keyed, Place};
use super::builder::Builder;
use super::copy_step::context_sources;
use super::downloads::Downloads;
use super::images::{Images, NamedContext};
use super::run_mounts::origin;
use super::stage::shown;
use super::work::WorkDir;
use crate::cache::{Cache, Record, Settings};
use crate::context::{Context, Ignore, http};
use crate::dockerfile::{Dockerfile, Instruction, Located};
use crate::image::{Digest, Image, ImageConfig};
use crate::plan::{
    Action, Arguments, Base, BaseImages as _, CopySource, CopyStep, Input, Inputs, Key, Origin,
    Plan, PlannedStage, RunMount, RunStep, Scope, Step, key, step,
};
use crate::step::{KnownFiles, SourceTree, Wanted, contents, contents_of};

/// What keys are computed from.
pub(super) struct Keys<'a> {
    pub(super) order: &'a Order,
    pub(super) context: &'a Context,
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) arguments: &'a Arguments,
    pub(super) plan: &'a Plan<'a>,
    pub(super) images: &'a Images<'a>,
    pub(super) interrupt: &'a Interrupt,
    pub(super) work: &'a WorkDir,
    /// What no file of a new layer is younger than.
    pub(super) latest: Option<Timestamp>,
    pub(super) downloads: &'a Downloads,
    /// Files of the context that did not change since they were hashed.
    pub(super) known: &'a KnownFiles,
}

/// A stage at the point up to which it was looked at.
pub(super) struct Point {
    config: ImageConfig,
    scope: Scope,
    /// Unknown after a step whose inputs are.
    key: Option<Key>,
    /// The image that all of it is based on.
    base: Option<Key>,
}

/// What is known of the files of a context, beside a cache on this machine.
pub(super) fn known_files(settings: &Settings, context: &Context) -> KnownFiles {
    match settings.place.dir().filter(|_| settings.push) {
        Some(store) => KnownFiles::load(store, &context.dir, settings.now),
        None => KnownFiles::default(),
    }
}

impl<'a> Keys<'a> {
    /// For a build.
    pub(super) fn of(
        builder: &'a Builder<'a>,
        plan: &'a Plan<'a>,
        downloads: &'a Downloads,
        known: &'a KnownFiles,
    ) -> Self {
        let Builder { order, context, dockerfile, arguments, images, work, .. } = *builder;
        let (interrupt, latest) = (&builder.interrupt, builder.times.latest);
        Self {
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
            known,
        }
    }
}

impl Keys<'_> {
    /// Of all stages.
    pub(super) fn all(&self, cache: &Cache<'_>) -> HashMap<Place, Keyed> {
        let mut ends: HashMap<usize, Point> = HashMap::new();
        let mut steps = HashMap::new();
        for stage in &self.plan.stages {
            let end = self.of_stage(stage, cache, &ends, &mut steps);
            ends.insert(stage.number, end);
        }
        self.known.save();
        steps
    }

    /// Goes through a stage as the build will, but for the files.
    fn of_stage(
        &self,
        stage: &PlannedStage<'_>,
        cache: &Cache<'_>,
        ends: &HashMap<usize, Point>,
        steps: &mut HashMap<Place, Keyed>,
    ) -> Point {
        let mut point = self.start_of(stage, ends);
        let mut command_is_own = false;
        let base = point.key.map(|key| Input { name: "the base".to_owned(), digest: key.digest() });
        // What an explanation names besides the step's own inputs: all since the last cached one.
        let mut since = vec![(String::new(), Inputs::from_iter(base))];
        for (number, instruction) in stage.instructions.iter().enumerate() {
            let done = step(
                instruction,
                stage.number,
                self.dockerfile,
                self.images,
                &mut point.config,
                &mut point.scope,
                &mut command_is_own,
            );
            let Ok(ready) = done else {
                point.key = None;
                break;
            };
            let Some(before) = point.key.filter(|_| ready.action != Action::Configure) else {
                continue;
            };
            let Some(mut inputs) = self.inputs_of(&ready, &point, ends) else {
                tracing::debug!("no key for {} and what follows", shown(&ready.text));
                point.key = None;
                continue;
            };
            self.add_rules(&mut inputs);
            let key = inputs.key(before);
            point.key = Some(key);
            let cached = is_cached(&ready.action, cache);
            let label = shown(&ready.text);
            let place = self.place_of(stage, instruction);
            since.push((String::new(), inputs.clone()));
            let record = Record::new(&label, &place, &since);
            if cached {
                since.clear();
            } else if let Some((prefix, _)) = since.last_mut() {
                *prefix = format!("{label}: ");
            }
            let sources = sources_of(&ready.action);
            let copied = match &ready.action {
                Action::Copy(copy) if self.is_elsewhere(&copy.from) => Some(copy.clone()),
                Action::Copy(_) | Action::Run(_) | Action::Workdir(_) | Action::Configure => None,
            };
            // What a mount shows of another stage is in the key of that stage only.
            let is_open = matches!(ready.action, Action::Run(_)) && sources.is_empty();
            let wanted = is_open && cache.settings().by_reads;
            let base = point.base.filter(|_| wanted);
            let command = base.map(|base| Key::of_command(base, &inputs));
            let fate = Fate::Open;
            let keyed =
                Keyed { key, before, inputs, command, cached, record, sources, copied, fate };
            steps.insert((stage.number, number), keyed);
        }
        point
    }

    fn start_of(&self, stage: &PlannedStage<'_>, ends: &HashMap<usize, Point>) -> Point {
        let fresh = |config: ImageConfig, key| {
            let (arguments, globals) = (self.arguments, &self.plan.globals);
            let scope = Scope::new(arguments, globals, &config.config.env);
            Point { config, scope, key, base: key }
        };
        let platform = &stage.platform;
        let mut point = match &stage.base {
            Base::Scratch => {
                fresh(ImageConfig::scratch(platform), Some(Key::of_base(&[], platform)))
            }
            Base::Image(image, _) => {
                let key = Key::of_base(&diff_ids(image), platform);
                fresh(image.config().clone(), Some(key))
            }
            Base::Stage(number) => match ends.get(number) {
                Some(below) => Point {
                    config: below.config.clone(),
                    scope: below.scope.clone(),
                    key: below.key,
                    base: below.base,
                },
                None => fresh(ImageConfig::scratch(platform), None),
            },
        };
        point.config.config.on_build.clear();
        point.scope.begin_stage(&point.config.config.env);
        point
    }

    /// Whether files come from a stage or an image.
    fn is_elsewhere(&self, from: &Origin) -> bool {
        match from {
            Origin::Context => false,
            Origin::Stage(_) | Origin::Image(_) | Origin::Scratch => true,
            Origin::Named(name) => !matches!(self.images.named(name), Some(NamedContext::Dir(_))),
        }
    }

    /// The inputs of a COPY from a tree that is there now; nothing where they cannot be read.
    pub(super) fn of_copied(&self, copy: &CopyStep, sources: &SourceTree<'_>) -> Option<Inputs> {
        let mut content = vec![key::copied()];
        content.extend(self.content_in(copy, sources, None)?);
        for source in &copy.sources {
            match source {
                CopySource::Path(_) => {}
                CopySource::Inline(name, body) => content.push(key::inline(name, body)),
                CopySource::Git(_) | CopySource::Url(_) => return None,
            }
        }
        let mut inputs = Inputs::of_copy(copy, content);
        self.add_rules(&mut inputs);
        Some(inputs)
    }

    /// The inputs of a step; nothing where they cannot be known yet, or cannot be read.
    fn inputs_of(
        &self,
        ready: &Step,
        point: &Point,
        ends: &HashMap<usize, Point>,
    ) -> Option<Inputs> {
        match &ready.action {
            Action::Configure => None,
            Action::Run(run) => {
                let mounted = self.mounted_by(run, ends)?;
                let mut inputs = Inputs::of_run(run, &point.scope.undeclared(), mounted);
                inputs.push("name of the machine", &self.order.hostname);
                Some(inputs)
            }
            Action::Workdir(path) => Some(Inputs::of_workdir(path, &point.config.config.user)),
            Action::Copy(copy) => Some(Inputs::of_copy(copy, self.brought_by(copy, ends)?)),
        }
    }

    /// What decides over the bytes of every layer.
    fn add_rules(&self, inputs: &mut Inputs) {
        let rules = &self.order.layers;
        inputs.push("the compression of layers", &format!("{:?}", rules.compression));
        inputs.push("the paths that are ignored", &format!("{:?}", rules.ignored));
        inputs.push("the epoch", &format!("{:?}", self.latest));
    }

    /// What a COPY or ADD brings.
    fn brought_by(&self, copy: &CopyStep, ends: &HashMap<usize, Point>) -> Option<Vec<Input>> {
        let mut brought = match self.whole(&copy.from, ends)? {
            Some(whole) => vec![whole, key::selection(copy)],
            None => self.content_of(copy)?,
        };
        for source in &copy.sources {
            match source {
                CopySource::Path(_) => {}
                // Which commit it means is only known once it is fetched.
                CopySource::Git(_) => return None,
                CopySource::Inline(name, body) => brought.push(key::inline(name, body)),
                CopySource::Url(url) => {
                    let (name, digest) = self.fetched(copy, url)?;
                    let shown = http::without_credentials(url);
                    brought.push(key::fetched(&shown, &name, digest));
                }
            }
        }
        Some(brought)
    }

    /// A stage or image as one input. Of a context the files themselves are: nothing. Unknown where a
    /// stage has no key.
    fn whole(&self, from: &Origin, ends: &HashMap<usize, Point>) -> Option<Option<Input>> {
        let platform = &self.order.platform;
        let images = self.images;
        Some(match from {
            Origin::Stage(number) => {
                let label = &self.plan.stages.iter().find(|it| it.number == *number)?.label;
                Some(key::stage(label, ends.get(number)?.key?))
            }
            Origin::Image(reference) => {
                let image = images.image(reference, platform).ok()?;
                Some(key::image(&reference.to_string(), &diff_ids(&image)))
            }
            Origin::Named(name) if !matches!(images.named(name), Some(NamedContext::Dir(_))) => {
                let image = images.context_image(name, platform).ok()??;
                Some(key::image(name, &diff_ids(&image)))
            }
            Origin::Scratch => Some(key::image("scratch", &[])),
            Origin::Context | Origin::Named(_) => None,
        })
    }

    /// What the mounts of a RUN are, and what is in those that show files.
    fn mounted_by(&self, run: &RunStep, ends: &HashMap<usize, Point>) -> Option<Vec<Input>> {
        let mut mounted = Vec::new();
        for mount in &run.mounts {
            mounted.push(key::mount(mount));
            let (from, source, target) = match mount {
                RunMount::Bind { from, source, target, .. } => (from, source, target),
                RunMount::Cache { from: Some(from), source, target, .. } => (from, source, target),
                RunMount::Cache { from: None, .. }
                | RunMount::Tmpfs { .. }
                | RunMount::Secret { .. }
                | RunMount::Ssh { .. } => continue,
            };
            if let Some(whole) = self.whole(from, ends)? {
                mounted.push(whole);
                continue;
            }
            let sources = self.sources(from)?;
            let interrupt = self.interrupt;
            let found = sources.find_plain(source).ok()?;
            let files = contents_of(&sources, &found, &|| interrupt.is_triggered()).ok()?;
            mounted.extend(files.into_iter().map(|file| Input {
                name: format!("{} mounted at {target}", file.name),
                digest: file.digest,
            }));
        }
        Some(mounted)
    }

    /// The files of a context; nothing where they come from elsewhere.
    fn sources(&self, from: &Origin) -> Option<SourceTree<'_>> {
        context_sources(from, self.context, self.images, self.work.path())?.ok()
    }

    /// What a COPY brings of a context.
    fn content_of(&self, copy: &CopyStep) -> Option<Vec<Input>> {
        self.content_in(copy, &self.sources(&copy.from)?, Some(self.known))
    }

    /// What a COPY brings of a tree.
    fn content_in(
        &self,
        copy: &CopyStep,
        sources: &SourceTree<'_>,
        known: Option<&KnownFiles>,
    ) -> Option<Vec<Input>> {
        let exclude = match copy.exclude.as_slice() {
            [] => None,
            patterns => Some(Ignore::new(patterns).ok()?),
        };
        let (interrupt, mut brought) = (self.interrupt, Vec::new());
        for source in &copy.sources {
            let CopySource::Path(pattern) = source else { continue };
            let (parents, exclude, latest) = (copy.parents, exclude.as_ref(), self.latest);
            let wanted = Wanted { parents, exclude, latest, known };
            let found = contents(sources, pattern, wanted, &|| interrupt.is_triggered());
            match found {
                Ok(found) => brought.extend(found),
                Err(error) => {
                    // The step itself will tell it, at its place.
                    tracing::debug!("{error}");
                    return None;
                }
            }
        }
        Some(brought)
    }

    /// Name and digest of a file of the web, which is fetched unless a checksum is given.
    fn fetched(&self, copy: &CopyStep, url: &str) -> Option<(String, Digest)> {
        if let Some(checksum) = copy.add.as_ref().and_then(|add| add.checksum) {
            return Some((http::without_credentials(url), checksum));
        }
        let download = self.downloads.fetch(url, self.order, self.work, self.interrupt).ok()?;
        Some((download.fetched.name.clone(), Digest::from_bytes(download.fetched.sha256)))
    }

    /// Which step it is, whatever it depends on.
    fn place_of(&self, stage: &PlannedStage<'_>, instruction: &Located<Instruction>) -> String {
        let file = &self.context.dockerfile_name;
        format!("{file}\n{}\n{}\n{}", stage.label, stage.platform, instruction.text)
    }
}

fn is_cached(action: &Action, cache: &Cache<'_>) -> bool {
    match action {
        Action::Configure => false,
        Action::Run(_) | Action::Workdir(_) => cache.settings().run_layers,
        Action::Copy(_) => cache.settings().copy_layers,
    }
}

/// The stages that a step takes files from, in order.
pub(super) fn sources_of(action: &Action) -> Vec<usize> {
    let origins: Vec<&Origin> = match action {
        Action::Copy(copy) => vec![&copy.from],
        Action::Run(run) => run.mounts.iter().filter_map(origin).collect(),
        Action::Workdir(_) | Action::Configure => Vec::new(),
    };
    let stages = origins.into_iter().filter_map(|origin| match origin {
        Origin::Stage(number) => Some(*number),
        Origin::Context | Origin::Named(_) | Origin::Image(_) | Origin::Scratch => None,
    });
    stages.collect()
}

fn diff_ids(image: &Image) -> Vec<Digest> {
    image.layers().iter().map(|layer| layer.diff_id).collect()
}
