//! A second opinion on what a layer means: applies an archive to a tree, with
//! none of the code under test.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use tar::{Archive, EntryType};

use crate::sandbox::{make_fifo, set_mtime};

type Times = BTreeMap<PathBuf, (i64, i64)>;

pub(crate) fn unpack(archive: &[u8], root: &Path) {
    let mut directories = Times::new();
    for entry in Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = PathBuf::from(OsStr::from_bytes(&entry.path_bytes()));
        let at: PathBuf = root.join(&name).components().collect();
        keep_times(&at, &mut directories);
        if let Some(gone) = name.file_name().unwrap_or_default().as_bytes().strip_prefix(b".wh.") {
            remove(&at.with_file_name(OsStr::from_bytes(gone)));
            continue;
        }
        let linked = make(&mut entry, &at, root);
        if !linked {
            set_metadata(&mut entry, &at, &mut directories);
        }
    }
    for (directory, (secs, nanos)) in directories.iter().filter(|(path, _)| path.is_dir()) {
        set_mtime(directory, *secs, *nanos);
    }
}

fn keep_times(at: &Path, directories: &mut Times) {
    let parent = at.parent().unwrap();
    let old = fs::symlink_metadata(parent).unwrap();
    directories.entry(parent.to_owned()).or_insert((old.mtime(), old.mtime_nsec()));
}

fn remove(at: &Path) {
    if at.symlink_metadata().unwrap().is_dir() {
        fs::remove_dir_all(at).unwrap();
    } else {
        fs::remove_file(at).unwrap();
    }
}

fn make(entry: &mut tar::Entry<'_, &[u8]>, at: &Path, root: &Path) -> bool {
    let kind = entry.header().entry_type();
    if let Ok(old) = at.symlink_metadata() {
        if kind == EntryType::Directory && old.is_dir() {
            return false;
        }
        remove(at);
    }
    let target = entry.link_name_bytes().map(|bytes| PathBuf::from(OsStr::from_bytes(&bytes)));
    match kind {
        EntryType::Regular => {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            fs::write(at, content).unwrap();
        }
        EntryType::Directory => fs::create_dir(at).unwrap(),
        EntryType::Symlink => symlink(target.unwrap(), at).unwrap(),
        EntryType::Link => fs::hard_link(root.join(target.unwrap()), at).unwrap(),
        EntryType::Fifo => make_fifo(at),
        other => panic!("{other:?} in a layer"),
    }
    kind == EntryType::Link
}

fn set_metadata(entry: &mut tar::Entry<'_, &[u8]>, at: &Path, directories: &mut Times) {
    let header = entry.header().clone();
    let mut mtime = (i64::try_from(header.mtime().unwrap()).unwrap(), 0);
    let (uid, gid) = (header.uid().unwrap(), header.gid().unwrap());
    lchown(at, Some(uid.try_into().unwrap()), Some(gid.try_into().unwrap())).unwrap();
    if !at.is_symlink() {
        fs::set_permissions(at, fs::Permissions::from_mode(header.mode().unwrap())).unwrap();
        for old in xattr::list(at).unwrap() {
            xattr::remove(at, old).unwrap();
        }
    }
    for record in entry.pax_extensions().unwrap().into_iter().flatten().map(Result::unwrap) {
        if record.key_bytes() == b"mtime" {
            mtime = parse_time(record.value().unwrap());
        } else if let Some(name) = record.key_bytes().strip_prefix(b"SCHILY.xattr.") {
            xattr::set(at, OsStr::from_bytes(name), record.value_bytes()).unwrap();
        }
    }
    set_mtime(at, mtime.0, mtime.1);
    if header.entry_type() == EntryType::Directory {
        directories.insert(at.components().collect(), mtime);
    }
}

fn parse_time(text: &str) -> (i64, i64) {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let nanos: i64 = format!("{fraction:0<9}").parse().unwrap();
    let secs: i64 = whole.parse().unwrap();
    match (text.starts_with('-'), nanos) {
        (true, 1..) => (secs - 1, 1_000_000_000 - nanos),
        (true | false, _) => (secs, nanos),
    }
}
