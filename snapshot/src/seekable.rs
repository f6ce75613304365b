//! Layers of which single files can be fetched and checked, without the rest: a table of contents says
//! where in the blob each file begins, and what it has to hash to.
//!
//! Two formats, that two families of programs read:
//!
//! - **eStargz** (containerd/stargz-snapshotter, `docs/estargz.md`): gzip members that begin where the
//!   content of a file does, or a chunk of it; the table is the last file of the archive,
//!   `stargz.index.json`, and a last, empty member says where it is.
//! - **zstd:chunked** (containers/storage, `pkg/chunked`): zstd frames that hold the content of one file or
//!   chunk; the table lies behind the archive in a frame that decompressors skip, and beside it
//!   what makes the archive again from its files ("tar-split").
//!
//! To everybody else both are ordinary gzip and zstd. The bytes depend on the archive and the level alone,
//! not on the number of threads: all cuts are at places that the archive decides over.

mod cut;
mod estargz;
mod spool;
mod table;
mod tar_split;
mod unfit;
mod zstd_chunked;

use std::fs::File;
use std::path::Path;

pub(crate) use unfit::unfit;

use crate::hashing::{Hashing, Sum};
use crate::tar::{Fault, Sink};
use crate::{Compression, Sha256};

/// Where the table of contents of a layer is, and what it hashes to: what whoever fetches parts of the
/// layer has to know beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Table {
    /// Of eStargz.
    Estargz {
        /// Digest of the table.
        toc: Sha256,
        /// Length of the archive in bytes.
        uncompressed_size: u64,
    },
    /// Of zstd:chunked.
    ZstdChunked {
        /// Digest of the table as it is stored, compressed.
        toc: Sha256,
        /// Where it is stored, how long it is there, and how long when it is decompressed.
        position: (u64, u64, u64),
        /// The same of what makes the archive again.
        tar_split: (u64, u64, u64),
    },
}

impl Table {
    /// Annotations of the layer's descriptor.
    #[must_use]
    pub fn annotations(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Estargz { toc, uncompressed_size } => vec![
                ("containerd.io/snapshot/stargz/toc.digest", toc.to_string()),
                ("io.containers.estargz.uncompressed-size", uncompressed_size.to_string()),
            ],
            Self::ZstdChunked { toc, position: (at, stored, raw), tar_split } => vec![
                ("io.github.containers.zstd-chunked.manifest-checksum", toc.to_string()),
                // The 1 is the only kind of table there is, that of CRFS.
                (
                    "io.github.containers.zstd-chunked.manifest-position",
                    format!("{at}:{stored}:{raw}:1"),
                ),
                (
                    "io.github.containers.zstd-chunked.tarsplit-position",
                    format!("{}:{}:{}", tar_split.0, tar_split.1, tar_split.2),
                ),
            ],
        }
    }
}

/// A compression that has a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Estargz { level: u32 },
    ZstdChunked { level: i32 },
}

impl Format {
    /// The compression as one, if it has a table.
    pub(crate) fn of(compression: Compression) -> Option<Self> {
        match compression {
            Compression::Estargz { level } => Some(Self::Estargz { level }),
            Compression::ZstdChunked { level } => Some(Self::ZstdChunked { level }),
            Compression::Gzip { .. } | Compression::Zstd { .. } | Compression::None => None,
        }
    }
}

/// What packing gives: the blob, the sum of the archive, what `feed` told, and the table.
pub(crate) type Packed<T> = (Hashing<File>, Sum, T, Table);

/// How to pack: by how many threads, and where what does not fit into memory lies meanwhile.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) threads: usize,
    pub(crate) dir: &'a Path,
}

/// Packs the archive that `feed` writes, without its end.
pub(crate) fn pack<T>(
    out: Hashing<File>,
    format: Format,
    means: Means<'_>,
    feed: impl FnOnce(&mut dyn Sink) -> Result<T, Fault>,
) -> Result<Packed<T>, Fault> {
    match format {
        Format::Estargz { level } => estargz::pack(out, level, means, feed),
        Format::ZstdChunked { level } => zstd_chunked::pack(out, level, means, feed),
    }
}
