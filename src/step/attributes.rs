//! What a file that is copied says of itself.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{FileType, Stat};
use snapshot::{Kind, Timestamp};

/// What kind of thing it is, in words.
pub(super) fn named(kind: &Kind) -> &'static str {
    match kind {
        Kind::File { .. } => "a file",
        Kind::Dir => "a directory",
        Kind::Symlink { .. } => "a symbolic link",
        Kind::Fifo => "a FIFO",
        Kind::CharDevice { .. } | Kind::BlockDevice { .. } => "a device",
        Kind::Socket => "a socket",
    }
}

/// The FIFO or device that a stat tells of.
pub(super) fn node(kind: FileType, stat: &Stat) -> Kind {
    let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    match kind {
        FileType::CharacterDevice => Kind::CharDevice { major, minor },
        FileType::BlockDevice => Kind::BlockDevice { major, minor },
        _ => Kind::Fifo,
    }
}

/// When its content changed last.
pub(super) fn mtime(stat: &Stat) -> Timestamp {
    Timestamp::new(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

/// The extended attributes that belong to the file and not to the machine it lies on.
pub(super) fn xattrs_of(file: &File) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    use xattr::FileExt as _;
    let names = match file.list_xattr() {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for name in names {
        let bytes = name.as_bytes();
        if !snapshot::belongs_to_image(bytes) {
            continue;
        }
        if let Some(value) = file.get_xattr(&name)? {
            found.push((bytes.to_vec(), value));
        }
    }
    Ok(found)
}
