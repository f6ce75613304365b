//! The build context: the files that a Dockerfile may copy from, and how they come to this machine.

mod archive;
mod elsewhere;
pub mod git;
pub mod glob;
pub mod http;
pub mod ignore;
pub mod objects;
mod obtain;
mod progress;
mod source;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use elsewhere::Elsewhere;
pub use glob::glob_match;
pub use ignore::Ignore;
pub use obtain::{Access, Obtained, obtain, repository};
pub use source::{ContextSource, GitContexts, WebUrl};

/// Why the context or the Dockerfile cannot be used.
#[derive(Debug, Error)]
pub enum ContextError {
    /// A kind of context that this version does not read.
    #[error(
        "contexts of the form {0}:// are not supported: give a directory, dir://, tar://, https://, git://, s3:// or gs://"
    )]
    Unsupported(String),
    /// The URL of an object that makes no sense.
    #[error("{why}")]
    BadObject {
        /// What is wrong with it.
        why: String,
    },
    /// The URL of a repository that makes no sense. It is not shown: it may hold a token.
    #[error("the URL of the Git repository: {why}")]
    BadRepository {
        /// What is wrong with it.
        why: String,
    },
    /// A Dockerfile of a scheme that there is not.
    #[error(
        "--dockerfile={0}: a Dockerfile is read from a file, an http or https URL, or standard input (-)"
    )]
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
    /// As [`Obtained::time`].
    pub time: Option<i64>,
}

impl Context {
    /// Opens the context, and reads the Dockerfile `name`: below `here`, else below the context.
    ///
    /// # Errors
    /// Something is missing or cannot be read.
    pub fn open(obtained: &Obtained, name: &str, here: &Path) -> Result<Self, ContextError> {
        if name.contains("://") {
            return Err(ContextError::Elsewhere(name.to_owned()));
        }
        let dir = directory(obtained)?;
        let own = |name: &Path| {
            if obtained.is_local { Some(dir.join(name)) } else { inside(&dir, name).ok() }
        };
        let mut beside = OsString::from(name);
        beside.push(".dockerignore");
        let found = |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| path.is_file());
        let (first, second) = (Some(here.join(name)), own(Path::new(name)));
        let (path, beside) = if found(&first) {
            (first, Some(here.join(&beside)))
        } else {
            (second.filter(|path| path.is_file()), own(Path::new(&beside)))
        };
        let path = path.ok_or_else(|| ContextError::NoDockerfile {
            name: name.to_owned(),
            here: here.to_owned(),
            context: dir.clone(),
        })?;
        let dockerfile = read(&path)?;
        let ignore = first_ignore(&[beside, own(Path::new(".dockerignore"))])?;
        Ok(Self { dir, ignore, dockerfile_name: name.to_owned(), dockerfile, time: obtained.time })
    }

    /// Opens the context with a Dockerfile that does not come from it.
    ///
    /// # Errors
    /// The directory or its ignore file cannot be read.
    pub fn with(
        obtained: &Obtained,
        name: String,
        dockerfile: Vec<u8>,
    ) -> Result<Self, ContextError> {
        let dir = directory(obtained)?;
        let own = if obtained.is_local {
            Some(dir.join(".dockerignore"))
        } else {
            inside(&dir, Path::new(".dockerignore")).ok()
        };
        let ignore = first_ignore(&[own])?;
        Ok(Self { dir, ignore, dockerfile_name: name, dockerfile, time: obtained.time })
    }
}

/// Where `path` leads below `dir`, with all links followed inside it.
fn inside(dir: &Path, path: &Path) -> io::Result<PathBuf> {
    let by_errno = |error: pathrs::error::Error| match error.kind() {
        pathrs::error::ErrorKind::OsError(Some(errno)) => io::Error::from_raw_os_error(errno),
        _ => io::Error::other(error.to_string()),
    };
    let root = pathrs::Root::open(dir).map_err(by_errno)?;
    let handle = root.resolve(path).map_err(by_errno)?;
    std::fs::read_link(format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd()))
}

/// The directory of a context by its real name.
fn directory(obtained: &Obtained) -> Result<PathBuf, ContextError> {
    let dir = &obtained.dir;
    let unusable = |source| ContextError::Unusable { path: dir.clone(), source };
    let dir = std::fs::canonicalize(dir).map_err(unusable)?;
    if !std::fs::metadata(&dir).map_err(unusable)?.is_dir() {
        return Err(unusable(io::ErrorKind::NotADirectory.into()));
    }
    Ok(dir)
}

/// The `.dockerignore` of a further context.
///
/// # Errors
/// It cannot be read, or has a line that is no pattern.
pub fn ignore_of(dir: &Path) -> Result<Ignore, ContextError> {
    first_ignore(&[inside(dir, Path::new(".dockerignore")).ok()])
}

/// The patterns of the first of these files that exists.
fn first_ignore(paths: &[Option<PathBuf>]) -> Result<Ignore, ContextError> {
    for path in paths.iter().flatten() {
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
        let source = Obtained { dir: context.path().to_owned(), is_local: true, time: None };
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
}
