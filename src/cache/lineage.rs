//! What the commands before a step really made, but for times.
//!
//! Two executions of one RUN may differ: a package list is newer, a program
//! has another build number. A layer that was made after one of them must not
//! be laid over the other. Keys cannot tell them apart, because they are known
//! before anything runs; so each entry remembers the lineage it was made after.

use std::fmt;

use snapshot::{Change, Kind};

use crate::image::Digest;
use crate::plan::Framed;

/// The outcomes of all commands so far, in order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Lineage(Digest);

impl Lineage {
    /// Before the first command. Bases and copied files are in the keys.
    #[must_use]
    pub fn start() -> Self {
        Self(Framed::new("lineage").finish())
    }

    /// After a command that made this.
    #[must_use]
    pub fn after(self, outcome: Digest) -> Self {
        Self(Framed::new("after").digest(self.0).digest(outcome).finish())
    }

    /// With files of another stage that had this lineage.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(Framed::new("with").digest(self.0).digest(other.0).finish())
    }

    /// The lineage that is written so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a step made, but for times. The changes have to be packed already, which notes the
/// fingerprints of files.
#[must_use]
pub fn outcome(changes: &[Change]) -> Digest {
    let start = Framed::new("outcome").number(changes.len() as u64);
    changes.iter().fold(start, change).finish()
}

fn change(framed: Framed, change: &Change) -> Framed {
    let put = match change {
        Change::Whiteout(path) => return framed.part(b"whiteout").part(path.as_bytes()),
        Change::Put(put) => put,
    };
    let entry = &put.entry;
    let mut framed = framed
        .part(put.path.as_bytes())
        .number(u64::from(entry.mode))
        .number(u64::from(entry.uid))
        .number(u64::from(entry.gid));
    framed = match &entry.kind {
        Kind::File { size } => framed.part(b"file").number(*size),
        Kind::Dir => framed.part(b"dir"),
        Kind::Symlink { target } => framed.part(b"link").part(target),
        Kind::Fifo => framed.part(b"fifo"),
        Kind::CharDevice { major, minor } => {
            framed.part(b"char").number(u64::from(*major)).number(u64::from(*minor))
        }
        Kind::BlockDevice { major, minor } => {
            framed.part(b"block").number(u64::from(*major)).number(u64::from(*minor))
        }
        Kind::Socket => framed.part(b"socket"),
    };
    framed = match &put.link_to {
        Some(first) => framed.part(b"linked").part(first.as_bytes()),
        None => framed.part(b""),
    };
    if let Some(fingerprint) = entry.fingerprint {
        framed = framed.part(&fingerprint.to_bytes());
    }
    entry.xattrs.iter().fold(framed, |framed, (name, value)| framed.part(name).part(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::{Entry, Fingerprint, ImagePath, Put, Timestamp};

    fn one(change: impl FnOnce(&mut Put)) -> Digest {
        let path = ImagePath::parse(b"/a").expect("a path");
        let mut entry = Entry::new(Kind::File { size: 1 }, 0o644);
        entry.fingerprint = Some(Fingerprint::of(b"1"));
        let mut put = Put { path, entry, link_to: None };
        change(&mut put);
        outcome(&[Change::Put(put)])
    }

    #[test]
    fn everything_but_the_time_counts() {
        let base = one(|_| {});
        assert_eq!(one(|put| put.entry.mtime = Timestamp::new(7, 7)), base);
        type ChangeOne = fn(&mut Put);
        let changes: &[(&str, ChangeOne)] = &[
            ("path", |put| put.path = ImagePath::parse(b"/b").expect("a path")),
            ("mode", |put| put.entry.mode = 0o755),
            ("user", |put| put.entry.uid = 1),
            ("group", |put| put.entry.gid = 1),
            ("kind", |put| put.entry.kind = Kind::Fifo),
            ("size", |put| put.entry.kind = Kind::File { size: 2 }),
            ("content", |put| put.entry.fingerprint = Some(Fingerprint::of(b"2"))),
            ("attribute", |put| put.entry.xattrs.insert(b"user.x", b"1")),
            ("link", |put| put.link_to = ImagePath::parse(b"/0").ok()),
        ];
        for (what, change) in changes {
            assert_ne!(one(change), base, "{what}");
        }
    }
}
