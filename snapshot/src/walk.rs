//! Walks a tree on all cores and names what does not look untouched.
//!
//! One `getdents` per directory, one `stat` per name, no content and no
//! extended attributes: a changed attribute moves the ctime as well.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::fs::{self, AtFlags, OFlags};

use crate::observe::{Glance, is_absence, open_beneath};
use crate::{Entry, Error, Exclusions, ImagePath, Index};

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// Present and not as the index has it, or in the index and gone.
    pub(crate) suspects: Vec<ImagePath>,
    /// How many names were looked at.
    pub(crate) looked_at: usize,
}

/// Which of the names found are suspects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judge {
    /// Those that do not look as the index has them.
    Changed,
    /// All of them.
    All,
}

/// Walks everything below a directory, that directory not included.
pub(crate) fn walk(
    root: BorrowedFd<'_>,
    start: &ImagePath,
    index: &Index,
    exclusions: &Exclusions,
    judge: Judge,
) -> Result<Walked, Error> {
    let walk = Walk { root, index, exclusions, judge };
    let queue = Queue::starting_with(start.clone());
    let threads = thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    let parts: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| walk.work(&queue))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a walker does not panic")).collect()
    });
    let mut whole = Walked::default();
    for part in parts {
        let part = part?;
        whole.suspects.extend(part.suspects);
        whole.looked_at += part.looked_at;
    }
    Ok(whole)
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    index: &'a Index,
    exclusions: &'a Exclusions,
    judge: Judge,
}

impl Walk<'_> {
    fn work(&self, queue: &Queue) -> Result<Walked, Error> {
        let mut walked = Walked::default();
        while let Some(dir) = queue.next() {
            let mut below = Vec::new();
            let visited = self.visit(&dir, &mut walked, &mut below);
            queue.done(below);
            if visited.is_err() {
                queue.stop();
                visited?;
            }
        }
        Ok(walked)
    }

    /// Merges the sorted names of one directory with those of the index.
    fn visit(
        &self,
        dir: &ImagePath,
        walked: &mut Walked,
        below: &mut Vec<ImagePath>,
    ) -> Result<(), Error> {
        let Some(handle) = self.open(dir)? else { return Ok(()) };
        let mut known = self.index.children(dir).peekable();
        for name in sorted_names(&handle, dir)?.iter() {
            while let Some((gone, _)) = known.next_if(|(path, _)| path.file_name() < Some(name)) {
                self.suspect(gone.clone(), walked);
            }
            let old = known.next_if(|(path, _)| path.file_name() == Some(name)).map(|(_, e)| e);
            self.meet(&handle, dir, name, old, walked, below)?;
        }
        for (gone, _) in known {
            self.suspect(gone.clone(), walked);
        }
        Ok(())
    }

    fn meet(
        &self,
        handle: &OwnedFd,
        dir: &ImagePath,
        name: &[u8],
        old: Option<&Entry>,
        walked: &mut Walked,
        below: &mut Vec<ImagePath>,
    ) -> Result<(), Error> {
        let path = || dir.join(name).map_err(|why| Error::path(dir, why));
        walked.looked_at += 1;
        let stat = match fs::statat(handle, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(why) if is_absence(why) => {
                self.suspect(path()?, walked);
                return Ok(());
            }
            Err(why) => return Err(Error::tree("fstatat", &path()?, why)),
        };
        let glance = Glance::of(&stat);
        if glance.is_dir() {
            let path = path()?;
            if !self.exclusions.covers(&path) {
                below.push(path);
            }
        }
        if self.judge == Judge::All || !old.is_some_and(|old| self.index.vouches(old, glance)) {
            self.suspect(path()?, walked);
        }
        Ok(())
    }

    fn suspect(&self, path: ImagePath, walked: &mut Walked) {
        if !self.exclusions.covers(&path) {
            walked.suspects.push(path);
        }
    }

    /// None for a directory that is gone or was replaced since it was found.
    fn open(&self, dir: &ImagePath) -> Result<Option<OwnedFd>, Error> {
        match open_beneath(self.root, dir, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(handle) => Ok(Some(handle)),
            Err(why) if is_absence(why) => Ok(None),
            Err(why) => Err(Error::tree("openat2", dir, why)),
        }
    }
}

/// The names in a directory, in one buffer.
struct Names {
    bytes: Vec<u8>,
    ends: Vec<(usize, usize)>,
}

impl Names {
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.ends.iter().map(|&(start, end)| &self.bytes[start..end])
    }
}

fn sorted_names(handle: &OwnedFd, dir: &ImagePath) -> Result<Names, Error> {
    let mut names = Names { bytes: Vec::new(), ends: Vec::new() };
    let mut buffer = Vec::with_capacity(32 * 1024);
    let mut entries = fs::RawDir::new(handle, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|why| Error::tree("getdents64", dir, why))?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            let start = names.bytes.len();
            names.bytes.extend_from_slice(name);
            names.ends.push((start, names.bytes.len()));
        }
    }
    let Names { bytes, ends } = &mut names;
    ends.sort_unstable_by(|a, b| bytes[a.0..a.1].cmp(&bytes[b.0..b.1]));
    Ok(names)
}

/// Directories still to be read, and how many are being read.
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: Vec<ImagePath>,
    busy: usize,
}

impl Queue {
    fn starting_with(dir: ImagePath) -> Self {
        let state = Mutex::new(State { waiting: vec![dir], busy: 0 });
        Self { state, changed: Condvar::new() }
    }

    /// The next directory; none once nobody can find any more.
    fn next(&self) -> Option<ImagePath> {
        let mut state = self.lock();
        while state.waiting.is_empty() && state.busy > 0 {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let dir = state.waiting.pop()?;
        state.busy += 1;
        Some(dir)
    }

    fn done(&self, found: Vec<ImagePath>) {
        let mut state = self.lock();
        state.waiting.extend(found);
        state.busy -= 1;
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.lock().waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
