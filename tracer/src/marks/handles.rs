//! The fanotify backend: one mark on the file system, directories known by
//! their handles.
//!
//! It sees more than marks on directories do: what happens in a directory that
//! was just made, and link(2), which sets an attribute of the file before the
//! new name comes. A file that comes without that is new.

use std::collections::{HashMap, HashSet};
use std::mem::MaybeUninit;

use rustix::fs::inotify::ReadFlags;

use super::notes::Notes;
use crate::outcome::Blindness;
use crate::sys::notify;

/// A file handle, type and bytes.
type Handle = Box<[u8]>;

/// Directories by number, so that events read like those of inotify.
#[derive(Debug, Default)]
pub(super) struct Handles {
    numbers: HashMap<Handle, i32>,
}

impl Handles {
    /// The number of a directory, the same each time.
    pub(super) fn number(&mut self, handle: &[u8]) -> i32 {
        if let Some(number) = self.numbers.get(handle) {
            return *number;
        }
        let next = i32::try_from(self.numbers.len()).unwrap_or(i32::MAX);
        self.numbers.insert(handle.into(), next);
        next
    }
}

impl Handles {
    /// The number of a directory, if it is one of these.
    fn among(&self, handle: &[u8], directories: &HashSet<i32>) -> Option<i32> {
        self.numbers.get(handle).copied().filter(|number| directories.contains(number))
    }
}

/// What is known of the files of one command.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Directories of the tree: those that were there, and those that came.
    /// Whatever happens in others is none of the command's.
    inside: HashSet<i32>,
    /// Files that were made.
    born: HashSet<Handle>,
    /// Files whose number of names changed, or other attributes behind no name.
    relinked: HashSet<Handle>,
    renames: u32,
}

impl Files {
    /// For a tree with these directories.
    pub(super) fn of(directories: impl Iterator<Item = i32>) -> Files {
        Files { inside: directories.collect(), ..Files::default() }
    }
}

/// One event.
#[derive(Debug, Default)]
struct Event<'a> {
    mask: u64,
    /// Directory and name; of a rename, the old.
    entry: Option<(&'a [u8], &'a [u8])>,
    /// Directory and new name of a rename.
    renamed: Option<(&'a [u8], &'a [u8])>,
    /// The file itself.
    file: Option<&'a [u8]>,
}

/// Takes in a buffer of events; false where it makes no sense.
pub(super) fn take(
    mut bytes: &[u8],
    handles: &mut Handles,
    files: &mut Files,
    notes: &mut Notes,
) -> bool {
    while !bytes.is_empty() {
        let Some((event, rest)) = Event::parse(bytes) else { return false };
        notes.count();
        event.note(handles, files, notes);
        bytes = rest;
    }
    true
}

/// What read(2) wrote into a buffer.
pub(super) fn read<'a>(
    queue: &std::os::fd::OwnedFd,
    buffer: &'a mut [MaybeUninit<u8>],
) -> rustix::io::Result<&'a [u8]> {
    rustix::io::read(queue, buffer).map(|(bytes, _)| &*bytes)
}

impl<'a> Event<'a> {
    /// `struct fanotify_event_metadata` and the records after it.
    fn parse(bytes: &'a [u8]) -> Option<(Event<'a>, &'a [u8])> {
        let length = number(bytes, 0, 4)?;
        let (event, rest) = (bytes.get(..length)?, &bytes[length..]);
        let mask = u64::from_ne_bytes(event.get(8..16)?.try_into().ok()?);
        let mut parsed = Event { mask, ..Event::default() };
        let mut records = event.get(number(event, 6, 2)?..)?;
        while !records.is_empty() {
            let length = number(records, 2, 2)?;
            let record = records.get(..length).filter(|record| record.len() >= 20)?;
            parsed.add(record)?;
            records = &records[length..];
        }
        Some((parsed, rest))
    }

    /// `struct fanotify_event_info_fid`: a header, the file system, the handle
    /// and perhaps a name.
    fn add(&mut self, record: &'a [u8]) -> Option<()> {
        const FID: u8 = 1;
        const DFID_NAME: u8 = 2;
        const DFID: u8 = 3;
        const OLD_DFID_NAME: u8 = 10;
        const NEW_DFID_NAME: u8 = 12;
        let end = 20 + number(record, 12, 4)?;
        // The handle's type comes before its bytes, as in `handle_of`.
        let (handle, name) = (record.get(16..end)?, record.get(end..)?);
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        match record[0] {
            FID => self.file = Some(handle),
            DFID_NAME | OLD_DFID_NAME => self.entry = Some((handle, name)),
            DFID => self.entry = Some((handle, b".")),
            NEW_DFID_NAME => self.renamed = Some((handle, name)),
            _ => {}
        }
        Some(())
    }

    fn note(&self, handles: &mut Handles, files: &mut Files, notes: &mut Notes) {
        if self.mask & notify::OVERFLOW != 0 {
            return notes.overflow();
        }
        let is_directory = self.mask & notify::ON_DIRECTORY != 0;
        let kind = if is_directory { ReadFlags::ISDIR } else { ReadFlags::empty() };
        match (self.entry, self.renamed) {
            (Some(old), Some(new)) => {
                files.renames = files.renames.wrapping_add(1);
                let halves = [(old, ReadFlags::MOVED_FROM), (new, ReadFlags::MOVED_TO)];
                for ((dir, name), what) in halves {
                    let Some(dir) = handles.among(dir, &files.inside) else { continue };
                    notes.entry(dir, name, what | kind, files.renames, false);
                    if what == ReadFlags::MOVED_TO {
                        self.comes_inside(handles, files);
                    }
                }
            }
            (Some((dir, name)), None) => {
                let Some(dir) = handles.among(dir, &files.inside) else { return };
                match name {
                    b"." => notes.own(dir),
                    _ => self.entry(dir, name, kind, handles, files, notes),
                }
            }
            (None, _) => self.nameless(files, notes),
        }
    }

    /// Several events may have become one: what came before what went.
    fn entry(
        &self,
        dir: i32,
        name: &[u8],
        kind: ReadFlags,
        handles: &mut Handles,
        files: &mut Files,
        notes: &mut Notes,
    ) {
        let comes = self.mask & notify::CREATE != 0;
        let is_link = comes && kind.is_empty() && self.is_link(files);
        for (bit, what) in [
            (notify::CREATE, ReadFlags::CREATE),
            (notify::MODIFY | notify::ATTRIB | notify::CLOSE_WRITE, ReadFlags::MODIFY),
            (notify::DELETE, ReadFlags::DELETE),
        ] {
            if self.mask & bit != 0 {
                notes.entry(dir, name, what | kind, 0, is_link);
            }
        }
        if comes {
            self.comes_inside(handles, files);
        }
        if is_overlay(self.mask, name) {
            notes.lose_sight(Blindness::Marks(OVERLAY.to_owned()));
        }
    }

    /// A directory that comes into the tree is part of it.
    fn comes_inside(&self, handles: &mut Handles, files: &mut Files) {
        if self.mask & notify::ON_DIRECTORY == 0 {
            return;
        }
        if let Some(directory) = self.file {
            files.inside.insert(handles.number(directory));
        }
    }

    /// Whether a file that comes was there before under another name.
    fn is_link(&self, files: &mut Files) -> bool {
        let Some(file) = self.file else { return true };
        if files.relinked.contains(file) && !files.born.contains(file) {
            return true;
        }
        files.born.insert(file.into());
        false
    }

    /// The attribute of a file that link(2) and unlink(2) set; anything else
    /// was done to a file that was opened under no name.
    fn nameless(&self, files: &mut Files, notes: &mut Notes) {
        let Some(file) = self.file else { return };
        if files.born.contains(file) {
            return;
        }
        files.relinked.insert(file.into());
        if self.mask & (notify::MODIFY | notify::CLOSE_WRITE) != 0 {
            notes.lose_sight(Blindness::Marks("a file was changed under no name".to_owned()));
        }
    }
}

const OVERLAY: &str = "an overlay may have been mounted, which writes without events";

/// Mounting an overlay makes one of these directories, whatever was there.
fn is_overlay(mask: u64, name: &[u8]) -> bool {
    let made = notify::CREATE | notify::ON_DIRECTORY;
    mask & made == made && matches!(name, b"work" | b"index")
}

/// A little number of the kernel's.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<usize> {
    let field = bytes.get(at..at + size)?;
    match size {
        2 => Some(usize::from(u16::from_ne_bytes(field.try_into().ok()?))),
        _ => usize::try_from(u32::from_ne_bytes(field.try_into().ok()?)).ok(),
    }
}
