//! COPY and the local part of ADD: from a tree of sources into the root file system.
//!
//! The rules are those of Docker's current frontend: a directory's content is
//! copied, not the directory; a source that is a link is followed; nested
//! directories take the metadata of their source, the destination directory
//! keeps its own; times are those of the sources; what comes from the context
//! belongs to root.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use snapshot::{ImagePath, Kind, Timestamp};
use thiserror::Error;

use super::chmod::Chmod;
use crate::context::{Ignore, glob_match};
use crate::rootfs::{Metadata, Rootfs, names_in};

/// Why files could not be copied.
#[derive(Debug, Error)]
pub enum CopyError {
    /// A source that is named without wildcards does not exist.
    #[error("{path}: not found in {tree}")]
    NotFound {
        /// As written.
        path: String,
        /// What was searched.
        tree: String,
    },
    /// It exists, but `.dockerignore` keeps it out of the context.
    #[error("{path}: excluded by .dockerignore")]
    Ignored {
        /// As written.
        path: String,
    },
    /// A wildcard that cannot be read.
    #[error("{pattern}: bad pattern")]
    BadPattern {
        /// As written.
        pattern: String,
    },
    /// Several sources into something that is no directory.
    #[error("several sources need a destination that is a directory: end {dest} with a /")]
    NeedsDirectory {
        /// As written.
        dest: String,
    },
    /// A file over a directory, or a directory over a file.
    #[error("cannot copy {what} over {path}, which is {is}")]
    Conflict {
        /// What is copied.
        what: &'static str,
        /// Where to.
        path: ImagePath,
        /// What is there.
        is: &'static str,
    },
    /// The destination is no part of the image.
    #[error("{path} is a mount of this container or belongs to the executor, not to the image")]
    Excluded {
        /// The destination.
        path: ImagePath,
    },
    /// A name that cannot be in an image.
    #[error("{0}")]
    Path(#[from] snapshot::PathError),
    /// Links that lead nowhere.
    #[error("{0}")]
    Resolve(#[from] snapshot::Error),
    /// A call on a source failed.
    #[error("{path}: {source}")]
    Source {
        /// Below the tree of sources.
        path: String,
        /// What the call answered.
        source: io::Error,
    },
    /// A call on the destination failed.
    #[error("could not write {path}: {source}")]
    Write {
        /// In the image.
        path: ImagePath,
        /// What the call answered.
        source: io::Error,
    },
}

/// A directory to copy from.
#[derive(Debug)]
pub struct SourceTree<'a> {
    root: pathrs::Root,
    path: PathBuf,
    /// Only of the build context: what is not part of it.
    ignore: Option<&'a Ignore>,
    /// What a person calls it.
    label: String,
    /// Whether files keep their owners; those of the context become root's.
    keep_owners: bool,
}

impl<'a> SourceTree<'a> {
    /// The build context, or a named one, less what `ignore` says.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn context(path: &Path, ignore: Option<&'a Ignore>, label: &str) -> io::Result<Self> {
        Self::open(path, ignore, label, false)
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
        Ok(Self { root, path, ignore, label: label.to_owned(), keep_owners })
    }

    /// The sources that `written` names, each as its path below the root, links resolved, and the
    /// name it was found under.
    ///
    /// # Errors
    /// A plain path that does not exist, or a bad pattern.
    pub fn find(&self, written: &str) -> Result<Vec<Found>, CopyError> {
        let cleaned = clean(written);
        let components: Vec<&str> = cleaned.split('/').filter(|part| !part.is_empty()).collect();
        let wild = components.iter().position(|part| has_wildcard(part));
        let Some(wild) = wild else {
            let name = components.last().copied().unwrap_or_default();
            return Ok(vec![self.one(written, &cleaned, name)?]);
        };
        let base = components[..wild].join("/");
        let pattern = components[wild..].join("/");
        let Ok(start) = self.resolve(&base) else { return Ok(Vec::new()) };
        let bad = || CopyError::BadPattern { pattern: written.to_owned() };
        glob_match(pattern.as_bytes(), b"").map_err(|_| bad())?;
        let mut found = Vec::new();
        self.search(&start, &PathBuf::new(), &pattern, &mut found)?;
        Ok(found)
    }

    fn one(&self, written: &str, cleaned: &str, name: &str) -> Result<Found, CopyError> {
        let absent = || CopyError::NotFound { path: written.to_owned(), tree: self.label.clone() };
        let path = self.resolve(cleaned).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => absent(),
            _ => self.at(Path::new(cleaned), error),
        })?;
        if self.ignores(&path) && !self.may_hold_included(&path) {
            return Err(CopyError::Ignored { path: written.to_owned() });
        }
        Ok(Found { path, name: name.into() })
    }

    /// Everything below `start` that matches `pattern`; what matches is not looked into.
    fn search(
        &self,
        start: &Path,
        below: &Path,
        pattern: &str,
        found: &mut Vec<Found>,
    ) -> Result<(), CopyError> {
        let here = start.join(below);
        let dir = self.open_dir(&here).map_err(|error| self.at(&here, error))?;
        for name in names_in(dir.as_fd()).map_err(|error| self.at(&here, error))? {
            let relative = below.join(OsStr::from_bytes(name.as_bytes()));
            let full = start.join(&relative);
            let matched = glob_match(pattern.as_bytes(), relative.as_os_str().as_bytes())
                .map_err(|_| CopyError::BadPattern { pattern: pattern.to_owned() })?;
            let stat = stat_at(&dir, &name).map_err(|error| self.at(&full, error))?;
            let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
            if matched && !(self.ignores(&full) && !(is_dir && self.may_hold_included(&full))) {
                let text = full.to_string_lossy().into_owned();
                let name = name.to_string_lossy().into_owned();
                found.push(self.one(&text, &text, &name)?);
            } else if is_dir && !matched {
                self.search(start, &relative, pattern, found)?;
            }
        }
        Ok(())
    }

    /// Follows all links, inside the root.
    fn resolve(&self, path: &str) -> io::Result<PathBuf> {
        let path = if path.is_empty() { "." } else { path };
        let handle = self.root.resolve(path).map_err(|error| by_errno(&error))?;
        use std::os::fd::AsRawFd as _;
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

    fn open_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::open(self.path.join(path), flags, Mode::empty())?)
    }

    fn ignores(&self, path: &Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        self.ignore.is_some_and(|ignore| !bytes.is_empty() && ignore.matches(bytes))
    }

    fn may_hold_included(&self, path: &Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        self.ignore.is_none_or(|ignore| ignore.may_hold_kept(bytes))
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
    pub name: std::ffi::OsString,
}

/// How files are copied.
#[derive(Debug, Clone, Default)]
pub struct CopyRules {
    /// `--chown`, resolved.
    pub owner: Option<(u32, u32)>,
    /// `--chmod`.
    pub mode: Option<Chmod>,
    /// `--exclude`.
    pub exclude: Option<Ignore>,
}

/// Copies into a root file system, and remembers which paths it wrote.
#[derive(Debug)]
pub struct Copier<'a> {
    rootfs: &'a Rootfs,
    rules: CopyRules,
    written: Vec<ImagePath>,
    /// Source inode to the first copy of it, to keep hard links.
    copies: HashMap<(u64, u64), ImagePath>,
}

impl<'a> Copier<'a> {
    /// Copies by `rules` into `rootfs`.
    pub fn new(rootfs: &'a Rootfs, rules: CopyRules) -> Self {
        Self { rootfs, rules, written: Vec::new(), copies: HashMap::new() }
    }

    /// The root that is copied into.
    pub(crate) fn rootfs(&self) -> &'a Rootfs {
        self.rootfs
    }

    /// `--chown`.
    pub(crate) fn owner_of_all(&self) -> Option<(u32, u32)> {
        self.rules.owner
    }

    /// Remembers paths that somebody else wrote.
    pub(crate) fn wrote(&mut self, paths: impl IntoIterator<Item = ImagePath>) {
        self.written.extend(paths);
    }

    /// The paths that were written.
    pub fn into_written(self) -> Vec<ImagePath> {
        self.written
    }

    /// Copies `found` to `dest`, as written: absolute, with a trailing slash for a directory.
    ///
    /// # Errors
    /// A source or the destination does not allow it.
    pub fn copy(
        &mut self,
        sources: &SourceTree<'_>,
        found: &Found,
        dest: &str,
    ) -> Result<(), CopyError> {
        let (parent, name) = split_last(&found.path);
        let dir = sources.open_dir(&parent).map_err(|error| sources.at(&parent, error))?;
        let stat = match &name {
            Some(name) => stat_at(&dir, name),
            None => rustix::fs::fstat(&dir).map_err(io::Error::from),
        }
        .map_err(|error| sources.at(&found.path, error))?;
        self.copies.clear();
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            let target = self.directory(dest)?;
            let times = mtime(&stat);
            self.copy_content(sources, &found.path, &found.path, &target)?;
            return self.settle(&target, times);
        }
        let target = self.file_target(dest, &found.name)?;
        let Some(name) = name else { return Ok(()) };
        self.copy_entry(sources, &dir, &name, &found.path, &target, &stat, None)
    }

    /// Writes a file whose content is known, as a here-document is.
    ///
    /// # Errors
    /// The destination does not allow it.
    pub fn write(&mut self, name: &str, content: &[u8], dest: &str) -> Result<(), CopyError> {
        let target = self.file_target(dest, OsStr::new(name))?;
        let write = |source| CopyError::Write { path: target.clone(), source };
        self.make_room_for_file(&target, "a file")?;
        let mut file = self.rootfs.tree().create_file(&target).map_err(write)?;
        io::Write::write_all(&mut file, content).map_err(write)?;
        let metadata = self.metadata(0o644, false, self.rules.owner.unwrap_or((0, 0)), &[], None);
        metadata.put_on_handle(file.as_fd()).map_err(write)?;
        self.written.push(target.clone());
        Ok(())
    }

    /// The directory `dest`, made if it is missing.
    ///
    /// # Errors
    /// It is something else, or cannot be made.
    pub fn directory(&mut self, dest: &str) -> Result<ImagePath, CopyError> {
        let path = self.resolve(dest)?;
        self.make_dirs(&path)?;
        Ok(path)
    }

    /// Where a single file goes: into `dest` if that is a directory, else it is `dest`.
    fn file_target(&mut self, dest: &str, name: &OsStr) -> Result<ImagePath, CopyError> {
        if dest.ends_with('/') {
            let dir = self.directory(dest)?;
            return Ok(dir.join(name.as_bytes())?);
        }
        let path = self.resolve(dest)?;
        if self.rootfs.kind(&path).map_err(|source| self.write_error(&path, source))?
            == Some(Kind::Dir)
        {
            return Ok(path.join(name.as_bytes())?);
        }
        if let Some(parent) = path.parent() {
            self.make_dirs(&parent)?;
        }
        Ok(path)
    }

    fn resolve(&self, dest: &str) -> Result<ImagePath, CopyError> {
        let path = self.rootfs.resolve(&ImagePath::parse(clean(dest).as_bytes())?)?;
        if self.rootfs.exclusions().excludes(&path) {
            return Err(CopyError::Excluded { path });
        }
        Ok(path)
    }

    fn write_error(&self, path: &ImagePath, source: io::Error) -> CopyError {
        CopyError::Write { path: path.clone(), source }
    }

    /// Makes a directory and what is missing above it, owned as `--chown` says.
    fn make_dirs(&mut self, path: &ImagePath) -> Result<(), CopyError> {
        let kind = self.rootfs.kind(path).map_err(|source| self.write_error(path, source))?;
        match kind {
            Some(Kind::Dir) => return Ok(()),
            Some(other) => {
                return Err(CopyError::Conflict {
                    what: "a directory",
                    path: path.clone(),
                    is: named(&other),
                });
            }
            None => {}
        }
        if let Some(parent) = path.parent() {
            self.make_dirs(&parent)?;
        }
        let write = |source| CopyError::Write { path: path.clone(), source };
        self.rootfs.tree().make_dir(path, 0o755).map_err(write)?;
        let mode = match &self.rules.mode {
            Some(Chmod::Absolute(mode)) => *mode,
            _ => 0o755,
        };
        let owner = self.rules.owner.unwrap_or((0, 0));
        let metadata = Metadata { mode: Some(mode), owner, xattrs: &[], mtime: None };
        self.rootfs.tree().set_metadata(path, &metadata).map_err(write)?;
        self.written.push(path.clone());
        Ok(())
    }

    /// Copies what is in the directory `from` into the directory `to`. `start` is the source as
    /// named: excluded patterns are relative to it.
    fn copy_content(
        &mut self,
        sources: &SourceTree<'_>,
        start: &Path,
        from: &Path,
        to: &ImagePath,
    ) -> Result<(), CopyError> {
        let dir = sources.open_dir(from).map_err(|error| sources.at(from, error))?;
        for name in names_in(dir.as_fd()).map_err(|error| sources.at(from, error))? {
            let path = from.join(OsStr::from_bytes(name.as_bytes()));
            let stat = stat_at(&dir, &name).map_err(|error| sources.at(&path, error))?;
            let target = to.join(name.as_bytes())?;
            if self.rootfs.exclusions().excludes(&target) {
                tracing::warn!(
                    "{target} is a mount of this container or the executor's own: not copied"
                );
                continue;
            }
            self.copy_entry(sources, &dir, &name, &path, &target, &stat, Some(start))?;
        }
        Ok(())
    }

    /// Whether `--exclude` drops `path`, and whether something below may stay.
    fn excluded(&self, start: Option<&Path>, path: &Path) -> (bool, bool) {
        let Some(exclude) = &self.rules.exclude else { return (false, true) };
        let relative = start.and_then(|start| path.strip_prefix(start).ok()).unwrap_or(path);
        let bytes = relative.as_os_str().as_bytes();
        (exclude.matches(bytes), exclude.may_hold_kept(bytes))
    }

    #[expect(clippy::too_many_arguments, reason = "a source is its handle, name, path and status")]
    fn copy_entry(
        &mut self,
        sources: &SourceTree<'_>,
        dir: &OwnedFd,
        name: &CString,
        path: &Path,
        target: &ImagePath,
        stat: &Stat,
        start: Option<&Path>,
    ) -> Result<(), CopyError> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let (excluded, may_hold) = self.excluded(start, path);
        let left_out = excluded || sources.ignores(path);
        if left_out && !(kind.is_dir() && may_hold && sources.may_hold_included(path)) {
            return Ok(());
        }
        if kind.is_dir() {
            return self.copy_dir(sources, path, target, stat, start, left_out);
        }
        if kind.is_socket() {
            tracing::info!("{} is a socket and is left out", path.display());
            return Ok(());
        }
        self.make_room_for_file(target, "a file")?;
        if self.copy_as_link(target, stat)? {
            return Ok(());
        }
        let failed = |error| sources.at(path, error);
        let owner = self.owner(sources, stat);
        let time = Some(mtime(stat));
        let write = |source| CopyError::Write { path: target.clone(), source };
        let tree = self.rootfs.tree();
        match kind {
            FileType::RegularFile => {
                let source = open_file(dir, name).map_err(failed)?;
                let xattrs = xattrs_of(&source).map_err(failed)?;
                let mut file = tree.create_file(target).map_err(write)?;
                io::copy(&mut (&source), &mut file).map_err(write)?;
                self.metadata(stat.st_mode, false, owner, &xattrs, time)
                    .put_on_handle(file.as_fd())
                    .map_err(write)?;
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(dir, name, Vec::new())
                    .map_err(|errno| failed(errno.into()))?;
                tree.symlink(link.as_bytes(), target).map_err(write)?;
                let metadata = Metadata { mode: None, owner, xattrs: &[], mtime: time };
                tree.set_metadata(target, &metadata).map_err(write)?;
            }
            _ => {
                tree.make_node(target, &node(kind, stat)).map_err(write)?;
                let metadata = self.metadata(stat.st_mode, false, owner, &[], time);
                tree.set_metadata(target, &metadata).map_err(write)?;
            }
        }
        self.written.push(target.clone());
        Ok(())
    }

    fn copy_dir(
        &mut self,
        sources: &SourceTree<'_>,
        path: &Path,
        target: &ImagePath,
        stat: &Stat,
        start: Option<&Path>,
        only_if_needed: bool,
    ) -> Result<(), CopyError> {
        let start = start.unwrap_or(path);
        if only_if_needed && !self.holds_included(sources, path, start)? {
            return Ok(());
        }
        match self.rootfs.kind(target).map_err(|source| self.write_error(target, source))? {
            None => {
                let write = |source| CopyError::Write { path: target.clone(), source };
                self.rootfs.tree().make_dir(target, 0o700).map_err(write)?;
            }
            Some(Kind::Dir) => {}
            Some(other) => {
                let is = named(&other);
                let path = target.clone();
                return Err(CopyError::Conflict { what: "a directory", path, is });
            }
        }
        self.copy_content(sources, start, path, target)?;
        let owner = self.owner(sources, stat);
        let metadata = self.metadata(stat.st_mode, true, owner, &[], Some(mtime(stat)));
        let write = |source| CopyError::Write { path: target.clone(), source };
        self.rootfs.tree().set_metadata(target, &metadata).map_err(write)?;
        self.written.push(target.clone());
        Ok(())
    }

    /// Whether a directory that is left out itself holds something that is not.
    fn holds_included(
        &self,
        sources: &SourceTree<'_>,
        path: &Path,
        start: &Path,
    ) -> Result<bool, CopyError> {
        let dir = sources.open_dir(path).map_err(|error| sources.at(path, error))?;
        for name in names_in(dir.as_fd()).map_err(|error| sources.at(path, error))? {
            let child = path.join(OsStr::from_bytes(name.as_bytes()));
            let (excluded, may_hold) = self.excluded(Some(start), &child);
            if !excluded && !sources.ignores(&child) {
                return Ok(true);
            }
            let stat = stat_at(&dir, &name).map_err(|error| sources.at(&child, error))?;
            if FileType::from_raw_mode(stat.st_mode).is_dir()
                && may_hold
                && sources.may_hold_included(&child)
                && self.holds_included(sources, &child, start)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn settle(&mut self, dir: &ImagePath, time: Timestamp) -> Result<(), CopyError> {
        let write = |source| CopyError::Write { path: dir.clone(), source };
        self.rootfs.tree().set_mtime(dir, time).map_err(write)?;
        self.written.push(dir.clone());
        Ok(())
    }

    /// Removes a file or link where a file goes; a directory is in the way.
    fn make_room_for_file(&self, target: &ImagePath, what: &'static str) -> Result<(), CopyError> {
        let write = |source| CopyError::Write { path: target.clone(), source };
        match self.rootfs.kind(target).map_err(write)? {
            None => Ok(()),
            Some(Kind::Dir) => {
                Err(CopyError::Conflict { what, path: target.clone(), is: "a directory" })
            }
            Some(_) => self.rootfs.tree().remove(target).map_err(write),
        }
    }

    /// A source with several names that was copied under another one becomes a link to that copy.
    fn copy_as_link(&mut self, target: &ImagePath, stat: &Stat) -> Result<bool, CopyError> {
        if stat.st_nlink < 2 {
            return Ok(false);
        }
        let inode = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.copies.get(&inode) {
            let write = |source| CopyError::Write { path: target.clone(), source };
            self.rootfs.tree().hard_link(first, target).map_err(write)?;
            self.written.push(target.clone());
            return Ok(true);
        }
        self.copies.insert(inode, target.clone());
        Ok(false)
    }

    fn owner(&self, sources: &SourceTree<'_>, stat: &Stat) -> (u32, u32) {
        match self.rules.owner {
            Some(owner) => owner,
            None if sources.keep_owners => (stat.st_uid, stat.st_gid),
            None => (0, 0),
        }
    }

    fn metadata<'x>(
        &self,
        mode: u32,
        is_dir: bool,
        owner: (u32, u32),
        xattrs: &'x [(Vec<u8>, Vec<u8>)],
        mtime: Option<Timestamp>,
    ) -> Metadata<'x> {
        let mode = mode & 0o7777;
        let mode = self.rules.mode.as_ref().map_or(mode, |chmod| chmod.apply(mode, is_dir));
        Metadata { mode: Some(mode), owner, xattrs, mtime }
    }
}

fn by_errno(error: &pathrs::error::Error) -> io::Error {
    match error.kind() {
        pathrs::error::ErrorKind::OsError(Some(errno)) => io::Error::from_raw_os_error(errno),
        _ => io::Error::other(error.to_string()),
    }
}

fn named(kind: &Kind) -> &'static str {
    match kind {
        Kind::File { .. } => "a file",
        Kind::Dir => "a directory",
        Kind::Symlink { .. } => "a symbolic link",
        Kind::Fifo => "a FIFO",
        Kind::CharDevice { .. } | Kind::BlockDevice { .. } => "a device",
        Kind::Socket => "a socket",
    }
}

fn node(kind: FileType, stat: &Stat) -> Kind {
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    match kind {
        FileType::CharacterDevice => Kind::CharDevice { major, minor },
        FileType::BlockDevice => Kind::BlockDevice { major, minor },
        _ => Kind::Fifo,
    }
}

fn mtime(stat: &Stat) -> Timestamp {
    Timestamp::new(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

fn stat_at(dir: &OwnedFd, name: &CString) -> io::Result<Stat> {
    Ok(rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn open_file(dir: &OwnedFd, name: &CString) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?.into())
}

/// The extended attributes that belong to the file and not to the machine it lies on.
fn xattrs_of(file: &File) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    use xattr::FileExt as _;
    let names = match file.list_xattr() {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for name in names {
        let bytes = name.as_bytes();
        if !snapshot::belongs_to_image(bytes) {
            continue;
        }
        if let Some(value) = file.get_xattr(&name)? {
            found.push((bytes.to_vec(), value));
        }
    }
    Ok(found)
}

fn split_last(path: &Path) -> (PathBuf, Option<CString>) {
    let parent = path.parent().map(Path::to_owned).unwrap_or_default();
    let name = path.file_name().and_then(|name| CString::new(name.as_bytes()).ok());
    match name {
        Some(name) => (parent, Some(name)),
        None => (path.to_owned(), None),
    }
}

fn has_wildcard(part: &str) -> bool {
    let mut escaped = false;
    part.chars().any(|c| {
        let wild = !escaped && matches!(c, '*' | '?' | '[');
        escaped = !escaped && c == '\\';
        wild
    })
}

/// A path without `.`, `..` and doubled slashes, relative to the root it is meant in; `..` ends there.
fn clean(path: &str) -> String {
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
}
