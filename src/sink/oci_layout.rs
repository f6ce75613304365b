//! `--oci-layout-path`: an image as a directory (image-spec, "image layout").

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::SinkError;
use super::staging;
use crate::image::{Descriptor, Digest, Flavor, Image, REF_NAME, layout_path};

/// A layout that is written, but not where it is wanted. Dropped, it is gone.
#[derive(Debug)]
pub struct StagedLayout {
    staged: tempfile::TempDir,
    dir: PathBuf,
    parent: PathBuf,
    digest: Digest,
}

/// Writes a layout that holds this image and nothing else, under this tag if there is one, beside `dir`.
///
/// Readers of layouts do not take Docker's media types, so an image of that family is written in OCI's.
/// A layout or an empty directory that is at `dir` already will be replaced; anything else is an error.
pub fn stage_oci_layout(
    image: &Image,
    tag: Option<&str>,
    dir: &Path,
) -> Result<StagedLayout, SinkError> {
    let image = &image.clone().with_flavor(Flavor::Oci).map_err(SinkError::Image)?;
    let parent = staging::parent(dir)?;
    check_vacant(dir)?;
    let staged = tempfile::Builder::new()
        .prefix(".oci-layout-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir_in(&parent)
        .map_err(SinkError::io(&parent))?;
    fill(image, tag, staged.path())?;
    Ok(StagedLayout { staged, dir: dir.to_owned(), parent, digest: image.digest() })
}

impl StagedLayout {
    /// Where it will be.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts it there; answers the digest of the manifest as it was written.
    pub fn commit(self) -> Result<Digest, SinkError> {
        replace(self.staged, &self.dir, &self.parent)?;
        Ok(self.digest)
    }
}

/// [`stage_oci_layout`] and its commit in one.
pub fn write_oci_layout(image: &Image, tag: Option<&str>, dir: &Path) -> Result<Digest, SinkError> {
    stage_oci_layout(image, tag, dir)?.commit()
}

/// What a layout consists of, the file that makes it readable last.
const PARTS: [&str; 3] = ["blobs", "oci-layout", "index.json"];

fn check_vacant(dir: &Path) -> Result<(), SinkError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(SinkError::io(dir)(error)),
    };
    for entry in entries {
        let name = entry.map_err(SinkError::io(dir))?.file_name();
        // Anything that is no part of a layout is somebody's.
        if !PARTS.iter().any(|part| name == *part) {
            return Err(SinkError::Occupied { path: dir.to_owned() });
        }
    }
    Ok(())
}

fn fill(image: &Image, tag: Option<&str>, dir: &Path) -> Result<(), SinkError> {
    let blobs = dir.join("blobs").join("sha256");
    fs::create_dir_all(&blobs).map_err(SinkError::io(&blobs))?;
    for layer in image.layers() {
        let path = layout_path(dir, layer.descriptor.digest);
        if path.exists() {
            continue; // two layers may be the same
        }
        let digest = layer.descriptor.digest;
        staging::put_layer(layer, &path).map_err(|source| SinkError::Layer { digest, source })?;
    }
    let write = |path: &Path, bytes: &[u8]| fs::write(path, bytes).map_err(SinkError::io(path));
    write(&layout_path(dir, image.config_descriptor().digest), &image.config_bytes())?;
    write(&layout_path(dir, image.digest()), &image.manifest_bytes())?;
    write(&dir.join("index.json"), index(image, tag).to_string().as_bytes())?;
    write(&dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)
}

fn index(image: &Image, tag: Option<&str>) -> serde_json::Value {
    let annotation = tag.map(|tag| (REF_NAME.to_owned(), tag.to_owned()));
    let entry = Descriptor {
        annotations: BTreeMap::from_iter(annotation),
        platform: Some(image.config().platform()),
        ..image.descriptor()
    };
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    })
}

/// Copies a layout into a directory that has to stay, `index.json` last.
fn fill_mount(staged: &Path, dir: &Path) -> Result<(), SinkError> {
    let blobs = dir.join("blobs").join("sha256");
    fs::create_dir_all(&blobs).map_err(SinkError::io(&blobs))?;
    let from = staged.join("blobs").join("sha256");
    for entry in fs::read_dir(&from).map_err(SinkError::io(&from))? {
        let entry = entry.map_err(SinkError::io(&from))?;
        let to = blobs.join(entry.file_name());
        fs::copy(entry.path(), &to).map_err(SinkError::io(&to))?;
    }
    for part in &PARTS[1..] {
        let to = dir.join(part);
        fs::copy(staged.join(part), &to).map_err(SinkError::io(&to))?;
    }
    Ok(())
}

/// An old layout goes aside first and is deleted last, so that there is always one or the other.
fn replace(staged: tempfile::TempDir, dir: &Path, parent: &Path) -> Result<(), SinkError> {
    let aside = tempfile::Builder::new()
        .prefix(".oci-layout-old-")
        .tempdir_in(parent)
        .map_err(SinkError::io(parent))?;
    let old = aside.path().join("layout");
    let had_old = match fs::rename(dir, &old) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        // A mount point cannot be renamed, only filled: a volume that takes the result of a job.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            return fill_mount(staged.path(), dir);
        }
        Err(error) => return Err(SinkError::io(dir)(error)),
    };
    match fs::rename(staged.path(), dir) {
        Ok(()) => {
            // Its name is gone, so there is nothing to delete any more.
            let _ = staged.keep();
            Ok(())
        }
        Err(error) => {
            if had_old {
                fs::rename(&old, dir).map_err(SinkError::io(dir))?;
            }
            Err(SinkError::io(dir)(error))
        }
    }
}
