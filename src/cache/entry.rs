//! One entry: an image of one layer, which says what it was made of.
//!
//! Everything that a look-up needs is in the annotations of its manifest, so
//! that a hit costs one request. What only explanations need, the inputs one
//! by one, is in its config.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::statement::Kind;
use super::{Lineage, Made, ReadSet, UnusableEntry};
use crate::image::{
    Blob, Digest, Flavor, HistoryEntry, Image, ImageError, ImageLayer, Manifest, Platform,
};
use crate::plan::{Framed, Inputs, Key};

/// What the tag of the last entry of a step begins with.
pub(super) const LAST: &str = "last-";

/// What the tag of the last entry of a command begins with of which it is known what it read.
pub(super) const READS: &str = "reads-";

/// Where an entry that is found by what was read names older ones.
const OLDER: &str = "read-sets";

/// One of another version is a miss.
static KIND: Kind = Kind { prefix: "dev.kaniko-rs.cache", version: "1" };

/// Where the config of an entry holds the record.
const RECORD: &str = "kaniko-rs.cache";

/// The most inputs that are recorded one by one; more would make configs that nobody reads.
const RECORDED: usize = 50_000;

/// Digits of a digest that a record keeps: enough to see that something changed.
const DIGITS: usize = 16;

/// A layer that can be used instead of executing a step.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name, or the other one by which it was found.
    pub key: Key,
    /// What it was made after, as the name means it.
    pub before: Lineage,
    /// Its name by the content of what was copied from other stages, and what it was made after then.
    pub by_content: Option<(Key, Lineage)>,
    /// What its step made, but for times.
    pub outcome: Digest,
    /// RFC 3339.
    pub created: String,
    /// The same in seconds since 1970.
    pub created_seconds: i64,
    /// The instruction, as a log shows it.
    pub step: String,
    /// The layer.
    pub layer: ImageLayer,
}

impl Entry {
    /// Reads the entry that `key` named; its layer is in `blob`.
    ///
    /// # Errors
    /// It is none, or not of this key or version.
    pub fn read(key: Key, manifest: &Manifest, blob: Blob) -> Result<Self, UnusableEntry> {
        let said = KIND.read(&manifest.annotations)?;
        let lineage =
            |name| Lineage::parse(said.text(name)?).ok_or(UnusableEntry::Unreadable(name));
        let by_content = match said.text("content-key") {
            Err(_) => None,
            Ok(key) => {
                let key = Key::parse(key).ok_or(UnusableEntry::Unreadable("content-key"))?;
                Some((key, lineage("content-before")?))
            }
        };
        let before = match by_content {
            _ if said.text("key")? == key.to_string() => lineage("before")?,
            Some((other, before)) if other == key => before,
            Some(_) | None => return Err(UnusableEntry::OtherKey(said.text("key")?.to_owned())),
        };
        let [descriptor] = manifest.layers.as_slice() else {
            return Err(UnusableEntry::Layers(manifest.layers.len()));
        };
        if descriptor.compression().is_none() {
            return Err(UnusableEntry::Type(descriptor.media_type.clone()));
        }
        let diff_id: Digest = said.parsed("diff-id")?;
        let layer = ImageLayer { descriptor: descriptor.clone(), diff_id, blob };
        let (created, created_seconds) = said.created()?;
        Ok(Self {
            key,
            before,
            by_content,
            outcome: said.parsed("outcome")?,
            created,
            created_seconds,
            step: said.text("step")?.to_owned(),
            layer,
        })
    }

    /// The key that an image says it is the entry of.
    #[must_use]
    pub fn key_of(image: &Image) -> Option<Key> {
        Key::parse(image.annotations().get(&KIND.name("key"))?)
    }

    /// The key that a manifest says it is the entry of, and those of older entries of the same command.
    pub(super) fn keys_of(manifest: &Manifest) -> Vec<Key> {
        let text = |name| manifest.annotations.get(&KIND.name(name));
        let older = text(OLDER).into_iter().flat_map(|keys| keys.split(','));
        let keys = text("key").map(String::as_str).into_iter().chain(older);
        keys.filter_map(Key::parse).collect()
    }
}

/// The image that is stored for a layer.
pub(super) fn image(made: &Made<'_>, platform: &Platform) -> Result<Image, ImageError> {
    let created = jiff::Timestamp::from_second(made.created).unwrap_or_default().to_string();
    let mut image = Image::scratch(Flavor::Oci, platform);
    let mut layer = made.layer.clone();
    let media_type = layer.compression().and_then(|how| Flavor::Oci.layer(how));
    media_type
        .ok_or_else(|| ImageError::Inconsistent("its layer has no known type".to_owned()))?
        .clone_into(&mut layer.descriptor.media_type);
    let pairs = [
        ("key", made.key.to_string()),
        ("before", made.before.to_string()),
        ("outcome", made.outcome.to_string()),
        ("diff-id", layer.diff_id.to_string()),
        ("step", made.record.step.clone()),
    ];
    let content = made.by_content.iter().flat_map(|(key, before)| {
        [("content-key", key.to_string()), ("content-before", before.to_string())]
    });
    let older = made.read_as.as_ref().filter(|(_, older)| !older.is_empty()).map(|(_, older)| {
        let older: Vec<String> = older.iter().map(Key::to_string).collect();
        (OLDER, older.join(","))
    });
    let annotations = KIND.write(&created, pairs.into_iter().chain(content).chain(older));
    let mut config = image.config().clone();
    if let Some(reads) = made.reads {
        ReadSet::write_to(reads, &mut config);
    }
    config.created = Some(created.clone());
    let record =
        serde_json::to_value(&made.record).expect("a record is texts, which always encode");
    config.other.insert(RECORD.to_owned(), record);
    image = image.with_config(config).with_layer(layer).with_history(HistoryEntry {
        created: Some(created),
        created_by: Some(made.record.step.clone()),
        ..HistoryEntry::default()
    });
    Ok(image.with_annotations(annotations))
}

/// What a step depended on, for people: names, and enough of each digest to see a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The instruction, as a log shows it.
    pub step: String,
    /// Which step of which stage it is, whatever it depends on.
    place: String,
    inputs: Vec<(String, String)>,
}

impl Record {
    /// Of a step that stands at `place`; the names of inputs get what stands before them.
    #[must_use]
    pub fn new(step: &str, place: &str, inputs: &[(String, Inputs)]) -> Self {
        let short = |digest: Digest| digest.hex().chars().take(DIGITS).collect();
        let all = inputs.iter().flat_map(|(prefix, inputs)| {
            inputs.iter().map(move |it| (format!("{prefix}{}", it.name), short(it.digest)))
        });
        let inputs = all.take(RECORDED).collect();
        Self { step: step.to_owned(), place: place.to_owned(), inputs }
    }

    /// The record of an entry, if it has one.
    #[must_use]
    pub fn read(image: &Image) -> Option<Self> {
        let value = image.config().other.get(RECORD)?;
        serde_json::from_value(value.clone()).ok()
    }

    /// The tag that the last entry of the same step has, too.
    #[must_use]
    pub fn last_tag(&self) -> String {
        format!("{LAST}{}", Framed::new("last").part(self.place.as_bytes()).finish().hex())
    }

    /// How this differs from an earlier record of the same step, in words.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> Vec<String> {
        let now: BTreeMap<&str, &str> = pairs(&self.inputs);
        let then: BTreeMap<&str, &str> = pairs(&before.inputs);
        let changed = now.iter().filter_map(|(name, digest)| match then.get(name) {
            None => Some(format!("{name} is new")),
            Some(old) if old != digest => Some(format!("{name} changed")),
            Some(_) => None,
        });
        let gone = then.keys().filter(|name| !now.contains_key(*name));
        changed.chain(gone.map(|name| format!("{name} is gone"))).collect()
    }

    /// All inputs, and enough of the digest of each to see a change.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.inputs.iter().map(|(name, digest)| (name.as_str(), digest.as_str()))
    }
}

fn pairs(inputs: &[(String, String)]) -> BTreeMap<&str, &str> {
    inputs.iter().map(|(name, digest)| (name.as_str(), digest.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{BlobFile, Descriptor, Document};

    fn inputs(list: &[(&str, &str)]) -> Inputs {
        let mut inputs = Inputs::default();
        for (name, value) in list {
            inputs.push(name, value);
        }
        inputs
    }

    fn platform() -> Platform {
        Platform::new("linux", "amd64", None)
    }

    fn own_key() -> Key {
        Key::of_base(&[], &platform())
    }

    fn other_key() -> Key {
        Key::of_base(&[Digest::of(b"other")], &platform())
    }

    fn third_key() -> Key {
        Key::of_base(&[Digest::of(b"third")], &platform())
    }

    fn entry(change: impl FnOnce(&mut BTreeMap<String, String>)) -> Result<Entry, UnusableEntry> {
        found_by(own_key(), change)
    }

    /// The entry of [`own_key`], looked up by `name`.
    fn found_by(
        name: Key,
        change: impl FnOnce(&mut BTreeMap<String, String>),
    ) -> Result<Entry, UnusableEntry> {
        let (platform, key) = (platform(), own_key());
        let layer = ImageLayer {
            descriptor: Descriptor::of(
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
                b"layer",
            ),
            diff_id: Digest::of(b"tar"),
            blob: Blob::File(BlobFile::kept("/nowhere")),
        };
        let made = Made {
            key,
            before: Lineage::start(),
            by_content: Some((other_key(), Lineage::start().after(Digest::of(b"1")))),
            outcome: Digest::of(b"outcome"),
            created: 1_700_000_000,
            layer: &layer,
            record: Record::new("RUN make", "0:1", &[(String::new(), inputs(&[("a", "1")]))]),
            reads: None,
            read_as: Some((third_key(), vec![other_key(), third_key()])),
        };
        let image = image(&made, &platform).expect("a gzip layer");
        let mut annotations = image.annotations().clone();
        change(&mut annotations);
        let image = image.with_annotations(annotations);
        assert_eq!(Record::read(&image).as_ref(), Some(&made.record));
        let parsed = Document::parse(image.manifest_bytes(), None).expect("a manifest");
        let Document::Manifest(manifest) = parsed else { panic!("an index") };
        if manifest.annotations.get(&KIND.name("key")) == Some(&own_key().to_string()) {
            assert_eq!(Entry::keys_of(&manifest), [own_key(), other_key(), third_key()]);
        }
        Entry::read(name, &manifest, Blob::Layout("/l".into()))
    }

    #[test]
    fn what_is_written_is_read() {
        let entry = entry(|_| {}).expect("whole");
        assert_eq!(entry.created_seconds, 1_700_000_000);
        assert_eq!((entry.before, entry.outcome), (Lineage::start(), Digest::of(b"outcome")));
        assert_eq!(entry.layer.diff_id, Digest::of(b"tar"));
        let oci = "application/vnd.oci.image.layer.v1.tar+gzip";
        assert_eq!(entry.layer.descriptor.media_type, oci);
    }

    #[test]
    fn an_entry_has_two_names_and_no_third() {
        let after = Lineage::start().after(Digest::of(b"1"));
        let by_content = Some((other_key(), after));
        let own = found_by(own_key(), |_| {}).expect("its own name");
        assert_eq!((own.before, own.by_content), (Lineage::start(), by_content));
        let other = found_by(other_key(), |_| {}).expect("its other name");
        assert_eq!((other.key, other.before), (other_key(), after));
        assert!(matches!(found_by(third_key(), |_| {}), Err(UnusableEntry::OtherKey(_))));
        let without = |annotations: &mut BTreeMap<String, String>| {
            annotations.retain(|name, _| !name.contains("content"));
        };
        assert!(matches!(found_by(other_key(), without), Err(UnusableEntry::OtherKey(_))));
        assert_eq!(found_by(own_key(), without).expect("one name").by_content, None);
    }

    #[test]
    fn what_is_damaged_is_refused() {
        for (name, value, want) in [
            ("version", Some("0"), "format"),
            ("version", None, "version is missing"),
            ("key", Some("0"), "another key"),
            ("before", Some("x"), "before cannot be read"),
            ("outcome", None, "outcome is missing"),
            ("diff-id", Some("sha256:0"), "diff-id cannot be read"),
            ("content-key", Some("0"), "content-key cannot be read"),
            ("content-before", None, "content-before is missing"),
        ] {
            let name = KIND.name(name);
            let refused = entry(|annotations| {
                match value {
                    Some(value) => annotations.insert(name.clone(), value.to_owned()),
                    None => annotations.remove(&name),
                };
            });
            let told = refused.expect_err(&name).to_string();
            assert!(told.contains(want), "{name}: {told}");
        }
    }

    #[test]
    fn a_miss_is_told_by_what_changed() {
        let record = |list: &[(&str, &str)]| {
            Record::new("COPY . .", "0:2", &[(String::new(), inputs(list))])
        };
        let then = record(&[("src/main.c", "1"), ("a", "1"), ("old", "1")]);
        for (now, want) in [
            (record(&[("src/main.c", "2"), ("a", "1"), ("old", "1")]), "src/main.c changed"),
            (record(&[("src/main.c", "1"), ("a", "1")]), "old is gone"),
            (record(&[("src/main.c", "1"), ("a", "1"), ("old", "1"), ("n", "")]), "n is new"),
            (then.clone(), ""),
        ] {
            assert_eq!(now.changes_since(&then).join(", "), want);
        }
        assert_eq!(then.last_tag(), record(&[]).last_tag());
    }
}
