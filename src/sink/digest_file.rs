//! `--digest-file`: the image's digest for the next step of a pipeline.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{SinkError, staging};
use crate::image::Digest;

/// Writes `sha256:…` without a newline; directories that are missing are made.
pub fn write_digest(path: &Path, digest: Digest) -> Result<(), SinkError> {
    let parent = staging::parent(path)?;
    let write = || {
        let mut file = tempfile::Builder::new().prefix(".digest-").tempfile_in(&parent)?;
        file.write_all(digest.to_string().as_bytes())?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.persist(path).map_err(|error| error.error)
    };
    write().map(|_| ()).map_err(SinkError::io(path))
}
