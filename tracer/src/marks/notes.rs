//! From events to names.

use std::collections::{HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::inotify::{Event, ReadFlags, Reader};
use rustix::io::Errno;

use super::Paths;
use crate::outcome::{Blindness, Touched, TouchedSet};
use crate::sys;

/// An entry of a marked directory.
type Name = (i32, Box<[u8]>);

/// The queue of events, read without waiting.
pub(super) struct Queue {
    fd: OwnedFd,
    buffer: Box<[MaybeUninit<u8>]>,
}

impl Queue {
    const SIZE: usize = 128 << 10;

    pub(super) fn of(queue: &OwnedFd) -> Result<Queue, crate::Errno> {
        Ok(Queue { fd: sys::duplicate(queue)?, buffer: Queue::buffer() })
    }

    pub(super) fn buffer() -> Box<[MaybeUninit<u8>]> {
        vec![MaybeUninit::uninit(); Queue::SIZE].into()
    }

    /// Takes in all events that are there; answers how many.
    pub(super) fn read(&mut self, notes: &mut Notes) -> u64 {
        let before = notes.events;
        let mut events = Reader::new(self.fd.as_fd(), &mut self.buffer);
        loop {
            match events.next() {
                Ok(event) => notes.take(&event),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return notes.events - before,
                Err(errno) => {
                    let why = format!("read: {}", crate::Errno(errno.raw_os_error()));
                    notes.lose_sight(Blindness::Marks(why));
                    notes.is_incomplete = true;
                    return notes.events - before;
                }
            }
        }
    }
}

/// What the events said.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Entries that came, went, or were changed.
    names: HashMap<i32, HashSet<Box<[u8]>>>,
    /// Directories whose own metadata was set.
    selves: HashSet<i32>,
    /// Directories that were made, or renamed, under all their names.
    trees: HashSet<Name>,
    /// Names of files that came, each perhaps a further name of an old file,
    /// and whether that was changed since.
    came: HashMap<Name, bool>,
    /// Those of them that went, before the file was changed.
    went: HashSet<Name>,
    /// Renames of which the first half was seen; whether that name came, as in
    /// `came`.
    under_way: HashMap<u32, Option<bool>>,
    /// Marks whose directory is gone.
    gone: Vec<i32>,
    blind: Option<Unseen>,
    /// Whether events were lost, so that nobody knows where directories are.
    is_incomplete: bool,
    events: u64,
}

/// The first reason not to know what changed.
#[derive(Debug)]
enum Unseen {
    /// A name came and went.
    Link(Name),
    Other(Blindness),
}

impl Notes {
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    fn take(&mut self, event: &Event<'_>) {
        self.events += 1;
        let what = event.events();
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.is_incomplete = true;
            return self.lose_sight(Blindness::QueueOverflow);
        }
        if what.contains(ReadFlags::UNMOUNT) {
            self.is_incomplete = true;
            return self.lose_sight(Blindness::Marks("the file system was unmounted".to_owned()));
        }
        if what.contains(ReadFlags::IGNORED) {
            return self.gone.push(event.wd());
        }
        match event.file_name() {
            None => drop(self.selves.insert(event.wd())),
            Some(name) => self.entry(event.wd(), name.to_bytes(), what, event.cookie()),
        }
    }

    fn entry(&mut self, wd: i32, name: &[u8], what: ReadFlags, cookie: u32) {
        if self.blind.is_none() {
            let names = self.names.entry(wd).or_default();
            if !names.contains(name) {
                names.insert(name.into());
            }
        }
        let structure =
            ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
        let is_structure = what.intersects(structure);
        if !is_structure && self.came.is_empty() && self.went.is_empty() {
            return;
        }
        let entry: Name = (wd, name.into());
        match (is_structure, what.contains(ReadFlags::ISDIR)) {
            (true, true) => self.directory(entry, what),
            (true, false) => self.file(entry, what, cookie),
            (false, _) => self.change(entry),
        }
    }

    /// The content or metadata behind a name, which may have gone while its
    /// file was open.
    fn change(&mut self, entry: Name) {
        if let Some(is_changed) = self.came.get_mut(&entry) {
            *is_changed = true;
        } else if self.went.contains(&entry) {
            self.suspect_link(entry);
        }
    }

    /// A directory that was made has no mark, and no other can come from
    /// outside.
    fn directory(&mut self, entry: Name, what: ReadFlags) {
        if what.contains(ReadFlags::CREATE) {
            self.suspect_link(entry.clone());
        }
        if !what.contains(ReadFlags::DELETE) {
            self.trees.insert(entry);
        }
    }

    fn file(&mut self, entry: Name, what: ReadFlags, cookie: u32) {
        if what.contains(ReadFlags::CREATE) {
            self.came.insert(entry, false);
        } else if what.contains(ReadFlags::MOVED_FROM) {
            self.under_way.insert(cookie, self.came.get(&entry).copied());
            self.lose(entry, true);
        } else if what.contains(ReadFlags::MOVED_TO) {
            // What had this name is gone without a word.
            self.lose(entry.clone(), false);
            if let Some(is_changed) = self.under_way.remove(&cookie).unwrap_or(Some(true)) {
                self.came.insert(entry, is_changed);
            }
        } else {
            self.lose(entry, false);
        }
    }

    /// A name goes; where `moves`, its file gets another at once.
    fn lose(&mut self, entry: Name, moves: bool) {
        match self.came.remove(&entry) {
            Some(true) if !moves => self.suspect_link(entry),
            Some(_) => drop(self.went.insert(entry)),
            None => {}
        }
    }

    fn suspect_link(&mut self, entry: Name) {
        if self.blind.is_none() {
            self.blind = Some(Unseen::Link(entry));
        }
    }

    fn lose_sight(&mut self, blindness: Blindness) {
        // Worse than a name that came and went.
        if !matches!(self.blind, Some(Unseen::Other(_))) {
            self.blind = Some(Unseen::Other(blindness));
        }
    }

    /// Says the same with the paths that the marks had at first.
    pub(super) fn conclude(self, paths: &Paths) -> Concluded {
        let trees: Option<Vec<_>> = self.trees.iter().map(|name| path_of(paths, name)).collect();
        let touched = match self.blind {
            Some(Unseen::Other(why)) => Touched::Anything(why),
            Some(Unseen::Link(name)) => {
                Touched::Anything(Blindness::UnseenLink(path_of(paths, &name).unwrap_or_default()))
            }
            None => touched(paths, &self.names, &self.selves, trees.as_deref())
                .map_or_else(|| Touched::Anything(unknown_mark()), Touched::Only),
        };
        Concluded { touched, stale: trees.filter(|_| !self.is_incomplete), gone: self.gone }
    }
}

/// What follows from the notes.
pub(super) struct Concluded {
    pub(super) touched: Touched,
    /// Trees whose directories have to be marked anew; none if that may be any.
    pub(super) stale: Option<Vec<Vec<u8>>>,
    /// Marks that are gone with their directory.
    pub(super) gone: Vec<i32>,
}

fn touched(
    paths: &Paths,
    names: &HashMap<i32, HashSet<Box<[u8]>>>,
    selves: &HashSet<i32>,
    trees: Option<&[Vec<u8>]>,
) -> Option<TouchedSet> {
    let mut set = TouchedSet::default();
    for (wd, names) in names {
        let dir = paths.get(wd)?;
        set.paths.extend(names.iter().map(|name| join(dir, name)));
    }
    for wd in selves {
        set.paths.insert(paths.get(wd)?.clone());
    }
    set.trees.extend(trees?.iter().cloned());
    Some(set)
}

fn path_of(paths: &Paths, (wd, name): &Name) -> Option<Vec<u8>> {
    paths.get(wd).map(|dir| join(dir, name))
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    [dir, b"/", name].concat()
}

fn unknown_mark() -> Blindness {
    Blindness::Marks("an event came from a mark that nobody knows".to_owned())
}
