//! WORKDIR: the directory exists from then on.

use snapshot::{ImagePath, Kind};
use thiserror::Error;

use crate::rootfs::{Metadata, Rootfs};

/// Why a working directory could not be made.
#[derive(Debug, Error)]
pub enum WorkdirError {
    /// Something else has the name.
    #[error("{0} exists and is no directory")]
    NotADirectory(ImagePath),
    /// The destination is no part of the image.
    #[error("{0} belongs to the executor, not to the image")]
    Excluded(ImagePath),
    /// It cannot be found out where the path leads.
    #[error(transparent)]
    Resolve(#[from] snapshot::Error),
    /// A call failed.
    #[error("could not make {path}: {source}")]
    Io {
        /// The directory.
        path: ImagePath,
        /// What the call answered.
        source: std::io::Error,
    },
}

/// Makes `path` and what is missing above it, 0755, owned by `owner`. Answers what was made.
///
/// # Errors
/// Something is in the way, or a call fails.
pub fn make_workdir(
    rootfs: &Rootfs,
    path: &ImagePath,
    owner: (u32, u32),
) -> Result<Vec<ImagePath>, WorkdirError> {
    let place = rootfs.resolve(path)?;
    let io = |source| WorkdirError::Io { path: place.clone(), source };
    match rootfs.kind(&place).map_err(io)? {
        Some(Kind::Dir) => return Ok(Vec::new()),
        Some(_) => return Err(WorkdirError::NotADirectory(place)),
        None if rootfs.exclusions().excludes(&place) => {
            return Err(WorkdirError::Excluded(place));
        }
        None => {}
    }
    let mut made = match place.parent() {
        Some(parent) => make_workdir(rootfs, &parent, owner)?,
        None => Vec::new(),
    };
    rootfs.tree().make_dir(&place, 0o755).map_err(io)?;
    let metadata = Metadata { mode: Some(0o755), owner, xattrs: &[], mtime: None };
    rootfs.tree().set_metadata(&place, &metadata).map_err(io)?;
    made.push(place);
    Ok(made)
}
