//! Mounts of a step in place, where nothing can be mounted.
//!
//! What would be mounted is put where the mount would be: files and caches as copies, or moved where
//! that is the same, secrets and sockets made there. What was there before waits out of sight. When
//! the step has ended everything is taken out and put back, and the times of the directories around
//! it too, so that the comparison afterwards finds what it would find after a real mount.
//!
//! # What is different from a mount
//!
//! A step can write to what should be read-only; what it writes there is dropped all the same. It can
//! remove or move the mount itself, which counts as a change of what is in it. Limits of size are not
//! kept.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Gid, Mode, Uid};
use rustix::io::Errno;
use snapshot::{ImagePath, Seen};
use tempfile::TempDir;
use tracer::Interrupt;

use super::agent::Forwarder;
use super::cache::CacheDir;
use super::{Content, MountError, Mounted, ordered, place_below};
use crate::rootfs::{MountPoints, Point, Rootfs, relocate};
use crate::step::copy::{Copier, CopyError, CopyRules};
use crate::step::sources::{Found, SourceTree};

/// Everything that was put into the tree for a step. It is taken out again when this is dropped, if
/// not before.
#[derive(Debug)]
pub(in crate::step) struct Placed<'a> {
    rootfs: &'a Rootfs,
    interrupt: &'a Interrupt,
    /// Where what was there before waits, on the same file system as most of the tree.
    aside: Option<TempDir>,
    scratch: &'a Path,
    placed: Vec<One>,
    points: MountPoints,
    agents: Vec<Forwarder>,
    touched: Vec<ImagePath>,
    /// New contents of caches that others may have locked meanwhile.
    renewed: Vec<Renewed>,
}

/// A copy that is to take the place of a cache: `content` in a directory beside it.
#[derive(Debug)]
struct Renewed {
    cache: CacheDir,
    path: PathBuf,
    beside: TempDir,
    shared: bool,
}

/// One target.
#[derive(Debug)]
struct One {
    target: ImagePath,
    place: ImagePath,
    /// The directory it is in, and what was put there: a step may move either.
    parent: Option<OwnedFd>,
    own: Option<OwnedFd>,
    /// Where what was there before waits.
    before: Option<ImagePath>,
    after: After,
}

/// What becomes of the content after the step.
#[derive(Debug)]
enum After {
    /// It goes.
    Drop,
    /// It goes, and every further name that the step gave it.
    DropAllNames,
    /// It was moved here, and goes back.
    MoveBack(CacheDir, PathBuf),
    /// It was copied here, and the copy takes the place of the original.
    CopyBack(CacheDir, PathBuf, bool),
}

impl<'a> Placed<'a> {
    /// Puts everything into the tree.
    ///
    /// # Errors
    /// A target is none, or what is to be seen cannot be had. Nothing stays in the tree then.
    pub(in crate::step) fn place(
        mounted: Vec<Mounted<'_>>,
        rootfs: &'a Rootfs,
        scratch: &'a Path,
        interrupt: &'a Interrupt,
    ) -> Result<Self, MountError> {
        let mut placed = Self {
            rootfs,
            interrupt,
            aside: None,
            scratch,
            placed: Vec::new(),
            points: MountPoints::default(),
            agents: Vec::new(),
            touched: Vec::new(),
            renewed: Vec::new(),
        };
        for mount in ordered(mounted) {
            placed.place_one(mount)?;
        }
        Ok(placed)
    }

    /// Takes everything out again; answers the paths that this touched and the step may not have.
    ///
    /// # Errors
    /// The tree cannot be put back as it was.
    pub(in crate::step) fn take_out(mut self) -> Result<Vec<ImagePath>, MountError> {
        self.restore()?;
        Ok(std::mem::take(&mut self.touched))
    }

    /// Where caches are that were moved here: names in them outlive the step.
    pub(in crate::step) fn kept(&self) -> impl Iterator<Item = &ImagePath> {
        let is_kept = |one: &&One| matches!(one.after, After::MoveBack(..));
        self.placed.iter().filter(is_kept).map(|one| &one.place)
    }

    /// Whether a path is in what was put here.
    pub(in crate::step) fn covers(&self, path: &ImagePath) -> bool {
        self.placed.iter().any(|one| path.starts_with(&one.place))
    }

    /// Whether a path is in what was here before, and waits.
    pub(in crate::step) fn holds_aside(&self, path: &ImagePath) -> bool {
        self.placed
            .iter()
            .filter_map(|one| one.before.as_ref())
            .any(|aside| path.starts_with(aside))
    }

    fn place_one(&mut self, mount: Mounted<'_>) -> Result<(), MountError> {
        let target = mount.target;
        let failed = |source| MountError::Io { target: target.clone(), source };
        let place = self.resolve(&target)?;
        let point = mount.content.point().map_err(failed)?;
        let parent = place.parent().unwrap_or_else(ImagePath::root);
        let tree = self.rootfs.tree();
        self.points.make(tree, &parent, Point::Dir).map_err(failed)?;
        let there = tree.kind(&place).map_err(failed)?;
        match (there.map(FileType::is_dir), point) {
            (Some(true), Point::File) => return Err(failed(io::ErrorKind::IsADirectory.into())),
            (Some(false), Point::Dir) => return Err(failed(io::ErrorKind::NotADirectory.into())),
            (None, _) | (Some(true), Point::Dir) | (Some(false), Point::File) => {}
        }
        let time = crate::rootfs::time_of_parent(tree, &place).map_err(failed)?;
        self.touched.extend([parent.clone(), place.clone()]);
        let held = match parent.is_root() {
            true => None,
            false => Some(tree.hold(&parent).map_err(failed)?),
        };
        let before = match there {
            None => None,
            Some(_) => Some(self.set_aside(&place).map_err(failed)?),
        };
        self.placed.push(One {
            target: target.clone(),
            place: place.clone(),
            parent: held,
            own: None,
            before,
            after: After::Drop,
        });
        let after = self.fill(mount.content, &target, &place)?;
        let own = tree.hold(&place).map_err(failed)?;
        if let Some(one) = self.placed.last_mut() {
            (one.own, one.after) = (Some(own), after);
        }
        crate::rootfs::restore_parent(tree, &place, time).map_err(failed)
    }

    fn resolve(&self, target: &ImagePath) -> Result<ImagePath, MountError> {
        let failed = |source| MountError::Io { target: target.clone(), source };
        let below = |one: &One| place_below(&one.target, &one.place, target);
        let place = match self.placed.iter().rev().find_map(below) {
            Some(place) => place.map_err(|error| failed(io::Error::other(error)))?,
            None => self.rootfs.resolve(target).map_err(|error| failed(io::Error::other(error)))?,
        };
        let exclusions = self.rootfs.exclusions();
        if place.is_root() || exclusions.excludes(&place) || exclusions.covers_any_below(&place) {
            let why = format!(
                "in place, {place} is a mount of this container or the executor's own, or one lies \
                 below it; choose another target, or build where --isolation=namespace works"
            );
            return Err(MountError::Refused { target: target.clone(), why });
        }
        Ok(place)
    }

    /// Moves what is at `place` out of sight: into the working directory or, if that is another file
    /// system, beside it.
    fn set_aside(&mut self, place: &ImagePath) -> io::Result<ImagePath> {
        let tree = self.rootfs.tree();
        if self.aside.is_none() {
            self.aside = Some(tempfile::Builder::new().prefix("aside-").tempdir_in(self.scratch)?);
        }
        let number = self.placed.len();
        let parent = place.parent().unwrap_or_else(ImagePath::root);
        let device = |path: &Path| rustix::fs::stat(path).map(|stat| stat.st_dev);
        let (dir, beside) = match &self.aside {
            Some(aside)
                if device(aside.path())? == rustix::fs::fstat(tree.dir(&parent)?)?.st_dev =>
            {
                (std::fs::canonicalize(aside.path())?, false)
            }
            _ => (crate::rootfs::under(tree.path(), &parent), true),
        };
        let dir = image_path(&dir)?;
        let name = if beside { format!(".kaniko-aside-{number}") } else { number.to_string() };
        let aside = dir.join(name.as_bytes()).map_err(io::Error::other)?;
        relocate(tree, place, &aside)?;
        Ok(aside)
    }

    /// Makes the content at `place`, where nothing is.
    fn fill(
        &mut self,
        content: Content<'_>,
        target: &ImagePath,
        place: &ImagePath,
    ) -> Result<After, MountError> {
        let tree = self.rootfs.tree();
        let failed = |source| MountError::Io { target: target.clone(), source };
        let copied = |source| MountError::Copy { target: target.clone(), source };
        match content {
            Content::Files { sources, found, .. } => {
                tracing::info!("Copying {} to {target} for this step", sources.label());
                self.copy_in(&sources, &found, place).map_err(copied)?;
                Ok(After::Drop)
            }
            Content::Cache { dir, part, read_only, shared } => {
                let path = std::fs::canonicalize(dir.path.join(&part)).map_err(failed)?;
                let moved = if read_only {
                    Err(Errno::XDEV.into())
                } else {
                    image_path(&path).and_then(|from| tree.rename(&from, place))
                };
                match moved {
                    Ok(()) => return Ok(After::MoveBack(dir, path)),
                    Err(error) if Errno::from_io_error(&error) == Some(Errno::XDEV) => {}
                    Err(error) => return Err(failed(error)),
                }
                let sources = SourceTree::rootfs(&path, "the cache").map_err(failed)?;
                tracing::info!("Copying the cache {:?} to {target} for this step", dir.key.id);
                let whole = Found { path: PathBuf::new(), name: "cache".into() };
                self.copy_in(&sources, &whole, place).map_err(copied)?;
                if shared {
                    dir.release().map_err(failed)?;
                }
                Ok(if read_only { After::Drop } else { After::CopyBack(dir, path, shared) })
            }
            Content::Tmpfs { size, .. } => {
                if let Some(size) = size {
                    tracing::warn!(
                        "in place, the tmpfs at {target} is a directory: its limit of {size} bytes \
                         is not kept"
                    );
                }
                tree.make_dir(place, 0o777).map_err(failed)?;
                let handle = tree.list(place).map_err(failed)?;
                rustix::fs::fchmod(&handle, Mode::from_raw_mode(0o1777))
                    .map_err(|errno| failed(errno.into()))?;
                Ok(After::Drop)
            }
            Content::Secret { content, mode, owner: (uid, gid) } => {
                let file = tree.create_file(place).map_err(failed)?;
                (&file).write_all(&content.0).map_err(failed)?;
                let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
                rustix::fs::fchown(&file, uid, gid).map_err(|errno| failed(errno.into()))?;
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o777))
                    .map_err(|errno| failed(errno.into()))?;
                Ok(After::DropAllNames)
            }
            Content::Agent { agent, mode, owner } => {
                let parent = place.parent().unwrap_or_else(ImagePath::root);
                let dir = tree.dir(&parent).map_err(failed)?;
                let name = String::from_utf8_lossy(place.file_name().unwrap_or_default());
                let started = Forwarder::start(dir.as_fd(), &name, &agent, mode, owner);
                self.agents.push(started.map_err(failed)?);
                Ok(After::DropAllNames)
            }
        }
    }

    fn copy_in(
        &self,
        sources: &SourceTree<'_>,
        found: &Found,
        place: &ImagePath,
    ) -> Result<(), CopyError> {
        Copier::new(self.rootfs, CopyRules::default(), self.interrupt)
            .copy_as(sources, found, place)
    }

    /// In the reverse order: what lies in another mount goes before it does. All are tried; the first
    /// failure is told.
    fn restore(&mut self) -> Result<(), MountError> {
        self.agents.clear();
        let mut first = Ok(());
        while let Some(one) = self.placed.pop() {
            let target = one.target.clone();
            let restored = self.restore_one(one);
            first = first.and(restored.map_err(|source| MountError::Io { target, source }));
        }
        // Shared ones last: who waits for a cache while it holds another may wait forever.
        let mut renewed = std::mem::take(&mut self.renewed);
        renewed.sort_by_key(|renewed| renewed.shared);
        for renewed in renewed {
            if let Err(error) = self.replace(&renewed) {
                tracing::warn!("the cache {:?} stays as it was: {error}", renewed.cache.key.id);
            }
        }
        let removed = self.points.remove(self.rootfs.tree());
        first.and(removed.map_err(|source| MountError::Io { target: ImagePath::root(), source }))
    }

    fn restore_one(&mut self, mut one: One) -> io::Result<()> {
        let rootfs = self.rootfs;
        let tree = rootfs.tree();
        // Where the parent is now: gone with all that was in it, moved, or where it was.
        let parent = match &one.parent {
            None => Some(ImagePath::root()),
            Some(handle) => self.now_at(handle)?,
        };
        let place = match (&parent, one.place.file_name()) {
            (Some(parent), Some(name)) => Some(parent.join(name).map_err(io::Error::other)?),
            _ => None,
        };
        let time = place.as_ref().map(|place| crate::rootfs::time_of_parent(tree, place));
        let time = time.transpose()?;
        self.take_out_one(&mut one, place.as_ref())?;
        match (&one.before, &place) {
            (None, _) => {}
            (Some(before), Some(place)) => relocate(tree, before, place)?,
            // As if the step had removed it with the directory.
            (Some(before), None) => tree.remove(before)?,
        }
        match (&place, time) {
            (Some(place), Some(time)) => crate::rootfs::restore_parent(tree, place, time),
            _ => Ok(()),
        }
    }

    /// Frees `place` of the content, and finds it where the step has moved it.
    fn take_out_one(&mut self, one: &mut One, place: Option<&ImagePath>) -> io::Result<()> {
        let rootfs = self.rootfs;
        let tree = rootfs.tree();
        let moved = match &one.own {
            None => None,
            Some(handle) => self.now_at(handle)?.filter(|now| Some(now) != place),
        };
        if let Some(moved) = &moved {
            tracing::warn!(
                "the step moved the mount at {} to {moved}: it is taken out",
                one.target
            );
        }
        let content = moved.as_ref().or(place);
        match (std::mem::replace(&mut one.after, After::Drop), content) {
            (After::MoveBack(cache, path), Some(content)) => {
                self.move_back(&cache, &path, content)?;
            }
            (After::MoveBack(_, path), None) => std::fs::create_dir(path)?,
            (After::CopyBack(cache, path, shared), Some(content)) => {
                match self.copied_back(&path, content) {
                    Ok(beside) => self.renewed.push(Renewed { cache, path, beside, shared }),
                    Err(error) => {
                        tracing::warn!("the cache {:?} stays as it was: {error}", cache.key.id);
                    }
                }
            }
            (After::CopyBack(..), None) | (After::Drop, _) => {}
            (After::DropAllNames, _) => self.remove_names(one)?,
        }
        for path in place.into_iter().chain(&moved) {
            tree.remove(path)?;
        }
        Ok(())
    }

    /// The path of what a handle is of; nothing where it was removed.
    fn now_at(&self, handle: &OwnedFd) -> io::Result<Option<ImagePath>> {
        let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let path = std::fs::read_link(link)?;
        let inode = rustix::fs::fstat(handle)?.st_ino;
        let Ok(path) = ImagePath::parse(path.as_os_str().as_bytes()) else { return Ok(None) };
        match self.rootfs.tree().seen(&path) {
            Ok(seen) if seen.map(Seen::ino) == Some(inode) => Ok(Some(path)),
            // The kernel adds " (deleted)" to the name of what is gone.
            Ok(_) | Err(_) => Ok(None),
        }
    }

    /// Removes further names that the step gave to a secret.
    fn remove_names(&self, one: &One) -> io::Result<()> {
        let Some(own) = &one.own else { return Ok(()) };
        let stat = rustix::fs::fstat(own)?;
        if stat.st_nlink < 2 {
            return Ok(());
        }
        let mut names = Vec::new();
        self.rootfs.tree().find_inodes(&[stat.st_ino], &mut names)?;
        for name in names.iter().filter(|name| **name != one.place) {
            tracing::warn!("the step linked the mount at {} to {name}: removed", one.target);
            self.rootfs.tree().remove(name)?;
        }
        Ok(())
    }

    fn move_back(&self, cache: &CacheDir, path: &Path, content: &ImagePath) -> io::Result<()> {
        let tree = self.rootfs.tree();
        match tree.kind(content)? {
            Some(FileType::Directory) => relocate(tree, content, &image_path(path)?),
            Some(_) | None => {
                tracing::warn!("the step removed the cache {:?}: it is empty now", cache.key.id);
                std::fs::create_dir(path)
            }
        }
    }

    /// A copy of what a step made of a cache, beside the cache.
    fn copied_back(&self, path: &Path, content: &ImagePath) -> Result<TempDir, MountError> {
        let failed = |source| MountError::Io { target: content.clone(), source };
        let copied = |source| MountError::Copy { target: content.clone(), source };
        let beside = tempfile::Builder::new()
            .prefix("new-")
            .tempdir_in(path.parent().unwrap_or(path))
            .map_err(failed)?;
        let keep = Rootfs::empty(beside.path());
        let keep = keep.map_err(|error| failed(io::Error::other(error)))?;
        let sources = SourceTree::rootfs(self.rootfs.tree().path(), "the step").map_err(failed)?;
        let found = sources.find_plain(&content.to_string()).map_err(copied)?;
        let to = ImagePath::parse(b"content").map_err(|error| failed(io::Error::other(error)))?;
        Copier::new(&keep, CopyRules::default(), self.interrupt)
            .copy_as(&sources, &found, &to)
            .map_err(copied)?;
        Ok(beside)
    }

    /// Puts the copy in the place of the cache.
    fn replace(&self, renewed: &Renewed) -> io::Result<()> {
        if renewed.shared {
            renewed.cache.reclaim(self.interrupt).map_err(io::Error::other)?;
        }
        let beside = renewed.beside.path();
        match std::fs::rename(&renewed.path, beside.join("old")) {
            // Somebody kept a limit meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
        std::fs::rename(beside.join("content"), &renewed.path)
    }
}

impl Drop for Placed<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.restore() {
            tracing::warn!("{error}");
        }
    }
}

/// In place the root is this machine's, and so are its paths.
fn image_path(path: &Path) -> io::Result<ImagePath> {
    ImagePath::parse(path.as_os_str().as_bytes()).map_err(io::Error::other)
}
