//! Compresses a layer on all cores, into bytes that do not depend on how many
//! there are.
//!
//! gzip: the input is cut into blocks of a fixed size. Each is deflated on its
//! own, with the last 32 KiB of the block before it as dictionary, and ends on
//! a byte boundary; one after the other they are one deflate stream, and with
//! a header and the combined checksum one gzip member (RFC 1951, RFC 1952).
//! zstd does the same by itself as soon as it is given at least one worker.

pub(crate) mod gzip;
pub(crate) mod pipeline;

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
    /// `tar+gzip`, of which single files can be fetched: eStargz.
    Estargz {
        /// 0 to 9.
        level: u32,
    },
    /// `tar+zstd`, of which single files can be fetched: zstd:chunked.
    ZstdChunked {
        /// 1 to 22.
        level: i32,
    },
    /// Plain `tar`.
    None,
}

/// Gives what `feed` writes, compressed, to `out`; without a table of contents. The threads are those that
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
        Compression::Gzip { level } | Compression::Estargz { level } => {
            gzip::compress(out, level.min(9), threads, feed)
        }
        Compression::Zstd { level } | Compression::ZstdChunked { level } => {
            zstd(out, level, threads, feed)
        }
        Compression::None => {
            let mut out = out;
            let told = feed(&mut out)?;
            Ok((out, told))
        }
    }
}

/// What one worker of zstd takes at a time, in bytes. Its own choice, four
/// windows, needs more than 64 MB of memory on two cores.
const ZSTD_JOB: u32 = 2 * 1024 * 1024;

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
    encoder.set_parameter(zstd::zstd_safe::CParameter::JobSize(ZSTD_JOB))?;
    encoder.include_checksum(true)?;
    let told = feed(&mut encoder)?;
    Ok((encoder.finish()?, told))
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    /// Some blocks of words of all lengths, rare and frequent, as in programs
    /// and texts.
    fn content() -> Vec<u8> {
        let mut state = 1_u32;
        let mut below = |limit: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            usize::try_from(state >> 8).unwrap() % limit
        };
        let words: Vec<Vec<u8>> = (0..5_000)
            .map(|_| (0..=below(12)).map(|_| b'a' + u8::try_from(below(26)).unwrap()).collect())
            .collect();
        let mut content = Vec::new();
        while content.len() < 4_300_000 {
            let rarity = below(words.len()) + 1;
            content.extend_from_slice(&words[below(rarity)]);
            content.push(b" \n(=;"[below(5)]);
        }
        content
    }

    fn packed(compression: Compression, threads: usize) -> Vec<u8> {
        let fed = compress(Vec::new(), compression, threads, |out| out.write_all(&content()));
        fed.unwrap().0
    }

    /// A digest that changes here changes the digest of every layer built: the
    /// caches of all users miss once. Do it on purpose only.
    #[test]
    fn golden_digests() {
        for (compression, want) in [
            (
                Compression::Gzip { level: 1 },
                "3a5375f60f461ce0311e4b75941f2d7f4929b97e97098552ae9ece327e95bdf0",
            ),
            (
                Compression::Gzip { level: 6 },
                "ed8515389e628578059255ee70168fdaa3c127d921398ccd2fd5cdd3bed70e11",
            ),
            (
                Compression::Gzip { level: 9 },
                "20ae3277b5193327e61ea0b4d62a1f892f1771f5766ff7b204a2b9b4fece0209",
            ),
            (
                Compression::Zstd { level: 3 },
                "9ef7572d6b420513b1a297011cd5a0caea826ca72df4edc18d424e992a66e96a",
            ),
        ] {
            for threads in [0, 1, 3] {
                let digest = Sha256::digest(packed(compression, threads));
                let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(hex, want, "{compression:?} with {threads} threads");
            }
        }
    }

    /// A disk that is full after a while.
    #[derive(Debug)]
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told_as_such() {
        for compression in
            [Compression::Gzip { level: 1 }, Compression::Zstd { level: 1 }, Compression::None]
        {
            for room in [0, 100, 300_000] {
                let fed: Result<_, io::Error> = compress(Full(room), compression, 2, |out| {
                    (0..10).try_for_each(|_| out.write_all(&content()))
                });
                let why = fed.unwrap_err().kind();
                assert_eq!(why, io::ErrorKind::StorageFull, "{compression:?} {room}");
            }
        }
    }

    #[test]
    fn an_error_of_the_feed_comes_through() {
        for compression in
            [Compression::Gzip { level: 1 }, Compression::Zstd { level: 1 }, Compression::None]
        {
            let fed: Result<(Vec<u8>, ()), _> =
                compress(Vec::new(), compression, 2, |_| Err(io::Error::other("mine")));
            assert_eq!(fed.unwrap_err().to_string(), "mine", "{compression:?}");
        }
    }
}
