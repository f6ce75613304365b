//! Where a build context comes from, as it is spelt on the command line.

use std::fmt;
use std::path::{Path, PathBuf};

use super::ContextError;
use super::http::without_credentials;

/// Where the context comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextSource {
    /// A directory of this machine, used where it is.
    Dir(PathBuf),
    /// A tar archive of this machine.
    Tar(PathBuf),
    /// A tar archive on standard input.
    Stdin,
    /// A tar archive on the web.
    Web(WebUrl),
}

impl ContextSource {
    /// Reads the value of `--context` or `--build-context`, relative to `here`.
    ///
    /// # Errors
    /// A scheme that is not supported.
    pub fn parse(text: &str, here: &Path) -> Result<Self, ContextError> {
        match text.split_once("://") {
            None => Ok(Self::Dir(here.join(text))),
            Some(("dir", path)) => Ok(Self::Dir(here.join(path))),
            Some(("tar", "stdin")) => Ok(Self::Stdin),
            Some(("tar", path)) => Ok(Self::Tar(here.join(path))),
            Some(("http" | "https", _)) => Ok(Self::Web(WebUrl(text.to_owned()))),
            Some((scheme, _)) => Err(ContextError::Unsupported(scheme.to_owned())),
        }
    }
}

/// Names the source without what is secret.
impl fmt::Display for ContextSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dir(path) => write!(f, "{}", path.display()),
            Self::Tar(path) => write!(f, "tar://{}", path.display()),
            Self::Stdin => f.write_str("tar://stdin"),
            Self::Web(url) => write!(f, "{url}"),
        }
    }
}

/// A URL that may hold a password or a token; it prints without.
#[derive(Clone, PartialEq, Eq)]
pub struct WebUrl(String);

impl WebUrl {
    /// All of it, for the request.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_credentials(&self.0))
    }
}

impl fmt::Debug for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes() {
        let here = Path::new("/here");
        let dir = |path: &str| ContextSource::Dir(path.into());
        let tar = |path: &str| ContextSource::Tar(path.into());
        let web = |url: &str| ContextSource::Web(WebUrl(url.to_owned()));
        for (text, want) in [
            ("x", dir("/here/x")),
            ("dir://y", dir("/here/y")),
            ("/z", dir("/z")),
            ("tar://a.tar", tar("/here/a.tar")),
            ("tar:///a.tar", tar("/a.tar")),
            ("tar://stdin", ContextSource::Stdin),
            ("https://h/a.tar.gz", web("https://h/a.tar.gz")),
        ] {
            assert_eq!(ContextSource::parse(text, here).expect(text), want, "{text}");
        }
        assert!(ContextSource::parse("ftp://host/x", here).is_err());
    }

    #[test]
    fn what_is_secret_is_not_shown() {
        let text = "https://me:secret@host/a.tar?token=secret";
        let source = ContextSource::parse(text, Path::new("/")).expect("a URL");
        assert_eq!(source.to_string(), "https://host/a.tar");
        assert!(!format!("{source:?}").contains("secret"));
    }
}
