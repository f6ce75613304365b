//! Base images on this machine, put there by `warmer`.
//!
//! One image is `DIR/sha256:<hex>`, named by the digest of its manifest: an OCI
//! layout with the manifest as the registry has it, as the living fork of kaniko
//! writes it, or a `docker save` archive with compressed layers, as the original
//! did. A directory comes by rename, so that readers see whole images only; the
//! executor writes nothing there, and verifies all that it reads.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use thiserror::Error;

use super::{Layout, LayoutError};
use crate::image::{
    Blob, BlobFile, Descriptor, Digest, Hasher, Image, ImageError, Platform, Reference,
    from_layout, layout_path,
};

/// Where warmers lock, one file for each image.
const LOCKS: &str = ".warmer-locks";

/// Why an image could not be kept.
#[derive(Debug, Error)]
pub enum BasesError {
    /// A call on a file failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the call answered.
        source: io::Error,
    },
    /// The layout could not be written.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// The directory of base images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bases {
    dir: PathBuf,
    ttl: Duration,
    now: SystemTime,
}

/// Where the layers of one image are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warm {
    /// In an OCI layout.
    Layout(PathBuf),
    /// In a `docker save` archive.
    Archive(PathBuf),
}

impl Bases {
    /// The images in `dir` that are not older than `ttl`.
    #[must_use]
    pub fn new(dir: PathBuf, ttl: Duration, now: SystemTime) -> Self {
        Self { dir, ttl, now }
    }

    /// Where they are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn path_of(&self, manifest: Digest) -> PathBuf {
        self.dir.join(manifest.to_string())
    }

    /// The image with this manifest, if it is here and fresh.
    #[must_use]
    pub fn find(&self, manifest: Digest) -> Option<Warm> {
        let path = self.path_of(manifest);
        let found = fs::metadata(&path).ok()?;
        let age = self.now.duration_since(found.modified().ok()?).unwrap_or_default();
        if age >= self.ttl {
            tracing::info!("Base image {manifest} in {} expired", self.dir.display());
            return None;
        }
        Some(if found.is_dir() { Warm::Layout(path) } else { Warm::Archive(path) })
    }

    /// The image that a reference by digest means, without asking a registry; its layers are said to be
    /// in the repository that it names.
    #[must_use]
    pub fn image(&self, reference: &Reference, platform: &Platform) -> Option<Image> {
        let digest = reference.digest()?;
        let Warm::Layout(dir) = self.find(digest)? else { return None };
        match from_layout(&dir, Some(&digest.to_string()), platform) {
            Ok(image) => {
                let blob = Blob::Registry(reference.repository().clone());
                let layers = image.layers().to_vec();
                Some(
                    layers.iter().fold(image, |image, layer| {
                        image.with_blob(layer.descriptor.digest, &blob)
                    }),
                )
            }
            Err(error) => {
                tracing::warn!("base image {digest} is not used: {error}");
                None
            }
        }
    }

    /// Keeps an image whose layers are on this machine, under `name`; an older one is replaced.
    ///
    /// # Errors
    /// The directory cannot be written; what was there stays.
    pub fn put(&self, image: &Image, name: &str) -> Result<(), BasesError> {
        let new = tempfile::Builder::new()
            .prefix("warmingImage.")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(&self.dir)
            .map_err(at(&self.dir))?;
        Layout::new(new.path().to_owned(), None).put(image, &[name.to_owned()])?;
        let path = self.path_of(image.digest());
        let aside = new.path().with_extension("old");
        let had_old = fs::rename(&path, &aside).is_ok();
        fs::rename(new.path(), &path).map_err(at(&path))?;
        // Its name is gone, so there is nothing to delete any more.
        let _ = new.keep();
        if had_old {
            let removed =
                if aside.is_dir() { fs::remove_dir_all(&aside) } else { fs::remove_file(&aside) };
            removed.map_err(at(&aside))?;
        }
        Ok(())
    }

    /// Waits until no other warmer is busy with this image; the directory is made if it is missing.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn lock(&self, manifest: Digest) -> Result<File, BasesError> {
        let dir = self.dir.join(LOCKS);
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        let path = dir.join(manifest.to_string());
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(at(&path))?;
        file.lock().map_err(at(&path))?;
        Ok(file)
    }
}

impl Warm {
    /// The bytes of a layer, verified; those of an archive are copied to `dir`.
    ///
    /// # Errors
    /// The layer is not there, or not what the descriptor says.
    pub fn layer(&self, wanted: &Descriptor, dir: &Path) -> Result<BlobFile, BasesError> {
        match self {
            Self::Layout(layout) => {
                let path = layout_path(layout, wanted.digest);
                let found = File::open(&path).and_then(|mut file| Digest::of_reader(&mut file));
                let found = found.map_err(at(&path))?;
                check(found, wanted).map_err(at(&path))?;
                Ok(BlobFile::kept(path))
            }
            Self::Archive(archive) => from_archive(archive, wanted, dir).map_err(at(archive)),
        }
    }
}

/// Copies the member that holds the layer: `<hex>.tar.gz`, named by its digest.
fn from_archive(path: &Path, wanted: &Descriptor, dir: &Path) -> io::Result<BlobFile> {
    let mut archive = tar::Archive::new(File::open(path)?);
    let name = format!("{}.tar.gz", wanted.digest.hex());
    for member in archive.entries()? {
        let mut member = member?;
        if member.path_bytes().strip_prefix(b"./").unwrap_or(&member.path_bytes())
            != name.as_bytes()
        {
            continue;
        }
        let mut copy = tempfile::Builder::new().prefix("blob-").tempfile_in(dir)?;
        let mut hasher = Hasher::default();
        let mut piece = vec![0; 128 << 10];
        loop {
            let n = member.read(&mut piece)?;
            if n == 0 {
                break;
            }
            hasher.update(&piece[..n]);
            io::Write::write_all(&mut copy, &piece[..n])?;
        }
        check(hasher.finish(), wanted)?;
        return Ok(BlobFile::temporary(copy.into_temp_path()));
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("it has no {name}")))
}

fn check(found: (Digest, u64), wanted: &Descriptor) -> io::Result<()> {
    if found == (wanted.digest, wanted.size) {
        return Ok(());
    }
    let why = format!("layer {} is {} of {} bytes", wanted.digest, found.0, found.1);
    Err(io::Error::new(io::ErrorKind::InvalidData, why))
}

impl From<ImageError> for BasesError {
    fn from(error: ImageError) -> Self {
        Self::Layout(LayoutError::Image(error))
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BasesError {
    let path = path.to_owned();
    move |source| BasesError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Flavor, ImageLayer};

    fn image(home: &Path) -> Image {
        let path = home.join("layer");
        fs::write(&path, "layer").expect("written");
        let media_type = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        Image::scratch(Flavor::Docker, &Platform::new("linux", "amd64", None)).with_layer(
            ImageLayer {
                descriptor: Descriptor::of(media_type, b"layer"),
                diff_id: Digest::of(b"tar"),
                blob: Blob::File(BlobFile::kept(path)),
            },
        )
    }

    #[test]
    fn images_come_expire_and_are_replaced() {
        let home = tempfile::tempdir().expect("a directory");
        let bases = |now| Bases::new(home.path().join("b"), Duration::from_secs(60), now);
        let (now, image) = (SystemTime::now(), image(home.path()));
        let fresh = bases(now);
        assert_eq!(fresh.find(image.digest()), None);
        let lock = fresh.lock(image.digest()).expect("locked");
        for _ in 0..2 {
            fresh.put(&image, "r.example/a:1").expect("put");
        }
        drop(lock);
        let warm = fresh.find(image.digest()).expect("fresh");
        let wanted = &image.layers()[0].descriptor;
        warm.layer(wanted, home.path()).expect("whole");
        let name = format!("r.example/a@{}", image.digest());
        let platform = Platform::new("linux", "amd64", None);
        let found = fresh.image(&name.parse().expect("a name"), &platform).expect("found");
        assert_eq!(found.digest(), image.digest(), "the manifest as the registry has it");
        assert!(matches!(found.layers()[0].blob, Blob::Registry(_)));
        let later = bases(now + Duration::from_secs(120));
        assert_eq!(later.find(image.digest()), None, "expired");
        let Warm::Layout(dir) = warm.clone() else { panic!("an archive") };
        fs::write(layout_path(&dir, wanted.digest), "damage").expect("written");
        assert!(warm.layer(wanted, home.path()).is_err());
        assert_eq!(fs::read_dir(fresh.dir()).expect("listed").count(), 2, "nothing is left over");
    }

    #[test]
    fn an_archive_of_the_original_is_read() {
        let home = tempfile::tempdir().expect("a directory");
        let image = image(home.path());
        let bases = Bases::new(home.path().to_owned(), Duration::from_secs(60), SystemTime::now());
        let wanted = &image.layers()[0].descriptor;
        let file = File::create(bases.path_of(image.digest())).expect("made");
        let mut archive = tar::Builder::new(file);
        for (name, content) in
            [("manifest.json", "[]"), (&format!("{}.tar.gz", wanted.digest.hex()), "layer")]
        {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, content.as_bytes()).expect("added");
        }
        archive.finish().expect("written");
        let warm = bases.find(image.digest()).expect("fresh");
        assert!(matches!(warm, Warm::Archive(_)));
        let blob = warm.layer(wanted, home.path()).expect("whole");
        assert_eq!(fs::read(blob.path()).expect("read"), b"layer");
        let other = Descriptor { digest: Digest::of(b"other"), ..wanted.clone() };
        assert!(warm.layer(&other, home.path()).is_err());
    }
}
