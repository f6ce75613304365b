//! Where images come from: registries and named contexts. Nothing is asked for twice.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use tracer::Interrupt;

use super::once::{Once, locked};
use super::{Outputs, registry_failure};
use crate::cache::{Bases, Warm};
use crate::context::{ContextSource, Ignore, ignore_of};
use crate::image::{Blob, BlobFile, Digest, Image, ImageLayer, Platform, Reference, from_layout};
use crate::plan::BaseImages;
use crate::registry::{Arrival, CallOff, PendingBlob, Registry};
use crate::report::Failure;

/// `--build-context NAME=…`, by name in lower case.
pub type NamedContexts = BTreeMap<String, NamedContext>;

/// A further context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// Files to copy from.
    Dir(PathBuf),
    /// An image in an OCI layout on this machine.
    Layout {
        /// The layout.
        dir: PathBuf,
        /// A tag or digest in it.
        name: Option<String>,
    },
    /// An image in a registry.
    Image(Reference),
    /// Files to copy from, which have to be brought here first.
    Remote(ContextSource),
    /// `docker-image://scratch`: nothing at all.
    Scratch,
}

impl NamedContext {
    /// The directory of this machine that it is, or is in.
    pub(super) fn dir(&self) -> Option<&Path> {
        match self {
            Self::Dir(dir) | Self::Layout { dir, .. } => Some(dir),
            Self::Image(_) | Self::Remote(_) | Self::Scratch => None,
        }
    }
}

/// Where the bytes of a layer are read.
pub(super) enum Source {
    /// They are all here, and verified.
    Whole(BlobFile),
    /// They are coming.
    Coming(Arrival),
}

/// What is here of the bytes of a layer.
enum Bytes {
    /// A base image on this machine has them.
    Warm(Warm),
    /// They are being downloaded, and nobody waits for that.
    Coming(PendingBlob),
    /// Somebody waits for their download.
    Awaited(Arrival, CallOff),
    /// Somebody takes them from a base image on this machine.
    Taken,
    /// They are all here, and verified.
    Whole(BlobFile),
}

/// The images of a build. Several stages may ask at the same time.
pub(super) struct Images<'a> {
    registry: &'a Registry,
    contexts: NamedContexts,
    interrupt: &'a Interrupt,
    known: Once<(String, String), Image>,
    /// Of the layers that were asked for, or are in base images on this machine.
    layers: Mutex<HashMap<Digest, Bytes>>,
    /// Somebody who waited for the bytes of a layer, or took them, is done with it.
    settled: Condvar,
    is_called_off: AtomicBool,
    /// Base images on this machine.
    bases: Option<&'a Bases>,
    /// Of contexts that are directories, by name.
    ignores: HashMap<String, Ignore>,
}

impl<'a> Images<'a> {
    pub(super) fn new(
        registry: &'a Registry,
        contexts: NamedContexts,
        interrupt: &'a Interrupt,
        bases: Option<&'a Bases>,
    ) -> Result<Self, Failure> {
        let contexts: NamedContexts =
            contexts.into_iter().map(|(name, context)| (key(&name), context)).collect();
        let mut ignores = HashMap::new();
        for (name, context) in &contexts {
            if let NamedContext::Dir(dir) = context {
                let ignore = ignore_of(dir).map_err(|error| Failure::new(error.to_string()))?;
                ignores.insert(name.clone(), ignore);
            }
        }
        Ok(Self {
            registry,
            contexts,
            interrupt,
            known: Once::default(),
            layers: Mutex::default(),
            settled: Condvar::new(),
            is_called_off: AtomicBool::new(false),
            bases,
            ignores,
        })
    }

    /// What of a context that is a directory does not count.
    pub(super) fn ignore_of(&self, name: &str) -> Option<&Ignore> {
        self.ignores.get(&key(name))
    }

    /// A context that was brought here.
    pub(super) fn bring(&mut self, name: &str, dir: PathBuf) -> Result<(), Failure> {
        let ignore = ignore_of(&dir).map_err(|error| Failure::new(error.to_string()))?;
        self.ignores.insert(key(name), ignore);
        self.contexts.insert(key(name), NamedContext::Dir(dir));
        Ok(())
    }

    pub(super) fn named(&self, name: &str) -> Option<&NamedContext> {
        self.contexts.get(&key(name))
    }

    /// Begins to download the layers of `image`, all at once; those on this machine are there.
    pub(super) fn prefetch(&self, image: &Image, dir: &Path) {
        self.prefetch_layers(image.layers(), dir);
    }

    /// Begins to download these layers.
    pub(super) fn prefetch_layers(&self, layers: &[ImageLayer], dir: &Path) {
        let mut known = locked(&self.layers);
        for layer in layers {
            let digest = layer.descriptor.digest;
            if !known.contains_key(&digest) && matches!(layer.blob, Blob::Registry(_)) {
                known.insert(digest, self.fetch(layer, dir));
            }
        }
    }

    fn fetch(&self, layer: &ImageLayer, dir: &Path) -> Bytes {
        Bytes::Coming(self.registry.fetch(layer, dir))
    }

    /// The bytes of a layer as far as they are here; their download begins if it has not.
    pub(super) fn source(&self, layer: &ImageLayer, dir: &Path) -> Result<Source, Failure> {
        self.prefetch_layers(std::slice::from_ref(layer), dir);
        let is_download = matches!(layer.blob, Blob::Registry(_));
        let coming = match locked(&self.layers).get(&layer.descriptor.digest) {
            Some(Bytes::Coming(pending)) => Some(pending.arrival().clone()),
            Some(Bytes::Awaited(arrival, _)) => Some(arrival.clone()),
            Some(Bytes::Warm(_) | Bytes::Taken | Bytes::Whole(_)) | None => None,
        };
        // Nothing arrives of what is on this machine.
        let coming = coming.filter(|_| is_download);
        coming.map_or_else(|| self.blob(layer, dir).map(Source::Whole), |it| Ok(Source::Coming(it)))
    }

    /// The bytes of a layer, verified.
    pub(super) fn blob(&self, layer: &ImageLayer, dir: &Path) -> Result<BlobFile, Failure> {
        let digest = layer.descriptor.digest;
        loop {
            let mut known = locked(&self.layers);
            if self.is_called_off.load(Ordering::Acquire) {
                return Err(Failure::new("interrupted"));
            }
            match known.remove(&digest) {
                Some(Bytes::Whole(file)) => {
                    known.insert(digest, Bytes::Whole(file.clone()));
                    return Ok(file);
                }
                Some(Bytes::Warm(warm)) => {
                    known.insert(digest, Bytes::Taken);
                    drop(known);
                    self.settle(digest, warm_layer(&warm, layer, dir));
                }
                Some(Bytes::Coming(pending)) => {
                    let awaited = Bytes::Awaited(pending.arrival().clone(), pending.call_off());
                    known.insert(digest, awaited);
                    drop(known);
                    let came = pending.wait();
                    self.settle(digest, came.as_ref().ok().cloned());
                    return came.map_err(|error| self.failed(&error));
                }
                Some(others @ (Bytes::Awaited(..) | Bytes::Taken)) => {
                    known.insert(digest, others);
                    drop(self.settled.wait(known).unwrap_or_else(PoisonError::into_inner));
                }
                None => drop(known.insert(digest, self.fetch(layer, dir))),
            }
        }
    }

    /// Tells those who wait for the bytes of a layer. Where there are none, the next one asks for them anew.
    fn settle(&self, digest: Digest, file: Option<BlobFile>) {
        let mut known = locked(&self.layers);
        match file {
            Some(file) => known.insert(digest, Bytes::Whole(file)),
            None => known.remove(&digest),
        };
        self.settled.notify_all();
    }

    /// Ends all downloads: the build has failed elsewhere.
    pub(super) fn call_off(&self) {
        let mut known = locked(&self.layers);
        self.is_called_off.store(true, Ordering::Release);
        known.retain(|_, bytes| !matches!(bytes, Bytes::Coming(_)));
        for bytes in known.values() {
            if let Bytes::Awaited(_, download) = bytes {
                download.call_off();
            }
        }
        self.settled.notify_all();
    }

    /// The build begins anew, and may download again.
    pub(super) fn begin_anew(&self) {
        self.is_called_off.store(false, Ordering::Release);
    }

    /// Asks the directory of base images first where that can answer, and else the registry; notes whose
    /// layers are there.
    fn pull(&self, reference: &Reference, platform: &Platform) -> Result<Image, Failure> {
        let here = self.bases.and_then(|bases| bases.image(reference, platform));
        let image = match here {
            Some(image) => image,
            None => {
                tracing::info!("Retrieving image manifest {reference}");
                self.registry.pull(reference, platform).map_err(|error| self.failed(&error))?
            }
        };
        if let Some(warm) = self.bases.and_then(|bases| bases.find(image.digest())) {
            tracing::info!("Using the base image {reference} in the cache");
            let mut known = locked(&self.layers);
            for layer in image.layers() {
                known.entry(layer.descriptor.digest).or_insert_with(|| Bytes::Warm(warm.clone()));
            }
        }
        Ok(image)
    }

    /// Forgets downloaded bytes that nothing else holds on to, and that none of `again` needs.
    pub(super) fn forget(&self, image: &Image, again: &[&Image]) {
        let needed = |digest: &Digest| {
            again.iter().flat_map(|image| image.layers()).any(|it| it.descriptor.digest == *digest)
        };
        let mut known = locked(&self.layers);
        for digest in image.layers().iter().map(|layer| layer.descriptor.digest) {
            if matches!(known.get(&digest), Some(Bytes::Whole(_))) && !needed(&digest) {
                known.remove(&digest);
            }
        }
    }

    /// The image with layers that were downloaded anyway as files, unless it goes to the registry
    /// they came from, which has them.
    pub(super) fn with_fetched(&self, image: &Image, outputs: &Outputs) -> Image {
        let known = locked(&self.layers);
        let mut result = image.clone();
        for layer in image.layers() {
            let Blob::Registry(from) = &layer.blob else { continue };
            let goes_back =
                outputs.destinations.iter().any(|to| to.repository().registry() == from.registry());
            if let (Some(Bytes::Whole(file)), false) =
                (known.get(&layer.descriptor.digest), goes_back)
            {
                let file = Blob::File(file.clone());
                result = result.with_blob(layer.descriptor.digest, &file);
            }
        }
        result
    }

    fn failed(&self, error: &crate::registry::RegistryError) -> Failure {
        if self.interrupt.is_triggered() {
            return Failure::new("interrupted");
        }
        registry_failure(error)
    }

    fn remember(
        &self,
        name: String,
        platform: &Platform,
        load: impl FnOnce() -> Result<Image, Failure>,
    ) -> Result<Image, Failure> {
        self.known.get_or_make((name, platform.to_string()), load)
    }
}

/// A layer of a base image on this machine. One that is damaged there is downloaded.
fn warm_layer(warm: &Warm, layer: &ImageLayer, dir: &Path) -> Option<BlobFile> {
    match warm.layer(&layer.descriptor, dir) {
        Ok(file) => Some(file),
        Err(error) => {
            tracing::warn!("a base image in the cache is not used: {error}");
            None
        }
    }
}

/// What a context is known by: all names of one image are one, with or without registry and tag.
fn key(name: &str) -> String {
    let lower = name.to_lowercase();
    lower.parse::<Reference>().map_or(lower, |reference| reference.to_string())
}

impl BaseImages for Images<'_> {
    fn image(&self, reference: &Reference, platform: &Platform) -> Result<Image, Failure> {
        self.remember(reference.to_string(), platform, || self.pull(reference, platform))
    }

    fn context_image(&self, name: &str, platform: &Platform) -> Result<Option<Image>, Failure> {
        match self.named(name) {
            None | Some(NamedContext::Dir(_) | NamedContext::Remote(_) | NamedContext::Scratch) => {
                Ok(None)
            }
            Some(NamedContext::Image(reference)) => self.image(reference, platform).map(Some),
            Some(NamedContext::Layout { dir, name: tag }) => {
                let load = || {
                    from_layout(dir, tag.as_deref(), platform).map_err(|error| {
                        let doing = format!("could not read the build context {name:?}");
                        Failure::new(doing).because(error).hint("see --build-context")
                    })
                };
                self.remember(format!("context {name}"), platform, load).map(Some)
            }
        }
    }

    fn has_context(&self, name: &str) -> bool {
        self.named(name).is_some()
    }

    fn is_scratch(&self, name: &str) -> bool {
        matches!(self.named(name), Some(NamedContext::Scratch))
    }
}
