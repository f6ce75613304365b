//! Applies layer archives to a root file system, and fills the index from their headers.
//!
//! # The promises
//!
//! - Only the parent of an entry is resolved through links, and inside the
//!   root; the last component never is. What cannot be placed is refused.
//! - Afterwards the index says what is on disk, including inode and ctime, so
//!   that nobody has to walk the tree.
//! - A whiteout removes what lower layers put there, never what its own layer
//!   did (image-spec, "Whiteouts").

use std::collections::BTreeSet;
use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::AsFd as _;

use snapshot::{Entry, ImagePath, Index, Kind, PathError};
use thiserror::Error;

use super::archive::{Archive, ArchiveError, Member, MemberKind};
use super::exclusions::Exclusions;
use super::is_account_file;
use super::parents::Parents;
use super::place::Place;
use super::tree::Tree;
use super::writer::{Attributes, WriteError, Writer, Written};

/// What the name of a whiteout begins with.
const WHITEOUT: &[u8] = b".wh.";
/// What the names of aufs's own files begin with; none of them is part of an image.
const AUFS: &[u8] = b".wh..wh.";
/// The one such name that says something: what lower layers have in its directory is gone.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a layer of eStargz has in its root for programs that fetch single files of it: the table of contents,
/// and marks of what they do well to fetch first (stargz-snapshotter, `docs/estargz.md`).
const ESTARGZ: [&[u8]; 3] = [b"stargz.index.json", b".prefetch.landmark", b".no.prefetch.landmark"];

/// How much of a name that is refused is shown.
const LONGEST_TOLD: usize = 300;

/// Why a layer could not be applied.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The bytes are no tar archive, or end too early.
    #[error("damaged archive: {0}")]
    Archive(#[from] ArchiveError),
    /// A name that cannot be a path of an image.
    #[error("entry {name:?} is refused: {source}")]
    Name {
        /// The name as it stands in the archive.
        name: String,
        /// What is wrong with it.
        source: PathError,
    },
    /// An entry that no image may hold.
    #[error("entry {path} is refused: {why}")]
    Refused {
        /// Where the entry would have gone.
        path: ImagePath,
        /// What is wrong with it.
        why: String,
    },
    /// A system call on the way failed.
    #[error("could not unpack {path}: {source}")]
    Io {
        /// The entry.
        path: ImagePath,
        /// What the call answered.
        source: io::Error,
    },
    /// The entry itself could not be written.
    #[error("could not unpack {path}: {source}")]
    Write {
        /// The entry.
        path: ImagePath,
        /// What went wrong.
        source: WriteError,
    },
}

/// What one archive did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries that were put in place.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// Entries below a mount or the executor's own directory, and those of aufs and eStargz, which were
    /// passed over.
    pub skipped: u64,
}

/// Applies layers, lowest first.
#[derive(Debug)]
pub struct Unpacker<'a> {
    parents: Parents<'a>,
    index: &'a mut Index,
    exclusions: &'a mut Exclusions,
    writer: Writer,
    /// Whether files are only noted in the index.
    outline: bool,
    /// Names in the root of this layer that are no part of the image.
    passed_over: &'static [&'static [u8]],
    /// Directories whose time has to be set again, because something was made in them.
    unsettled: BTreeSet<ImagePath>,
    /// One name of each inode that got or lost another name, which moved its ctime.
    linked: BTreeSet<ImagePath>,
}

impl<'a> Unpacker<'a> {
    /// Starts on a tree that is as `index` says. In an outline files are noted in the index, with their
    /// fingerprints, instead of being written: all but those that are named like account files.
    pub fn new(
        tree: &'a Tree,
        index: &'a mut Index,
        exclusions: &'a mut Exclusions,
        outline: bool,
    ) -> Self {
        Self {
            parents: Parents::new(tree),
            index,
            exclusions,
            writer: Writer::new(Attributes::Needed),
            outline,
            passed_over: &[],
            unsettled: BTreeSet::new(),
            linked: BTreeSet::new(),
        }
    }

    /// As [`Unpacker::apply`], for a layer of eStargz: its table of contents and its marks are no files of
    /// the image.
    ///
    /// # Errors
    /// Those of [`Unpacker::apply`].
    pub fn apply_estargz(&mut self, archive: impl Read) -> Result<Unpacked, UnpackError> {
        self.passed_over = &ESTARGZ;
        let done = self.apply(archive);
        self.passed_over = &[];
        done
    }

    /// Applies one uncompressed layer archive, read to its end.
    ///
    /// # Errors
    /// The archive is damaged or hostile, or the disk does not take it.
    pub fn apply(&mut self, archive: impl Read) -> Result<Unpacked, UnpackError> {
        let mut done = Unpacked::default();
        self.index.begin_layer();
        let mut archive = Archive::new(archive);
        self.writer.begin();
        while let Some(member) = archive.next_member()? {
            self.apply_member(&member, &mut archive, &mut done)?;
        }
        Ok(done)
    }

    /// Gives directories the times of their headers, and the index what the kernel says of them and
    /// of files with several names.
    ///
    /// # Errors
    /// A call on a directory or file failed.
    pub fn finish(mut self) -> Result<(), UnpackError> {
        for path in std::mem::take(&mut self.unsettled) {
            let Some(entry) = self.index.get(&path) else { continue };
            if entry.is_dir() {
                let mtime = entry.mtime;
                let place = self.at(&path)?;
                place.set_mtime(mtime).map_err(|source| io_at(&path, source))?;
                self.look_again(&path)?;
            }
        }
        let index = &self.index;
        let linked: BTreeSet<ImagePath> = std::mem::take(&mut self.linked)
            .iter()
            .map(|path| index.names_linked_with(path).next().unwrap_or(path).clone())
            .collect();
        for path in linked {
            if self.index.get(&path).is_some_and(|entry| !entry.unwritten) {
                self.look_again(&path)?;
            }
        }
        Ok(())
    }

    fn look_again(&mut self, path: &ImagePath) -> Result<(), UnpackError> {
        let seen = self.at(path)?.seen().map_err(|source| io_at(path, source))?;
        self.index.record_seen(path, seen);
        Ok(())
    }

    fn at(&mut self, path: &ImagePath) -> Result<Place, UnpackError> {
        self.parents.place(path).map_err(|source| io_at(path, source))
    }

    fn apply_member(
        &mut self,
        member: &Member,
        content: &mut impl Read,
        done: &mut Unpacked,
    ) -> Result<(), UnpackError> {
        let path = parse(&member.name)?;
        if is_of_aufs(&path) || self.passed_over.contains(&path.relative()) {
            done.skipped += 1;
            return Ok(());
        }
        let path = self.resolve_parent(path)?;
        if self.exclusions.excludes(&path) {
            done.skipped += 1;
            return Ok(());
        }
        if let Some(hidden) = path.file_name().and_then(|name| name.strip_prefix(WHITEOUT)) {
            return self.apply_whiteout(&path, hidden);
        }
        if path.is_root() && member.kind != MemberKind::Dir {
            return Err(refused(&path, "the root can only be a directory"));
        }
        self.make_parents(&path)?;
        if !self.make_room(&path, member)? {
            done.skipped += 1;
            return Ok(());
        }
        done.bytes += self.put(&path, member, content)?;
        done.entries += 1;
        Ok(())
    }

    /// Where an entry goes: its parent resolved through the links of the tree, its last component
    /// taken as it is.
    fn resolve_parent(&self, path: ImagePath) -> Result<ImagePath, UnpackError> {
        if path.parent().is_some_and(|parent| self.parents.is_open(&parent)) {
            return Ok(path);
        }
        self.index.resolve_parent(&path).map_err(|error| refused(&path, &error.to_string()))
    }

    fn apply_whiteout(&mut self, marker: &ImagePath, hidden: &[u8]) -> Result<(), UnpackError> {
        let Some(parent) = marker.parent() else { return Ok(()) };
        if marker.file_name() == Some(OPAQUE) {
            return self.remove_lower(self.children(&parent));
        }
        let doomed = parent.join(hidden);
        let doomed =
            doomed.map_err(|error| refused(marker, &format!("it hides nothing: {error}")))?;
        self.remove_lower(vec![doomed])
    }

    /// Removes what lower layers have at these paths; what this layer has put below them stays, and
    /// so does what is no part of the image.
    fn remove_lower(&mut self, mut doomed: Vec<ImagePath>) -> Result<(), UnpackError> {
        while let Some(path) = doomed.pop() {
            if self.exclusions.excludes(&path) {
                continue;
            }
            if self.index.is_of_this_layer(&path) || self.exclusions.covers_any_below(&path) {
                doomed.extend(self.children(&path));
            } else {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    fn children(&self, path: &ImagePath) -> Vec<ImagePath> {
        self.index.children(path).map(|(child, _)| child.clone()).collect()
    }

    /// Removes `path` and what is below it from the disk and the index. Inodes that keep another
    /// name get a new ctime by that.
    fn remove(&mut self, path: &ImagePath) -> Result<(), UnpackError> {
        if !self.index.contains(path) {
            return Ok(());
        }
        for (below, _) in self.index.subtree(path) {
            let other = self.index.names_linked_with(below).find(|name| !name.starts_with(path));
            self.linked.extend(other.cloned());
        }
        self.parents.forget(path);
        self.parents.tree().remove(path).map_err(|source| io_at(path, source))?;
        self.index.remove_tree(path);
        self.unsettle_parent(path);
        Ok(())
    }

    fn unsettle_parent(&mut self, path: &ImagePath) {
        if let Some(parent) = path.parent()
            && !self.unsettled.contains(&parent)
        {
            self.unsettled.insert(parent);
        }
    }

    /// Directories that the archive forgot: 0755, owned by root, as Docker makes them.
    fn make_parents(&mut self, path: &ImagePath) -> Result<(), UnpackError> {
        let mut missing = Vec::new();
        for dir in path.ancestors().take_while(|dir| !dir.is_root()) {
            if self.parents.is_open(&dir) {
                break;
            }
            match self.index.get(&dir).map(|entry| &entry.kind) {
                Some(Kind::Dir) => break,
                Some(_) => return Err(refused(path, &format!("{dir} is not a directory"))),
                None => missing.push(dir),
            }
        }
        missing.iter().rev().try_for_each(|dir| self.make_forgotten(dir))
    }

    fn make_forgotten(&mut self, dir: &ImagePath) -> Result<(), UnpackError> {
        if dir.file_name().is_some_and(|name| name.starts_with(WHITEOUT)) {
            return Err(refused(dir, "a directory cannot be named like a whiteout"));
        }
        let place = self.at(dir)?;
        place.make_dir(0o755).map_err(|source| io_at(dir, source))?;
        place.set_mode(0o755).map_err(|source| io_at(dir, source))?;
        let seen = snapshot::observe(self.parents.tree().as_fd(), dir)
            .map_err(|error| io_at(dir, io::Error::other(error)))?;
        if let Some(seen) = seen {
            self.index.insert(dir.clone(), seen.entry);
        }
        self.unsettle_parent(dir);
        self.unsettled.insert(dir.clone());
        Ok(())
    }

    /// Removes what stands where the entry goes, unless both are directories. A directory that holds
    /// a mount cannot be removed: then the entry has no place, and the answer is false.
    fn make_room(&mut self, path: &ImagePath, member: &Member) -> Result<bool, UnpackError> {
        let Some(old) = self.index.get(path) else { return Ok(true) };
        if old.is_dir() && member.kind == MemberKind::Dir {
            self.drop_old_xattrs(path, member)?;
            return Ok(true);
        }
        if old.is_dir() && self.exclusions.covers_any_below(path) {
            tracing::warn!(
                "{path} of the base image is left out: a mount of this container lies below it"
            );
            self.exclusions.pin(path.clone());
            return Ok(false);
        }
        if let MemberKind::HardLink(target) = &member.kind
            && self.link_target(path, target)?.starts_with(path)
        {
            return Err(refused(path, "it is a hard link to itself"));
        }
        self.remove(path)?;
        Ok(true)
    }

    /// A directory that stays loses the attributes that only lower layers give it.
    fn drop_old_xattrs(&mut self, path: &ImagePath, member: &Member) -> Result<(), UnpackError> {
        let Some(old) = self.index.get(path) else { return Ok(()) };
        let stays = |name: &[u8]| member.xattrs.iter().any(|(known, _)| known == name);
        let gone: Vec<CString> = old
            .xattrs
            .iter()
            .filter(|(name, _)| !stays(name))
            .filter_map(|(name, _)| CString::new(name).ok())
            .collect();
        for name in gone {
            self.at(path)?.remove_xattr(&name).map_err(|source| io_at(path, source))?;
        }
        Ok(())
    }

    /// Puts the entry in place and into the index; tells how many bytes of content it had.
    fn put(
        &mut self,
        path: &ImagePath,
        member: &Member,
        content: &mut impl Read,
    ) -> Result<u64, UnpackError> {
        self.unsettle_parent(path);
        let kind = match &member.kind {
            MemberKind::HardLink(target) => return self.put_hard_link(path, target).map(|()| 0),
            MemberKind::File { size } => Kind::File { size: *size },
            MemberKind::Dir => Kind::Dir,
            MemberKind::Symlink(target) => Kind::Symlink { target: target.as_slice().into() },
            MemberKind::Fifo => Kind::Fifo,
            &MemberKind::CharDevice { major, minor } => Kind::CharDevice { major, minor },
            &MemberKind::BlockDevice { major, minor } => Kind::BlockDevice { major, minor },
        };
        let bytes = if let Kind::File { size } = kind { size } else { 0 };
        let on_disk = matches!(kind, Kind::Dir | Kind::Symlink { .. }) || is_account_file(path);
        if self.outline && !on_disk {
            let noted = self.writer.note(member, content).map_err(damaged)?;
            let entry = Entry { unwritten: true, ..entry(kind, member, noted) };
            self.index.insert(path.clone(), entry);
            return Ok(bytes);
        }
        let place = self.at(path)?;
        let written = self.writer.put(&place, member, content).map_err(|source| match source {
            WriteError::Content(source) => damaged(source),
            source => UnpackError::Write { path: path.clone(), source },
        })?;
        if kind == Kind::Dir {
            self.unsettled.insert(path.clone());
        }
        self.index.insert(path.clone(), entry(kind, member, written));
        Ok(bytes)
    }

    fn put_hard_link(&mut self, path: &ImagePath, target: &[u8]) -> Result<(), UnpackError> {
        let existing = self.link_target(path, target)?;
        let why = |what: &str| refused(path, &format!("its hard link target {existing} {what}"));
        match self.index.get(&existing).map(|entry| &entry.kind) {
            None => return Err(why("is not there")),
            Some(Kind::Dir) => return Err(why("is a directory")),
            Some(_) if self.exclusions.excludes(&existing) => {
                return Err(why("lies outside the image"));
            }
            Some(_) => {}
        }
        if self.index.get(&existing).is_some_and(|entry| entry.unwritten) {
            return self.index.link(&existing, path.clone()).map_err(|_| why("is not there"));
        }
        let from = self.at(&existing)?;
        let to = self.at(path)?;
        to.make_link(&from).map_err(|source| io_at(path, source))?;
        self.index.link(&existing, path.clone()).map_err(|_| why("is not there"))?;
        let first = self.index.names_linked_with(path).next().unwrap_or(path).clone();
        self.linked.insert(first);
        Ok(())
    }

    fn link_target(&self, path: &ImagePath, target: &[u8]) -> Result<ImagePath, UnpackError> {
        let parsed = ImagePath::parse(target)
            .map_err(|error| refused(path, &format!("its hard link target: {error}")))?;
        self.resolve_parent(parsed)
    }
}

fn parse(name: &[u8]) -> Result<ImagePath, UnpackError> {
    let text = || String::from_utf8_lossy(&name[..name.len().min(LONGEST_TOLD)]).into_owned();
    ImagePath::parse(name).map_err(|source| UnpackError::Name { name: text(), source })
}

fn refused(path: &ImagePath, why: &str) -> UnpackError {
    UnpackError::Refused { path: path.clone(), why: why.to_owned() }
}

fn damaged(source: io::Error) -> UnpackError {
    UnpackError::Archive(ArchiveError::Read(source))
}

fn io_at(path: &ImagePath, source: io::Error) -> UnpackError {
    UnpackError::Io { path: path.clone(), source }
}

/// Whether this, or a directory above it, is aufs's own.
fn is_of_aufs(path: &ImagePath) -> bool {
    let marker = path.file_name() == Some(OPAQUE);
    let above = path.parent();
    let looked_at = if marker { above.as_ref() } else { Some(path) };
    looked_at.is_some_and(|path| path.components().any(|name| name.starts_with(AUFS)))
}

fn entry(kind: Kind, member: &Member, written: Written) -> Entry {
    let mode = if matches!(kind, Kind::Symlink { .. }) { 0o777 } else { member.mode };
    Entry {
        uid: member.uid,
        gid: member.gid,
        mtime: member.mtime,
        xattrs: written.xattrs,
        seen: written.seen,
        fingerprint: written.fingerprint,
        ..Entry::new(kind, mode)
    }
}

#[cfg(test)]
mod tests;
