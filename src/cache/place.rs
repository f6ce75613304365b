//! Where entries are kept: a repository of a registry, or an OCI layout on this machine.

use std::path::Path;
use std::time::Duration;

use thiserror::Error;

use super::{Layout, Miss};
use crate::image::{
    Blob, Image, ImageLayer, Manifest, Platform, Reference, Repository, from_layout,
};
use crate::plan::Key;
use crate::registry::{Registry, RegistryError};

/// The store of a cache.
#[derive(Debug, Clone)]
pub enum Place {
    /// A repository; entries are its tags.
    Registry(Repository),
    /// A directory; entries are the images of its layout.
    Layout(Layout),
}

/// Why `--cache-repo` names no place.
#[derive(Debug, Error)]
pub enum PlaceError {
    /// It has a tag or digest of its own.
    #[error("it names one image, and a repository is needed: leave out what follows {0}")]
    Image(String),
    /// No directory is named.
    #[error("write {0}:PATH")]
    NoPath(&'static str),
    /// No repository is called so.
    #[error(transparent)]
    Name(#[from] crate::image::ImageError),
}

impl Place {
    /// Reads `REPOSITORY`, `oci:PATH` or `dir:PATH`, which is kept below `limit` bytes; paths are
    /// relative to `here`.
    ///
    /// # Errors
    /// It is none of these.
    pub fn parse(text: &str, here: &Path, limit: u64) -> Result<Self, PlaceError> {
        let path = |path: &str, scheme| {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() { Err(PlaceError::NoPath(scheme)) } else { Ok(here.join(path)) }
        };
        if let Some(dir) = text.strip_prefix("oci:") {
            return Ok(Self::Layout(Layout::new(path(dir, "oci")?, None)));
        }
        if let Some(dir) = text.strip_prefix("dir:") {
            return Ok(Self::Layout(Layout::new(path(dir, "dir")?, Some(limit))));
        }
        let reference: Reference = text.parse()?;
        let bare = reference.repository().to_string();
        let last = text.rsplit('/').next().unwrap_or_default();
        // A port is no tag: it stands before a slash, and there is one after it.
        if reference.digest().is_some() || last.contains(':') {
            return Err(PlaceError::Image(bare));
        }
        Ok(Self::Registry(reference.repository().clone()))
    }

    /// The directory on this machine that it is.
    #[must_use]
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Self::Registry(_) => None,
            Self::Layout(layout) => Some(layout.dir()),
        }
    }

    /// Where the layers of its entries are.
    pub(super) fn blob(&self) -> Blob {
        match self {
            Self::Registry(repository) => Blob::Registry(repository.clone()),
            Self::Layout(layout) => Blob::Layout(layout.dir().to_owned()),
        }
    }

    /// The manifests of these entries, in order.
    pub(super) fn manifests(
        &self,
        registry: &Registry,
        limit: Duration,
        keys: &[Key],
    ) -> Vec<Result<Option<Manifest>, Miss>> {
        self.of_tags(registry, limit, &keys.iter().map(Key::to_string).collect::<Vec<_>>())
    }

    /// The manifests of the last entries of these commands, in order.
    pub(super) fn last_by_reads(
        &self,
        registry: &Registry,
        limit: Duration,
        commands: &[Key],
    ) -> Vec<Result<Option<Manifest>, Miss>> {
        let tags = commands.iter().map(|key| format!("{}{key}", super::entry::READS));
        self.of_tags(registry, limit, &tags.collect::<Vec<_>>())
    }

    /// The manifests of these tags, in order.
    pub(super) fn of_tags(
        &self,
        registry: &Registry,
        limit: Duration,
        tags: &[String],
    ) -> Vec<Result<Option<Manifest>, Miss>> {
        match self {
            Self::Registry(repository) => {
                let names: Result<Vec<Reference>, _> =
                    tags.iter().map(|tag| format!("{repository}:{tag}").parse()).collect();
                let names = names.expect("a key is a tag");
                let told = |answer: Result<_, RegistryError>| {
                    answer.map_err(|error| match error {
                        RegistryError::Late(_) => Miss::Late,
                        other => Miss::Unusable(other.to_string()),
                    })
                };
                registry.manifests(&names, limit).into_iter().map(told).collect()
            }
            Self::Layout(layout) => layout
                .manifests(tags)
                .into_iter()
                .map(|answer| answer.map_err(|error| Miss::Unusable(error.to_string())))
                .collect(),
        }
    }

    /// The whole image of a tag, with its config.
    pub(super) fn image(
        &self,
        registry: &Registry,
        limit: Duration,
        tag: &str,
        platform: &Platform,
    ) -> Result<Image, String> {
        match self {
            Self::Registry(repository) => {
                let name: Reference = format!("{repository}:{tag}")
                    .parse()
                    .map_err(|error: crate::image::ImageError| error.to_string())?;
                registry.pull_within(limit, &name, platform).map_err(|error| error.to_string())
            }
            Self::Layout(layout) => {
                from_layout(layout.dir(), Some(tag), platform).map_err(|error| error.to_string())
            }
        }
    }

    /// What can be seen without reading a layer: on this machine, whether it is there.
    pub(super) fn check_layer(&self, layer: &ImageLayer) -> Result<(), String> {
        let Some(path) = layer.blob.path(layer.descriptor.digest) else { return Ok(()) };
        match std::fs::metadata(&path) {
            Ok(found) if found.len() == layer.descriptor.size => Ok(()),
            Ok(found) => Err(format!(
                "its layer {} has {} bytes instead of {}",
                layer.descriptor.digest,
                found.len(),
                layer.descriptor.size
            )),
            Err(error) => Err(format!("its layer {}: {error}", path.display())),
        }
    }

    /// Notes that an entry was used, where what is used last is kept longest.
    pub(super) fn touch(&self, key: Key) {
        if let Self::Layout(layout) = self {
            layout.touch(&key.to_string());
        }
    }
}

/// A size: a number with an optional `k`, `M`, `G` or `T`, powers of 1000, or `Ki` and so on of 1024.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim().trim_end_matches(['B', 'b']);
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number: u64 = digits.parse().ok()?;
    let factor: u64 = match text[digits.len()..].trim() {
        "" => 1,
        "k" | "K" => 1000,
        "M" | "m" => 1000_u64.pow(2),
        "G" | "g" => 1000_u64.pow(3),
        "T" | "t" => 1000_u64.pow(4),
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (text, want) in [
            ("r.example:5000/team/cache", "registry r.example:5000/team/cache"),
            ("oci:/c", "/c"),
            ("oci:c", "/here/c"),
            ("dir:/c", "/c"),
            ("dir:///c", "/c"),
            ("dir:", "write dir:PATH"),
            ("r.example/c:tag", "it names one image"),
            ("r.example/UPPER", "image name"),
        ] {
            let told = match Place::parse(text, Path::new("/here"), 1) {
                Ok(Place::Registry(repository)) => format!("registry {repository}"),
                Ok(Place::Layout(layout)) => layout.dir().display().to_string(),
                Err(error) => error.to_string(),
            };
            assert!(told.starts_with(want), "{text}: {told}");
        }
    }

    #[test]
    fn sizes() {
        for (text, want) in [
            ("1", Some(1)),
            ("20G", Some(20_000_000_000)),
            ("2GiB", Some(2 << 30)),
            ("10 MB", Some(10_000_000)),
            ("", None),
            ("G", None),
            ("1X", None),
            ("99999999999T", None),
        ] {
            assert_eq!(parse_size(text), want, "{text}");
        }
    }
}
