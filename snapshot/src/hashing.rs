//! Digest and length of bytes on their way somewhere else.

use std::io::{self, Write};

use sha2::Digest;

use crate::Sha256;

/// Digest and length of what went by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) digest: Sha256,
    pub(crate) length: u64,
}

/// Hashes what it writes.
pub(crate) struct Hashing<W> {
    pub(crate) out: W,
    hash: sha2::Sha256,
    length: u64,
}

impl<W> Hashing<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, hash: sha2::Sha256::new(), length: 0 }
    }

    pub(crate) fn sum(&self) -> Sum {
        Sum { digest: Sha256(self.hash.clone().finalize().into()), length: self.length }
    }

    /// How many bytes went by.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// What was written to so far, and the same sum for what is written from here on.
    pub(crate) fn split(self) -> (W, Hashing<()>) {
        (self.out, Hashing { out: (), hash: self.hash, length: self.length })
    }
}

impl Hashing<()> {
    /// Goes on with the sum.
    pub(crate) fn into<W>(self, out: W) -> Hashing<W> {
        Hashing { out, hash: self.hash, length: self.length }
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

/// The digest of these bytes.
pub(crate) fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}
