//! What stages leave for each other: images and trees, files that were fetched, uploads that were begun.
//!
//! Several stages may be built at the same time. One that needs another begins when that is finished, so
//! of a finished stage nothing changes but its tree: whoever is first to read a tree that lacks layers
//! completes it, and the last who needs it may take it away.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::ahead::Ahead;
use super::builder::Builder;
use super::by_content::ByContent;
use super::downloads::Downloads;
use super::keys::{Keys, known_files};
use super::needs::{Need, need};
use super::once::{Once, locked};
use crate::cache::Lineage;
use crate::image::Image;
use crate::plan::{Base, Plan, PlannedStage, Scope};
use crate::registry::PendingUpload;
use crate::rootfs::Rootfs;
use crate::step::KnownFiles;

/// A stage that is built.
pub(super) struct Finished {
    pub(super) image: Image,
    pub(super) lineage: Lineage,
    pub(super) by_content: ByContent,
    /// The variables at its end, which a stage that starts from it begins with.
    pub(super) scope: Scope,
    pub(super) tree: RwLock<KeptTree>,
}

/// The tree of a stage that is built.
pub(super) struct KeptTree {
    /// It is there while a later stage may need it.
    pub(super) rootfs: Option<Rootfs>,
    /// How many layers of the image are in it.
    pub(super) on_disk: usize,
}

/// What stages leave for each other.
pub(super) struct Between {
    pub(super) ahead: Ahead,
    /// Files of the web that were fetched, by URL.
    pub(super) downloads: Downloads,
    pub(super) known: KnownFiles,
    /// Trees of images that files are copied from.
    pub(super) foreign: Once<String, PathBuf>,
    /// How many of those were begun.
    foreign_begun: AtomicUsize,
    uploads: Mutex<Vec<PendingUpload>>,
    state: Mutex<State>,
    /// A tree is prepared, or will not be.
    prepared: Condvar,
}

#[derive(Default)]
struct State {
    begun: BTreeSet<usize>,
    finished: HashMap<usize, Arc<Finished>>,
    /// Trees of stages that start from the image of another one; nothing while one is being made.
    prepared: HashMap<usize, Option<Rootfs>>,
}

/// The right to prepare the tree of a stage that has not begun.
#[must_use = "the stage waits for its tree"]
pub(super) struct Claim<'a> {
    between: &'a Between,
    stage: usize,
}

impl Between {
    /// Looks up what can be known before anything is built, and begins to download what will be needed.
    pub(super) fn look(builder: &Builder<'_>, plan: &Plan<'_>) -> Self {
        let context = builder.context;
        let known = builder.cache.map(|it| known_files(it.settings(), context)).unwrap_or_default();
        let downloads = Downloads::default();
        let ahead = match builder.cache {
            None => Ahead::nothing(plan),
            Some(cache) => {
                let ahead = Ahead::look(&Keys::of(builder, plan, &downloads, &known), cache);
                cache.look_up_by_reads(&ahead.open_commands());
                ahead
            }
        };
        for stage in plan.stages.iter().filter(|stage| ahead.needs_tree(stage.number)) {
            if let Base::Image(image, _) = &stage.base {
                builder.images.prefetch(image, &builder.work.blobs());
            }
        }
        Self {
            ahead,
            downloads,
            known,
            foreign: Once::default(),
            foreign_begun: AtomicUsize::default(),
            uploads: Mutex::default(),
            state: Mutex::default(),
            prepared: Condvar::new(),
        }
    }

    /// A name for the directory of the tree of an image.
    pub(super) fn name_for_foreign(&self) -> String {
        format!("image-{}", self.foreign_begun.fetch_add(1, Ordering::Relaxed))
    }

    /// Takes an upload that goes on until the end of the build.
    pub(super) fn keep_upload(&self, upload: PendingUpload) {
        locked(&self.uploads).push(upload);
    }

    /// The uploads that were begun.
    pub(super) fn into_uploads(self) -> Vec<PendingUpload> {
        self.uploads.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stage begins: nobody else prepares its tree from now on.
    pub(super) fn begin(&self, stage: usize) {
        locked(&self.state).begun.insert(stage);
    }

    /// A stage is built.
    pub(super) fn finish(&self, stage: usize, finished: Finished) {
        locked(&self.state).finished.insert(stage, Arc::new(finished));
    }

    /// A stage, if it is built.
    pub(super) fn finished(&self, stage: usize) -> Option<Arc<Finished>> {
        locked(&self.state).finished.get(&stage).cloned()
    }

    /// All that are built.
    pub(super) fn all_finished(&self) -> Vec<(usize, Arc<Finished>)> {
        let state = locked(&self.state);
        state.finished.iter().map(|(number, it)| (*number, Arc::clone(it))).collect()
    }

    /// The stages that are going to be built, or are being built now.
    fn unfinished<'p>(&self, plan: &'p Plan<'p>) -> impl Iterator<Item = &'p PlannedStage<'p>> {
        let finished: BTreeSet<usize> = locked(&self.state).finished.keys().copied().collect();
        plan.stages
            .iter()
            .filter(move |it| self.ahead.wants(it.number) && !finished.contains(&it.number))
    }

    /// The images that stages start from which are not finished.
    pub(super) fn bases_to_come<'p>(&self, plan: &'p Plan<'p>) -> Vec<&'p Image> {
        let bases = self.unfinished(plan).filter_map(|stage| match &stage.base {
            Base::Image(image, _) => Some(&**image),
            Base::Scratch | Base::Stage(_) => None,
        });
        bases.collect()
    }

    /// Whether the files of stage `which` are needed by stage `by`, once it has begun, or by any other that
    /// is not finished.
    pub(super) fn is_needed_beside(&self, plan: &Plan<'_>, which: usize, by: usize) -> bool {
        let Some(source) = plan.stages.iter().find(|stage| stage.number == which) else {
            return false;
        };
        let needs = |stage: &PlannedStage<'_>| {
            source.copied_by.contains(&stage.number)
                || (source.base_of.contains(&stage.number) && need(plan, stage) != Need::Nothing)
        };
        source.kept
            || source.copied_by.contains(&by)
            || self.unfinished(plan).any(|stage| stage.number != by && needs(stage))
    }

    /// The right to prepare the tree of a stage, unless it has begun, or somebody has that right already.
    pub(super) fn claim(&self, stage: usize) -> Option<Claim<'_>> {
        let mut state = locked(&self.state);
        if state.begun.contains(&stage) || state.prepared.contains_key(&stage) {
            return None;
        }
        state.prepared.insert(stage, None);
        Some(Claim { between: self, stage })
    }

    /// The tree that was prepared for a stage, if one was; waits for one that is being made.
    pub(super) fn take_prepared(&self, stage: usize) -> Option<Rootfs> {
        let mut state = locked(&self.state);
        while matches!(state.prepared.get(&stage), Some(None)) {
            state = self.prepared.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.prepared.remove(&stage).flatten()
    }
}

impl Claim<'_> {
    /// Hands the tree over.
    pub(super) fn fulfil(self, rootfs: Rootfs) {
        locked(&self.between.state).prepared.insert(self.stage, Some(rootfs));
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut state = locked(&self.between.state);
        if matches!(state.prepared.get(&self.stage), Some(None)) {
            state.prepared.remove(&self.stage);
        }
        self.between.prepared.notify_all();
    }
}

/// The tree of a stage, to be changed.
pub(super) fn write(tree: &RwLock<KeptTree>) -> RwLockWriteGuard<'_, KeptTree> {
    tree.write().unwrap_or_else(PoisonError::into_inner)
}

/// The tree of a stage, to be read.
pub(super) fn read(tree: &RwLock<KeptTree>) -> RwLockReadGuard<'_, KeptTree> {
    tree.read().unwrap_or_else(PoisonError::into_inner)
}
