//! A walk that shares no code with what it judges: everything that a layer
//! could tell about a tree, content included.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, readlinkat, statat};
use tracer::TouchedSet;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    device: u64,
    size: i64,
    /// 0 for directories, whose links say what is in them.
    names: u64,
    modified: (i64, u64),
    attributes: BTreeMap<String, Vec<u8>>,
    content: Vec<u8>,
}

/// A tree at one moment, by path below `base`.
#[derive(Debug)]
pub(crate) struct Snapshot(BTreeMap<Vec<u8>, Entry>);

impl Snapshot {
    /// Walks `dir`; its own path will be `base`.
    pub(crate) fn of(dir: &Path, base: &str) -> Snapshot {
        let mut entries = BTreeMap::new();
        let top = openat(rustix::fs::CWD, dir, READ, Mode::empty()).unwrap();
        let own = entry(top.as_fd(), c".");
        walk(&top, base.as_bytes(), &mut entries);
        entries.insert(base.as_bytes().to_vec(), own);
        Snapshot(entries)
    }

    /// The paths that differ from `before` and that `touched` lacks.
    pub(crate) fn missing(&self, before: &Snapshot, touched: &TouchedSet) -> Vec<String> {
        let parents: BTreeSet<&[u8]> = touched.paths.iter().filter_map(|p| parent(p)).collect();
        let missing = self.changed(before).into_iter().filter(|path| {
            !(touched.contains(path)
                || parents.contains(path)
                || self.has_touched_name(path, touched)
                || before.has_touched_name(path, touched))
        });
        missing.map(|path| path.escape_ascii().to_string()).collect()
    }

    /// The paths that differ from `before`.
    pub(crate) fn changed<'a>(&'a self, before: &'a Snapshot) -> Vec<&'a [u8]> {
        let all: BTreeSet<&Vec<u8>> = self.0.keys().chain(before.0.keys()).collect();
        let differs = |path: &&Vec<u8>| self.0.get(*path) != before.0.get(*path);
        all.into_iter().filter(differs).map(Vec::as_slice).collect()
    }

    /// Whether another name of the same file was touched: whoever uses the set
    /// looks at all of them.
    fn has_touched_name(&self, path: &[u8], touched: &TouchedSet) -> bool {
        let Some(entry) = self.0.get(path) else { return false };
        entry.names > 1
            && self
                .0
                .iter()
                .any(|(name, other)| other.inode == entry.inode && touched.contains(name))
    }
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|byte| *byte == b'/').map(|end| &path[..end.max(1)])
}

const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// By handles: a tree can be deeper than a name can say.
fn walk(dir: &OwnedFd, path: &[u8], entries: &mut BTreeMap<Vec<u8>, Entry>) {
    for name in Dir::read_from(dir).unwrap() {
        let name = CString::from(name.unwrap().file_name());
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let slash: &[u8] = if path == b"/" { b"" } else { b"/" };
        let below = [path, slash, name.as_bytes()].concat();
        let found = entry(dir.as_fd(), &name);
        if FileType::from_raw_mode(found.mode) == FileType::Directory {
            walk(&openat(dir, &name, READ, Mode::empty()).unwrap(), &below, entries);
        }
        entries.insert(below, found);
    }
}

fn entry(dir: BorrowedFd<'_>, name: &std::ffi::CStr) -> Entry {
    let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    let kind = FileType::from_raw_mode(stat.st_mode);
    let opened = matches!(kind, FileType::RegularFile | FileType::Directory)
        .then(|| openat(dir, name, READ, Mode::empty()).unwrap());
    let content = match (&opened, kind) {
        (Some(file), FileType::RegularFile) => read(file),
        (_, FileType::Symlink) => readlinkat(dir, name, Vec::new()).unwrap().into_bytes(),
        _ => Vec::new(),
    };
    let is_dir = kind == FileType::Directory;
    Entry {
        inode: stat.st_ino,
        mode: stat.st_mode,
        owner: (stat.st_uid, stat.st_gid),
        device: stat.st_rdev,
        size: if is_dir { 0 } else { stat.st_size },
        #[cfg_attr(
            target_arch = "x86_64",
            expect(clippy::useless_conversion, reason = "u32 on aarch64")
        )]
        names: if is_dir { 0 } else { u64::from(stat.st_nlink) },
        modified: (stat.st_mtime, stat.st_mtime_nsec),
        attributes: opened.map(|file| attributes(&file)).unwrap_or_default(),
        content,
    }
}

/// The start is enough of a file that is mostly hole.
fn read(file: &OwnedFd) -> Vec<u8> {
    let mut content = Vec::new();
    let file = File::from(file.try_clone().unwrap());
    file.take(4 << 20).read_to_end(&mut content).unwrap();
    content
}

fn attributes(file: &OwnedFd) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 4096];
    let length = rustix::fs::flistxattr(file, names.as_mut_slice()).unwrap_or(0);
    let names = names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let name = String::from_utf8_lossy(name).into_owned();
        let mut value = vec![0; 4096];
        let length = rustix::fs::fgetxattr(file, name.as_str(), value.as_mut_slice()).unwrap_or(0);
        value.truncate(length);
        (name, value)
    };
    names.map(value).filter(|(name, _)| name != "security.selinux").collect()
}
