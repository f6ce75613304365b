//! `--digest-file` and its like: the image's name for the next step of a pipeline.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{SinkError, staging};
use crate::registry::{Registry, Secret};

/// Where a line about the image is wanted.
#[derive(Clone, Debug)]
pub enum Place {
    /// A file; directories that are missing are made.
    File(PathBuf),
    /// An https URL that takes a PUT. It may be signed, so it is never shown.
    Url(Secret),
}

impl Place {
    /// The file, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Url(_) => None,
        }
    }

    /// Brings the text there, whole or not at all.
    pub fn write(&self, text: &str, registry: &Registry) -> Result<(), SinkError> {
        match self {
            Self::File(path) => write_text(path, text),
            Self::Url(url) => registry.put(url, text).map_err(SinkError::Put),
        }
    }
}

/// Writes a text as it is; directories that are missing are made.
pub fn write_text(path: &Path, text: &str) -> Result<(), SinkError> {
    let parent = staging::parent(path)?;
    let write = || {
        let mut file = tempfile::Builder::new().prefix(".digest-").tempfile_in(&parent)?;
        file.write_all(text.as_bytes())?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.persist(path).map_err(|error| error.error)
    };
    write().map(|_| ()).map_err(SinkError::io(path))
}
