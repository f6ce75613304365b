//! Manifests and indexes, with the bytes they came in.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::media_type::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use super::{Descriptor, Digest, Flavor, ImageError, Platform};

/// The largest manifest that is read, in bytes; distribution-spec asks registries to take no more.
pub const MANIFEST_LIMIT: usize = 4 << 20;

/// What a reference points to.
#[derive(Clone, Debug)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// One image for each platform.
    Index(Index),
}

/// An image manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Which media types it uses.
    pub flavor: Flavor,
    /// The image config.
    pub config: Descriptor,
    /// The layers, base first.
    pub layers: Vec<Descriptor>,
    /// Free key and value pairs.
    pub annotations: BTreeMap<String, String>,
    /// The bytes as they came.
    pub raw: Bytes,
}

/// An OCI index or a Docker manifest list.
#[derive(Clone, Debug)]
pub struct Index {
    /// The manifests it names.
    pub manifests: Vec<Descriptor>,
    /// The bytes as they came.
    pub raw: Bytes,
}

/// The JSON of a manifest, as it is written and read.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ManifestJson {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) layers: Option<Vec<Descriptor>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifests: Option<Vec<Descriptor>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    pub(crate) other: Map<String, Value>,
}

impl Document {
    /// Reads a manifest or an index.
    ///
    /// `content_type` is what the registry called it; it has to agree with what is inside, because the
    /// same bytes must not mean an image to one reader and an index to another.
    pub fn parse(raw: Bytes, content_type: Option<&str>) -> Result<Self, ImageError> {
        if raw.len() > MANIFEST_LIMIT {
            return Err(refused(format!("{} bytes; the limit is {MANIFEST_LIMIT}", raw.len())));
        }
        let json: ManifestJson =
            serde_json::from_slice(&raw).map_err(|error| refused(explain(&raw, &error)))?;
        if json.schema_version != 2 {
            return Err(refused(format!(
                "schema version {}; only 2 is supported: push the image again with a current tool",
                json.schema_version
            )));
        }
        let media_type = media_type(&json, content_type)?;
        match (media_type.as_str(), json) {
            (_, ManifestJson { layers: Some(_), manifests: Some(_), .. }) => {
                Err(refused("it has both `layers` and `manifests`".to_owned()))
            }
            (
                OCI_MANIFEST | DOCKER_MANIFEST,
                ManifestJson { config: Some(config), layers: Some(layers), annotations, .. },
            ) => Ok(Self::Manifest(Box::new(Manifest {
                flavor: flavor(&media_type)?,
                config,
                layers,
                annotations: annotations.unwrap_or_default(),
                raw,
            }))),
            (OCI_MANIFEST | DOCKER_MANIFEST, _) => {
                Err(refused("it lacks `config` or `layers`".to_owned()))
            }
            (OCI_INDEX | DOCKER_LIST, ManifestJson { manifests: Some(manifests), .. }) => {
                Ok(Self::Index(Index { manifests, raw }))
            }
            (OCI_INDEX | DOCKER_LIST, _) => Err(refused("it lacks `manifests`".to_owned())),
            (other, _) => Err(refused(format!("media type {other:?} is no image or index"))),
        }
    }
}

impl Manifest {
    /// The digest of the bytes as they came.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.raw)
    }
}

impl Index {
    /// The manifest that fits `wanted` best; the first of those that fit equally well.
    pub fn choose(&self, wanted: &Platform) -> Result<&Descriptor, ImageError> {
        let fit = |d: &Descriptor| d.platform.as_ref().and_then(|platform| platform.fits(wanted));
        self.manifests
            .iter()
            .filter_map(|manifest| Some((fit(manifest)?, manifest)))
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, manifest)| manifest)
            .ok_or_else(|| self.none_fits(wanted))
    }

    fn none_fits(&self, wanted: &Platform) -> ImageError {
        let mut names: Vec<String> = self
            .manifests
            .iter()
            .filter_map(|manifest| manifest.platform.as_ref())
            .filter(|platform| platform.os != "unknown") // attestations
            .map(Platform::to_string)
            .collect();
        names.sort();
        names.dedup();
        let available = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        ImageError::NoPlatform { wanted: wanted.to_string(), available }
    }
}

/// The media type that header, field and shape agree on.
fn media_type(json: &ManifestJson, content_type: Option<&str>) -> Result<String, ImageError> {
    // Parameters (`; charset=utf-8`) are no part of the type; some servers send no real type at all.
    let header = content_type
        .map(|header| header.split(';').next().unwrap_or(header).trim().to_ascii_lowercase())
        .filter(|header| !matches!(header.as_str(), "" | "application/json" | "text/plain"));
    match (&json.media_type, header) {
        (Some(inside), Some(outside)) if *inside != outside => {
            Err(refused(format!("Content-Type is {outside} but its mediaType is {inside}")))
        }
        (Some(inside), _) => Ok(inside.clone()),
        (None, Some(outside)) => Ok(outside),
        (None, None) if json.manifests.is_some() => Ok(OCI_INDEX.to_owned()),
        (None, None) => Ok(OCI_MANIFEST.to_owned()),
    }
}

fn flavor(media_type: &str) -> Result<Flavor, ImageError> {
    Flavor::of_manifest(media_type)
        .ok_or_else(|| refused(format!("media type {media_type:?} is no image")))
}

/// Schema 1 has no field in common that could fail helpfully, so it is looked for by name.
fn explain(raw: &[u8], error: &serde_json::Error) -> String {
    match serde_json::from_slice::<Value>(raw) {
        Ok(Value::Object(map)) if map.contains_key("fsLayers") => {
            "it is of schema 1, which is not supported: push the image again with a current tool"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

fn refused(why: String) -> ImageError {
    ImageError::Manifest(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn descriptor(media_type: &str, extra: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{D}","size":1{extra}}}"#)
    }

    fn manifest(media_type: &str, extra: &str) -> String {
        let config = descriptor("c", "");
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[]{extra}}}"#
        )
    }

    #[test]
    fn refusals() {
        for (text, content_type, want) in [
            ("", None, "EOF"),
            ("{}", None, "schemaVersion"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, None, "schema version 1"),
            (r#"{"fsLayers":[]}"#, None, "schema 1"),
            (&manifest(OCI_MANIFEST, r#","manifests":[]"#), None, "both"),
            (&manifest(OCI_MANIFEST, ""), Some(DOCKER_MANIFEST), "Content-Type"),
            (&manifest(OCI_INDEX, ""), None, "lacks `manifests`"),
            (&manifest("text/html", ""), None, "no image or index"),
            (r#"{"schemaVersion":2}"#, None, "lacks `config`"),
            (r#"{"schemaVersion":2,"manifests":[]}"#, Some(OCI_MANIFEST), "lacks `config`"),
            (&manifest(OCI_MANIFEST, "").replace(":1}", ":-1}"), None, "invalid value"),
            (&manifest(OCI_MANIFEST, "").replace("e3b0", "../."), None, "hexadecimal"),
            (&" ".repeat(MANIFEST_LIMIT + 1), None, "limit"),
        ] {
            let parsed = Document::parse(Bytes::from(text.to_owned()), content_type);
            let error = parsed.expect_err(text).to_string();
            assert!(error.contains(want), "{}: {error}", &text[..text.len().min(200)]);
        }
    }

    #[test]
    fn both_flavors_with_and_without_their_own_word() {
        for (text, content_type, want) in [
            (manifest(OCI_MANIFEST, ""), Some(OCI_MANIFEST), Flavor::Oci),
            (
                manifest(DOCKER_MANIFEST, ""),
                Some("application/json; charset=utf-8"),
                Flavor::Docker,
            ),
            (
                manifest(OCI_MANIFEST, "").replace(OCI_MANIFEST, DOCKER_MANIFEST),
                None,
                Flavor::Docker,
            ),
        ] {
            let parsed = Document::parse(Bytes::from(text.clone()), content_type).unwrap();
            let Document::Manifest(manifest) = parsed else { panic!("{text}: an index") };
            assert_eq!(manifest.flavor, want, "{text}");
            assert_eq!(manifest.raw, text, "the bytes are kept");
        }
    }

    #[test]
    fn our_reading_agrees_with_oci_spec() {
        let text =
            manifest(OCI_MANIFEST, r#","annotations":{"a":"b"}"#).replace(r#""c""#, r#""c/d""#);
        let theirs: oci_spec::image::ImageManifest = serde_json::from_str(&text).unwrap();
        let Document::Manifest(ours) = Document::parse(Bytes::from(text), None).unwrap() else {
            panic!("an index")
        };
        assert_eq!(ours.config.digest.to_string(), theirs.config().digest().to_string());
        assert_eq!(ours.config.size, theirs.config().size());
        assert_eq!(ours.annotations["a"], theirs.annotations().as_ref().unwrap()["a"]);
    }

    #[test]
    fn choice_by_platform() {
        let entry = |p: &str| descriptor(OCI_MANIFEST, p);
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{},{},{}]}}"#,
            entry(r#","platform":{"os":"linux","architecture":"arm","variant":"v6"}"#),
            entry(r#","platform":{"os":"linux","architecture":"amd64"},"annotations":{"n":"1"}"#),
            entry(r#","platform":{"os":"unknown","architecture":"unknown"}"#),
            entry("")
        );
        let Document::Index(index) = Document::parse(Bytes::from(text), None).unwrap() else {
            panic!("a manifest")
        };
        let chosen = index.choose(&"linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(chosen.annotations["n"], "1");
        let error = index.choose(&"linux/s390x".parse().unwrap()).unwrap_err().to_string();
        assert_eq!(error, "no image for platform linux/s390x; there are linux/amd64, linux/arm/v6");
    }
}
