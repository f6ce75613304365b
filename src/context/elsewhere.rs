//! A Dockerfile that lies in no file: on standard input, or on the web.

use std::io::Read as _;
use std::path::Path;

use tracer::Interrupt;

use super::http;
use super::obtain::Access;
use crate::report::{Explain as _, Failure};

/// What is larger is no Dockerfile.
const LIMIT: u64 = 16 << 20;

/// Where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// `--dockerfile=-`
    Stdin,
    /// An http or https URL.
    Web(String),
}

impl Elsewhere {
    /// Reads the value of `--dockerfile`; nothing where it is a path.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "-" => Some(Self::Stdin),
            name if name.starts_with("http://") || name.starts_with("https://") => {
                Some(Self::Web(name.to_owned()))
            }
            _ => None,
        }
    }

    /// What errors call it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Stdin => "Dockerfile".to_owned(),
            Self::Web(url) => http::without_credentials(url),
        }
    }

    /// Its bytes; `scratch` is a directory for what is fetched.
    ///
    /// # Errors
    /// It cannot be had, or is too large to be one.
    pub fn read(
        &self,
        scratch: &Path,
        access: &Access,
        interrupt: &Interrupt,
    ) -> Result<Vec<u8>, Failure> {
        let doing = || format!("read the Dockerfile {}", self.name());
        let text = match self {
            Self::Stdin => {
                let mut text = Vec::new();
                let input = std::io::stdin().lock();
                input
                    .take(LIMIT + 1)
                    .read_to_end(&mut text)
                    .could_not(|| "read the Dockerfile from standard input".to_owned())?;
                text
            }
            Self::Web(url) => {
                let dir = tempfile::tempdir_in(scratch).could_not(doing)?;
                let file = dir.path().join("Dockerfile");
                http::fetch(url, &file, &access.fetch, || interrupt.is_triggered())
                    .could_not(doing)?;
                let mut text = Vec::new();
                let file = std::fs::File::open(&file).could_not(doing)?;
                file.take(LIMIT + 1).read_to_end(&mut text).could_not(doing)?;
                text
            }
        };
        if text.len() as u64 > LIMIT {
            return Err(Failure::new(format!("{} is larger than any Dockerfile", self.name())));
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (name, want) in [
            ("-", Some("Dockerfile")),
            ("https://user:word@host.example/x?y", Some("https://host.example/x")),
            ("http", None),
            ("a/Dockerfile", None),
            ("ftp://host.example/x", None),
        ] {
            assert_eq!(Elsewhere::parse(name).map(|it| it.name()).as_deref(), want, "{name}");
        }
    }
}
