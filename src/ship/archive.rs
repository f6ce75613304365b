//! An image from an archive of `docker save`.
//!
//! `manifest.json` names a config and layers, which are entries of the archive. Each is read once, hashed,
//! and held against the config's diff IDs. Entries go to files with names of our own, so no name in the
//! archive means a place on this machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::path::Path;

use serde::Deserialize;

use crate::image::{
    Blob, BlobFile, Compression, Descriptor, Digest, Flavor, Hasher, Image, ImageConfig,
    ImageError, ImageLayer,
};

/// The largest `manifest.json` or config that is read, in bytes.
const SMALL: u64 = 64 << 20;

/// How many links are followed from one entry.
const LINKS: usize = 8;

/// The level of layers that are compressed here: that of new layers.
const GZIP_LEVEL: u32 = 1;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// It cannot be read, or a layer not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There is no `manifest.json`.
    #[error("it has no manifest.json: it is no archive of docker save")]
    NoManifest,
    /// `manifest.json` is not what it should be.
    #[error("manifest.json: {0}")]
    Manifest(#[from] serde_json::Error),
    /// There are several images, or none.
    #[error("it holds {0} images and not one")]
    NotOne(usize),
    /// An entry is named that is not there.
    #[error("it lacks {0:?}")]
    Missing(String),
    /// A layer is not what the config says.
    #[error("layer {name:?} is {found} and not {wanted}")]
    Layer {
        /// The entry.
        name: String,
        /// The digest of its uncompressed bytes.
        found: Digest,
        /// The config's diff ID.
        wanted: Digest,
    },
    /// The parts make no image.
    #[error(transparent)]
    Image(#[from] ImageError),
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    layers: Vec<String>,
}

/// A layer that is a file now.
struct Stored {
    compression: Compression,
    digest: Digest,
    size: u64,
    diff_id: Digest,
    file: BlobFile,
}

/// Reads the only image of an archive; its layers go to files below `dir`.
pub(super) fn open(path: &Path, dir: &Path) -> Result<Image, ArchiveError> {
    let links = links(path).map_err(|error| match error {
        // What the reader says of bytes that are no archive at all.
        ArchiveError::Io(error) if error.kind() == io::ErrorKind::Other => ArchiveError::NoManifest,
        other => other,
    })?;
    let manifest = small(path, "manifest.json", &links)?.ok_or(ArchiveError::NoManifest)?;
    let entries: Vec<Entry> = serde_json::from_slice(&manifest)?;
    let [entry] = &entries[..] else { return Err(ArchiveError::NotOne(entries.len())) };
    let missing = |name: &str| ArchiveError::Missing(name.to_owned());
    let config = small(path, &entry.config, &links)?.ok_or_else(|| missing(&entry.config))?;
    let config = ImageConfig::parse(&config)?;
    let names: Vec<String> = entry.layers.iter().map(|name| resolve(name, &links)).collect();
    let stored = store(path, &names.iter().cloned().collect(), dir)?;
    let mut layers = Vec::new();
    for (name, resolved) in entry.layers.iter().zip(&names) {
        layers.push((name, stored.get(resolved).ok_or_else(|| missing(name))?));
    }
    image(config, &layers)
}

/// Docker's media types, unless a layer has none there.
fn image(config: ImageConfig, layers: &[(&String, &Stored)]) -> Result<Image, ArchiveError> {
    let zstd = layers.iter().any(|(_, layer)| layer.compression == Compression::Zstd);
    let flavor = if zstd { Flavor::Oci } else { Flavor::Docker };
    let mut image = Image::scratch(flavor, &config.platform());
    for ((name, layer), wanted) in layers.iter().zip(&config.rootfs.diff_ids) {
        if layer.diff_id != *wanted {
            let (name, found, wanted) = ((*name).clone(), layer.diff_id, *wanted);
            return Err(ArchiveError::Layer { name, found, wanted });
        }
        let media_type = flavor.layer(layer.compression).unwrap_or_default();
        image = image.with_layer(ImageLayer {
            descriptor: Descriptor::new(media_type, layer.digest, layer.size),
            diff_id: layer.diff_id,
            blob: Blob::File(layer.file.clone()),
        });
    }
    if config.rootfs.diff_ids.len() != layers.len() {
        return Err(ArchiveError::Image(ImageError::Inconsistent(format!(
            "{} layers in the archive, {} in the config",
            layers.len(),
            config.rootfs.diff_ids.len()
        ))));
    }
    Ok(image.with_config(config))
}

/// The archive from its beginning, unpacked where somebody packed it as a whole.
fn archive(path: &Path) -> io::Result<tar::Archive<Box<dyn Read + Send>>> {
    let mut source = BufReader::with_capacity(1 << 20, File::open(path)?);
    let compression = compression(source.fill_buf()?);
    Ok(tar::Archive::new(crate::rootfs::decoder(source, compression)?))
}

/// How bytes that begin so are compressed.
fn compression(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// Names without `./`, as all writers write them but some.
fn name_of<R: Read>(entry: &tar::Entry<'_, R>) -> String {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    name.strip_prefix("./").map_or(name.clone(), str::to_owned)
}

/// Older writers put a layer that two images share once, and links to it.
fn links(path: &Path) -> Result<BTreeMap<String, String>, ArchiveError> {
    let mut links = BTreeMap::new();
    for entry in archive(path)?.entries()? {
        let entry = entry?;
        let kind = entry.header().entry_type();
        let Some(target) =
            entry.link_name_bytes().filter(|_| kind.is_symlink() || kind.is_hard_link())
        else {
            continue;
        };
        let (name, target) = (name_of(&entry), String::from_utf8_lossy(&target).into_owned());
        let target = if kind.is_symlink() { beside(&name, &target) } else { target };
        links.insert(name, target);
    }
    Ok(links)
}

/// A link's target as a name in the archive.
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn resolve(name: &str, links: &BTreeMap<String, String>) -> String {
    let mut name = name.strip_prefix("./").unwrap_or(name);
    for _ in 0..LINKS {
        let Some(target) = links.get(name) else { break };
        name = target;
    }
    name.to_owned()
}

/// An entry that is read into memory; the last one of its name counts, as when it is unpacked.
fn small(
    path: &Path,
    name: &str,
    links: &BTreeMap<String, String>,
) -> Result<Option<Vec<u8>>, ArchiveError> {
    let (name, mut found) = (resolve(name, links), None);
    for entry in archive(path)?.entries()? {
        let entry = entry?;
        if entry.header().entry_type().is_file() && name_of(&entry) == name {
            if entry.size() > SMALL {
                return Err(io::Error::other(format!("{name} of {} bytes", entry.size())).into());
            }
            let mut bytes = Vec::new();
            entry.take(SMALL).read_to_end(&mut bytes)?;
            found = Some(bytes);
        }
    }
    Ok(found)
}

/// Brings the layers of these names to files.
fn store(
    path: &Path,
    names: &BTreeSet<String>,
    dir: &Path,
) -> Result<BTreeMap<String, Stored>, ArchiveError> {
    let mut stored = BTreeMap::new();
    for entry in archive(path)?.entries()? {
        let mut entry = entry?;
        let name = name_of(&entry);
        if entry.header().entry_type().is_file() && names.contains(&name) {
            stored.insert(name, store_one(&mut entry, dir)?);
        }
    }
    Ok(stored)
}

/// As it is if it is compressed, else compressed.
fn store_one(entry: &mut dyn Read, dir: &Path) -> Result<Stored, ArchiveError> {
    let mut start = [0; 4];
    let mut length = 0;
    while length < start.len() {
        match entry.read(&mut start[length..])? {
            0 => break,
            read => length += read,
        }
    }
    let mut source = start[..length].chain(entry);
    let compression = compression(&start);
    let mut file = tempfile::Builder::new().prefix("layer-").tempfile_in(dir)?;
    let mut hashed = Hashed { out: file.as_file_mut(), hasher: Hasher::default() };
    let (compression, diff_id) = match compression {
        Compression::None => (Compression::Gzip, Some(squeeze(&mut source, &mut hashed)?)),
        other => {
            io::copy(&mut source, &mut hashed)?;
            (other, None)
        }
    };
    let (digest, size) = hashed.hasher.finish();
    let diff_id = match diff_id {
        Some(diff_id) => diff_id,
        None => inflated(file.reopen()?, compression)?,
    };
    let file = BlobFile::temporary(file.into_temp_path());
    Ok(Stored { compression, digest, size, diff_id, file })
}

/// Compresses; answers the digest of what came.
fn squeeze(source: &mut dyn Read, out: &mut dyn Write) -> io::Result<Digest> {
    let mut encoder = flate2::write::GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL));
    let mut hashed = Hashed { out: &mut encoder, hasher: Hasher::default() };
    io::copy(source, &mut hashed)?;
    let (digest, _) = hashed.hasher.finish();
    encoder.finish()?;
    Ok(digest)
}

/// The digest of a compressed file's content.
fn inflated(file: File, compression: Compression) -> io::Result<Digest> {
    let source = BufReader::with_capacity(1 << 20, file);
    let mut bytes = crate::rootfs::decoder(source, compression)?;
    Digest::of_reader(&mut bytes).map(|(digest, _)| digest)
}

/// Passes bytes on and hashes them.
struct Hashed<W> {
    out: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_in_the_archive() {
        for (name, target, want) in [
            ("a/layer.tar", "../b/layer.tar", "b/layer.tar"),
            ("a/layer.tar", "./x", "a/x"),
            ("layer.tar", "../../../etc/passwd", "etc/passwd"),
            ("a/b/c", "/etc/passwd", "a/b/etc/passwd"),
        ] {
            assert_eq!(beside(name, target), want, "{name} -> {target}");
        }
        let round =
            BTreeMap::from([("a".to_owned(), "b".to_owned()), ("b".to_owned(), "a".to_owned())]);
        assert_eq!(resolve("./a", &round), "a", "and it ends");
    }

    /// An archive of these entries, and what is said of it.
    fn refusal(entries: &[(&str, &str)]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        let mut tar = tar::Builder::new(File::create(&path).unwrap());
        for (name, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, text.as_bytes()).unwrap();
        }
        tar.into_inner().unwrap();
        open(&path, dir.path()).map(|image| image.digest().to_string()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_archive_of_one_image() {
        let one = r#"[{"Config":"c","Layers":["l"]}]"#;
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{}"]}}}}"#,
            Digest::of(b"other")
        );
        for (entries, want) in [
            (&[("a", "x")][..], "no manifest.json"),
            (&[("manifest.json", "{")], "manifest.json:"),
            (&[("manifest.json", "[]")], "holds 0 images"),
            (&[("manifest.json", one)], "lacks \"c\""),
            (&[("manifest.json", one), ("c", &config)], "lacks \"l\""),
            (&[("manifest.json", one), ("c", &config), ("l", "layer")], "layer \"l\" is sha256:"),
            (
                &[("manifest.json", r#"[{"Config":"c","Layers":[]}]"#), ("c", &config)],
                "0 layers in",
            ),
        ] {
            let said = refusal(entries);
            assert!(said.contains(want), "{want}: {said}");
        }
    }
}
