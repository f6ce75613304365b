//! Reads tar archives, entry by entry, with every extension resolved.
//!
//! The fields of a header are the tar crate's; the framing is done here,
//! because that crate ends pax records at newlines, and because the size that
//! pax records state has to govern where the next header is looked for.
//!
//! Sparse files are read with their holes.
//!
//! # The promise
//!
//! What readers disagree on is refused. An archive that is accepted has the
//! entries that GNU tar, Python's tarfile and Go's archive/tar find in it.

use std::io::{self, Read};

use snapshot::Timestamp;
use thiserror::Error;

use super::pax::Records;
use super::sparse;

/// The unit of a tar archive.
const BLOCK: usize = 512;
/// The longest extension header, name or link target that is read into memory.
const LONGEST_EXTENSION: u64 = 1 << 20;

/// Why an archive cannot be read.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The source of the bytes failed, or ended early.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// A header that makes no sense, or that readers understand differently.
    #[error("the header at byte {at} is refused: {why}")]
    Refused {
        /// Where the header begins, in uncompressed bytes.
        at: u64,
        /// What is wrong with it.
        why: String,
    },
}

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name as it stands in the archive; not empty, without NUL.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: MemberKind,
    /// Permission, set-id and sticky bits: 0o7777 at most.
    pub mode: u32,
    /// Owner; never the number that means "unchanged" to the kernel.
    pub uid: u32,
    /// Group, likewise.
    pub gid: u32,
    /// Time of the last change of content.
    pub mtime: Timestamp,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The type of an entry, with what only this type has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A regular file, whose content follows.
    File {
        /// In bytes.
        size: u64,
    },
    /// A directory.
    Dir,
    /// A symbolic link and its target.
    Symlink(Vec<u8>),
    /// Another name of an entry that came earlier.
    HardLink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

impl Member {
    /// When it was changed, if it is a file, in seconds since 1970.
    pub fn file_time(&self) -> Option<i64> {
        match self.kind {
            MemberKind::File { .. } | MemberKind::HardLink(_) => Some(self.mtime.secs()),
            _ => None,
        }
    }
}

/// When the newest file of a tar archive was changed, in seconds since 1970.
///
/// # Errors
/// The archive is damaged.
pub fn newest_file(archive: impl Read) -> Result<Option<i64>, ArchiveError> {
    let mut archive = Archive::new(archive);
    let mut newest = None;
    while let Some(member) = archive.next_member()? {
        newest = newest.max(member.file_time());
    }
    Ok(newest)
}

/// A tar archive; read as [`Read`] it gives the content of the entry that was asked for last.
#[derive(Debug)]
pub struct Archive<R> {
    source: R,
    globals: Records,
    /// Bytes read so far.
    at: u64,
    /// What is left of the current entry's content.
    left: u64,
    /// What follows the content up to the next block.
    padding: u64,
    /// Where the content belongs, of a sparse file.
    sparse: Option<sparse::Map>,
    /// The mark of the end was there.
    ended: bool,
}

impl<R: Read> Archive<R> {
    /// Reads from `source`, which is uncompressed.
    pub fn new(source: R) -> Self {
        Self {
            source,
            globals: Records::default(),
            at: 0,
            left: 0,
            padding: 0,
            sparse: None,
            ended: false,
        }
    }

    /// The next entry; what is left of the content of the one before is passed over. After the
    /// last, the source is read to its end, so that its checksums have their say.
    ///
    /// # Errors
    /// The source fails or ends early, or the archive is refused.
    pub fn next_member(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut pending = Pending::default();
        loop {
            self.skip_content()?;
            let at = self.at;
            let refused = |why: String| ArchiveError::Refused { at, why };
            let Some(header) = self.next_header()? else {
                return match pending {
                    Pending { pax: None, name: None, link: None } => Ok(None),
                    _ => Err(refused("extensions without an entry end the archive".to_owned())),
                };
            };
            let kind = header.as_old().linkflag[0];
            if !matches!(kind, b'x' | b'g' | b'L' | b'K') {
                let records = pending.pax.as_mut().and_then(|pax| pax.sparse.take());
                let mut member =
                    member(&header, pending, records.as_ref(), &self.globals).map_err(refused)?;
                if let MemberKind::File { size } = &mut member.kind {
                    self.sparse = self.sparse_map(&header, records.as_ref(), *size, at)?;
                    *size = self.sparse.as_ref().map_or(*size, sparse::Map::size);
                } else if records.is_some() {
                    return Err(refused("a sparse file that is no file".to_owned()));
                }
                return Ok(Some(member));
            }
            let text = self.extension(&header, at)?;
            match kind {
                b'x' => pending.take_pax(&text),
                b'g' => self.take_globals(&text),
                b'L' => once(&mut pending.name, up_to_nul(&text).to_vec(), "long names"),
                _ => once(&mut pending.link, up_to_nul(&text).to_vec(), "long link targets"),
            }
            .map_err(refused)?;
        }
    }

    /// Whether the archive had the mark of its end, a block of zeros. Readers agree that it may be
    /// missing; but one that was cut between two entries misses it, too.
    pub fn has_end(&self) -> bool {
        self.ended
    }

    /// The next header that is not zero; none at the end of the archive.
    fn next_header(&mut self) -> Result<Option<tar::Header>, ArchiveError> {
        let at = self.at;
        let refused = |why: &str| ArchiveError::Refused { at, why: why.to_owned() };
        let mut header = tar::Header::new_old();
        if !self.read_block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            let mut second = [0; BLOCK];
            if self.read_block(&mut second)? && second.iter().any(|byte| *byte != 0) {
                return Err(refused("a single block of zeros is followed by something else"));
            }
            io::copy(&mut self.source, &mut io::sink())?;
            self.ended = true;
            return Ok(None);
        }
        if !has_valid_checksum(header.as_bytes()) {
            return Err(refused("its checksum is wrong"));
        }
        Ok(Some(header))
    }

    /// Fills `block`; false where the source has ended before it.
    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < block.len() {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(cut_short()),
                Ok(got) => filled += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.at += block.len() as u64;
        Ok(true)
    }

    fn expect_content(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn skip_content(&mut self) -> io::Result<()> {
        // The last block of the last entry may miss its padding where a writer was careless, but
        // no reader agrees on that.
        self.sparse = None;
        let rest = self.left + self.padding;
        let skipped = io::copy(&mut (&mut self.source).take(rest), &mut io::sink())?;
        self.at += skipped;
        (self.left, self.padding) = (0, 0);
        if skipped < rest { Err(cut_short()) } else { Ok(()) }
    }

    /// Makes the next entry's content readable: `size` stored bytes, and where they belong if it is
    /// sparse.
    fn sparse_map(
        &mut self,
        header: &tar::Header,
        records: Option<&sparse::Records>,
        size: u64,
        at: u64,
    ) -> Result<Option<sparse::Map>, ArchiveError> {
        let refused = |why: String| ArchiveError::Refused { at, why };
        let by_header = header.as_old().linkflag[0] == b'S';
        match records {
            Some(_) if by_header => Err(refused("a sparse file in two forms".to_owned())),
            Some(records) => {
                self.expect_content(size);
                records.map(self, size).map(Some).map_err(refused)
            }
            None if by_header => {
                let next_block = || {
                    let mut block = [0; BLOCK];
                    if self.read_block(&mut block)? { Ok(block) } else { Err(cut_short()) }
                };
                let map = sparse::of_header(header.as_bytes(), size, number, next_block)?;
                self.expect_content(size);
                map.map(Some).map_err(refused)
            }
            None => {
                self.expect_content(size);
                Ok(None)
            }
        }
    }

    /// The content of an extension header.
    fn extension(&mut self, header: &tar::Header, at: u64) -> Result<Vec<u8>, ArchiveError> {
        let refused = |why: &str| ArchiveError::Refused { at, why: why.to_owned() };
        let size = number(&header.as_old().size)
            .and_then(|size| u64::try_from(size).ok())
            .ok_or_else(|| refused("its size is no number"))?;
        if size > LONGEST_EXTENSION {
            return Err(refused("an extension header of more than 1 MiB"));
        }
        self.expect_content(size);
        let mut text = Vec::new();
        self.read_to_end(&mut text)?;
        Ok(text)
    }

    /// Records for all entries that follow (POSIX: until another global header says otherwise).
    fn take_globals(&mut self, text: &[u8]) -> Result<(), String> {
        self.globals.take(text)?;
        if self.globals.names_one_entry() {
            return Err("a global header states a name or a size".to_owned());
        }
        Ok(())
    }
}

impl<R: Read> Read for Archive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(mut map) = self.sparse.take() {
            let got = map.read(buffer, self);
            self.sparse = Some(map);
            return got;
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let got = self.source.read(&mut buffer[..most])?;
        if got == 0 {
            return Err(cut_short());
        }
        self.left -= got as u64;
        self.at += got as u64;
        Ok(got)
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut short")
}

/// Extensions that wait for the entry they describe.
#[derive(Default)]
struct Pending {
    pax: Option<Records>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Pending {
    fn take_pax(&mut self, text: &[u8]) -> Result<(), String> {
        let mut records = Records::default();
        records.take(text)?;
        once(&mut self.pax, records, "extended headers")
    }
}

/// Of two extensions of a kind before one entry, some readers take the first and some the last.
fn once<T>(place: &mut Option<T>, value: T, what: &str) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("two {what} for one entry")),
    }
}

/// Brings a header and its extensions together.
fn member(
    header: &tar::Header,
    pending: Pending,
    sparse: Option<&sparse::Records>,
    globals: &Records,
) -> Result<Member, String> {
    let old = header.as_old();
    let pax = pending.pax.unwrap_or_default();
    let short = header.path_bytes();
    let real = sparse.and_then(|sparse| sparse.name()).map(<[u8]>::to_vec);
    let name = one_of(pending.name, real.or(pax.path), &short, "name")?;
    let link = one_of(pending.link, pax.link, up_to_nul(&old.linkname), "link target");
    let size = pax.size.map_or_else(|| number(&old.size), |size| i64::try_from(size).ok());
    let size = size.and_then(|size| u64::try_from(size).ok()).ok_or("its size is no number")?;
    let kind = kind(header, name.ends_with(b"/"), link, size)?;
    if size > 0 && !matches!(kind, MemberKind::File { .. } | MemberKind::HardLink(_)) {
        return Err("an entry that cannot have content has a size".to_owned());
    }
    let id = |stated: Option<u32>, field: &[u8]| {
        let id = stated.or_else(|| number(field).and_then(|id| u32::try_from(id).ok()));
        id.filter(|id| *id != u32::MAX).ok_or("its owner or group is out of range")
    };
    let mtime = match pax.mtime.or(globals.mtime) {
        Some(mtime) => mtime,
        None => Timestamp::new(number(&old.mtime).ok_or("its time is no number")?, 0),
    };
    let mode = number(&old.mode).ok_or("its mode is no number")?;
    Ok(Member {
        kind,
        mode: u32::try_from(mode & 0o7777).unwrap_or_default(),
        uid: id(pax.uid.or(globals.uid), &old.uid)?,
        gid: id(pax.gid.or(globals.gid), &old.gid)?,
        mtime,
        xattrs: overlaid(&globals.xattrs, pax.xattrs),
        name,
    })
}

/// The name that an entry gets from GNU's extension, from pax records, or else from its header.
fn one_of(
    gnu: Option<Vec<u8>>,
    pax: Option<Vec<u8>>,
    plain: &[u8],
    what: &str,
) -> Result<Vec<u8>, String> {
    let found = match (gnu, pax) {
        (Some(gnu), Some(pax)) if gnu != pax => {
            return Err(format!("two extensions give it a different {what}"));
        }
        (Some(stated), _) | (None, Some(stated)) => stated,
        (None, None) => plain.to_vec(),
    };
    if found.is_empty() { Err(format!("it has no {what}")) } else { Ok(found) }
}

fn kind(
    header: &tar::Header,
    slash: bool,
    link: Result<Vec<u8>, String>,
    size: u64,
) -> Result<MemberKind, String> {
    let device = || {
        let ustar = header.as_ustar();
        let ustar = ustar.map(|it| (it.dev_major, it.dev_minor));
        let gnu = header.as_gnu().map(|it| (it.dev_major, it.dev_minor));
        let (major, minor) = ustar.or(gnu).ok_or("a device in a format without devices")?;
        let part = |field: &[u8]| number(field).and_then(|part| u32::try_from(part).ok());
        part(&major).zip(part(&minor)).ok_or("its device number is out of range")
    };
    Ok(match header.as_old().linkflag[0] {
        // Archives from before there were directories say so by the name.
        b'0' | 0 | b'7' if slash => MemberKind::Dir,
        b'0' | 0 | b'7' | b'S' => MemberKind::File { size },
        b'1' => MemberKind::HardLink(link?),
        b'2' => MemberKind::Symlink(link?),
        b'3' => device().map(|(major, minor)| MemberKind::CharDevice { major, minor })?,
        b'4' => device().map(|(major, minor)| MemberKind::BlockDevice { major, minor })?,
        b'5' => MemberKind::Dir,
        b'6' => MemberKind::Fifo,
        other => return Err(format!("unknown entry type {:?}", char::from(other))),
    })
}

/// The attributes of all entries with those of one laid over them.
fn overlaid(
    globals: &[(Vec<u8>, Vec<u8>)],
    mut own: Vec<(Vec<u8>, Vec<u8>)>,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    for (name, value) in globals {
        if !own.iter().any(|(known, _)| known == name) {
            own.push((name.clone(), value.clone()));
        }
    }
    own.sort();
    own
}

/// A numeric field: octal between spaces and NULs, nothing at all for 0, or GNU's base 256 with
/// a sign. None for anything else, and for what is not below 2^63.
fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        let positive = first & 0x40 == 0;
        let start = i128::from(first & 0x7f) - if positive { 0 } else { 128 };
        let value = rest
            .iter()
            .try_fold(start, |value, byte| value.checked_mul(256)?.checked_add(i128::from(*byte)));
        return i64::try_from(value?).ok();
    }
    let text = up_to_nul(field);
    if text.is_empty() && !field.iter().all(|byte| matches!(byte, b' ' | 0)) {
        return None;
    }
    text.trim_ascii().iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

fn up_to_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Whether the checksum of a header is right: the sum of its bytes, which some old writers took
/// for signed, with the checksum's own field as spaces.
pub(super) fn has_valid_checksum(header: &[u8; BLOCK]) -> bool {
    let Some(stated) = number(&header[148..156]) else { return false };
    let bytes = header[..148].iter().chain([b' '; 8].iter()).chain(&header[156..]);
    let unsigned: i64 = bytes.clone().map(|byte| i64::from(*byte)).sum();
    let signed: i64 = bytes.map(|byte| i64::from(byte.cast_signed())).sum();
    stated == unsigned || stated == signed
}

#[cfg(test)]
mod tests;
