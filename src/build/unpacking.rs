//! Layers into a tree: download, inflation, the hash and the writing beside each other.
//!
//! A layer is inflated while its blob comes in, and the next one begins to be inflated while this
//! one is written. So bytes get into the tree before the digest of their blob is known; no layer
//! counts before it is, and nothing runs in the tree before all do. Where a download had to
//! begin anew, so does the tree, from whole and verified blobs. Into a tree that holds more than these
//! layers, only verified blobs go.

use std::io::Read;
use std::time::Instant;

use tracer::Interrupt;

use super::builder::Builder;
use super::images::Source;
use crate::image::{Image, ImageLayer};
use crate::registry::Arrival;
use crate::report::{Explain as _, Failure};
use crate::rootfs::{Inflated, Rootfs, Unpacked, Unpacker, inflate};

/// Which bytes are unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taking {
    /// Those of blobs that are still coming, too.
    WhatComes,
    /// Only those of verified blobs.
    WhatIsVerified,
}

/// Why layers are not in the tree.
enum Stopped {
    /// A download began anew when some of its first bytes were in the tree already.
    ComesAnew,
    /// A failure that ends the build.
    Failed(Box<Failure>),
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self::Failed(Box::new(failure))
    }
}

/// A layer whose inflation has begun.
struct Begun {
    archive: Inflated,
    /// Its download, if it was not whole then.
    arrival: Option<Arrival>,
}

impl Builder<'_> {
    /// Applies layers, in order. One from the cache that cannot be read is no longer found there: the
    /// build begins anew without it.
    pub(super) fn unpack(&self, layers: &[ImageLayer], rootfs: &mut Rootfs) -> Result<(), Failure> {
        let started = Instant::now();
        self.apply_all(layers, rootfs)?;
        let (paths, count) = (rootfs.index().len(), layers.len());
        let took = started.elapsed().as_secs_f64();
        tracing::info!("Unpacked {paths} paths of {count} layers in {took:.1}s");
        Ok(())
    }

    /// As [`Builder::unpack`], for a stage in which no program runs and from which nothing is copied:
    /// its files are not written.
    pub(super) fn outline(&self, image: &Image, rootfs: &mut Rootfs) -> Result<(), Failure> {
        let started = Instant::now();
        self.apply_all(image.layers(), rootfs)?;
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

    fn apply_all(&self, layers: &[ImageLayer], rootfs: &mut Rootfs) -> Result<(), Failure> {
        let taking = if rootfs.is_fresh() { Taking::WhatComes } else { Taking::WhatIsVerified };
        let done = match self.apply_in_order(layers, rootfs.unpack(), taking) {
            Err(Stopped::ComesAnew) => {
                tracing::info!("Unpacking once more: a download had to begin anew");
                rootfs.start_over().could_not(|| "unpack once more".to_owned())?;
                self.apply_in_order(layers, rootfs.unpack(), Taking::WhatIsVerified)
            }
            done => done,
        };
        rootfs.settle();
        done.map_err(|stopped| match stopped {
            Stopped::Failed(failure) => *failure,
            Stopped::ComesAnew => Failure::new("a verified layer was downloaded again"),
        })
    }

    fn apply_in_order(
        &self,
        layers: &[ImageLayer],
        mut unpacker: Unpacker<'_>,
        taking: Taking,
    ) -> Result<(), Stopped> {
        let count = layers.len();
        let mut ahead = None;
        for (place, layer) in layers.iter().enumerate() {
            self.go_on()?;
            let doing =
                || format!("unpack layer {} of {count} ({})", place + 1, layer.descriptor.digest);
            let begun = ahead.take().unwrap_or_else(|| self.begin(layer, taking));
            if taking == Taking::WhatComes {
                // What is wrong with the next one is told in its turn.
                ahead = layers.get(place + 1).map(|next| self.begin(next, taking));
            }
            let done = begun.and_then(|begun| self.apply(begun, layer, &mut unpacker, &doing));
            let done = done.inspect_err(|stopped| self.lose(layer, stopped))?;
            tracing::debug!("layer {} of {count}: {done:?}", place + 1);
        }
        Ok(unpacker.finish().could_not(|| "finish unpacking".to_owned())?)
    }

    fn begin(&self, layer: &ImageLayer, taking: Taking) -> Result<Begun, Stopped> {
        let doing = || format!("unpack {}", layer.descriptor.digest);
        let compression = layer.compression().ok_or_else(|| {
            let what = format!("{} is no media type of a layer", layer.descriptor.media_type);
            Failure::new(format!("could not {}: {what}", doing()))
        })?;
        let blobs = self.work.blobs();
        let source = match taking {
            Taking::WhatComes => self.images.source(layer, &blobs)?,
            Taking::WhatIsVerified => Source::Whole(self.images.blob(layer, &blobs)?),
        };
        let (blob, arrival): (Box<dyn Read + Send>, _) = match source {
            Source::Whole(file) => (Box::new(file.open().could_not(doing)?), None),
            Source::Coming(arrival) => (Box::new(arrival.reader()), Some(arrival)),
        };
        let archive = inflate(blob, compression, Some(layer.diff_id)).could_not(doing)?;
        Ok(Begun { archive, arrival })
    }

    fn apply(
        &self,
        Begun { archive, arrival }: Begun,
        layer: &ImageLayer,
        unpacker: &mut Unpacker<'_>,
        doing: &impl Fn() -> String,
    ) -> Result<Unpacked, Stopped> {
        let archive = Interruptible { archive, interrupt: &self.interrupt };
        let done = if layer.is_estargz() {
            unpacker.apply_estargz(archive)
        } else {
            unpacker.apply(archive)
        };
        if let Some(arrival) = arrival {
            self.go_on()?;
            // That a blob is not what it should be explains whatever was found in it.
            self.images.blob(layer, &self.work.blobs())?;
            if arrival.is_forsaken() {
                return Err(Stopped::ComesAnew);
            }
        }
        Ok(done.could_not(doing)?)
    }

    fn lose(&self, layer: &ImageLayer, stopped: &Stopped) {
        if let Stopped::Failed(failure) = stopped
            && !self.interrupt.is_triggered()
            && !failure.is_out_of_space()
            && let Some(cache) = self.cache
        {
            let told = failure.to_string();
            cache.lose(layer.descriptor.digest, told.trim_start_matches("error: "));
        }
    }
}

/// An archive that ends with an error when the build is interrupted.
pub(super) struct Interruptible<'a, R> {
    pub(super) archive: R,
    pub(super) interrupt: &'a Interrupt,
}

impl<R: Read> Read for Interruptible<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.interrupt.is_triggered() {
            return Err(std::io::Error::other("the build was interrupted"));
        }
        self.archive.read(buffer)
    }
}
