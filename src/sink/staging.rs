//! The directories that outputs are written in, and layers read with their digest checked.

use std::fs;
use std::io::{self, Read, Take};
use std::path::{Path, PathBuf};

use super::SinkError;
use crate::image::{Digest, Hasher, ImageLayer};

/// The directory that a path is in, made if it is missing.
pub(super) fn parent(path: &Path) -> Result<PathBuf, SinkError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&parent).map_err(SinkError::io(&parent))?;
    Ok(parent)
}

/// A layer's bytes as they are stored; its end is an error if they are not those of the descriptor.
pub(super) struct VerifiedLayer {
    from: Take<Box<dyn Read + Send>>,
    hasher: Hasher,
    wanted: (Digest, u64),
}

impl VerifiedLayer {
    pub(super) fn open(layer: &ImageLayer) -> io::Result<Self> {
        let wanted = (layer.descriptor.digest, layer.descriptor.size);
        // One byte more than promised is enough to see that there are more.
        let from = layer.blob.open(wanted.0)?.take(wanted.1 + 1);
        Ok(Self { from, hasher: Hasher::default(), wanted })
    }
}

impl Read for VerifiedLayer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        if n > 0 || buffer.is_empty() {
            return Ok(n);
        }
        let found = self.hasher.clone().finish();
        if found != self.wanted {
            let why = format!("its file holds {}, {} bytes", found.0, found.1);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(0)
    }
}
