//! One name in an open directory: what the calls on it are, without a path to be led astray by.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Stat, XattrFlags, makedev};
use rustix::io::Errno;
use snapshot::{Seen, Timestamp};

use super::tree::{create_at, gid, is_dir, mode_bits, remove_at, seen_in, times, uid};

/// A name in a directory; the name itself is never followed. `.` in the root is the root.
#[derive(Debug)]
pub struct Place {
    dir: Rc<OwnedFd>,
    name: CString,
}

impl Place {
    pub(super) fn new(dir: Rc<OwnedFd>, name: CString) -> Self {
        Self { dir, name }
    }

    /// Makes a directory; tells whether it had to be made.
    ///
    /// # Errors
    /// What mkdir(2) says; `ENOTDIR` where something else has the name.
    pub fn make_dir(&self, mode: u32) -> io::Result<bool> {
        match rustix::fs::mkdirat(&*self.dir, &self.name, mode_bits(mode)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) if is_dir(self.dir.as_fd(), &self.name)? => Ok(false),
            Err(Errno::EXIST) => Err(Errno::NOTDIR.into()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Creates a regular file to be written; the process's umask takes from its mode.
    ///
    /// # Errors
    /// What open(2) says, `EEXIST` among others.
    pub fn create_file(&self, mode: u32) -> io::Result<File> {
        create_at(self.dir.as_fd(), &self.name, mode)
    }

    /// Makes a symbolic link; the target is stored as it is.
    ///
    /// # Errors
    /// What symlink(2) says.
    pub fn make_symlink(&self, target: &[u8]) -> io::Result<()> {
        let target = CString::new(target).map_err(|_| Errno::INVAL)?;
        Ok(rustix::fs::symlinkat(&target, &*self.dir, &self.name)?)
    }

    /// Makes this a second name of `existing`; if that is a symbolic link, of the link.
    ///
    /// # Errors
    /// What link(2) says.
    pub fn make_link(&self, existing: &Self) -> io::Result<()> {
        let (from, to) = (&existing.dir, &self.dir);
        Ok(rustix::fs::linkat(&**from, &existing.name, &**to, &self.name, AtFlags::empty())?)
    }

    /// Makes a FIFO (with device 0:0) or a device, private.
    ///
    /// # Errors
    /// What mknod(2) says: `EPERM` without `CAP_MKNOD`.
    pub fn make_node(&self, kind: FileType, major: u32, minor: u32) -> io::Result<()> {
        let device = makedev(major, minor);
        Ok(rustix::fs::mknodat(&*self.dir, &self.name, kind, mode_bits(0o600), device)?)
    }

    /// Removes what is there, with everything below it; nothing there is fine.
    ///
    /// # Errors
    /// What unlink(2) or rmdir(2) says.
    pub fn remove(&self) -> io::Result<()> {
        remove_at(self.dir.as_fd(), &self.name)
    }

    /// Sets owner and group; this clears set-id bits and capabilities.
    ///
    /// # Errors
    /// What chown(2) says.
    pub fn set_owner(&self, owner: (u32, u32)) -> io::Result<()> {
        let (user, group, flags) = (Some(uid(owner)), Some(gid(owner)), AtFlags::SYMLINK_NOFOLLOW);
        Ok(rustix::fs::chownat(&*self.dir, &self.name, user, group, flags)?)
    }

    /// Sets the mode. This must not be a symbolic link: the call would follow it.
    ///
    /// # Errors
    /// What chmod(2) says.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::chmodat(&*self.dir, &self.name, mode_bits(mode), AtFlags::empty())?)
    }

    /// Sets one extended attribute.
    ///
    /// # Errors
    /// What lsetxattr(2) says.
    pub fn set_xattr(&self, name: &CStr, value: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::lsetxattr(self.through_proc(), name, value, XattrFlags::empty())?)
    }

    /// Removes one extended attribute.
    ///
    /// # Errors
    /// What lremovexattr(2) says.
    pub fn remove_xattr(&self, name: &CStr) -> io::Result<()> {
        Ok(rustix::fs::lremovexattr(self.through_proc(), name)?)
    }

    /// There is no setxattrat(2) before 6.13; the directory's magic link does the same.
    fn through_proc(&self) -> PathBuf {
        Path::new("/proc/self/fd")
            .join(self.dir.as_raw_fd().to_string())
            .join(OsStr::from_bytes(self.name.to_bytes()))
    }

    /// Sets the modification time.
    ///
    /// # Errors
    /// What utimensat(2) says.
    pub fn set_mtime(&self, mtime: Timestamp) -> io::Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(rustix::fs::utimensat(&*self.dir, &self.name, &times(mtime), flags)?)
    }

    /// Inode and ctime.
    ///
    /// # Errors
    /// What stat(2) says.
    pub fn seen(&self) -> io::Result<Option<Seen>> {
        Ok(seen_in(&self.stat()?))
    }

    /// What stat(2) says of what is there.
    ///
    /// # Errors
    /// `ENOENT` among others.
    pub(super) fn stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::statat(&*self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The target of the symbolic link that is there; nothing for anything else, and for nothing.
    ///
    /// # Errors
    /// What readlink(2) says.
    pub fn read_link(&self) -> io::Result<Option<Vec<u8>>> {
        match rustix::fs::readlinkat(&*self.dir, &self.name, Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What kind of file is there; nothing for none.
    ///
    /// # Errors
    /// What stat(2) says.
    pub fn file_type(&self) -> io::Result<Option<FileType>> {
        match rustix::fs::statat(&*self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}
