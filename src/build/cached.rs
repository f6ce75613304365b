//! Steps that need not be executed, and trees that are only laid out when one does.
//!
//! A layer from the cache is taken into the image without being read. Once a
//! step has to be executed, or a later stage copies files, the layers so far
//! are unpacked over what is on disk already.

use std::path::Path;

use super::ahead::Keyed;
use super::between::{KeptTree, read, write};
use super::by_content::ByContent;
use super::keys::sources_of;
use super::stage::{Fold, Stages};
use super::tree::move_tree;
use crate::cache::{Cache, Entry, Lineage, Made, Miss, ReadSet};
use crate::image::ImageLayer;
use crate::plan::{Action, Key, PlannedStage};
use crate::report::{Explain as _, Failure, bytes};
use crate::rootfs::{Isolation, Rootfs};

impl Stages<'_, '_> {
    /// The layer of a step, if it is cached; what it depends on besides is in the lineages from then on.
    pub(super) fn cached_layer(
        &self,
        stage: &PlannedStage<'_>,
        number: usize,
        action: &Action,
        fold: &mut Fold,
    ) -> Option<ImageLayer> {
        let cache = self.builder.cache?;
        self.enter(stage, number, action, fold);
        let step = self.between.ahead.step(stage.number, number).filter(|step| step.cached)?;
        tracing::Span::current().record("kaniko.cache.key", tracing::field::display(step.key));
        let own = self.own_key(stage, number, fold);
        let by_name = cache.found(step.key).and_then(|entry| {
            if entry.before == fold.lineage { Ok(entry) } else { Err(Miss::Other) }
        });
        let by_content = || {
            let (key, before) = own?;
            cache.found(key).ok().filter(|entry| entry.before == before)
        };
        let (found, how) = match by_name {
            Ok(entry) => (Ok(entry), ""),
            Err(miss) => (by_content().ok_or(miss), ", by its content"),
        };
        let miss = match found {
            Ok(entry) => {
                let named = (&entry, None);
                match self.take_entry(stage, number, action, named, how, fold) {
                    Some(layer) => return Some(layer),
                    None => "its layer has no type in this image".to_owned(),
                }
            }
            // It has other inputs by that.
            Err(Miss::Absent) if fold.missed => "an earlier step missed".to_owned(),
            Err(miss) => step.why(miss, cache, &stage.platform),
        };
        fold.missed = true;
        tracing::info!("Miss: {miss}");
        None
    }

    /// Uses the layer of an entry, of which it may be known what its command read; nothing where it has no type in
    /// this image.
    pub(super) fn take_entry(
        &self,
        stage: &PlannedStage<'_>,
        number: usize,
        action: &Action,
        (entry, reads): (&Entry, Option<&ReadSet>),
        how: &str,
        fold: &mut Fold,
    ) -> Option<ImageLayer> {
        let (cache, step) = (self.builder.cache?, self.between.ahead.step(stage.number, number)?);
        let mut layer = entry.layer.clone();
        let flavor = fold.image.flavor();
        flavor.layer(layer.compression()?)?.clone_into(&mut layer.descriptor.media_type);
        cache.take(entry);
        if !how.is_empty() {
            let own = self.own_key(stage, number, fold);
            self.rename(cache, stage, (step, own), (entry, reads), fold);
        }
        if matches!(action, Action::Run(_)) {
            fold.lineage = fold.lineage.after(entry.outcome);
            fold.by_content = fold.by_content.after(entry.outcome);
        }
        let size = bytes(layer.descriptor.size);
        tracing::info!("Cached: {size} of {}{how}", entry.created);
        Some(layer)
    }

    /// The key of a step by the content of what was copied, and what comes before it then.
    fn own_key(
        &self,
        stage: &PlannedStage<'_>,
        number: usize,
        fold: &Fold,
    ) -> Option<(Key, Lineage)> {
        let key = fold.own_key(stage, number)?;
        match fold.by_content {
            ByContent::Own(known, before) if known == key => Some((key, before)),
            ByContent::Own(..) | ByContent::Same | ByContent::Unknown => None,
        }
    }

    /// Takes into the lineages what a step depends on besides what came before it.
    fn enter(&self, stage: &PlannedStage<'_>, number: usize, action: &Action, fold: &mut Fold) {
        let before = fold.lineage;
        for source in sources_of(action) {
            let lineage = self.lineage_of(source).unwrap_or_else(Lineage::start);
            fold.lineage = fold.lineage.with(lineage);
        }
        let Some(step) = self.between.ahead.step(stage.number, number) else {
            fold.by_content = ByContent::Unknown;
            return;
        };
        let is_run = matches!(action, Action::Run(_));
        let lineage = self.content_lineage(fold.by_content, Some(before), step, is_run);
        let key = fold.own_key(stage, number).zip(lineage);
        fold.by_content = fold.by_content.next(key, step.copied.is_some());
    }

    /// Lets an entry that was found by content, or by what was read, be found at once the next time.
    fn rename(
        &self,
        cache: &Cache<'_>,
        stage: &PlannedStage<'_>,
        (step, by_content): (&Keyed, Option<(Key, Lineage)>),
        (entry, reads): (&Entry, Option<&ReadSet>),
        fold: &Fold,
    ) {
        let made = Made {
            key: step.key,
            before: fold.lineage,
            by_content,
            created: entry.created_seconds,
            outcome: entry.outcome,
            layer: &entry.layer,
            record: step.record.clone(),
            reads,
            read_as: None,
        };
        cache.put(&made, &stage.platform);
    }

    /// Writes what a step made to the cache, and takes it into the lineages.
    pub(super) fn keep_in_cache(
        &self,
        stage: &PlannedStage<'_>,
        number: usize,
        action: &Action,
        layer: &ImageLayer,
        fold: &mut Fold,
    ) {
        let read = fold.read.take();
        let (Some(cache), Some(outcome)) = (self.builder.cache, fold.made.take()) else { return };
        if let Some(step) = self.between.ahead.step(stage.number, number).filter(|step| step.cached)
        {
            let by_content = match fold.by_content {
                ByContent::Own(key, before) => Some((key, before)),
                ByContent::Same | ByContent::Unknown => None,
            };
            let (before, record) = (fold.lineage, step.record.clone());
            let (key, created) = (step.key, cache.settings().now);
            cache.put(
                &Made {
                    key,
                    before,
                    by_content,
                    created,
                    outcome,
                    layer,
                    record,
                    reads: read.as_ref(),
                    read_as: read.as_ref().and(step.command).map(|it| (it, cache.by_reads(it))),
                },
                &stage.platform,
            );
        }
        if matches!(action, Action::Run(_)) {
            fold.lineage = fold.lineage.after(outcome);
            fold.by_content = fold.by_content.after(outcome);
        }
    }

    /// Makes sure that the tree of a stage is on disk, with all layers so far.
    pub(super) fn lay_out(
        &self,
        stage: &PlannedStage<'_>,
        why: &str,
        fold: &mut Fold,
    ) -> Result<(), Failure> {
        let layers = fold.image.layers().len();
        let missing = layers.saturating_sub(fold.on_disk) as u64;
        let _span =
            (missing > 0).then(|| tracing::info_span!("unpack", kaniko.layers = missing).entered());
        if fold.on_disk < layers {
            fold.forget_marks();
        }
        let mut rootfs = match fold.take_root() {
            Some(rootfs) => rootfs,
            None => {
                let (rootfs, on_disk) = self.root(stage, why)?;
                fold.on_disk = on_disk;
                rootfs
            }
        };
        self.catch_up(&fold.image.layers()[fold.on_disk.min(layers)..], &mut rootfs)?;
        fold.on_disk = layers;
        fold.put_root(rootfs);
        fold.image = self.builder.images.with_fetched(&fold.image, &self.builder.order.outputs);
        Ok(())
    }

    fn catch_up(&self, layers: &[ImageLayer], rootfs: &mut Rootfs) -> Result<(), Failure> {
        if layers.is_empty() {
            return Ok(());
        }
        tracing::info!("Unpacking {} cached layers", layers.len());
        self.builder.images.prefetch_layers(layers, &self.builder.work.blobs());
        self.builder.unpack(layers, rootfs)
    }

    /// Makes sure that the tree of a stage that is built is on disk, whole.
    pub(super) fn lay_out_finished(&self, number: usize) -> Result<(), Failure> {
        let finished = self.finished(number)?;
        let layers = finished.image.layers();
        let is_whole = |tree: &KeptTree| tree.rootfs.is_some() && tree.on_disk == layers.len();
        // Whoever copies the whole tree for itself only reads it, and need not be waited for.
        if is_whole(&read(&finished.tree)) {
            return Ok(());
        }
        let mut tree = write(&finished.tree);
        let mut rootfs = match tree.rootfs.take() {
            Some(rootfs) => rootfs,
            None => {
                let dir = self.builder.work.root(&format!("of-{number}"))?;
                tree.on_disk = 0;
                Rootfs::empty(&dir).could_not(|| format!("unpack stage {number}"))?
            }
        };
        if tree.on_disk < layers.len() {
            let missing = &layers[tree.on_disk..];
            tracing::info!("Unpacking {} layers of stage {number} to copy from it", missing.len());
            self.builder.images.prefetch_layers(missing, &self.builder.work.blobs());
            self.builder.unpack(missing, &mut rootfs)?;
            tree.on_disk = layers.len();
        }
        tree.rootfs = Some(rootfs);
        Ok(())
    }

    /// In place one stage at a time is at `/`. One that nobody goes on from makes room.
    pub(super) fn free_slash(&self) -> Result<(), Failure> {
        if self.builder.isolation != Isolation::InPlace {
            return Ok(());
        }
        for (number, finished) in self.between.all_finished() {
            let mut tree = write(&finished.tree);
            let at_slash = tree.rootfs.take_if(|root| root.tree().path() == Path::new("/"));
            let Some(mut rootfs) = at_slash else { continue };
            let to = self.builder.work.root(&number.to_string())?;
            tree.rootfs = Some(move_tree(&rootfs, &to)?);
            rootfs.wipe().could_not(|| "free the root for the next stage".to_owned())?;
        }
        Ok(())
    }
}
