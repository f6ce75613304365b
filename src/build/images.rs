//! Where images come from: registries and named contexts. Nothing is asked for twice.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use tracer::Interrupt;

use super::{Outputs, registry_failure};
use crate::cache::{Bases, Warm};
use crate::context::{ContextSource, Ignore, ignore_of};
use crate::image::{Blob, BlobFile, Digest, Image, ImageLayer, Platform, Reference, from_layout};
use crate::plan::BaseImages;
use crate::registry::{Arrival, PendingBlob, Registry};
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

/// The images of a build.
pub(super) struct Images<'a> {
    registry: &'a Registry,
    contexts: NamedContexts,
    interrupt: &'a Interrupt,
    known: RefCell<HashMap<(String, String), Image>>,
    pending: RefCell<HashMap<Digest, PendingBlob>>,
    fetched: RefCell<HashMap<Digest, BlobFile>>,
    /// Base images on this machine, and which layers are in them.
    bases: Option<&'a Bases>,
    warm: RefCell<HashMap<Digest, Warm>>,
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
            known: RefCell::default(),
            pending: RefCell::default(),
            fetched: RefCell::default(),
            bases,
            warm: RefCell::default(),
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
        for layer in layers {
            let digest = layer.descriptor.digest;
            let known = self.pending.borrow().contains_key(&digest)
                || self.fetched.borrow().contains_key(&digest)
                || self.warm.borrow().contains_key(&digest);
            if !known && matches!(layer.blob, Blob::Registry(_)) {
                let pending = self.registry.fetch(layer, dir);
                self.pending.borrow_mut().insert(digest, pending);
            }
        }
    }

    /// The bytes of a layer as far as they are here; their download begins if it has not.
    pub(super) fn source(&self, layer: &ImageLayer, dir: &Path) -> Result<Source, Failure> {
        self.prefetch_layers(std::slice::from_ref(layer), dir);
        let pending = self.pending.borrow();
        let arrival = pending.get(&layer.descriptor.digest).map(|it| it.arrival().clone());
        drop(pending);
        arrival
            .map_or_else(|| self.blob(layer, dir).map(Source::Whole), |it| Ok(Source::Coming(it)))
    }

    /// The bytes of a layer, verified.
    pub(super) fn blob(&self, layer: &ImageLayer, dir: &Path) -> Result<BlobFile, Failure> {
        let digest = layer.descriptor.digest;
        if let Some(file) = self.fetched.borrow().get(&digest) {
            return Ok(file.clone());
        }
        if let Some(file) = self.warm_layer(layer, dir) {
            self.fetched.borrow_mut().insert(digest, file.clone());
            return Ok(file);
        }
        let pending = self.pending.borrow_mut().remove(&digest);
        let pending = pending.unwrap_or_else(|| self.registry.fetch(layer, dir));
        let file = pending.wait().map_err(|error| self.failed(&error))?;
        self.fetched.borrow_mut().insert(digest, file.clone());
        Ok(file)
    }

    /// A layer of a base image on this machine. One that is damaged there is downloaded.
    fn warm_layer(&self, layer: &ImageLayer, dir: &Path) -> Option<BlobFile> {
        let warm = self.warm.borrow_mut().remove(&layer.descriptor.digest)?;
        match warm.layer(&layer.descriptor, dir) {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::warn!("a base image in the cache is not used: {error}");
                None
            }
        }
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
            for layer in image.layers() {
                self.warm.borrow_mut().insert(layer.descriptor.digest, warm.clone());
            }
        }
        Ok(image)
    }

    /// Forgets downloaded bytes that nothing else holds on to, and that none of `again` needs.
    pub(super) fn forget(&self, image: &Image, again: &[&Image]) {
        let needed = |digest: &Digest| {
            again.iter().flat_map(|image| image.layers()).any(|it| it.descriptor.digest == *digest)
        };
        for layer in image.layers() {
            if !needed(&layer.descriptor.digest) {
                self.fetched.borrow_mut().remove(&layer.descriptor.digest);
            }
        }
    }

    /// The image with layers that were downloaded anyway as files, unless it goes to the registry
    /// they came from, which has them.
    pub(super) fn with_fetched(&self, image: &Image, outputs: &Outputs) -> Image {
        let fetched = self.fetched.borrow();
        let mut result = image.clone();
        for layer in image.layers() {
            let Blob::Registry(from) = &layer.blob else { continue };
            let goes_back =
                outputs.destinations.iter().any(|to| to.repository().registry() == from.registry());
            if let (Some(file), false) = (fetched.get(&layer.descriptor.digest), goes_back) {
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
        let known = (name, platform.to_string());
        if let Some(image) = self.known.borrow().get(&known) {
            return Ok(image.clone());
        }
        let image = load()?;
        self.known.borrow_mut().insert(known, image.clone());
        Ok(image)
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
