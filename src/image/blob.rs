//! Where the bytes of a layer lie.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd as _;
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
            Self::File(file) => Some(file.readable()),
            Self::Layout(dir) => Some(layout_path(dir, digest)),
            Self::Registry(_) => None,
        }
    }

    /// Opens the bytes as they are stored, compressed if they are.
    ///
    /// A blob that is in a registry is [`io::ErrorKind::NotFound`]: fetch it first.
    pub fn open(&self, digest: Digest) -> io::Result<Box<dyn Read + Send>> {
        match self {
            Self::File(file) => Ok(Box::new(file.open()?)),
            Self::Layout(dir) => Ok(Box::new(File::open(layout_path(dir, digest))?)),
            Self::Registry(_) => Err(io::Error::new(
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
///
/// A temporary file stays readable when somebody else removes its name: a step that runs in the
/// executor's own container may well do that.
#[derive(Clone, Debug)]
pub struct BlobFile(Arc<Place>);

#[derive(Debug)]
enum Place {
    Kept(PathBuf),
    Temporary(TempPath, Option<File>),
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
        let handle = File::open(&path).ok();
        Self(Arc::new(Place::Temporary(path, handle)))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        match &*self.0 {
            Place::Kept(path) => path,
            Place::Temporary(path, _) => path,
        }
    }

    /// A path under which it can be opened: its own, or that of the handle kept on it.
    pub(crate) fn readable(&self) -> PathBuf {
        match &*self.0 {
            Place::Temporary(path, Some(handle)) if !path.exists() => {
                // Opening it gives a new description with an offset of its own (proc(5)).
                PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
            }
            Place::Temporary(path, _) => path.to_path_buf(),
            Place::Kept(path) => path.clone(),
        }
    }

    /// Opens it for reading.
    pub fn open(&self) -> io::Result<File> {
        File::open(self.readable())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_name_can_still_be_read_twice() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "bytes").unwrap();
        let blob = BlobFile::temporary(file.into_temp_path());
        std::fs::remove_file(blob.path()).unwrap();
        for _ in 0..2 {
            let mut text = String::new();
            blob.open().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "bytes");
        }
    }

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
