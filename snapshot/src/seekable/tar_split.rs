//! What makes the archive again from its files, bit for bit: all of it but their contents.
//!
//! The format is that of vbatts/tar-split, lines of JSON: a segment with the bytes of a header and what
//! is before it, then a file with the checksum of its content. Who unpacks zstd:chunked from
//! the table makes the archive again to see that it has the diff ID.

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use crc_fast::{CrcAlgorithm, Digest};
use serde::Serialize;

use super::spool::{Spool, Writing};
use super::table::Entry;

const FILE: u8 = 1;
const SEGMENT: u8 = 2;

#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    payload: Option<String>,
    position: u64,
}

/// A description that is being written.
pub(super) struct TarSplit {
    out: Writing,
    position: u64,
    segment: Vec<u8>,
    /// The file whose content comes: its name, its size, and the checksum so far.
    file: Option<(String, u64, Digest)>,
}

impl TarSplit {
    /// Begins one, in this directory.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        Ok(Self { out: Writing::new(dir)?, position: 0, segment: Vec::new(), file: None })
    }

    /// Bytes that are no content.
    pub(super) fn header(&mut self, bytes: &[u8]) {
        self.segment.extend_from_slice(bytes);
    }

    /// The header that was given last is that of this entry.
    pub(super) fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.end_segment()?;
        if entry.size > 0 {
            let checksum = Digest::new(CrcAlgorithm::Crc64GoIso);
            self.file = Some((entry.name.clone(), entry.size, checksum));
            return Ok(());
        }
        self.line(FILE, Some((&entry.name, None)), None)
    }

    /// Bytes of the file's content.
    pub(super) fn content(&mut self, bytes: &[u8]) {
        if let Some((_, _, checksum)) = &mut self.file {
            checksum.update(bytes);
        }
    }

    /// The content has ended.
    pub(super) fn end_file(&mut self) -> io::Result<()> {
        let Some((name, size, checksum)) = self.file.take() else { return Ok(()) };
        let checksum = STANDARD.encode(checksum.finalize().to_be_bytes());
        self.line(FILE, Some((&name, Some(size))), Some(checksum))
    }

    /// Ends it with what came after the last entry.
    pub(super) fn finish(mut self) -> io::Result<Spool> {
        self.end_segment()?;
        self.out.finish()
    }

    fn end_segment(&mut self) -> io::Result<()> {
        if self.segment.is_empty() {
            return Ok(());
        }
        let payload = STANDARD.encode(&self.segment);
        self.segment.clear();
        self.line(SEGMENT, None, Some(payload))
    }

    fn line(
        &mut self,
        kind: u8,
        file: Option<(&str, Option<u64>)>,
        payload: Option<String>,
    ) -> io::Result<()> {
        let (name, size) = (file.map(|(name, _)| name), file.and_then(|(_, size)| size));
        self.out.json(&Line { kind, name, size, payload, position: self.position })?;
        self.position += 1;
        self.out.text("\n")
    }
}
