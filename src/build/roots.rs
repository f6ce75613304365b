//! The trees that stages start from, and what is kept of them for later stages.

use std::path::Path;

use super::between::{Finished, read, write};
use super::needs::{Need, need};
use super::stage::{Stages, gone, shown};
use super::tree::{copy_tree, move_tree, outline_tree};
use crate::image::{Digest, Image};
use crate::plan::{Base, PlannedStage};
use crate::report::{Explain as _, Failure, bytes};
use crate::rootfs::{Exclusions, Isolation, Rootfs};

impl Stages<'_, '_> {
    /// The tree that a stage starts from, and how many layers of its image are in it.
    pub(super) fn root(
        &self,
        stage: &PlannedStage<'_>,
        why: &str,
    ) -> Result<(Rootfs, usize), Failure> {
        match &stage.base {
            Base::Stage(number) => self.root_of_stage(stage, *number),
            Base::Scratch => Ok((self.fresh_root(stage)?, 0)),
            Base::Image(image, name) => {
                if let Some(prepared) = self.between.take_prepared(stage.number) {
                    tracing::info!("{name} is there already");
                    return Ok((prepared, image.layers().len()));
                }
                let rootfs = self.fresh_root(stage)?;
                let size = bytes(image.layers().iter().map(|it| it.descriptor.size).sum());
                let count = image.layers().len();
                let layers = format!("{count} layers, {size}");
                let outline = self.need(stage) == Need::Outline;
                let mut rootfs = if outline { rootfs.outline() } else { rootfs };
                if outline {
                    tracing::info!("Listing {name} ({layers}); no step needs its files unpacked");
                    self.builder.outline(image, &mut rootfs)?;
                } else {
                    let why = shown(why);
                    tracing::info!("Unpacking rootfs of {name} ({layers}) as {why:?} requires it");
                    self.builder.images.prefetch(image, &self.builder.work.blobs());
                    self.builder.unpack(image.layers(), &mut rootfs)?;
                }
                self.prepare(stage, image, &rootfs, outline)?;
                Ok((rootfs, image.layers().len()))
            }
        }
    }

    /// Trees of later stages that start from the same image, while nothing has changed this one.
    fn prepare(
        &self,
        stage: &PlannedStage<'_>,
        image: &Image,
        rootfs: &Rootfs,
        outline: bool,
    ) -> Result<(), Failure> {
        let ids = |image: &Image| -> Vec<Digest> {
            image.layers().iter().map(|layer| layer.diff_id).collect()
        };
        let wanted = ids(image);
        let later = self.plan.stages.iter().skip_while(|it| it.number != stage.number).skip(1);
        for later in later {
            let Base::Image(other, _) = &later.base else { continue };
            if ids(other) != wanted || !self.between.ahead.needs_tree(later.number) {
                continue;
            }
            let Some(claim) = self.between.claim(later.number) else { continue };
            let to = || self.builder.work.root(&later.number.to_string());
            let prepared = match (self.need(later), self.builder.isolation) {
                (Need::Outline, _) => {
                    let mut made = outline_tree(rootfs, &to()?)?;
                    let complete = made.has_account_files();
                    if !complete.could_not(|| "find the users of the image".to_owned())? {
                        made.wipe().could_not(|| "start over".to_owned())?;
                        continue;
                    }
                    made
                }
                (Need::Files, Isolation::Namespace { .. }) if !outline => {
                    copy_tree(rootfs, &to()?, Exclusions::default())?
                }
                (Need::Nothing | Need::Files, _) => continue,
            };
            claim.fulfil(prepared);
        }
        Ok(())
    }

    fn fresh_root(&self, stage: &PlannedStage<'_>) -> Result<Rootfs, Failure> {
        if self.builds_over_slash(stage) {
            self.free_slash()?;
            return Rootfs::occupied(Path::new("/"), self.builder.exclusions()?)
                .could_not(|| "look at the root file system".to_owned());
        }
        let path = self.builder.work.root(&stage.number.to_string())?;
        Rootfs::empty(&path).could_not(|| "open the root file system".to_owned())
    }

    /// An outline has a directory of its own in place, too.
    fn builds_over_slash(&self, stage: &PlannedStage<'_>) -> bool {
        self.builder.isolation == Isolation::InPlace && self.need(stage) == Need::Files
    }

    /// What a stage needs on disk. Layers of a cache are laid over whole trees only.
    fn need(&self, stage: &PlannedStage<'_>) -> Need {
        match need(self.plan, stage) {
            Need::Outline if self.builder.cache.is_some() => Need::Files,
            need => need,
        }
    }

    /// `FROM` an earlier stage: its tree itself where nobody else needs it, else a copy.
    fn root_of_stage(
        &self,
        stage: &PlannedStage<'_>,
        below: usize,
    ) -> Result<(Rootfs, usize), Failure> {
        let finished = self.finished(below)?;
        let layers = finished.image.layers();
        if read(&finished.tree).rootfs.is_none() {
            let mut rootfs = self.fresh_root(stage)?;
            self.builder.images.prefetch_layers(layers, &self.builder.work.blobs());
            self.builder.unpack(layers, &mut rootfs)?;
            return Ok((rootfs, layers.len()));
        }
        self.lay_out_finished(below)?;
        let rootfs = self.whole_root_of(stage, below, &finished)?;
        Ok((rootfs, layers.len()))
    }

    fn whole_root_of(
        &self,
        stage: &PlannedStage<'_>,
        below: usize,
        finished: &Finished,
    ) -> Result<Rootfs, Failure> {
        let over_slash = self.builds_over_slash(stage);
        if !self.between.is_needed_beside(self.plan, below, stage.number) {
            let is_there = |root: &mut Rootfs| is_slash(root) == over_slash;
            if let Some(rootfs) = write(&finished.tree).rootfs.take_if(is_there) {
                return Ok(rootfs);
            }
        }
        // Directories above mounts are still there.
        let occupied = if over_slash { Some(self.fresh_root(stage)?) } else { None };
        let tree = read(&finished.tree);
        let source = tree.rootfs.as_ref().ok_or_else(|| gone(below))?;
        let Some(occupied) = occupied else {
            let to = self.builder.work.root(&stage.number.to_string())?;
            return copy_tree(source, &to, Exclusions::default());
        };
        let copy = copy_tree(source, Path::new("/"), self.builder.exclusions()?)?;
        Ok(copy.with_foreign(occupied.index()))
    }

    /// Keeps what later stages need of a stage that is built. In place the root has to be free for
    /// the next one, unless that goes on from here.
    pub(super) fn keep(
        &self,
        stage: &PlannedStage<'_>,
        finished: Finished,
        next: Option<&PlannedStage<'_>>,
    ) -> Result<(), Failure> {
        let (number, plan) = (stage.number, self.plan);
        let is_needed = |by| self.between.is_needed_beside(plan, number, by);
        let mut tree = write(&finished.tree);
        if let Some(mut rootfs) = tree.rootfs.take() {
            let needed = is_needed(number);
            let goes_on = next.is_some_and(|next| {
                matches!(next.base, Base::Stage(below) if below == number)
                    && need(plan, next) != Need::Nothing
                    && !is_needed(next.number)
            });
            if is_slash(&rootfs) && !goes_on {
                if needed {
                    let to = self.builder.work.root(&number.to_string())?;
                    tree.rootfs = Some(move_tree(&rootfs, &to)?);
                }
                tracing::info!("Deleting filesystem...");
                rootfs.wipe().could_not(|| "free the root for the next stage".to_owned())?;
            } else if needed {
                tree.rootfs = Some(rootfs);
            } else if number != plan.result {
                // Those of the result go while it is pushed.
                rootfs.wipe().could_not(|| "remove the files of the stage".to_owned())?;
            }
        }
        drop(tree);
        self.between.finish(number, finished);
        if let Base::Image(image, _) = &stage.base {
            self.builder.images.forget(image, &self.between.bases_to_come(plan));
        }
        Ok(())
    }
}

fn is_slash(rootfs: &Rootfs) -> bool {
    rootfs.tree().path() == Path::new("/")
}
