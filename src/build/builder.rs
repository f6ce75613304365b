//! What all stages of a build share.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tracer::Interrupt;

use super::Order;
use super::images::{Images, NamedContext};
use super::layers::Times;
use super::own_root::Found;
use super::tracers::Tracers;
use super::tree::in_place_exclusions;
use super::work::WorkDir;
use crate::cache::Cache;
use crate::context::Context;
use crate::dockerfile::Dockerfile;
use crate::image::{Image, ImageLayer};
use crate::plan::{Arguments, Step, StepError};
use crate::registry::Registry;
use crate::report::{Explain as _, Failure};
use crate::rootfs::{Exclusions, Isolation, Rootfs, Unpacked, Unpacker, inflate};

/// What all stages of a build share.
pub(super) struct Builder<'a> {
    pub(super) order: &'a Order,
    pub(super) context: &'a Context,
    pub(super) dockerfile: &'a Dockerfile,
    pub(super) arguments: &'a Arguments,
    pub(super) globals: &'a BTreeMap<String, String>,
    pub(super) registry: &'a Registry,
    pub(super) images: &'a Images<'a>,
    pub(super) isolation: Isolation,
    pub(super) tracers: &'a Tracers<'a>,
    pub(super) interrupt: &'a Interrupt,
    pub(super) work: &'a WorkDir,
    pub(super) times: Times,
    /// Layers of earlier builds.
    pub(super) cache: Option<&'a Cache<'a>>,
    /// Once a stage may begin: what was at `/`, if it is to be put back.
    pub(super) found: OnceCell<Option<Found>>,
}

impl Builder<'_> {
    /// Ends the build where somebody asked for that.
    pub(super) fn go_on(&self) -> Result<(), Failure> {
        if self.interrupt.is_triggered() { Err(Failure::new("interrupted")) } else { Ok(()) }
    }

    pub(super) fn exclusions(&self) -> Result<Exclusions, Failure> {
        let own: Vec<&Path> = self
            .order
            .own_dirs
            .iter()
            .map(PathBuf::as_path)
            .chain([self.order.kaniko_dir.as_path(), self.work.path(), self.context.dir.as_path()])
            .chain(self.order.contexts.values().filter_map(NamedContext::dir))
            .chain(self.order.outputs.files())
            .chain(self.order.cache.as_ref().and_then(|cache| cache.place.dir()))
            .chain(self.order.cache.as_ref().and_then(|cache| Some(cache.bases.as_ref()?.dir())))
            .chain([self.order.mounts.caches.as_path()])
            .chain(self.order.mounts.sockets())
            .collect();
        in_place_exclusions(&own)
    }

    /// Wipes the container's root at the end; a root of its own goes with the working directory.
    pub(super) fn clean_up(&self) -> Result<(), Failure> {
        if self.isolation == Isolation::InPlace {
            tracing::info!("Deleting filesystem...");
            let mut rootfs =
                Rootfs::open(Path::new("/"), snapshot::Index::new(), self.exclusions()?)
                    .could_not(|| "open /".to_owned())?;
            rootfs.wipe().could_not(|| "clean up".to_owned())?;
        }
        Ok(())
    }

    /// Removes what a build has on disk so far.
    pub(super) fn begin_anew(&self) -> Result<(), Failure> {
        if self.isolation == Isolation::InPlace {
            self.clean_up()?;
        }
        self.work.clear_stages()
    }

    /// Applies layers, in order; the next ones download meanwhile. One from the cache that cannot be
    /// read is no longer found there: the build begins anew without it.
    pub(super) fn unpack(&self, layers: &[ImageLayer], rootfs: &mut Rootfs) -> Result<(), Failure> {
        let started = Instant::now();
        self.apply_all(layers, rootfs.unpack())?;
        rootfs.settle();
        let (paths, count) = (rootfs.index().len(), layers.len());
        let took = started.elapsed().as_secs_f64();
        tracing::info!("Unpacked {paths} paths of {count} layers in {took:.1}s");
        Ok(())
    }

    /// As [`Builder::unpack`], for a stage in which no program runs and from which nothing is copied:
    /// its files are not written.
    pub(super) fn outline(&self, image: &Image, rootfs: &mut Rootfs) -> Result<(), Failure> {
        let started = Instant::now();
        self.apply_all(image.layers(), rootfs.unpack())?;
        rootfs.settle();
        if !rootfs.has_account_files().could_not(|| "find the users of the image".to_owned())? {
            tracing::debug!("the account files are links to files that were not written");
            rootfs.start_over_with_files().could_not(|| "unpack once more".to_owned())?;
            return self.unpack(image.layers(), rootfs);
        }
        let (paths, count) = (rootfs.index().len(), image.layers().len());
        let took = started.elapsed().as_secs_f64();
        tracing::info!("Listed {paths} paths of {count} layers in {took:.1}s");
        Ok(())
    }

    fn apply_all(&self, layers: &[ImageLayer], mut unpacker: Unpacker<'_>) -> Result<(), Failure> {
        let count = layers.len();
        for (place, layer) in layers.iter().enumerate() {
            self.go_on()?;
            let doing =
                || format!("unpack layer {} of {count} ({})", place + 1, layer.descriptor.digest);
            let done = self.apply(layer, &mut unpacker, &doing);
            let done = done.inspect_err(|failure| self.lose(layer, failure))?;
            tracing::debug!("layer {} of {count}: {done:?}", place + 1);
        }
        unpacker.finish().could_not(|| "finish unpacking".to_owned())
    }

    fn apply(
        &self,
        layer: &ImageLayer,
        unpacker: &mut Unpacker<'_>,
        doing: &impl Fn() -> String,
    ) -> Result<Unpacked, Failure> {
        let file = self.images.blob(layer, &self.work.blobs())?;
        let compression = layer.compression().ok_or_else(|| {
            let what = format!("{} is no media type of a layer", layer.descriptor.media_type);
            Failure::new(format!("could not {}: {what}", doing()))
        })?;
        let blob = file.open().could_not(doing)?;
        let archive = inflate(blob, compression, Some(layer.diff_id)).could_not(doing)?;
        unpacker.apply(Interruptible { archive, interrupt: self.interrupt }).could_not(doing)
    }

    fn lose(&self, layer: &ImageLayer, failure: &Failure) {
        if !self.interrupt.is_triggered()
            && !failure.is_out_of_space()
            && let Some(cache) = self.cache
        {
            let told = failure.to_string();
            cache.lose(layer.descriptor.digest, told.trim_start_matches("error: "));
        }
    }

    pub(super) fn place(&self, step: &Step, trigger: bool) -> String {
        if trigger {
            return "ONBUILD trigger of the base image".to_owned();
        }
        format!("{}:{}", self.context.dockerfile_name, step.line)
    }

    /// The lines of an instruction, marked.
    pub(super) fn excerpt(&self, span: crate::dockerfile::Span) -> String {
        self.dockerfile.source.annotate(span, "", None, false)
    }

    pub(super) fn step_failure(&self, error: &StepError, trigger: bool) -> Failure {
        super::step_failure(error, trigger, self.dockerfile)
    }
}

/// An archive that ends with an error when the build is interrupted.
pub(super) struct Interruptible<'a, R> {
    pub(super) archive: R,
    pub(super) interrupt: &'a Interrupt,
}

impl<R: std::io::Read> std::io::Read for Interruptible<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.interrupt.is_triggered() {
            return Err(std::io::Error::other("the build was interrupted"));
        }
        self.archive.read(buffer)
    }
}
