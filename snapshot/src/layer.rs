//! One pass from a difference to a layer on disk: archive, diff ID,
//! compression, digest, file.

use std::fmt;
use std::fs::File;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempPath};

use crate::compress::compress;
use crate::hashing::{Hashing, Sum};
use crate::seekable::{self, Format, Means, Table, unfit};
use crate::tar::{Archive, Fault, Sink};
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

/// Whether single files of a layer can be fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// By this table.
    Table(Table),
    /// They cannot: that was not asked for.
    NotAsked,
    /// They cannot: a table has no words for this path.
    Unfit {
        /// The first such path of the layer.
        path: ImagePath,
        /// What is the matter with it.
        why: &'static str,
    },
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
    /// Its table of contents, if the compression has one.
    pub contents: Contents,
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
    let packed = write(root, &difference.changes, dir, options, Hashing::new(file));
    let (sums, contents, table) = packed.map_err(|fault| match fault {
        Fault::Tree(why) => why,
        Fault::Output(why) => output(why),
    })?;
    note_fingerprints(&mut difference.changes, &contents);
    Ok(layer(sums, options.compression, table, path))
}

fn layer((file, archive): Sums, how: Compression, contents: Contents, path: TempPath) -> Layer {
    Layer {
        diff_id: archive.digest,
        digest: file.digest,
        size: file.length,
        uncompressed_size: archive.length,
        compression: how,
        contents,
        file: path,
    }
}

/// Those of the file and of the archive in it.
type Sums = (Sum, Sum);
type Fingerprints = Vec<Option<Fingerprint>>;

fn write(
    root: BorrowedFd<'_>,
    changes: &[Change],
    dir: &Path,
    Options { compression, threads, latest }: Options,
    file: Hashing<File>,
) -> Result<(Sums, Fingerprints, Contents), Fault> {
    let mut contents = Contents::NotAsked;
    if let Some(format) = Format::of(compression) {
        match unfit(changes, format, latest) {
            None => {
                return write_seekable(
                    root,
                    changes,
                    (format, latest),
                    Means { threads, dir },
                    file,
                );
            }
            Some((path, why)) => contents = Contents::Unfit { path, why },
        }
    }
    let (file, (archive, prints)) = compress(file, compression, threads, |out| {
        let mut archive = Archive::new(Hashing::new(out), latest);
        let prints = append(root, changes, &mut archive)?;
        Ok::<_, Fault>((archive.finish()?.sum(), prints))
    })?;
    Ok(((file.sum(), archive), prints, contents))
}

fn write_seekable(
    root: BorrowedFd<'_>,
    changes: &[Change],
    (format, latest): (Format, Option<Timestamp>),
    means: Means<'_>,
    file: Hashing<File>,
) -> Result<(Sums, Fingerprints, Contents), Fault> {
    let (file, archive, prints, table) = seekable::pack(file, format, means, |out| {
        append(root, changes, &mut Archive::new(out, latest))
    })?;
    Ok(((file.sum(), archive), prints, Contents::Table(table)))
}

fn append<W: Sink>(
    root: BorrowedFd<'_>,
    changes: &[Change],
    archive: &mut Archive<W>,
) -> Result<Fingerprints, Fault> {
    changes.iter().map(|change| archive.append(root, change)).collect()
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
