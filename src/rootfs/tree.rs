//! Writing into a root file system through directory handles.
//!
//! # The promise
//!
//! A path is opened beneath the root without following a single symbolic link
//! (`openat2(2)` with `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS`; component by
//! component with `O_NOFOLLOW` where the kernel or a seccomp profile has no
//! openat2). Whoever wants links followed resolves them first, through the
//! index of the tree. So nothing that an archive or a step plants can make a
//! write land outside.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use snapshot::{ImagePath, Seen, Timestamp};

/// A root file system on disk, known by a handle.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    path: PathBuf,
}

/// The access mode of handles that are only looked through.
const LOOK: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Tree {
    /// Opens the directory `path` as a root.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// The host's path of the root.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A handle on the directory `path`; no component may be a symbolic link.
    ///
    /// # Errors
    /// `ELOOP` or `ENOTDIR` where a component is a link, else what open(2) says.
    pub fn dir(&self, path: &ImagePath) -> io::Result<OwnedFd> {
        beneath(self.root.as_fd(), path, LOOK)
    }

    /// The directory `path`, open to list what is in it.
    ///
    /// # Errors
    /// As [`Tree::dir`].
    pub fn list(&self, path: &ImagePath) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        beneath(self.root.as_fd(), path, flags)
    }

    /// A handle on whatever is at `path`, which keeps its inode from becoming another's.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn hold(&self, path: &ImagePath) -> io::Result<OwnedFd> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&parent, &name, flags, Mode::empty())?)
    }

    /// A handle on the parent of `path`, and its last component.
    fn parent(&self, path: &ImagePath) -> io::Result<(OwnedFd, CString)> {
        let name = path.file_name().ok_or(Errno::BUSY)?;
        let parent = path.parent().ok_or(Errno::BUSY)?;
        Ok((self.dir(&parent)?, CString::new(name).map_err(|_| Errno::INVAL)?))
    }

    /// Makes the directory `path`; tells whether it had to be made.
    ///
    /// # Errors
    /// What mkdir(2) says; `ENOTDIR` where something else has the name.
    pub fn make_dir(&self, path: &ImagePath, mode: u32) -> io::Result<bool> {
        let Some(_) = path.parent() else { return Ok(false) };
        let (parent, name) = self.parent(path)?;
        match rustix::fs::mkdirat(&parent, &name, mode_bits(mode)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) if is_dir(parent.as_fd(), &name)? => Ok(false),
            Err(Errno::EXIST) => Err(Errno::NOTDIR.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes `path` and everything below it; nothing there is fine.
    ///
    /// # Errors
    /// What unlink(2) or rmdir(2) says.
    pub fn remove(&self, path: &ImagePath) -> io::Result<()> {
        let (parent, name) = match self.parent(path) {
            Ok(found) => found,
            Err(error) if is_absence(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        remove_at(parent.as_fd(), &name)
    }

    /// Removes an empty directory, a file or a link; nothing there is fine.
    ///
    /// # Errors
    /// `ENOTEMPTY` among others.
    pub fn remove_empty(&self, path: &ImagePath) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        match rustix::fs::unlinkat(&parent, &name, AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {
                Ok(rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR)?)
            }
            Err(Errno::NOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Creates the regular file `path`, which must not exist, writable and private.
    ///
    /// # Errors
    /// What open(2) says, `EEXIST` among others.
    pub fn create_file(&self, path: &ImagePath) -> io::Result<std::fs::File> {
        let (parent, name) = self.parent(path)?;
        create_at(parent.as_fd(), &name, 0o600)
    }

    /// Makes a symbolic link; the target is stored as it is.
    ///
    /// # Errors
    /// What symlink(2) says.
    pub fn symlink(&self, target: &[u8], path: &ImagePath) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        let target = CString::new(target).map_err(|_| Errno::INVAL)?;
        Ok(rustix::fs::symlinkat(&target, &parent, &name)?)
    }

    /// Makes `path` a second name of `existing`; neither is followed if it is a link.
    ///
    /// # Errors
    /// What link(2) says.
    pub fn hard_link(&self, existing: &ImagePath, path: &ImagePath) -> io::Result<()> {
        let (from, from_name) = self.parent(existing)?;
        let (to, to_name) = self.parent(path)?;
        Ok(rustix::fs::linkat(&from, &from_name, &to, &to_name, AtFlags::empty())?)
    }

    /// Makes a FIFO or a device.
    ///
    /// # Errors
    /// What mknod(2) says: `EPERM` without `CAP_MKNOD`.
    pub fn make_node(&self, path: &ImagePath, kind: &snapshot::Kind) -> io::Result<()> {
        use rustix::fs::{FileType, makedev};
        let (kind, device) = match *kind {
            snapshot::Kind::Fifo => (FileType::Fifo, 0),
            snapshot::Kind::CharDevice { major, minor } => {
                (FileType::CharacterDevice, makedev(major, minor))
            }
            snapshot::Kind::BlockDevice { major, minor } => {
                (FileType::BlockDevice, makedev(major, minor))
            }
            _ => return Err(Errno::INVAL.into()),
        };
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::mknodat(&parent, &name, kind, mode_bits(0o600), device)?)
    }

    /// Sets owner, mode, extended attributes and, last, the modification time of `path` itself.
    /// The mode of a symbolic link cannot be set, and does not matter.
    ///
    /// # Errors
    /// The first of the calls that fails.
    pub fn set_metadata(&self, path: &ImagePath, metadata: &Metadata<'_>) -> io::Result<()> {
        let Some(_) = path.parent() else {
            return metadata.put_on_handle(self.root.as_fd());
        };
        let (parent, name) = self.parent(path)?;
        metadata.put_at(parent.as_fd(), &name)
    }

    /// Sets only the permission bits of `path`, which must not be a link.
    ///
    /// # Errors
    /// What fchmodat(2) says.
    pub fn set_mode(&self, path: &ImagePath, mode: u32) -> io::Result<()> {
        if path.parent().is_none() {
            return Ok(rustix::fs::fchmod(&self.root, mode_bits(mode))?);
        }
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::chmodat(&parent, &name, mode_bits(mode), AtFlags::empty())?)
    }

    /// Sets only the modification time of `path` itself.
    ///
    /// # Errors
    /// What utimensat(2) says.
    pub fn set_mtime(&self, path: &ImagePath, mtime: Timestamp) -> io::Result<()> {
        if path.parent().is_none() {
            return Ok(rustix::fs::futimens(&self.root, &times(mtime))?);
        }
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::utimensat(&parent, &name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Finds the paths that have one of these inodes, parents first, by a walk of the tree. Other file
    /// systems below the root are not entered.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn find_inodes(&self, inodes: &[u64], found: &mut Vec<ImagePath>) -> io::Result<()> {
        let device = rustix::fs::fstat(&self.root)?.st_dev;
        let mut pending = vec![ImagePath::root()];
        while let Some(path) = pending.pop() {
            let dir = self.list(&path)?;
            for name in names_in(dir.as_fd())? {
                let stat = rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
                let Ok(child) = path.join(name.as_bytes()) else { continue };
                if stat.st_dev != device {
                    continue;
                }
                if inodes.contains(&stat.st_ino) {
                    found.push(child.clone());
                }
                if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
                    pending.push(child);
                }
            }
        }
        found.sort();
        Ok(())
    }

    /// What tells whether `path` is touched later: its inode and ctime.
    ///
    /// # Errors
    /// What stat(2) says.
    pub fn seen(&self, path: &ImagePath) -> io::Result<Option<Seen>> {
        if path.is_root() {
            return seen_by(self.root.as_fd());
        }
        let (parent, name) = self.parent(path)?;
        Ok(seen_in(&rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    /// What kind of file is at `path`; nothing for none, or where a component above is none.
    ///
    /// # Errors
    /// `ELOOP` or `ENOTDIR` where a component above is a link or a file, else what stat(2) says.
    pub fn kind(&self, path: &ImagePath) -> io::Result<Option<rustix::fs::FileType>> {
        let (parent, name) = match self.parent(path) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => return Ok(None),
            found => found?,
        };
        match rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(rustix::fs::FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Renames `from` to `to`, which must not exist.
    ///
    /// # Errors
    /// What rename(2) says: `EXDEV` between file systems, and for a directory that an overlay has in
    /// a lower layer.
    pub fn rename(&self, from: &ImagePath, to: &ImagePath) -> io::Result<()> {
        let (from, from_name) = self.parent(from)?;
        let (to, to_name) = self.parent(to)?;
        Ok(rustix::fs::renameat(&from, &from_name, &to, &to_name)?)
    }

    /// Opens `path` for reading; it must be a regular file.
    ///
    /// # Errors
    /// `ELOOP` for a link, `EINVAL` for what is neither file nor link, else what open(2) says.
    pub fn read(&self, path: &ImagePath) -> io::Result<std::fs::File> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let seen = rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        match rustix::fs::FileType::from_raw_mode(seen.st_mode) {
            rustix::fs::FileType::RegularFile | rustix::fs::FileType::Symlink => {}
            _ => return Err(Errno::INVAL.into()),
        }
        Ok(rustix::fs::openat(&parent, &name, flags, Mode::empty())?.into())
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// What a file is given besides its content.
#[derive(Debug, Clone, Copy)]
pub struct Metadata<'a> {
    /// Permission bits with set-id and sticky, or none to leave them.
    pub mode: Option<u32>,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Extended attributes to set; others stay.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
    /// Modification time, or none to leave it.
    pub mtime: Option<Timestamp>,
}

impl Metadata<'_> {
    /// On an open file. chown(2) clears set-id bits and capabilities, so it comes first.
    ///
    /// # Errors
    /// The first of the calls that fails.
    pub fn put_on_handle(&self, handle: BorrowedFd<'_>) -> io::Result<()> {
        rustix::fs::fchown(handle, Some(uid(self.owner)), Some(gid(self.owner)))?;
        if let Some(mode) = self.mode {
            rustix::fs::fchmod(handle, mode_bits(mode))?;
        }
        for (name, value) in self.xattrs {
            let name = CString::new(name.as_slice()).map_err(|_| Errno::INVAL)?;
            tolerated(
                &name,
                rustix::fs::fsetxattr(handle, &name, value, rustix::fs::XattrFlags::empty()),
            )?;
        }
        if let Some(mtime) = self.mtime {
            rustix::fs::futimens(handle, &times(mtime))?;
        }
        Ok(())
    }

    fn put_at(&self, parent: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
        let nofollow = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(parent, name, Some(uid(self.owner)), Some(gid(self.owner)), nofollow)?;
        let seen = rustix::fs::statat(parent, name, nofollow)?;
        let is_link = rustix::fs::FileType::from_raw_mode(seen.st_mode).is_symlink();
        if let (Some(mode), false) = (self.mode, is_link) {
            // Not a link, and nobody else writes here: chmod cannot be led astray.
            rustix::fs::chmodat(parent, name, mode_bits(mode), AtFlags::empty())?;
        }
        if !self.xattrs.is_empty() {
            self.put_xattrs(parent, name)?;
        }
        if let Some(mtime) = self.mtime {
            rustix::fs::utimensat(parent, name, &times(mtime), nofollow)?;
        }
        Ok(())
    }

    fn put_xattrs(&self, parent: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
        use std::os::fd::AsRawFd as _;
        use std::os::unix::ffi::OsStrExt as _;
        // There is no lsetxattrat(2) before 6.13; the parent's magic link does the same.
        let path = Path::new("/proc/self/fd")
            .join(parent.as_raw_fd().to_string())
            .join(std::ffi::OsStr::from_bytes(name.to_bytes()));
        for (key, value) in self.xattrs {
            let key = CString::new(key.as_slice()).map_err(|_| Errno::INVAL)?;
            tolerated(
                &key,
                rustix::fs::lsetxattr(&path, &key, value, rustix::fs::XattrFlags::empty()),
            )?;
        }
        Ok(())
    }
}

/// An attribute that the file system below the root does not take is told, and left out: Docker's
/// builder goes on there, too.
fn tolerated(name: &CString, set: Result<(), Errno>) -> io::Result<()> {
    match set {
        Err(errno @ (Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL)) => {
            tracing::warn!("the attribute {} could not be set: {errno}", name.to_string_lossy());
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Inode and ctime of an open file.
///
/// # Errors
/// What fstat(2) says.
pub(super) fn seen_by(handle: BorrowedFd<'_>) -> io::Result<Option<Seen>> {
    Ok(seen_in(&rustix::fs::fstat(handle)?))
}

pub(super) fn seen_in(stat: &rustix::fs::Stat) -> Option<Seen> {
    let nanos = u32::try_from(stat.st_ctime_nsec).unwrap_or(0);
    Seen::new(stat.st_ino, Timestamp::new(stat.st_ctime, nanos))
}

/// Creates a new regular file below a directory handle, to be written; the process's umask takes from
/// its mode.
///
/// # Errors
/// What open(2) says, `EEXIST` among others.
pub(super) fn create_at(
    parent: BorrowedFd<'_>,
    name: &CString,
    mode: u32,
) -> io::Result<std::fs::File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, mode_bits(mode))?.into())
}

/// Opens `path` beneath `root` without following links.
fn beneath(root: BorrowedFd<'_>, path: &ImagePath, flags: OFlags) -> io::Result<OwnedFd> {
    let relative = path.relative();
    if relative.is_empty() {
        return Ok(rustix::fs::openat(root, c".", flags, Mode::empty())?);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, relative, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM | Errno::NAMETOOLONG) => step_by_step(root, path, flags),
        other => Ok(other?),
    }
}

fn step_by_step(root: BorrowedFd<'_>, path: &ImagePath, flags: OFlags) -> io::Result<OwnedFd> {
    let mut here = rustix::fs::openat(root, c".", LOOK, Mode::empty())?;
    for component in path.components() {
        here = rustix::fs::openat(&here, component, flags | OFlags::NOFOLLOW, Mode::empty())?;
    }
    Ok(here)
}

pub(super) fn is_dir(parent: BorrowedFd<'_>, name: &CString) -> io::Result<bool> {
    let seen = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(rustix::fs::FileType::from_raw_mode(seen.st_mode).is_dir())
}

/// Removes `name` and what is below it, without recursion on the call stack's account: a tree
/// may be thousands of levels deep.
pub(super) fn remove_at(parent: BorrowedFd<'_>, name: &CString) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut open: Vec<(OwnedFd, CString, Vec<CString>)> = Vec::new();
    let enter = |parent: BorrowedFd<'_>, name: &CString| -> io::Result<(OwnedFd, Vec<CString>)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
        let names = names_in(dir.as_fd())?;
        Ok((dir, names))
    };
    let (dir, names) = enter(parent, name)?;
    open.push((dir, name.clone(), names));
    while let Some((dir, name, names)) = open.last_mut() {
        match names.pop() {
            Some(child) => match rustix::fs::unlinkat(&*dir, &child, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    let (child_dir, grandchildren) = enter(dir.as_fd(), &child)?;
                    open.push((child_dir, child, grandchildren));
                }
                Err(errno) => return Err(errno.into()),
            },
            None => {
                let name = std::mem::take(name);
                open.pop();
                let above = open.last().map_or(parent, |(dir, ..)| dir.as_fd());
                rustix::fs::unlinkat(above, &name, AtFlags::REMOVEDIR)?;
            }
        }
    }
    Ok(())
}

/// The names in a directory, without `.` and `..`, sorted.
///
/// # Errors
/// What getdents(2) says.
pub fn names_in(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The permission bits that chmod(2) takes.
pub(super) fn mode_bits(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

pub(super) fn times(mtime: Timestamp) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.secs(), tv_nsec: i64::from(mtime.nanos()) },
    }
}

pub(super) fn uid((uid, _): (u32, u32)) -> rustix::fs::Uid {
    rustix::fs::Uid::from_raw(uid)
}

pub(super) fn gid((_, gid): (u32, u32)) -> rustix::fs::Gid {
    rustix::fs::Gid::from_raw(gid)
}

/// Whether an error says that a path, or a directory on the way to it, is not there.
fn is_absence(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}
