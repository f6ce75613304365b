//! Where the bytes of a layer lie.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempPath;

use super::{Digest, Repository};

/// Where bytes are, when the descriptor already says what they are.
#[derive(Clone, Debug)]
pub enum Blob {
    /// In a file of this machine, whose bytes were hashed when it was written.
    File(BlobFile),
    /// In a repository of a registry; not downloaded.
    Registry(Repository),
    /// In an OCI layout directory on this machine, not verified yet.
    Layout(PathBuf),
}

impl Blob {
    /// The file that holds the blob, where this machine has one.
    #[must_use]
    pub fn path(&self, digest: Digest) -> Option<PathBuf> {
        match self {
            Self::File(file) => Some(file.path().to_owned()),
            Self::Layout(dir) => Some(layout_path(dir, digest)),
            Self::Registry(_) => None,
        }
    }

    /// Opens the bytes as they are stored, compressed if they are.
    ///
    /// A blob that is in a registry is [`io::ErrorKind::NotFound`]: fetch it first.
    pub fn open(&self, digest: Digest) -> io::Result<Box<dyn Read + Send>> {
        match self.path(digest) {
            Some(path) => Ok(Box::new(File::open(path)?)),
            None => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("blob {digest} has not been downloaded"),
            )),
        }
    }
}

/// Where image-layout puts a blob.
pub(crate) fn layout_path(dir: &Path, digest: Digest) -> PathBuf {
    dir.join("blobs").join("sha256").join(digest.hex())
}

/// A file with the bytes of a blob. Clones share it; a temporary one is deleted with its last clone.
#[derive(Clone, Debug)]
pub struct BlobFile(Arc<Place>);

#[derive(Debug)]
enum Place {
    Kept(PathBuf),
    Temporary(TempPath),
}

impl BlobFile {
    /// A file that somebody else owns and that stays.
    #[must_use]
    pub fn kept(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Place::Kept(path.into())))
    }

    /// A file that lives as long as its last clone.
    #[must_use]
    pub fn temporary(path: TempPath) -> Self {
        Self(Arc::new(Place::Temporary(path)))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        match &*self.0 {
            Place::Kept(path) => path,
            Place::Temporary(path) => path,
        }
    }

    /// Opens it for reading.
    pub fn open(&self) -> io::Result<File> {
        File::open(self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_goes_with_the_last_clone() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        let first = BlobFile::temporary(file.into_temp_path());
        let second = first.clone();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
