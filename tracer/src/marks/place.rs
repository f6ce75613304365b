//! Where the marks are.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RawDir, StatxFlags};
use rustix::io::Errno;

use super::handles::{Files, Tree};
use super::notes::{Notes, Queue};
use super::{EVENTS, Kind, Paths};
use crate::outcome::{Blindness, Touched, is_within};
use crate::sys::notify;

/// The limit that `ENOSPC` means.
const LIMIT: &str = "/proc/sys/fs/inotify/max_user_watches";

/// Marks that are where the directories are.
pub(super) struct Placed {
    kind: Kind,
    queue: OwnedFd,
    top: OwnedFd,
    mount: Mount,
    /// None where the mark is on the file system.
    paths: Paths,
    /// Directories that came or moved, and are not marked yet.
    stale: Vec<Vec<u8>>,
    /// Whether nobody knows any more where the marks are.
    lost: bool,
}

/// What tells one mount from another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mount {
    device: (u32, u32),
    /// 0 before Linux 5.8: marking what is mounted from the same file system
    /// does no harm.
    id: u64,
}

impl Placed {
    /// Marks every directory of the mount at `root`, or its file system.
    pub(super) fn on(root: &Path, kind: Kind) -> Result<Placed, Blindness> {
        // Open for reading, because files are not found by handle on a mere place.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = fs::open(root, flags, Mode::empty())
            .map_err(|errno| refused("open", root.as_os_str().as_bytes(), errno))?;
        let queue = match kind {
            Kind::Directories => inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
                .map_err(|errno| Blindness::Marks(told("inotify_init1", errno)))?,
            Kind::FileSystem => marked_file_system(&top).map_err(Blindness::Marks)?,
        };
        let mount = Mount::of(&top).map_err(|errno| refused("statx", b"/", errno))?;
        let (paths, stale) = (Paths::new(), vec![Vec::new()]);
        let mut placed = Placed { kind, queue, top, mount, paths, stale, lost: false };
        placed.mark_stale()?;
        Ok(placed)
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn events(&self) -> Result<Queue, crate::Errno> {
        let files = match self.kind {
            Kind::Directories => None,
            Kind::FileSystem => Some(Files::of(Tree::below(crate::sys::duplicate(&self.top)?)?)),
        };
        Queue::of(&self.queue, files)
    }

    /// Itself, after what happened since the last command; none where that
    /// cannot be told.
    pub(super) fn refreshed(mut self) -> Result<Option<Placed>, Blindness> {
        let mut notes = Notes::default();
        self.events().map_err(|errno| Blindness::Marks(format!("dup: {errno}")))?.read(&mut notes);
        self.settle(notes);
        if self.lost {
            return Ok(None);
        }
        self.mark_stale()?;
        Ok(Some(self))
    }

    /// Takes the notes in, and answers what was touched.
    pub(super) fn settle(&mut self, notes: Notes) -> Touched {
        let concluded = notes.conclude(&self.paths);
        self.lost |= concluded.stale.is_none();
        self.stale.extend(concluded.stale.into_iter().flatten());
        for wd in concluded.gone {
            self.paths.remove(&wd);
        }
        concluded.touched
    }

    /// Marks the directories of all trees that came or moved, and takes the
    /// marks off those that moved out of sight.
    fn mark_stale(&mut self) -> Result<(), Blindness> {
        let stale = std::mem::take(&mut self.stale);
        if stale.is_empty() || self.kind == Kind::FileSystem {
            return Ok(());
        }
        let is_stale = |path: &[u8]| stale.iter().any(|tree| is_within(path, tree));
        let mut adrift: HashSet<i32> =
            self.paths.iter().filter(|(_, path)| is_stale(path)).map(|(wd, _)| *wd).collect();
        let mut pending = stale.clone();
        while let Some(dir) = pending.pop() {
            if let Some(wd) = self.mark(&dir, &mut pending)? {
                adrift.remove(&wd);
            }
        }
        for wd in adrift {
            self.paths.remove(&wd);
            // Gone with its directory already, or taken off now.
            let _ = inotify::remove_watch(&self.queue, wd);
        }
        Ok(())
    }

    /// Marks one directory, if it is one and on this mount; names those in it.
    fn mark(&mut self, dir: &[u8], below: &mut Vec<Vec<u8>>) -> Result<Option<i32>, Blindness> {
        let Some(handle) = self.open(dir)? else { return Ok(None) };
        let mount = Mount::of(&handle).map_err(|errno| refused("statx", dir, errno))?;
        if mount != self.mount {
            return Ok(None);
        }
        let path = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let wd = inotify::add_watch(&self.queue, path, EVENTS)
            .map_err(|errno| refused("inotify_add_watch", dir, errno))?;
        self.paths.insert(wd, dir.to_vec());
        for_each_directory(&handle, |name| below.push([dir, b"/", name].concat()))
            .map_err(|errno| refused("getdents64", dir, errno))?;
        Ok(Some(wd))
    }

    fn open(&self, dir: &[u8]) -> Result<Option<OwnedFd>, Blindness> {
        let relative = dir.strip_prefix(b"/").unwrap_or(b".");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match fs::openat(&self.top, OsStr::from_bytes(relative), flags, Mode::empty()) {
            Ok(handle) => Ok(Some(handle)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(refused("open", dir, errno)),
        }
    }
}

impl Drop for Placed {
    /// The kernel takes its time to take a mark off a file system; nobody has to wait for that.
    fn drop(&mut self) {
        if let (Kind::FileSystem, Ok(queue)) = (self.kind, crate::sys::duplicate(&self.queue)) {
            close_aside(queue);
        }
    }
}

/// Closes a queue of fanotify on a thread of its own; without one, here.
pub(super) fn close_aside(queue: OwnedFd) {
    let thread = std::thread::Builder::new().name("unmark".to_owned());
    drop(thread.spawn(move || drop(queue)));
}

/// A queue with a mark on the file system of a directory; why there is none.
pub(super) fn marked_file_system(top: &OwnedFd) -> Result<OwnedFd, String> {
    let queue = notify::queue().map_err(|errno| format!("fanotify_init: {errno}"))?;
    let why = |call: &str, errno: crate::Errno| format!("{call} on this file system: {errno}");
    notify::mark_file_system(queue.as_fd(), top.as_fd())
        .map_err(|errno| why("fanotify_mark(FAN_MARK_FILESYSTEM)", errno))?;
    let top = crate::sys::duplicate(top).map_err(|errno| why("dup", errno))?;
    let found = Tree::below(top).and_then(|tree| tree.probe());
    found.map_err(|errno| why("open_by_handle_at", errno))?;
    Ok(queue)
}

impl Mount {
    fn of(file: &OwnedFd) -> Result<Mount, Errno> {
        let mask = StatxFlags::MNT_ID;
        let stat = fs::statx(file, c"", AtFlags::EMPTY_PATH, mask)?;
        let is_known = StatxFlags::from_bits_retain(stat.stx_mask).contains(mask);
        let id = if is_known { stat.stx_mnt_id } else { 0 };
        Ok(Mount { device: (stat.stx_dev_major, stat.stx_dev_minor), id })
    }
}

fn for_each_directory(handle: &OwnedFd, mut found: impl FnMut(&[u8])) -> Result<(), Errno> {
    let mut buffer = Vec::with_capacity(32 << 10);
    let mut entries = RawDir::new(handle, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        let is_directory = match entry.file_type() {
            FileType::Directory => true,
            FileType::Unknown => {
                let stat = fs::statat(handle, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode).is_dir()
            }
            _ => false,
        };
        if is_directory && !matches!(name.to_bytes(), b"." | b"..") {
            found(name.to_bytes());
        }
    }
    Ok(())
}

/// Why a directory has no mark.
fn refused(call: &str, dir: &[u8], errno: Errno) -> Blindness {
    let dir = if dir.is_empty() { b"/" } else { dir };
    let told = told(&format!("{call}({})", dir.escape_ascii()), errno);
    if errno != Errno::NOSPC {
        return Blindness::Marks(told);
    }
    let limit = std::fs::read_to_string(LIMIT).unwrap_or_default();
    Blindness::Marks(format!(
        "{told}: fs.inotify.max_user_watches ({}) is too low for the directories of this tree",
        limit.trim()
    ))
}

fn told(call: &str, errno: Errno) -> String {
    format!("{call}: {}", crate::Errno(errno.raw_os_error()))
}
