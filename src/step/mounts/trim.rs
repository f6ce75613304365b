//! Keeps the caches of `RUN --mount=type=cache` below a limit.
//!
//! What goes is the content of a whole cache, the one that was not used for longest first: what is in it
//! is a program's own, and half of it may be worth nothing. Directories and locks stay where they are, so
//! whoever waits for a cache finds it empty, as a new one. One that somebody uses stays.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::cache::{CacheStore, Held};

/// What the name of a directory begins with that is being removed.
const GONE: &str = ".gone-";

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// How many caches.
    pub caches: usize,
    /// How many bytes they had.
    pub bytes: u64,
}

/// A cache of this machine, as lists and people see it.
#[derive(Debug)]
pub struct StoredCache {
    /// What tells it from others, a line for each part.
    pub key: String,
    slot: Slot,
}

impl StoredCache {
    /// What its directory is called, and the number of the copy that this is.
    #[must_use]
    pub fn name(&self) -> (String, &str) {
        let name = self.slot.dir.file_name().unwrap_or_default();
        (name.to_string_lossy().into_owned(), &self.slot.name)
    }

    /// What it takes on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.slot.bytes
    }

    /// When a step used it last.
    #[must_use]
    pub fn used(&self) -> SystemTime {
        self.slot.used
    }

    /// Removes its content, unless somebody uses it; whether it went.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self) -> io::Result<bool> {
        self.slot.remove()
    }
}

/// One directory that steps see.
#[derive(Debug)]
struct Slot {
    used: SystemTime,
    bytes: u64,
    /// Of the cache.
    dir: PathBuf,
    /// Its name there.
    name: String,
}

impl CacheStore {
    /// Removes what was not used for longest until the rest takes no more than `limit` bytes on disk.
    ///
    /// # Errors
    /// The directory cannot be read, or something in it cannot be removed.
    pub fn trim(&self, limit: u64) -> io::Result<Trimmed> {
        let mut slots = self.slots()?;
        slots.sort_by(|a, b| a.used.cmp(&b.used).then_with(|| a.dir.cmp(&b.dir)));
        let mut left: u64 = slots.iter().map(|slot| slot.bytes).sum();
        let mut trimmed = Trimmed::default();
        for slot in slots {
            if left <= limit {
                break;
            }
            if slot.remove()? {
                left -= slot.bytes;
                trimmed.caches += 1;
                trimmed.bytes += slot.bytes;
            }
        }
        Ok(trimmed)
    }

    /// All caches, those that were used last first.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> io::Result<Vec<StoredCache>> {
        let mut slots = self.slots()?;
        slots.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.dir.cmp(&b.dir)));
        let stored = slots.into_iter().map(|slot| {
            let key = fs::read_to_string(slot.dir.join("key")).unwrap_or_default();
            StoredCache { key, slot }
        });
        Ok(stored.collect())
    }

    fn slots(&self) -> io::Result<Vec<Slot>> {
        let mut slots = Vec::new();
        let caches = match fs::read_dir(self.dir()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(slots),
            caches => caches?,
        };
        for cache in caches {
            let dir = cache?.path();
            // It is written anew by whoever opens the cache.
            let Ok(used) = fs::metadata(dir.join("key")).and_then(|it| it.modified()) else {
                continue;
            };
            for entry in fs::read_dir(&dir)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                if name.starts_with(GONE) {
                    // Somebody was killed, or is about to be done.
                    drop(fs::remove_dir_all(dir.join(&name)));
                } else if name.bytes().all(|byte| byte.is_ascii_digit()) {
                    let bytes = size(&dir.join(&name))?;
                    slots.push(Slot { used, bytes, dir: dir.clone(), name });
                }
            }
        }
        Ok(slots)
    }
}

impl Slot {
    /// Removes the content, unless somebody uses it.
    fn remove(&self) -> io::Result<bool> {
        let lock = File::create(self.dir.join(format!("{}.lock", self.name)))?;
        if lock.try_lock().is_err() {
            return Ok(false);
        }
        let _lock = Held(lock);
        let gone = tempfile::Builder::new().prefix(GONE).tempdir_in(&self.dir)?;
        match fs::rename(self.dir.join(&self.name), gone.path().join("content")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            renamed => renamed.and_then(|()| gone.close()).map(|()| true),
        }
    }
}

/// What a tree takes on disk. What goes while it is looked at takes nothing.
fn size(path: &Path) -> io::Result<u64> {
    let (mut bytes, mut waiting) = (0, vec![path.to_owned()]);
    while let Some(path) = waiting.pop() {
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
            Ok(found) => {
                bytes += found.blocks() * 512;
                if found.is_dir() {
                    for entry in fs::read_dir(&path)? {
                        waiting.push(entry?.path());
                    }
                }
            }
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tracer::Interrupt;

    use super::super::cache::{CacheDir, CacheError, CacheKey};
    use super::*;
    use crate::dockerfile::Sharing;

    fn open(store: &CacheStore, id: &str) -> CacheDir {
        let key = CacheKey { id: id.to_owned(), from: None, mode: None, owner: None };
        let nothing = |_: &Path| Ok::<_, CacheError>(());
        store.open(&key, Sharing::Shared, false, &Interrupt::new(), nothing).expect("a cache")
    }

    /// A cache of so many bytes, last used so many seconds after 1970.
    fn filled(store: &CacheStore, id: &str, bytes: usize, used: u64) -> PathBuf {
        let cache = open(store, id);
        fs::create_dir(cache.path.join("d")).expect("made");
        fs::write(cache.path.join("d/file"), vec![1; bytes]).expect("written");
        let key = cache.path.with_file_name("key");
        let key = File::options().write(true).open(key).expect("its key");
        key.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(used)).expect("set");
        cache.path.join("d/file")
    }

    #[test]
    fn what_was_not_used_for_longest_goes_and_what_is_used_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = CacheStore::new(dir.path());
        assert_eq!(store.trim(0).expect("trimmed"), Trimmed::default(), "none yet");
        let files =
            [("a", 30), ("b", 10), ("c", 20)].map(|(id, used)| filled(&store, id, 1_000_000, used));
        let there = || files.each_ref().map(|file| file.exists());
        assert_eq!(store.trim(4_000_000).expect("trimmed"), Trimmed::default(), "below it");
        let trimmed = store.trim(2_500_000).expect("trimmed");
        assert_eq!((trimmed.caches, there()), (1, [true, false, true]));
        // The older of the two is in use, and stays.
        let held = open(&store, "c");
        File::options()
            .write(true)
            .open(held.path.with_file_name("key"))
            .and_then(|key| key.set_modified(SystemTime::UNIX_EPOCH))
            .expect("set");
        assert_eq!(store.trim(0).expect("trimmed").caches, 1);
        assert_eq!(there(), [false, false, true]);
        drop(held);
        store.trim(0).expect("trimmed");
        assert_eq!(there(), [false; 3]);
        assert!(open(&store, "a").path.is_dir(), "a new one in its place");
    }
}
