//! `--tar-path`: an image as `docker load` and skopeo's `docker-archive:` take it.
//!
//! Layers are stored as they are, compressed or not: both readers look at the
//! bytes themselves. Two layers with the same bytes share one entry.

use std::collections::HashSet;
use std::fs::Permissions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::SinkError;
use super::staging::{self, VerifiedLayer};
use crate::image::{Image, ImageLayer, Reference};

/// An archive that is written, but not under its name. Dropped, it is gone.
#[derive(Debug)]
pub struct StagedArchive {
    file: tempfile::NamedTempFile,
    path: PathBuf,
}

/// Writes the archive, with these image names, beside `path`.
pub fn stage_docker_archive(
    image: &Image,
    names: &[Reference],
    path: &Path,
) -> Result<StagedArchive, SinkError> {
    let parent = staging::parent(path)?;
    let file = tempfile::Builder::new()
        .prefix(".archive-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(&parent)
        .map_err(SinkError::io(&parent))?;
    let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, file));
    fill(image, names, &mut tar, path)?;
    let file = tar.into_inner().and_then(|buffered| buffered.into_inner().map_err(io::Error::from));
    Ok(StagedArchive { file: file.map_err(SinkError::io(path))?, path: path.to_owned() })
}

impl StagedArchive {
    /// Where it will be.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts it there.
    pub fn commit(self) -> Result<(), SinkError> {
        let persisted = self.file.persist(&self.path).map_err(|error| error.error);
        persisted.map(|_| ()).map_err(SinkError::io(&self.path))
    }
}

/// [`stage_docker_archive`] and its commit in one.
pub fn write_docker_archive(
    image: &Image,
    names: &[Reference],
    path: &Path,
) -> Result<(), SinkError> {
    stage_docker_archive(image, names, path)?.commit()
}

fn fill(
    image: &Image,
    names: &[Reference],
    tar: &mut tar::Builder<impl Write>,
    path: &Path,
) -> Result<(), SinkError> {
    let (config, digest) = (image.config_bytes(), image.config_descriptor().digest);
    let config_name = format!("{}.json", digest.hex());
    entry(tar, &config_name, &config).map_err(SinkError::io(path))?;
    let mut written = HashSet::new();
    for layer in image.layers() {
        if written.insert(layer.descriptor.digest) {
            let digest = layer.descriptor.digest;
            add_layer(tar, layer).map_err(|source| SinkError::Layer { digest, source })?;
        }
    }
    let manifest = json!([{
        "Config": config_name,
        "RepoTags": names.iter().filter_map(tagged).collect::<Vec<_>>(),
        "Layers": image.layers().iter().map(layer_name).collect::<Vec<_>>(),
    }]);
    entry(tar, "manifest.json", manifest.to_string().as_bytes()).map_err(SinkError::io(path))
}

fn layer_name(layer: &ImageLayer) -> String {
    format!("{}.tar", layer.descriptor.digest.hex())
}

/// `docker load` wants `repository:tag`, in the Hub's short form for the Hub.
fn tagged(name: &Reference) -> Option<String> {
    let repository = name.repository().to_string();
    let short = repository.strip_prefix("index.docker.io/").map(str::to_owned);
    let short = short.map(|it| it.strip_prefix("library/").unwrap_or(&it).to_owned());
    Some(format!("{}:{}", short.unwrap_or(repository), name.tag()?))
}

fn entry(tar: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(bytes.len() as u64), name, bytes)
}

fn add_layer(tar: &mut tar::Builder<impl Write>, layer: &ImageLayer) -> io::Result<()> {
    let bytes = VerifiedLayer::open(layer)?;
    tar.append_data(&mut header(layer.descriptor.size), layer_name(layer), bytes)
}

fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_entry_type(tar::EntryType::Regular);
    header
}
