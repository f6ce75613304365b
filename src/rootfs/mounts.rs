//! What is mounted over the root while a step runs, without a trace of it in a layer.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use snapshot::{ImagePath, Index, Seen, Timestamp};

use super::shown::Shown;
use super::tree::Tree;

/// The mounts of one step besides `/proc`, `/dev` and `/sys`.
#[derive(Debug, Default)]
pub struct MountPlan {
    /// Files and directories shown inside.
    pub binds: Vec<BindMount>,
    /// The mounts that the step asks for, in order; a later one may lie in an earlier one.
    pub shown: Vec<Shown>,
    /// An empty directory of this machine, for the secrets among them.
    pub hidden: PathBuf,
    /// Files shown read-only below `/dev`, which is a file system of its own: where they are on this
    /// machine, and their path relative to `/dev`.
    pub scripts: Vec<(PathBuf, String)>,
    /// A network namespace with nothing in it.
    pub no_network: bool,
    /// The name of the machine.
    pub hostname: CString,
}

/// A file or directory of this machine, shown inside the root.
#[derive(Debug)]
pub struct BindMount {
    /// Where it is on this machine.
    pub source: PathBuf,
    /// Where it is shown; without symbolic links.
    pub target: ImagePath,
    /// Whether it can be written through.
    pub read_only: bool,
}

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A directory.
    Dir,
    /// A regular file.
    File,
}

/// Mount points that the image does not have: made before a step, gone after it, and the times of
/// the directories they were made in put back.
#[derive(Debug, Default)]
pub struct MountPoints {
    made: Vec<Made>,
}

/// A mount point that was made, known by its inode: the step may have moved a directory above it,
/// and put something of its own in its place.
#[derive(Debug)]
struct Made {
    path: ImagePath,
    inode: Option<u64>,
    /// Keeps the number of the inode from becoming that of another, should the step remove it.
    _held: OwnedFd,
}

impl MountPoints {
    /// Makes sure that `path` can be mounted over. Returns where it really is, links resolved.
    ///
    /// # Errors
    /// Something of another kind is there, or it cannot be made.
    pub fn ensure(
        &mut self,
        tree: &Tree,
        index: &Index,
        path: &ImagePath,
        point: Point,
    ) -> io::Result<ImagePath> {
        let place = index.resolve(path).map_err(io::Error::other)?;
        self.make(tree, &place, point)?;
        Ok(place)
    }

    /// As [`MountPoints::ensure`], for a path without links, whatever the index says of it.
    ///
    /// # Errors
    /// As [`MountPoints::ensure`].
    pub fn make(&mut self, tree: &Tree, place: &ImagePath, point: Point) -> io::Result<()> {
        let there = if place.is_root() { Some(FileType::Directory) } else { tree.kind(place)? };
        match (there, point) {
            (Some(FileType::Directory), Point::Dir) => return Ok(()),
            (Some(FileType::Directory), Point::File) => {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            (Some(_), Point::File) => return Ok(()),
            (Some(_), Point::Dir) => return Err(io::ErrorKind::NotADirectory.into()),
            (None, _) => {}
        }
        if let Some(parent) = place.parent() {
            self.make(tree, &parent, Point::Dir)?;
        }
        let before = time_of_parent(tree, place)?;
        match point {
            Point::Dir => drop(tree.make_dir(place, 0o755)?),
            Point::File => drop(tree.create_file(place)?),
        }
        let inode = tree.seen(place)?.map(Seen::ino);
        let held = tree.hold(place)?;
        self.made.push(Made { path: place.clone(), inode, _held: held });
        restore(tree, place, before)
    }

    /// Removes what [`MountPoints::ensure`] made, unless the step put something into it.
    ///
    /// # Errors
    /// A directory's time cannot be read or set.
    pub fn remove(&mut self, tree: &Tree) -> io::Result<()> {
        let mut moved = Vec::new();
        let made = std::mem::take(&mut self.made);
        for made in made.iter().rev() {
            let seen = tree.seen(&made.path).ok().flatten().map(Seen::ino);
            if seen.is_some() && seen == made.inode {
                remove_one(tree, &made.path)?;
            } else {
                moved.extend(made.inode);
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        // A mount point itself cannot be renamed, but a directory above it can (rename(2), EBUSY).
        let mut found = Vec::new();
        tree.find_inodes(&moved, &mut found)?;
        found.iter().rev().try_for_each(|path| remove_one(tree, path))
    }
}

/// Removes a mount point, unless there is something in it, and puts back the time of its parent.
fn remove_one(tree: &Tree, path: &ImagePath) -> io::Result<()> {
    let before = time_of_parent(tree, path)?;
    match tree.remove_empty(path) {
        Ok(()) => restore(tree, path, before),
        Err(_) => Ok(()),
    }
}

/// The time of the directory that `path` is in.
pub(crate) fn time_of_parent(tree: &Tree, path: &ImagePath) -> io::Result<Timestamp> {
    use std::os::fd::AsFd as _;
    let parent = path.parent().unwrap_or_else(ImagePath::root);
    let dir = tree.dir(&parent)?;
    let seen = rustix::fs::fstat(dir.as_fd())?;
    let nanos = u32::try_from(seen.st_mtime_nsec).unwrap_or(0);
    Ok(Timestamp::new(seen.st_mtime, nanos))
}

/// Sets the time of the directory that `path` is in.
pub(crate) fn restore(tree: &Tree, path: &ImagePath, before: Timestamp) -> io::Result<()> {
    match path.parent() {
        Some(parent) => tree.set_mtime(&parent, before),
        None => Ok(()),
    }
}

/// This machine's path of a path of the image.
pub(crate) fn under(root: &Path, path: &ImagePath) -> PathBuf {
    root.join(std::ffi::OsStr::from_bytes(path.relative()))
}

/// A path for a system call. Paths of this program come from arguments and directory listings and
/// hold no NUL.
pub(super) fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

/// A constant or formatted text for a system call.
pub(super) fn text(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}
