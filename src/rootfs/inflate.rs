//! Blobs become archives: decompression and the check of the diff ID, on a thread of their own.
//!
//! So a layer inflates beside the writing of its files; a bounded queue keeps
//! memory small however far the archive is ahead.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, sync_channel};

use crate::image::{Compression, Digest, Hasher};

const PIECE: usize = 256 << 10;
/// Pieces that may wait to be read.
const AHEAD: usize = 8;

/// The uncompressed bytes of a layer; the last read fails if they are not what the image config
/// says (`rootfs.diff_ids`).
#[derive(Debug)]
pub struct Inflated {
    pieces: Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    taken: usize,
}

/// Starts to inflate `blob`. With an `expected` digest the bytes are checked against it.
///
/// # Errors
/// No thread can be started.
pub fn inflate(
    blob: File,
    compression: Compression,
    expected: Option<Digest>,
) -> io::Result<Inflated> {
    let (sender, pieces) = sync_channel(AHEAD);
    let work = move || {
        let source = BufReader::with_capacity(PIECE, blob);
        let failed = match decoder(source, compression) {
            Ok(decoder) => pump(decoder, expected, |piece| sender.send(Ok(piece)).is_ok()).err(),
            Err(error) => Some(error),
        };
        if let Some(error) = failed {
            // The reader may be gone already, with an error of its own.
            let _ = sender.send(Err(error));
        }
    };
    std::thread::Builder::new().name("inflate".to_owned()).spawn(work)?;
    Ok(Inflated { pieces, piece: Vec::new(), taken: 0 })
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

fn pump(
    mut decoder: impl Read,
    expected: Option<Digest>,
    mut pass_on: impl FnMut(Vec<u8>) -> bool,
) -> io::Result<()> {
    let mut hasher = Hasher::default();
    loop {
        let mut piece = vec![0; PIECE];
        let mut filled = 0;
        while filled < PIECE {
            match decoder.read(&mut piece[filled..])? {
                0 => break,
                got => filled += got,
            }
        }
        if filled == 0 {
            break;
        }
        piece.truncate(filled);
        if expected.is_some() {
            hasher.update(&piece);
        }
        if !pass_on(piece) {
            return Ok(());
        }
    }
    let (found, _) = hasher.finish();
    match expected {
        Some(expected) if expected != found => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("its content has diff ID {found}, the image config says {expected}"),
        )),
        _ => Ok(()),
    }
}

impl Read for Inflated {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.piece.len() {
            match self.pieces.recv() {
                Ok(piece) => (self.piece, self.taken) = (piece?, 0),
                Err(_) => return Ok(0),
            }
        }
        let rest = &self.piece[self.taken..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        Ok(count)
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
