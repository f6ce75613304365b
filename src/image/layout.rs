//! Reads an image from an OCI layout directory (image-spec, "image layout").

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use bytes::Bytes;

use super::blob::layout_path;
use super::manifest::MANIFEST_LIMIT;
use super::{Blob, Descriptor, Digest, Document, Image, ImageError, Index, Platform};

/// The annotation that holds a tag in a layout's index.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The deepest nesting of indexes that is followed.
const DEPTH: usize = 4;

/// Reads an image from the layout in `dir`.
///
/// `name` is a digest or a tag; without one, the layout's only image or the one called `latest` is meant.
/// Manifests and configs are verified here, layers when they are fetched.
pub fn from_layout(
    dir: &Path,
    name: Option<&str>,
    platform: &Platform,
) -> Result<Image, ImageError> {
    check_version(dir)?;
    let Document::Index(index) = read_index(dir)? else {
        return Err(layout(dir, "index.json is no index"));
    };
    let mut document = read_named(dir, &index, name, platform)?;
    for _ in 0..DEPTH {
        match document {
            Document::Index(index) => {
                document = read_document(dir, index.choose(platform)?)?;
            }
            Document::Manifest(manifest) => {
                let config = read_blob(dir, &manifest.config)?;
                return Image::from_parts(&manifest, config, &Blob::Layout(dir.to_owned()));
            }
        }
    }
    Err(layout(dir, "its indexes are nested too deeply"))
}

fn check_version(dir: &Path) -> Result<(), ImageError> {
    let path = dir.join("oci-layout");
    let text = fs::read(&path).map_err(|error| {
        layout(dir, format!("it is no OCI layout: {}: {error}", path.display()))
    })?;
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    match json["imageLayoutVersion"].as_str() {
        Some(version) if version.starts_with("1.") => Ok(()),
        other => Err(layout(dir, format!("layout version {other:?}; 1.x is supported"))),
    }
}

/// What the layout's index names, in order.
pub(crate) fn entries(dir: &Path) -> Result<Vec<Descriptor>, ImageError> {
    check_version(dir)?;
    match read_index(dir)? {
        Document::Index(index) => Ok(index.manifests),
        Document::Manifest(_) => Err(layout(dir, "index.json is no index")),
    }
}

/// Whether a blob is there.
pub(crate) fn has_blob(dir: &Path, digest: Digest) -> bool {
    layout_path(dir, digest).exists()
}

fn read_index(dir: &Path) -> Result<Document, ImageError> {
    let path = dir.join("index.json");
    let bytes = read_bounded(&path, MANIFEST_LIMIT as u64)?;
    Document::parse(bytes, None)
}

/// The entry of the index that `name` means.
fn read_named(
    dir: &Path,
    index: &Index,
    name: Option<&str>,
    platform: &Platform,
) -> Result<Document, ImageError> {
    let tag = |entry: &&Descriptor, tag: &str| {
        entry.annotations.get(REF_NAME).is_some_and(|name| is_tagged(name, tag))
    };
    let entry = match name {
        Some(name) => match name.parse::<Digest>() {
            Ok(digest) => index.manifests.iter().find(|entry| entry.digest == digest),
            Err(_) => index.manifests.iter().find(|entry| tag(entry, name)),
        },
        None => match &index.manifests[..] {
            [only] => Some(only),
            several => several
                .iter()
                .find(|entry| tag(entry, "latest"))
                .or_else(|| several.iter().find(|entry| is_for(entry, platform))),
        },
    };
    let entry = entry.ok_or_else(|| {
        layout(dir, format!("no image {}; there are {}", name.unwrap_or("latest"), names(index)))
    })?;
    read_document(dir, entry)
}

/// Some tools store the whole image name where the tag belongs.
fn is_tagged(name: &str, tag: &str) -> bool {
    name == tag || name.strip_suffix(tag).is_some_and(|image| image.ends_with(':'))
}

fn is_for(entry: &Descriptor, platform: &Platform) -> bool {
    entry.platform.as_ref().is_some_and(|it| it.fits(platform).is_some())
}

fn names(index: &Index) -> String {
    let names: Vec<String> = index
        .manifests
        .iter()
        .map(|it| it.annotations.get(REF_NAME).cloned().unwrap_or_else(|| it.digest.to_string()))
        .collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn read_document(dir: &Path, entry: &Descriptor) -> Result<Document, ImageError> {
    Document::parse(read_blob(dir, entry)?, Some(&entry.media_type))
}

/// A small blob, verified.
pub(crate) fn read_blob(dir: &Path, wanted: &Descriptor) -> Result<Bytes, ImageError> {
    if wanted.size > MANIFEST_LIMIT as u64 {
        return Err(layout(dir, format!("blob {} of {} bytes", wanted.digest, wanted.size)));
    }
    let path = layout_path(dir, wanted.digest);
    let bytes = read_bounded(&path, wanted.size)?;
    if bytes.len() as u64 != wanted.size || Digest::of(&bytes) != wanted.digest {
        return Err(ImageError::Corrupt {
            digest: wanted.digest,
            place: dir.display().to_string(),
            why: "has other content than its name says".to_owned(),
        });
    }
    Ok(bytes)
}

/// Reads at most one byte more than `limit`, which the caller then notices.
fn read_bounded(path: &Path, limit: u64) -> Result<Bytes, ImageError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_end(&mut bytes))
        .map_err(ImageError::io(path))?;
    Ok(bytes.into())
}

fn layout(dir: &Path, why: impl Into<String>) -> ImageError {
    ImageError::Layout { dir: dir.to_owned(), why: why.into() }
}
