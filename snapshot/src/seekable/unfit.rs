//! What JSON, or the format, has no word for.

use super::Format;
use super::estargz::OWN;
use crate::{Change, ImagePath, Kind, Put, Timestamp};

/// From the year 1 to 9999, which dates of RFC 3339 can say.
const DATES: std::ops::Range<i64> = -62_135_596_800..253_402_300_800;

/// The first path that a table of contents cannot tell of, and why.
pub(crate) fn unfit(
    changes: &[Change],
    format: Format,
    latest: Option<Timestamp>,
) -> Option<(ImagePath, &'static str)> {
    let estargz = matches!(format, Format::Estargz { .. });
    changes.iter().find_map(|change| {
        let path = change.path();
        let why = match change {
            _ if !is_text(path.as_bytes()) => Some("its name is not UTF-8"),
            _ if estargz && OWN.contains(&path.relative()) => Some("eStargz has it for itself"),
            Change::Put(put) => unfit_put(put, latest),
            Change::Whiteout(_) => None,
        };
        why.map(|why| (path.clone(), why))
    })
}

fn unfit_put(put: &Put, latest: Option<Timestamp>) -> Option<&'static str> {
    let mtime = latest.map_or(put.entry.mtime, |latest| put.entry.mtime.min(latest));
    match &put.entry.kind {
        _ if !DATES.contains(&mtime.secs()) => Some("its time has no date"),
        Kind::Symlink { target } if !is_text(target) => Some("its target is not UTF-8"),
        _ if put.entry.xattrs.iter().any(|(name, _)| !is_text(name)) => {
            Some("the name of an extended attribute is not UTF-8")
        }
        _ => None,
    }
}

fn is_text(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Entry;

    #[test]
    fn what_has_no_word() {
        let put = |path: &[u8], change: fn(&mut Entry)| {
            let mut entry = Entry::new(Kind::File { size: 1 }, 0o644);
            change(&mut entry);
            Change::Put(Put { path: ImagePath::parse(path).unwrap(), entry, link_to: None })
        };
        let none = |_: &mut Entry| ();
        for (what, change, estargz, chunked) in [
            ("plain", put(b"/a \xc3\xa9", none), None, None),
            ("bytes", put(b"/\xff", none), Some("name"), Some("name")),
            (
                "a target",
                put(b"/a", |it| it.kind = Kind::Symlink { target: b"\xff"[..].into() }),
                Some("target"),
                Some("target"),
            ),
            (
                "an attribute",
                put(b"/a", |it| it.xattrs.insert(b"user.\xff", b"1")),
                Some("attribute"),
                Some("attribute"),
            ),
            (
                "the year 10000",
                put(b"/a", |it| it.mtime = Timestamp::new(253_402_300_800, 0)),
                Some("time"),
                Some("time"),
            ),
            ("the table", put(b"/stargz.index.json", none), Some("for itself"), None),
            ("such a name below", put(b"/d/stargz.index.json", none), None, None),
            ("a landmark", put(b"/.prefetch.landmark", none), Some("for itself"), None),
        ] {
            for (format, want) in [
                (Format::Estargz { level: 1 }, estargz),
                (Format::ZstdChunked { level: 1 }, chunked),
            ] {
                let told = unfit(std::slice::from_ref(&change), format, None);
                let why = told.as_ref().map(|(_, why)| *why);
                assert_eq!(why.is_some(), want.is_some(), "{what} {format:?}: {why:?}");
                assert!(why.unwrap_or_default().contains(want.unwrap_or_default()), "{what}");
            }
            let clamped = Some(Timestamp::new(0, 0));
            let told =
                unfit(std::slice::from_ref(&change), Format::ZstdChunked { level: 1 }, clamped);
            assert_eq!(told.is_some(), chunked.is_some() && what != "the year 10000", "{what}");
        }
    }
}
