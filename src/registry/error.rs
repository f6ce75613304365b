//! What can go wrong between this program and a registry.

use std::io;
use std::path::PathBuf;

use crate::image::ImageError;

/// A request to a registry that came to nothing. No variant ever holds a credential or a whole URL.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// 401 or 403: the registry wants somebody else.
    #[error("{what}: access denied ({status}{})", after_colon(.message))]
    Denied {
        /// What was to be done, with the reference.
        what: String,
        /// HTTP status.
        status: u16,
        /// The registry's own words.
        message: String,
        /// Which credentials were used, and what to look at.
        hint: String,
    },
    /// 404: there is no such thing.
    #[error("{what}: not found (404{})", after_colon(.message))]
    NotFound {
        /// What was to be done, with the reference.
        what: String,
        /// The registry's own words.
        message: String,
    },
    /// Any other status that is no success.
    #[error("{what}: the registry answered {status}{}", after_colon(.message))]
    Status {
        /// What was to be done, with the reference.
        what: String,
        /// HTTP status.
        status: u16,
        /// The registry's own words.
        message: String,
    },
    /// No answer at all.
    #[error("{what}: {why}")]
    Network {
        /// What was to be done, with the reference.
        what: String,
        /// The causes, outermost first.
        why: String,
        /// What may help.
        hint: Option<&'static str>,
    },
    /// No answer in the time that there was for it.
    #[error("{0}: no answer in time")]
    Late(String),
    /// An answer that is not what the protocol, or a digest, promised.
    #[error("{what}: {why}")]
    Answer {
        /// What was to be done, with the reference.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// A manifest or config that cannot be used.
    #[error("{what}: {source}")]
    Image {
        /// What was to be done, with the reference.
        what: String,
        /// What is wrong with it.
        source: ImageError,
    },
    /// Credentials that cannot be read or asked for.
    #[error("credentials: {0}")]
    Credentials(String),
    /// Settings that make no client: a certificate, a proxy.
    #[error("registry settings: {0}")]
    Settings(String),
    /// A file that could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The client was closed while a transfer was under way.
    #[error("{0}: cancelled")]
    Cancelled(String),
}

impl RegistryError {
    /// What the user may do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            _ if self.is_immutable_tag() => Some(
                "push another tag, or go on without it: --push-ignore-immutable-tag-errors"
                    .to_owned(),
            ),
            Self::Denied { hint, .. } => Some(hint.clone()),
            Self::NotFound { .. } => {
                Some("check the name and the tag; private repositories answer so, too".to_owned())
            }
            Self::Network { hint, .. } => hint.map(str::to_owned),
            Self::Status { status: 400, message, .. } if message.contains("HTTPS") => {
                Some("an HTTPS server answers so to plain HTTP: leave --insecure out".to_owned())
            }
            Self::Status { .. }
            | Self::Late(_)
            | Self::Answer { .. }
            | Self::Image { .. }
            | Self::Credentials(_)
            | Self::Settings(_)
            | Self::Io { .. }
            | Self::Cancelled(_) => None,
        }
    }

    /// Whether the registry says that there is no such image or blob.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the registry has no such operation.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Self::Status { status: 405 | 501, .. })
            || matches!(self, Self::Status { status: 400, message, .. } if message.contains("UNSUPPORTED"))
    }

    /// Whether a registry may have refused a manifest because of what it names. There are several
    /// statuses for that, and codes of their own.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::NotFound { .. } | Self::Status { status: 400..=499, .. })
            && !self.is_immutable_tag()
    }

    /// Whether it has nothing to do with the registry or the way there.
    pub(crate) fn is_ours(&self) -> bool {
        match self {
            Self::Settings(_) | Self::Io { .. } | Self::Cancelled(_) => true,
            Self::Denied { .. }
            | Self::NotFound { .. }
            | Self::Status { .. }
            | Self::Network { .. }
            | Self::Late(_)
            | Self::Answer { .. }
            | Self::Image { .. }
            | Self::Credentials(_) => false,
        }
    }

    /// Whether a registry says that the tag exists and must not be moved. There is no code for it:
    /// these are the words of Google Artifact Registry and of Amazon ECR.
    pub(crate) fn is_immutable_tag(&self) -> bool {
        let (Self::Status { message, .. } | Self::Denied { message, .. }) = self else {
            return false;
        };
        message.contains("enabled tag immutability")
            || message.contains("cannot be overwritten because the repository is immutable")
            || message.contains("cannot be overwritten because the tag is immutable")
    }

    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn image(what: &str) -> impl FnOnce(ImageError) -> Self {
        move |source| Self::Image { what: what.to_owned(), source }
    }

    pub(crate) fn answer(what: &str, why: impl Into<String>) -> Self {
        Self::Answer { what: what.to_owned(), why: why.into() }
    }
}

fn after_colon(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}
