//! Images as files: OCI layouts, `docker load` archives, digests.
//!
//! # The promise
//!
//! A file or directory made here is whole or not there: it is written under a
//! temporary name beside its place and renamed. No blob is ever held in memory.

mod digest_file;
mod docker_archive;
mod oci_layout;
mod staging;

use std::io;
use std::path::PathBuf;

use crate::image::{Digest, ImageError};
use crate::registry::RegistryError;

pub use digest_file::{Place, write_text};
pub use docker_archive::{StagedArchive, stage_docker_archive, write_docker_archive};
pub use oci_layout::{StagedLayout, stage_oci_layout, write_oci_layout};

/// Output that could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The system said no.
    #[error("write {path}: {source}")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A layer whose bytes are not on this machine, or are not what they should be.
    #[error("layer {digest}: {source}")]
    Layer {
        /// The layer.
        digest: Digest,
        /// The system's answer.
        source: io::Error,
    },
    /// An image that cannot be written in this form.
    #[error(transparent)]
    Image(ImageError),
    /// A URL that did not take the text.
    #[error(transparent)]
    Put(RegistryError),
    /// The place is taken by something that is not replaced.
    #[error("{path} exists and is no OCI layout: it is not replaced")]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
}

impl SinkError {
    fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}

#[cfg(test)]
mod tests;
