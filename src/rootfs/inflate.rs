//! Blobs become archives: decompression and the check of the diff ID, each on a thread of its own.
//!
//! So a layer inflates beside the hashing and the writing of its files; a bounded queue keeps
//! memory small however far the archive is ahead.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use super::archive::has_valid_checksum;
use crate::image::{Compression, Digest, Hasher};

const PIECE: usize = 256 << 10;
/// Pieces that may wait to be read.
const AHEAD: usize = 8;

/// What an xz archive may make its decoder allocate: `xz -9` takes 65 MiB.
const XZ_MEMORY: u64 = 512 << 20;

/// The uncompressed bytes of a layer; the last read fails if they are not what the image config
/// says (`rootfs.diff_ids`).
#[derive(Debug)]
pub struct Inflated {
    pieces: Receiver<io::Result<Arc<Piece>>>,
    piece: Option<Arc<Piece>>,
    taken: usize,
}

/// Some bytes, read by whoever unpacks them and by whoever hashes them. When both are done the buffer
/// is filled again: a new one would have to be zeroed first.
#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    done: Sender<Vec<u8>>,
}

impl Drop for Piece {
    fn drop(&mut self) {
        // Nobody takes it back after the last piece.
        let _ = self.done.send(std::mem::take(&mut self.bytes));
    }
}

/// Starts to inflate `blob`. With an `expected` digest the bytes are checked against it, on a thread
/// of its own: inflating alone keeps one busy.
///
/// # Errors
/// No thread can be started.
pub fn inflate(
    blob: impl Read + Send + 'static,
    compression: Compression,
    expected: Option<Digest>,
) -> io::Result<Inflated> {
    let (sender, pieces) = sync_channel(AHEAD);
    let check = expected.map(Check::start).transpose()?;
    let work = move || {
        let source = BufReader::with_capacity(PIECE, blob);
        let failed = match decoder(source, compression) {
            Ok(decoder) => pump(decoder, check, |piece| sender.send(Ok(piece)).is_ok()).err(),
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            // The reader may be gone already, with an error of its own.
            let _ = sender.send(Err(error));
        }
    };
    std::thread::Builder::new().name("inflate".to_owned()).spawn(work)?;
    Ok(Inflated { pieces, piece: None, taken: 0 })
}

/// A check of a digest that goes on beside.
struct Check {
    expected: Digest,
    pieces: SyncSender<Arc<Piece>>,
    found: JoinHandle<Digest>,
}

impl Check {
    fn start(expected: Digest) -> io::Result<Self> {
        let (pieces, given) = sync_channel::<Arc<Piece>>(AHEAD);
        let hash = move || {
            let mut hasher = Hasher::default();
            given.iter().for_each(|piece| hasher.update(&piece.bytes));
            hasher.finish().0
        };
        let found = std::thread::Builder::new().name("diff ID".to_owned()).spawn(hash)?;
        Ok(Self { expected, pieces, found })
    }

    fn update(&self, piece: &Arc<Piece>) {
        // It takes pieces until there are no more.
        let _ = self.pieces.send(Arc::clone(piece));
    }

    fn finish(self) -> io::Result<()> {
        drop(self.pieces);
        let found = self.found.join().map_err(|_| io::Error::other("hashing panicked"))?;
        if found == self.expected {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("its content has diff ID {found}, the image config says {}", self.expected),
        ))
    }
}

/// A reader of uncompressed bytes.
///
/// # Errors
/// The decompressor cannot be set up.
pub fn decoder(
    source: impl BufRead + Send + 'static,
    compression: Compression,
) -> io::Result<Box<dyn Read + Send>> {
    Ok(match compression {
        Compression::None => Box::new(source),
        Compression::Gzip => Box::new(Members::new(source)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
    })
}

/// How an archive for ADD is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip (RFC 1952).
    Gzip,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Packing {
    /// By the first bytes, as Docker does; what nothing else claims is plain.
    fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// An archive that was recognised: how it was packed, and its uncompressed bytes.
pub type Sniffed = (Packing, Box<dyn Read + Send>);

/// Recognises a tar archive by its content: what is uncompressed begins with a block that carries
/// its own checksum. Nothing for any other file, however it is compressed.
///
/// # Errors
/// The source cannot be read; damaged compression is no error, but no archive either.
pub fn sniffed(source: impl Read + Send + 'static) -> io::Result<Option<Sniffed>> {
    let mut source = BufReader::with_capacity(PIECE, source);
    let mut start = [0; 6];
    let got = fill(&mut source, &mut start)?;
    let packing = Packing::of(&start[..got]);
    let whole =
        BufReader::with_capacity(PIECE, io::Cursor::new(start).take(got as u64).chain(source));
    let mut archive: Box<dyn Read + Send> = match packing {
        Packing::Plain => Box::new(whole),
        Packing::Gzip => Box::new(Members::new(whole)),
        Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(whole)),
        Packing::Xz => Box::new(xz(whole)?),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(whole)?),
    };
    let mut header = [0; 512];
    let Ok(got) = fill(&mut archive, &mut header) else { return Ok(None) };
    let is_tar =
        got == header.len() && header.iter().any(|byte| *byte != 0) && has_valid_checksum(&header);
    let archive = io::Cursor::new(header).chain(archive);
    Ok(is_tar.then(|| (packing, Box::new(archive) as Box<dyn Read + Send>)))
}

fn xz<R: BufRead>(source: R) -> io::Result<liblzma::bufread::XzDecoder<R>> {
    let flags = liblzma::stream::CONCATENATED;
    let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, flags)?;
    Ok(liblzma::bufread::XzDecoder::new_stream(source, stream))
}

/// Fills `buffer` as far as the source goes.
fn fill(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn pump(
    mut decoder: impl Read,
    check: Option<Check>,
    mut pass_on: impl FnMut(Arc<Piece>) -> bool,
) -> io::Result<()> {
    let (done, free) = channel();
    loop {
        let mut bytes: Vec<u8> = free.try_recv().unwrap_or_default();
        bytes.resize(PIECE, 0);
        let filled = fill(&mut decoder, &mut bytes)?;
        if filled == 0 {
            return check.map_or(Ok(()), Check::finish);
        }
        bytes.truncate(filled);
        let piece = Arc::new(Piece { bytes, done: done.clone() });
        if let Some(check) = &check {
            check.update(&piece);
        }
        if !pass_on(piece) {
            return Ok(());
        }
    }
}

impl Read for Inflated {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let rest = self.piece.as_ref().map_or(&[][..], |piece| &piece.bytes[self.taken..]);
            if !rest.is_empty() {
                let count = rest.len().min(buffer.len());
                buffer[..count].copy_from_slice(&rest[..count]);
                self.taken += count;
                return Ok(count);
            }
            // First the old one goes, so that its buffer can be filled again.
            (self.piece, self.taken) = (None, 0);
            match self.pieces.recv() {
                Ok(piece) => self.piece = Some(piece?),
                Err(_) => return Ok(0),
            }
        }
    }
}

/// Gzip members one after the other, and zeros behind the last (RFC 1952 §2.2; the zeros are what
/// tape-minded writers add). Anything else behind a member is an error, and so is a member that
/// ends early or whose checksum is wrong.
struct Members<R> {
    state: State<R>,
}

enum State<R> {
    Between(R, bool),
    Inside(Box<flate2::bufread::GzDecoder<R>>),
    Done,
}

impl<R: BufRead> Members<R> {
    fn new(source: R) -> Self {
        Self { state: State::Between(source, true) }
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.state, State::Done) {
                State::Done => return Ok(0),
                State::Inside(mut decoder) => {
                    let got = decoder.read(buffer)?;
                    if got > 0 || buffer.is_empty() {
                        self.state = State::Inside(decoder);
                        return Ok(got);
                    }
                    self.state = State::Between(decoder.into_inner(), false);
                }
                State::Between(mut source, first) => match source.fill_buf()?.first() {
                    None if first => return Err(io::ErrorKind::UnexpectedEof.into()),
                    None => {}
                    Some(0) if !first => only_zeros(&mut source)?,
                    Some(_) => {
                        self.state =
                            State::Inside(Box::new(flate2::bufread::GzDecoder::new(source)));
                    }
                },
            }
        }
    }
}

fn only_zeros(source: &mut impl BufRead) -> io::Result<()> {
    loop {
        let rest = source.fill_buf()?;
        if rest.is_empty() {
            return Ok(());
        }
        if rest.iter().any(|byte| *byte != 0) {
            let why = "there is something behind the end of the gzip data";
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let count = rest.len();
        source.consume(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).expect("a vector takes everything");
        encoder.finish().expect("a vector takes everything")
    }

    fn read(bytes: &[u8]) -> Result<Vec<u8>, io::ErrorKind> {
        let mut out = Vec::new();
        match Members::new(bytes).read_to_end(&mut out) {
            Ok(_) => Ok(out),
            Err(error) => Err(error.kind()),
        }
    }

    #[test]
    fn members_zeros_and_damage() {
        let (one, two) = (gzip(b"one"), gzip(b"two"));
        assert_eq!(read(&one).as_deref(), Ok(&b"one"[..]));
        assert_eq!(read(&[&one[..], &two].concat()).as_deref(), Ok(&b"onetwo"[..]));
        assert_eq!(read(&[&one[..], &[0; 700]].concat()).as_deref(), Ok(&b"one"[..]));
        assert_eq!(read(&[&one[..], b"\0x"].concat()), Err(io::ErrorKind::InvalidData));
        assert!(read(&one[..one.len() - 1]).is_err(), "cut short");
        let mut flipped = one.clone();
        let checksum = flipped.len() - 6;
        flipped[checksum] ^= 1;
        assert!(read(&flipped).is_err(), "bad checksum");
        assert!(read(b"").is_err());
    }

    fn by(program: &str, arguments: &[&str], bytes: &[u8]) -> Vec<u8> {
        use std::process::{Command, Stdio};
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect(program);
        child.stdin.take().expect("piped").write_all(bytes).expect(program);
        child.wait_with_output().expect(program).stdout
    }

    #[test]
    fn archives_are_known_by_their_content() {
        let tar = crate::rootfs::crafted::Crafted::new().file("a", &[7; 3000]).end();
        let text = b"no archive at all".repeat(100);
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9][..], &by("zstd", &["-c"], &tar)];
        for (what, bytes, want) in [
            ("tar", tar.clone(), Some(Packing::Plain)),
            ("gzip", gzip(&tar), Some(Packing::Gzip)),
            ("bzip2", by("bzip2", &["-c"], &tar), Some(Packing::Bzip2)),
            ("xz", by("xz", &["-c"], &tar), Some(Packing::Xz)),
            ("zstd", by("zstd", &["-c"], &tar), Some(Packing::Zstd)),
            ("zstd behind a frame to skip", skippable.concat(), Some(Packing::Zstd)),
            ("a gzip that is no tar", gzip(&text), None),
            ("an xz that is no tar", by("xz", &["-c"], &text), None),
            ("text", text.to_vec(), None),
            ("nothing", Vec::new(), None),
            ("zeros", vec![0; 4096], None),
            ("a cut gzip", gzip(&tar)[..12].to_vec(), None),
            ("magic and rubbish", b"\x1f\x8b\x08 rubbish rubbish rubbish".to_vec(), None),
            ("a wrong checksum", [b"x", &tar[1..]].concat(), None),
            ("a short file", tar[..300].to_vec(), None),
        ] {
            let found = sniffed(io::Cursor::new(bytes)).expect(what);
            assert_eq!(found.as_ref().map(|(packing, _)| *packing), want, "{what}");
            if let Some((_, mut archive)) = found {
                let mut out = Vec::new();
                archive.read_to_end(&mut out).expect(what);
                assert!(out == tar, "{what}");
            }
        }
    }

    #[test]
    fn parts_one_behind_the_other_are_one_archive() {
        let tar = crate::rootfs::crafted::Crafted::new().file("a", &[7; 3000]).end();
        let (one, two) = tar.split_at(2000);
        for program in ["gzip", "bzip2", "xz", "zstd"] {
            let parts = [by(program, &["-c"], one), by(program, &["-c"], two)].concat();
            let found = sniffed(io::Cursor::new(parts)).expect(program).expect(program);
            let mut out = Vec::new();
            BufReader::new(found.1).read_to_end(&mut out).expect(program);
            assert!(out == tar, "{program}");
        }
    }

    #[test]
    fn the_diff_id_is_checked_at_the_end() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&gzip(b"content")).expect("written");
        for (expected, good) in [(Digest::of(b"content"), true), (Digest::of(b"other"), false)] {
            use std::io::Seek as _;
            let mut blob = file.try_clone().expect("a second handle");
            blob.rewind().expect("a regular file");
            let mut out = Vec::new();
            let got = inflate(blob, Compression::Gzip, Some(expected))
                .expect("a thread")
                .read_to_end(&mut out);
            assert_eq!(got.is_ok(), good);
        }
    }
}
