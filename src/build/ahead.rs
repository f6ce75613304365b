//! What can be known before anything is built: keys, hits, and which stages nobody needs.
//!
//! Instructions are expanded for all stages, their keys computed from what is
//! on this machine and in manifests, and all keys looked up at once. A hit is
//! sure when the lineage before it is known; one that comes after a command
//! which has to run is only likely, and is decided when that has run.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use super::keys::Keys;
use super::needs::{Need, need, touches_root};
use crate::cache::{Cache, Entry, Lineage, Miss, Record};
use crate::dockerfile::Instruction;
use crate::image::Platform;
use crate::plan::{Base, CopyStep, Inputs, Key, Plan, PlannedStage};

/// A step of a stage: the number of the stage, and its place there.
pub(super) type Place = (usize, usize);

/// What is known of a step before it is its turn.
pub(super) struct Keyed {
    pub(super) key: Key,
    /// The key of what came before it.
    pub(super) before: Key,
    pub(super) inputs: Inputs,
    /// Of a RUN that is also to be found by what it reads: its name whatever came before it.
    pub(super) command: Option<Key>,
    /// Whether its layer is cached.
    pub(super) cached: bool,
    pub(super) record: Record,
    /// The stages that it takes files from.
    pub(super) sources: Vec<usize>,
    /// Of a COPY whose files come from a stage or an image.
    pub(super) copied: Option<CopyStep>,
    pub(super) fate: Fate,
}

impl Keyed {
    /// In words, why there is no layer for it to take.
    pub(super) fn why(&self, miss: Miss, cache: &Cache<'_>, platform: &Platform) -> String {
        match miss {
            Miss::Expired(created) => format!("it expired, it is of {created}"),
            Miss::Other => "an earlier command had another outcome".to_owned(),
            Miss::Unusable(why) => why,
            Miss::Late => "the cache did not answer in time".to_owned(),
            Miss::Absent => self.why_absent(cache, platform),
        }
    }

    /// What is different from the last time.
    fn why_absent(&self, cache: &Cache<'_>, platform: &Platform) -> String {
        /// More changes than this are counted.
        const TOLD: usize = 3;
        let Some(last) = cache.last(&self.record, platform) else {
            return "this step is not in the cache".to_owned();
        };
        let changes = self.record.changes_since(&last);
        match changes.len() {
            0 => "what came before it changed".to_owned(),
            count if count <= TOLD => changes.join(", "),
            count => format!("{}, and {} more", changes[..TOLD].join(", "), count - TOLD),
        }
    }
}

/// What will become of a step, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its layer is taken.
    Hit,
    /// It is executed, or decided about when what comes before it has been executed.
    Open,
    /// There is a layer, but it was made after another outcome of an earlier command.
    Other,
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

    /// The names of commands that may have to run, as far as what they read may find them.
    pub(super) fn open_commands(&self) -> Vec<Key> {
        let open = self.steps.values().filter(|step| step.cached && step.fate != Fate::Hit);
        open.filter_map(|step| step.command).collect()
    }

    /// Whether the image of a stage is needed.
    pub(super) fn wants(&self, stage: usize) -> bool {
        self.wanted.contains(&stage)
    }

    /// Whether a stage is known to need its tree. Others may turn out to, and it may turn out not to.
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

/// What is found out about a stage when it begins, where there is a cache.
#[derive(Default)]
pub(super) struct Again {
    /// Keys by the content of what is copied, where that differs from the other and is known.
    pub(super) by_content: HashMap<Place, Key>,
    /// The first step that is not sure to hit.
    pub(super) open: Option<usize>,
}

impl Ahead {
    /// Looks up all keys.
    pub(super) fn look(keys: &Keys<'_>, cache: &Cache<'_>) -> Self {
        let started = Instant::now();
        let steps = keys.all(cache);
        tracing::debug!("computed {} keys in {} ms", steps.len(), started.elapsed().as_millis());
        let mut ahead = Self {
            steps,
            wanted: BTreeSet::new(),
            trees: BTreeMap::new(),
            lineages: HashMap::new(),
        };
        let cached: Vec<Key> =
            ahead.steps.values().filter(|step| step.cached).map(|step| step.key).collect();
        tracing::debug!("looking up {} of {} keys", cached.len(), ahead.steps.len());
        cache.look_up(&cached);
        for stage in &keys.plan.stages {
            ahead.decide(stage, cache);
        }
        // Further targets are built whoever needs them.
        let goals = &keys.order.goals;
        ahead.choose(keys.plan, goals.unused || goals.targets.len() > 1);
        ahead
    }

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
            if let Some(step) = self.steps.get_mut(&place) {
                let known = lineage.is_some() && cache.found(step.key).is_ok();
                step.fate = match &hit {
                    Some(_) => Fate::Hit,
                    None if known && step.cached => Fate::Other,
                    None => Fate::Open,
                };
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
                    step.is_none_or(|step| step.fate != Fate::Hit)
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
pub(super) fn sure(step: &Keyed, cache: &Cache<'_>, lineage: Option<Lineage>) -> Option<Entry> {
    let entry = cache.found(step.key).ok().filter(|_| step.cached)?;
    (Some(entry.before) == lineage).then_some(entry)
}
