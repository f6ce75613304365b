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
use std::path::Path;

use rustix::fs::{FileType, Stat};
use snapshot::{ImagePath, Kind, Timestamp};
use thiserror::Error;
use tracer::Interrupt;

use super::attributes::{mtime, named, node, xattrs_of};
use super::selection::{Part, Verdict};
use super::sources::{Found, SourceTree, clean, open_file, split_last, stat_at};
use crate::context::Ignore;
use crate::dockerfile::Chmod;
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
    /// The build is being ended.
    #[error("interrupted")]
    Interrupted,
    /// A wildcard that cannot be read.
    #[error("{pattern}: bad pattern")]
    BadPattern {
        /// As written.
        pattern: String,
    },
    /// `--parents` does not follow links after the pivot, so there is nothing to copy.
    #[error("{path}: --parents follows no links, and one leads there: put /./ behind it")]
    BehindLink {
        /// As written.
        path: String,
    },
    /// A source of `--parents` that has to be there, and that `--exclude` takes away.
    #[error("{path}: --exclude leaves nothing of it")]
    AllExcluded {
        /// As written.
        path: String,
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

/// How much of a file is copied before the build may end.
const PIECE: u64 = 64 << 20;

/// How files are copied.
#[derive(Debug, Clone, Default)]
pub struct CopyRules {
    /// `--chown`, resolved.
    pub owner: Option<(u32, u32)>,
    /// `--chmod`.
    pub mode: Option<Chmod>,
    /// `--exclude`.
    pub exclude: Option<Ignore>,
    /// `--link`: what the image has on the way to the destination is not looked at.
    pub link: bool,
}

/// Copies into a root file system, and remembers which paths it wrote.
#[derive(Debug)]
pub struct Copier<'a> {
    rootfs: &'a Rootfs,
    rules: CopyRules,
    interrupt: &'a Interrupt,
    written: Vec<ImagePath>,
    /// Source inode to the first copy of it, to keep hard links.
    copies: HashMap<(u64, u64), ImagePath>,
}

impl<'a> Copier<'a> {
    /// Copies by `rules` into `rootfs`.
    pub fn new(rootfs: &'a Rootfs, rules: CopyRules, interrupt: &'a Interrupt) -> Self {
        Self { rootfs, rules, interrupt, written: Vec::new(), copies: HashMap::new() }
    }

    /// Ends a copy that nobody wants any more.
    fn go_on(&self) -> Result<(), CopyError> {
        if self.interrupt.is_triggered() { Err(CopyError::Interrupted) } else { Ok(()) }
    }

    /// Copies content, in pieces, so that a large file does not keep the build from ending.
    fn fill(&self, source: &File, file: &mut File, target: &ImagePath) -> Result<(), CopyError> {
        loop {
            self.go_on()?;
            let mut piece = io::Read::take(source, PIECE);
            match io::copy(&mut piece, file) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(source) => return Err(CopyError::Write { path: target.clone(), source }),
            }
        }
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
            return self.copy_tree(sources, Part::of(&found.path), &stat, dest);
        }
        let target = self.file_target(dest, &found.name)?;
        let Some(name) = name else { return Ok(()) };
        self.copy_entry(sources, &dir, &name, &found.path, &target, &stat, Part::file())
    }

    /// Copies what is in a directory into `dest`.
    fn copy_tree(
        &mut self,
        sources: &SourceTree<'_>,
        part: Part<'_>,
        stat: &Stat,
        dest: &str,
    ) -> Result<(), CopyError> {
        let target = self.directory(dest)?;
        self.copy_content(sources, part, part.start(), &target)?;
        self.settle(&target, mtime(stat))
    }

    /// Copies what `written` names below the directories that it stands in: all of them, or those after
    /// the `/./` in it.
    ///
    /// # Errors
    /// As [`Copier::copy`]; and nothing is there although no wildcard is used.
    pub fn copy_with_parents(
        &mut self,
        sources: &SourceTree<'_>,
        written: &str,
        dest: &str,
    ) -> Result<(), CopyError> {
        let parents = sources.parents(written)?;
        let before = self.written.len();
        for start in &parents.starts {
            let dir = match sources.open_dir(&start.path) {
                Ok(dir) => dir,
                // What a wildcard found before the pivot may be a file: it is copied as it is.
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                    self.copy(sources, start, dest)?;
                    continue;
                }
                Err(error) => return Err(sources.at(&start.path, error)),
            };
            let stat =
                rustix::fs::fstat(&dir).map_err(|errno| sources.at(&start.path, errno.into()))?;
            self.copies.clear();
            let part = Part::of(&start.path).only(parents.only.as_ref());
            self.copy_tree(sources, part, &stat, dest)?;
        }
        let dest = self.resolve(dest)?;
        let copied = |path: &ImagePath| *path != dest && path.starts_with(&dest);
        if parents.exact && parents.only.is_some() && !self.written[before..].iter().any(copied) {
            let path = written.to_owned();
            return Err(match &self.rules.exclude {
                Some(_) => CopyError::AllExcluded { path },
                None => CopyError::BehindLink { path },
            });
        }
        Ok(())
    }

    /// Copies `found` itself, not only what is in it, to `target`, which must not exist. The root of
    /// a context gets the mode that a directory usually has.
    ///
    /// # Errors
    /// As [`Copier::copy`].
    pub fn copy_as(
        &mut self,
        sources: &SourceTree<'_>,
        found: &Found,
        target: &ImagePath,
    ) -> Result<(), CopyError> {
        let (parent, name) = split_last(&found.path);
        let failed = |error| sources.at(&found.path, error);
        let dir = sources.open_dir(&parent).map_err(failed)?;
        self.copies.clear();
        if let Some(name) = name {
            let stat = stat_at(&dir, &name).map_err(failed)?;
            return self.copy_entry(sources, &dir, &name, &found.path, target, &stat, Part::file());
        }
        let mut stat = rustix::fs::fstat(&dir).map_err(|errno| failed(errno.into()))?;
        if !sources.keeps_owners() {
            stat.st_mode = FileType::Directory.as_raw_mode() | 0o755;
        }
        self.copy_dir(sources, &found.path, target, &stat, Part::file(), Verdict::In)
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
        // With `--link` what is above may be a link, and is a directory before anybody looks below it.
        if let Some(parent) = path.parent().filter(|_| self.rules.link) {
            self.make_dirs(&parent)?;
        }
        if self.rootfs.kind(&path).map_err(|source| self.write_error(&path, source))?
            == Some(Kind::Dir)
        {
            return Ok(path.join(name.as_bytes())?);
        }
        if self.written.contains(&path) {
            let name = name.display();
            tracing::warn!(
                "{name} replaces an earlier source at {path}, which is no directory yet: end it with a /"
            );
        }
        if let Some(parent) = path.parent() {
            self.make_dirs(&parent)?;
        }
        Ok(path)
    }

    fn resolve(&self, dest: &str) -> Result<ImagePath, CopyError> {
        let path = ImagePath::parse(clean(dest).as_bytes())?;
        let path = if self.rules.link { path } else { self.rootfs.resolve(&path)? };
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
        // A link on the way is not followed where `--link` is given, so what is above is looked at first.
        if self.rules.link
            && let Some(parent) = path.parent()
        {
            self.make_dirs(&parent)?;
        }
        if self.is_dir(path)? {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make_dirs(&parent)?;
        }
        let write = |source| CopyError::Write { path: path.clone(), source };
        self.rootfs.tree().make_dir(path, 0o755).map_err(write)?;
        let mode = match &self.rules.mode {
            // As in the reference, what is made on the way has no set-id bits.
            Some(Chmod::Absolute(mode)) => *mode & 0o777,
            _ => 0o755,
        };
        let owner = self.rules.owner.unwrap_or((0, 0));
        let metadata = Metadata { mode: Some(mode), owner, xattrs: &[], mtime: None };
        self.rootfs.tree().set_metadata(path, &metadata).map_err(write)?;
        self.written.push(path.clone());
        Ok(())
    }

    /// Whether a directory is there already. What else is there is in the way, or goes for `--link`.
    fn is_dir(&self, path: &ImagePath) -> Result<bool, CopyError> {
        let write = |source| self.write_error(path, source);
        match self.rootfs.kind(path).map_err(write)? {
            Some(Kind::Dir) => Ok(true),
            None => Ok(false),
            Some(other) if self.rules.link => {
                tracing::warn!("{path} was {}: --link makes it a directory", named(&other));
                self.rootfs.tree().remove(path).map_err(write)?;
                Ok(false)
            }
            Some(other) => {
                let is = named(&other);
                Err(CopyError::Conflict { what: "a directory", path: path.clone(), is })
            }
        }
    }

    /// Copies what is in the directory `from` into the directory `to`.
    fn copy_content(
        &mut self,
        sources: &SourceTree<'_>,
        part: Part<'_>,
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
            self.copy_entry(sources, &dir, &name, &path, &target, &stat, part)?;
        }
        Ok(())
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
        part: Part<'_>,
    ) -> Result<(), CopyError> {
        self.go_on()?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        match part.verdict(path, self.rules.exclude.as_ref(), sources) {
            Verdict::Out => return Ok(()),
            verdict if kind.is_dir() => {
                return self.copy_dir(sources, path, target, stat, part, verdict);
            }
            Verdict::WithContent | Verdict::PerhapsBelow => return Ok(()),
            Verdict::In => {}
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
                self.fill(&source, &mut file, target)?;
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
        part: Part<'_>,
        verdict: Verdict,
    ) -> Result<(), CopyError> {
        if verdict != Verdict::In && !part.holds_any(path, self.rules.exclude.as_ref(), sources)? {
            return Ok(());
        }
        let write = |source| CopyError::Write { path: target.clone(), source };
        let was_there = self.is_dir(target)?;
        if !was_there {
            self.rootfs.tree().make_dir(target, 0o700).map_err(write)?;
        }
        self.copy_content(sources, part, path, target)?;
        if was_there && verdict == Verdict::PerhapsBelow && !self.rules.link {
            // As in the reference, it takes the mode of its source, whatever `--chmod` says.
            self.rootfs.tree().set_mode(target, stat.st_mode & 0o7777).map_err(write)?;
            self.written.push(target.clone());
            return Ok(());
        }
        let owner = self.owner(sources, stat);
        let read = sources.open_dir(path).map(File::from);
        let xattrs =
            read.and_then(|dir| xattrs_of(&dir)).map_err(|error| sources.at(path, error))?;
        let metadata = self.metadata(stat.st_mode, true, owner, &xattrs, Some(mtime(stat)));
        self.rootfs.tree().set_metadata(target, &metadata).map_err(write)?;
        self.written.push(target.clone());
        Ok(())
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
            None if sources.keeps_owners() => (stat.st_uid, stat.st_gid),
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
