//! What can be wrong with an image or with the name of one.

use std::io;
use std::path::PathBuf;

/// An image, or a part of one, that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A digest that is not `sha256:` and 64 hexadecimal digits.
    #[error("digest {text:?}: {why}")]
    Digest {
        /// The text as given.
        text: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// An image name that no registry could hold.
    #[error("image name {text:?}: {why}")]
    Reference {
        /// The text as given.
        text: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// A platform that is not `os/architecture[/variant]`.
    #[error("platform {text:?}: {why}")]
    Platform {
        /// The text as given.
        text: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// A manifest or index that this program does not accept.
    #[error("manifest: {0}")]
    Manifest(String),
    /// An image config that this program does not accept.
    #[error("image config: {0}")]
    Config(String),
    /// No manifest of an index fits the wanted platform.
    #[error("no image for platform {wanted}; there are {available}")]
    NoPlatform {
        /// The platform asked for.
        wanted: String,
        /// What the index offers, separated by commas.
        available: String,
    },
    /// Two parts of one image contradict each other.
    #[error("image is inconsistent: {0}")]
    Inconsistent(String),
    /// Bytes whose digest or length is not the promised one.
    #[error("blob {digest} in {place} {why}")]
    Corrupt {
        /// The promised digest.
        digest: super::Digest,
        /// Where the bytes came from.
        place: String,
        /// What differs.
        why: String,
    },
    /// An OCI layout directory that lacks what was asked for.
    #[error("OCI layout {dir}: {why}")]
    Layout {
        /// The layout's directory.
        dir: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file that could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl ImageError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
