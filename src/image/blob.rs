//! Where the bytes of a layer lie.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
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

/// A handle on a file, and what the system said of it when its bytes had been hashed.
#[derive(Debug)]
struct Written {
    handle: File,
    stamp: Stamp,
}

/// Length and time of the last change, which no program can set (inode(7)).
#[derive(Debug, PartialEq, Eq)]
struct Stamp(u64, i64, i64);

impl Stamp {
    fn of(handle: &File) -> io::Result<Self> {
        let about = handle.metadata()?;
        Ok(Self(about.len(), about.ctime(), about.ctime_nsec()))
    }
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
    Temporary(TempPath, Option<Written>),
}

impl BlobFile {
    /// A file that somebody else owns and that stays.
    #[must_use]
    pub fn kept(path: impl Into<PathBuf>) -> Self {
        Self(Arc::new(Place::Kept(path.into())))
    }

    /// A file that lives as long as its last clone, and whose bytes were hashed when it was written: they
    /// are those of the descriptor it goes with.
    #[must_use]
    pub fn temporary(path: TempPath) -> Self {
        let written = || {
            let handle = File::open(&path)?;
            let stamp = Stamp::of(&handle)?;
            Ok::<_, io::Error>(Written { handle, stamp })
        };
        let written = written().ok();
        Self(Arc::new(Place::Temporary(path, written)))
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
            Place::Temporary(path, Some(Written { handle, .. })) if !path.exists() => {
                // Opening it gives a new description with an offset of its own (proc(5)).
                PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()))
            }
            Place::Temporary(path, _) => path.to_path_buf(),
            Place::Kept(path) => path.clone(),
        }
    }

    /// The file, if nothing was written to it and no name of it came or went since it was hashed: its
    /// bytes need not be hashed again.
    pub(crate) fn as_hashed(&self) -> Option<&File> {
        match &*self.0 {
            Place::Temporary(_, Some(Written { handle, stamp })) => {
                Stamp::of(handle).is_ok_and(|now| now == *stamp).then_some(handle)
            }
            Place::Temporary(_, None) | Place::Kept(_) => None,
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
    fn what_happens_to_a_hashed_file_is_seen() {
        use std::os::unix::fs::PermissionsExt as _;
        type Change = fn(&Path);
        for (what, change) in [
            ("nothing", (|_| ()) as Change),
            ("a write", |path| std::fs::write(path, "BYTES").unwrap()),
            ("a longer one", |path| std::fs::write(path, "more bytes").unwrap()),
            ("a mode", |path| {
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
            }),
            ("no name", |path| std::fs::remove_file(path).unwrap()),
        ] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), "bytes").unwrap();
            let blob = BlobFile::temporary(file.into_temp_path());
            // The clock of a file system has steps.
            let before = std::fs::metadata(blob.path()).unwrap().ctime_nsec();
            while tempfile::tempfile().unwrap().metadata().unwrap().ctime_nsec() == before {}
            change(blob.path());
            assert_eq!(blob.as_hashed().is_some(), what == "nothing", "{what}");
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
