//! What becomes of the executor's own root around a build in place: emptied before it, emptied after
//! it, put back as it was.
//!
//! A build in namespaces never touches that root, so there is nothing to do.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::Order;
use super::between::{Finished, write};
use super::builder::Builder;
use super::stage::Stages;
use super::tree::{copy_tree, move_tree};
use crate::report::{Explain as _, Failure};
use crate::rootfs::{Choice, Exclusions, Isolation, Rootfs};

/// What is wanted of the executor's own root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnRoot {
    /// `--pre-cleanup`: it is empty when the first stage begins.
    pub clean_before: bool,
    /// `--cleanup`: it is emptied after the build, also after one that failed.
    pub clean_after: bool,
    /// `--preserve-context`: what was there is put back after that.
    pub put_back: bool,
    /// `--materialize`: the files of the result stay in it.
    pub materialize: bool,
}

/// What was at `/` before the build.
pub(super) struct Found {
    tree: Rootfs,
    mode: u32,
    owner: (u32, u32),
}

/// Where the steps may run: files are left at `/` by builds in place only.
///
/// # Errors
/// They are wanted there, and a namespace was asked for.
pub(super) fn isolation(order: &Order) -> Result<(Choice, bool), Failure> {
    match (order.own_root.materialize, order.isolation) {
        (false, choice) => Ok((choice, order.force)),
        // --force alone is not enough to unpack over a host.
        (true, Choice::Auto) => Ok((Choice::InPlace, false)),
        (true, Choice::InPlace) => Ok((Choice::InPlace, order.force)),
        (true, Choice::Namespace) => {
            let what = "--materialize leaves the files of the image at /, and steps that run in \
                        namespaces never touch it";
            Err(Failure::new(what)
                .hint("leave --isolation out: in a container the build is in place then"))
        }
    }
}

impl Builder<'_> {
    /// Looks after what is at `/`, before a stage takes its place; once in a build.
    pub(super) fn make_way(&self) -> Result<(), Failure> {
        let wanted = self.order.own_root;
        if self.isolation != Isolation::InPlace {
            if wanted.clean_before || wanted.put_back {
                tracing::info!(
                    "Steps run in namespaces: / stays as it is, with nothing of it in the image"
                );
            }
            return Ok(());
        }
        if self.found.get().is_some() {
            return Ok(());
        }
        let saved = match wanted.put_back && wanted.clean_after {
            true => Some(self.save(wanted.clean_before)?),
            false => None,
        };
        // It was empty a line ago.
        let _ = self.found.set(saved);
        if wanted.clean_before { self.clean_up() } else { Ok(()) }
    }

    /// Takes what is at `/` into the working directory: as a copy, unless it has to go anyway.
    fn save(&self, goes: bool) -> Result<Found, Failure> {
        tracing::info!("Saving what is at / for after the build");
        let doing = || "save what is at /".to_owned();
        let about = std::fs::metadata("/").could_not(doing)?;
        let there = Rootfs::found(Path::new("/"), self.exclusions()?).could_not(doing)?;
        let to = self.work.path().join("found");
        std::fs::create_dir(&to).could_not(doing)?;
        let tree = match goes {
            true => move_tree(&there, &to)?,
            false => copy_tree(&there, &to, Exclusions::default())?,
        };
        Ok(Found { tree, mode: about.permissions().mode(), owner: (about.uid(), about.gid()) })
    }

    /// Empties `/` after a build that had begun, where that is wanted, and puts back what was there.
    pub(super) fn leave(&self) -> Result<(), Failure> {
        let Some(found) = self.found.get().filter(|_| self.order.own_root.clean_after) else {
            return Ok(());
        };
        self.clean_up()?;
        match found {
            Some(found) => put_back(found),
            None => Ok(()),
        }
    }
}

fn put_back(found: &Found) -> Result<(), Failure> {
    let doing = || "put back what was at /".to_owned();
    move_tree(&found.tree, Path::new("/"))?;
    std::os::unix::fs::chown("/", Some(found.owner.0), Some(found.owner.1)).could_not(doing)?;
    let mode = std::fs::Permissions::from_mode(found.mode);
    std::fs::set_permissions("/", mode).could_not(doing)?;
    tracing::info!("Put back what was at / before the build");
    Ok(())
}

impl Stages<'_, '_> {
    /// Leaves the files of the result at `/`, where `last` is what was built last, and something else.
    pub(super) fn materialize(&self, last: Finished) -> Result<(), Failure> {
        drop(last);
        self.builder.clean_up()?;
        let gone = || Failure::new("the files of the result are gone");
        let result = self.between.finished(self.plan.result).ok_or_else(gone)?;
        let tree = write(&result.tree).rootfs.take().ok_or_else(gone)?;
        move_tree(&tree, Path::new("/")).map(drop)
    }
}
