//! Writes a difference as a tar archive: POSIX ustar, with PAX records where
//! a value does not fit, and nowhere else.
//!
//! The archive depends on the changes and the contents alone: no times of
//! access, no names of users, nothing of this machine.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, fstat};
use tar::{EntryType, Header};

use crate::entry::Fingerprinter;
use crate::hashing::Hashing;
use crate::observe::{CHUNK, Glance, open_file};
use crate::{Change, Entry, Error, Fingerprint, ImagePath, Kind, Put, Timestamp, Xattrs};

const BLOCK: usize = 512;
/// The largest number in an octal field of eight and of twelve bytes.
const OCTAL_7: u64 = 0o7_777_777;
const OCTAL_11: u64 = 0o77_777_777_777;

/// What old readers, which know no extended headers, would create.
const RECORDS_NAME: &[u8] = b"././@PaxHeader";

/// What an archive is written to.
pub(crate) trait Sink: Write {
    /// The header that was just written, with all that belongs to it. If it is that of a file, its
    /// content follows.
    fn described(&mut self, _: &Member<'_>) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Vec<u8> {}

impl Sink for &mut dyn Write {}

impl Sink for &mut dyn Sink {
    fn described(&mut self, member: &Member<'_>) -> io::Result<()> {
        (**self).described(member)
    }
}

impl<W: Sink> Sink for Hashing<W> {
    fn described(&mut self, member: &Member<'_>) -> io::Result<()> {
        self.out.described(member)
    }
}

/// What a header says.
pub(crate) struct Member<'a> {
    /// The name as it is in the archive.
    pub(crate) name: &'a [u8],
    pub(crate) entry: &'a Entry,
    /// The time in the archive.
    pub(crate) mtime: Timestamp,
    /// It is one more name of this path.
    pub(crate) link: Option<&'a ImagePath>,
}

/// An archive being written.
pub(crate) struct Archive<W> {
    out: W,
    /// What no time in the archive is later than.
    latest: Option<Timestamp>,
    chunk: Vec<u8>,
}

/// Why an entry could not be written: the tree's fault or the output's.
#[derive(Debug)]
pub(crate) enum Fault {
    Tree(Error),
    Output(io::Error),
}

impl From<io::Error> for Fault {
    fn from(why: io::Error) -> Self {
        Self::Output(why)
    }
}

impl From<Error> for Fault {
    fn from(why: Error) -> Self {
        Self::Tree(why)
    }
}

impl<W: Sink> Archive<W> {
    pub(crate) fn new(out: W, latest: Option<Timestamp>) -> Self {
        Self { out, latest, chunk: vec![0; CHUNK] }
    }

    /// Writes one change; gives the fingerprint of a file's content.
    pub(crate) fn append(
        &mut self,
        root: BorrowedFd<'_>,
        change: &Change,
    ) -> Result<Option<Fingerprint>, Fault> {
        match change {
            Change::Whiteout(path) => self.whiteout(path).map(|()| None),
            Change::Put(put) => self.put(root, put),
        }
    }

    /// Ends the archive with two empty blocks.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    /// Writes a file of root's that is in no tree, from 1970.
    pub(crate) fn made(
        &mut self,
        path: &ImagePath,
        size: u64,
        content: &mut impl Read,
    ) -> io::Result<()> {
        self.header(path, &Entry::new(Kind::File { size }, 0o444), None)?;
        let copied = io::copy(&mut content.take(size), &mut self.out)?;
        if copied < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.out.write_all(padding(size))
    }

    /// Deletion of a path of a lower layer: an empty file `.wh.<name>` (image
    /// specification, "Whiteouts").
    fn whiteout(&mut self, path: &ImagePath) -> Result<(), Fault> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Error::ReservedName(path.clone()).into());
        };
        let marker =
            parent.join(&[b".wh.", name].concat()).map_err(|why| Error::path(path, why))?;
        let entry = Entry::new(Kind::File { size: 0 }, 0);
        Ok(self.header(&marker, &entry, None)?)
    }

    fn put(&mut self, root: BorrowedFd<'_>, put: &Put) -> Result<Option<Fingerprint>, Fault> {
        if let Some((name, _)) = put.entry.xattrs.iter().find(|(name, _)| name.contains(&b'=')) {
            let name = String::from_utf8_lossy(name).into_owned();
            return Err(Error::XattrName { path: put.path.clone(), name }.into());
        }
        match (&put.link_to, &put.entry.kind) {
            (None, Kind::File { size }) => self.file(root, put, *size).map(Some),
            (link, _) => Ok(self.header(&put.path, &put.entry, link.as_ref()).map(|()| None)?),
        }
    }

    fn file(&mut self, root: BorrowedFd<'_>, put: &Put, size: u64) -> Result<Fingerprint, Fault> {
        let mut file = open_file(root, &put.path)?;
        check_unmoved(&file, put)?;
        self.header(&put.path, &put.entry, None)?;
        let fingerprint = self.content(&mut file, &put.path, size)?;
        check_unmoved(&file, put)?;
        self.out.write_all(padding(size))?;
        if put.entry.fingerprint.is_some_and(|known| known != fingerprint) {
            return Err(moved(&put.path, "its content changed").into());
        }
        Ok(fingerprint)
    }

    fn content(
        &mut self,
        file: &mut std::fs::File,
        path: &ImagePath,
        size: u64,
    ) -> Result<Fingerprint, Fault> {
        let mut hash = Fingerprinter::default();
        let mut left = size;
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let read =
                file.read(&mut self.chunk[..want]).map_err(|why| Error::tree("read", path, why))?;
            if read == 0 {
                return Err(moved(path, "it shrank").into());
            }
            hash.update(&self.chunk[..read]);
            self.out.write_all(&self.chunk[..read])?;
            left -= read as u64;
        }
        Ok(hash.finish())
    }

    fn header(
        &mut self,
        path: &ImagePath,
        entry: &Entry,
        link: Option<&ImagePath>,
    ) -> io::Result<()> {
        let mut header = Header::new_ustar();
        let mut records = Records::default();
        let name = archive_name(path, entry);
        set_name(&mut header, &mut records, &name);
        let mtime = self.latest.map_or(entry.mtime, |latest| entry.mtime.min(latest));
        set_numbers(&mut header, &mut records, entry, mtime);
        set_kind(&mut header, &mut records, entry, link);
        if link.is_none() {
            records.xattrs(&entry.xattrs);
        }
        header.set_cksum();
        records.write(&mut self.out)?;
        self.out.write_all(header.as_bytes())?;
        self.out.described(&Member { name: &name, entry, mtime, link })
    }
}

/// What comes after so many bytes of content, up to the next block.
fn padding(size: u64) -> &'static [u8] {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    &[0; BLOCK][..(BLOCK - over) % BLOCK]
}

/// `fstat` through the open file: still the file that was compared.
fn check_unmoved(file: &std::fs::File, put: &Put) -> Result<(), Error> {
    let stat = fstat(file).map_err(|why| Error::tree("fstat", &put.path, why))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(moved(&put.path, "it was replaced"));
    }
    if Glance::of(&stat).matches(&put.entry) { Ok(()) } else { Err(moved(&put.path, "it changed")) }
}

fn moved(path: &ImagePath, what: &'static str) -> Error {
    Error::Moved { path: path.clone(), what }
}

/// The path without its leading slash; directories end with one.
fn archive_name(path: &ImagePath, entry: &Entry) -> Vec<u8> {
    let mut name = if path.is_root() { b".".to_vec() } else { path.relative().to_vec() };
    if entry.is_dir() {
        name.push(b'/');
    }
    name
}

fn set_name(header: &mut Header, records: &mut Records, name: &[u8]) {
    let Some(ustar) = header.as_ustar_mut() else { return };
    match split_name(name) {
        Some((prefix, rest)) if name.is_ascii() => {
            ustar.prefix[..prefix.len()].copy_from_slice(prefix);
            ustar.name[..rest.len()].copy_from_slice(rest);
        }
        _ => {
            records.add(b"path", name);
            let short = &name[..name.len().min(ustar.name.len())];
            ustar.name[..short.len()].copy_from_slice(short);
        }
    }
}

/// A name of up to 100 bytes, or one that a slash divides into a prefix of up
/// to 155 and a rest of up to 100.
fn split_name(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return Some((b"", name));
    }
    // A trailing slash divides nothing.
    let slash = name[..name.len() - 1].iter().take(156).rposition(|&b| b == b'/')?;
    let (prefix, rest) = (&name[..slash], &name[slash + 1..]);
    (!prefix.is_empty() && rest.len() <= 100).then_some((prefix, rest))
}

fn set_numbers(header: &mut Header, records: &mut Records, entry: &Entry, mtime: Timestamp) {
    header.set_mode(entry.mode);
    header.set_uid(records.number(b"uid", u64::from(entry.uid), OCTAL_7));
    header.set_gid(records.number(b"gid", u64::from(entry.gid), OCTAL_7));
    header.set_mtime(records.mtime(mtime));
    header.set_size(0);
}

fn set_kind(header: &mut Header, records: &mut Records, entry: &Entry, link: Option<&ImagePath>) {
    if let Some(target) = link {
        header.set_entry_type(EntryType::Link);
        return set_link(header, records, target.relative());
    }
    match &entry.kind {
        Kind::File { size } => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(records.number(b"size", *size, OCTAL_11));
        }
        Kind::Dir => header.set_entry_type(EntryType::Directory),
        Kind::Symlink { target } => {
            header.set_entry_type(EntryType::Symlink);
            set_link(header, records, target);
        }
        Kind::Fifo => header.set_entry_type(EntryType::Fifo),
        Kind::CharDevice { major, minor } => set_device(header, EntryType::Char, *major, *minor),
        Kind::BlockDevice { major, minor } => set_device(header, EntryType::Block, *major, *minor),
        Kind::Socket => unreachable!("the comparison leaves sockets out"),
    }
}

fn set_link(header: &mut Header, records: &mut Records, target: &[u8]) {
    let field = &mut header.as_old_mut().linkname;
    if target.len() > field.len() || !target.is_ascii() {
        records.add(b"linkpath", target);
    }
    let short = &target[..target.len().min(field.len())];
    field[..short.len()].copy_from_slice(short);
}

fn set_device(header: &mut Header, kind: EntryType, major: u32, minor: u32) {
    header.set_entry_type(kind);
    let octal = |number: u32| format!("{number:07o}\0").into_bytes();
    if let Some(ustar) = header.as_ustar_mut() {
        for (field, number) in [(&mut ustar.dev_major, major), (&mut ustar.dev_minor, minor)] {
            // The kernel has 12 bits of major and 20 of minor: seven digits do.
            field.copy_from_slice(&octal(number)[..8]);
        }
    }
}

/// Extended header records (POSIX pax, "Extended Header").
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    /// `<length> <key>=<value>\n`, where the length counts itself.
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + digits(length) {
            length = rest + digits(length);
        }
        self.0.extend_from_slice(length.to_string().as_bytes());
        for part in [b" ", key, b"=", value, b"\n"] {
            self.0.extend_from_slice(part);
        }
    }

    /// The number for the header's field: zero once a record says it.
    fn number(&mut self, key: &[u8], value: u64, largest: u64) -> u64 {
        if value <= largest {
            return value;
        }
        self.add(key, value.to_string().as_bytes());
        0
    }

    fn mtime(&mut self, time: Timestamp) -> u64 {
        let whole = u64::try_from(time.secs()).ok().filter(|secs| *secs <= OCTAL_11);
        if whole.is_none() || time.nanos() != 0 {
            self.add(b"mtime", decimal(time).as_bytes());
        }
        whole.unwrap_or(0)
    }

    fn xattrs(&mut self, xattrs: &Xattrs) {
        for (name, value) in xattrs.iter() {
            self.add(&[b"SCHILY.xattr.", name].concat(), value);
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..RECORDS_NAME.len()].copy_from_slice(RECORDS_NAME);
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(self.0.len() as u64);
        header.set_cksum();
        out.write_all(header.as_bytes())?;
        out.write_all(&self.0)?;
        out.write_all(&[0; BLOCK][..self.0.len().next_multiple_of(BLOCK) - self.0.len()])
    }
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// Seconds with as many decimals as are needed. A time before 1970 is written
/// as the negative of its distance.
fn decimal(time: Timestamp) -> String {
    let (sign, secs, nanos) = match (time.secs(), time.nanos()) {
        (secs @ ..0, 0) => ("-", secs.unsigned_abs(), 0),
        (secs @ ..0, nanos) => ("-", (secs + 1).unsigned_abs(), 1_000_000_000 - nanos),
        (secs, nanos) => ("", secs.unsigned_abs(), nanos),
    };
    let fraction = format!(".{nanos:09}");
    format!("{sign}{secs}{}", fraction.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests;
