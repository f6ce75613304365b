//! Mounts of a step in namespaces: what has to be there on this machine while it runs.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use snapshot::ImagePath;
use tempfile::TempDir;
use tracer::Interrupt;

use super::agent::Forwarder;
use super::{Content, MountError, Mounted, ordered, place_below};
use crate::rootfs::{MountPlan, MountPoints, Point, Rootfs, Shown, Tree};
use crate::step::copy::{Copier, CopyRules};
use crate::step::sources::{Found, SourceTree};

/// What the mounts of a step are made of. It has to live until the step has ended.
#[derive(Debug, Default)]
pub(in crate::step) struct Shows<'a> {
    mounted: Vec<Mounted<'a>>,
    shown: Vec<Shown>,
    covers: Vec<Cover>,
    hidden: Option<TempDir>,
    /// Copies of what may be written to, or cannot be shown as it is; and the sockets of agents.
    made: Vec<TempDir>,
    agents: Vec<Forwarder>,
}

/// A mount that others may lie in.
#[derive(Debug)]
struct Cover {
    target: ImagePath,
    place: ImagePath,
    inside: Inside,
}

#[derive(Debug)]
enum Inside {
    /// A directory of this machine.
    Dir { source: PathBuf, read_only: bool },
    /// A file system that does not exist yet.
    Memory,
    /// No directory.
    File,
}

impl<'a> Shows<'a> {
    /// Prepares the mounts: their mount points, and everything that they show.
    ///
    /// # Errors
    /// A target cannot be mounted over, or what is to be seen cannot be had.
    pub(in crate::step) fn prepare(
        mounted: Vec<Mounted<'a>>,
        rootfs: &Rootfs,
        points: &mut MountPoints,
        scratch: &Path,
        interrupt: &Interrupt,
    ) -> Result<Self, MountError> {
        let mut shows = Self::default();
        for mount in ordered(mounted) {
            let target = mount.target.clone();
            let failed = |source| MountError::Io { target: target.clone(), source };
            let point = mount.content.point().map_err(failed)?;
            let place = shows.place(&target, point, rootfs, points)?;
            let (shown, inside) = shows.show(&mount, &place, point, scratch, interrupt)?;
            shows.shown.push(shown);
            shows.covers.push(Cover { target: target.clone(), place, inside });
            shows.mounted.push(mount);
        }
        if !shows.shown.is_empty() {
            let hidden = tempfile::tempdir_in(scratch)
                .map_err(|source| MountError::Io { target: ImagePath::root(), source })?;
            shows.hidden = Some(hidden);
        }
        Ok(shows)
    }

    /// Hands the mounts over.
    pub(in crate::step) fn add_to(&mut self, plan: &mut MountPlan) {
        plan.shown = std::mem::take(&mut self.shown);
        plan.hidden = self.hidden.as_ref().map(|dir| dir.path().to_owned()).unwrap_or_default();
    }

    /// Where `target` is, with something there that can be mounted over.
    fn place(
        &mut self,
        target: &ImagePath,
        point: Point,
        rootfs: &Rootfs,
        points: &mut MountPoints,
    ) -> Result<ImagePath, MountError> {
        let failed = |source| MountError::Io { target: target.clone(), source };
        for cover in self.covers.iter().rev() {
            if let Some(place) = place_below(&cover.target, &cover.place, target) {
                let place = place.map_err(|error| failed(io::Error::other(error)))?;
                self.shown.extend(cover.point_at(&place, target, point)?);
                return Ok(place);
            }
        }
        let place = rootfs.resolve(target).map_err(|error| failed(io::Error::other(error)))?;
        for (dir, is_kernel) in [("/proc", true), ("/sys", true), ("/dev", false)] {
            let dir = ImagePath::parse(dir.as_bytes())
                .map_err(|error| failed(io::Error::other(error)))?;
            if is_kernel && place.starts_with(&dir) {
                let why = format!("{place} is a file system of the kernel; choose another target");
                return Err(MountError::Refused { target: target.clone(), why });
            }
            if place != dir && place.starts_with(&dir) {
                self.shown.extend(points_from(&dir, &place, point));
                return Ok(place);
            }
        }
        points.make(rootfs.tree(), &place, point).map_err(failed)?;
        Ok(place)
    }

    fn show(
        &mut self,
        mount: &Mounted<'_>,
        place: &ImagePath,
        point: Point,
        scratch: &Path,
        interrupt: &Interrupt,
    ) -> Result<(Shown, Inside), MountError> {
        let failed = |source| MountError::Io { target: mount.target.clone(), source };
        let target = place.clone();
        Ok(match &mount.content {
            Content::Files { sources, found, read_only } => {
                let source = if *read_only && sources.shows_as_is(found).map_err(failed)? {
                    sources.path_of(found)
                } else {
                    self.copy(mount, sources, found, scratch, interrupt)?
                };
                bound(target, source, point, *read_only)
            }
            Content::Cache { dir, part, read_only, .. } => {
                bound(target, dir.path.join(part), point, *read_only)
            }
            Content::Tmpfs { size, read_only } => {
                (Shown::Tmpfs { target, size: *size, read_only: *read_only }, Inside::Memory)
            }
            Content::Secret { content, mode, owner } => {
                let (content, mode, owner) = (content.clone(), *mode, *owner);
                (Shown::Secret { target, content, mode, owner }, Inside::File)
            }
            Content::Agent { agent, mode, owner } => {
                let dir = tempfile::tempdir_in(scratch).map_err(failed)?;
                let handle = std::fs::File::open(dir.path()).map_err(failed)?;
                let forwarder = Forwarder::start(handle.as_fd(), "agent", agent, *mode, *owner);
                self.agents.push(forwarder.map_err(failed)?);
                let source = dir.path().join("agent");
                self.made.push(dir);
                (Shown::Bind { source, target, read_only: false }, Inside::File)
            }
        })
    }

    /// A copy of files that goes with the step.
    fn copy(
        &mut self,
        mount: &Mounted<'_>,
        sources: &SourceTree<'_>,
        found: &Found,
        scratch: &Path,
        interrupt: &Interrupt,
    ) -> Result<PathBuf, MountError> {
        let target = || mount.target.clone();
        let failed = |source| MountError::Io { target: target(), source };
        tracing::info!("Copying {} for the mount at {}", sources.label(), mount.target);
        let dir = tempfile::tempdir_in(scratch).map_err(failed)?;
        let rootfs = Rootfs::empty(dir.path()).map_err(|error| failed(io::Error::other(error)))?;
        let name = ImagePath::root().join(b"copy");
        let name = name.map_err(|error| failed(io::Error::other(error)))?;
        Copier::new(&rootfs, CopyRules::default(), interrupt)
            .copy_as(sources, found, &name)
            .map_err(|source| MountError::Copy { target: target(), source })?;
        let path = dir.path().join("copy");
        self.made.push(dir);
        Ok(path)
    }
}

fn bound(target: ImagePath, source: PathBuf, point: Point, read_only: bool) -> (Shown, Inside) {
    let inside = match point {
        Point::Dir => Inside::Dir { source: source.clone(), read_only },
        Point::File => Inside::File,
    };
    (Shown::Bind { source, target, read_only }, inside)
}

impl Cover {
    /// Makes a mount point inside of this mount, or tells how it is made once this is mounted.
    fn point_at(
        &self,
        place: &ImagePath,
        target: &ImagePath,
        point: Point,
    ) -> Result<Vec<Shown>, MountError> {
        let failed = |source| MountError::Io { target: target.clone(), source };
        let refused = |why| MountError::Refused { target: target.clone(), why };
        match &self.inside {
            _ if *place == self.place => Ok(Vec::new()),
            Inside::Memory => Ok(points_from(&self.place, place, point)),
            Inside::File => Err(failed(io::ErrorKind::NotADirectory.into())),
            Inside::Dir { source, read_only } => {
                let tree = Tree::open(source).map_err(failed)?;
                let rest = place.relative().strip_prefix(self.place.relative()).unwrap_or_default();
                let inner = ImagePath::parse(rest).map_err(|e| failed(io::Error::other(e)))?;
                if *read_only && tree.kind(&inner).map_err(failed)?.is_none() {
                    return Err(refused(format!(
                        "it does not exist in the read-only mount at {}; give that one rw",
                        self.target
                    )));
                }
                MountPoints::default().make(&tree, &inner, point).map_err(failed)?;
                Ok(Vec::new())
            }
        }
    }
}

/// The directories between `above` and `place`, and `place` itself.
fn points_from(above: &ImagePath, place: &ImagePath, point: Point) -> Vec<Shown> {
    let mut between: Vec<ImagePath> =
        place.ancestors().take_while(|up| up != above && up.starts_with(above)).collect();
    between.reverse();
    let dirs = between.into_iter().map(|target| Shown::Point { target, point: Point::Dir });
    dirs.chain([Shown::Point { target: place.clone(), point }]).collect()
}
