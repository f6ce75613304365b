//! Caches of mounts that builds on several machines share by way of a repository
//! (`--cache-mounts=registry`).
//!
//! A cache that this machine does not have is fetched when a step is about to use it. At the end of the
//! build, what the steps changed in it goes up as one more layer of its image, or, once too much of the
//! earlier layers is of no use any more, all of it as a first one. Nobody waits for anybody: the last to
//! write wins. A cache is a convenience, so nothing about this ends a build: what cannot be fetched is an
//! empty cache and a warning.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use snapshot::{Change, Difference, Entry, ImagePath, Index, Kind, Suspects};
use tracer::Interrupt;

use super::builder::Builder;
use super::layers::layer;
use super::once::locked;
use super::work::WorkDir;
use crate::cache::{MountImage, mount_tag};
use crate::image::{Flavor, Image, ImageLayer, Platform, Reference, Repository};
use crate::registry::{Registry, RegistryError};
use crate::report::{Explain as _, Failure, bytes};
use crate::rootfs::{Exclusions, Rootfs};
use crate::step::{CacheDir, CacheKey, CacheStore};

/// Past so many layers a cache is packed anew.
const MOST_LAYERS: usize = 16;

/// What layers may hold beyond twice the content of the cache, in bytes, before it is packed anew.
const SLACK: u64 = 16 << 20;

/// Level 3 is where zstd is fastest for its size.
const COMPRESSION: snapshot::Compression = snapshot::Compression::Zstd { level: 3 };

/// Where caches are shared, and how.
#[derive(Debug, Clone)]
pub struct SharedCaches {
    /// Their tags are here.
    pub repository: Repository,
    /// Whether they are written.
    pub push: bool,
    /// How long a build waits to be told what there is of one.
    pub wait: Duration,
    /// How large one may be, in bytes.
    pub limit: u64,
}

/// What a cache was when this build first met it.
pub(super) struct Begun {
    layers: Vec<ImageLayer>,
    /// What was in the files of each layer, in bytes.
    contents: Vec<u64>,
    /// What is in the image.
    index: Index,
}

/// A cache that this build uses.
struct Used {
    key: CacheKey,
    /// What came from the repository; nothing where the cache was here already, or is new.
    begun: Option<Begun>,
    /// What a cache was that was here already.
    here: Option<Index>,
    /// How many steps use it, or have failed with it.
    open: usize,
    /// Whether a step that used it in an earlier attempt of this build did not succeed.
    unsound: bool,
}

impl Used {
    /// Whether the last steps that used it succeeded.
    fn is_sound(&self) -> bool {
        self.open == 0 && !self.unsound
    }
}

/// The caches that this build uses.
#[derive(Default)]
pub(super) struct UsedCaches {
    /// By their directories.
    all: Mutex<BTreeMap<PathBuf, Used>>,
    /// Whether the repository did not answer in time: then nothing is sent there either.
    silent: AtomicBool,
}

impl UsedCaches {
    /// A step succeeded with these caches: what it left behind is worth sharing, unless another one is at it.
    pub(super) fn step_succeeded<'d>(&self, dirs: impl IntoIterator<Item = &'d PathBuf>) {
        let mut all = locked(&self.all);
        for dir in dirs {
            if let Some(used) = all.get_mut(dir) {
                used.open = used.open.saturating_sub(1);
                used.unsound &= used.open > 0;
            }
        }
    }

    /// The build begins anew: no step is at any of them.
    pub(super) fn begin_anew(&self) {
        for used in locked(&self.all).values_mut() {
            used.unsound |= std::mem::take(&mut used.open) > 0;
        }
    }
}

/// Where the content of a cache is from.
pub(super) enum Opened {
    /// It was here.
    Here,
    /// It is a new one.
    New,
    /// It came from the repository.
    Imported(Box<Begun>),
}

impl Builder<'_> {
    /// Fills the directory of a new cache with what the repository has of it.
    ///
    /// # Errors
    /// The directory is neither filled nor empty.
    pub(super) fn import(&self, key: &CacheKey, dir: &Path) -> Result<Opened, Failure> {
        let shared = self
            .order
            .mounts
            .shared
            .as_ref()
            .filter(|_| !self.caches.silent.load(Ordering::Relaxed));
        let Some(shared) = shared else { return Ok(Opened::New) };
        let (image, said) = match self.pull_cache(shared, key) {
            Ok(Some(pulled)) => pulled,
            Ok(None) => return Ok(Opened::New),
            Err(why) => {
                tracing::warn!("the cache {:?} begins empty: {why}", key.id);
                return Ok(Opened::New);
            }
        };
        self.images.prefetch(&image, &self.work.blobs());
        let unpacked = Rootfs::empty(dir)
            .could_not(|| format!("open {}", dir.display()))
            .and_then(|mut rootfs| self.unpack(image.layers(), &mut rootfs).map(|()| rootfs));
        self.images.forget(&image, &[]);
        match unpacked {
            Ok(rootfs) => {
                let (size, created) = (bytes(said.bytes), &said.created);
                tracing::info!(
                    "The cache {:?} of {created}, {size}, is from {}",
                    key.id,
                    shared.repository
                );
                let layers = image.layers().to_vec();
                let (contents, index) = (said.contents, rootfs.into_index());
                Ok(Opened::Imported(Box::new(Begun { layers, contents, index })))
            }
            Err(failure) => {
                let told = failure.to_string();
                let why = told.trim_start_matches("error: ");
                tracing::warn!("the cache {:?} begins empty: {why}", key.id);
                key.empty(dir).could_not(|| format!("empty the cache {:?}", key.id))?;
                Ok(Opened::New)
            }
        }
    }

    fn pull_cache(
        &self,
        shared: &SharedCaches,
        key: &CacheKey,
    ) -> Result<Option<(Image, MountImage)>, String> {
        let platform = &self.order.platform;
        let tag = mount_tag(&key.text(), platform);
        let name = reference(&shared.repository, &tag)?;
        let image = match self.registry.pull_within(shared.wait, &name, platform) {
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error @ RegistryError::Late(_)) => {
                self.caches.silent.store(true, Ordering::Relaxed);
                return Err(format!("{error}; no cache is shared by this build (--cache-timeout)"));
            }
            pulled => pulled.map_err(|error| error.to_string())?,
        };
        let said = MountImage::read(&tag, image.annotations()).map_err(|it| it.to_string())?;
        if said.contents.len() != image.layers().len() {
            return Err(format!("{name} does not say what is in each of its layers"));
        }
        Ok(Some((image, said)))
    }

    /// Notes that a step is about to change a cache.
    pub(super) fn use_cache(&self, dir: &CacheDir, opened: Opened) {
        if self.order.mounts.shared.is_none() {
            return;
        }
        if let (Opened::Here, Some(used)) = (&opened, locked(&self.caches.all).get_mut(&dir.path)) {
            used.open += 1;
            return;
        }
        let is_first = !matches!(opened, Opened::Here);
        let (begun, here) = match opened {
            Opened::New => (None, None),
            Opened::Imported(begun) => (Some(*begun), None),
            Opened::Here => {
                // Where somebody else writes to it, it is sent at the end, whatever it was.
                let found = Rootfs::found(&dir.path, Exclusions::default());
                let settled = found.map(|mut rootfs| {
                    rootfs.settle();
                    rootfs.into_index()
                });
                (None, settled.ok())
            }
        };
        let mut all = locked(&self.caches.all);
        // A stage beside this one may have noted it meanwhile; who made the cache knows best what it was.
        let known = all.get(&dir.path);
        let (open, unsound) = known.map_or((0, false), |used| (used.open, used.unsound));
        if is_first || known.is_none() {
            let used = Used { key: dir.key.clone(), begun, here, open, unsound };
            all.insert(dir.path.clone(), used);
        }
        if let Some(used) = all.get_mut(&dir.path) {
            used.open += 1;
        }
    }

    /// The caches that are to go to the repository: those that no step failed with. Each is answered once.
    pub(super) fn exports(&self) -> Exports<'_> {
        let wanted = self.order.mounts.shared.as_ref().filter(|shared| shared.push);
        let wanted = wanted.filter(|_| !self.caches.silent.load(Ordering::Relaxed));
        let used = std::mem::take(&mut *locked(&self.caches.all));
        let (created, platform) = (&self.order.created, &self.order.platform);
        let (registry, work) = (self.registry, self.work);
        let interrupt = self.interrupt.clone();
        let caches = used.into_iter().filter(|(_, used)| used.is_sound()).collect();
        Exports { caches, wanted, registry, work, platform, created, interrupt }
    }
}

fn reference(repository: &Repository, tag: &str) -> Result<Reference, String> {
    let name: Result<Reference, crate::image::ImageError> = format!("{repository}:{tag}").parse();
    name.map_err(|error| error.to_string())
}

/// Caches on their way to the repository.
pub(super) struct Exports<'a> {
    caches: Vec<(PathBuf, Used)>,
    wanted: Option<&'a SharedCaches>,
    registry: &'a Registry,
    work: &'a WorkDir,
    platform: &'a Platform,
    created: &'a str,
    interrupt: Interrupt,
}

/// What has to be sent of a cache.
struct Packed {
    layers: Vec<ImageLayer>,
    contents: Vec<u64>,
    /// What is in the cache, in bytes.
    live: u64,
    /// What is sent, in bytes.
    sent: u64,
}

impl Exports<'_> {
    /// Packs and pushes them.
    pub(super) fn run(self) {
        let Some(shared) = self.wanted else { return };
        for (dir, used) in &self.caches {
            if self.interrupt.is_triggered() {
                return;
            }
            let id = &used.key.id;
            match self.export(shared, dir, used) {
                Ok(None) => tracing::debug!("the cache {id:?} did not change"),
                Ok(Some(packed)) => tracing::info!(
                    "The cache {id:?}, {}, is shared: {} went to {}",
                    bytes(packed.live),
                    bytes(packed.sent),
                    shared.repository
                ),
                Err(why) => tracing::warn!("the cache {id:?} is not shared: {why}"),
            }
        }
    }

    fn export(
        &self,
        shared: &SharedCaches,
        dir: &Path,
        used: &Used,
    ) -> Result<Option<Packed>, String> {
        let told = |failure: Failure| failure.to_string().trim_start_matches("error: ").to_owned();
        let Some(_held) = CacheStore::hold(dir).map_err(|error| error.to_string())? else {
            return Err("another build has it for itself".to_owned());
        };
        let tag = mount_tag(&used.key.text(), self.platform);
        let name = reference(&shared.repository, &tag)?;
        if let Some(before) = &used.here
            && is_as(before, dir).map_err(told)?
            && self.is_known(shared, &name)
        {
            return Ok(None);
        }
        let Some(packed) = self.pack(shared, dir, used).map_err(told)? else { return Ok(None) };
        let said = MountImage {
            id: used.key.id.clone(),
            platform: self.platform.to_string(),
            created: self.created.to_owned(),
            created_seconds: 0,
            bytes: packed.live,
            contents: packed.contents.clone(),
        };
        let image = said.image(&tag, &packed.layers, self.platform);
        let pending = self.registry.start_push(&image, &[name], &self.work.blobs());
        pending.wait().map_err(|error| error.to_string())?;
        Ok(Some(packed))
    }

    /// Whether the repository has the cache, whatever is in it there.
    fn is_known(&self, shared: &SharedCaches, name: &Reference) -> bool {
        let answers = self.registry.manifests(std::slice::from_ref(name), shared.wait);
        matches!(answers.as_slice(), [Ok(Some(_))])
    }

    /// What changed as a further layer, or all as one; nothing where nothing changed.
    fn pack(
        &self,
        shared: &SharedCaches,
        dir: &Path,
        used: &Used,
    ) -> Result<Option<Packed>, Failure> {
        let doing = || format!("look at the cache {:?}", used.key.id);
        let rootfs = Rootfs::open(dir, Index::new(), Exclusions::default()).could_not(doing)?;
        let everything =
            |before: &Index| rootfs.difference_from(before, &Suspects::Everything).could_not(doing);
        let change = match &used.begun {
            None => None,
            Some(begun) => Some((begun, everything(&begun.index)?)),
        };
        if change.as_ref().is_some_and(|(_, change)| change.changes.is_empty()) {
            return Ok(None);
        }
        let live = match &change {
            None => None,
            Some((begun, change)) => {
                let mut index = begun.index.clone();
                index.apply(change);
                Some(content(index.iter().map(|(_, entry)| entry)))
            }
        };
        if let Some((begun, change)) = change
            && let Some(live) = live.filter(|live| *live <= shared.limit)
            && goes_on(&begun.contents, put(&change), live)
        {
            let (layers, contents) = (begun.layers.clone(), begun.contents.clone());
            return self.packed(&rootfs, change, live, (layers, contents)).map(Some);
        }
        let whole = everything(&unknown_root())?;
        let live = put(&whole);
        if live <= shared.limit {
            return self.packed(&rootfs, whole, live, (Vec::new(), Vec::new())).map(Some);
        }
        tracing::warn!(
            "the cache {:?} has {}, more than --cache-mount-export-limit: it begins anew for others",
            used.key.id,
            bytes(live)
        );
        match used.begun {
            None => Ok(None),
            Some(_) => {
                let nothing = (Vec::new(), Vec::new());
                self.packed(&rootfs, Difference::default(), 0, nothing).map(Some)
            }
        }
    }

    /// With one more layer.
    fn packed(
        &self,
        rootfs: &Rootfs,
        mut change: Difference,
        live: u64,
        (mut layers, mut contents): (Vec<ImageLayer>, Vec<u64>),
    ) -> Result<Packed, Failure> {
        let options = snapshot::Options {
            compression: COMPRESSION,
            threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            latest: None,
        };
        let packed = rootfs
            .pack(&mut change, &self.work.layers(), options)
            .could_not(|| "pack the cache".to_owned())?;
        let sent = packed.size;
        layers.push(layer(packed, Flavor::Oci));
        contents.push(put(&change));
        Ok(Packed { layers, contents, live, sent })
    }
}

/// Whether a directory is what it was.
fn is_as(before: &Index, dir: &Path) -> Result<bool, Failure> {
    let doing = || format!("look at {}", dir.display());
    let rootfs = Rootfs::open(dir, Index::new(), Exclusions::default()).could_not(doing)?;
    let change = rootfs.difference_from(before, &Suspects::Everything).could_not(doing)?;
    Ok(change.changes.is_empty())
}

/// An index that knows nothing but that the root is there, so that a comparison tells what it is like.
fn unknown_root() -> Index {
    let mut index = Index::new();
    index.insert(ImagePath::root(), Entry::new(Kind::Dir, 0));
    index
}

/// Whether one more layer is better than packing all anew.
fn goes_on(contents: &[u64], more: u64, live: u64) -> bool {
    let stored = contents.iter().sum::<u64>() + more;
    contents.len() < MOST_LAYERS && stored <= 2 * live + SLACK
}

/// What is in the files that a difference puts, in bytes.
fn put(difference: &Difference) -> u64 {
    let puts = difference.changes.iter().filter_map(|change| match change {
        Change::Put(put) if put.link_to.is_none() => Some(&put.entry),
        Change::Put(_) | Change::Whiteout(_) => None,
    });
    content(puts)
}

fn content<'e>(entries: impl Iterator<Item = &'e Entry>) -> u64 {
    entries
        .map(|entry| match entry.kind {
            Kind::File { size } => size,
            Kind::Dir
            | Kind::Symlink { .. }
            | Kind::Fifo
            | Kind::CharDevice { .. }
            | Kind::BlockDevice { .. }
            | Kind::Socket => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_cache_is_packed_anew() {
        let mib = |n: u64| n << 20;
        for (contents, more, live, want) in [
            (vec![mib(100)], mib(5), mib(105), true),
            (vec![mib(100)], mib(100), mib(100), true),
            (vec![mib(100), mib(100)], mib(50), mib(100), false),
            (vec![mib(10)], mib(10), mib(2), true),
            (vec![1; MOST_LAYERS - 1], 1, MOST_LAYERS as u64, true),
            (vec![1; MOST_LAYERS], 1, MOST_LAYERS as u64, false),
        ] {
            assert_eq!(goes_on(&contents, more, live), want, "{contents:?} {more} {live}");
        }
    }
}
