//! What can be known before anything is built: keys, hits, and which stages nobody needs.
//!
//! Instructions are expanded for all stages, their keys computed from what is
//! on this machine and in manifests, and all keys looked up at once. A hit is
//! sure when the lineage before it is known; one that comes after a command
//! which has to run is only likely, and is decided when that has run.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::images::NamedContext;
use super::needs::{Need, need, touches_root};
use super::run_mounts::origin;
use super::stage::{Stages, shown};
use crate::cache::{Cache, Entry, Lineage, Record};
use crate::context::{Ignore, http};
use crate::dockerfile::{Instruction, Located};
use crate::image::{Digest, Image, ImageConfig};
use crate::plan::{
    Action, Base, BaseImages as _, CopySource, CopyStep, Input, Inputs, Key, Origin, Plan,
    PlannedStage, RunMount, RunStep, Scope, Step, key, step,
};
use crate::step::{contents, contents_of};

/// A step of a stage: the number of the stage, and its place there.
type Place = (usize, usize);

/// What is known of a step before it is its turn.
pub(super) struct Keyed {
    pub(super) key: Key,
    /// Whether its layer is cached.
    pub(super) cached: bool,
    pub(super) record: Record,
    /// The stages that it takes files from.
    sources: Vec<usize>,
    fate: Fate,
}

/// What will become of a step, as far as that is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Hit,
    Open,
}

/// What is known of all stages.
pub(super) struct Ahead {
    steps: HashMap<Place, Keyed>,
    /// Stages whose image is needed; all others are never built.
    wanted: BTreeSet<usize>,
    /// Stages that need their tree, and the first step that does.
    trees: BTreeMap<usize, Option<usize>>,
    /// Lineages of stages at their ends, where known.
    lineages: HashMap<usize, Lineage>,
}

impl Ahead {
    /// Where nothing is cached, every stage is built.
    pub(super) fn nothing(plan: &Plan<'_>) -> Self {
        let wanted = plan.stages.iter().map(|stage| stage.number).collect();
        let first = |stage: &PlannedStage<'_>| {
            stage.instructions.iter().position(|it| touches_root(&it.node))
        };
        let needs = plan.stages.iter().filter(|stage| need(plan, stage) != Need::Nothing);
        let trees = needs.map(|stage| (stage.number, first(stage))).collect();
        Self { steps: HashMap::new(), wanted, trees, lineages: HashMap::new() }
    }

    pub(super) fn step(&self, stage: usize, number: usize) -> Option<&Keyed> {
        self.steps.get(&(stage, number))
    }

    /// Whether the image of a stage is needed.
    pub(super) fn wants(&self, stage: usize) -> bool {
        self.wanted.contains(&stage)
    }

    /// Whether a stage is known to need its tree. Others may turn out to.
    pub(super) fn needs_tree(&self, stage: usize) -> bool {
        self.trees.contains_key(&stage)
    }

    /// The first step of a stage that needs its tree; none where only others need it.
    pub(super) fn first_with_tree(&self, stage: usize) -> Option<usize> {
        self.trees.get(&stage).copied().flatten()
    }

    /// The lineage at the end of a stage that was not built.
    pub(super) fn lineage(&self, stage: usize) -> Option<Lineage> {
        self.lineages.get(&stage).copied()
    }
}

/// A stage at the point up to which it was looked at.
struct Point {
    config: ImageConfig,
    scope: Scope,
    /// Unknown after a step whose inputs are.
    key: Option<Key>,
}

impl Stages<'_, '_> {
    /// Computes keys and looks them up.
    pub(super) fn look_ahead(&mut self, cache: &Cache<'_>) {
        let mut ahead = Ahead {
            steps: HashMap::new(),
            wanted: BTreeSet::new(),
            trees: BTreeMap::new(),
            lineages: HashMap::new(),
        };
        let mut ends: HashMap<usize, Point> = HashMap::new();
        for stage in &self.plan.stages {
            let end = self.keys_of(stage, cache, &ends, &mut ahead.steps);
            ends.insert(stage.number, end);
        }
        let keys: Vec<Key> =
            ahead.steps.values().filter(|step| step.cached).map(|step| step.key).collect();
        tracing::debug!("looking up {} of {} keys", keys.len(), ahead.steps.len());
        cache.look_up(&keys);
        for stage in &self.plan.stages {
            ahead.decide(stage, cache);
        }
        // Further targets are built whoever needs them.
        let goals = &self.builder.order.goals;
        ahead.choose(self.plan, goals.unused || goals.targets.len() > 1);
        self.ahead = ahead;
    }

    /// Goes through a stage as the build will, but for the files.
    fn keys_of(
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
                self.builder.dockerfile,
                self.builder.images,
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
            since.push((String::new(), inputs));
            let record = Record::new(&label, &place, &since);
            if cached {
                since.clear();
            } else if let Some((prefix, _)) = since.last_mut() {
                *prefix = format!("{label}: ");
            }
            let sources = sources_of(&ready.action);
            let keyed = Keyed { key, cached, record, sources, fate: Fate::Open };
            steps.insert((stage.number, number), keyed);
        }
        point
    }

    fn start_of(&self, stage: &PlannedStage<'_>, ends: &HashMap<usize, Point>) -> Point {
        let fresh = |config: ImageConfig, key| {
            let (arguments, globals) = (self.builder.arguments, self.builder.globals);
            let scope = Scope::new(arguments, globals, &config.config.env);
            Point { config, scope, key }
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
                },
                None => fresh(ImageConfig::scratch(platform), None),
            },
        };
        point.config.config.on_build.clear();
        point
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
                Some(Inputs::of_run(run, &point.scope.undeclared(), mounted))
            }
            Action::Workdir(path) => Some(Inputs::of_workdir(path, &point.config.config.user)),
            Action::Copy(copy) => Some(Inputs::of_copy(copy, self.brought_by(copy, ends)?)),
        }
    }

    /// What decides over the bytes of every layer.
    fn add_rules(&self, inputs: &mut Inputs) {
        let rules = &self.builder.order.layers;
        inputs.push("the compression of layers", &format!("{:?}", rules.compression));
        inputs.push("the paths that are ignored", &format!("{:?}", rules.ignored));
        inputs.push("the epoch", &format!("{:?}", self.builder.times.latest));
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
        let platform = &self.builder.order.platform;
        let images = self.builder.images;
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
            let sources = self.sources(from).ok()?;
            let interrupt = self.builder.interrupt;
            let found = sources.find_plain(source).ok()?;
            let files = contents_of(&sources, &found, &|| interrupt.is_triggered()).ok()?;
            mounted.extend(files.into_iter().map(|file| Input {
                name: format!("{} mounted at {target}", file.name),
                digest: file.digest,
            }));
        }
        Some(mounted)
    }

    /// The files of a context.
    fn content_of(&self, copy: &CopyStep) -> Option<Vec<Input>> {
        let sources = self.sources(&copy.from).ok()?;
        let exclude = match copy.exclude.as_slice() {
            [] => None,
            patterns => Some(Ignore::new(patterns).ok()?),
        };
        let interrupt = self.builder.interrupt;
        let mut brought = Vec::new();
        for source in &copy.sources {
            let CopySource::Path(pattern) = source else { continue };
            let found = contents(&sources, pattern, copy.parents, exclude.as_ref(), &|| {
                interrupt.is_triggered()
            });
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
        let download = self.download(url).ok()?;
        Some((download.fetched.name.clone(), Digest::from_bytes(download.fetched.sha256)))
    }

    /// Which step it is, whatever it depends on.
    fn place_of(&self, stage: &PlannedStage<'_>, instruction: &Located<Instruction>) -> String {
        let file = &self.builder.context.dockerfile_name;
        format!("{file}\n{}\n{}\n{}", stage.label, stage.platform, instruction.text)
    }
}

impl Ahead {
    /// Which steps of a stage are sure to hit.
    fn decide(&mut self, stage: &PlannedStage<'_>, cache: &Cache<'_>) {
        let mut lineage = match &stage.base {
            Base::Stage(number) => self.lineage(*number),
            Base::Scratch | Base::Image(..) => Some(Lineage::start()),
        };
        for (number, instruction) in stage.instructions.iter().enumerate() {
            if !touches_root(&instruction.node) {
                continue;
            }
            let place = (stage.number, number);
            let sources = self.steps.get(&place).map_or(&[][..], |step| &step.sources).to_vec();
            for source in sources {
                lineage = match (lineage, self.lineage(source)) {
                    (Some(own), Some(other)) => Some(own.with(other)),
                    _ => None,
                };
            }
            let hit = self.steps.get(&place).and_then(|step| sure(step, cache, lineage));
            if let (Some(step), Some(_)) = (self.steps.get_mut(&place), &hit) {
                step.fate = Fate::Hit;
            }
            if matches!(instruction.node, Instruction::Run(_)) {
                lineage = hit.and_then(|entry| Some(lineage?.after(entry.outcome)));
            }
        }
        if let Some(lineage) = lineage {
            self.lineages.insert(stage.number, lineage);
        }
    }

    /// Which stages are needed: `all`, or the result; what a needed one is based on; what steps that are not sure to
    /// hit take files from.
    fn choose(&mut self, plan: &Plan<'_>, all: bool) {
        self.wanted.insert(plan.result);
        if all {
            self.wanted.extend(plan.stages.iter().map(|stage| stage.number));
        }
        for stage in plan.stages.iter().rev() {
            if !self.wants(stage.number) {
                continue;
            }
            if let Base::Stage(below) = stage.base {
                self.wanted.insert(below);
            }
            let open: Vec<usize> = (0..stage.instructions.len())
                .filter(|number| touches_root(&stage.instructions[*number].node))
                .filter(|number| {
                    let step = self.steps.get(&(stage.number, *number));
                    step.is_none_or(|step| step.fate == Fate::Open)
                })
                .collect();
            if stage.kept {
                self.trees.insert(stage.number, None);
            }
            if open.is_empty() {
                continue;
            }
            self.trees.insert(stage.number, open.first().copied());
            let known = open.iter().all(|number| self.step(stage.number, *number).is_some());
            for source in &plan.stages {
                let taken = open.iter().any(|number| {
                    let step = self.step(stage.number, *number);
                    step.is_some_and(|step| step.sources.contains(&source.number))
                });
                // Of a step without a key it is not known here what it takes.
                if taken || (!known && source.copied_by.contains(&stage.number)) {
                    self.wanted.insert(source.number);
                }
            }
        }
    }
}

/// The entry of a step, if it is sure to be used.
fn sure(step: &Keyed, cache: &Cache<'_>, lineage: Option<Lineage>) -> Option<Entry> {
    let entry = cache.found(step.key).ok().filter(|_| step.cached)?;
    (Some(entry.before) == lineage).then_some(entry)
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
        Origin::Context | Origin::Named(_) | Origin::Image(_) => None,
    });
    stages.collect()
}

fn diff_ids(image: &Image) -> Vec<Digest> {
    image.layers().iter().map(|layer| layer.diff_id).collect()
}
