//! Images as values: what they are made of, wherever their bytes lie.
//!
//! # The promise
//!
//! An [`Image`] never changes; a step makes a new one from it. Bytes that came
//! from elsewhere (manifests, configs) are kept as they came, because digests
//! are of bytes. Whatever enters through this module has been validated once:
//! a [`Digest`], a [`Reference`] or a [`Manifest`] that exists is well formed.

mod blob;
mod config;
mod descriptor;
mod digest;
mod error;
mod layout;
mod manifest;
mod media_type;
mod platform;
mod reference;
mod value;

pub(crate) use blob::layout_path;
pub use blob::{Blob, BlobFile};
pub use config::{DEFAULT_PATH, Healthcheck, HistoryEntry, ImageConfig, RootFs, RunConfig};
pub use descriptor::Descriptor;
pub use digest::{Digest, Hasher};
pub use error::ImageError;
pub use layout::from_layout;
pub(crate) use layout::{REF_NAME, entries as layout_entries, has_blob, read_blob};
pub use manifest::{Document, Index, MANIFEST_LIMIT, Manifest};
pub use media_type::{Compression, Flavor};
pub use platform::Platform;
pub use reference::{Reference, Repository};
pub use value::{Image, ImageLayer};
