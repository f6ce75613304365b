//! eStargz: gzip members, the table as the last file of the archive, a footer.

use std::fs::File;
use std::io::Write as _;

use super::cut::{After, Cut, cut};
use super::table::{Dialect, Table};
use super::{Means, Packed};
use crate::compress::{compress, gzip};
use crate::hashing::Hashing;
use crate::tar::{Archive, Fault, Sink};
use crate::{Compression, ImagePath};

/// The name of the table.
const TABLE: &[u8] = b"stargz.index.json";
/// Says that no files are to be fetched ahead of those behind it.
const NO_PREFETCH: &[u8] = b".no.prefetch.landmark";
/// Names in the root that mean something to readers, and that no file of an image can have.
pub(super) const OWN: [&[u8]; 3] = [TABLE, NO_PREFETCH, b".prefetch.landmark"];

/// What a landmark contains.
const LANDMARK: &[u8] = &[0xf];

pub(super) fn pack<T>(
    out: Hashing<File>,
    level: u32,
    means: Means<'_>,
    feed: impl FnOnce(&mut dyn Sink) -> Result<T, Fault>,
) -> Result<Packed<T>, Fault> {
    let level = level.min(9);
    let table = Table::new(Dialect::Estargz, means.dir)?;
    let compressor = || Ok(move |bytes: &[u8], out: &mut Vec<u8>| gzip::member(level, bytes, out));
    let (Cut { out, table }, sum, _, told) =
        cut(out, means.threads, After::Headers, (table, None), compressor, |archive| {
            mark(archive)?;
            feed(archive)
        })?;
    let table = table.finish("")?;
    let (toc, at) = (table.text, out.length());
    let mut text = table.into_text()?;
    let (mut out, sum) = compress(out, Compression::Gzip { level }, means.threads, |out| {
        let mut archive = Archive::new(sum.into(out), None);
        archive.made(&own(TABLE), toc.length, &mut text)?;
        Ok::<_, Fault>(archive.finish()?.sum())
    })?;
    out.write_all(&footer(at))?;
    let table = super::Table::Estargz { toc: toc.digest, uncompressed_size: sum.length };
    Ok((out, sum, told, table))
}

fn mark(archive: &mut dyn Sink) -> Result<(), Fault> {
    let mut archive = Archive::new(archive, None);
    Ok(archive.made(&own(NO_PREFETCH), LANDMARK.len() as u64, &mut &*LANDMARK)?)
}

fn own(name: &[u8]) -> ImagePath {
    ImagePath::root().join(name).expect("a name without a slash")
}

/// An empty gzip member whose extra field says where the table is.
fn footer(at: u64) -> Vec<u8> {
    let field = format!("{at:016x}STARGZ");
    let mut footer = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
    footer.extend_from_slice(&[26, 0, b'S', b'G', 22, 0]);
    footer.extend_from_slice(field.as_bytes());
    // A last block, stored, of no bytes; their checksum and number.
    footer.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    footer.extend_from_slice(&[0; 8]);
    footer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_footer_is_an_empty_member_of_51_bytes() {
        let footer = footer(0x1_2345);
        assert_eq!(footer.len(), 51);
        let mut reader = flate2::bufread::GzDecoder::new(&footer[..]);
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut reader, &mut content).unwrap();
        assert!(content.is_empty());
        let extra = reader.header().unwrap().extra().unwrap();
        assert_eq!(extra, b"SG\x16\x000000000000012345STARGZ");
    }
}
