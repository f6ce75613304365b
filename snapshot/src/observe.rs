//! Looks at one path on disk.
//!
//! Nothing here follows a link of the tree: directories are opened beneath
//! the root with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`, or one
//! component at a time where a kernel or a seccomp profile has no `openat2`.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::entry::Fingerprinter;
use crate::{Entry, Error, Fingerprint, ImagePath, Kind, Seen, Target, Timestamp, Xattrs};

/// How much of a file is read at a time.
pub(crate) const CHUNK: usize = 256 * 1024;

/// What tells an inode from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode {
    /// Device of the file system.
    pub dev: u64,
    /// Number on that device.
    pub ino: u64,
}

/// What is at a path on disk now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// The entry as a layer would have it, without a fingerprint.
    pub entry: Entry,
    /// The inode.
    pub inode: Inode,
    /// How many names the inode has, anywhere on its file system.
    pub names: u64,
    pub(crate) glance: Glance,
}

/// What one `stat` tells, enough to know a file that nobody touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Glance {
    file_type: FileType,
    size: u64,
    mode: u32,
    uid: u32,
    gid: u32,
    seen: Option<Seen>,
}

impl Glance {
    pub(crate) fn of(stat: &Stat) -> Self {
        Self {
            file_type: FileType::from_raw_mode(stat.st_mode),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            seen: Seen::new(stat.st_ino, ctime(stat)),
        }
    }

    pub(crate) fn is_dir(self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Whether the entry was seen with this inode and ctime.
    pub(crate) fn matches(self, entry: &Entry) -> bool {
        self.seen.is_some()
            && self.seen == entry.seen
            && self.matches_kind(&entry.kind)
            && (self.mode, self.uid, self.gid) == (entry.mode, entry.uid, entry.gid)
    }

    fn matches_kind(self, kind: &Kind) -> bool {
        match kind {
            Kind::File { size } => self.file_type == FileType::RegularFile && self.size == *size,
            Kind::Dir => self.file_type == FileType::Directory,
            Kind::Symlink { .. } => self.file_type == FileType::Symlink,
            Kind::Fifo => self.file_type == FileType::Fifo,
            Kind::CharDevice { .. } => self.file_type == FileType::CharacterDevice,
            Kind::BlockDevice { .. } => self.file_type == FileType::BlockDevice,
            Kind::Socket => self.file_type == FileType::Socket,
        }
    }
}

/// Looks at a path; none where nothing is, or where a component above it is
/// no directory any more. Content is not read.
///
/// # Errors
/// [`Error::Tree`] with the call that failed.
pub fn observe(root: BorrowedFd<'_>, path: &ImagePath) -> Result<Option<Observed>, Error> {
    Observer::new(root).observe(path)
}

/// Looks at many paths; those of one directory in a row open it once.
pub(crate) struct Observer<'a> {
    root: BorrowedFd<'a>,
    parent: Option<(ImagePath, Option<OwnedFd>)>,
}

impl<'a> Observer<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, parent: None }
    }

    pub(crate) fn observe(&mut self, path: &ImagePath) -> Result<Option<Observed>, Error> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return observe_at(self.root, OsStr::new("."), path);
        };
        if self.parent.as_ref().is_none_or(|(open, _)| *open != parent) {
            let handle = open_directory(self.root, &parent)?;
            self.parent = Some((parent, handle));
        }
        match &self.parent {
            Some((_, Some(handle))) => observe_at(handle.as_fd(), OsStr::from_bytes(name), path),
            Some((_, None)) | None => Ok(None),
        }
    }
}

/// Opens a directory for `*at` calls; none where there is no such directory.
fn open_directory(root: BorrowedFd<'_>, path: &ImagePath) -> Result<Option<OwnedFd>, Error> {
    match open_beneath(root, path, OFlags::PATH | OFlags::DIRECTORY) {
        Ok(handle) => Ok(Some(handle)),
        Err(why) if is_absence(why) => Ok(None),
        Err(why) => Err(Error::tree("openat2", path, why)),
    }
}

/// No such name, or something above it is a link or no directory.
pub(crate) fn is_absence(why: Errno) -> bool {
    matches!(why, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}

/// Opens a path without following any link, the last component included.
pub(crate) fn open_beneath(
    root: BorrowedFd<'_>,
    path: &ImagePath,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match fs::openat2(root, path.beneath(), flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => open_step_by_step(root, path, flags),
        done => done,
    }
}

/// [`open_beneath`] for kernels before 5.6 and profiles that know no `openat2`.
fn open_step_by_step(
    root: BorrowedFd<'_>,
    path: &ImagePath,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut names: Vec<&[u8]> = path.components().collect();
    let last = names.pop().unwrap_or(b".");
    let mut here: Option<OwnedFd> = None;
    for name in names {
        let from = here.as_ref().map_or(root, |handle| handle.as_fd());
        here = Some(fs::openat(from, name, directory, Mode::empty())?);
    }
    fs::openat(here.as_ref().map_or(root, |handle| handle.as_fd()), last, flags, Mode::empty())
}

fn observe_at(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    path: &ImagePath,
) -> Result<Option<Observed>, Error> {
    let stat = match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(why) if is_absence(why) => return Ok(None),
        Err(why) => return Err(Error::tree("fstatat", path, why)),
    };
    let glance = Glance::of(&stat);
    let entry = Entry {
        kind: kind(parent, name, path, &stat)?,
        mode: glance.mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        xattrs: xattrs(parent, name).map_err(|why| Error::tree("lgetxattr", path, why))?,
        seen: glance.seen,
        fingerprint: None,
        foreign: false,
        unwritten: false,
    };
    let inode = Inode { dev: stat.st_dev, ino: stat.st_ino };
    Ok(Some(Observed { entry, inode, names: count(stat.st_nlink), glance }))
}

fn kind(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    path: &ImagePath,
    stat: &Stat,
) -> Result<Kind, Error> {
    let (major, minor) = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File { size: u64::try_from(stat.st_size).unwrap_or(0) },
        FileType::Directory => Kind::Dir,
        FileType::Symlink => {
            let target = fs::readlinkat(parent, name, Vec::new())
                .map_err(|why| Error::tree("readlinkat", path, why))?;
            Kind::Symlink { target: Target::from(target.as_bytes()) }
        }
        FileType::Fifo => Kind::Fifo,
        FileType::CharacterDevice => Kind::CharDevice { major, minor },
        FileType::BlockDevice => Kind::BlockDevice { major, minor },
        FileType::Socket => Kind::Socket,
        FileType::Unknown => return Err(Error::tree("fstatat", path, Errno::INVAL)),
    })
}

/// The width of a link count differs between architectures.
fn count(names: impl Into<u64>) -> u64 {
    names.into()
}

fn ctime(stat: &Stat) -> Timestamp {
    time(stat.st_ctime, stat.st_ctime_nsec)
}

fn time(secs: i64, nanos: impl TryInto<u32>) -> Timestamp {
    Timestamp::new(secs, nanos.try_into().unwrap_or(0))
}

/// `O_PATH` handles have no `fgetxattr`, and a FIFO or device must not be
/// opened otherwise: the way through `/proc` works for every type.
fn xattrs(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Xattrs> {
    let path = through_proc(parent, name);
    let mut xattrs = Xattrs::default();
    let names = match xattr::list(&path) {
        Ok(names) => names,
        Err(why) if why.raw_os_error() == Some(Errno::OPNOTSUPP.raw_os_error()) => {
            return Ok(xattrs);
        }
        Err(why) => return Err(why),
    };
    for name in names.filter(|name| belongs_to_image(name.as_bytes())) {
        if let Some(value) = xattr::get(&path, &name)? {
            xattrs.insert(name.as_bytes(), &value);
        }
    }
    Ok(xattrs)
}

fn through_proc(parent: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(name)
}

/// Whether an extended attribute goes into a layer: labels of the host's
/// security module and marks of its overlay do not.
#[must_use]
pub fn belongs_to_image(name: &[u8]) -> bool {
    !matches!(name, b"security.selinux" | b"security.ima" | b"security.evm" | b"system.nfs4_acl")
        && !name.starts_with(b"trusted.overlay.")
        && !name.starts_with(b"user.overlay.")
}

/// Opens a regular file for reading; never blocks, should it be one no more.
pub(crate) fn open_file(root: BorrowedFd<'_>, path: &ImagePath) -> Result<std::fs::File, Error> {
    open_beneath(root, path, OFlags::RDONLY | OFlags::NONBLOCK)
        .map(std::fs::File::from)
        .map_err(|why| Error::tree("open", path, why))
}

/// Reads a regular file for its fingerprint.
pub(crate) fn fingerprint(root: BorrowedFd<'_>, path: &ImagePath) -> Result<Fingerprint, Error> {
    let mut file = open_file(root, path)?;
    let mut hash = Fingerprinter::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk).map_err(|why| Error::tree("read", path, why))? {
            0 => return Ok(hash.finish()),
            read => hash.update(&chunk[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_openat2_it_opens_the_same() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("d/e")).unwrap();
        std::fs::write(dir.path().join("d/e/f"), "").unwrap();
        std::os::unix::fs::symlink("d", dir.path().join("l")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("d/out")).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        for (path, opens) in [
            ("/", true),
            ("/d/e", true),
            ("/d/e/f", true),
            ("/l/e/f", false),
            ("/d/out", false),
            ("/d/e/f/g", false),
            ("/nothing/here", false),
        ] {
            let path = ImagePath::parse(path.as_bytes()).unwrap();
            let (new, old) = (
                open_beneath(root.as_fd(), &path, flags),
                open_step_by_step(root.as_fd(), &path, flags),
            );
            assert_eq!(new.is_ok(), opens, "{path}");
            assert_eq!(old.is_ok(), opens, "{path}");
            assert!(old.err().is_none_or(is_absence), "{path}");
        }
    }
}
