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
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd as _;

use snapshot::{Entry, Fingerprinter, ImagePath, Index, Kind, PathError, Timestamp, Xattrs};
use tar::EntryType;
use thiserror::Error;

use super::exclusions::Exclusions;
use super::tree::{Metadata, Tree, seen_by};

/// The longest extension header, name or link target that is read into memory.
const LONGEST_EXTENSION: u64 = 1 << 20;

/// Why a layer could not be applied.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The bytes are no tar archive, or end too early.
    #[error("damaged archive: {0}")]
    Archive(#[source] io::Error),
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
}

/// What one archive did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries that were put in place.
    pub entries: u64,
    /// Bytes of file content.
    pub bytes: u64,
    /// Entries below a mount or the executor's own directory, which were passed over.
    pub skipped: u64,
}

/// Applies layers, lowest first.
#[derive(Debug)]
pub struct Unpacker<'a> {
    tree: &'a Tree,
    index: &'a mut Index,
    exclusions: &'a mut Exclusions,
    /// Directories whose time has to be set again, because something was made in them.
    unsettled: BTreeSet<ImagePath>,
    buffer: Vec<u8>,
}

impl<'a> Unpacker<'a> {
    /// Starts on a tree that is as `index` says.
    pub fn new(tree: &'a Tree, index: &'a mut Index, exclusions: &'a mut Exclusions) -> Self {
        Self { tree, index, exclusions, unsettled: BTreeSet::new(), buffer: vec![0; 256 << 10] }
    }

    /// Applies one uncompressed layer archive, read to its end.
    ///
    /// # Errors
    /// The archive is damaged or hostile, or the disk does not take it.
    pub fn apply(&mut self, archive: impl Read) -> Result<Unpacked, UnpackError> {
        let mut done = Unpacked::default();
        let mut own = BTreeSet::new();
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries().map_err(UnpackError::Archive)? {
            self.apply_entry(entry.map_err(UnpackError::Archive)?, &mut own, &mut done)?;
        }
        // Compressors and checksums have their say after the end of the archive.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(UnpackError::Archive)?;
        Ok(done)
    }

    /// Gives directories the times of their headers, and the index what the kernel says of them.
    ///
    /// # Errors
    /// A call on a directory failed.
    pub fn finish(self) -> Result<(), UnpackError> {
        // Children first: setting a child's time leaves its parent alone, but order costs nothing.
        for path in self.unsettled.iter().rev() {
            let Some(entry) = self.index.get(path) else { continue };
            if !matches!(entry.kind, Kind::Dir) {
                continue;
            }
            let io = |source| UnpackError::Io { path: path.clone(), source };
            self.tree.set_mtime(path, entry.mtime).map_err(io)?;
            let seen = self.tree.seen(path).map_err(io)?;
            self.index.record_seen(path, seen);
        }
        Ok(())
    }

    fn apply_entry(
        &mut self,
        mut entry: tar::Entry<'_, impl Read>,
        own: &mut BTreeSet<ImagePath>,
        done: &mut Unpacked,
    ) -> Result<(), UnpackError> {
        let header = Header::read(&mut entry)?;
        let Some(header) = header else { return Ok(()) };
        let path = self.place(&header.name)?;
        if self.exclusions.excludes(&path) {
            done.skipped += 1;
            return Ok(());
        }
        if let Some(hidden) = path.file_name().and_then(|name| name.strip_prefix(b".wh.")) {
            return self.apply_whiteout(&path, hidden, own);
        }
        self.make_parents(&path)?;
        if !self.make_room(&path, &header)? {
            done.skipped += 1;
            return Ok(());
        }
        done.bytes += self.put(&path, &header, &mut entry)?;
        done.entries += 1;
        own.insert(path);
        Ok(())
    }

    /// Where an entry goes: its parent resolved through the links of the tree, its last component
    /// taken as it is.
    fn place(&self, name: &[u8]) -> Result<ImagePath, UnpackError> {
        let text = || String::from_utf8_lossy(name).into_owned();
        let path =
            ImagePath::parse(name).map_err(|source| UnpackError::Name { name: text(), source })?;
        self.index
            .resolve_parent(&path)
            .map_err(|error| UnpackError::Refused { path, why: error.to_string() })
    }

    fn apply_whiteout(
        &mut self,
        marker: &ImagePath,
        hidden: &[u8],
        own: &BTreeSet<ImagePath>,
    ) -> Result<(), UnpackError> {
        let Some(parent) = marker.parent() else { return Ok(()) };
        let doomed = if hidden == b".wh..opq" {
            self.index.children(&parent).map(|(child, _)| child.clone()).collect()
        } else {
            let refused = |source| UnpackError::Name { name: marker.to_string(), source };
            vec![parent.join(hidden).map_err(refused)?]
        };
        for path in doomed {
            self.remove_lower(&path, own)?;
        }
        Ok(())
    }

    /// Removes what lower layers have at `path`; what this layer has put below it stays.
    fn remove_lower(
        &mut self,
        path: &ImagePath,
        own: &BTreeSet<ImagePath>,
    ) -> Result<(), UnpackError> {
        if self.exclusions.covers_any_below(path) {
            return Ok(());
        }
        if own.range(path..).next().is_some_and(|kept| kept.starts_with(path)) {
            let children: Vec<_> =
                self.index.children(path).map(|(child, _)| child.clone()).collect();
            for child in children {
                self.remove_lower(&child, own)?;
            }
            return Ok(());
        }
        let io = |source| UnpackError::Io { path: path.clone(), source };
        self.tree.remove(path).map_err(io)?;
        self.index.remove_tree(path);
        self.unsettle_parent(path);
        Ok(())
    }

    fn unsettle_parent(&mut self, path: &ImagePath) {
        if let Some(parent) = path.parent() {
            self.unsettled.insert(parent);
        }
    }

    /// Directories that the archive forgot: 0755, owned by root, as Docker makes them.
    fn make_parents(&mut self, path: &ImagePath) -> Result<(), UnpackError> {
        let Some(parent) = path.parent() else { return Ok(()) };
        match self.index.get(&parent).map(|entry| &entry.kind) {
            Some(Kind::Dir) => return Ok(()),
            None if parent.parent().is_none() => return Ok(()),
            Some(_) => {
                let why = format!("{parent} is not a directory");
                return Err(UnpackError::Refused { path: path.clone(), why });
            }
            None => {}
        }
        self.make_parents(&parent)?;
        let io = |source| UnpackError::Io { path: parent.clone(), source };
        self.tree.make_dir(&parent, 0o755).map_err(io)?;
        if let Some(seen) = snapshot::observe(self.tree.as_fd(), &parent).map_err(|error| {
            UnpackError::Io { path: parent.clone(), source: io::Error::other(error) }
        })? {
            self.index.insert(parent.clone(), seen.entry);
        }
        self.unsettle_parent(&parent);
        self.unsettled.insert(parent);
        Ok(())
    }

    /// Removes what stands where the entry goes, unless both are directories. A directory that holds
    /// a mount cannot be removed: then the entry has no place, and the answer is false.
    fn make_room(&mut self, path: &ImagePath, header: &Header) -> Result<bool, UnpackError> {
        let Some(old) = self.index.get(path) else { return Ok(true) };
        let both_dirs = matches!((&old.kind, &header.kind), (Kind::Dir, Made::Kind(Kind::Dir)));
        if both_dirs {
            return Ok(true);
        }
        if matches!(old.kind, Kind::Dir) && self.exclusions.covers_any_below(path) {
            tracing::warn!(
                "{path} of the base image is left out: a mount of this container lies below it"
            );
            self.exclusions.pin(path.clone());
            return Ok(false);
        }
        let io = |source| UnpackError::Io { path: path.clone(), source };
        self.tree.remove(path).map_err(io)?;
        self.index.remove_tree(path);
        Ok(true)
    }

    /// Puts the entry in place and into the index; tells how many bytes of content it had.
    fn put(
        &mut self,
        path: &ImagePath,
        header: &Header,
        content: &mut impl Read,
    ) -> Result<u64, UnpackError> {
        let io = |source| UnpackError::Io { path: path.clone(), source };
        self.unsettle_parent(path);
        let kind = match &header.kind {
            Made::HardLink(target) => return self.put_hard_link(path, target).map(|()| 0),
            Made::Kind(kind) => kind,
        };
        let mut entry = header.entry(kind.clone());
        let xattrs: Vec<_> = header.xattrs.clone();
        let metadata = Metadata {
            mode: Some(header.mode),
            owner: (header.uid, header.gid),
            xattrs: &xattrs,
            mtime: Some(header.mtime),
        };
        let mut bytes = 0;
        match kind {
            Kind::File { size } => {
                bytes = *size;
                let file = self.tree.create_file(path).map_err(io)?;
                entry.fingerprint =
                    Some(fill(&file, content, *size, &mut self.buffer).map_err(io)?);
                metadata.put_on_handle(file.as_fd()).map_err(io)?;
                let seen = seen_by(file.as_fd()).map_err(io)?;
                entry.seen = seen;
            }
            Kind::Dir => {
                self.tree.make_dir(path, 0o700).map_err(io)?;
                self.tree.set_metadata(path, &metadata).map_err(io)?;
                self.unsettled.insert(path.clone());
            }
            Kind::Symlink { target } => {
                self.tree.symlink(target, path).map_err(io)?;
                self.tree.set_metadata(path, &metadata).map_err(io)?;
            }
            Kind::Fifo | Kind::CharDevice { .. } | Kind::BlockDevice { .. } => {
                self.tree.make_node(path, kind).map_err(io)?;
                self.tree.set_metadata(path, &metadata).map_err(io)?;
            }
            Kind::Socket => {
                let why = "no archive can hold a socket".to_owned();
                return Err(UnpackError::Refused { path: path.clone(), why });
            }
        }
        if entry.seen.is_none() {
            entry.seen = self.tree.seen(path).map_err(io)?;
        }
        self.index.insert(path.clone(), entry);
        Ok(bytes)
    }

    fn put_hard_link(&mut self, path: &ImagePath, target: &[u8]) -> Result<(), UnpackError> {
        let existing = self.place(target)?;
        let refused = |why: &str| UnpackError::Refused {
            path: path.clone(),
            why: format!("its hard link target {existing} {why}"),
        };
        match self.index.get(&existing).map(|entry| &entry.kind) {
            None => return Err(refused("is not there")),
            Some(Kind::Dir) => return Err(refused("is a directory")),
            Some(_) if self.exclusions.excludes(&existing) => {
                return Err(refused("lies outside the image"));
            }
            Some(_) => {}
        }
        let io = |source| UnpackError::Io { path: path.clone(), source };
        self.tree.hard_link(&existing, path).map_err(io)?;
        let seen = self.tree.seen(path).map_err(io)?;
        let linked = self.index.link(&existing, path.clone());
        linked.map_err(|_| refused("is not there"))?;
        self.index.record_seen(path, seen);
        Ok(())
    }
}

/// Copies exactly `size` bytes into `file`, hashing them on the way.
fn fill(
    mut file: &std::fs::File,
    content: &mut impl Read,
    size: u64,
    buffer: &mut [u8],
) -> io::Result<snapshot::Fingerprint> {
    let mut fingerprint = Fingerprinter::default();
    let mut left = size;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let got = content.read(&mut buffer[..want])?;
        if got == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends in it"));
        }
        fingerprint.update(&buffer[..got]);
        file.write_all(&buffer[..got])?;
        left -= got as u64;
    }
    Ok(fingerprint.finish())
}

/// What a header, with its extensions, says.
struct Header {
    name: Vec<u8>,
    kind: Made,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Timestamp,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

enum Made {
    Kind(Kind),
    HardLink(Vec<u8>),
}

impl Header {
    /// Nothing for entries that carry no file, such as global extension headers.
    fn read(entry: &mut tar::Entry<'_, impl Read>) -> Result<Option<Self>, UnpackError> {
        let name = entry.path_bytes().into_owned();
        let broken = |what: &str| {
            UnpackError::Archive(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{what} of {:?}", String::from_utf8_lossy(&name)),
            ))
        };
        let extensions = Extensions::read(entry)?;
        let header = entry.header();
        let link = || {
            entry.link_name_bytes().map(|name| name.into_owned()).ok_or_else(|| broken("no target"))
        };
        let device = |part: io::Result<Option<u32>>| {
            part.map_err(|_| broken("bad device number")).map(Option::unwrap_or_default)
        };
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                Made::Kind(Kind::File { size: entry.size() })
            }
            EntryType::Directory => Made::Kind(Kind::Dir),
            EntryType::Symlink => Made::Kind(Kind::Symlink { target: link()?.as_slice().into() }),
            EntryType::Link => Made::HardLink(link()?),
            EntryType::Fifo => Made::Kind(Kind::Fifo),
            kind @ (EntryType::Char | EntryType::Block) => {
                let major = device(header.device_major())?;
                let minor = device(header.device_minor())?;
                Made::Kind(if kind == EntryType::Char {
                    Kind::CharDevice { major, minor }
                } else {
                    Kind::BlockDevice { major, minor }
                })
            }
            EntryType::XGlobalHeader => return Ok(None),
            other => return Err(broken(&format!("unknown entry type {:?}", other.as_byte()))),
        };
        let id = |stated: Option<u64>, field: io::Result<u64>, what: &str| {
            let id = stated.map_or(field, Ok).map_err(|_| broken(what))?;
            u32::try_from(id).map_err(|_| broken(what))
        };
        Ok(Some(Self {
            kind,
            mode: header.mode().map_err(|_| broken("bad mode"))? & 0o7777,
            uid: id(extensions.uid, header.uid(), "bad owner")?,
            gid: id(extensions.gid, header.gid(), "bad group")?,
            mtime: match extensions.mtime {
                Some(mtime) => mtime,
                None => seconds(header).ok_or_else(|| broken("bad time"))?,
            },
            xattrs: extensions.xattrs,
            name,
        }))
    }

    fn entry(&self, kind: Kind) -> Entry {
        let mode = if matches!(kind, Kind::Symlink { .. }) { 0o777 } else { self.mode };
        let mut xattrs = Xattrs::default();
        for (name, value) in &self.xattrs {
            xattrs.insert(name, value);
        }
        Entry { uid: self.uid, gid: self.gid, mtime: self.mtime, xattrs, ..Entry::new(kind, mode) }
    }
}

/// The time field of a header: octal, or base 256 with a sign.
fn seconds(header: &tar::Header) -> Option<Timestamp> {
    let field = &header.as_old().mtime;
    let secs = if field[0] & 0x80 == 0 {
        i64::try_from(header.mtime().ok()?).ok()?
    } else {
        let wide: [u8; 8] = field[4..12].try_into().ok()?;
        i64::from_be_bytes(wide)
    };
    Some(Timestamp::new(secs, 0))
}

/// The pax records (POSIX.1-2017, pax, "Extended Header") that matter to a file system.
#[derive(Default)]
struct Extensions {
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Timestamp>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Extensions {
    fn read(entry: &mut tar::Entry<'_, impl Read>) -> Result<Self, UnpackError> {
        let mut found = Self::default();
        let Some(records) = entry.pax_extensions().map_err(UnpackError::Archive)? else {
            return Ok(found);
        };
        for record in records {
            let record = record.map_err(UnpackError::Archive)?;
            let (key, value) = (record.key_bytes(), record.value_bytes());
            if value.len() as u64 > LONGEST_EXTENSION {
                let why = io::Error::new(io::ErrorKind::InvalidData, "extension header over 1 MiB");
                return Err(UnpackError::Archive(why));
            }
            found.take(key, value).ok_or_else(|| {
                let why = format!("malformed record {:?}", String::from_utf8_lossy(key));
                UnpackError::Archive(io::Error::new(io::ErrorKind::InvalidData, why))
            })?;
        }
        found.xattrs.sort_unstable();
        Ok(found)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let text = || std::str::from_utf8(value).ok();
        match key {
            b"uid" => self.uid = Some(text()?.parse().ok()?),
            b"gid" => self.gid = Some(text()?.parse().ok()?),
            b"mtime" => self.mtime = Some(decimal(text()?)?),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Some(())
    }
}

/// A time of a pax record: decimal seconds with a fraction of any length, cut to nanoseconds
/// towards the past.
fn decimal(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let secs: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    if negative && nanos > 0 {
        return Some(Timestamp::new(secs.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some(Timestamp::new(secs, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times() {
        for (text, want) in [
            ("0", Some((0, 0))),
            ("12.5", Some((12, 500_000_000))),
            ("12.1234567891", Some((12, 123_456_789))),
            ("-1.25", Some((-2, 750_000_000))),
            ("1.x", None),
            ("", None),
        ] {
            let got = decimal(text).map(|time| (time.secs(), time.nanos()));
            assert_eq!(got, want, "{text:?}");
        }
    }
}
