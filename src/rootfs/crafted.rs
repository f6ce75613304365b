//! Tar archives made by hand, for tests: well formed, odd and hostile ones.

/// An archive in the making.
#[derive(Debug, Clone, Default)]
pub(crate) struct Crafted(Vec<u8>);

impl Crafted {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Content of any entry: bytes, padded to whole blocks.
    pub(crate) fn content(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        let whole = self.0.len().next_multiple_of(512);
        self.0.resize(whole, 0);
        self
    }

    /// A header that `change` has the last word on; the checksum is put right afterwards.
    pub(crate) fn header(
        mut self,
        kind: u8,
        name: &str,
        size: u64,
        change: impl FnOnce(&mut [u8; 512]),
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkflag[0] = kind;
        header.set_size(size);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1000);
        change(header.as_mut_bytes());
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    /// An entry without content.
    pub(crate) fn bare(self, kind: u8, name: &str) -> Self {
        self.header(kind, name, 0, |header| {
            if kind == b'5' {
                header[100..107].copy_from_slice(b"0000755");
            }
        })
    }

    pub(crate) fn file(self, name: &str, bytes: &[u8]) -> Self {
        self.header(b'0', name, bytes.len() as u64, |_| {}).content(bytes)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.bare(b'5', name)
    }

    /// A symbolic (`2`) or hard link (`1`).
    pub(crate) fn link(self, kind: u8, name: &str, target: &str) -> Self {
        self.header(kind, name, 0, |header| {
            header[157..157 + target.len()].copy_from_slice(target.as_bytes());
        })
    }

    /// An extension header (`x`, `g`, `L`, `K`) with this text.
    pub(crate) fn extension(self, kind: u8, text: &[u8]) -> Self {
        self.header(kind, "extension", text.len() as u64, |_| {}).content(text)
    }

    /// Pax records for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let text: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
        self.extension(b'x', &text)
    }

    /// The archive with its end.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    /// The archive as it is.
    pub(crate) fn cut(self) -> Vec<u8> {
        self.0
    }
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (1..).find(|digits| (rest + digits).to_string().len() == *digits);
    let mut record = format!("{} {key}=", rest + length.unwrap_or(0)).into_bytes();
    record.extend_from_slice(value);
    record.push(b'\n');
    record
}
