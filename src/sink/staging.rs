//! The directories that outputs are written in, and layers read with their digest checked.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Take};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::SinkError;
use crate::image::{Blob, BlobFile, Digest, Hasher, ImageLayer};

/// The directory that a path is in, made if it is missing.
pub(super) fn parent(path: &Path) -> Result<PathBuf, SinkError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&parent).map_err(SinkError::io(&parent))?;
    Ok(parent)
}

/// Puts a layer's bytes, as they are stored, into the new file `to`.
///
/// A file that this program hashed when it wrote it is linked, or copied by the kernel, if nothing happened
/// to it since; every other one is copied and hashed.
pub(super) fn put_layer(layer: &ImageLayer, to: &Path) -> io::Result<()> {
    if let Blob::File(file) = &layer.blob
        && (link(file, to)? || copy_as_it_is(file, to)?)
    {
        return Ok(());
    }
    let mut bytes = VerifiedLayer::open(layer)?;
    let mut file = File::create(to)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match bytes.read(&mut buffer)? {
            0 => return Ok(()),
            n => io::Write::write_all(&mut file, &buffer[..n])?,
        }
    }
}

/// Another name for a hashed file, which is read by everybody then; false where there can be none.
fn link(file: &BlobFile, to: &Path) -> io::Result<bool> {
    let Some(hashed) = file.as_hashed() else { return Ok(false) };
    // The name may be another file's by now; what the handle is on is what was hashed.
    if fs::hard_link(file.path(), to).is_err() {
        return Ok(false);
    }
    if !is_same(hashed, to)? {
        fs::remove_file(to)?;
        return Ok(false);
    }
    fs::set_permissions(to, Permissions::from_mode(0o644))?;
    Ok(true)
}

fn is_same(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let (one, other) = (file.metadata()?, fs::symlink_metadata(path)?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

/// To another file system; false if the file was not, or did not stay, as it was hashed.
fn copy_as_it_is(file: &BlobFile, to: &Path) -> io::Result<bool> {
    let Some(hashed) = file.as_hashed() else { return Ok(false) };
    let length = hashed.metadata()?.len();
    let copied = io::copy(&mut file.open()?, &mut File::create(to)?)?;
    Ok(copied == length && file.as_hashed().is_some())
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
