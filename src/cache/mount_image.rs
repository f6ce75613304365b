//! A cache of `RUN --mount=type=cache` as an image: how builders share one by way of a repository.
//!
//! Its tag is made of what tells the cache from others and of the platform. Its first layer is what was
//! in it once, each further one what a build changed, as in any image, so what did not change is not sent
//! again. An image without any content stands for a cache that begins anew.

use std::collections::BTreeMap;

use super::UnusableEntry;
use super::statement::Kind;
use crate::image::{Flavor, HistoryEntry, Image, ImageLayer, Platform};
use crate::plan::{Framed, Key};

/// What the tags of such images begin with.
const TAG: &str = "mount-";

/// What another version wrote is not used.
static KIND: Kind = Kind { prefix: "dev.kaniko-rs.mount", version: "1" };

/// The tag of a cache that `text` tells from all others.
#[must_use]
pub fn tag(text: &str, platform: &Platform) -> String {
    let framed = Framed::new("mount").part(text.as_bytes()).part(platform.to_string().as_bytes());
    format!("{TAG}{}", framed.finish().hex())
}

/// What follows in the tag of a cache.
pub(super) fn key_of(tag: &str) -> Option<Key> {
    Key::parse(tag.strip_prefix(TAG)?)
}

/// What an image says about the cache that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountImage {
    /// The `id` of the mount, and its namespace.
    pub id: String,
    /// Of which platform.
    pub platform: String,
    /// RFC 3339.
    pub created: String,
    /// The same in seconds since 1970.
    pub created_seconds: i64,
    /// What is in the cache, in bytes.
    pub bytes: u64,
    /// What was in the files of each layer, in bytes.
    pub contents: Vec<u64>,
}

impl MountImage {
    /// Reads what the annotations of an image of this tag say.
    ///
    /// # Errors
    /// It is no cache, not this one, or of another version.
    pub fn read(tag: &str, annotations: &BTreeMap<String, String>) -> Result<Self, UnusableEntry> {
        let said = KIND.read(annotations)?;
        said.is_of(tag)?;
        let contents: Option<Vec<u64>> =
            said.text("contents")?.split_whitespace().map(|it| it.parse().ok()).collect();
        let (created, created_seconds) = said.created()?;
        Ok(Self {
            id: said.text("id")?.to_owned(),
            platform: said.text("platform")?.to_owned(),
            created,
            created_seconds,
            bytes: said.parsed("bytes")?,
            contents: contents.ok_or(UnusableEntry::Unreadable("contents"))?,
        })
    }

    /// The image of these layers that says so.
    #[must_use]
    pub fn image(&self, tag: &str, layers: &[ImageLayer], platform: &Platform) -> Image {
        let contents: Vec<String> = self.contents.iter().map(u64::to_string).collect();
        let pairs = [
            ("tag", tag.to_owned()),
            ("id", self.id.clone()),
            ("platform", self.platform.clone()),
            ("bytes", self.bytes.to_string()),
            ("contents", contents.join(" ")),
        ];
        let history = || HistoryEntry {
            created: Some(self.created.clone()),
            created_by: Some(format!("the cache {:?} of RUN --mount=type=cache", self.id)),
            ..HistoryEntry::default()
        };
        let image = Image::scratch(Flavor::Oci, platform);
        let image = layers
            .iter()
            .fold(image, |image, layer| image.with_layer(layer.clone()).with_history(history()));
        image.with_annotations(KIND.write(&self.created, pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform() -> Platform {
        Platform::new("linux", "amd64", None)
    }

    fn said() -> MountImage {
        MountImage {
            id: "team/pip".to_owned(),
            platform: platform().to_string(),
            created: "2026-01-01T00:00:00Z".to_owned(),
            created_seconds: 1_767_225_600,
            bytes: 30,
            contents: vec![20, 15],
        }
    }

    #[test]
    fn a_tag_is_of_one_cache_on_one_platform() {
        let own = tag("id pip", &platform());
        assert_ne!(own, tag("id apt", &platform()));
        assert_ne!(own, tag("id pip", &Platform::new("linux", "arm64", None)));
        for (tag, want) in [(own.as_str(), true), ("mount-1", false), ("latest", false)] {
            assert_eq!(key_of(tag).is_some(), want, "{tag}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_refused() {
        let own = tag("id pip", &platform());
        let whole = said().image(&own, &[], &platform()).annotations().clone();
        assert_eq!(MountImage::read(&own, &whole).expect("whole"), said());
        let other = MountImage::read(&tag("id apt", &platform()), &whole);
        assert!(matches!(other, Err(UnusableEntry::OtherKey(_))));
        for (name, value, want) in [
            ("version", Some("0"), "format"),
            ("version", None, "version is missing"),
            ("tag", None, "tag is missing"),
            ("bytes", Some("-1"), "bytes cannot be read"),
            ("contents", Some("1 x"), "contents cannot be read"),
            ("id", None, "id is missing"),
        ] {
            let mut annotations = whole.clone();
            let name = KIND.name(name);
            match value {
                Some(value) => annotations.insert(name.clone(), value.to_owned()),
                None => annotations.remove(&name),
            };
            let told = MountImage::read(&own, &annotations).expect_err(&name).to_string();
            assert!(told.contains(want), "{name}: {told}");
        }
    }
}
