//! One pass from a difference to a layer on disk: archive, diff ID,
//! compression, digest, file.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use sha2::Digest;
use tempfile::{NamedTempFile, TempPath};

use crate::compress::compress;
use crate::tar::{Archive, Fault};
use crate::{Change, Compression, Difference, Error, Fingerprint, ImagePath, Timestamp};

/// A SHA-256 sum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How to pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The compression.
    pub compression: Compression,
    /// How many threads compress; the bytes do not depend on it.
    pub threads: usize,
    /// Later times of files become this one.
    pub latest: Option<Timestamp>,
}

/// A packed layer. Its file goes with it, unless it is kept.
#[derive(Debug)]
pub struct Layer {
    /// Digest of the archive before compression.
    pub diff_id: Sha256,
    /// Digest of the file.
    pub digest: Sha256,
    /// Length of the file in bytes.
    pub size: u64,
    /// Length of the archive in bytes.
    pub uncompressed_size: u64,
    /// How the file is compressed.
    pub compression: Compression,
    file: TempPath,
}

impl Layer {
    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// The file alone, which is removed when the answer is dropped.
    #[must_use]
    pub fn into_temp_path(self) -> TempPath {
        self.file
    }

    /// Keeps the file, which is then the caller's to remove.
    ///
    /// # Errors
    /// [`Error::Output`]; the file is removed in that case.
    pub fn keep(self) -> Result<PathBuf, Error> {
        let dir = self.file.parent().unwrap_or(Path::new("/")).to_owned();
        self.file.keep().map_err(|why| Error::Output { dir, source: why.error })
    }
}

/// Packs the changes as a layer, in a temporary file in `dir`, and notes the
/// fingerprints of all files in the difference.
///
/// # Errors
/// [`Error::Moved`] when a file is not what the comparison saw,
/// [`Error::Tree`] when it cannot be read, [`Error::Output`] when the layer
/// cannot be written. No file is left then.
pub fn pack(
    root: BorrowedFd<'_>,
    difference: &mut Difference,
    dir: &Path,
    options: Options,
) -> Result<Layer, Error> {
    let output = |source| Error::Output { dir: dir.to_owned(), source };
    let (file, path) = NamedTempFile::new_in(dir).map_err(output)?.into_parts();
    let packed = compress(Hashing::new(file), options.compression, options.threads, |out| {
        write_archive(root, &difference.changes, options.latest, out)
    });
    let (file, (archive, contents)) = packed.map_err(|fault| match fault {
        Fault::Tree(why) => why,
        Fault::Output(why) => output(why),
    })?;
    note_fingerprints(&mut difference.changes, &contents);
    Ok(layer(&file, &archive, options.compression, path))
}

fn layer(file: &Hashing<File>, archive: &Sum, compression: Compression, path: TempPath) -> Layer {
    let packed = file.sum();
    Layer {
        diff_id: archive.digest,
        digest: packed.digest,
        size: packed.length,
        uncompressed_size: archive.length,
        compression,
        file: path,
    }
}

type Contents = Vec<Option<Fingerprint>>;

fn write_archive(
    root: BorrowedFd<'_>,
    changes: &[Change],
    latest: Option<Timestamp>,
    out: &mut dyn Write,
) -> Result<(Sum, Contents), Fault> {
    let mut archive = Archive::new(Hashing::new(out), latest);
    let contents =
        changes.iter().map(|change| archive.append(root, change)).collect::<Result<_, _>>()?;
    Ok((archive.finish()?.sum(), contents))
}

/// Hard links have the content of the put they link to.
fn note_fingerprints(changes: &mut [Change], contents: &[Option<Fingerprint>]) {
    let mut firsts: Vec<(ImagePath, Option<Fingerprint>)> = Vec::new();
    for (change, content) in changes.iter_mut().zip(contents) {
        let Change::Put(put) = change else { continue };
        put.entry.fingerprint = match &put.link_to {
            None => *content,
            Some(first) => {
                let found = firsts.binary_search_by(|(path, _)| path.cmp(first)).ok();
                found.and_then(|at| firsts[at].1)
            }
        };
        firsts.push((put.path.clone(), put.entry.fingerprint));
    }
}

/// Digest and length of what went by.
struct Sum {
    digest: Sha256,
    length: u64,
}

/// Hashes what it writes.
struct Hashing<W> {
    out: W,
    hash: sha2::Sha256,
    length: u64,
}

impl<W> Hashing<W> {
    fn new(out: W) -> Self {
        Self { out, hash: sha2::Sha256::new(), length: 0 }
    }

    fn sum(&self) -> Sum {
        Sum { digest: Sha256(self.hash.clone().finalize().into()), length: self.length }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
