//! What one path of the image is: everything a layer can say about it.
//!
//! A million of these are kept for a large base, so their size is guarded by
//! a test.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::ops::Deref;
use std::sync::Arc;

/// A point in time: seconds since 1970, which may be negative, and the
/// nanoseconds after them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(Rust, packed(4))]
pub struct Timestamp {
    secs: i64,
    nanos: u32,
}

impl Timestamp {
    /// A time from its parts; nanoseconds over a second are carried.
    #[must_use]
    pub const fn new(secs: i64, nanos: u32) -> Self {
        Self {
            secs: secs.saturating_add((nanos / 1_000_000_000) as i64),
            nanos: nanos % 1_000_000_000,
        }
    }

    /// Whole seconds since 1970, rounded towards the past.
    #[must_use]
    pub const fn secs(self) -> i64 {
        self.secs
    }

    /// Nanoseconds after [`Timestamp::secs`], below 1,000,000,000.
    #[must_use]
    pub const fn nanos(self) -> u32 {
        self.nanos
    }

    /// This time, some milliseconds (below 1,000) later.
    pub(crate) const fn plus_millis(self, millis: u32) -> Self {
        Self::new(self.secs, self.nanos + millis * 1_000_000)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.secs(), self.nanos())
    }
}

/// The target of a symbolic link, verbatim. Boxed twice to keep [`Kind`] small.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target(Arc<Box<[u8]>>);

impl From<&[u8]> for Target {
    fn from(bytes: &[u8]) -> Self {
        Self(Arc::new(Box::from(bytes)))
    }
}

impl Deref for Target {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self))
    }
}

/// The type of a file, with what only this type has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file.
    File {
        /// Length in bytes, holes included.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink {
        /// Where it points, never followed here.
        target: Target,
    },
    /// A named pipe; never opened.
    Fifo,
    /// A character device; never opened.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device; never opened.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A socket; no layer can hold one.
    Socket,
}

/// The extended attributes of a file, by full name (`user.x`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Xattrs(Option<Arc<XattrMap>>);

type XattrMap = BTreeMap<Box<[u8]>, Box<[u8]>>;

impl Xattrs {
    /// Sets one attribute.
    pub fn insert(&mut self, name: &[u8], value: &[u8]) {
        Arc::make_mut(self.0.get_or_insert_default()).insert(name.into(), value.into());
    }

    /// The value of one attribute.
    #[must_use]
    pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.as_ref()?.get(name).map(Deref::deref)
    }

    /// Names and values, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().flat_map(|map| map.iter()).map(|(name, value)| (&**name, &**value))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// What the kernel said when this entry was last known to be right. While
/// inode and ctime are the same, so are content and metadata.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(Rust, packed(4))]
pub struct Seen {
    ino: NonZeroU64,
    ctime: Timestamp,
}

impl Seen {
    /// None for inode 0, which no file system gives to a file.
    #[must_use]
    pub fn new(ino: u64, ctime: Timestamp) -> Option<Self> {
        NonZeroU64::new(ino).map(|ino| Self { ino, ctime })
    }

    /// The inode number.
    #[must_use]
    pub fn ino(self) -> u64 {
        let ino = self.ino;
        ino.get()
    }

    /// The time of the last change of content or metadata.
    #[must_use]
    pub fn ctime(self) -> Timestamp {
        self.ctime
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?}", self.ino(), self.ctime())
    }
}

/// A 128-bit hash of a file's content (XXH3). It tells changes apart, and
/// protects from nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 16]);

/// Hashes content for a [`Fingerprint`] as it streams by.
#[derive(Default)]
pub struct Fingerprinter(xxhash_rust::xxh3::Xxh3);

impl fmt::Debug for Fingerprinter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprinter")
    }
}

impl Fingerprinter {
    /// Takes the next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The fingerprint of all bytes taken.
    #[must_use]
    pub fn finish(&self) -> Fingerprint {
        Fingerprint(self.0.digest128().to_le_bytes())
    }
}

impl Fingerprint {
    /// The fingerprint of these bytes.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(content).to_le_bytes())
    }

    /// The hash itself.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

/// One path of the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// Type and what belongs to it.
    pub kind: Kind,
    /// Permission, set-id and sticky bits: 0o7777 at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of content.
    pub mtime: Timestamp,
    /// Extended attributes that belong to the image.
    pub xattrs: Xattrs,
    /// Inode and ctime on disk, when known.
    pub seen: Option<Seen>,
    /// Hash of the content of a regular file, when known.
    pub fingerprint: Option<Fingerprint>,
    /// On disk, but no part of the image: what the executor's own image left
    /// in an in-place root. Packed once touched, never whited out.
    pub foreign: bool,
    /// Part of the image, but not on disk: in a tree of which nobody reads the files. It counts as
    /// unchanged while nothing is at its path.
    pub unwritten: bool,
}

impl Entry {
    /// An entry of this kind, owned by root, from 1970, never seen on disk.
    #[must_use]
    pub fn new(kind: Kind, mode: u32) -> Self {
        Self {
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Xattrs::default(),
            seen: None,
            fingerprint: None,
            foreign: false,
            unwritten: false,
        }
    }

    /// Whether this is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// Whether a layer would say the same of both, contents aside.
    #[must_use]
    pub fn same_metadata(&self, other: &Self) -> bool {
        self.kind == other.kind
            && (self.mode, self.uid, self.gid) == (other.mode, other.uid, other.gid)
            && self.mtime == other.mtime
            && self.xattrs == other.xattrs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_fits_88_bytes() {
        assert!(size_of::<Entry>() <= 88, "{}", size_of::<Entry>());
    }

    #[test]
    fn time_carries_nanoseconds() {
        assert_eq!(Timestamp::new(-1, 1_500_000_000), Timestamp::new(0, 500_000_000));
        assert_eq!(Timestamp::new(7, 990_000_000).plus_millis(20), Timestamp::new(8, 10_000_000));
    }
}
