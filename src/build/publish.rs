//! Where the result goes: files first, registries last.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::images::Images;
use super::registry_failure;
use super::work::WorkDir;
use crate::image::{Blob, Digest, Flavor, Image, Reference};
use crate::registry::{PendingUpload, Pushed, Registry};
use crate::report::{Explain as _, Failure};
use crate::sink::{self, Place};

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
    /// Whether the registries are asked before the build.
    pub check: bool,
    /// `--digest-file`.
    pub digest_file: Option<Place>,
    /// `--image-name-with-digest-file`.
    pub names_file: Option<Place>,
    /// `--image-name-tag-with-digest-file`.
    pub tags_file: Option<Place>,
    /// Where a line of JSON for each destination is wanted (`BUILDER_OUTPUT`).
    pub list: Option<Place>,
    /// `--annotation`.
    pub annotations: BTreeMap<String, String>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--image-format`.
    pub flavor: Option<Flavor>,
}

/// What was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// The digest of the manifest.
    pub digest: Digest,
}

impl Outputs {
    /// Files and directories that will be written.
    pub(super) fn files(&self) -> impl Iterator<Item = &Path> {
        let results = [&self.tar, &self.layout].into_iter().flatten().map(PathBuf::as_path);
        results.chain(self.lines().filter_map(Place::file))
    }

    /// Where lines about the image are wanted.
    fn lines(&self) -> impl Iterator<Item = &Place> {
        [&self.digest_file, &self.names_file, &self.tags_file, &self.list].into_iter().flatten()
    }

    /// Whether outputs can be written and pushed, found out before the build.
    pub(super) fn check(&self, registry: &Registry) -> Result<(), Failure> {
        for path in self.files() {
            let near = path.ancestors().skip(1).find(|dir| dir.exists()).unwrap_or(path);
            tempfile::Builder::new()
                .prefix(".kaniko-")
                .tempfile_in(near)
                .could_not(|| format!("write {}", path.display()))?;
        }
        if !self.push {
            return Ok(());
        }
        registry.expect_push(&self.destinations);
        if !self.check {
            // Who the user is has to be found out before a base image is unpacked over the helpers.
            let repositories = super::repositories(&self.destinations);
            return registry.log_in(&repositories).map_err(|error| registry_failure(&error));
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

    /// Writes and pushes the image; under which names a registry took it. Files appear under their names only
    /// when the push has succeeded.
    pub(super) fn publish(
        &self,
        image: &Image,
        registry: &Registry,
        uploads: Vec<PendingUpload>,
        images: &Images<'_>,
        work: &WorkDir,
    ) -> Result<Vec<Pushed>, Failure> {
        let staged = self.stage(image, images, work)?;
        let pushed = self.push(image, registry, uploads, work)?;
        staged.commit()?;
        self.tell(image.digest(), registry)?;
        Ok(pushed)
    }

    /// Writes the lines about the image.
    fn tell(&self, digest: Digest, registry: &Registry) -> Result<(), Failure> {
        let each = |line: &dyn Fn(&Reference) -> String| -> String {
            self.destinations.iter().map(|it| format!("{}\n", line(it))).collect()
        };
        let json = |it: &Reference| json!({"name": it.to_string(), "digest": digest}).to_string();
        let texts = [
            (&self.digest_file, digest.to_string()),
            (&self.names_file, each(&|it| it.with_digest(digest).to_string())),
            (&self.tags_file, each(&|it| format!("{it}@{digest}"))),
            (&self.list, each(&json)),
        ];
        for (place, text) in texts {
            let Some(place) = place else { continue };
            place.write(&text, registry).could_not(|| "tell the digest of the image".to_owned())?;
        }
        Ok(())
    }

    /// Writes the files under other names.
    fn stage(
        &self,
        image: &Image,
        images: &Images<'_>,
        work: &WorkDir,
    ) -> Result<StagedFiles, Failure> {
        let mut staged = StagedFiles::default();
        if self.tar.is_none() && self.layout.is_none() {
            return Ok(staged);
        }
        let local = bring_here(image, images, work)?;
        if let Some(dir) = &self.layout {
            let tag = self.destinations.first().and_then(Reference::tag);
            let layout = sink::stage_oci_layout(&local, tag, dir)
                .could_not(|| format!("write the OCI layout {}", dir.display()))?;
            staged.layout = Some(layout);
        }
        if let Some(path) = &self.tar {
            let archive = sink::stage_docker_archive(&local, &self.destinations, path)
                .could_not(|| format!("write {}", path.display()))?;
            staged.archive = Some(archive);
        }
        Ok(staged)
    }

    fn push(
        &self,
        image: &Image,
        registry: &Registry,
        uploads: Vec<PendingUpload>,
        work: &WorkDir,
    ) -> Result<Vec<Pushed>, Failure> {
        if !self.push || self.destinations.is_empty() {
            tracing::info!("Skipping push to container registry due to --no-push flag");
            return Ok(Vec::new());
        }
        for destination in &self.destinations {
            tracing::info!("Pushing image to {destination}");
        }
        let pushed = registry
            .push(image, &self.destinations, uploads, &work.blobs())
            .map_err(|error| registry_failure(&error))?;
        for one in &pushed {
            tracing::info!("Pushed {}", one.reference.with_digest(one.digest));
        }
        Ok(pushed)
    }
}

/// Files that are written, but not under their names.
#[derive(Default)]
struct StagedFiles {
    layout: Option<sink::StagedLayout>,
    archive: Option<sink::StagedArchive>,
}

impl StagedFiles {
    fn commit(self) -> Result<(), Failure> {
        if let Some(layout) = self.layout {
            let dir = layout.dir().to_owned();
            layout.commit().could_not(|| format!("write the OCI layout {}", dir.display()))?;
            tracing::info!("Wrote OCI layout {}", dir.display());
        }
        if let Some(archive) = self.archive {
            let path = archive.path().to_owned();
            archive.commit().could_not(|| format!("write {}", path.display()))?;
            tracing::info!("Wrote {}", path.display());
        }
        Ok(())
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
