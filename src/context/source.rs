//! Where a build context comes from, as it is spelt on the command line.

use std::fmt;
use std::path::{Path, PathBuf};

use super::ContextError;
use super::git::{GitOptions, GitSource};
use super::http::without_credentials;
use super::objects::ObjectSource;
use crate::dockerfile::GitRef;

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
    /// A Git repository.
    Git(Box<GitSource>),
    /// A tar archive in an object store.
    Object(ObjectSource),
}

impl ContextSource {
    /// Reads the value of `--context` or `--build-context`, relative to `here`.
    ///
    /// # Errors
    /// A scheme that is not supported.
    pub fn parse(text: &str, here: &Path, git: &GitContexts) -> Result<Self, ContextError> {
        if let Some(source) = git.source(text) {
            let bad = |why| ContextError::BadRepository { why };
            return Ok(Self::Git(Box::new(source.map_err(bad)?)));
        }
        if let Some(source) = ObjectSource::parse(text) {
            let bad = |why| ContextError::BadObject { why };
            return Ok(Self::Object(source.map_err(bad)?));
        }
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

/// How Git repositories are meant that a command line names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GitContexts {
    /// What `git://` stands for, `https` if not given.
    pub pull_method: Option<String>,
    /// `--git`.
    pub options: GitOptions,
}

impl GitContexts {
    /// The repository that `text` names; nothing where it names none.
    fn source(&self, text: &str) -> Option<Result<GitSource, String>> {
        let source = if text.starts_with("git://") {
            let scheme = self.pull_method.as_deref().unwrap_or("https");
            GitSource::of_kaniko(text, scheme)
        } else {
            GitRef::parse(text)?.and_then(GitSource::of_docker)
        };
        Some(source.map(|source| source.with(&self.options)))
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
            Self::Git(git) => write!(f, "{git}"),
            Self::Object(object) => write!(f, "{object}"),
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
            assert_eq!(
                ContextSource::parse(text, here, &GitContexts::default()).expect(text),
                want,
                "{text}"
            );
        }
        assert!(ContextSource::parse("ftp://host/x", here, &GitContexts::default()).is_err());
    }

    #[test]
    fn what_is_secret_is_not_shown() {
        let text = "https://me:secret@host/a.tar?token=secret";
        let source = ContextSource::parse(text, Path::new("/"), &GitContexts::default());
        let source = source.expect("a URL");
        assert_eq!(source.to_string(), "https://host/a.tar");
        assert!(!format!("{source:?}").contains("secret"));
    }
}
