//! The table of contents as both formats have it: JSON with an object for each entry and each further
//! chunk of a file.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::spool::{Spool, Writing};
use crate::tar::Member;
use crate::{Kind, Sha256, Timestamp};

/// Whose table it is: eStargz says the digest of each chunk, and no size of the last one; zstd:chunked
/// says where each ends, and nothing of chunks when there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Estargz,
    ZstdChunked,
}

/// What is said of an entry of the archive, or of a further chunk of one.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    #[serde(rename = "type")]
    kind: &'static str,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    link_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<u32>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modtime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev_major: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev_minor: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_digest: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Entry {
    /// What a header says. Names are UTF-8 and times have a date: `unfit` saw to it.
    pub(super) fn of(member: &Member<'_>) -> Self {
        let entry = member.entry;
        let mut said = Self {
            kind: kind(member),
            name: text(member.name),
            link_name: member.link.map(|path| text(path.relative())),
            mode: Some(entry.mode),
            uid: Some(entry.uid),
            gid: Some(entry.gid),
            modtime: date(member.mtime),
            ..Self::default()
        };
        if member.link.is_some() {
            return said;
        }
        let xattrs = entry.xattrs.iter();
        said.xattrs = xattrs.map(|(name, value)| (text(name), STANDARD.encode(value))).collect();
        match &entry.kind {
            Kind::File { size } => said.size = *size,
            Kind::Symlink { target } => said.link_name = Some(text(target)),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                (said.dev_major, said.dev_minor) = (Some(*major), Some(*minor));
            }
            Kind::Dir | Kind::Fifo | Kind::Socket => {}
        }
        said
    }
}

fn kind(member: &Member<'_>) -> &'static str {
    match &member.entry.kind {
        _ if member.link.is_some() => "hardlink",
        Kind::File { .. } => "reg",
        Kind::Dir => "dir",
        Kind::Symlink { .. } => "symlink",
        Kind::Fifo => "fifo",
        Kind::CharDevice { .. } => "char",
        Kind::BlockDevice { .. } => "block",
        Kind::Socket => unreachable!("the comparison leaves sockets out"),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// RFC 3339, in UTC, with as many decimals as are needed.
fn date(time: Timestamp) -> Option<String> {
    let nanos = i32::try_from(time.nanos()).ok()?;
    jiff::Timestamp::new(time.secs(), nanos).ok().map(|time| time.to_string())
}

/// Part of a file, in the blob from one offset to another.
pub(super) struct Chunk {
    pub(super) offset: u64,
    pub(super) end: u64,
    /// Its length in the file.
    pub(super) size: u64,
    pub(super) digest: Sha256,
}

/// A table that is being written.
pub(super) struct Table {
    dialect: Dialect,
    out: Writing,
    empty: bool,
    /// The file whose chunks come.
    file: Option<(Entry, Vec<Chunk>)>,
}

impl Table {
    /// Begins one, in this directory.
    pub(super) fn new(dialect: Dialect, dir: &Path) -> io::Result<Self> {
        let mut out = Writing::new(dir)?;
        out.text("{\"version\":1,\"entries\":[")?;
        Ok(Self { dialect, out, empty: true, file: None })
    }

    /// Adds an entry.
    pub(super) fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.out.text(if self.empty { "\n" } else { ",\n" })?;
        self.empty = false;
        self.out.json(entry)
    }

    /// Begins a file with content.
    pub(super) fn file(&mut self, entry: Entry) {
        self.file = Some((entry, Vec::new()));
    }

    /// The next part of the file.
    pub(super) fn chunk(&mut self, chunk: Chunk) {
        if let Some((_, chunks)) = &mut self.file {
            chunks.push(chunk);
        }
    }

    /// Adds the file; the digest is that of its only chunk, if none is given.
    pub(super) fn file_ends(&mut self, digest: Option<Sha256>) -> io::Result<()> {
        let Some((mut file, chunks)) = self.file.take() else { return Ok(()) };
        let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else { return Ok(()) };
        file.digest = Some(digest.unwrap_or(first.digest).to_string());
        let name = file.name.clone();
        let (count, end) = (chunks.len(), last.end);
        self.say(&mut file, first, count == 1);
        if self.dialect == Dialect::ZstdChunked {
            file.end_offset = end;
        }
        self.entry(&file)?;
        let mut at = first.size;
        for (place, chunk) in chunks.iter().enumerate().skip(1) {
            let mut further = Entry { kind: "chunk", name: name.clone(), ..Entry::default() };
            further.chunk_offset = at;
            self.say(&mut further, chunk, place + 1 == count);
            self.entry(&further)?;
            at += chunk.size;
        }
        Ok(())
    }

    fn say(&self, entry: &mut Entry, chunk: &Chunk, last: bool) {
        entry.offset = chunk.offset;
        let only = last && entry.chunk_offset == 0;
        match self.dialect {
            Dialect::Estargz => {
                entry.chunk_size = if last { 0 } else { chunk.size };
                entry.chunk_digest = Some(chunk.digest.to_string());
            }
            Dialect::ZstdChunked => {
                entry.end_offset = chunk.end;
                if !only {
                    entry.chunk_size = chunk.size;
                    entry.chunk_digest = Some(chunk.digest.to_string());
                }
            }
        }
    }

    /// Ends it; `last` are further members of the outermost object.
    pub(super) fn finish(mut self, last: &str) -> io::Result<Spool> {
        self.out.text("\n]")?;
        self.out.text(last)?;
        self.out.text("}")?;
        self.out.finish()
    }
}
