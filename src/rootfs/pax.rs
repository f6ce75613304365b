//! The records of pax extended headers (POSIX.1-2017, pax, "pax Extended Header").
//!
//! A record is `LENGTH KEY=VALUE\n`, and only its length says where it ends:
//! the value of a capability or an ACL may hold any byte, newlines among them.

use snapshot::Timestamp;

use super::sparse;

/// What the records of one header say, or of several laid over each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timestamp>,
    /// Sorted by name.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Records of a sparse file (GNU).
    pub(super) sparse: Option<sparse::Records>,
}

impl Records {
    /// Takes the records of one header; of two with the same key the later counts, and an empty
    /// value means what the plain header says.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let (record, rest) = split_record(bytes).ok_or("a malformed pax record")?;
            let equals = record.iter().position(|byte| *byte == b'=').filter(|at| *at > 0);
            let (key, value) = record.split_at(equals.ok_or("a pax record without a key")?);
            self.take_one(key, &value[1..])?;
            bytes = rest;
        }
        self.xattrs.sort();
        Ok(())
    }

    fn take_one(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let bad =
            || format!("the pax record {:?} has no valid value", String::from_utf8_lossy(key));
        let text = || std::str::from_utf8(value).map_err(|_| bad());
        let given = !value.is_empty();
        let id = || text()?.parse().map_err(|_| bad()).map(|id| Some(id).filter(|_| given));
        match key {
            b"path" => self.path = name(value).map_err(|()| bad())?,
            b"linkpath" => self.link = name(value).map_err(|()| bad())?,
            _ if !given && !key.starts_with(b"SCHILY.xattr.") => {}
            b"size" => self.size = Some(size(text()?).ok_or_else(bad)?),
            b"uid" => self.uid = id()?,
            b"gid" => self.gid = id()?,
            b"mtime" => self.mtime = Some(decimal(text()?).ok_or_else(bad)?),
            _ => {
                if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    let records = self.sparse.get_or_insert_default();
                    return records.take(key, value).ok_or_else(bad);
                }
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.contains(&0) {
                        return Err(bad());
                    }
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }

    /// Whether a record is given that cannot be meant for every entry that follows.
    pub(super) fn names_one_entry(&self) -> bool {
        self.path.is_some() || self.link.is_some() || self.size.is_some() || self.sparse.is_some()
    }
}

fn name(value: &[u8]) -> Result<Option<Vec<u8>>, ()> {
    if value.contains(&0) {
        return Err(());
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

/// Splits off the first record, without length and newline.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let digits = &bytes[..space];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let record = bytes.get(space + 1..length)?;
    Some((record.strip_suffix(b"\n")?, &bytes[length..]))
}

fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|size| digits && i64::try_from(*size).is_ok())
}

/// A time of a pax record: decimal seconds with a fraction of any length, cut to nanoseconds
/// towards the past.
fn decimal(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let secs: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    let cut = fraction.bytes().skip(9).any(|digit| digit != b'0');
    match (negative, nanos + u32::from(negative && cut)) {
        (true, behind) if behind > 0 => {
            Some(Timestamp::new(secs.checked_sub(1)?, 1_000_000_000 - behind))
        }
        _ => Some(Timestamp::new(secs, nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::crafted::record;

    fn taken(bytes: &[u8]) -> Result<Records, String> {
        let mut records = Records::default();
        records.take(bytes).map(|()| records)
    }

    #[test]
    fn times() {
        for (text, want) in [
            ("0", Some((0, 0))),
            ("12.5", Some((12, 500_000_000))),
            ("12.1234567891", Some((12, 123_456_789))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.5", Some((-1, 500_000_000))),
            ("-1.0000000001", Some((-2, 999_999_999))),
            ("1.x", None),
            ("", None),
            ("99999999999999999999", None),
        ] {
            let got = decimal(text).map(|time| (time.secs(), time.nanos()));
            assert_eq!(got, want, "{text:?}");
        }
    }

    #[test]
    fn the_length_alone_ends_a_record() {
        let value = b"1\n2=\xff\0\n34";
        let binary = [record("SCHILY.xattr.user.a", value), record("path", b"ab")].concat();
        let records = taken(&binary).expect("well formed");
        assert_eq!(records.xattrs, [(b"user.a".to_vec(), value.to_vec())]);
        assert_eq!(records.path.as_deref(), Some(&b"ab"[..]));
    }

    #[test]
    fn records_that_are_none() {
        for (bytes, good) in [
            (&b""[..], true),
            (b"9 size=1\n", true),
            (b"9 size=1\nx", false),
            (b"9 uid=77\n", true),
            (b"8 uid=77\n", false),
            (b"11 uid=77\n", false),
            (b"-9 uid=77\n", false),
            (b" 9 uid=7\n", false),
            (b"99999999999999999999 a=b\n", false),
            (b"6 a=b\n", true),
            (b"5 =b\n", false),
            (b"5 ab\n", false),
            (b"11 size=-1\n", false),
            (b"28 size=9223372036854775808\n", false),
            (b"28 size=9223372036854775807\n", true),
            (b"18 uid=4294967296\n", false),
            (b"7 uid=\n", true),
            (b"12 path=a\0b\n", false),
            (b"8 path=\n", true),
            (b"9 mtime=\n", true),
            (b"11 mtime=x\n", false),
        ] {
            let text = String::from_utf8_lossy(bytes).into_owned();
            assert_eq!(taken(bytes).is_ok(), good, "{text:?}: {:?}", taken(bytes));
        }
    }

    #[test]
    fn the_later_record_counts() {
        let records = taken(b"9 uid=77\n9 uid=78\n7 gid=\n").expect("well formed");
        assert_eq!((records.uid, records.gid), (Some(78), None));
        assert!(!records.names_one_entry());
        let sparse = taken(&record("GNU.sparse.major", b"1")).expect("well formed");
        assert!(sparse.names_one_entry());
    }
}
