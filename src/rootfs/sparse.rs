//! Sparse files of archives: which bytes are stored, and where they belong.
//!
//! GNU tar has four ways to say that (tar manual, "Storing Sparse Files"): in
//! the header and blocks behind it, in pax records (0.0 and 0.1), and at the
//! start of the content (1.0). All of them end as a [`Map`]; what is between
//! its parts reads as zeros.

use std::io::{self, Read};

/// The largest sparse file that is read: a few bytes can state any size.
const LARGEST: u64 = 1 << 40;
/// The most parts that a file may have.
const MOST_PARTS: usize = 1 << 18;

/// What pax records say of a sparse file, as it comes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Records {
    version: (u64, u64),
    size: Option<u64>,
    name: Option<Vec<u8>>,
    /// Offsets and lengths in turn.
    numbers: Vec<u64>,
}

impl Records {
    /// Takes the record `GNU.sparse.KEY`.
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        match key {
            b"major" => self.version.0 = number(value)?,
            b"minor" => self.version.1 = number(value)?,
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"name" if !value.contains(&0) => self.name = Some(value.to_vec()),
            b"numblocks" => drop(number(value)?),
            b"map" => {
                let numbers = value.split(|byte| *byte == b',');
                self.numbers = numbers.map(number).collect::<Option<_>>()?;
            }
            // Of version 0.0, which repeats both for each part.
            b"offset" if self.numbers.len().is_multiple_of(2) => self.numbers.push(number(value)?),
            b"numbytes" if self.numbers.len() % 2 == 1 => self.numbers.push(number(value)?),
            _ => return None,
        }
        (self.numbers.len() <= 2 * MOST_PARTS).then_some(())
    }

    /// The name of the file, where the header has another one for readers that know no sparse files.
    pub(super) fn name(&self) -> Option<&[u8]> {
        self.name.as_deref()
    }

    /// The map of a file of which `stored` bytes are stored; of version 1.0 it is the first of them.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn map(&self, content: &mut impl Read, stored: u64) -> Result<Map, String> {
        let size = self.size.ok_or("a sparse file without a size")?;
        match self.version {
            (0, 0 | 1) => Map::new(size, &self.numbers, stored),
            (1, 0) => {
                let (numbers, taken) = numbers_of(content).map_err(|error| error.to_string())?;
                let stored = stored.checked_sub(taken).ok_or("its map is longer than it is")?;
                Map::new(size, &numbers, stored)
            }
            (major, minor) => Err(format!("a sparse file of the unknown version {major}.{minor}")),
        }
    }
}

/// The numbers at the start of the content, and how many bytes they and their padding take: a count,
/// then offset and length of each part, each on a line of its own.
fn numbers_of(content: &mut impl Read) -> io::Result<(Vec<u64>, u64)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "its map of parts is damaged");
    let mut taken = 0;
    let mut block = [0; 512];
    let mut line = Vec::new();
    let mut numbers = Vec::new();
    let mut wanted = None;
    loop {
        content.read_exact(&mut block)?;
        taken += block.len() as u64;
        for byte in block {
            if byte != b'\n' {
                line.push(byte);
                if line.len() > 20 {
                    return Err(bad());
                }
                continue;
            }
            let read = number(&line).ok_or_else(bad)?;
            line.clear();
            match wanted {
                None => {
                    let count = usize::try_from(read).ok().filter(|count| *count <= MOST_PARTS);
                    wanted = Some(2 * count.ok_or_else(bad)?);
                }
                Some(_) => numbers.push(read),
            }
            if wanted == Some(numbers.len()) {
                return Ok((numbers, taken));
            }
        }
    }
}

/// The parts of a GNU header, whose further blocks come from `next_block`; the numbers are read by
/// `number`.
///
/// # Errors
/// What is wrong with them, or the source ends.
pub(super) fn of_header(
    header: &[u8; 512],
    stored: u64,
    number: impl Fn(&[u8]) -> Option<i64>,
    mut next_block: impl FnMut() -> io::Result<[u8; 512]>,
) -> io::Result<Result<Map, String>> {
    let mut numbers = Vec::new();
    let mut take = |fields: &[u8]| -> Option<()> {
        for field in fields.chunks_exact(12) {
            // Fields that are not used are empty.
            if field[0] == 0 && numbers.len().is_multiple_of(2) {
                return Some(());
            }
            numbers.push(number(field).and_then(|number| u64::try_from(number).ok())?);
        }
        (numbers.len() <= 2 * MOST_PARTS).then_some(())
    };
    let damaged = || Ok(Err("its map of parts is damaged".to_owned()));
    if take(&header[386..482]).is_none() {
        return damaged();
    }
    let mut more = header[482] != 0;
    while more {
        let block = next_block()?;
        if take(&block[..504]).is_none() {
            return damaged();
        }
        more = block[504] != 0;
    }
    let size = number(&header[483..495]).and_then(|size| u64::try_from(size).ok());
    Ok(size
        .map_or(Err("its size is no number".to_owned()), |size| Map::new(size, &numbers, stored)))
}

/// Where the stored bytes of a file belong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Map {
    size: u64,
    /// First byte and the one behind the last, in order; none is empty.
    parts: Vec<(u64, u64)>,
    /// How many bytes of the file were read, and how many parts.
    at: u64,
    done: usize,
}

impl Map {
    fn new(size: u64, numbers: &[u64], stored: u64) -> Result<Self, String> {
        if size > LARGEST {
            return Err("a sparse file of more than 1 TiB".to_owned());
        }
        let pairs = numbers.chunks(2);
        let (mut parts, mut end, mut sum) = (Vec::new(), 0, 0);
        for pair in pairs {
            let [offset, length] = pair else { return Err("half a part".to_owned()) };
            let behind = offset.checked_add(*length).filter(|behind| *behind <= size);
            let behind = behind.filter(|_| *offset >= end);
            end = behind.ok_or("its parts are not in order, or behind its end")?;
            sum += length;
            if *length > 0 {
                parts.push((*offset, end));
            }
        }
        if sum != stored {
            return Err(format!("its parts have {sum} bytes, and {stored} are stored"));
        }
        Ok(Self { size, parts, at: 0, done: 0 })
    }

    /// How long the file is.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Reads the file on, holes as zeros; `stored` gives the bytes of its parts.
    pub(super) fn read(&mut self, buffer: &mut [u8], stored: &mut impl Read) -> io::Result<usize> {
        let part = self.parts.get(self.done).copied();
        let (start, end) = part.unwrap_or((self.size, self.size));
        let is_hole = self.at < start;
        let left = if is_hole { start - self.at } else { end - self.at };
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let got = if is_hole {
            buffer[..most].fill(0);
            most
        } else {
            stored.read(&mut buffer[..most])?
        };
        self.at += got as u64;
        if part.is_some() && self.at == end {
            self.done += 1;
        }
        Ok(got)
    }
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_are_none() {
        for (size, numbers, stored, good) in [
            (10, &[0, 3, 5, 2][..], 5, true),
            (10, &[3, 3, 10, 0], 3, true),
            (10, &[], 0, true),
            (10, &[0, 3, 2, 2], 5, false),
            (10, &[5, 2, 0, 3], 5, false),
            (10, &[8, 3], 3, false),
            (10, &[0, 3], 4, false),
            (10, &[0], 0, false),
            (10, &[u64::MAX, 2], 2, false),
            (LARGEST + 1, &[], 0, false),
        ] {
            assert_eq!(
                Map::new(size, numbers, stored).is_ok(),
                good,
                "{size} {numbers:?} {stored}"
            );
        }
    }

    #[test]
    fn holes_are_zeros() {
        for (numbers, stored, want) in [
            (&[2, 3, 6, 1][..], &b"abcd"[..], &b"\0\0abc\0d\0"[..]),
            (&[0, 8], b"abcdefgh", b"abcdefgh"),
            (&[8, 0], b"", b"\0\0\0\0\0\0\0\0"),
        ] {
            for piece in [1, 3, 100] {
                let mut map = Map::new(8, numbers, stored.len() as u64).expect("well formed");
                let (mut source, mut found) = (stored, Vec::new());
                loop {
                    let mut buffer = vec![1; piece];
                    let got = map.read(&mut buffer, &mut source).expect("in memory");
                    if got == 0 {
                        break;
                    }
                    found.extend_from_slice(&buffer[..got]);
                }
                assert_eq!(found, want, "{numbers:?} in pieces of {piece}");
            }
        }
    }
}
