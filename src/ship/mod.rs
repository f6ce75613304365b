//! What is a file already goes to registries: `executor push`.
//!
//! A directory is an OCI layout and goes as it is, with every byte it has: one image, index or
//! artifact, and the signatures and attestations that refer to it. A file is an archive of
//! `docker save`, whose layers are compressed on the way where they are not.

mod archive;

use std::path::{Path, PathBuf};

use crate::image::{Digest, Reference};
use crate::registry::{Pushed, Registry, RegistryError};

pub use archive::ArchiveError;

/// Something that was not pushed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShipError {
    /// An archive that is none, or does not hold what it says.
    #[error("{path}: {source}")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        source: ArchiveError,
    },
    /// A registry, or a layout that could not be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Pushes the one image that is there under each name; `dir` takes layers that have to be compressed.
///
/// # Errors
/// The first destination that did not take it; tags of those before it have moved.
pub fn push(
    path: &Path,
    references: &[Reference],
    registry: &Registry,
    dir: &Path,
) -> Result<(Digest, Vec<Pushed>), ShipError> {
    if path.is_dir() {
        return Ok(registry.push_layout(path, references)?);
    }
    let image = archive::open(path, dir)
        .map_err(|source| ShipError::Archive { path: path.to_owned(), source })?;
    let pushed = registry.push(&image, references, Vec::new(), dir)?;
    Ok((image.digest(), pushed))
}
