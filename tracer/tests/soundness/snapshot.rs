//! A walk that shares no code with the tracer: the oracle.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use tracer::TouchedSet;

/// Everything about one file that a change would show in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    size: u64,
    modified: (i64, i64),
    /// Moves with everything else: extended attributes, names.
    changed: (i64, i64),
    content: Vec<u8>,
}

/// A tree at one moment, by path below `base`.
#[derive(Debug)]
pub(crate) struct Snapshot(BTreeMap<Vec<u8>, Entry>);

impl Snapshot {
    /// Walks `dir`; its own path will be `base`.
    pub(crate) fn of(dir: &Path, base: &str) -> Snapshot {
        let mut entries = BTreeMap::new();
        walk(dir, base.as_bytes().to_vec(), &mut entries);
        Snapshot(entries)
    }

    /// The paths that differ from `before` and that `touched` lacks.
    pub(crate) fn missing(&self, before: &Snapshot, touched: &TouchedSet) -> Vec<String> {
        let all: std::collections::BTreeSet<_> = self.0.keys().chain(before.0.keys()).collect();
        let changed = all.into_iter().filter(|path| self.0.get(*path) != before.0.get(*path));
        let missing = changed.filter(|path| {
            !(touched.contains(path)
                || touched.paths.iter().any(|other| is_parent(path, other))
                || self.has_touched_name(path, touched)
                || before.has_touched_name(path, touched))
        });
        missing.map(|path| path.escape_ascii().to_string()).collect()
    }

    /// Whether another name of the same file was touched: whoever uses the set
    /// looks at all of them.
    fn has_touched_name(&self, path: &[u8], touched: &TouchedSet) -> bool {
        let Some(entry) = self.0.get(path) else { return false };
        self.0.iter().any(|(name, other)| other.inode == entry.inode && touched.contains(name))
    }
}

fn is_parent(dir: &[u8], path: &[u8]) -> bool {
    let parent = path.iter().rposition(|byte| *byte == b'/').map(|end| &path[..end.max(1)]);
    parent == Some(dir)
}

fn walk(file: &Path, path: Vec<u8>, entries: &mut BTreeMap<Vec<u8>, Entry>) {
    let meta = fs::symlink_metadata(file).unwrap();
    let kind = meta.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(file).unwrap() {
            let entry = entry.unwrap();
            let slash = if path == b"/" { b"".as_slice() } else { b"/" };
            let below = [&path, slash, entry.file_name().as_bytes()].concat();
            walk(&entry.path(), below, entries);
        }
    }
    let content = if kind.is_symlink() {
        fs::read_link(file).unwrap().into_os_string().into_vec()
    } else if kind.is_file() && !kind.is_fifo() {
        fs::read(file).unwrap()
    } else {
        Vec::new()
    };
    let entry = Entry {
        inode: meta.ino(),
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        size: if kind.is_dir() { 0 } else { meta.size() },
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
        content,
    };
    entries.insert(path, entry);
}
