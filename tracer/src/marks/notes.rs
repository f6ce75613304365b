//! From events to names.

use std::collections::{HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::inotify::{Event, ReadFlags, Reader};
use rustix::io::Errno;

use super::Paths;
use super::handles::{self, Files, Settled};
use crate::outcome::{Blindness, Touched, TouchedSet};
use crate::sys;

/// An entry of a marked directory.
pub(super) type Name = (i32, Box<[u8]>);

/// The queue of events, read without waiting.
pub(super) struct Queue {
    fd: OwnedFd,
    buffer: Box<[MaybeUninit<u8>]>,
    /// Those of fanotify name directories and files by handle.
    files: Option<Files>,
}

impl Queue {
    const SIZE: usize = 128 << 10;

    pub(super) fn of(queue: &OwnedFd, files: Option<Files>) -> Result<Queue, crate::Errno> {
        Ok(Queue { fd: sys::duplicate(queue)?, buffer: Queue::buffer(), files })
    }

    pub(super) fn buffer() -> Box<[MaybeUninit<u8>]> {
        vec![MaybeUninit::uninit(); Queue::SIZE].into()
    }

    /// Takes in all events that are there; answers how many.
    pub(super) fn read(&mut self, notes: &mut Notes) -> u64 {
        let before = notes.events;
        let end = match &mut self.files {
            None => read_marks(&self.fd, &mut self.buffer, notes),
            Some(files) => {
                notes.settled.get_or_insert_default();
                read_handles(&self.fd, &mut self.buffer, files, notes)
            }
        };
        if let Err(errno) = end {
            let why = format!("read: {}", crate::Errno(errno.raw_os_error()));
            notes.lose_sight(Blindness::Marks(why));
            notes.is_incomplete = true;
        }
        notes.events - before
    }

    /// Takes a mark off that is of no use any more: it would make everything slower that writes
    /// on its file system. Those on directories serve other commands as well; then it is not done, and what they
    /// have told still has to be read.
    pub(super) fn give_up(&self) -> bool {
        if self.files.is_some() {
            // As it was before, where the kernel refuses that.
            let _ = sys::notify::unmark_file_systems(self.fd.as_fd());
        }
        self.files.is_some()
    }

    /// Where the directories are that the notes speak of, where these are known by handle only.
    pub(super) fn settle(&mut self, notes: &mut Notes) {
        let Some(files) = &mut self.files else { return };
        match files.settle() {
            Ok(settled) => notes.settled = Some(settled),
            Err(why) => notes.lose_sight(why),
        }
        files.lost_links().for_each(|name| notes.suspect_link(name.clone()));
    }
}

fn read_marks(
    fd: &OwnedFd,
    buffer: &mut [MaybeUninit<u8>],
    notes: &mut Notes,
) -> Result<(), Errno> {
    let mut events = Reader::new(fd, buffer);
    loop {
        match events.next() {
            Ok(event) => notes.take(&event),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}

fn read_handles(
    fd: &OwnedFd,
    buffer: &mut [MaybeUninit<u8>],
    files: &mut Files,
    notes: &mut Notes,
) -> Result<(), Errno> {
    loop {
        match handles::read(fd, buffer) {
            Ok(bytes) if handles::take(bytes, files, notes) => {}
            Ok(_) => return Err(Errno::BADMSG),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(errno),
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
    /// Renames of which the first half was seen, by their cookie.
    under_way: HashMap<u32, Moving>,
    /// Names of files, and from which name each was moved there.
    moved: HashMap<Name, Name>,
    /// Marks whose directory is gone.
    gone: Vec<i32>,
    blind: Option<Unseen>,
    /// Whether events were lost, so that nobody knows where directories are.
    is_incomplete: bool,
    /// Reasons not to know, if the directory is one of the tree.
    doubts: HashMap<i32, Unseen>,
    /// Directories that are known by handle, and found at the end. There may be events of more:
    /// of new ones, which are reported as trees, and of those that are gone.
    settled: Option<Settled>,
    /// All that was told.
    events: u64,
    /// Of the tree.
    of_tree: u64,
    /// Different names among them.
    named: u64,
}

/// The first half of a rename.
#[derive(Debug)]
struct Moving {
    from: Name,
    /// Whether that name came, as in `came`.
    came: Option<bool>,
    /// From where it was moved there.
    before: Option<Name>,
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

    /// Whether nothing that may still come is of interest, but for where directories are: more was told of the
    /// tree than `budget`, or nobody knows what changed in any case. What the kernel tells by itself costs by the
    /// event; marks on directories, which tell the same name again and again for next to nothing, by the name.
    pub(super) fn are_over(&mut self, budget: u64) -> bool {
        let told = if self.settled.is_some() { self.of_tree } else { self.named };
        if told > budget {
            self.lose_sight(Blindness::Budget(budget));
        }
        self.blind.is_some()
    }

    pub(super) fn count(&mut self) {
        self.events += 1;
    }

    /// Events were lost.
    pub(super) fn overflow(&mut self) {
        self.is_incomplete = true;
        self.lose_sight(Blindness::QueueOverflow);
    }

    /// The metadata of a marked directory itself was set.
    pub(super) fn own(&mut self, directory: i32) {
        self.of_tree += 1;
        self.selves.insert(directory);
    }

    fn take(&mut self, event: &Event<'_>) {
        self.count();
        let what = event.events();
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            return self.overflow();
        }
        if what.contains(ReadFlags::UNMOUNT) {
            self.is_incomplete = true;
            return self.lose_sight(Blindness::Marks("the file system was unmounted".to_owned()));
        }
        if what.contains(ReadFlags::IGNORED) {
            return self.gone.push(event.wd());
        }
        match event.file_name() {
            None => self.own(event.wd()),
            Some(name) => self.entry(event.wd(), name.to_bytes(), what, event.cookie(), true),
        }
    }

    /// An entry of a directory. `may_link` is whether a name that comes may be
    /// that of an old file, and what happens in a directory that comes is
    /// unseen.
    pub(super) fn entry(
        &mut self,
        wd: i32,
        name: &[u8],
        what: ReadFlags,
        cookie: u32,
        may_link: bool,
    ) {
        self.of_tree += 1;
        let structure =
            ReadFlags::CREATE | ReadFlags::DELETE | ReadFlags::MOVED_FROM | ReadFlags::MOVED_TO;
        let is_structure = what.intersects(structure);
        if self.blind.is_some() {
            // They are marked for the next command in any case.
            if is_structure && what.contains(ReadFlags::ISDIR) {
                self.directory((wd, name.into()), what, may_link);
            }
            return;
        }
        let names = self.names.entry(wd).or_default();
        if !names.contains(name) {
            names.insert(name.into());
            self.named += 1;
        }
        if !is_structure && self.came.is_empty() && self.went.is_empty() {
            return;
        }
        let entry: Name = (wd, name.into());
        match (is_structure, what.contains(ReadFlags::ISDIR)) {
            (true, true) => self.directory(entry, what, may_link),
            (true, false) => self.file(entry, what, cookie, may_link),
            (false, _) => self.change(entry),
        }
    }

    /// The content or metadata behind a name, which may have gone while its
    /// file was open; another that has come there since is no excuse.
    fn change(&mut self, entry: Name) {
        if let Some(is_changed) = self.came.get_mut(&entry) {
            *is_changed = true;
        }
        if self.went.contains(&entry) {
            self.suspect_link(entry);
        }
    }

    /// A directory that was made has no mark, and no other can come from
    /// outside.
    fn directory(&mut self, entry: Name, what: ReadFlags, may_link: bool) {
        if what.contains(ReadFlags::CREATE) && may_link {
            self.suspect_link(entry.clone());
        }
        if !what.contains(ReadFlags::DELETE) {
            self.trees.insert(entry);
        }
    }

    fn file(&mut self, entry: Name, what: ReadFlags, cookie: u32, may_link: bool) {
        if what.contains(ReadFlags::CREATE) {
            if may_link {
                self.came.insert(entry, false);
            }
        } else if what.contains(ReadFlags::MOVED_FROM) {
            // A name that went may have been taken by a file of which nothing else is known: an exchange is
            // told as two renames, one after the other, though neither name was free.
            let came = self.came.get(&entry).copied();
            let came = came.or_else(|| self.went.contains(&entry).then_some(false));
            let before = self.moved.remove(&entry);
            self.under_way.insert(cookie, Moving { from: entry.clone(), came, before });
            self.lose(entry, true);
        } else if what.contains(ReadFlags::MOVED_TO) {
            // What had this name is gone without a word.
            self.lose(entry.clone(), false);
            let Some(Moving { from, came, before }) = self.under_way.remove(&cookie) else {
                self.came.insert(entry, true);
                return;
            };
            // There and back, or the second half of an exchange: then it is another file that comes back.
            if before.as_ref() == Some(&entry) && self.went.contains(&from) {
                self.suspect_link(entry.clone());
            }
            if let Some(is_changed) = came {
                self.came.insert(entry.clone(), is_changed);
            }
            self.moved.insert(entry, from);
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

    /// All below an entry of a directory.
    pub(super) fn tree(&mut self, directory: i32, name: &[u8]) {
        self.trees.insert((directory, name.into()));
    }

    fn suspect_link(&mut self, entry: Name) {
        if self.settled.is_some() {
            self.doubts.entry(entry.0).or_insert(Unseen::Link(entry));
        } else if self.blind.is_none() {
            self.turn_blind(Unseen::Link(entry));
        }
    }

    /// A reason not to know what changed, if the directory is one of the tree.
    pub(super) fn doubt(&mut self, directory: i32, why: Blindness) {
        self.doubts.entry(directory).or_insert(Unseen::Other(why));
    }

    pub(super) fn lose_sight(&mut self, blindness: Blindness) {
        // Worse than a name that came and went.
        if !matches!(self.blind, Some(Unseen::Other(_))) {
            self.turn_blind(Unseen::Other(blindness));
        }
    }

    /// Names are of no use any more, and there may be many.
    fn turn_blind(&mut self, why: Unseen) {
        self.blind = Some(why);
        (self.names, self.selves) = (HashMap::new(), HashSet::new());
        (self.came, self.went) = (HashMap::new(), HashSet::new());
        (self.under_way, self.moved) = (HashMap::new(), HashMap::new());
    }

    /// Says the same with the paths that the marks had at first, or that were found at the end.
    pub(super) fn conclude(mut self, marked: &Paths) -> Concluded {
        let settled = self.settled.take();
        let paths = settled.as_ref().map_or(marked, |settled| &settled.paths);
        let told = Told { paths, sees_others: settled.is_some() };
        let trees = told.trees(&self.trees);
        let is_others = |directory: &i32| {
            settled.as_ref().is_some_and(|settled| settled.others.contains(directory))
        };
        let mut doubts = self.doubts.into_iter().filter(|(directory, _)| !is_others(directory));
        let touched = match self.blind.or_else(|| doubts.next().map(|(_, why)| why)) {
            Some(Unseen::Other(why)) => Touched::Anything(why),
            Some(Unseen::Link((dir, name))) => {
                let dir = paths.get(&dir).map_or(b"(new directory)".as_slice(), Vec::as_slice);
                Touched::Anything(Blindness::UnseenLink(join(dir, &name)))
            }
            None => told
                .touched(&self.names, &self.selves, trees.as_deref())
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

/// Directories by their paths.
struct Told<'a> {
    paths: &'a Paths,
    sees_others: bool,
}

impl Told<'_> {
    /// The path of a directory; `None` where there should be one, `Some(None)` where not.
    fn directory(&self, number: i32) -> Option<Option<&Vec<u8>>> {
        match self.paths.get(&number) {
            Some(path) => Some(Some(path)),
            None => self.sees_others.then_some(None),
        }
    }

    fn trees(&self, names: &HashSet<Name>) -> Option<Vec<Vec<u8>>> {
        let mut trees = Vec::new();
        for (dir, name) in names {
            if let Some(dir) = self.directory(*dir)? {
                trees.push(join(dir, name));
            }
        }
        Some(trees)
    }

    fn touched(
        &self,
        names: &HashMap<i32, HashSet<Box<[u8]>>>,
        selves: &HashSet<i32>,
        trees: Option<&[Vec<u8>]>,
    ) -> Option<TouchedSet> {
        let mut set = TouchedSet::default();
        for (dir, names) in names {
            if let Some(dir) = self.directory(*dir)? {
                set.paths.extend(names.iter().map(|name| join(dir, name)));
            }
        }
        for dir in selves {
            set.paths.extend(self.directory(*dir)?.cloned());
        }
        set.trees.extend(trees?.iter().cloned());
        Some(set)
    }
}

fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    [dir, b"/", name].concat()
}

fn unknown_mark() -> Blindness {
    Blindness::Marks("an event came from a mark that nobody knows".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn above_the_budget_only_directories_are_kept() {
        let mut notes = Notes::default();
        let made = |notes: &mut Notes, name: &str, what| {
            notes.entry(1, name.as_bytes(), ReadFlags::CREATE | what, 0, false);
        };
        for name in ["a", "b", "a", "a"] {
            made(&mut notes, name, ReadFlags::empty());
            assert!(!notes.are_over(2), "the same name again is no more to look at");
        }
        made(&mut notes, "c", ReadFlags::empty());
        assert!(notes.are_over(2));
        made(&mut notes, "d", ReadFlags::empty());
        made(&mut notes, "n", ReadFlags::ISDIR);
        assert!(notes.names.is_empty() && notes.came.is_empty() && notes.are_over(2));
        let concluded = notes.conclude(&HashMap::from([(1, b"/dir".to_vec())]));
        assert_eq!(concluded.touched, Touched::Anything(Blindness::Budget(2)));
        assert_eq!(concluded.stale, Some(vec![b"/dir/n".to_vec()]), "to be marked");
    }
}
