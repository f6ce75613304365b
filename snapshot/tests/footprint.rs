//! What an index costs in memory. Alone in its program, so that nothing else allocates meanwhile.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use snapshot::{Entry, Fingerprint, ImagePath, Index, Kind, Seen, Timestamp};

/// Enough for the allocator's own share not to count.
const PATHS: u64 = 200_000;

/// The mean length of the paths below `/usr` of a system with compilers and Python.
const LENGTH: usize = 70;

/// A path as they are in such trees: below directories, twenty names in each.
fn path(number: u64) -> ImagePath {
    let top = format!("/usr/lib/python3/dist-packages/package-{:05}", number / 400);
    let mut text = format!("{top}/module-{:02}/", number / 20 % 20);
    // Shorter and longer than the mean, in turn.
    let length = LENGTH - 8 + usize::try_from(number % 17).unwrap();
    let name = format!("{:02}", number % 20);
    let fill = length - text.len() - name.len();
    text.push_str(&name);
    text.extend(std::iter::repeat_n('x', fill));
    ImagePath::parse(text.as_bytes()).unwrap()
}

fn entry(number: u64) -> Entry {
    Entry {
        mtime: Timestamp::new(1_700_000_000, 7),
        seen: Seen::new(number + 1, Timestamp::new(1_700_000_000, 9)),
        fingerprint: Some(Fingerprint::of(&number.to_le_bytes())),
        ..Entry::new(Kind::File { size: number }, 0o644)
    }
}

/// Resident memory in bytes (proc(5)).
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn a_million_paths_take_two_hundred_megabytes() {
    let mut index = Index::new();
    let before = resident();
    for number in 0..PATHS {
        index.insert(path(number), entry(number));
    }
    let each = (resident() - before) / PATHS;
    let length: usize = index.iter().map(|(path, _)| path.as_bytes().len()).sum();
    assert!(length.abs_diff(LENGTH * index.len()) < index.len(), "{length} bytes of paths");
    assert_eq!(index.len() as u64, PATHS);
    assert!(each <= 200, "{each} bytes for each path");
}
