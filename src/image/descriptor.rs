//! Pointers from one part of an image to another.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Compression, Digest, Platform};

/// An OCI descriptor, with the fields this program does not know kept as they came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// What the bytes are.
    #[serde(rename = "mediaType")]
    pub media_type: String,
    /// Their SHA-256.
    pub digest: Digest,
    /// Their length in bytes. A negative size does not parse.
    pub size: u64,
    /// Where else the bytes may be had; never followed, only carried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free key and value pairs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// In an index: what the manifest is made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Fields this program does not know.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Descriptor {
    /// A descriptor with nothing but the three fields that every one has.
    #[must_use]
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            platform: None,
            other: Map::new(),
        }
    }

    /// The descriptor of these bytes.
    #[must_use]
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// How the layer is compressed, by its media type; `None` if this is no layer.
    #[must_use]
    pub fn compression(&self) -> Option<Compression> {
        Compression::of_layer(&self.media_type)
    }
}
