//! The trees that stages start from, and what is kept of them for later stages.

use std::path::Path;

use super::needs::{Need, need};
use super::stage::{Finished, Stages, shown};
use super::tree::{copy_tree, move_tree, outline_tree};
use crate::image::{Digest, Image};
use crate::plan::{Base, PlannedStage};
use crate::report::{Explain as _, Failure, bytes};
use crate::rootfs::{Exclusions, Isolation, Rootfs};

impl Stages<'_, '_> {
    /// The tree that a stage starts from, and how many layers of its image are in it.
    pub(super) fn root(
        &mut self,
        stage: &PlannedStage<'_>,
        why: &str,
    ) -> Result<(Rootfs, usize), Failure> {
        match &stage.base {
            Base::Stage(number) => self.root_of_stage(stage, *number),
            Base::Scratch => Ok((self.fresh_root(stage)?, 0)),
            Base::Image(image, name) => {
                if let Some(prepared) = self.prepared.remove(&stage.number) {
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
        &mut self,
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
            let known = self.prepared.contains_key(&later.number);
            if ids(other) != wanted || known || !self.ahead.needs_tree(later.number) {
                continue;
            }
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
            self.prepared.insert(later.number, prepared);
        }
        Ok(())
    }

    fn fresh_root(&mut self, stage: &PlannedStage<'_>) -> Result<Rootfs, Failure> {
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
    pub(super) fn root_of_stage(
        &mut self,
        stage: &PlannedStage<'_>,
        below: usize,
    ) -> Result<(Rootfs, usize), Failure> {
        let image = self.finished.get(&below).map(|below| below.image.clone());
        let layers = image.as_ref().map_or(&[][..], Image::layers);
        if self.finished.get(&below).is_some_and(|below| below.rootfs.is_none()) {
            let mut rootfs = self.fresh_root(stage)?;
            self.builder.images.prefetch_layers(layers, &self.builder.work.blobs());
            self.builder.unpack(layers, &mut rootfs)?;
            return Ok((rootfs, layers.len()));
        }
        self.lay_out_finished(below)?;
        let rootfs = self.whole_root_of(stage, below)?;
        Ok((rootfs, layers.len()))
    }

    fn whole_root_of(&mut self, stage: &PlannedStage<'_>, below: usize) -> Result<Rootfs, Failure> {
        let shared = self.is_needed_after(below, stage.number);
        let missing = || Failure::new(format!("the files of stage {below} are gone"));
        let over_slash = self.builds_over_slash(stage);
        let entry = self.finished.get_mut(&below).ok_or_else(missing)?;
        if !shared && entry.rootfs.as_ref().is_some_and(|root| is_slash(root) == over_slash) {
            return entry.rootfs.take().ok_or_else(missing);
        }
        // Directories above mounts are still there.
        let occupied = if over_slash { Some(self.fresh_root(stage)?) } else { None };
        let source = self.finished.get(&below).and_then(|below| below.rootfs.as_ref());
        let source = source.ok_or_else(missing)?;
        let Some(occupied) = occupied else {
            let to = self.builder.work.root(&stage.number.to_string())?;
            return copy_tree(source, &to, Exclusions::default());
        };
        let copy = copy_tree(source, Path::new("/"), self.builder.exclusions()?)?;
        Ok(copy.with_foreign(occupied.index()))
    }

    /// Whether a stage after `number` in the plan still needs the files of stage `which`.
    pub(super) fn is_needed_after(&self, which: usize, number: usize) -> bool {
        let place = self.plan.stages.iter().position(|stage| stage.number == number);
        let later = self.plan.stages.iter().skip(place.map_or(0, |place| place + 1));
        let source = self.plan.stages.iter().find(|stage| stage.number == which);
        let Some(source) = source else { return false };
        let own = source.copied_by.contains(&number);
        own || source.kept
            || later.into_iter().any(|stage| {
                source.copied_by.contains(&stage.number)
                    || (source.base_of.contains(&stage.number)
                        && need(self.plan, stage) != Need::Nothing)
            })
    }

    /// Keeps what later stages need of a stage that is built. In place the root has to be free for
    /// the next one, unless that goes on from here.
    pub(super) fn keep(
        &mut self,
        stage: &PlannedStage<'_>,
        mut finished: Finished,
        next: &PlannedStage<'_>,
    ) -> Result<(), Failure> {
        if let Some(mut rootfs) = finished.rootfs.take() {
            let needed = self.is_needed_after(stage.number, stage.number);
            let goes_on = matches!(next.base, Base::Stage(below) if below == stage.number)
                && need(self.plan, next) != Need::Nothing
                && !self.is_needed_after(stage.number, next.number);
            if is_slash(&rootfs) && !goes_on {
                if needed {
                    let to = self.builder.work.root(&stage.number.to_string())?;
                    let kept = move_tree(&rootfs, &to)?;
                    finished.rootfs = Some(kept);
                }
                tracing::info!("Deleting filesystem...");
                rootfs.wipe().could_not(|| "free the root for the next stage".to_owned())?;
            } else if needed {
                finished.rootfs = Some(rootfs);
            } else {
                rootfs.wipe().could_not(|| "remove the files of the stage".to_owned())?;
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
}

fn is_slash(rootfs: &Rootfs) -> bool {
    rootfs.tree().path() == Path::new("/")
}
