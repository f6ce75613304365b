//! The directories of `RUN --mount=type=cache`: what outlives a build, for several executors at once.
//!
//! ```text
//! DIR/mounts/SHA-256 OF THE KEY/0/       what steps see
//!                               0.lock   held while a step uses it
//!                               1/ …     for further users of a private cache
//!                               key      what the name stands for, for people
//! ```
//!
//! Locks are those of flock(2): they go with their process, whatever ends it.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tracer::Interrupt;

use crate::dockerfile::Sharing;

/// Why a cache cannot be used.
#[derive(Debug, Error)]
pub enum CacheError {
    /// A call failed.
    #[error("the cache {id:?} in {path}: {source}")]
    Io {
        /// The cache.
        id: String,
        /// Where it is.
        path: PathBuf,
        /// What the call answered.
        source: io::Error,
    },
    /// The build is being ended.
    #[error("interrupted")]
    Interrupted,
}

/// What tells a cache from all others. Whoever uses several takes them in this order: else two builds
/// could wait for each other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheKey {
    /// Its `id`, or its target.
    pub id: String,
    /// What it began with, if with anything.
    pub from: Option<String>,
    /// The permission bits it was made with, if given.
    pub mode: Option<u32>,
    /// The owner it was made with, if given.
    pub owner: Option<(u32, u32)>,
}

impl CacheKey {
    /// One line for each part, so that no two keys have the same text.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { id, from, mode, owner } = self;
        let mode = mode.map(|mode| format!("{mode:o}"));
        format!("id {id:?}\nfrom {from:?}\nmode {mode:?}\nowner {owner:?}\n")
    }

    /// Makes the directory of a cache what it is when it is new.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn empty(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(dir)?;
        make(dir, self)
    }

    fn name(&self) -> String {
        let digest = Sha256::digest(self.text().as_bytes());
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// All caches of a directory.
#[derive(Debug, Clone)]
pub struct CacheStore {
    dir: PathBuf,
}

/// A cache that a step uses: locked until this is dropped.
#[derive(Debug)]
pub struct CacheDir {
    /// What it is known by.
    pub key: CacheKey,
    /// Its content.
    pub path: PathBuf,
    lock: Arc<Held>,
}

/// Keeps a cache from those who want it alone.
#[derive(Debug)]
pub struct CacheHold(#[expect(dead_code, reason = "it is there to be dropped")] Held);

/// A lock that ends with this. To close the file would not be enough: a process that is just being started has a
/// copy of every open file until its exec, and flock(2) ends with the last of them.
#[derive(Debug)]
pub(super) struct Held(pub(super) File);

impl Drop for Held {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::debug!("the lock of a cache ends with its file: {error}");
        }
    }
}

impl CacheStore {
    /// The caches below `dir`, which is made when the first is used.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.join("mounts") }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The cache of `key`, its lock taken: together with others for `shared` unless `alone`, after
    /// the others for `locked`, or one that nobody uses for `private`. A new one is filled by `fill`,
    /// in a directory that is there already, before anybody else sees it.
    ///
    /// # Errors
    /// It cannot be made or locked, or the build is ended while it waits.
    pub fn open<E: From<CacheError>>(
        &self,
        key: &CacheKey,
        sharing: Sharing,
        alone: bool,
        interrupt: &Interrupt,
        fill: impl FnOnce(&Path) -> Result<(), E>,
    ) -> Result<CacheDir, E> {
        let dir = self.dir.join(key.name());
        let failed = |source| CacheError::Io { id: key.id.clone(), path: dir.clone(), source };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        std::fs::write(dir.join("key"), key.text()).map_err(failed)?;
        let (slot, lock) = match sharing {
            Sharing::Private => free(&dir).map_err(failed)?,
            Sharing::Shared => (0, wait(&dir, alone, &key.id, interrupt)?),
            Sharing::Locked => (0, wait(&dir, true, &key.id, interrupt)?),
        };
        let path = dir.join(slot.to_string());
        // Two who share a cache may both find it missing.
        let making = File::create(dir.join("making.lock")).map_err(failed)?;
        making.lock().map_err(failed)?;
        if !path.exists() {
            let new = dir.join(format!("{slot}.new"));
            if new.exists() {
                std::fs::remove_dir_all(&new).map_err(failed)?;
            }
            make(&new, key).map_err(failed)?;
            fill(&new)?;
            std::fs::rename(&new, &path).map_err(failed)?;
        }
        Ok(CacheDir { key: key.clone(), path, lock: Arc::new(Held(lock)) })
    }
}

impl CacheStore {
    /// Holds the cache in `dir` together with those who share it; nothing where somebody has it alone.
    ///
    /// # Errors
    /// Its lock cannot be opened.
    pub fn hold(dir: &Path) -> io::Result<Option<CacheHold>> {
        let lock = File::create(dir.with_extension("lock"))?;
        match lock.try_lock_shared() {
            Ok(()) => Ok(Some(CacheHold(Held(lock)))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl CacheDir {
    /// The same once more, under the same lock.
    #[must_use]
    pub fn again(&self) -> Self {
        Self { key: self.key.clone(), path: self.path.clone(), lock: Arc::clone(&self.lock) }
    }

    /// Lets others use the cache while this one has a copy of it.
    pub(super) fn release(&self) -> io::Result<()> {
        self.lock.0.unlock()
    }

    /// Waits until nobody else uses the cache.
    pub(super) fn reclaim(&self, interrupt: &Interrupt) -> Result<(), CacheError> {
        let id = &self.key.id;
        let failed = |source| CacheError::Io { id: id.clone(), path: self.path.clone(), source };
        let lock = self.lock.0.try_clone().map_err(failed)?;
        take(lock, true, id, &self.path, interrupt).map(drop)
    }
}

fn make(path: &Path, key: &CacheKey) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir(path)?;
    let mode = std::fs::Permissions::from_mode(key.mode.unwrap_or(0o755) & 0o7777);
    let (uid, gid) = key.owner.unwrap_or((0, 0));
    std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
    std::fs::set_permissions(path, mode)
}

/// The first that nobody uses.
fn free(dir: &Path) -> io::Result<(usize, File)> {
    let mut slot = 0;
    loop {
        let lock = File::create(dir.join(format!("{slot}.lock")))?;
        match lock.try_lock() {
            Ok(()) => return Ok((slot, lock)),
            Err(TryLockError::WouldBlock) => slot += 1,
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Takes the lock of the only one.
fn wait(dir: &Path, alone: bool, id: &str, interrupt: &Interrupt) -> Result<File, CacheError> {
    let path = dir.join("0.lock");
    let failed = |source| CacheError::Io { id: id.to_owned(), path: path.clone(), source };
    take(File::create(&path).map_err(failed)?, alone, id, &path, interrupt)
}

/// Takes a lock, and says so where that takes waiting.
fn take(
    lock: File,
    alone: bool,
    id: &str,
    path: &Path,
    interrupt: &Interrupt,
) -> Result<File, CacheError> {
    let (id, path) = (id.to_owned(), path.to_owned());
    let tried = if alone { lock.try_lock() } else { lock.try_lock_shared() };
    match tried {
        Ok(()) => return Ok(lock),
        Err(TryLockError::Error(source)) => return Err(CacheError::Io { id, path, source }),
        Err(TryLockError::WouldBlock) => {}
    }
    tracing::info!("Waiting for the cache {id:?}, which another step or build uses");
    let (sender, receiver) = channel();
    let ended = sender.clone();
    interrupt.also(move || drop(ended.send(Err(CacheError::Interrupted))));
    // flock(2) cannot be called off: where the build ends, the thread ends with the process.
    let waiting = move || {
        let locked = if alone { lock.lock() } else { lock.lock_shared() };
        let locked = locked.map(|()| lock);
        drop(sender.send(locked.map_err(|source| CacheError::Io { id, path, source })));
    };
    std::thread::Builder::new().name("cache-lock".to_owned()).spawn(waiting).map_err(|source| {
        CacheError::Io { id: "a thread".to_owned(), path: PathBuf::new(), source }
    })?;
    receiver.recv().unwrap_or(Err(CacheError::Interrupted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> CacheKey {
        CacheKey { id: id.to_owned(), from: None, mode: None, owner: None }
    }

    fn open(store: &CacheStore, key: &CacheKey, sharing: Sharing) -> CacheDir {
        store
            .open(key, sharing, false, &Interrupt::new(), |_| Ok::<_, CacheError>(()))
            .expect("a cache")
    }

    #[test]
    fn every_part_of_a_key_counts() {
        let all = [
            key("a"),
            key("b"),
            CacheKey { from: Some("x".to_owned()), ..key("a") },
            CacheKey { mode: Some(0o700), ..key("a") },
            CacheKey { owner: Some((1, 0)), ..key("a") },
            key("a\"\nfrom Some(\"x\")"),
        ];
        let names: std::collections::BTreeSet<String> = all.iter().map(CacheKey::name).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn who_gets_which_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = CacheStore::new(dir.path());
        let (a, b) = (key("a"), key("b"));
        let first = open(&store, &a, Sharing::Shared);
        let second = open(&store, &a, Sharing::Shared);
        assert_eq!(first.path, second.path);
        let other = open(&store, &b, Sharing::Locked);
        assert_ne!(other.path, first.path);
        let private = open(&store, &a, Sharing::Private);
        assert_ne!(private.path, first.path);
        let further = open(&store, &a, Sharing::Private);
        assert_ne!(further.path, private.path);
        drop((first, second));
        assert_eq!(open(&store, &a, Sharing::Private).path.file_name(), Some("0".as_ref()));
    }

    #[test]
    fn a_locked_cache_waits_for_its_user_or_for_the_end_of_the_build() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = CacheStore::new(dir.path());
        let held = open(&store, &key("a"), Sharing::Locked);
        let interrupt = Interrupt::new();
        interrupt.trigger();
        let nothing = |_: &Path| Ok::<_, CacheError>(());
        let refused = store.open(&key("a"), Sharing::Locked, false, &interrupt, nothing);
        assert!(matches!(refused, Err(CacheError::Interrupted)), "{refused:?}");
        let (sender, receiver) = channel();
        let waiting = std::thread::spawn(move || {
            let opened = open(&store, &key("a"), Sharing::Locked);
            sender.send(()).expect("somebody listens");
            opened
        });
        assert!(receiver.try_recv().is_err());
        std::fs::write(held.path.join("file"), "1").expect("written");
        drop(held);
        let opened = waiting.join().expect("it ends");
        assert_eq!(std::fs::read(opened.path.join("file")).expect("it is there"), b"1");
    }

    #[test]
    fn a_new_cache_is_seen_only_when_it_is_filled() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = CacheStore::new(dir.path());
        let interrupt = Interrupt::new();
        let fails = |_: &Path| Err(CacheError::Interrupted);
        assert!(store.open(&key("a"), Sharing::Shared, false, &interrupt, fails).is_err());
        let fills = |path: &Path| {
            std::fs::write(path.join("file"), "1").expect("written");
            Ok::<_, CacheError>(())
        };
        let opened = store.open(&key("a"), Sharing::Shared, false, &interrupt, fills);
        assert!(opened.expect("a cache").path.join("file").exists());
    }
}
