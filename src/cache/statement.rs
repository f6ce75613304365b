//! What an image in the cache says of itself, in the annotations of its manifest.
//!
//! Each kind of image has a prefix of its own, so that nothing is taken for what it is not, and a version
//! of its format: what another version wrote is not used.

use std::collections::BTreeMap;
use std::str::FromStr;

use thiserror::Error;

/// The annotation of OCI's image-spec for the time, RFC 3339.
const CREATED: &str = "org.opencontainers.image.created";

/// A kind of image.
#[derive(Debug)]
pub(super) struct Kind {
    /// What the names of its annotations begin with.
    pub(super) prefix: &'static str,
    /// The version of its format.
    pub(super) version: &'static str,
}

/// Why an image is none that can be used.
#[derive(Debug, Error)]
pub enum UnusableEntry {
    /// Something else has the name.
    #[error("it is no entry of a layer cache: {0} is missing")]
    Missing(&'static str),
    /// The annotation is no value of its kind.
    #[error("its {0} cannot be read")]
    Unreadable(&'static str),
    /// Another program or version wrote it.
    #[error("it has format {found:?}, and this is format {known:?}")]
    Version {
        /// The version that it has.
        found: String,
        /// The one that is written here.
        known: &'static str,
    },
    /// It was put under another name.
    #[error("it is the entry of another key, {0}")]
    OtherKey(String),
    /// Entries have one layer.
    #[error("it has {0} layers instead of one")]
    Layers(usize),
    /// Its layer cannot be unpacked.
    #[error("its layer is of type {0:?}")]
    Type(String),
}

/// The annotations of one image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Statement<'a> {
    kind: &'static Kind,
    annotations: &'a BTreeMap<String, String>,
}

impl Kind {
    /// The name of an annotation.
    pub(super) fn name(&self, name: &str) -> String {
        format!("{}.{name}", self.prefix)
    }

    /// What an image says that may be of this kind.
    ///
    /// # Errors
    /// It is not, or of another version.
    pub(super) fn read<'a>(
        &'static self,
        annotations: &'a BTreeMap<String, String>,
    ) -> Result<Statement<'a>, UnusableEntry> {
        let statement = Statement { kind: self, annotations };
        match statement.text("version")? {
            version if version == self.version => Ok(statement),
            other => Err(UnusableEntry::Version { found: other.to_owned(), known: self.version }),
        }
    }

    /// The annotations of an image that was made at `created`, RFC 3339.
    pub(super) fn write(
        &self,
        created: &str,
        said: impl IntoIterator<Item = (&'static str, String)>,
    ) -> BTreeMap<String, String> {
        let version = ("version", self.version.to_owned());
        let said = [version].into_iter().chain(said);
        let said = said.map(|(name, value)| (self.name(name), value));
        said.chain([(CREATED.to_owned(), created.to_owned())]).collect()
    }
}

impl<'a> Statement<'a> {
    /// What is said under `name`.
    ///
    /// # Errors
    /// Nothing.
    pub(super) fn text(&self, name: &'static str) -> Result<&'a str, UnusableEntry> {
        let text = self.annotations.get(&self.kind.name(name));
        text.map(String::as_str).ok_or(UnusableEntry::Missing(name))
    }

    /// The same as a value.
    ///
    /// # Errors
    /// It is missing, or of another kind.
    pub(super) fn parsed<T: FromStr>(&self, name: &'static str) -> Result<T, UnusableEntry> {
        self.text(name)?.parse().map_err(|_| UnusableEntry::Unreadable(name))
    }

    /// Refuses an image that was put under another tag than its own.
    ///
    /// # Errors
    /// It was, or does not say its tag.
    pub(super) fn is_of(&self, tag: &str) -> Result<(), UnusableEntry> {
        match self.text("tag")? {
            own if own == tag => Ok(()),
            other => Err(UnusableEntry::OtherKey(other.to_owned())),
        }
    }

    /// When it was made: RFC 3339, and in seconds since 1970.
    ///
    /// # Errors
    /// It does not say, or in no such form.
    pub(super) fn created(&self) -> Result<(String, i64), UnusableEntry> {
        let text = self.annotations.get(CREATED).ok_or(UnusableEntry::Missing("created"))?;
        let time: jiff::Timestamp =
            text.parse().map_err(|_| UnusableEntry::Unreadable("created"))?;
        Ok((text.clone(), time.as_second()))
    }
}
