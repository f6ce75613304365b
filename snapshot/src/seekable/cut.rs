//! Cuts an archive into the parts that are compressed on their own, on all cores, and has what comes of
//! them written in order, with the table of contents beside it.
//!
//! A part is at most [`CHUNK`] of the content of one file, or what is between two contents: headers
//! and padding. Many small parts go to a worker together.

use std::io::{self, Write};

use sha2::Digest as _;

use super::spool::Spool;
use super::table::{Chunk, Entry, Table};
use super::tar_split::TarSplit;
use crate::Sha256;
use crate::compress::pipeline::{self, Jobs, Results};
use crate::hashing::{Hashing, sha256};
use crate::tar::{Fault, Member, Sink};

/// The most content of a part, in bytes. Part of the format of our layers: another size gives other digests.
const CHUNK: usize = 1024 * 1024;
/// How much goes to a worker before the next part does not go along.
const BATCH: usize = 512 * 1024;

/// More threads than this wait for the one that reads and hashes, and each needs some megabytes.
const MOST_THREADS: usize = 16;

/// What follows the content of a file in its last part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The headers that come next, up to the next content.
    Headers,
    /// Nothing.
    Nothing,
}

/// A part of the archive.
struct Part {
    length: usize,
    /// How much of it, from its start on, is content of a file.
    content: usize,
}

/// What the table has to know, in the order of the archive.
enum Mark {
    /// The next part begins.
    Part,
    /// An entry without content.
    Entry(Entry),
    /// A file; what follows are its chunks.
    File(Entry),
    /// The file has ended. Its digest, if it has more than one chunk.
    FileEnds(Option<Sha256>),
}

/// What goes to a worker at a time.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    parts: Vec<Part>,
    marks: Vec<Mark>,
}

/// What a worker makes of it.
struct Compressed {
    bytes: Vec<u8>,
    /// Of each part, its compressed length and how much of it is content, with the digest of that.
    parts: Vec<(usize, Option<(usize, Sha256)>)>,
    marks: Vec<Mark>,
}

/// Compresses one part to the end of the bytes.
pub(super) trait Compress: FnMut(&[u8], &mut Vec<u8>) -> io::Result<()> {}

impl<F: FnMut(&[u8], &mut Vec<u8>) -> io::Result<()>> Compress for F {}

/// What is left to do once the archive is cut: the blob so far, and the table.
pub(super) struct Cut {
    pub(super) out: Hashing<std::fs::File>,
    pub(super) table: Table,
}

/// Runs `feed`, whose archive is cut; gives the sum of the archive so far, too.
pub(super) fn cut<T, C: Compress>(
    out: Hashing<std::fs::File>,
    threads: usize,
    after: After,
    (table, split): (Table, Option<TarSplit>),
    compressor: impl Fn() -> io::Result<C> + Sync,
    feed: impl FnOnce(&mut dyn Sink) -> Result<T, Fault>,
) -> Result<(Cut, Hashing<()>, Option<Spool>, T), Fault> {
    let worker = || {
        let mut compressor = compressor();
        move |batch| match &mut compressor {
            Ok(compress) => compressed(batch, compress),
            Err(why) => Err(io::Error::new(why.kind(), why.to_string())),
        }
    };
    let (cut, (sum, split, told)) = pipeline::run(
        threads.min(MOST_THREADS),
        worker,
        |results| write(Cut { out, table }, results),
        |jobs| {
            let mut archive = Hashing::new(Cutter::new(jobs, after, split));
            let told = feed(&mut archive)?;
            let (cutter, sum) = archive.split();
            Ok::<_, Fault>((sum, cutter.finish()?, told))
        },
    )?;
    Ok((cut, sum, split, told))
}

fn compressed(batch: Batch, compress: &mut impl Compress) -> io::Result<Compressed> {
    let mut bytes = Vec::with_capacity(batch.bytes.len() / 2);
    let mut parts = Vec::with_capacity(batch.parts.len());
    let mut rest = &batch.bytes[..];
    for part in &batch.parts {
        let (this, next) = rest.split_at(part.length);
        rest = next;
        let before = bytes.len();
        compress(this, &mut bytes)?;
        let content = (part.content > 0).then(|| (part.content, sha256(&this[..part.content])));
        parts.push((bytes.len() - before, content));
    }
    Ok(Compressed { bytes, parts, marks: batch.marks })
}

/// Writes the parts and the table; nobody before knows where a part begins.
fn write(mut cut: Cut, results: &Results<Compressed>) -> io::Result<Cut> {
    while let Some(batch) = pipeline::next(results) {
        let batch = batch?;
        let mut offset = cut.out.length();
        cut.out.write_all(&batch.bytes)?;
        let mut parts = batch.parts.into_iter();
        for mark in batch.marks {
            match mark {
                Mark::Entry(entry) => cut.table.entry(&entry)?,
                Mark::File(entry) => cut.table.file(entry),
                Mark::FileEnds(digest) => cut.table.file_ends(digest)?,
                Mark::Part => {
                    let (length, content) = parts.next().expect("each part has its mark");
                    if let Some((size, digest)) = content {
                        let end = offset + length as u64;
                        cut.table.chunk(Chunk { offset, end, size: size as u64, digest });
                    }
                    offset += length as u64;
                }
            }
        }
    }
    Ok(cut)
}

/// Where the archive goes.
struct Cutter {
    jobs: Jobs<Batch, Compressed>,
    after: After,
    split: Option<TarSplit>,
    batch: Batch,
    /// Whether the last part takes more.
    open: bool,
    /// What is left of the current file's content.
    content: u64,
    /// The hash of the file, if it has more than one chunk.
    file: Option<sha2::Sha256>,
}

impl Cutter {
    fn new(jobs: Jobs<Batch, Compressed>, after: After, split: Option<TarSplit>) -> Self {
        let batch = Batch::default();
        Self { jobs, after, split, batch, open: false, content: 0, file: None }
    }

    /// Begins a part, in another batch if this one has enough.
    fn begin(&mut self) -> io::Result<()> {
        if self.batch.bytes.len() >= BATCH {
            self.hand_out()?;
        }
        self.batch.parts.push(Part { length: 0, content: 0 });
        self.batch.marks.push(Mark::Part);
        self.open = true;
        Ok(())
    }

    fn hand_out(&mut self) -> io::Result<()> {
        let next = Batch { bytes: Vec::with_capacity(BATCH + CHUNK), ..Batch::default() };
        self.jobs.hand_out(std::mem::replace(&mut self.batch, next))
    }

    /// The open part, or a new one if it is full.
    fn part(&mut self) -> io::Result<&mut Part> {
        let full = |part: &Part| part.length >= CHUNK;
        if !self.open || self.batch.parts.last().is_none_or(full) {
            self.begin()?;
        }
        Ok(self.batch.parts.last_mut().expect("one was begun"))
    }

    /// Takes what fits into the open part.
    fn take<'a>(&mut self, bytes: &'a [u8], content: bool) -> io::Result<&'a [u8]> {
        let part = self.part()?;
        let taken = &bytes[..bytes.len().min(CHUNK - part.length)];
        part.length += taken.len();
        if content {
            part.content += taken.len();
        }
        self.batch.bytes.extend_from_slice(taken);
        Ok(taken)
    }

    fn take_content(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let most = usize::try_from(self.content).unwrap_or(usize::MAX).min(bytes.len());
        let taken = self.take(&bytes[..most], true)?;
        self.content -= taken.len() as u64;
        if let Some(file) = &mut self.file {
            file.update(taken);
        }
        if let Some(split) = &mut self.split {
            split.content(taken);
        }
        if self.content == 0 {
            self.end_file()?;
        }
        Ok(taken.len())
    }

    fn end_file(&mut self) -> io::Result<()> {
        let digest = self.file.take().map(|hash| Sha256(hash.finalize().into()));
        self.batch.marks.push(Mark::FileEnds(digest));
        self.open = self.after == After::Headers;
        self.split.as_mut().map_or(Ok(()), TarSplit::end_file)
    }

    fn finish(mut self) -> io::Result<Option<Spool>> {
        self.hand_out()?;
        self.split.map(TarSplit::finish).transpose()
    }
}

impl Write for Cutter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.content > 0 && !bytes.is_empty() {
            return self.take_content(bytes);
        }
        let taken = self.take(bytes, false)?;
        if let Some(split) = &mut self.split {
            split.header(taken);
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Cutter {
    fn described(&mut self, member: &Member<'_>) -> io::Result<()> {
        let entry = Entry::of(member);
        if let Some(split) = &mut self.split {
            split.entry(&entry)?;
        }
        self.content = entry.size;
        if entry.size == 0 {
            self.batch.marks.push(Mark::Entry(entry));
            return Ok(());
        }
        self.file = (entry.size > CHUNK as u64).then(sha2::Sha256::default);
        self.batch.marks.push(Mark::File(entry));
        self.open = false;
        Ok(())
    }
}
