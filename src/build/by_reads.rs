//! Steps that are found by what they read, where what came before them changed.
//!
//! A command of which it is known what it looked at need not run again where
//! all that is what it was: `COPY . .` brought other files, but none of those.
//! The tree has to be on disk for that, with all layers so far.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::os::fd::AsFd as _;

use snapshot::{Difference, ImagePath, Seen};
use tracer::{Access, Reads};

use super::stage::{Fold, Stages};
use crate::cache::{Before, Entry, ReadSet};
use crate::image::{Digest, ImageLayer};
use crate::plan::{Action, Key, PlannedStage, RunMount, RunStep};
use crate::rootfs::{ACCOUNT_FILES, Rootfs};

/// As many changes are told of a command that has to run again.
const TOLD: usize = 3;

/// Digests of files of one tree, while inode and ctime say that they hold.
#[derive(Debug, Default)]
pub(super) struct Contents(RefCell<HashMap<ImagePath, (Seen, Digest)>>);

impl Contents {
    /// What a step changed is read anew: a page that is dirty already may be written without a new ctime.
    pub(super) fn forget(&self, difference: &Difference) {
        for change in &difference.changes {
            self.0.borrow_mut().remove(change.path());
        }
    }

    /// Of a file that nobody touched since the index was made; nothing where somebody did, or where it cannot
    /// be read.
    fn of(&self, rootfs: &Rootfs, path: &ImagePath) -> Option<Digest> {
        let seen = rootfs.index().get(path)?.seen?;
        let now = snapshot::observe(rootfs.tree().as_fd(), path).ok()??;
        if now.entry.seen != Some(seen) {
            return None;
        }
        let known = self.0.borrow().get(path).copied();
        if let Some((_, digest)) = known.filter(|(then, _)| *then == seen) {
            return Some(digest);
        }
        let mut file = rootfs.tree().read(path).ok()?;
        let (digest, _) = Digest::of_reader(&mut file).ok()?;
        self.0.borrow_mut().insert(path.clone(), (seen, digest));
        Some(digest)
    }
}

impl Stages<'_, '_> {
    /// The name of a command whatever came before it, if it is wanted what it reads.
    pub(super) fn command(&self, stage: &PlannedStage<'_>, number: usize) -> Option<Key> {
        self.between.ahead.step(stage.number, number).filter(|step| step.cached)?.command
    }

    /// Whether it is to be recorded what a command reads.
    pub(super) fn is_recorded(&self, stage: &PlannedStage<'_>, number: usize) -> bool {
        let is_kept = self.builder.cache.is_some_and(|cache| cache.settings().push);
        is_kept && self.command(stage, number).is_some()
    }

    /// The layer of a command that reads what it read then. The tree is as the command will find it.
    pub(super) fn layer_by_reads(
        &self,
        stage: &PlannedStage<'_>,
        number: usize,
        action: &Action,
        fold: &mut Fold,
    ) -> Option<ImageLayer> {
        let (cache, command) = (self.builder.cache?, self.command(stage, number)?);
        cache.look_up_by_reads(&[command]);
        let candidates = cache.by_reads(command);
        cache.look_up(&candidates);
        let mut nearest = None;
        for key in candidates {
            let Some((entry, set)) = self.candidate(key, stage) else { continue };
            let rootfs = fold.root().ok()?;
            let content = |path: &ImagePath| fold.contents.of(rootfs, path);
            let before = Before { index: rootfs.index(), content: &content };
            if set.holds(&before) {
                let how = format!(", by what it read: {} paths are as they were", set.len());
                return self.take_entry(stage, number, action, (&entry, Some(&set)), &how, fold);
            }
            nearest.get_or_insert_with(|| set.differences(&before, TOLD));
        }
        match nearest {
            Some((told, count)) => {
                let more = count.saturating_sub(told.len());
                let more = if more > 0 { format!(", and {more} more") } else { String::new() };
                tracing::info!("It runs again, because it read {}{more}", told.join("; "));
            }
            None => tracing::debug!("nothing is known of what this command reads"),
        }
        None
    }

    fn candidate(&self, key: Key, stage: &PlannedStage<'_>) -> Option<(Entry, ReadSet)> {
        let cache = self.builder.cache?;
        let entry = cache.found(key).ok()?;
        Some((entry, cache.read_set(key, &stage.platform)?))
    }

    /// What a command read that has just run, if that can be told.
    pub(super) fn read_set(
        &self,
        reads: &Reads,
        step: &RunStep,
        difference: &Difference,
        fold: &Fold,
    ) -> Option<ReadSet> {
        let told = match reads {
            Reads::NotAsked => return None,
            Reads::Unknown(why) => Err(why.clone()),
            Reads::Known(known) => set_of(known, step, difference, fold),
        };
        match told {
            Ok(set) => {
                tracing::debug!("it read {} paths", set.len());
                Some(set)
            }
            Err(why) => {
                tracing::info!("Not to be found by what it reads: {why}");
                None
            }
        }
    }
}

fn set_of(
    known: &BTreeMap<Vec<u8>, Access>,
    step: &RunStep,
    difference: &Difference,
    fold: &Fold,
) -> Result<ReadSet, String> {
    let rootfs = fold.root().map_err(|failure| failure.to_string())?;
    let is_unnamed = |path: &&ImagePath| {
        !is_named(known, path) && rootfs.index().names_linked_with(path).next().is_none()
    };
    if let Some(path) = difference.changes.iter().map(snapshot::Change::path).find(is_unnamed) {
        return Err(format!("the trace did not name {path}, which changed"));
    }
    let mut known = known.clone();
    // The executor reads them itself, for the step.
    for path in ACCOUNT_FILES {
        known.insert(path.as_bytes().to_vec(), Access::Read);
        let parsed = ImagePath::parse(path.as_bytes()).map_err(|error| error.to_string())?;
        if rootfs.resolve(&parsed).ok() != Some(parsed) {
            return Err(format!("{path} is a link"));
        }
    }
    let targets = step.mounts.iter().filter_map(RunMount::shown_at).map(|target| {
        let target = ImagePath::parse(target.as_bytes()).map_err(|error| error.to_string())?;
        rootfs.resolve(&target).map_err(|error| error.to_string())
    });
    let left_out: Vec<ImagePath> = targets.collect::<Result<_, String>>()?;
    let changed: BTreeSet<&ImagePath> =
        difference.changes.iter().map(snapshot::Change::path).collect();
    let content = |path: &ImagePath| {
        if changed.contains(path) { None } else { fold.contents.of(rootfs, path) }
    };
    let before = Before { index: rootfs.index(), content: &content };
    ReadSet::of(&known, &left_out, &before).map_err(|error| error.to_string())
}

/// Whether a record names a path, something below it, or a tree that it is in.
fn is_named(known: &BTreeMap<Vec<u8>, Access>, path: &ImagePath) -> bool {
    let path = path.as_bytes();
    let below = if path == b"/" { path.to_vec() } else { [path, b"/"].concat() };
    let next = known.range::<[u8], _>((Bound::Included(&below[..]), Bound::Unbounded)).next();
    known.contains_key(path)
        || next.is_some_and(|(next, _)| next.starts_with(&below))
        || path.iter().enumerate().any(|(end, byte)| {
            *byte == b'/' && end > 0 && known.get(&path[..end]) == Some(&Access::Tree)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_named_by_a_record() {
        let known = [("/a/b", Access::Change), ("/t", Access::Tree), ("/d-x", Access::Look)];
        let known = known.map(|(path, access)| (path.as_bytes().to_vec(), access)).into();
        for (path, want) in [
            ("/", true),
            ("/a", true),
            ("/a/b", true),
            ("/a/b/c", false),
            ("/t/u/v", true),
            ("/tt", false),
            ("/d", false),
            ("/d-x", true),
        ] {
            let parsed = ImagePath::parse(path.as_bytes()).expect("a path");
            assert_eq!(is_named(&known, &parsed), want, "{path}");
        }
    }
}
