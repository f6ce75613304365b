//! What single headers say, and files that move while they are read.

use std::os::fd::AsFd;

use super::*;
use crate::observe;

#[test]
fn decimals() {
    for (secs, nanos, want) in [
        (1, 0, "1"),
        (1, 500_000_000, "1.5"),
        (10, 1, "10.000000001"),
        (-1, 0, "-1"),
        (-2, 500_000_000, "-1.5"),
        (-1, 999_999_999, "-0.000000001"),
    ] {
        assert_eq!(decimal(Timestamp::new(secs, nanos)), want, "{secs} {nanos}");
    }
}

#[test]
fn record_lengths_count_themselves() {
    for value in [1, 2, 3, 90, 91, 92, 93, 988, 989, 990, 991] {
        let mut records = Records::default();
        records.add(b"path", "x".repeat(value).as_bytes());
        let text = String::from_utf8(records.0).unwrap();
        let told: usize = text.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(told, text.len(), "{value}");
    }
}

#[test]
fn names_split_at_a_slash() {
    let (short, half) = ("x".repeat(100), "y".repeat(90));
    for (name, want) in [
        (short.clone(), Some(0)),
        (format!("{half}/{half}"), Some(90)),
        (format!("{half}/{half}/"), Some(90)),
        (format!("{short}/"), None),
        (format!("/{short}"), None),
        ("z".repeat(101), None),
    ] {
        let split = split_name(name.as_bytes()).map(|(prefix, _)| prefix.len());
        assert_eq!(split, want, "{name}");
    }
}

fn header_of(entry: &Entry) -> Vec<u8> {
    let mut archive = Archive::new(Vec::new(), None);
    archive.header(&ImagePath::root().join(b"f").unwrap(), entry, None).unwrap();
    archive.out
}

#[test]
fn records_only_where_they_are_needed() {
    let file = |size| Entry::new(Kind::File { size }, 0o644);
    let plain = Entry { mtime: Timestamp::new(1_000_000_000, 0), ..file(OCTAL_11) };
    for (case, entry, want) in [
        ("plain", plain.clone(), None),
        ("8 GiB", file(OCTAL_11 + 1), Some("19 size=8589934592\n")),
        ("owner", Entry { uid: 2_097_151, ..plain.clone() }, None),
        ("large owner", Entry { uid: 2_097_152, ..plain.clone() }, Some("15 uid=2097152\n")),
        (
            "nanoseconds",
            Entry { mtime: Timestamp::new(1, 1_000), ..plain },
            Some("18 mtime=1.000001\n"),
        ),
    ] {
        let bytes = header_of(&entry);
        assert_eq!(bytes.len(), if want.is_some() { 3 * BLOCK } else { BLOCK }, "{case}");
        if let Some(want) = want {
            assert_eq!(&bytes[BLOCK..BLOCK + want.len()], want.as_bytes(), "{case}");
        }
    }
}

#[test]
fn a_time_that_is_too_late_is_clamped() {
    for (time, latest, want) in [
        (Timestamp::new(5, 1), None, "5.000000001"),
        (Timestamp::new(5, 1), Some(Timestamp::new(5, 0)), "5"),
        (Timestamp::new(4, 5), Some(Timestamp::new(5, 0)), "4.000000005"),
        (Timestamp::new(5, 0), Some(Timestamp::new(-5, 0)), "-5"),
    ] {
        let mut archive = Archive::new(Vec::new(), latest);
        let entry = Entry { mtime: time, ..Entry::new(Kind::Fifo, 0o644) };
        archive.header(&ImagePath::root().join(b"f").unwrap(), &entry, None).unwrap();
        let record = format!("mtime={want}\n");
        let text = String::from_utf8_lossy(&archive.out).into_owned();
        let plain = Header::from_byte_slice(&archive.out[archive.out.len() - BLOCK..]).mtime();
        assert!(text.contains(&record) || plain.unwrap().to_string() == want, "{time:?} {text}");
    }
}

#[test]
fn headers_name_nobody_and_no_time_but_the_file_s() {
    let bytes = header_of(&Entry::new(Kind::File { size: 0 }, 0o4755));
    let header = Header::from_byte_slice(&bytes);
    assert_eq!((header.username(), header.groupname()), (Ok(Some("")), Ok(Some(""))));
    assert_eq!((header.mode().unwrap(), header.mtime().unwrap()), (0o4755, 0));
    assert!(header.as_ustar().is_some());
}

/// Does something to a file once its content arrives.
struct Meddler<F: FnMut()>(F);

impl<F: FnMut()> Sink for Meddler<F> {}

impl<F: FnMut()> Write for Meddler<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > BLOCK {
            (self.0)();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_file_that_moves_while_it_is_read() {
    let length = 3 * CHUNK as u64;
    for new_length in [0, CHUNK as u64 + 1, length + 1] {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("f")).unwrap();
        file.set_len(length).unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let path = ImagePath::root().join(b"f").unwrap();
        let entry = observe(root.as_fd(), &path).unwrap().unwrap().entry;
        let put = Change::Put(Put { path, entry, link_to: None });
        let mut archive = Archive::new(Meddler(|| file.set_len(new_length).unwrap()), None);
        let refused = archive.append(root.as_fd(), &put);
        assert!(
            matches!(refused, Err(Fault::Tree(Error::Moved { .. }))),
            "{new_length}: {refused:?}"
        );
    }
}
