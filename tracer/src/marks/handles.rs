//! The fanotify backend: one mark on the file system, directories known by
//! their handles.
//!
//! Nothing is looked at beforehand. A directory is looked for by its handle when it is first
//! named, because much that happens on a file system is none of the command's, and once more at
//! the end, for where it is by then. What is said in `marks` of paths at the start of a command
//! holds for those at its end as well: of the directories above a path that is not what it
//! was, the topmost one that came, went or moved did so in a directory that stayed where it is.
//!
//! It sees more than marks on directories do: what happens in a directory that
//! was just made, and link(2), which sets an attribute of the file before the
//! new name comes. A file that comes without that is new.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::inotify::ReadFlags;

use super::Paths;
use super::notes::{Name, Notes};
use crate::error::Errno;
use crate::outcome::Blindness;
use crate::sys::notify;

/// A file handle, type and bytes.
type Handle = Box<[u8]>;

/// What is known of the directories and files of one command.
#[derive(Debug)]
pub(super) struct Files {
    tree: Tree,
    /// Directories by number, so that events read like those of inotify.
    directories: HashMap<Handle, i32>,
    /// By number.
    whose: Vec<Whose>,
    /// Directories that were made. All that is in them is told with the topmost of them.
    made: HashSet<i32>,
    /// Directories that were removed.
    removed: HashSet<i32>,
    /// Where directories came or went that nobody knows otherwise.
    above: HashMap<i32, i32>,
    /// Files that were made.
    born: HashSet<Handle>,
    /// Files whose number of names changed, or other attributes behind no name.
    relinked: HashSet<Handle>,
    /// Old files that got a further name.
    linked: HashSet<Handle>,
    /// Old files that were changed, and under which name.
    changed: HashSet<(Handle, Name)>,
    /// Old files that lost a name, by its removal or to another one, and that name.
    unnamed: HashSet<(Handle, Name)>,
    renames: u32,
}

/// Whom a directory concerns: much that happens on a file system is none of the command's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Tree,
    Others,
    /// It was gone when it was looked for. Where it went from, or came to, may tell.
    Unknown,
}

/// What is known of directories by the end of a command.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Those of the tree that were not made by the command and are still there.
    pub(super) paths: Paths,
    /// Those of others.
    pub(super) others: HashSet<i32>,
}

impl Files {
    /// For a command that begins now.
    pub(super) fn of(tree: Tree) -> Files {
        Files {
            tree,
            directories: HashMap::new(),
            whose: Vec::new(),
            made: HashSet::new(),
            removed: HashSet::new(),
            above: HashMap::new(),
            born: HashSet::new(),
            relinked: HashSet::new(),
            linked: HashSet::new(),
            changed: HashSet::new(),
            unnamed: HashSet::new(),
            renames: 0,
        }
    }

    /// The number of a directory, the same each time.
    fn number(&mut self, handle: &[u8], whose: impl FnOnce(&Tree) -> Whose) -> i32 {
        if let Some(number) = self.directories.get(handle) {
            return *number;
        }
        let next = i32::try_from(self.whose.len()).unwrap_or(i32::MAX);
        self.directories.insert(handle.into(), next);
        self.whose.push(whose(&self.tree));
        next
    }

    fn directory(&mut self, handle: &[u8]) -> i32 {
        self.number(handle, |tree| match tree.find(handle) {
            Ok(Found::Inside(_)) => Whose::Tree,
            Ok(Found::Outside) => Whose::Others,
            // ENOMEM is also said of one that is being removed.
            Ok(Found::Gone) | Err(_) => Whose::Unknown,
        })
    }

    fn whose(&self, directory: i32) -> Whose {
        let index = usize::try_from(directory).ok();
        index.and_then(|index| self.whose.get(index)).copied().unwrap_or(Whose::Unknown)
    }

    /// A directory came into, or went from, another; its number.
    fn is_below(&mut self, handle: &[u8], parent: i32, is_made: bool) -> i32 {
        let whose = self.whose(parent);
        let number = self.number(handle, |_| whose);
        if self.whose(number) == Whose::Unknown {
            match (whose, usize::try_from(number)) {
                (Whose::Tree | Whose::Others, Ok(index)) => self.whose[index] = whose,
                _ => drop(self.above.insert(number, parent)),
            }
        }
        if is_made {
            self.made.insert(number);
        }
        number
    }

    /// Names under which old files with a further name were changed, and which they lost.
    ///
    /// The kernel puts an event together with an equal one that was not read yet, wherever that stands in the
    /// queue (`fanotify_merge` in its `fs/notify/fanotify/fanotify.c`), so the order of events says
    /// nothing here. A name that is still there leads to the file, and by it to its other names.
    pub(super) fn lost_links(&self) -> impl Iterator<Item = &Name> {
        let lost = self.changed.intersection(&self.unnamed);
        lost.filter(|(file, _)| self.linked.contains(file)).map(|(_, name)| name)
    }

    /// Where the directories are that were not made by the command and are still there: by the
    /// end of it, which is when the tree is looked at.
    pub(super) fn settle(&mut self) -> Result<Settled, Blindness> {
        // Should the tree be somewhere else by now, all of it was taken for others'.
        let root = self.tree.probe();
        root.map_err(|errno| Blindness::Marks(format!("the root of the tree: {errno}")))?;
        let mut settled = Settled::default();
        let mut refused = Vec::new();
        for (handle, number) in &self.directories {
            let Ok(index) = usize::try_from(*number) else { continue };
            if self.whose[index] == Whose::Others || self.made.contains(number) {
                continue;
            }
            match self.tree.find(handle) {
                Ok(Found::Inside(path)) => {
                    self.whose[index] = Whose::Tree;
                    settled.paths.insert(*number, path);
                }
                Ok(Found::Outside) => self.whose[index] = Whose::Others,
                // A handle dies otherwise, too: EXT4_IOC_SETVERSION needs no more than the owner.
                Ok(Found::Gone)
                    if self.whose[index] == Whose::Tree && !self.removed.contains(number) =>
                {
                    refused.push((*number, Errno(libc::ESTALE)));
                }
                Ok(Found::Gone) => {}
                Err(errno) => refused.push((*number, errno)),
            }
        }
        let numbers = self.directories.values().copied();
        settled.others = numbers.filter(|number| self.are_others(*number)).collect();
        match refused.iter().find(|(number, _)| !settled.others.contains(number)) {
            Some((_, errno)) => Err(Blindness::Marks(format!("a changed directory: {errno}"))),
            None => Ok(settled),
        }
    }

    /// Whether a directory is of the tree for no reason that is known.
    fn are_others(&self, mut directory: i32) -> bool {
        // Above each other in a circle they would be after moves only.
        for _ in 0..=self.above.len() {
            match (self.whose(directory), self.above.get(&directory)) {
                (Whose::Unknown, Some(parent)) => directory = *parent,
                (whose, _) => return whose == Whose::Others,
            }
        }
        false
    }
}

/// A tree, in which directories are found by their handles.
#[derive(Debug)]
pub(super) struct Tree {
    top: OwnedFd,
    /// What the kernel prints for it; empty for `/`.
    path: Vec<u8>,
}

/// Where a directory is.
enum Found {
    /// Relative to the tree's root: empty, or with a leading slash.
    Inside(Vec<u8>),
    Outside,
    /// Nowhere any more.
    Gone,
}

impl Tree {
    /// The tree below an open directory, which is not moved while it is in use.
    pub(super) fn below(top: OwnedFd) -> Result<Tree, Errno> {
        let path = printed(&top)?;
        Ok(Tree { top, path: if path == b"/" { Vec::new() } else { path } })
    }

    /// Whether the root itself is found by its handle.
    pub(super) fn probe(&self) -> Result<(), Errno> {
        let handle = notify::handle_of(self.top.as_fd())?;
        match self.find(&handle)? {
            Found::Inside(path) if path.is_empty() => Ok(()),
            Found::Inside(_) | Found::Outside | Found::Gone => Err(Errno(libc::EXDEV)),
        }
    }

    fn find(&self, handle: &[u8]) -> Result<Found, Errno> {
        let directory = match notify::open_handle(self.top.as_fd(), handle) {
            Err(Errno(libc::ESTALE)) => return Ok(Found::Gone),
            answer => answer?,
        };
        let path = printed(&directory)?;
        if path.ends_with(b" (deleted)") && !is_at(&directory, &path)? {
            return Ok(Found::Gone);
        }
        // `/` is the empty path here, and what the mount does not reach begins otherwise.
        let path = if path == b"/" { Vec::new() } else { path };
        Ok(match path.strip_prefix(self.path.as_slice()) {
            Some(rest) if rest.is_empty() || rest.starts_with(b"/") => Found::Inside(rest.to_vec()),
            Some(_) | None => Found::Outside,
        })
    }
}

/// The path that the kernel prints for an open file.
fn printed(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::readlink(link, Vec::new()) {
        Ok(path) => Ok(path.into_bytes()),
        Err(errno) => Err(Errno(errno.raw_os_error())),
    }
}

/// Whether a path leads to this file.
fn is_at(file: &OwnedFd, path: &[u8]) -> Result<bool, Errno> {
    let kernel = |errno: rustix::io::Errno| Errno(errno.raw_os_error());
    let own = rustix::fs::fstat(file).map_err(kernel)?;
    match rustix::fs::lstat(OsStr::from_bytes(path)) {
        Ok(found) => Ok((found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(false),
        Err(errno) => Err(kernel(errno)),
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
pub(super) fn take(mut bytes: &[u8], files: &mut Files, notes: &mut Notes) -> bool {
    while !bytes.is_empty() {
        let Some((event, rest)) = Event::parse(bytes) else { return false };
        notes.count();
        event.note(files, notes);
        bytes = rest;
    }
    true
}

/// What read(2) wrote into a buffer.
pub(super) fn read<'a>(
    queue: &OwnedFd,
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

    fn note(&self, files: &mut Files, notes: &mut Notes) {
        if self.mask & notify::OVERFLOW != 0 {
            return notes.overflow();
        }
        let is_directory = self.mask & notify::ON_DIRECTORY != 0;
        if let (false, Some(file), Some(name)) = (is_directory, self.file, self.entry) {
            self.remember(file, name, files);
        }
        let kind = if is_directory { ReadFlags::ISDIR } else { ReadFlags::empty() };
        match (self.entry, self.renamed) {
            (Some(old), Some(new)) => {
                files.renames = files.renames.wrapping_add(1);
                let halves = [(old, ReadFlags::MOVED_FROM), (new, ReadFlags::MOVED_TO)];
                for ((dir, name), what) in halves {
                    let dir = files.directory(dir);
                    if files.whose(dir) != Whose::Others {
                        notes.entry(dir, name, what | kind, files.renames, false);
                    }
                }
            }
            (Some((dir, name)), None) => {
                let dir = files.directory(dir);
                if let (true, Some(directory), true) = (is_directory, self.file, name != b".") {
                    self.comes_or_goes(directory, dir, files, notes, name);
                }
                match name {
                    _ if files.whose(dir) == Whose::Others => {}
                    b"." => notes.own(dir),
                    _ => self.entry(dir, name, kind, files, notes),
                }
            }
            (None, _) => self.nameless(files, notes),
        }
    }

    /// What happens to an old file by its names.
    fn remember(&self, file: &[u8], (dir, name): (&[u8], &[u8]), files: &mut Files) {
        if files.born.contains(file) {
            return;
        }
        let changes = self.mask & (notify::MODIFY | notify::ATTRIB | notify::CLOSE_WRITE) != 0;
        let goes = self.mask & notify::DELETE != 0 || self.renamed.is_some();
        let name = |files: &mut Files| (Handle::from(file), (files.directory(dir), name.into()));
        if changes {
            let name = name(files);
            files.changed.insert(name);
        }
        if goes {
            let name = name(files);
            files.unnamed.insert(name);
        }
    }

    /// A directory is new in another, or goes from it. What was in an older one that goes cannot
    /// be named any more.
    fn comes_or_goes(
        &self,
        directory: &[u8],
        parent: i32,
        files: &mut Files,
        notes: &mut Notes,
        name: &[u8],
    ) {
        let (comes, goes) = (self.mask & notify::CREATE != 0, self.mask & notify::DELETE != 0);
        if !comes && !goes {
            return;
        }
        let number = files.is_below(directory, parent, comes);
        if goes {
            files.removed.insert(number);
        }
        let was_made = files.directories.get(directory).is_some_and(|it| files.made.contains(it));
        if goes && !was_made && files.whose(parent) != Whose::Others {
            notes.tree(parent, name);
        }
    }

    /// Several events may have become one: what came before what went.
    fn entry(&self, dir: i32, name: &[u8], kind: ReadFlags, files: &mut Files, notes: &mut Notes) {
        let comes = self.mask & notify::CREATE != 0;
        let is_link = comes && kind.is_empty() && self.is_link(files);
        if let (true, Some(file)) = (is_link, self.file) {
            files.linked.insert(file.into());
        }
        for (bit, what) in [
            (notify::CREATE, ReadFlags::CREATE),
            (notify::MODIFY | notify::ATTRIB | notify::CLOSE_WRITE, ReadFlags::MODIFY),
            (notify::DELETE, ReadFlags::DELETE),
        ] {
            if self.mask & bit != 0 {
                notes.entry(dir, name, what | kind, 0, is_link);
            }
        }
        if is_overlay(self.mask, name) {
            notes.doubt(dir, Blindness::Marks(OVERLAY.to_owned()));
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
        let Some(file) = self.file else {
            return notes
                .lose_sight(Blindness::Marks("a file was told without its handle".to_owned()));
        };
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

/// Mounting an overlay makes this directory anew, whatever was there.
fn is_overlay(mask: u64, name: &[u8]) -> bool {
    let made = notify::CREATE | notify::ON_DIRECTORY;
    mask & made == made && name == b"work"
}

/// A little number of the kernel's.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<usize> {
    let field = bytes.get(at..at + size)?;
    match size {
        2 => Some(usize::from(u16::from_ne_bytes(field.try_into().ok()?))),
        _ => usize::try_from(u32::from_ne_bytes(field.try_into().ok()?)).ok(),
    }
}
