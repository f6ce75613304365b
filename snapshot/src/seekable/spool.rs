//! JSON of any length on its way to the end of a blob: in a file without a name, compressed.

use std::fs::File;
use std::io::{self, Read, Seek as _, Write};
use std::path::Path;

use serde::Serialize;
use zstd::Encoder;

use crate::hashing::{Hashing, Sum};

/// What a table compresses well with and fast.
const LEVEL: i32 = 3;

/// Text that is being written.
pub(super) struct Writing {
    text: Hashing<Encoder<'static, Hashing<File>>>,
}

/// Text that was written.
pub(super) struct Spool {
    file: File,
    /// Of the text.
    pub(super) text: Sum,
    /// Of the text as it is stored, a zstd frame.
    pub(super) stored: Sum,
}

impl Writing {
    /// Begins one in this directory.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let mut encoder = Encoder::new(Hashing::new(tempfile::tempfile_in(dir)?), LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Self { text: Hashing::new(encoder) })
    }

    /// Adds text as it is.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        self.text.write_all(text.as_bytes())
    }

    /// Adds a value.
    pub(super) fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        Ok(serde_json::to_writer(&mut self.text, value)?)
    }

    /// Ends it.
    pub(super) fn finish(self) -> io::Result<Spool> {
        let text = self.text.sum();
        let stored = self.text.out.finish()?;
        let sum = stored.sum();
        let mut file = stored.out;
        file.rewind()?;
        Ok(Spool { file, text, stored: sum })
    }
}

impl Spool {
    /// The text as it is stored.
    pub(super) fn into_stored(self) -> File {
        self.file
    }

    /// The text.
    pub(super) fn into_text(self) -> io::Result<impl Read> {
        zstd::Decoder::new(self.file)
    }
}
