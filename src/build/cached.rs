//! Steps that need not be executed, and trees that are only laid out when one does.
//!
//! A layer from the cache is taken into the image without being read. Once a
//! step has to be executed, or a later stage copies files, the layers so far
//! are unpacked over what is on disk already.

use std::path::Path;

use super::keys::sources_of;
use super::stage::{Finished, Fold, Stages};
use super::tree::move_tree;
use crate::cache::{Lineage, Made, Miss};
use crate::image::ImageLayer;
use crate::plan::{Action, PlannedStage};
use crate::report::{Explain as _, Failure, bytes};
use crate::rootfs::{Isolation, Rootfs};

impl Stages<'_, '_> {
    /// The layer of a step, if it is cached; what it depends on besides is in the lineage from then on.
    pub(super) fn cached_layer(
        &mut self,
        stage: &PlannedStage<'_>,
        number: usize,
        action: &Action,
        fold: &mut Fold,
    ) -> Option<ImageLayer> {
        let cache = self.builder.cache?;
        for source in sources_of(action) {
            let finished = self.finished.get(&source).map(|finished| finished.lineage);
            let lineage = finished.or_else(|| self.ahead.lineage(source));
            fold.lineage = fold.lineage.with(lineage.unwrap_or_else(Lineage::start));
        }
        let step = self.ahead.step(stage.number, number).filter(|step| step.cached)?;
        let miss = match cache.found(step.key) {
            Ok(entry) if entry.before == fold.lineage => {
                let mut layer = entry.layer.clone();
                let format = layer.compression().and_then(|it| fold.image.flavor().layer(it));
                if let Some(format) = format {
                    format.clone_into(&mut layer.descriptor.media_type);
                    cache.take(&entry);
                    if matches!(action, Action::Run(_)) {
                        fold.lineage = fold.lineage.after(entry.outcome);
                    }
                    tracing::info!("Cached: {} of {}", bytes(layer.descriptor.size), entry.created);
                    return Some(layer);
                }
                "its layer has no type in this image".to_owned()
            }
            Ok(_) => "an earlier command had another outcome".to_owned(),
            // It has other inputs by that.
            Err(Miss::Absent) if fold.missed => "an earlier step missed".to_owned(),
            Err(miss) => step.why(miss, cache, &stage.platform),
        };
        fold.missed = true;
        tracing::info!("Miss: {miss}");
        None
    }

    /// Writes what a step made to the cache, and takes it into the lineage.
    pub(super) fn keep_in_cache(
        &self,
        stage: &PlannedStage<'_>,
        number: usize,
        action: &Action,
        layer: &ImageLayer,
        fold: &mut Fold,
    ) {
        let (Some(cache), Some(outcome)) = (self.builder.cache, fold.made.take()) else { return };
        if let Some(step) = self.ahead.step(stage.number, number).filter(|step| step.cached) {
            let (before, record) = (fold.lineage, step.record.clone());
            let made = Made { key: step.key, before, outcome, layer, record };
            cache.put(&made, &stage.platform);
        }
        if matches!(action, Action::Run(_)) {
            fold.lineage = fold.lineage.after(outcome);
        }
    }

    /// Makes sure that the tree of a stage is on disk, with all layers so far.
    pub(super) fn lay_out(
        &mut self,
        stage: &PlannedStage<'_>,
        why: &str,
        fold: &mut Fold,
    ) -> Result<(), Failure> {
        let layers = fold.image.layers().len();
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
    pub(super) fn lay_out_finished(&mut self, number: usize) -> Result<(), Failure> {
        let gone = || Failure::new(format!("the files of stage {number} are gone"));
        let mut finished = self.finished.remove(&number).ok_or_else(gone)?;
        let done = self.complete(number, &mut finished);
        self.finished.insert(number, finished);
        done
    }

    fn complete(&self, number: usize, finished: &mut Finished) -> Result<(), Failure> {
        let mut rootfs = match finished.rootfs.take() {
            Some(rootfs) => rootfs,
            None => {
                let dir = self.builder.work.root(&format!("of-{number}"))?;
                finished.on_disk = 0;
                Rootfs::empty(&dir).could_not(|| format!("unpack stage {number}"))?
            }
        };
        let layers = finished.image.layers();
        if finished.on_disk < layers.len() {
            let missing = &layers[finished.on_disk..];
            tracing::info!("Unpacking {} layers of stage {number} to copy from it", missing.len());
            self.builder.images.prefetch_layers(missing, &self.builder.work.blobs());
            self.builder.unpack(missing, &mut rootfs)?;
            finished.on_disk = layers.len();
        }
        finished.rootfs = Some(rootfs);
        Ok(())
    }

    /// In place one stage at a time is at `/`. One that nobody goes on from makes room.
    pub(super) fn free_slash(&mut self) -> Result<(), Failure> {
        if self.builder.isolation != Isolation::InPlace {
            return Ok(());
        }
        let at_slash = |finished: &&mut Finished| {
            finished.rootfs.as_ref().is_some_and(|root| root.tree().path() == Path::new("/"))
        };
        for (number, finished) in &mut self.finished {
            let mut finished = Some(finished).filter(at_slash);
            let taken = finished.as_mut().and_then(|it| it.rootfs.take());
            let (Some(finished), Some(mut rootfs)) = (finished, taken) else { continue };
            let to = self.builder.work.root(&number.to_string())?;
            finished.rootfs = Some(move_tree(&rootfs, &to)?);
            rootfs.wipe().could_not(|| "free the root for the next stage".to_owned())?;
        }
        Ok(())
    }
}
