//! A cache in a directory: one OCI layout (image-spec, "image layout") whose tags are the keys.
//!
//! Any number of executors use it at once. Readers take no lock: `index.json`
//! is replaced by rename, blobs come by rename and never change. Writers hold
//! `flock(2)` on `.lock`, so that no blob is taken for garbage before the index
//! names it. Where a limit is set, what was not used for longest goes first.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::json;
use thiserror::Error;

use crate::image::{
    Descriptor, Digest, Document, Hasher, Image, ImageError, MANIFEST_LIMIT, Manifest, REF_NAME,
    layout_path,
};

/// The largest index that is read, in bytes.
const INDEX_LIMIT: u64 = 256 << 20;

/// After an eviction this share of the limit is used at most, in per cent.
const KEPT: u64 = 90;

/// Why a directory could not be used as a cache.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// A call on a file failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the call answered.
        source: io::Error,
    },
    /// A file has other content than its name promises.
    #[error("{path}: {why}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A manifest that is none.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// The layout, which need not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    dir: PathBuf,
    limit: Option<u64>,
}

/// One image of the layout, for lists.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its tag.
    pub tag: String,
    /// Its manifest.
    pub descriptor: Descriptor,
    /// When it was used last.
    pub used: SystemTime,
}

impl Layout {
    /// The layout in `dir`, kept below `limit` bytes where one is given.
    #[must_use]
    pub fn new(dir: PathBuf, limit: Option<u64>) -> Self {
        Self { dir, limit }
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The manifests of these tags, in order.
    pub fn manifests(&self, tags: &[String]) -> Vec<Result<Option<Manifest>, LayoutError>> {
        let index = match self.index() {
            Ok(index) => index,
            Err(error) => {
                let why = error.to_string();
                let damaged = || LayoutError::Damaged { path: self.dir.clone(), why: why.clone() };
                return tags.iter().map(|_| Err(damaged())).collect();
            }
        };
        tags.iter()
            .map(|tag| index.get(tag).map(|descriptor| self.manifest(descriptor)).transpose())
            .collect()
    }

    pub(super) fn manifest(&self, descriptor: &Descriptor) -> Result<Manifest, LayoutError> {
        let path = layout_path(&self.dir, descriptor.digest);
        let bytes = read(&path, MANIFEST_LIMIT as u64)?;
        if Digest::of(&bytes) != descriptor.digest {
            let why = "has other content than its name says".to_owned();
            return Err(LayoutError::Damaged { path, why });
        }
        match Document::parse(bytes.into(), Some(&descriptor.media_type))? {
            Document::Manifest(manifest) => Ok(*manifest),
            Document::Index(_) => {
                Err(LayoutError::Damaged { path, why: "is an index and no manifest".to_owned() })
            }
        }
    }

    /// Tag to descriptor; nothing where there is no layout yet.
    fn index(&self) -> Result<BTreeMap<String, Descriptor>, LayoutError> {
        let path = self.dir.join("index.json");
        let bytes = match read(&path, INDEX_LIMIT) {
            Err(LayoutError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(BTreeMap::new());
            }
            read => read?,
        };
        let damaged = |why: String| LayoutError::Damaged { path: path.clone(), why };
        let json: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let listed: Vec<Descriptor> = serde_json::from_value(json["manifests"].clone())
            .map_err(|error| damaged(error.to_string()))?;
        let named = listed.into_iter().filter_map(|descriptor| {
            Some((descriptor.annotations.get(REF_NAME)?.clone(), descriptor))
        });
        Ok(named.collect())
    }

    /// Adds an image under these tags; those that were there before are replaced.
    ///
    /// # Errors
    /// The directory cannot be written; what was in it stays as it was.
    pub fn put(&self, image: &Image, tags: &[String]) -> Result<(), LayoutError> {
        let blobs = self.dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).map_err(at(&blobs))?;
        let _lock = self.lock()?;
        for layer in image.layers() {
            let digest = layer.descriptor.digest;
            let from = layer.blob.open(digest).map_err(at(&self.dir))?;
            self.add_blob(digest, layer.descriptor.size, from)?;
        }
        for bytes in [image.config_bytes(), image.manifest_bytes()] {
            self.add_blob(Digest::of(&bytes), bytes.len() as u64, &bytes[..])?;
        }
        let marker = self.dir.join("oci-layout");
        if !marker.exists() {
            self.replace("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        // A damaged index is begun anew: it is a cache.
        let mut index = self.index().unwrap_or_default();
        for tag in tags {
            let mut descriptor = image.descriptor();
            descriptor.platform = Some(image.config().platform());
            descriptor.annotations.insert(REF_NAME.to_owned(), tag.clone());
            index.insert(tag.clone(), descriptor);
        }
        if let Some(limit) = self.limit {
            self.evict(&mut index, limit)?;
        }
        self.write_index(&index)
    }

    fn lock(&self) -> Result<File, LayoutError> {
        let path = self.dir.join(".lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(at(&path))?;
        file.lock().map_err(at(&path))?;
        Ok(file)
    }

    /// A blob that is there and whole stays.
    fn add_blob(
        &self,
        digest: Digest,
        size: u64,
        mut from: impl io::Read,
    ) -> Result<(), LayoutError> {
        let path = layout_path(&self.dir, digest);
        if File::open(&path)
            .and_then(|mut file| Digest::of_reader(&mut file))
            .is_ok_and(|found| found == (digest, size))
        {
            return Ok(());
        }
        let dir = self.dir.join("blobs");
        let mut file =
            tempfile::Builder::new().prefix(".new-").tempfile_in(&dir).map_err(at(&dir))?;
        let mut hasher = Hasher::default();
        let mut piece = vec![0; 128 << 10];
        loop {
            let n = match from.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(at(&path)(error)),
            };
            hasher.update(&piece[..n]);
            file.write_all(&piece[..n]).map_err(at(&path))?;
        }
        let found = hasher.finish();
        if found != (digest, size) {
            let why = format!("the bytes are {} and not {digest}", found.0);
            return Err(LayoutError::Damaged { path, why });
        }
        persist(file, &path)
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), LayoutError> {
        let path = self.dir.join(name);
        let new = tempfile::Builder::new().prefix(".new-").tempfile_in(&self.dir);
        let mut new = new.map_err(at(&self.dir))?;
        new.write_all(bytes).map_err(at(&path))?;
        persist(new, &path)
    }

    fn write_index(&self, index: &BTreeMap<String, Descriptor>) -> Result<(), LayoutError> {
        let json = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": index.values().collect::<Vec<_>>(),
        });
        self.replace("index.json", json.to_string().as_bytes())
    }

    /// Notes that an image was used.
    pub fn touch(&self, tag: &str) {
        let touch = || -> Result<(), LayoutError> {
            let Some(descriptor) = self.index()?.remove(tag) else { return Ok(()) };
            let path = layout_path(&self.dir, descriptor.digest);
            let file = File::options().write(true).open(&path).map_err(at(&path))?;
            file.set_modified(SystemTime::now()).map_err(at(&path))
        };
        if let Err(error) = touch() {
            // Of a cache that is read only, for instance.
            tracing::debug!("{error}");
        }
    }

    /// All images, those that were used last first.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, LayoutError> {
        let mut all: Vec<Listed> = self
            .index()?
            .into_iter()
            .map(|(tag, descriptor)| {
                let path = layout_path(&self.dir, descriptor.digest);
                let used = fs::metadata(&path).and_then(|it| it.modified());
                Listed { tag, descriptor, used: used.unwrap_or(SystemTime::UNIX_EPOCH) }
            })
            .collect();
        all.sort_by(|a, b| b.used.cmp(&a.used).then_with(|| a.tag.cmp(&b.tag)));
        Ok(all)
    }

    /// How many bytes its blobs have.
    ///
    /// # Errors
    /// They cannot be listed.
    pub fn size(&self) -> Result<u64, LayoutError> {
        Ok(self.blobs()?.values().sum())
    }

    fn blobs(&self) -> Result<BTreeMap<PathBuf, u64>, LayoutError> {
        let dir = self.dir.join("blobs/sha256");
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            entries => entries.map_err(at(&dir))?,
        };
        let mut found = BTreeMap::new();
        for entry in entries {
            let entry = entry.map_err(at(&dir))?;
            found.insert(entry.path(), entry.metadata().map_err(at(&dir))?.len());
        }
        Ok(found)
    }

    /// Removes the images of which `goes` says so, by tag and manifest; answers how many tags went.
    ///
    /// # Errors
    /// The directory cannot be read or written.
    pub fn remove(&self, goes: impl Fn(&str, Digest) -> bool) -> Result<usize, LayoutError> {
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let before = index.len();
        index.retain(|tag, descriptor| !goes(tag, descriptor.digest));
        self.write_index(&index)?;
        self.sweep(&index)?;
        Ok(before - index.len())
    }

    /// Takes images out of the index until what the rest needs is below the limit, and removes what
    /// nothing needs. The index is written before a blob goes.
    fn evict(
        &self,
        index: &mut BTreeMap<String, Descriptor>,
        limit: u64,
    ) -> Result<(), LayoutError> {
        if self.size()? <= limit {
            return Ok(());
        }
        let aim = limit / 100 * KEPT;
        let mut by_use: Vec<(SystemTime, Digest)> = index
            .values()
            .map(|it| {
                let path = layout_path(&self.dir, it.digest);
                let used = fs::metadata(path).and_then(|it| it.modified());
                (used.unwrap_or(SystemTime::UNIX_EPOCH), it.digest)
            })
            .collect();
        by_use.sort_by(|a, b| b.cmp(a));
        by_use.dedup();
        let (mut kept, mut needed, mut size) = (BTreeSet::new(), BTreeSet::new(), 0);
        for (_, digest) in by_use {
            let Ok(parts) = self.parts(digest) else { continue };
            let more: u64 =
                parts.iter().filter(|(it, _)| !needed.contains(it)).map(|it| it.1).sum();
            // What is used most recently stays, even alone above the limit.
            if !kept.is_empty() && size + more > aim {
                break;
            }
            size += more;
            needed.extend(parts.into_iter().map(|(digest, _)| digest));
            kept.insert(digest);
        }
        let before = index.len();
        index.retain(|_, descriptor| kept.contains(&descriptor.digest));
        tracing::info!("Evicted {} cache entries above {limit} bytes", before - index.len());
        self.write_index(index)?;
        self.sweep(index)
    }

    /// The blobs of an image, or of all images of an index, and their sizes.
    fn parts(&self, manifest: Digest) -> Result<Vec<(Digest, u64)>, LayoutError> {
        let (mut parts, mut waiting) = (BTreeMap::new(), vec![manifest]);
        while let Some(digest) = waiting.pop() {
            let path = layout_path(&self.dir, digest);
            let bytes = match read(&path, MANIFEST_LIMIT as u64) {
                // An index may name images that nobody copied along.
                Err(_) if digest != manifest => continue,
                read => read?,
            };
            parts.insert(digest, bytes.len() as u64);
            match Document::parse(bytes.into(), None)? {
                Document::Manifest(read) => {
                    let named = read.layers.iter().chain([&read.config]);
                    parts.extend(named.map(|it| (it.digest, it.size)));
                }
                Document::Index(index) => {
                    let named = index.manifests.iter().map(|it| it.digest);
                    waiting.extend(named.filter(|it| !parts.contains_key(it)));
                }
            }
        }
        Ok(parts.into_iter().collect())
    }

    /// Removes blobs that no image of the index needs, and what writers left behind that were killed.
    fn sweep(&self, index: &BTreeMap<String, Descriptor>) -> Result<(), LayoutError> {
        for dir in [self.dir.clone(), self.dir.join("blobs")] {
            for entry in fs::read_dir(&dir).map_err(at(&dir))? {
                let entry = entry.map_err(at(&dir))?;
                if entry.file_name().to_string_lossy().starts_with(".new-") {
                    fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
                }
            }
        }
        let mut needed = BTreeSet::new();
        for (tag, descriptor) in index {
            match self.parts(descriptor.digest) {
                Ok(parts) => {
                    needed.extend(parts.iter().map(|(digest, _)| layout_path(&self.dir, *digest)));
                }
                // A damaged entry needs nothing. What an image of somebody else needs is not known then.
                Err(error) if !super::inventory::is_ours(tag) => {
                    tracing::warn!(
                        "no blob is removed from {}: {tag}: {error}",
                        self.dir.display()
                    );
                    return Ok(());
                }
                Err(_) => {}
            }
        }
        for path in self.blobs()?.into_keys().filter(|path| !needed.contains(path)) {
            fs::remove_file(&path).map_err(at(&path))?;
        }
        Ok(())
    }
}

fn persist(file: tempfile::NamedTempFile, path: &Path) -> Result<(), LayoutError> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::Permissions::from_mode(0o644);
    file.as_file().set_permissions(mode).map_err(at(path))?;
    file.persist(path).map(drop).map_err(|error| at(path)(error.error))
}

/// The whole of a file that is not longer than `limit`.
fn read(path: &Path, limit: u64) -> Result<Vec<u8>, LayoutError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(at(path))?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(at(path))?;
    if bytes.len() as u64 > limit {
        let why = format!("is longer than {limit} bytes");
        return Err(LayoutError::Damaged { path: path.to_owned(), why });
    }
    Ok(bytes)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> LayoutError {
    let path = path.to_owned();
    move |source| LayoutError::Io { path, source }
}

#[cfg(test)]
mod tests;
