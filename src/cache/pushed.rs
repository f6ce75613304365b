//! Which image a repository was given last, noted in the cache.
//!
//! A registry that has a manifest has everything that it names. A build under a tag that is new
//! learns in this way, by two requests, which layers it need not ask for one by one. A note is a hint:
//! where its image is gone, or the registry has lost some of it, everything is looked at as without it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use super::statement::Kind;
use super::{Cache, UnusableEntry, locked};
use crate::image::{Digest, Flavor, Image, Platform, Reference, Repository};
use crate::plan::{Framed, Key};
use crate::registry::Pushed;

/// What the tags of such notes begin with.
const TAG: &str = "pushed-";

/// What another version wrote is not used.
static KIND: Kind = Kind { prefix: "dev.kaniko-rs.pushed", version: "1" };

/// The tag of the note about a repository: images for other platforms have other layers.
fn tag(repository: &Repository, platform: &Platform) -> String {
    let framed = Framed::new("pushed").part(repository.to_string().as_bytes());
    format!("{TAG}{}", framed.part(platform.to_string().as_bytes()).finish().hex())
}

/// What follows in the tag of a note.
pub(super) fn key_of(tag: &str) -> Option<Key> {
    Key::parse(tag.strip_prefix(TAG)?)
}

/// The notes of one build.
#[derive(Debug, Default)]
pub(super) struct Notes(Mutex<BTreeMap<String, Digest>>);

/// What a note says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushNote {
    /// The repository that was pushed to.
    pub repository: String,
    /// For which platform.
    pub platform: String,
    /// The manifest that it took.
    pub image: Digest,
    /// When, RFC 3339.
    pub created: String,
    /// The same in seconds since 1970.
    pub created_seconds: i64,
}

impl PushNote {
    /// Reads what the annotations of a note of this tag say.
    ///
    /// # Errors
    /// It is no note, not this one, or of another version.
    pub fn read(tag: &str, annotations: &BTreeMap<String, String>) -> Result<Self, UnusableEntry> {
        let said = KIND.read(annotations)?;
        said.is_of(tag)?;
        let (created, created_seconds) = said.created()?;
        Ok(Self {
            repository: said.text("repository")?.to_owned(),
            platform: said.text("platform")?.to_owned(),
            image: said.parsed("image")?,
            created,
            created_seconds,
        })
    }

    /// The image without layers that says so.
    fn image(&self, tag: &str, platform: &Platform) -> Image {
        let pairs = [
            ("tag", tag.to_owned()),
            ("repository", self.repository.clone()),
            ("platform", self.platform.clone()),
            ("image", self.image.to_string()),
        ];
        Image::scratch(Flavor::Oci, platform).with_annotations(KIND.write(&self.created, pairs))
    }
}

impl Cache<'_> {
    /// The images that these repositories were given last, as far as earlier builds noted that.
    pub fn pushed_last(&self, repositories: &[Repository], platform: &Platform) -> Vec<Reference> {
        let tags: Vec<String> = repositories.iter().map(|it| tag(it, platform)).collect();
        let place = &self.settings.place;
        let answers = self.in_time(|limit| place.of_tags(self.registry, limit, &tags));
        let mut found = Vec::new();
        for ((repository, tag), answer) in repositories.iter().zip(tags).zip(answers) {
            let Ok(Some(manifest)) = answer else { continue };
            let Ok(note) = PushNote::read(&tag, &manifest.annotations) else { continue };
            if let Ok(name) = format!("{repository}@{}", note.image).parse() {
                found.push(name);
                self.notes().insert(tag, note.image);
            }
        }
        found
    }

    /// Notes what was pushed, beside the build, unless the note that is there tells as much.
    pub fn note_pushed(&self, image: &Image, pushed: &[Pushed], platform: &Platform) {
        let Ok(time) = jiff::Timestamp::from_second(self.settings.now) else { return };
        if !self.settings.push || self.is_late() {
            return;
        }
        for one in pushed {
            let repository = one.reference.repository();
            let tag = tag(repository, platform);
            let noted = self.notes().insert(tag.clone(), one.digest);
            let told = noted.is_some_and(|it| it == one.digest || self.told(repository, it, image));
            let Some(key) = key_of(&tag).filter(|_| !told) else { continue };
            let note = PushNote {
                repository: repository.to_string(),
                platform: platform.to_string(),
                image: one.digest,
                created: time.to_string(),
                created_seconds: time.as_second(),
            };
            let pending = self.start(key, note.image(&tag, platform), vec![tag]);
            locked(&self.pending).push(pending);
        }
    }

    /// Whether it was the image of the note that told that all layers of this one are there.
    fn told(&self, repository: &Repository, noted: Digest, image: &Image) -> bool {
        let layers: Vec<Digest> = image.layers().iter().map(|it| it.descriptor.digest).collect();
        self.registry.was_told(repository, noted, &layers)
    }

    fn notes(&self) -> MutexGuard<'_, BTreeMap<String, Digest>> {
        locked(&self.notes.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform() -> Platform {
        Platform::new("linux", "amd64", None)
    }

    fn repository(text: &str) -> Repository {
        let reference: Reference = text.parse().expect("a name");
        reference.repository().clone()
    }

    fn note() -> PushNote {
        PushNote {
            repository: "r.example/app".to_owned(),
            platform: platform().to_string(),
            image: Digest::of(b"manifest"),
            created: "2026-01-01T00:00:00Z".to_owned(),
            created_seconds: 1_767_225_600,
        }
    }

    #[test]
    fn a_note_is_about_one_repository_and_one_platform() {
        let own = tag(&repository("r.example/app"), &platform());
        assert_ne!(own, tag(&repository("r.example/other"), &platform()));
        let arm = Platform::new("linux", "arm64", None);
        assert_ne!(own, tag(&repository("r.example/app"), &arm));
        for (tag, want) in [(own.as_str(), true), ("pushed-1", false), ("pushed", false)] {
            assert_eq!(key_of(tag).is_some(), want, "{tag}");
        }
    }

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_refused() {
        let own = tag(&repository("r.example/app"), &platform());
        let whole = note().image(&own, &platform()).annotations().clone();
        assert_eq!(PushNote::read(&own, &whole).expect("whole"), note());
        let other = tag(&repository("r.example/other"), &platform());
        assert!(matches!(PushNote::read(&other, &whole), Err(UnusableEntry::OtherKey(_))));
        for (name, value, want) in [
            ("version", Some("0"), "format"),
            ("version", None, "version is missing"),
            ("tag", None, "tag is missing"),
            ("repository", None, "repository is missing"),
            ("image", Some("sha256:0"), "image cannot be read"),
        ] {
            let mut annotations = whole.clone();
            let name = KIND.name(name);
            match value {
                Some(value) => annotations.insert(name.clone(), value.to_owned()),
                None => annotations.remove(&name),
            };
            let told = PushNote::read(&own, &annotations).expect_err(&name).to_string();
            assert!(told.contains(want), "{name}: {told}");
        }
    }
}
