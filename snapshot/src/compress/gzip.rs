//! Blocks that become one member: the last 32 KiB of each are the dictionary of the next.

use std::io::{self, Write};
use std::sync::Arc;

use flate2::{Compress, Compression, FlushCompress, Status};

use super::pipeline::{self, Jobs, Results};

/// Input bytes of a block. Part of the format of our layers: another size
/// gives other digests.
const BLOCK: usize = 512 * 1024;
/// How far deflate looks back.
const WINDOW: usize = 32 * 1024;
/// Deflate, no name, no time, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// A block of input.
struct Block {
    before: Arc<Vec<u8>>,
    bytes: Arc<Vec<u8>>,
    last: bool,
}

struct Deflated {
    bytes: Vec<u8>,
    checksum: crc32fast::Hasher,
    length: u64,
}

pub(super) fn compress<W, T, E>(
    out: W,
    level: u32,
    threads: usize,
    feed: impl FnOnce(&mut dyn Write) -> Result<T, E>,
) -> Result<(W, T), E>
where
    W: Write + Send,
    E: From<io::Error>,
{
    let worker = || {
        move |block: Block| {
            let dictionary = &block.before[block.before.len().saturating_sub(WINDOW)..];
            deflated(level, dictionary, &block.bytes, block.last)
        }
    };
    pipeline::run(
        threads,
        worker,
        |results| write_member(out, results),
        |jobs| {
            let block = Vec::with_capacity(BLOCK);
            let mut cutter = Cutter { jobs, before: Arc::default(), block };
            let told = feed(&mut cutter)?;
            cutter.hand_out(true)?;
            Ok(told)
        },
    )
}

/// One member of these bytes.
pub(crate) fn member(level: u32, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    let deflated = deflated(level, &[], bytes, true)?;
    out.extend_from_slice(&HEADER);
    out.extend_from_slice(&deflated.bytes);
    out.extend_from_slice(&trailer(deflated.checksum, deflated.length));
    Ok(())
}

/// CRC-32 and ISIZE: the length modulo 2^32 (RFC 1952, 2.3.1).
fn trailer(checksum: crc32fast::Hasher, length: u64) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&checksum.finalize().to_le_bytes());
    bytes[4..].copy_from_slice(&length.to_le_bytes()[..4]);
    bytes
}

/// Cuts what is written into blocks and hands them out.
struct Cutter {
    jobs: Jobs<Block, Deflated>,
    before: Arc<Vec<u8>>,
    block: Vec<u8>,
}

impl Cutter {
    fn hand_out(&mut self, last: bool) -> io::Result<()> {
        let bytes = Arc::new(std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK)));
        let before = std::mem::replace(&mut self.before, Arc::clone(&bytes));
        self.jobs.hand_out(Block { before, bytes, last })
    }
}

impl Write for Cutter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.block.len() == BLOCK {
            self.hand_out(false)?;
        }
        let taken = bytes.len().min(BLOCK - self.block.len());
        self.block.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn deflated(level: u32, dictionary: &[u8], block: &[u8], last: bool) -> io::Result<Deflated> {
    // A fresh one each time: after `Compress::reset` matches still depend on
    // the block before, and the bytes on which thread had which block.
    let mut deflate = Compress::new(Compression::new(level), false);
    if !dictionary.is_empty() {
        deflate.set_dictionary(dictionary)?;
    }
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut bytes = Vec::with_capacity(block.len() / 2 + 64);
    loop {
        let taken = usize::try_from(deflate.total_in()).unwrap_or(usize::MAX);
        let status = deflate.compress_vec(&block[taken..], &mut bytes, flush)?;
        let all_taken = deflate.total_in() == block.len() as u64;
        match status {
            Status::StreamEnd => break,
            // A flush is complete once it leaves room in the output.
            Status::Ok | Status::BufError
                if !last && all_taken && bytes.len() < bytes.capacity() =>
            {
                break;
            }
            Status::Ok | Status::BufError => bytes.reserve(bytes.capacity() / 2 + 64),
        }
    }
    let mut checksum = crc32fast::Hasher::new();
    checksum.update(block);
    Ok(Deflated { bytes, checksum, length: block.len() as u64 })
}

fn write_member<W: Write>(mut out: W, results: &Results<Deflated>) -> io::Result<W> {
    let mut checksum = crc32fast::Hasher::new();
    let mut length = 0_u64;
    out.write_all(&HEADER)?;
    while let Some(block) = pipeline::next(results) {
        let block = block?;
        out.write_all(&block.bytes)?;
        checksum.combine(&block.checksum);
        length += block.length;
    }
    out.write_all(&trailer(checksum, length))?;
    Ok(out)
}
