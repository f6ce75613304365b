//! Compresses a layer on all cores, into bytes that do not depend on how many
//! there are.
//!
//! gzip: the input is cut into blocks of a fixed size. Each is deflated on its
//! own, with the last 32 KiB of the block before it as dictionary, and ends on
//! a byte boundary; one after the other they are one deflate stream, and with
//! a header and the combined checksum one gzip member (RFC 1951, RFC 1952).
//! zstd does the same by itself as soon as it is given at least one worker.

mod gzip;

use std::io::{self, Write};

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// `tar+gzip`.
    Gzip {
        /// 0 to 9.
        level: u32,
    },
    /// `tar+zstd`.
    Zstd {
        /// 1 to 22.
        level: i32,
    },
    /// Plain `tar`.
    None,
}

/// Gives what `feed` writes, compressed, to `out`. The threads are those that
/// compress; at least one is used. An error of `out` is given in preference to
/// that of the `feed` it cut off.
pub(crate) fn compress<W, T, E>(
    out: W,
    compression: Compression,
    threads: usize,
    feed: impl FnOnce(&mut dyn Write) -> Result<T, E>,
) -> Result<(W, T), E>
where
    W: Write + Send,
    E: From<io::Error>,
{
    match compression {
        Compression::Gzip { level } => gzip::compress(out, level.min(9), threads, feed),
        Compression::Zstd { level } => zstd(out, level, threads, feed),
        Compression::None => {
            let mut out = out;
            let told = feed(&mut out)?;
            Ok((out, told))
        }
    }
}

/// With any number of workers zstd gives the same bytes, but not those that it
/// gives without.
fn zstd<W: Write, T, E: From<io::Error>>(
    out: W,
    level: i32,
    threads: usize,
    feed: impl FnOnce(&mut dyn Write) -> Result<T, E>,
) -> Result<(W, T), E> {
    let mut encoder = zstd::Encoder::new(out, level)?;
    encoder.multithread(u32::try_from(threads.max(1)).unwrap_or(1))?;
    encoder.include_checksum(true)?;
    let told = feed(&mut encoder)?;
    Ok((encoder.finish()?, told))
}
