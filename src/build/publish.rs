//! Where the result goes: files first, registries last.

use std::path::PathBuf;

use super::images::Images;
use super::registry_failure;
use super::work::WorkDir;
use crate::image::{Blob, Digest, Image, Reference};
use crate::registry::{PendingUpload, Registry};
use crate::report::{Explain as _, Failure};
use crate::sink;

/// Where the image is wanted.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// `--destination`.
    pub destinations: Vec<Reference>,
    /// Whether it is pushed there.
    pub push: bool,
    /// `--tar-path`.
    pub tar: Option<PathBuf>,
    /// `--oci-layout-path`.
    pub layout: Option<PathBuf>,
    /// `--digest-file`.
    pub digest_file: Option<PathBuf>,
}

/// What was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// The digest of the manifest.
    pub digest: Digest,
}

impl Outputs {
    /// Whether the destinations can be pushed to, found out before the build.
    pub(super) fn check(&self, registry: &Registry) -> Result<(), Failure> {
        if !self.push {
            return Ok(());
        }
        let mut checked: Vec<&crate::image::Repository> = Vec::new();
        for reference in &self.destinations {
            if !checked.contains(&reference.repository()) {
                registry.check_push(reference).map_err(|error| {
                    let failure = registry_failure(&error);
                    failure.at("push permission")
                })?;
                checked.push(reference.repository());
            }
        }
        Ok(())
    }

    /// Removes what was written before the push failed.
    fn take_back(&self, failure: Failure) -> Failure {
        if let Some(path) = &self.tar {
            let _ = std::fs::remove_file(path);
        }
        if let Some(dir) = &self.layout {
            let _ = std::fs::remove_dir_all(dir);
        }
        failure
    }

    /// Writes and pushes the image. A file that was written goes again if the push fails.
    pub(super) fn publish(
        &self,
        image: &Image,
        registry: &Registry,
        uploads: Vec<PendingUpload>,
        images: &Images<'_>,
        work: &WorkDir,
    ) -> Result<Built, Failure> {
        let digest = image.digest();
        if self.tar.is_some() || self.layout.is_some() {
            let local = bring_here(image, images, work)?;
            if let Some(dir) = &self.layout {
                sink::write_oci_layout(
                    &local,
                    self.destinations.first().and_then(Reference::tag),
                    dir,
                )
                .could_not(|| format!("write the OCI layout {}", dir.display()))?;
                tracing::info!("Wrote OCI layout {}", dir.display());
            }
            if let Some(path) = &self.tar {
                sink::write_docker_archive(&local, &self.destinations, path)
                    .could_not(|| format!("write {}", path.display()))?;
                tracing::info!("Wrote {}", path.display());
            }
        }
        if self.push && !self.destinations.is_empty() {
            for destination in &self.destinations {
                tracing::info!("Pushing image to {destination}");
            }
            let pushed = registry
                .push(image, &self.destinations, uploads, &work.blobs())
                .map_err(|error| self.take_back(registry_failure(&error)))?;
            for one in pushed {
                tracing::info!("Pushed {}", one.reference.with_digest(one.digest));
            }
        } else {
            tracing::info!("Skipping push to container registry due to --no-push flag");
        }
        if let Some(path) = &self.digest_file {
            sink::write_digest(path, digest)
                .could_not(|| format!("write the digest file {}", path.display()))?;
        }
        Ok(Built { digest })
    }
}

/// The same image with all its layers on this machine.
fn bring_here(image: &Image, images: &Images<'_>, work: &WorkDir) -> Result<Image, Failure> {
    images.prefetch(image, &work.blobs());
    let mut local = image.clone();
    for layer in image.layers() {
        if matches!(layer.blob, Blob::Registry(_)) {
            let file = images.blob(layer, &work.blobs())?;
            local = local.with_blob(layer.descriptor.digest, &Blob::File(file));
        }
    }
    Ok(local)
}
