//! Unpacks an archive into a directory that has things in it already: what ADD does in an image,
//! and how the archive of a build context becomes a directory.
//!
//! # The promises
//!
//! - A name is taken below the destination; links on the way to it are followed
//!   inside the tree, the last component never is. Nothing outside the tree is
//!   read, written or linked to.
//! - Whiteouts mean nothing here: they are files with odd names.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use snapshot::{ImagePath, PathError, Timestamp};
use thiserror::Error;

use super::archive::{Archive, ArchiveError, Member, MemberKind};
use super::exclusions::Exclusions;
use super::parents::Parents;
use super::place::Place;
use super::tree::Tree;
use super::writer::{Attributes, WriteError, Writer};

/// How many links are followed on the way to one entry, as in Linux.
const MAX_LINKS: usize = 40;

/// Why an archive could not be unpacked.
#[derive(Debug, Error)]
pub enum ExtractError {
    /// It begins like an archive, but is damaged.
    #[error("damaged archive: {0}")]
    Archive(#[from] ArchiveError),
    /// An entry that cannot have a place.
    #[error("entry {name:?} is refused: {why}")]
    Refused {
        /// As in the archive.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A call on the way to an entry failed.
    #[error("could not unpack {path}: {source}")]
    Io {
        /// In the tree.
        path: ImagePath,
        /// What the call answered.
        source: io::Error,
    },
    /// An entry could not be written.
    #[error("could not unpack {path}: {source}")]
    Write {
        /// In the tree.
        path: ImagePath,
        /// What went wrong.
        source: WriteError,
    },
}

/// What an archive did.
#[derive(Debug)]
pub struct Extracted {
    /// All that was written, or removed to make room.
    pub written: BTreeSet<ImagePath>,
    /// How many entries were put in place.
    pub entries: u64,
    /// Whether the archive had the mark of its end: one without it may have been cut short.
    pub has_end: bool,
    /// When the newest of its files was changed, in seconds since 1970.
    pub newest: Option<i64>,
}

/// One archive on its way into a tree.
#[derive(Debug)]
pub struct Extraction<'a> {
    parents: Parents<'a>,
    exclusions: &'a Exclusions,
    /// For all entries, instead of what the archive says.
    owner: Option<(u32, u32)>,
    dest: ImagePath,
    writer: Writer,
    /// Whether anybody wants to know what was written.
    listed: bool,
    /// The parent of the last entry as named, and where that leads.
    resolved: Option<(ImagePath, ImagePath)>,
    written: BTreeSet<ImagePath>,
    /// Directories and the times they get once everything is in them.
    dirs: BTreeMap<ImagePath, Timestamp>,
}

impl<'a> Extraction<'a> {
    /// Into the directory `dest` of `tree`, which has to be there.
    pub fn new(tree: &'a Tree, exclusions: &'a Exclusions, dest: ImagePath) -> Self {
        Self {
            parents: Parents::new(tree),
            exclusions,
            owner: None,
            dest,
            writer: Writer::new(Attributes::Welcome),
            listed: true,
            resolved: None,
            written: BTreeSet::new(),
            dirs: BTreeMap::new(),
        }
    }

    /// All entries belong to this user and group, whatever the archive says.
    #[must_use]
    pub fn owned_by(mut self, owner: (u32, u32)) -> Self {
        self.owner = Some(owner);
        self
    }

    /// Nobody wants to know what was written: a million names need not be kept.
    #[must_use]
    pub fn unlisted(mut self) -> Self {
        self.listed = false;
        self
    }

    fn note(&mut self, path: ImagePath) {
        if self.listed {
            self.written.insert(path);
        }
    }

    /// Unpacks an uncompressed archive, read to its end.
    ///
    /// # Errors
    /// The archive is damaged or hostile, or the disk does not take it.
    pub fn run(mut self, archive: impl Read) -> Result<Extracted, ExtractError> {
        let mut archive = Archive::new(archive);
        let (mut entries, mut newest) = (0, None);
        while let Some(member) = archive.next_member()? {
            newest = newest.max(member.file_time());
            self.add(member, &mut archive)?;
            entries += 1;
        }
        let written = self.finish()?;
        Ok(Extracted { written, entries, has_end: archive.has_end(), newest })
    }

    fn add(&mut self, mut member: Member, content: &mut impl Read) -> Result<(), ExtractError> {
        let named = self.named(&member.name, &member.name)?;
        let is_dir = member.kind == MemberKind::Dir;
        if named == self.dest {
            // The directory is there, and stays as it is.
            return if is_dir { Ok(()) } else { Err(refused(&member.name, "it has no name")) };
        }
        let path = self.resolve_parent(&named, &member.name)?;
        if self.exclusions.excludes(&path) {
            tracing::debug!("{path} is no part of the image, not unpacked");
            return Ok(());
        }
        self.make_parents(&path)?;
        self.make_room(&path, &member)?;
        if let Some((uid, gid)) = self.owner {
            (member.uid, member.gid) = (uid, gid);
        }
        if let MemberKind::HardLink(target) = &member.kind {
            self.link(&path, target, &member.name)?;
        } else {
            let place = self.at(&path)?;
            self.writer.put(&place, &member, content).map_err(|source| match source {
                WriteError::Content(source) => ExtractError::Archive(ArchiveError::Read(source)),
                source => ExtractError::Write { path: path.clone(), source },
            })?;
        }
        if is_dir {
            self.dirs.insert(path.clone(), member.mtime);
        } else {
            self.dirs.remove(&path);
        }
        self.note(path);
        Ok(())
    }

    /// Gives directories their times; answers all that was written.
    fn finish(mut self) -> Result<BTreeSet<ImagePath>, ExtractError> {
        for (path, mtime) in std::mem::take(&mut self.dirs) {
            let place = self.at(&path)?;
            place.set_mtime(mtime).map_err(|source| ExtractError::Io { path, source })?;
        }
        Ok(self.written)
    }

    fn at(&mut self, path: &ImagePath) -> Result<Place, ExtractError> {
        self.parents.place(path).map_err(|source| ExtractError::Io { path: path.clone(), source })
    }

    /// A name of the archive as a path below the destination.
    fn named(&self, name: &[u8], told: &[u8]) -> Result<ImagePath, ExtractError> {
        let bad = |error: PathError| refused(told, &error.to_string());
        let below = ImagePath::parse(name).map_err(bad)?;
        let whole = [self.dest.as_bytes(), below.as_bytes()].concat();
        ImagePath::parse(&whole).map_err(bad)
    }

    /// The path with the links of its parents followed, as they are on disk now.
    fn resolve_parent(&mut self, path: &ImagePath, told: &[u8]) -> Result<ImagePath, ExtractError> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(refused(told, "it has no name"));
        };
        let resolved = match &self.resolved {
            Some((known, resolved)) if *known == parent => resolved.clone(),
            _ => {
                let resolved = self.follow(&parent, told)?;
                self.resolved = Some((parent, resolved.clone()));
                resolved
            }
        };
        resolved.join(name).map_err(|error| refused(told, &error.to_string()))
    }

    fn follow(&mut self, path: &ImagePath, told: &[u8]) -> Result<ImagePath, ExtractError> {
        let mut pending: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
        let mut here = ImagePath::root();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == b".." {
                here = here.parent().unwrap_or(here);
                continue;
            }
            let next = here.join(&name).map_err(|error| refused(told, &error.to_string()))?;
            let Some(target) = self.link_at(&next)? else {
                here = next;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(refused(told, "too many symbolic links on the way to it"));
            }
            if target.starts_with(b"/") {
                here = ImagePath::root();
            }
            let names = target.split(|byte| *byte == b'/').rev();
            pending.extend(names.filter(|name| !matches!(*name, b"" | b".")).map(<[u8]>::to_vec));
        }
        Ok(here)
    }

    /// The target of a link; nothing for anything else, and where nothing is.
    fn link_at(&mut self, path: &ImagePath) -> Result<Option<Vec<u8>>, ExtractError> {
        let io = |source| ExtractError::Io { path: path.clone(), source };
        match self.parents.place(path) {
            Ok(place) => place.read_link().map_err(io),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(io(error)),
        }
    }

    /// Directories that the archive forgot: 0755, owned by root, as Docker makes them.
    fn make_parents(&mut self, path: &ImagePath) -> Result<(), ExtractError> {
        let mut missing = Vec::new();
        let mut below = path.clone();
        while self.parents.place(&below).is_err() {
            let Some(parent) = below.parent() else { break };
            missing.push(parent.clone());
            below = parent;
        }
        for dir in missing.into_iter().rev() {
            let io = |source| ExtractError::Io { path: dir.clone(), source };
            let place = self.at(&dir)?;
            if place.make_dir(0o755).map_err(io)? {
                place.set_mode(0o755).map_err(io)?;
                place.set_owner((0, 0)).map_err(io)?;
                self.note(dir);
            }
        }
        Ok(())
    }

    /// Removes what stands where the entry goes, unless both are directories.
    fn make_room(&mut self, path: &ImagePath, member: &Member) -> Result<(), ExtractError> {
        let io = |source| ExtractError::Io { path: path.clone(), source };
        let place = self.at(path)?;
        let Some(old) = place.file_type().map_err(io)? else { return Ok(()) };
        if old.is_dir() && member.kind == MemberKind::Dir {
            return Ok(());
        }
        if old.is_dir() && self.exclusions.covers_any_below(path) {
            return Err(refused(&member.name, "a mount of this container lies below it"));
        }
        if let MemberKind::HardLink(target) = &member.kind {
            let named = self.named(target, &member.name)?;
            if self.resolve_parent(&named, &member.name)?.starts_with(path) {
                return Err(refused(&member.name, "it is a hard link to itself"));
            }
        }
        self.parents.forget(path);
        self.resolved = None;
        place.remove().map_err(io)?;
        self.dirs.retain(|dir, _| !dir.starts_with(path));
        self.note(path.clone());
        Ok(())
    }

    /// A hard link's target is named like an entry: below the destination.
    fn link(&mut self, path: &ImagePath, target: &[u8], told: &[u8]) -> Result<(), ExtractError> {
        let named = self.named(target, told)?;
        let existing = self.resolve_parent(&named, told)?;
        if self.exclusions.excludes(&existing) {
            return Err(refused(told, "its hard link target is no part of the image"));
        }
        let from = self.parents.place(&existing);
        let kind = from.as_ref().ok().and_then(|place| place.file_type().ok().flatten());
        match (from, kind) {
            (Ok(from), Some(kind)) if !kind.is_dir() => {
                let to = self.at(path)?;
                to.make_link(&from)
                    .map_err(|source| ExtractError::Io { path: path.clone(), source })?;
                self.note(existing);
                Ok(())
            }
            (_, Some(_)) => {
                Err(refused(told, &format!("its hard link target {existing} is a directory")))
            }
            (_, None) => {
                Err(refused(told, &format!("its hard link target {existing} is not there")))
            }
        }
    }
}

fn refused(name: &[u8], why: &str) -> ExtractError {
    let name = String::from_utf8_lossy(&name[..name.len().min(300)]).into_owned();
    ExtractError::Refused { name, why: why.to_owned() }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
