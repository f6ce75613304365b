//! Layers of earlier builds, by what they depended on.
//!
//! # The promise
//!
//! A hit is a layer that a step with the same inputs made, after the same
//! outcome of the steps before it ([`Lineage`]): layers of two executions are
//! never mixed unless those came out the same. Whatever is wrong with an entry
//! (damaged, cut off, too old, written by another version, gone between look-up
//! and use) makes it a miss and a warning; nothing about a cache ends a build.
//!
//! There is no coordination between builders but what the store offers: an
//! entry is whole or not there, and the last writer of a key wins.

mod bases;
mod entry;
mod inventory;
mod layout;
mod lineage;
mod mount_image;
mod place;
mod pushed;
mod reads;
mod statement;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::image::{Digest, Image, ImageLayer, Platform};
use crate::plan::Key;
use crate::registry::{PendingUpload, Registry};

pub use bases::{Bases, BasesError, Warm};
pub use entry::{Entry, Record};
pub use inventory::{Content, Inventory, InventoryError, Kept, Pruning};
pub use layout::{Layout, LayoutError};
pub use lineage::{Lineage, outcome};
pub use mount_image::{MountImage, tag as mount_tag};
pub use place::{Place, PlaceError, parse_size};
pub use pushed::PushNote;
pub use reads::{Before, NoReadSet, ReadSet};
pub use statement::UnusableEntry;

/// How the cache is used.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where entries are.
    pub place: Place,
    /// How old they may be.
    pub ttl: Duration,
    /// Whether RUN and WORKDIR are cached.
    pub run_layers: bool,
    /// Whether COPY and ADD are.
    pub copy_layers: bool,
    /// Whether new entries are written.
    pub push: bool,
    /// Whether RUN is also found by what it read.
    pub by_reads: bool,
    /// The time, in seconds since 1970.
    pub now: i64,
    /// How long a build waits in all for answers about entries.
    pub wait: Duration,
    /// Base images on this machine.
    pub bases: Option<Bases>,
}

/// Why there is no layer to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// There is no entry.
    Absent,
    /// There is one, made at this time.
    Expired(String),
    /// There is one that was made after another outcome of an earlier command.
    Other,
    /// There is one that cannot be used, or the store did not answer.
    Unusable(String),
    /// The store did not answer in time.
    Late,
}

/// The cache of one build, for several stages at the same time.
pub struct Cache<'a> {
    settings: &'a Settings,
    registry: &'a Registry,
    /// Where bytes lie that are sent on.
    blobs: PathBuf,
    looked_up: Mutex<HashMap<Key, Result<Entry, Miss>>>,
    /// Which entry a layer came from.
    used: Mutex<BTreeMap<Digest, Key>>,
    lost: Mutex<BTreeSet<Key>>,
    /// Entries of a command, the newest first, by its name whatever came before it.
    by_reads: Mutex<HashMap<Key, Vec<Key>>>,
    pending: Mutex<Vec<Pending>>,
    /// How long answers may still be waited for.
    left: Mutex<Duration>,
    notes: pushed::Notes,
}

/// An entry on its way.
enum Pending {
    Upload(Key, PendingUpload),
    Copy(Key, JoinHandle<Result<(), LayoutError>>),
}

/// A layer that was made, and what is to be remembered of it.
#[derive(Debug)]
pub struct Made<'m> {
    /// What it depended on.
    pub key: Key,
    /// What came before it.
    pub before: Lineage,
    /// What it depended on by the content of what was copied, and what came before it then.
    pub by_content: Option<(Key, Lineage)>,
    /// When it was made, in seconds since 1970.
    pub created: i64,
    /// What came out, but for times.
    pub outcome: Digest,
    /// The layer.
    pub layer: &'m ImageLayer,
    /// For explanations.
    pub record: Record,
    /// What it read.
    pub reads: Option<&'m ReadSet>,
    /// The name of the command whatever came before it, and older entries of it, the newest first.
    pub read_as: Option<(Key, Vec<Key>)>,
}

/// As many entries of one command are tried by what it read.
const MOST_BY_READS: usize = 8;

impl<'a> Cache<'a> {
    /// A cache of which nothing is known yet.
    #[must_use]
    pub fn new(settings: &'a Settings, registry: &'a Registry, blobs: PathBuf) -> Self {
        let (looked_up, used, lost) = (Mutex::default(), Mutex::default(), Mutex::default());
        let (by_reads, pending) = (Mutex::default(), Mutex::default());
        let (left, notes) = (Mutex::new(settings.wait), pushed::Notes::default());
        Self { settings, registry, blobs, looked_up, used, lost, by_reads, pending, left, notes }
    }

    /// How it is used.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        self.settings
    }

    /// Looks up all of these at once; those that were looked up before are not asked for again.
    pub fn look_up(&self, keys: &[Key]) {
        let new: BTreeSet<Key> =
            keys.iter().filter(|key| !locked(&self.looked_up).contains_key(key)).copied().collect();
        let new: Vec<Key> = new.into_iter().collect();
        let place = &self.settings.place;
        let answers = self.in_time(|limit| place.manifests(self.registry, limit, &new));
        for (key, answer) in new.into_iter().zip(answers) {
            let found = answer.and_then(|manifest| self.checked(key, manifest.as_ref()));
            if let Err(Miss::Unusable(why)) = &found {
                tracing::warn!("cache entry {key} is not used: {why}");
            }
            locked(&self.looked_up).insert(key, found);
        }
    }

    /// Asks for something while there is time left for that. Once there is none, the build goes on
    /// without a cache that does not answer.
    fn in_time<T>(&self, ask: impl FnOnce(Duration) -> T) -> T {
        let (left, started) = (*locked(&self.left), Instant::now());
        let answer = ask(left);
        // Whoever waits beside somebody else takes from it, too.
        let mut then = locked(&self.left);
        let before = *then;
        *then = before.saturating_sub(started.elapsed());
        if then.is_zero() && !before.is_zero() {
            let waited = self.settings.wait.as_secs_f32();
            tracing::warn!(
                "the answers of the cache took {waited} s: the build goes on without it (--cache-timeout)"
            );
        }
        answer
    }

    /// Whether it took too long to answer.
    fn is_late(&self) -> bool {
        locked(&self.left).is_zero()
    }

    fn checked(&self, key: Key, manifest: Option<&crate::image::Manifest>) -> Result<Entry, Miss> {
        let manifest = manifest.ok_or(Miss::Absent)?;
        let entry = Entry::read(key, manifest, self.settings.place.blob())
            .map_err(|error| Miss::Unusable(error.to_string()))?;
        let age = self.settings.now.saturating_sub(entry.created_seconds);
        if age >= i64::try_from(self.settings.ttl.as_secs()).unwrap_or(i64::MAX) {
            return Err(Miss::Expired(entry.created));
        }
        self.settings.place.check_layer(&entry.layer).map_err(Miss::Unusable)?;
        Ok(entry)
    }

    /// What was found under this key. Whoever takes the layer says so with [`Cache::take`].
    pub fn found(&self, key: Key) -> Result<Entry, Miss> {
        if locked(&self.lost).contains(&key) {
            return Err(Miss::Unusable("its layer could not be read".to_owned()));
        }
        locked(&self.looked_up).get(&key).cloned().unwrap_or(Err(Miss::Absent))
    }

    /// Looks up, all at once, the entries of commands that are named whatever came before them.
    pub fn look_up_by_reads(&self, commands: &[Key]) {
        let new: BTreeSet<Key> = commands
            .iter()
            .filter(|key| !locked(&self.by_reads).contains_key(key))
            .copied()
            .collect();
        let new: Vec<Key> = new.into_iter().collect();
        let place = &self.settings.place;
        let answers = self.in_time(|limit| place.last_by_reads(self.registry, limit, &new));
        for (command, answer) in new.into_iter().zip(answers) {
            let manifest = answer.ok().flatten();
            let mut keys = manifest.as_ref().map_or_else(Vec::new, Entry::keys_of);
            keys.truncate(MOST_BY_READS);
            if let (Some(first), Some(_)) = (keys.first().copied(), &manifest) {
                let found = self.checked(first, manifest.as_ref());
                locked(&self.looked_up).entry(first).or_insert(found);
            }
            locked(&self.by_reads).insert(command, keys);
        }
    }

    /// The entries of a command that was looked up so, the newest first.
    pub fn by_reads(&self, command: Key) -> Vec<Key> {
        locked(&self.by_reads).get(&command).cloned().unwrap_or_default()
    }

    /// What the command of an entry read.
    pub fn read_set(&self, key: Key, platform: &Platform) -> Option<ReadSet> {
        let (place, tag) = (&self.settings.place, key.to_string());
        match self.in_time(|limit| place.image(self.registry, limit, &tag, platform)) {
            Ok(image) => ReadSet::read(&image),
            Err(why) => {
                tracing::debug!("cache entry {key}: {why}");
                None
            }
        }
    }

    /// Notes that the layer of an entry is used.
    pub fn take(&self, entry: &Entry) {
        locked(&self.used).insert(entry.layer.descriptor.digest, entry.key);
        self.settings.place.touch(entry.key);
    }

    /// Notes that a layer could not be read; tells whether it came from here. The build has to begin
    /// anew then, and will not find the entry again.
    pub fn lose(&self, layer: Digest, why: &str) -> bool {
        let Some(key) = locked(&self.used).get(&layer).copied() else { return false };
        if locked(&self.lost).insert(key) {
            tracing::warn!("cache entry {key} is not used: {why}");
        }
        true
    }

    /// Reads the layers that were used to their end, and notes those that cannot be read.
    pub fn verify_used(&self) {
        let used = locked(&self.used).clone();
        for (digest, key) in used {
            let Some(Ok(entry)) = locked(&self.looked_up).get(&key).cloned() else { continue };
            if let Err(error) = self.registry.fetch(&entry.layer, &self.blobs).wait() {
                self.lose(digest, &error.to_string());
            }
        }
    }

    /// How many entries turned out to be unusable after they were taken.
    #[must_use]
    pub fn lost(&self) -> usize {
        locked(&self.lost).len()
    }

    /// Forgets which layers are used: the build begins anew.
    pub fn begin_anew(&self) {
        locked(&self.used).clear();
    }

    /// Writes an entry beside the build.
    pub fn put(&self, made: &Made<'_>, platform: &Platform) {
        if !self.settings.push || self.is_late() {
            return;
        }
        let image = match entry::image(made, platform) {
            Ok(image) => image,
            Err(error) => {
                tracing::warn!("the layer is not cached: {error}");
                return;
            }
        };
        let other = made.by_content.map(|(key, _)| key.to_string());
        let tags = [made.key.to_string()].into_iter().chain(other);
        let command =
            made.read_as.as_ref().map(|(command, _)| format!("{}{command}", entry::READS));
        let tags: Vec<String> = tags.chain([made.record.last_tag()]).chain(command).collect();
        let pending = self.start(made.key, image, tags);
        locked(&self.pending).push(pending);
    }

    fn start(&self, key: Key, image: Image, tags: Vec<String>) -> Pending {
        match &self.settings.place {
            Place::Registry(repository) => {
                let names: Vec<_> = tags
                    .iter()
                    .filter_map(|tag| format!("{repository}:{tag}").parse().ok())
                    .collect();
                Pending::Upload(key, self.registry.start_push(&image, &names, &self.blobs))
            }
            Place::Layout(layout) => {
                let layout = layout.clone();
                Pending::Copy(key, std::thread::spawn(move || layout.put(&image, &tags)))
            }
        }
    }

    /// What the last entry of the same step depended on.
    #[must_use]
    pub fn last(&self, record: &Record, platform: &Platform) -> Option<Record> {
        let (place, tag) = (&self.settings.place, record.last_tag());
        match self.in_time(|limit| place.image(self.registry, limit, &tag, platform)) {
            Ok(image) => Record::read(&image),
            Err(why) => {
                tracing::debug!("nothing is known of an earlier {}: {why}", record.step);
                None
            }
        }
    }

    /// Waits for the entries that are on their way.
    pub fn finish(&self) {
        for pending in locked(&self.pending).drain(..) {
            let (key, result) = match pending {
                Pending::Upload(key, upload) => (key, upload.wait().map_err(|e| e.to_string())),
                Pending::Copy(key, copy) => {
                    let copied = copy.join().expect("copying does not panic");
                    (key, copied.map_err(|error| error.to_string()))
                }
            };
            match result {
                Ok(()) => tracing::debug!("cached {key}"),
                Err(why) => tracing::warn!("cache entry {key} could not be written: {why}"),
            }
        }
    }
}

/// What a lock keeps. Whoever panics while it holds one ends the build.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
