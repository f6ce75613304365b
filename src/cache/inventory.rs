//! What is in a cache, for people who want to see it, explain it or make room.
//!
//! Caches of mounts are entries, too, where builds share them by way of a repository, and so are notes
//! of what was pushed.
//! Only entries are ever named or removed: a layout or a repository may hold
//! other images, too, and those are counted and left alone.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use thiserror::Error;

use super::mount_image::{self, MountImage};
use super::pushed::{self, PushNote};
use super::{Entry, Layout, LayoutError, Miss, Place, Record};
use crate::image::{Digest, Manifest, Platform, Repository};
use crate::plan::Key;
use crate::registry::{Registry, RegistryError};

/// Why a cache could not be looked at, or made smaller.
#[derive(Debug, Error)]
pub enum InventoryError {
    /// The registry did not do it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The directory could not be read or written.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// What an entry is.
#[derive(Debug)]
pub enum Content {
    /// The layer of a step.
    Layer(Box<Entry>),
    /// A cache of mounts.
    Mount(MountImage),
    /// Which image a repository was given last.
    Pushed(PushNote),
}

impl Content {
    /// When it was made, in seconds since 1970.
    #[must_use]
    pub fn created_seconds(&self) -> i64 {
        match self {
            Self::Layer(entry) => entry.created_seconds,
            Self::Mount(mount) => mount.created_seconds,
            Self::Pushed(note) => note.created_seconds,
        }
    }
}

/// One entry of a cache.
#[derive(Debug)]
pub struct Kept {
    /// Its name.
    pub key: Key,
    /// Its tag, which is the name or ends with it.
    pub tag: String,
    /// Its manifest.
    pub manifest: Digest,
    /// What its blobs take.
    pub bytes: u64,
    /// When it was used last, in seconds since 1970; only directories know.
    pub used: Option<i64>,
    /// What it is, or why no build can use it.
    pub entry: Result<Content, String>,
}

impl Kept {
    /// When somebody last had to do with it, in seconds since 1970, as far as that is known.
    #[must_use]
    pub fn last_seen(&self) -> Option<i64> {
        let made = self.entry.as_ref().ok().map(Content::created_seconds);
        self.used.or(made)
    }
}

/// All entries of a cache, those that were used or made last first.
#[derive(Debug, Default)]
pub struct Inventory {
    /// The entries.
    pub entries: Vec<Kept>,
    /// What all of them take together.
    pub bytes: u64,
    /// How many other images there are.
    pub others: usize,
}

/// Which entries are to go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pruning {
    /// All.
    pub all: bool,
    /// Those that were not used for so long, or made so long ago where nobody knows of their use.
    pub older_than: Option<Duration>,
    /// Those that were not used for longest, until the rest takes no more than this.
    pub keep: Option<u64>,
}

impl Inventory {
    fn of(mut entries: Vec<Kept>, others: usize) -> Self {
        entries.sort_by_key(|kept| (Reverse(kept.last_seen()), kept.key));
        let bytes = entries.iter().map(|kept| kept.bytes).sum();
        Self { entries, bytes, others }
    }

    /// The entries that go. What cannot be read, and has no known age, goes only with all others.
    #[must_use]
    pub fn chosen(&self, pruning: &Pruning, now: i64) -> Vec<&Kept> {
        let mut kept_bytes = 0_u64;
        let mut goes = |kept: &Kept| {
            let age = kept.last_seen().map(|seen| now.saturating_sub(seen));
            let oldest = pruning.older_than.and_then(|it| i64::try_from(it.as_secs()).ok());
            if pruning.all || age.zip(oldest).is_some_and(|(age, oldest)| age >= oldest) {
                return true;
            }
            kept_bytes = kept_bytes.saturating_add(kept.bytes);
            pruning.keep.is_some_and(|most| kept_bytes > most)
        };
        self.entries.iter().filter(|kept| goes(kept)).collect()
    }

    /// The entries whose keys begin so.
    #[must_use]
    pub fn called(&self, start: &str) -> Vec<&Kept> {
        self.entries.iter().filter(|kept| kept.key.to_string().starts_with(start)).collect()
    }
}

impl Place {
    /// Everything that is there.
    ///
    /// # Errors
    /// It cannot be listed. What is wrong with a single entry is told with it.
    pub fn inventory(&self, registry: &Registry) -> Result<Inventory, InventoryError> {
        match self {
            Self::Registry(repository) => self.in_registry(repository, registry),
            Self::Layout(layout) => self.in_layout(layout),
        }
    }

    fn in_registry(
        &self,
        repository: &Repository,
        registry: &Registry,
    ) -> Result<Inventory, InventoryError> {
        let tags = registry.tags(repository)?;
        let others = tags.iter().filter(|tag| !is_ours(tag)).count();
        let tags: Vec<String> = tags.into_iter().filter(|tag| key_in(tag).is_some()).collect();
        let answers = self.of_tags(registry, Duration::MAX, &tags);
        let entries = tags.into_iter().zip(answers).filter_map(|(tag, answer)| match answer {
            Ok(manifest) => self.kept(tag, &manifest?, None),
            Err(Miss::Unusable(why)) => unreadable(tag, Digest::of(b""), None, why),
            Err(Miss::Absent | Miss::Expired(_) | Miss::Other | Miss::Late) => None,
        });
        Ok(Inventory::of(entries.collect(), others))
    }

    fn in_layout(&self, layout: &Layout) -> Result<Inventory, InventoryError> {
        let listed = layout.list()?;
        let others = listed.iter().filter(|it| !is_ours(&it.tag)).count();
        let mut entries = Vec::new();
        for one in listed {
            let used = seconds(one.used);
            entries.extend(match layout.manifest(&one.descriptor) {
                Ok(manifest) => self.kept(one.tag, &manifest, used),
                Err(error) => unreadable(one.tag, one.descriptor.digest, used, error.to_string()),
            });
        }
        Ok(Inventory::of(entries, others))
    }

    /// The entry of this tag, if it is that of one.
    fn kept(&self, tag: String, manifest: &Manifest, used: Option<i64>) -> Option<Kept> {
        let key = key_in(&tag)?;
        let layers: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
        let bytes = layers + manifest.config.size + manifest.raw.len() as u64;
        let entry = if mount_image::key_of(&tag).is_some() {
            let said = MountImage::read(&tag, &manifest.annotations);
            said.map(Content::Mount).map_err(|error| error.to_string())
        } else if pushed::key_of(&tag).is_some() {
            let said = PushNote::read(&tag, &manifest.annotations);
            said.map(Content::Pushed).map_err(|error| error.to_string())
        } else {
            let entry = Entry::read(key, manifest, self.blob()).map_err(|error| error.to_string());
            entry.and_then(|entry| {
                self.check_layer(&entry.layer)?;
                Ok(Content::Layer(Box::new(entry)))
            })
        };
        Some(Kept { key, tag, manifest: manifest.digest(), bytes, used, entry })
    }

    /// What an entry was made of, if it tells.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn record(
        &self,
        registry: &Registry,
        key: Key,
        platform: &Platform,
    ) -> Result<Option<Record>, String> {
        self.image(registry, Duration::MAX, &key.to_string(), platform)
            .map(|image| Record::read(&image))
    }

    /// The key of the last entry of the same step.
    #[must_use]
    pub fn last_of(
        &self,
        registry: &Registry,
        record: &Record,
        platform: &Platform,
    ) -> Option<Key> {
        let image = self.image(registry, Duration::MAX, &record.last_tag(), platform).ok()?;
        Entry::key_of(&image)
    }

    /// Removes these entries; answers how many went.
    ///
    /// # Errors
    /// The first one that could not be removed, after all were tried.
    pub fn remove(&self, registry: &Registry, entries: &[&Kept]) -> Result<usize, InventoryError> {
        let manifests: BTreeSet<Digest> = entries.iter().map(|kept| kept.manifest).collect();
        match self {
            Self::Registry(repository) => {
                let manifests: Vec<Digest> = manifests.into_iter().collect();
                let mut gone = 0;
                for answer in registry.delete(repository, &manifests) {
                    gone += usize::from(answer?);
                }
                Ok(gone)
            }
            Self::Layout(layout) => {
                let keys: BTreeMap<String, Digest> =
                    entries.iter().map(|kept| (kept.tag.clone(), kept.manifest)).collect();
                Ok(layout.remove(|tag, manifest| {
                    keys.get(tag) == Some(&manifest)
                        || is_further(tag) && manifests.contains(&manifest)
                })?)
            }
        }
    }
}

fn unreadable(tag: String, manifest: Digest, used: Option<i64>, why: String) -> Option<Kept> {
    let key = key_in(&tag)?;
    Some(Kept { key, tag, manifest, bytes: 0, used, entry: Err(why) })
}

/// The name in the tag of an entry.
fn key_in(tag: &str) -> Option<Key> {
    Key::parse(tag).or_else(|| mount_image::key_of(tag)).or_else(|| pushed::key_of(tag))
}

/// Whether a tag is that of an entry.
pub(super) fn is_ours(tag: &str) -> bool {
    key_in(tag).is_some() || is_further(tag)
}

/// Whether a tag says which entry of a step or command was written last.
fn is_further(tag: &str) -> bool {
    let hex = tag.strip_prefix(super::entry::LAST).or(tag.strip_prefix(super::entry::READS));
    hex.is_some_and(|hex| Key::parse(hex).is_some())
}

fn seconds(time: SystemTime) -> Option<i64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    i64::try_from(since.as_secs()).ok().filter(|seconds| *seconds > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(name: u8, bytes: u64, used: Option<i64>) -> Kept {
        let manifest = Digest::of(&[name]);
        let key = Key::parse(&manifest.hex()).expect("a digest is a key");
        let tag = key.to_string();
        Kept { key, tag, manifest, bytes, used, entry: Err("cut off".to_owned()) }
    }

    #[test]
    fn what_goes_and_what_stays() {
        let entries = || {
            vec![
                kept(1, 10, Some(100)),
                kept(2, 20, Some(300)),
                kept(3, 5, Some(200)),
                kept(4, 1, None),
            ]
        };
        let sorted = Inventory::of(entries(), 7);
        assert_eq!((sorted.bytes, sorted.others), (36, 7));
        let nothing = Pruning::default();
        let hour = |seconds| Some(Duration::from_secs(seconds));
        for (case, pruning, want) in [
            ("nothing", nothing, &[][..]),
            ("all", Pruning { all: true, ..nothing }, &[20, 5, 10, 1]),
            ("by age", Pruning { older_than: hour(150), ..nothing }, &[5, 10]),
            ("of no age", Pruning { older_than: hour(0), ..nothing }, &[20, 5, 10]),
            ("by size", Pruning { keep: Some(25), ..nothing }, &[10, 1]),
            ("by size, exactly", Pruning { keep: Some(36), ..nothing }, &[]),
            (
                "what goes by age makes room",
                Pruning { older_than: hour(250), keep: Some(26), ..nothing },
                &[10],
            ),
        ] {
            let chosen: Vec<u64> =
                sorted.chosen(&pruning, 350).iter().map(|kept| kept.bytes).collect();
            assert_eq!(chosen, want, "{case}");
        }
    }

    #[test]
    fn what_is_no_entry_is_told_by_its_tag() {
        let hex = Digest::of(b"").hex();
        for (tag, want) in [
            (format!("last-{hex}"), true),
            (format!("reads-{hex}"), true),
            (hex, false),
            ("last-week".to_owned(), false),
            ("latest".to_owned(), false),
        ] {
            assert_eq!(is_further(&tag), want, "{tag}");
        }
    }
}
