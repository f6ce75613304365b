//! The part of ADD that COPY does not have: archives are unpacked.
//!
//! As in Docker, what is an archive is told by its content, and entries keep
//! owner, mode and time.

use std::io::Read;

use thiserror::Error;

use super::copy::{Copier, CopyError};
use super::sources::{Found, SourceTree};
use crate::rootfs::{ExtractError, Extraction, sniffed};

/// Why an archive could not be added.
#[derive(Debug, Error)]
pub enum AddError {
    /// The archive or its destination cannot be used.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// It is damaged or hostile, or the disk does not take it.
    #[error(transparent)]
    Extract(#[from] ExtractError),
}

/// The uncompressed archive that `found` is; nothing where it is no file, or no archive.
///
/// # Errors
/// The file cannot be read.
pub fn archive(
    sources: &SourceTree<'_>,
    found: &Found,
) -> Result<Option<Box<dyn Read + Send>>, CopyError> {
    let Some(file) = sources.file(found)? else { return Ok(None) };
    let sniffed = sniffed(file).map_err(|error| sources.at(&found.path, error))?;
    Ok(sniffed.map(|(packing, archive)| {
        tracing::debug!("{} is an archive ({packing:?})", found.path.display());
        archive
    }))
}

/// Unpacks an archive into the directory `dest`, which is made if it is missing.
///
/// # Errors
/// The archive is damaged or hostile, or the disk does not take it.
pub fn unpack(copier: &mut Copier<'_>, archive: impl Read, dest: &str) -> Result<(), AddError> {
    let dest = copier.directory(dest)?;
    let rootfs = copier.rootfs();
    let mut extraction = Extraction::new(rootfs.tree(), rootfs.exclusions(), dest);
    if let Some(owner) = copier.owner_of_all() {
        extraction = extraction.owned_by(owner);
    }
    let extracted = extraction.run(archive)?;
    copier.wrote(extracted.written);
    Ok(())
}

#[cfg(test)]
mod tests;
