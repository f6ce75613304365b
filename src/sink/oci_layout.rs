//! `--oci-layout-path`: an image as a directory (image-spec, "image layout").

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::json;

use super::SinkError;
use super::staging::{self, VerifiedLayer};
use crate::image::{Descriptor, Digest, Flavor, Image, REF_NAME, layout_path};

/// Writes a layout that holds this image and nothing else, under this tag if there is one.
///
/// Readers of layouts do not take Docker's media types, so an image of that family is written in OCI's;
/// the digest that is returned is that of the manifest as it was written.
///
/// A layout or an empty directory that is there already is replaced; anything else is left alone, with an error.
pub fn write_oci_layout(image: &Image, tag: Option<&str>, dir: &Path) -> Result<Digest, SinkError> {
    let image = &image.clone().with_flavor(Flavor::Oci).map_err(SinkError::Image)?;
    let parent = staging::parent(dir)?;
    check_vacant(dir)?;
    let staged = tempfile::Builder::new()
        .prefix(".oci-layout-")
        .permissions(Permissions::from_mode(0o755))
        .tempdir_in(&parent)
        .map_err(SinkError::io(&parent))?;
    fill(image, tag, staged.path())?;
    replace(staged, dir, &parent)?;
    Ok(image.digest())
}

fn check_vacant(dir: &Path) -> Result<(), SinkError> {
    let mut entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(SinkError::io(dir)(error)),
    };
    if dir.join("oci-layout").is_file() || entries.next().is_none() {
        return Ok(());
    }
    Err(SinkError::Occupied { path: dir.to_owned() })
}

fn fill(image: &Image, tag: Option<&str>, dir: &Path) -> Result<(), SinkError> {
    let blobs = dir.join("blobs").join("sha256");
    fs::create_dir_all(&blobs).map_err(SinkError::io(&blobs))?;
    for layer in image.layers() {
        let path = layout_path(dir, layer.descriptor.digest);
        if path.exists() {
            continue; // two layers may be the same
        }
        let mut file = File::create(&path).map_err(SinkError::io(&path))?;
        let digest = layer.descriptor.digest;
        VerifiedLayer::open(layer)
            .and_then(|mut bytes| io::copy(&mut bytes, &mut file))
            .map_err(|source| SinkError::Layer { digest, source })?;
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
