//! Where COPY takes files from: the build context less what is ignored, or the tree of a stage.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};

use super::copy::CopyError;
use crate::context::{Ignore, glob_match};
use crate::rootfs::names_in;

/// A directory to copy from.
#[derive(Debug)]
pub struct SourceTree<'a> {
    root: pathrs::Root,
    path: PathBuf,
    /// Only of a build context: what is not part of it.
    ignore: Option<&'a Ignore>,
    /// Below the root, but the executor's own.
    hidden: Option<PathBuf>,
    /// What a person calls it.
    label: String,
    /// Whether files keep their owners; those of a context become root's.
    keep_owners: bool,
}

impl<'a> SourceTree<'a> {
    /// The build context, or a named one, less what `ignore` says and less `own`, which may lie in it.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn context(
        path: &Path,
        ignore: Option<&'a Ignore>,
        own: &Path,
        label: &str,
    ) -> io::Result<Self> {
        let mut opened = Self::open(path, ignore, label, false)?;
        let own = std::fs::canonicalize(own)?;
        opened.hidden = own.strip_prefix(&opened.path).ok().map(Path::to_owned);
        Ok(opened)
    }

    /// The file system of a stage or an image.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn rootfs(path: &Path, label: &str) -> io::Result<Self> {
        Self::open(path, None, label, true)
    }

    fn open(
        path: &Path,
        ignore: Option<&'a Ignore>,
        label: &str,
        keep_owners: bool,
    ) -> io::Result<Self> {
        let root = pathrs::Root::open(path).map_err(|error| by_errno(&error))?;
        // Sources are named by what the kernel calls them, so the root must be, too.
        let path = std::fs::canonicalize(path)?;
        let label = label.to_owned();
        Ok(Self { root, path, ignore, hidden: None, label, keep_owners })
    }

    /// The sources that `written` names, each as its path below the root, links resolved, and the
    /// name it was found under.
    ///
    /// # Errors
    /// A plain path that does not exist, or a bad pattern.
    pub fn find(&self, written: &str) -> Result<Vec<Found>, CopyError> {
        let cleaned = clean(written);
        let components: Vec<&str> = cleaned.split('/').filter(|part| !part.is_empty()).collect();
        let Some(wild) = components.iter().position(|part| has_wildcard(part)) else {
            let found = self.one(written, Path::new(&cleaned))?;
            return found
                .map(|found| vec![found])
                .ok_or(CopyError::Ignored { path: written.to_owned() });
        };
        let bad = || CopyError::BadPattern { pattern: written.to_owned() };
        for part in &components[wild..] {
            glob_match(part.as_bytes(), b"").map_err(|_| bad())?;
        }
        let Ok(start) = self.resolve(Path::new(&components[..wild].join("/"))) else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        self.search(&start, &components[wild..], &mut found)?;
        Ok(found)
    }

    /// What a plain path names: in it, `*` is a star.
    ///
    /// # Errors
    /// It does not exist, or is ignored.
    pub fn find_plain(&self, written: &str) -> Result<Found, CopyError> {
        let found = self.one(written, Path::new(&clean(written)))?;
        found.ok_or(CopyError::Ignored { path: written.to_owned() })
    }

    /// Whether a plain path is there. A link at its end need not lead anywhere: it is what is copied.
    ///
    /// # Errors
    /// It does not exist, or is ignored.
    pub(super) fn there(&self, written: &str) -> Result<(), CopyError> {
        let path = clean(written);
        let path = Path::new(&path);
        match self.find_plain(written) {
            Err(CopyError::NotFound { .. }) if self.is_link(path) => Ok(()),
            found => found.map(drop),
        }
    }

    fn is_link(&self, path: &Path) -> bool {
        let parent = path.parent().and_then(|parent| self.resolve(parent).ok());
        let real = parent.zip(path.file_name()).map(|(parent, name)| parent.join(name));
        real.filter(|real| !self.ignores(real))
            .and_then(|real| std::fs::symlink_metadata(self.path.join(real)).ok())
            .is_some_and(|metadata| metadata.is_symlink())
    }

    /// Where a source is on this machine.
    pub fn path_of(&self, found: &Found) -> PathBuf {
        self.path.join(&found.path)
    }

    /// Whether a source is a directory.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn is_dir(&self, found: &Found) -> io::Result<bool> {
        Ok(std::fs::symlink_metadata(self.path_of(found))?.is_dir())
    }

    /// Whether a source can be seen just as it lies here: nothing in it is left out, or belongs to
    /// somebody else than a copy of it would.
    ///
    /// # Errors
    /// It cannot be looked at.
    pub fn shows_as_is(&self, found: &Found) -> io::Result<bool> {
        if self.keep_owners {
            return Ok(true);
        }
        let mut pending = vec![found.path.clone()];
        while let Some(path) = pending.pop() {
            let stat = rustix::fs::lstat(self.path.join(&path))?;
            if (stat.st_uid, stat.st_gid) != (0, 0) || self.ignores(&path) {
                return Ok(false);
            }
            if !FileType::from_raw_mode(stat.st_mode).is_dir() {
                continue;
            }
            for name in names_in(self.open_dir(&path)?.as_fd())? {
                pending.push(path.join(OsStr::from_bytes(name.as_bytes())));
            }
        }
        // The root of a context has the mode of the machine's directory.
        let root = rustix::fs::lstat(&self.path)?;
        Ok(!found.path.as_os_str().is_empty() || root.st_mode & 0o7777 == 0o755)
    }

    /// What is at `path`, links followed; nothing where it is ignored.
    fn one(&self, written: &str, path: &Path) -> Result<Option<Found>, CopyError> {
        let absent = || CopyError::NotFound { path: written.to_owned(), tree: self.label.clone() };
        let real = self.resolve(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => absent(),
            _ => self.at(path, error),
        })?;
        if self.ignores(&real) && !self.holds_kept(&real)? {
            return Ok(None);
        }
        let name = path.file_name().unwrap_or_default().to_owned();
        Ok(Some(Found { path: real, name }))
    }

    /// What below `dir` matches a pattern, component by component: no wildcard crosses a slash.
    fn search(
        &self,
        dir: &Path,
        pattern: &[&str],
        found: &mut Vec<Found>,
    ) -> Result<(), CopyError> {
        let Some((first, rest)) = pattern.split_first() else { return Ok(()) };
        let handle = self.open_dir(dir).map_err(|error| self.at(dir, error))?;
        for name in names_in(handle.as_fd()).map_err(|error| self.at(dir, error))? {
            let matched = glob_match(first.as_bytes(), name.as_bytes())
                .map_err(|_| CopyError::BadPattern { pattern: (*first).to_owned() })?;
            if !matched {
                continue;
            }
            let path = dir.join(OsStr::from_bytes(name.as_bytes()));
            if rest.is_empty() {
                found.extend(self.one(&path.to_string_lossy(), &path)?);
                continue;
            }
            let stat = stat_at(&handle, &name).map_err(|error| self.at(&path, error))?;
            let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
            if is_dir && (!self.ignores(&path) || self.may_hold_included(&path)) {
                self.search(&path, rest, found)?;
            }
        }
        Ok(())
    }

    /// Whether a path that is ignored is a directory with something in it that is not.
    fn holds_kept(&self, path: &Path) -> Result<bool, CopyError> {
        let Ok(dir) = self.open_dir(path) else { return Ok(false) };
        if !self.may_hold_included(path) {
            return Ok(false);
        }
        for name in names_in(dir.as_fd()).map_err(|error| self.at(path, error))? {
            let child = path.join(OsStr::from_bytes(name.as_bytes()));
            if !self.ignores(&child) || self.holds_kept(&child)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Follows all links, inside the root.
    fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let handle = self.root.resolve(path).map_err(|error| by_errno(&error))?;
        let link = format!("/proc/self/fd/{}", handle.as_fd().as_raw_fd());
        let real = std::fs::read_link(link)?;
        real.strip_prefix(&self.path)
            .map(Path::to_owned)
            .map_err(|_| io::ErrorKind::NotFound.into())
    }

    /// What a person calls it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether files keep their owners.
    pub(super) fn keeps_owners(&self) -> bool {
        self.keep_owners
    }

    pub(super) fn open_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::open(self.path.join(path), flags, Mode::empty())?)
    }

    /// Whether `path` does not exist for the build.
    pub(super) fn ignores(&self, path: &Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        self.hidden.as_deref() == Some(path)
            || self.ignore.is_some_and(|ignore| !bytes.is_empty() && ignore.matches(bytes))
    }

    /// Whether a directory that is ignored may hold something that is not.
    pub(super) fn may_hold_included(&self, path: &Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        self.hidden.as_deref() != Some(path)
            && self.ignore.is_none_or(|ignore| ignore.may_hold_kept(bytes))
    }

    /// The regular file that `found` is, opened; nothing where it is something else.
    pub(crate) fn file(&self, found: &Found) -> Result<Option<File>, CopyError> {
        let (parent, Some(name)) = split_last(&found.path) else { return Ok(None) };
        let failed = |error| self.at(&found.path, error);
        let dir = self.open_dir(&parent).map_err(failed)?;
        let stat = stat_at(&dir, &name).map_err(failed)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Ok(None);
        }
        open_file(&dir, &name).map(Some).map_err(failed)
    }

    pub(crate) fn at(&self, path: &Path, source: io::Error) -> CopyError {
        CopyError::Source { path: format!("{} in {}", path.display(), self.label), source }
    }
}

/// One source of a COPY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Below the root of the sources, links resolved.
    pub path: PathBuf,
    /// The name it gets in a destination directory.
    pub name: OsString,
}

fn by_errno(error: &pathrs::error::Error) -> io::Error {
    match error.kind() {
        pathrs::error::ErrorKind::OsError(Some(errno)) => io::Error::from_raw_os_error(errno),
        _ => io::Error::other(error.to_string()),
    }
}

pub(super) fn stat_at(dir: &OwnedFd, name: &CString) -> io::Result<Stat> {
    Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

pub(super) fn open_file(dir: &OwnedFd, name: &CString) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?.into())
}

pub(super) fn split_last(path: &Path) -> (PathBuf, Option<CString>) {
    let parent = path.parent().map(Path::to_owned).unwrap_or_default();
    let name = path.file_name().and_then(|name| CString::new(name.as_bytes()).ok());
    match name {
        Some(name) => (parent, Some(name)),
        None => (path.to_owned(), None),
    }
}

pub(super) fn has_wildcard(part: &str) -> bool {
    let mut escaped = false;
    part.chars().any(|c| {
        let wild = !escaped && matches!(c, '*' | '?' | '[');
        escaped = !escaped && c == '\\';
        wild
    })
}

/// A path without `.`, `..` and doubled slashes, relative to the root it is meant in; `..` ends there.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_inside_their_root() {
        for (path, want) in [
            ("/a//b/", "a/b"),
            ("./x/./y", "x/y"),
            ("../../etc", "etc"),
            ("a/../../b", "b"),
            (".", ""),
        ] {
            assert_eq!(clean(path), want, "{path}");
        }
    }

    #[test]
    fn wildcards_are_seen_unless_escaped() {
        for (part, want) in
            [("a*", true), ("a?", true), ("[ab]", true), ("\\*a", false), ("a", false)]
        {
            assert_eq!(has_wildcard(part), want, "{part}");
        }
    }

    #[test]
    fn what_is_ignored_is_not_there_whatever_may_be_kept_elsewhere() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = tempfile::tempdir().expect("a directory");
        for sub in ["d", "kept"] {
            std::fs::create_dir(dir.path().join(sub)).expect("made");
        }
        for file in ["secret.txt", "d/y", "kept/x", "a.x"] {
            std::fs::write(dir.path().join(file), file).expect("written");
        }
        std::fs::write(dir.path().join(OsStr::from_bytes(b"caf\xe9")), "").expect("written");
        let ignore = Ignore::parse(b"*\n!**/x\n!a.x\n!caf*\n").expect("patterns");
        let tree = SourceTree::context(dir.path(), Some(&ignore), own.path(), "the context");
        let tree = tree.expect("it is there");
        let told = |written: &str| match tree.find(written) {
            Ok(found) => {
                found.iter().map(|one| one.path.to_string_lossy()).collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        };
        for (written, want) in [
            ("secret.txt", "secret.txt: excluded by .dockerignore"),
            ("d", "d: excluded by .dockerignore"),
            ("kept", "kept"),
            ("*", "a.x caf\u{fffd} kept"),
            ("*/*", "kept/x"),
            ("ca*", "caf\u{fffd}"),
            ("no*", ""),
            ("nope", "nope: not found in the context"),
            ("[", "[: bad pattern"),
        ] {
            assert_eq!(told(written), want, "{written}");
        }
    }
}
