//! The pipeline: this thread cuts blocks, workers deflate them, one thread
//! writes them in order. Every queue is bounded, and so is the memory.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use flate2::{Compress, Compression, FlushCompress, Status};

/// Input bytes of a block. Part of the format of our layers: another size
/// gives other digests.
const BLOCK: usize = 512 * 1024;
/// How far deflate looks back.
const WINDOW: usize = 32 * 1024;
/// Deflate, no name, no time, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// A block of input, and where its result goes.
struct Job {
    before: Arc<Vec<u8>>,
    block: Arc<Vec<u8>>,
    last: bool,
    done: SyncSender<io::Result<Deflated>>,
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
    let threads = threads.max(1);
    let (jobs, waiting) = sync_channel::<Job>(threads);
    let (order, ordered) = sync_channel(2 * threads);
    let waiting = Mutex::new(waiting);
    thread::scope(|scope| {
        // The workers own the receiver: when all are gone, sending fails.
        let waiting = Arc::new(waiting);
        for _ in 0..threads {
            let waiting = Arc::clone(&waiting);
            scope.spawn(move || work(&waiting, level));
        }
        drop(waiting);
        let writer = scope.spawn(move || write_member(out, &ordered));
        let mut cutter =
            Cutter { jobs, order, before: Arc::default(), block: Vec::with_capacity(BLOCK) };
        let fed = feed(&mut cutter);
        let ended = cutter.finish();
        let written = writer.join().expect("the writer does not panic");
        let told = match (fed, written) {
            (Ok(told), Ok(out)) => (out, told),
            (Err(why), Ok(_)) => return Err(why),
            (_, Err(why)) if why.kind() != io::ErrorKind::BrokenPipe => return Err(why.into()),
            (Err(why), Err(_)) => return Err(why),
            (Ok(_), Err(why)) => return Err(why.into()),
        };
        ended?;
        Ok(told)
    })
}

/// Cuts what is written into blocks and hands them out.
struct Cutter {
    jobs: SyncSender<Job>,
    order: SyncSender<Receiver<io::Result<Deflated>>>,
    before: Arc<Vec<u8>>,
    block: Vec<u8>,
}

impl Cutter {
    fn hand_out(&mut self, last: bool) -> io::Result<()> {
        let block = Arc::new(std::mem::replace(&mut self.block, Vec::with_capacity(BLOCK)));
        let before = std::mem::replace(&mut self.before, Arc::clone(&block));
        let (done, result) = sync_channel(1);
        self.order.send(result).map_err(|_| cut_off())?;
        self.jobs.send(Job { before, block, last, done }).map_err(|_| cut_off())
    }

    fn finish(mut self) -> io::Result<()> {
        self.hand_out(true)
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the compressor stopped")
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

fn work(waiting: &Mutex<Receiver<Job>>, level: u32) {
    loop {
        let job = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { before, block, last, done }) = job else { return };
        let dictionary = &before[before.len().saturating_sub(WINDOW)..];
        // Nobody waits for the result once the writer failed.
        let _ = done.send(deflated(level, dictionary, &block, last));
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

fn write_member<W: Write>(
    mut out: W,
    ordered: &Receiver<Receiver<io::Result<Deflated>>>,
) -> io::Result<W> {
    let mut checksum = crc32fast::Hasher::new();
    let mut length = 0_u64;
    out.write_all(&HEADER)?;
    while let Ok(result) = ordered.recv() {
        let block = result.recv().map_err(|_| cut_off())??;
        out.write_all(&block.bytes)?;
        checksum.combine(&block.checksum);
        length += block.length;
    }
    out.write_all(&checksum.finalize().to_le_bytes())?;
    out.write_all(&length.to_le_bytes()[..4])?; // ISIZE: the length modulo 2^32
    Ok(out)
}
