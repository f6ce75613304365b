//! The build context: the files that a Dockerfile may copy from.

pub mod glob;
pub mod http;
pub mod ignore;

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use glob::glob_match;
pub use ignore::Ignore;

/// Why the context or the Dockerfile cannot be used.
#[derive(Debug, Error)]
pub enum ContextError {
    /// A kind of context that this version does not read.
    #[error("contexts of the form {0}:// are not supported by this version; give a directory")]
    Unsupported(String),
    /// A Dockerfile from standard input or the network.
    #[error("--dockerfile={0}: this version reads Dockerfiles from files only")]
    Elsewhere(String),
    /// The context is not there, or no directory.
    #[error("the build context {path} cannot be used: {source}")]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The Dockerfile is in neither place.
    #[error("there is no {name} in {} or in the context {}", here.display(), context.display())]
    NoDockerfile {
        /// As given.
        name: String,
        /// The current directory.
        here: PathBuf,
        /// The context.
        context: PathBuf,
    },
    /// The Dockerfile, or an ignore file, cannot be read.
    #[error("{path} cannot be read: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The ignore file has a line that is no pattern.
    #[error("{path}: {source}")]
    BadIgnore {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ignore::IgnoreError,
    },
}

/// Where the context comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContextSource {
    /// A directory of this machine, used where it is.
    Dir(PathBuf),
}

impl ContextSource {
    /// Reads the value of `--context`, relative to `here`.
    ///
    /// # Errors
    /// A scheme that is not supported.
    pub fn parse(text: &str, here: &Path) -> Result<Self, ContextError> {
        match text.split_once("://") {
            None => Ok(Self::Dir(here.join(text))),
            Some(("dir", path)) => Ok(Self::Dir(here.join(path))),
            Some((scheme, _)) => Err(ContextError::Unsupported(scheme.to_owned())),
        }
    }
}

/// A context that is there, and its Dockerfile's text.
#[derive(Debug)]
pub struct Context {
    /// The directory.
    pub dir: PathBuf,
    /// What of it does not count.
    pub ignore: Ignore,
    /// What a person calls the Dockerfile.
    pub dockerfile_name: String,
    /// Its bytes.
    pub dockerfile: Vec<u8>,
}

impl Context {
    /// Opens the context, and reads the Dockerfile `name`: below `here`, else below the context.
    ///
    /// # Errors
    /// Something is missing or cannot be read.
    pub fn open(source: &ContextSource, name: &str, here: &Path) -> Result<Self, ContextError> {
        let ContextSource::Dir(dir) = source;
        if name == "-" || name.contains("://") {
            return Err(ContextError::Elsewhere(name.to_owned()));
        }
        let unusable = |source| ContextError::Unusable { path: dir.clone(), source };
        let dir = std::fs::canonicalize(dir).map_err(unusable)?;
        if !std::fs::metadata(&dir).map_err(unusable)?.is_dir() {
            return Err(unusable(io::ErrorKind::NotADirectory.into()));
        }
        let path = [here.join(name), dir.join(name)].into_iter().find(|path| path.is_file());
        let path = path.ok_or_else(|| ContextError::NoDockerfile {
            name: name.to_owned(),
            here: here.to_owned(),
            context: dir.clone(),
        })?;
        let dockerfile = read(&path)?;
        let ignore = read_ignore(&path, &dir)?;
        Ok(Self { dir, ignore, dockerfile_name: name.to_owned(), dockerfile })
    }
}

/// The `.dockerignore` of a further context.
///
/// # Errors
/// It cannot be read, or has a line that is no pattern.
pub fn ignore_of(dir: &Path) -> Result<Ignore, ContextError> {
    first_ignore(&[dir.join(".dockerignore")])
}

/// `<Dockerfile>.dockerignore` beside the Dockerfile, else `.dockerignore` of the context.
fn read_ignore(dockerfile: &Path, context: &Path) -> Result<Ignore, ContextError> {
    let mut beside = dockerfile.as_os_str().to_owned();
    beside.push(".dockerignore");
    first_ignore(&[PathBuf::from(beside), context.join(".dockerignore")])
}

/// The patterns of the first of these files that exists.
fn first_ignore(paths: &[PathBuf]) -> Result<Ignore, ContextError> {
    for path in paths {
        if path.is_file() {
            let text = read(path)?;
            return Ignore::parse(&text)
                .map_err(|source| ContextError::BadIgnore { path: path.clone(), source });
        }
    }
    Ok(Ignore::default())
}

fn read(path: &Path) -> Result<Vec<u8>, ContextError> {
    std::fs::read(path).map_err(|source| ContextError::Unreadable { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dockerfile_is_searched_here_first_and_brings_its_own_ignore_file() {
        let here = tempfile::tempdir().expect("a directory");
        let context = tempfile::tempdir().expect("a directory");
        let write = |dir: &tempfile::TempDir, name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).expect("written");
        };
        write(&context, "Dockerfile", "context");
        write(&context, ".dockerignore", "a");
        write(&here, "Other", "here");
        write(&here, "Other.dockerignore", "b");
        let source = ContextSource::Dir(context.path().to_owned());
        for (name, text, ignored) in [("Dockerfile", "context", "a"), ("Other", "here", "b")] {
            let opened = Context::open(&source, name, here.path()).expect(name);
            assert_eq!(opened.dockerfile, text.as_bytes());
            assert!(opened.ignore.matches(ignored.as_bytes()));
        }
        assert!(matches!(
            Context::open(&source, "Missing", here.path()),
            Err(ContextError::NoDockerfile { .. })
        ));
    }

    #[test]
    fn schemes() {
        let here = Path::new("/here");
        for (text, want) in [("x", "/here/x"), ("dir://y", "/here/y"), ("/z", "/z")] {
            let source = ContextSource::parse(text, here).expect(text);
            assert_eq!(source, ContextSource::Dir(PathBuf::from(want)));
        }
        assert!(ContextSource::parse("s3://bucket", here).is_err());
    }
}
