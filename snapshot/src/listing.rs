//! Trees and changes as text, one line each, for people and for tests.
//!
//! A change is `+ /path` or `- /path`; a hard link is `+ /path => /first`.

use std::fmt::Write;

use crate::{Change, Entry, ImagePath, Index, Kind};

/// The changes of a layer, in its order.
#[must_use]
pub fn changes(changes: &[Change]) -> String {
    changes.iter().fold(String::new(), |mut text, change| {
        let line = match change {
            Change::Whiteout(path) => format!("- {path}"),
            Change::Put(put) => match &put.link_to {
                Some(first) => format!("+ {} => {first}", put.path),
                None => format!("+ {}", put.path),
            },
        };
        text.push_str(&line);
        text.push('\n');
        text
    })
}

/// All paths of an index, with all that a layer can say about them.
#[must_use]
pub fn tree(index: &Index) -> String {
    index.iter().fold(String::new(), |mut text, (path, entry)| {
        text.push_str(&line(path, entry));
        text.push('\n');
        text
    })
}

fn line(path: &ImagePath, entry: &Entry) -> String {
    let mut line = format!(
        "{path} {} {:04o} {}:{} {:?}",
        kind(&entry.kind),
        entry.mode,
        entry.uid,
        entry.gid,
        entry.mtime
    );
    for (name, value) in entry.xattrs.iter() {
        // Writing to a string cannot go wrong.
        let _ = write!(line, " {}={}", name.escape_ascii(), value.escape_ascii());
    }
    line
}

fn kind(kind: &Kind) -> String {
    match kind {
        Kind::File { size } => format!("file {size}"),
        Kind::Dir => "dir".to_owned(),
        Kind::Symlink { target } => format!("link {}", target.escape_ascii()),
        Kind::Fifo => "fifo".to_owned(),
        Kind::CharDevice { major, minor } => format!("char {major}:{minor}"),
        Kind::BlockDevice { major, minor } => format!("block {major}:{minor}"),
        Kind::Socket => "socket".to_owned(),
    }
}
