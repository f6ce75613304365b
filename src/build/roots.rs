//! The trees that stages start from, and what is kept of them for later stages.

use std::path::{Path, PathBuf};

use super::stage::{Finished, Stages, bytes, shown};
use super::tree::{copy_tree, move_tree};
use crate::dockerfile::Instruction;
use crate::image::Image;
use crate::plan::{Base, Plan, PlannedStage};
use crate::report::{Explain as _, Failure};
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
                let mut rootfs = self.fresh_root(stage)?;
                let size = image.layers().iter().map(|layer| layer.descriptor.size).sum();
                tracing::info!(
                    "Unpacking rootfs of {name} ({} layers, {}) as {:?} requires it",
                    image.layers().len(),
                    bytes(size),
                    shown(why)
                );
                self.builder.images.prefetch(image, &self.builder.work.blobs());
                self.builder.unpack(image.layers(), &mut rootfs)?;
                Ok((rootfs, image.layers().len()))
            }
        }
    }

    pub(super) fn fresh_root(&mut self, stage: &PlannedStage<'_>) -> Result<Rootfs, Failure> {
        self.free_slash()?;
        match self.builder.isolation {
            Isolation::Namespace { .. } => {
                let path = self.builder.work.root(&stage.number.to_string())?;
                Rootfs::empty(&path).could_not(|| "open the root file system".to_owned())
            }
            Isolation::InPlace => Rootfs::occupied(Path::new("/"), self.builder.exclusions()?)
                .could_not(|| "look at the root file system".to_owned()),
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
        let in_place = self.builder.isolation == Isolation::InPlace;
        let entry = self.finished.get_mut(&below).ok_or_else(missing)?;
        let is_slash =
            entry.rootfs.as_ref().is_some_and(|root| root.tree().path() == Path::new("/"));
        if !shared && (!in_place || is_slash) {
            return entry.rootfs.take().ok_or_else(missing);
        }
        self.free_slash()?;
        let source = self.finished.get(&below).and_then(|below| below.rootfs.as_ref());
        let source = source.ok_or_else(missing)?;
        let (to, exclusions) = if in_place {
            (PathBuf::from("/"), self.builder.exclusions()?)
        } else {
            (self.builder.work.root(&stage.number.to_string())?, Exclusions::default())
        };
        copy_tree(source, &to, exclusions)
    }

    /// Whether a stage after `number` in the plan still needs the files of stage `which`.
    pub(super) fn is_needed_after(&self, which: usize, number: usize) -> bool {
        let place = self.plan.stages.iter().position(|stage| stage.number == number);
        let later = self.plan.stages.iter().skip(place.map_or(0, |place| place + 1));
        let source = self.plan.stages.iter().find(|stage| stage.number == which);
        let Some(source) = source else { return false };
        let own = source.copied_by.contains(&number);
        own || later.into_iter().any(|stage| {
            source.copied_by.contains(&stage.number)
                || (source.base_of.contains(&stage.number) && needs_root(self.plan, stage))
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
            let in_place = self.builder.isolation == Isolation::InPlace;
            let goes_on = matches!(next.base, Base::Stage(below) if below == stage.number)
                && needs_root(self.plan, next)
                && !self.is_needed_after(stage.number, next.number);
            if in_place && !goes_on {
                if needed {
                    let to = self.builder.work.root(&stage.number.to_string())?;
                    let kept = move_tree(&rootfs, &to)?;
                    finished.rootfs = Some(kept);
                }
                tracing::info!("Deleting filesystem...");
                rootfs.wipe().could_not(|| "free the root for the next stage".to_owned())?;
            } else if needed {
                finished.rootfs = Some(rootfs);
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

/// Whether a stage has to be on disk.
pub(super) fn needs_root(plan: &Plan<'_>, stage: &PlannedStage<'_>) -> bool {
    stage.instructions.iter().any(|instruction| touches_root(&instruction.node))
        || !stage.copied_by.is_empty()
        || stage.base_of.iter().any(|number| {
            plan.stages.iter().any(|above| above.number == *number && needs_root(plan, above))
        })
}

pub(super) fn touches_root(instruction: &Instruction) -> bool {
    matches!(
        instruction,
        Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
    )
}
