//! zstd:chunked: zstd frames, then the table, what makes the archive again, and a footer, each in a frame
//! that decompressors skip (RFC 8878, 3.1.2).

use std::fs::File;
use std::io::{self, Read, Write};

use super::cut::{After, Cut, cut};
use super::spool::Spool;
use super::table::{Dialect, Table};
use super::tar_split::TarSplit;
use super::{Means, Packed};
use crate::hashing::{Hashing, Sum};
use crate::tar::{Archive, Fault, Sink};

/// Of a frame that is skipped.
const SKIPPED: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
/// The magic number of such a frame, and its length.
const SKIPPED_HEADER: u64 = 8;
/// What a footer ends with.
const MAGIC: [u8; 8] = *b"GNUlInUx";
/// A table like that of CRFS.
const CRFS: u64 = 1;

/// Where it is, how long it is there, and how long when it is decompressed.
type Position = (u64, u64, u64);

pub(super) fn pack<T>(
    out: Hashing<File>,
    level: i32,
    means: Means<'_>,
    feed: impl FnOnce(&mut dyn Sink) -> Result<T, Fault>,
) -> Result<Packed<T>, Fault> {
    let table = Table::new(Dialect::ZstdChunked, means.dir)?;
    let split = Some(TarSplit::new(means.dir)?);
    let (Cut { mut out, table }, sum, split, told) = cut(
        out,
        means.threads,
        After::Nothing,
        (table, split),
        || compressor(level),
        |archive| {
            let told = feed(archive)?;
            Archive::new(archive, None).finish()?;
            Ok(told)
        },
    )?;
    let split = split.expect("it was given");
    let table = table.finish(&format!(",\"tarSplitDigest\":\"{}\"", split.stored.digest))?;
    let toc = table.stored.digest;
    let position = store(&mut out, table)?;
    let tar_split = store(&mut out, split)?;
    skipped(&mut out, FOOTER as u64, &mut &footer(position, tar_split)[..])?;
    let table = super::Table::ZstdChunked { toc, position, tar_split };
    Ok((out, sum.sum(), told, table))
}

/// Frames that say how long they are, with a checksum.
fn compressor(level: i32) -> io::Result<impl FnMut(&[u8], &mut Vec<u8>) -> io::Result<()>> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    compressor.include_checksum(true)?;
    Ok(move |bytes: &[u8], out: &mut Vec<u8>| {
        let before = out.len();
        out.resize(before + zstd::zstd_safe::compress_bound(bytes.len()), 0);
        let written = compressor.compress_to_buffer(bytes, &mut out[before..])?;
        out.truncate(before + written);
        Ok(())
    })
}

fn store(out: &mut Hashing<File>, text: Spool) -> io::Result<Position> {
    let (Sum { length: stored, .. }, raw) = (text.stored, text.text.length);
    let at = out.length() + SKIPPED_HEADER;
    skipped(out, stored, &mut text.into_stored())?;
    Ok((at, stored, raw))
}

fn skipped(out: &mut Hashing<File>, length: u64, content: &mut impl Read) -> io::Result<()> {
    let long = || io::Error::other("a table of contents of more than 4 GiB");
    let length = u32::try_from(length).map_err(|_| long())?;
    out.write_all(&SKIPPED)?;
    out.write_all(&length.to_le_bytes())?;
    io::copy(content, out).map(drop)
}

const FOOTER: usize = 64;

fn footer(table: Position, split: Position) -> [u8; FOOTER] {
    let numbers = [table.0, table.1, table.2, CRFS, split.0, split.1, split.2];
    let mut footer = [0; FOOTER];
    for (place, number) in footer.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    footer[FOOTER - MAGIC.len()..].copy_from_slice(&MAGIC);
    footer
}
