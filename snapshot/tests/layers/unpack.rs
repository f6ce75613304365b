//! A second opinion on what a layer means: applies an archive to a tree, with
//! none of the code under test.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use tar::{Archive, EntryType, Header};

use crate::sandbox::{make_fifo, set_mtime};

type Member<'a> = tar::Entry<'a, &'a [u8]>;
type Times = BTreeMap<PathBuf, (i64, i64)>;

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

pub(crate) fn unpack(archive: &[u8], root: &Path) {
    let mut directories = Times::new();
    let mut records = Records::new();
    for entry in Archive::new(archive).entries().unwrap().raw(true) {
        let mut entry = entry.unwrap();
        if entry.header().entry_type() == EntryType::XHeader {
            records = parse_records(&mut entry);
            continue;
        }
        apply(&mut entry, &std::mem::take(&mut records), root, &mut directories);
    }
    for (directory, (secs, nanos)) in directories.iter().filter(|(path, _)| path.is_dir()) {
        set_mtime(directory, *secs, *nanos);
    }
}

fn apply(entry: &mut Member<'_>, records: &Records, root: &Path, directories: &mut Times) {
    let told = |key: &[u8], field: Option<Vec<u8>>| {
        records.get(key).cloned().or(field).map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
    };
    let name = told(b"path", Some(entry.path_bytes().into_owned())).unwrap();
    let target = told(b"linkpath", entry.link_name_bytes().map(std::borrow::Cow::into_owned));
    let at: PathBuf = root.join(&name).components().collect();
    keep_times(&at, directories);
    if let Some(gone) = name.file_name().unwrap_or_default().as_bytes().strip_prefix(b".wh.") {
        return remove(&at.with_file_name(OsStr::from_bytes(gone)));
    }
    let linked = make(entry, target.as_deref(), &at, root);
    if !linked {
        set_metadata(entry.header(), records, &at, directories);
    }
}

/// `<length> <key>=<value>\n`; a value may hold any byte.
fn parse_records(entry: &mut Member<'_>) -> Records {
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).unwrap();
    let mut records = Records::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let space = rest.iter().position(|&b| b == b' ').unwrap();
        let length: usize = str::from_utf8(&rest[..space]).unwrap().parse().unwrap();
        let record = rest[space + 1..length].strip_suffix(b"\n").unwrap();
        let equals = record.iter().position(|&b| b == b'=').unwrap();
        records.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        rest = &rest[length..];
    }
    records
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

fn make(entry: &mut Member<'_>, target: Option<&Path>, at: &Path, root: &Path) -> bool {
    let kind = entry.header().entry_type();
    if let Ok(old) = at.symlink_metadata() {
        if kind == EntryType::Directory && old.is_dir() {
            return false;
        }
        remove(at);
    }
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
        EntryType::Char => {
            let (major, minor) = (entry.header().device_major(), entry.header().device_minor());
            let number = makedev(major.unwrap().unwrap(), minor.unwrap().unwrap());
            mknodat(CWD, at, FileType::CharacterDevice, Mode::empty(), number).unwrap();
        }
        other => panic!("{other:?} in a layer"),
    }
    kind == EntryType::Link
}

fn set_metadata(header: &Header, records: &Records, at: &Path, directories: &mut Times) {
    let mut mtime = (i64::try_from(header.mtime().unwrap()).unwrap(), 0);
    let number = |key: &[u8], field: u64| {
        records.get(key).map_or(field, |value| str::from_utf8(value).unwrap().parse().unwrap())
    };
    let (uid, gid) = (number(b"uid", header.uid().unwrap()), number(b"gid", header.gid().unwrap()));
    lchown(at, Some(uid.try_into().unwrap()), Some(gid.try_into().unwrap())).unwrap();
    if !at.is_symlink() {
        fs::set_permissions(at, fs::Permissions::from_mode(header.mode().unwrap())).unwrap();
        for old in xattr::list(at).unwrap() {
            xattr::remove(at, old).unwrap();
        }
    }
    for (key, value) in records {
        if key == b"mtime" {
            mtime = parse_time(str::from_utf8(value).unwrap());
        } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            xattr::set(at, OsStr::from_bytes(name), value).unwrap();
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
