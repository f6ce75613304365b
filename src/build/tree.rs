//! Trees of stages on disk: moved by rename where that is possible, copied where two need one.
//!
//! Both go by the index, which knows every path, link and attribute of the
//! tree, so nothing that is no part of the image comes along.

use std::io;
use std::path::Path;

use rustix::io::Errno;
use snapshot::{Entry, ImagePath, Index, Kind};

use crate::report::{Explain as _, Failure};
use crate::rootfs::{Exclusions, Metadata, Rootfs, Tree, is_account_file};

/// Moves the tree of `from` into the directory `to`, which holds nothing but directories above mounts, and
/// answers it as a root of its own.
///
/// # Errors
/// A path can be neither renamed nor copied.
pub(super) fn move_tree(from: &Rootfs, to: &Path) -> Result<Rootfs, Failure> {
    let target = Tree::open(to).could_not(|| format!("open {}", to.display()))?;
    let mut mover = Mover { from, to: &target, index: Index::new(), how: How::Rename };
    mover.transfer_children(&ImagePath::root())?;
    mover.finish()
}

/// Copies the tree of `from` into the empty directory `to`, hard links and all.
///
/// # Errors
/// A path cannot be copied.
pub(super) fn copy_tree(
    from: &Rootfs,
    to: &Path,
    exclusions: Exclusions,
) -> Result<Rootfs, Failure> {
    let target = Tree::open(to).could_not(|| format!("open {}", to.display()))?;
    let mut mover = Mover { from, to: &target, index: Index::new(), how: How::Copy };
    mover.transfer_children(&ImagePath::root())?;
    let index = mover.finish()?.into_index();
    let exclusions = exclusions.with_pins_of(from.exclusions());
    let copy = Rootfs::open(to, index, exclusions);
    let copy = copy.could_not(|| format!("open {}", to.display()))?;
    Ok(if from.is_outline() { copy.outline() } else { copy })
}

/// Makes an outline of the tree of `from` in the empty directory `to`: directories, links and account
/// files; other files are in its index only.
///
/// # Errors
/// A path cannot be made.
pub(super) fn outline_tree(from: &Rootfs, to: &Path) -> Result<Rootfs, Failure> {
    let target = Tree::open(to).could_not(|| format!("open {}", to.display()))?;
    let mut mover = Mover { from, to: &target, index: Index::new(), how: How::Outline };
    mover.transfer_children(&ImagePath::root())?;
    Ok(mover.finish()?.outline())
}

struct Mover<'a> {
    from: &'a Rootfs,
    to: &'a Tree,
    index: Index,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Rename,
    Copy,
    Outline,
}

impl Mover<'_> {
    fn finish(mut self) -> Result<Rootfs, Failure> {
        let dirs: Vec<ImagePath> = self
            .index
            .iter()
            .filter(|(_, entry)| entry.is_dir())
            .map(|(path, _)| path.clone())
            .collect();
        for path in dirs.iter().rev() {
            let Some(mtime) = self.index.get(path).map(|entry| entry.mtime) else { continue };
            self.to.set_mtime(path, mtime).could_not(|| format!("set the time of {path}"))?;
            let seen = self.to.seen(path).could_not(|| format!("look at {path}"))?;
            self.index.record_seen(path, seen);
        }
        let path = self.to.path().to_owned();
        let exclusions = Exclusions::default().with_pins_of(self.from.exclusions());
        let mut rootfs = Rootfs::open(&path, self.index, exclusions)
            .could_not(|| format!("open {}", path.display()))?;
        rootfs.settle();
        Ok(rootfs)
    }

    fn transfer_children(&mut self, dir: &ImagePath) -> Result<(), Failure> {
        let from = self.from;
        for (path, entry) in from.index().children(dir) {
            if from.exclusions().excludes(path) || (entry.foreign && !holds_own(from, path)) {
                continue;
            }
            self.transfer(path, entry).could_not(|| format!("keep {path} for later stages"))?;
            if entry.is_dir() && self.index.subtree(path).nth(1).is_none() {
                self.transfer_children(path)?;
            }
        }
        Ok(())
    }

    /// Takes one path along. A directory that is no part of the image, but has something in it that is,
    /// comes along as what it is; a directory that was renamed brings everything below it.
    fn transfer(&mut self, path: &ImagePath, entry: &Entry) -> io::Result<()> {
        let whole = !entry.is_dir() || !self.from.exclusions().covers_any_below(path);
        if entry.unwritten || (self.how == How::Outline && !self.is_in_outlines(path, entry)) {
            self.note(path, entry);
            return Ok(());
        }
        if self.how == How::Rename && whole && !self.holds_foreign(path) && self.try_rename(path)? {
            return self.index_renamed(path);
        }
        self.copy_one(path, entry)
    }

    /// What an outline has on disk.
    fn is_in_outlines(&self, path: &ImagePath, entry: &Entry) -> bool {
        let is_link = matches!(entry.kind, Kind::Dir | Kind::Symlink { .. });
        let is_alone = || self.from.index().names_linked_with(path).next().is_none();
        is_link || (is_account_file(path) && is_alone())
    }

    /// Takes a path into the index alone.
    fn note(&mut self, path: &ImagePath, entry: &Entry) {
        let first =
            self.from.index().names_linked_with(path).find(|name| self.index.contains(name));
        let linked = match first.cloned() {
            Some(first) => self.index.link(&first, path.clone()).is_ok(),
            None => false,
        };
        if !linked {
            let entry = Entry { unwritten: true, seen: None, ..entry.clone() };
            self.index.insert(path.clone(), entry);
        }
    }

    fn holds_foreign(&self, path: &ImagePath) -> bool {
        self.from.index().subtree(path).any(|(_, entry)| entry.foreign)
    }

    /// False where the file system cannot: another one, or a directory of an overlay's lower layer.
    fn try_rename(&self, path: &ImagePath) -> io::Result<bool> {
        let Some((parent, name)) = split(path) else { return Ok(false) };
        // Of a directory above a mount, only what is in it can be moved.
        if self.to.kind(path)?.is_some() {
            return Ok(false);
        }
        let (from, to) = (self.from.tree().dir(&parent)?, self.to.dir(&parent)?);
        match rustix::fs::renameat(&from, name, &to, name) {
            Ok(()) => Ok(true),
            Err(Errno::XDEV) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A rename moves the ctime of the renamed inode only, and of no child.
    fn index_renamed(&mut self, path: &ImagePath) -> io::Result<()> {
        let from = self.from.index();
        for (path, entry) in from.subtree(path) {
            let first = from.names_linked_with(path).find(|name| self.index.contains(name));
            let linked = match first.cloned() {
                Some(first) => self.index.link(&first, path.clone()).is_ok(),
                None => false,
            };
            if !linked {
                self.index.insert(path.clone(), entry.clone());
            }
        }
        let seen = self.to.seen(path)?;
        self.index.record_seen(path, seen);
        Ok(())
    }

    fn copy_one(&mut self, path: &ImagePath, entry: &Entry) -> io::Result<()> {
        let first =
            self.from.index().names_linked_with(path).find(|name| self.index.contains(name));
        if let Some(first) = first.cloned() {
            self.to.hard_link(&first, path)?;
            self.index.link(&first, path.clone()).map_err(io::Error::other)?;
            let seen = self.to.seen(path)?;
            self.index.record_seen(path, seen);
            return Ok(());
        }
        match &entry.kind {
            Kind::File { .. } => {
                let mut source = self.from.tree().read(path)?;
                let mut target = self.to.create_file(path)?;
                io::copy(&mut source, &mut target)?;
            }
            Kind::Dir => drop(self.to.make_dir(path, 0o700)?),
            Kind::Symlink { target } => self.to.symlink(target, path)?,
            Kind::Fifo | Kind::CharDevice { .. } | Kind::BlockDevice { .. } => {
                self.to.make_node(path, &entry.kind)?;
            }
            Kind::Socket => return Ok(()),
        }
        let xattrs: Vec<_> =
            entry.xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        let metadata = Metadata {
            mode: Some(entry.mode),
            owner: (entry.uid, entry.gid),
            xattrs: &xattrs,
            mtime: Some(entry.mtime),
        };
        self.to.set_metadata(path, &metadata)?;
        let seen = self.to.seen(path)?;
        self.index.insert(path.clone(), Entry { seen, ..entry.clone() });
        Ok(())
    }
}

/// Whether something below a directory that is no part of the image is one.
fn holds_own(from: &Rootfs, path: &ImagePath) -> bool {
    let mut below = from.index().subtree(path);
    below.any(|(path, entry)| !entry.foreign && !from.exclusions().excludes(path))
}

fn split(path: &ImagePath) -> Option<(ImagePath, &[u8])> {
    Some((path.parent()?, path.file_name()?))
}

/// The exclusions of a build in place: every mount, and the executor's own directories.
///
/// # Errors
/// The list of mounts cannot be read.
pub(super) fn in_place_exclusions(own: &[&Path]) -> Result<Exclusions, Failure> {
    use std::os::unix::ffi::OsStrExt as _;
    let text = std::fs::read("/proc/self/mountinfo")
        .could_not(|| "read the mounts of this container".to_owned())?;
    let mut trees = crate::rootfs::mount_points(&text);
    trees.extend(own.iter().filter_map(|dir| ImagePath::parse(dir.as_os_str().as_bytes()).ok()));
    Ok(Exclusions::new(trees))
}
