//! What is found by the content of what is copied, where what made it changed.
//!
//! A COPY from a stage is keyed by that stage: so it is known before anything
//! is built. Where the stage had to be built again, its files are there when
//! the stage that copies them begins. If they are the same as ever, keys made
//! of their content find the layers of that COPY, and of all that follows.

use std::collections::HashMap;

use super::ahead::{Again, Fate, Keyed, Place, sure};
use super::needs::touches_root;
use super::stage::{Fold, Stages};
use crate::cache::{Cache, Entry, Lineage};
use crate::dockerfile::Instruction;
use crate::plan::{CopyStep, Inputs, Key, PlannedStage};
use crate::report::Failure;

/// The chain of keys by content, at one point of a stage.
#[derive(Debug, Clone, Copy)]
pub(super) enum ByContent {
    /// Nothing was copied yet: it is the chain of keys that are known ahead.
    Same,
    /// The key so far, and what the commands before made.
    Own(Key, Lineage),
    /// The content of something is not known.
    Unknown,
}

impl ByContent {
    /// After a step with this key, if it has one of its own.
    pub(super) fn next(self, key: Option<(Key, Lineage)>, copies: bool) -> Self {
        match (self, key) {
            (_, Some((key, lineage))) => Self::Own(key, lineage),
            (Self::Same, None) if !copies => self,
            (Self::Same | Self::Own(..) | Self::Unknown, None) => Self::Unknown,
        }
    }

    /// After a command that made this.
    pub(super) fn after(self, outcome: crate::image::Digest) -> Self {
        match self {
            Self::Own(key, lineage) => Self::Own(key, lineage.after(outcome)),
            Self::Same | Self::Unknown => self,
        }
    }
}

/// A chain of keys, as far as it is known at the beginning of a stage.
#[derive(Clone, Copy)]
enum Chain {
    Same,
    Own(Key),
    Unknown,
}

impl Stages<'_, '_> {
    /// At the beginning of a stage: looks up what may be found by content, and decides again which steps hit.
    pub(super) fn look_again(
        &self,
        stage: &PlannedStage<'_>,
        fold: &Fold,
    ) -> Result<Option<Again>, Failure> {
        let Some(cache) = self.builder.cache else { return Ok(None) };
        let keys = self.keys_by_content(cache, stage, fold)?;
        if keys.is_empty() {
            return Ok(None);
        }
        let wanted = keys.iter().filter(|((stage, number), _)| {
            self.between
                .ahead
                .step(*stage, *number)
                .is_some_and(|step| step.cached && cache.found(step.key).is_err())
        });
        cache.look_up(&wanted.map(|(_, key)| *key).collect::<Vec<_>>());
        let open = self.first_open(cache, stage, fold, &keys);
        Ok(Some(Again { by_content: keys, open }))
    }

    /// Keys by content, of the steps of a stage from the first that copies from elsewhere.
    fn keys_by_content(
        &self,
        cache: &Cache<'_>,
        stage: &PlannedStage<'_>,
        fold: &Fold,
    ) -> Result<HashMap<Place, Key>, Failure> {
        let (mut keys, mut lineage) = (HashMap::new(), Some(fold.lineage));
        let mut chain = match fold.by_content {
            ByContent::Same => Chain::Same,
            ByContent::Own(key, _) => Chain::Own(key),
            ByContent::Unknown => Chain::Unknown,
        };
        for (number, instruction) in stage.instructions.iter().enumerate() {
            if !touches_root(&instruction.node) {
                continue;
            }
            let Some(step) = self.between.ahead.step(stage.number, number) else { break };
            lineage = self.with_sources(lineage, step);
            let hit = sure(step, cache, lineage);
            let own = match chain {
                Chain::Unknown => break,
                Chain::Same => None,
                Chain::Own(key) => Some(key),
            };
            let next = match (&step.copied, own) {
                (None, None) => None,
                (None, Some(before)) => Some(Key::by_content(before, &step.inputs)),
                (Some(copy), own) => match &hit {
                    Some(entry) => entry.by_content.map(|(key, _)| key),
                    // It may still hit when it is its turn: then its files are not needed.
                    None if lineage.is_none() && cache.found(step.key).is_ok() => None,
                    None if !self.is_useful(stage, number) => None,
                    None => {
                        let (before, copy) = (own.unwrap_or(step.before), copy.clone());
                        let inputs = self.inputs_of_copied(&copy)?;
                        inputs.map(|inputs| Key::by_content(before, &inputs))
                    }
                },
            };
            let copies =
                self.between.ahead.step(stage.number, number).is_some_and(|it| it.copied.is_some());
            chain = match (next, chain) {
                (Some(key), _) => {
                    keys.insert((stage.number, number), key);
                    Chain::Own(key)
                }
                (None, Chain::Same) if !copies => Chain::Same,
                (None, Chain::Same | Chain::Own(_) | Chain::Unknown) => Chain::Unknown,
            };
            if matches!(instruction.node, Instruction::Run(_)) {
                lineage = hit.and_then(|entry| Some(lineage?.after(entry.outcome)));
            }
        }
        Ok(keys)
    }

    /// Whether a key by content may find something: a layer of this step or a later one, that is not found already.
    fn is_useful(&self, stage: &PlannedStage<'_>, number: usize) -> bool {
        let open = |number: usize| {
            let step = self.between.ahead.step(stage.number, number);
            step.is_some_and(|step| step.cached && step.fate != Fate::Hit)
        };
        !stage.base_of.is_empty() || (number..stage.instructions.len()).any(open)
    }

    /// The content that a COPY brings from a tree that is there now, or is laid out for this.
    fn inputs_of_copied(&self, copy: &CopyStep) -> Result<Option<Inputs>, Failure> {
        self.prepare_origin(&copy.from)?;
        let sources = self.sources(&copy.from)?;
        Ok(self.keys().of_copied(copy, &sources))
    }

    /// The first step of a stage that is not sure to hit, by either of its keys.
    fn first_open(
        &self,
        cache: &Cache<'_>,
        stage: &PlannedStage<'_>,
        fold: &Fold,
        keys: &HashMap<Place, Key>,
    ) -> Option<usize> {
        let (mut lineage, mut chain) = (Some(fold.lineage), fold.by_content);
        for (number, instruction) in stage.instructions.iter().enumerate() {
            if !touches_root(&instruction.node) {
                continue;
            }
            let Some(step) = self.between.ahead.step(stage.number, number) else {
                return Some(number);
            };
            let is_run = matches!(instruction.node, Instruction::Run(_));
            let before = self.content_lineage(chain, lineage, step, is_run);
            lineage = self.with_sources(lineage, step);
            let own = keys.get(&(stage.number, number)).copied().zip(before);
            let hit = self.hit(cache, step, lineage, own);
            let Some(entry) = hit else { return Some(number) };
            chain = chain.next(own, step.copied.is_some());
            if is_run {
                lineage = lineage.map(|lineage| lineage.after(entry.outcome));
                chain = chain.after(entry.outcome);
            }
        }
        None
    }

    /// The entry of a step that is sure to be used, by either key.
    fn hit(
        &self,
        cache: &Cache<'_>,
        step: &Keyed,
        lineage: Option<Lineage>,
        own: Option<(Key, Lineage)>,
    ) -> Option<Entry> {
        sure(step, cache, lineage).or_else(|| {
            let (key, before) = own.filter(|_| step.cached)?;
            cache.found(key).ok().filter(|entry| entry.before == before)
        })
    }

    /// With the lineages of the stages that a step takes files from.
    fn with_sources(&self, lineage: Option<Lineage>, step: &Keyed) -> Option<Lineage> {
        step.sources
            .iter()
            .try_fold(lineage?, |own, source| Some(own.with(self.lineage_of(*source)?)))
    }

    /// The lineage at the end of a stage, built or not.
    pub(super) fn lineage_of(&self, stage: usize) -> Option<Lineage> {
        let finished = self.between.finished(stage).map(|finished| finished.lineage);
        finished.or_else(|| self.between.ahead.lineage(stage))
    }

    /// What a step comes after in the chain by content. What is copied is in its key there; what a command
    /// sees of other stages is keyed by them in both chains.
    pub(super) fn content_lineage(
        &self,
        chain: ByContent,
        lineage: Option<Lineage>,
        step: &Keyed,
        is_run: bool,
    ) -> Option<Lineage> {
        let own = match chain {
            ByContent::Same => lineage,
            ByContent::Own(_, lineage) => Some(lineage),
            ByContent::Unknown => None,
        };
        if is_run { self.with_sources(own, step) } else { own }
    }
}
