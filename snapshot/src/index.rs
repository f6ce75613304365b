//! What the tree was after the last step.
//!
//! A map from path to entry, in the order of a layer, and the groups of names
//! that share an inode. A million paths take less than 200 MB.

use std::collections::{BTreeSet, HashMap};

use crate::observe::Glance;
use crate::path_map::PathMap;
use crate::{Entry, Error, ImagePath, Kind, Seen, Timestamp};

/// How many symbolic links a look-up follows before it gives up, as in Linux.
const MAX_LINKS: usize = 40;

/// How much coarser than the clock a ctime may be, with room to spare: kernels
/// before 6.13 stamp files with the time of the last timer tick.
const TICK_MILLIS: u32 = 20;

/// The tree of the image.
#[derive(Debug, Clone, Default)]
pub struct Index {
    entries: PathMap,
    groups: HashMap<u32, BTreeSet<ImagePath>>,
    member: HashMap<ImagePath, u32>,
    next_group: u32,
    settled: Option<Timestamp>,
}

impl Index {
    /// An empty tree, without even a root directory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many paths there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no path at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry of a path.
    #[must_use]
    pub fn get(&self, path: &ImagePath) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// The entry of a path, to be changed in place.
    pub fn get_mut(&mut self, path: &ImagePath) -> Option<&mut Entry> {
        self.entries.get_mut(path)
    }

    /// Whether a path is known.
    #[must_use]
    pub fn contains(&self, path: &ImagePath) -> bool {
        self.entries.get(path).is_some()
    }

    /// Sets a path, which then shares its inode with no other. What was below
    /// it stays: see [`Index::remove_tree`].
    pub fn insert(&mut self, path: ImagePath, entry: Entry) {
        self.leave_group(&path);
        self.entries.insert(path, entry);
    }

    /// The next layer begins: whatever is set from now on is of that layer.
    pub fn begin_layer(&mut self) {
        self.entries.age();
    }

    /// Whether the layer that was begun last has set a path or something below it.
    #[must_use]
    pub fn is_of_this_layer(&self, path: &ImagePath) -> bool {
        self.entries.has_fresh_below(path)
    }

    /// Forgets one path, and nothing below it.
    pub fn remove(&mut self, path: &ImagePath) -> Option<Entry> {
        self.leave_group(path);
        self.entries.remove(path)
    }

    /// Forgets a path and everything below it; tells how many paths that were.
    pub fn remove_tree(&mut self, path: &ImagePath) -> usize {
        let doomed: Vec<ImagePath> = self.subtree(path).map(|(path, _)| path.clone()).collect();
        for path in &doomed {
            self.remove(path);
        }
        doomed.len()
    }

    /// All paths, in path order.
    pub fn iter(&self) -> impl Iterator<Item = (&ImagePath, &Entry)> {
        self.entries.iter()
    }

    /// A path, when known, and everything below it, in path order.
    pub fn subtree(&self, path: &ImagePath) -> impl Iterator<Item = (&ImagePath, &Entry)> {
        self.entries.from(path).take_while(move |(below, _)| below.starts_with(path))
    }

    /// What is directly in a directory, in path order; costs no more than
    /// that, however much is below.
    pub fn children(&self, dir: &ImagePath) -> impl Iterator<Item = (&ImagePath, &Entry)> {
        let mut rest = self.entries.after(dir);
        std::iter::from_fn(move || {
            loop {
                let (path, entry) = rest.next()?;
                let child = path.child_below(dir)?;
                if child == *path && !entry.is_dir() {
                    return Some((path, entry));
                }
                rest = self.entries.from(&child.after_subtree());
                if child == *path {
                    return Some((path, entry));
                }
            }
        })
    }

    /// All names of a path's inode, itself included, in path order; empty for
    /// a path that shares its inode with no other.
    pub fn names_linked_with(&self, path: &ImagePath) -> impl Iterator<Item = &ImagePath> {
        self.member.get(path).and_then(|group| self.groups.get(group)).into_iter().flatten()
    }

    /// Makes `new` a hard link to `existing`, with the same entry. What `new`
    /// was before is forgotten.
    ///
    /// # Errors
    /// [`Error::NoLinkTarget`] when `existing` is unknown or a directory.
    pub fn link(&mut self, existing: &ImagePath, new: ImagePath) -> Result<(), Error> {
        let Some(entry) = self.get(existing).filter(|entry| !entry.is_dir()).cloned() else {
            return Err(Error::NoLinkTarget { target: existing.clone(), name: new });
        };
        if *existing != new {
            self.insert(new.clone(), entry);
            let group = self.group_of(existing);
            self.groups.entry(group).or_default().insert(new.clone());
            self.member.insert(new, group);
        }
        Ok(())
    }

    /// Notes inode and ctime of a path, for all names of its inode: a further
    /// link moves the ctime of the first.
    pub fn record_seen(&mut self, path: &ImagePath, seen: Option<Seen>) {
        let mut names: Vec<ImagePath> = self.names_linked_with(path).cloned().collect();
        if names.is_empty() {
            names.push(path.clone());
        }
        for name in &names {
            if let Some(entry) = self.get_mut(name) {
                entry.seen = seen;
            }
        }
    }

    /// Says that at `now` (`CLOCK_REALTIME`) the tree was as this index has it
    /// and nobody was writing: call it before each step starts. A ctime
    /// older than this, by more than a timer tick, proves an unchanged file;
    /// one that is younger does not, and the content is compared. Without any
    /// call, contents are always compared.
    pub fn settle(&mut self, now: Timestamp) {
        self.settled = Some(now);
    }

    /// Whether a glance is enough to know that an entry did not change. A
    /// foreign one counts as untouched even where the clock proves nothing.
    pub(crate) fn vouches(&self, entry: &Entry, glance: Glance) -> bool {
        glance.matches(entry) && (entry.foreign || entry.seen.is_some_and(|seen| self.proves(seen)))
    }

    /// Forgets every inode and ctime, so that the next walk compares all content. Those of foreign
    /// entries stay: nothing else is known of them.
    pub fn distrust(&mut self) {
        let own = self.iter().filter(|(_, entry)| !entry.foreign);
        let paths: Vec<ImagePath> = own.map(|(path, _)| path.clone()).collect();
        for path in &paths {
            if let Some(entry) = self.get_mut(path) {
                entry.seen = None;
            }
        }
    }

    /// Whether a change after [`Index::settle`] would have moved this ctime.
    fn proves(&self, seen: Seen) -> bool {
        self.settled.is_some_and(|settled| seen.ctime().plus_millis(TICK_MILLIS) < settled)
    }

    /// The path with all symbolic links of its parents resolved, the last
    /// component left alone, as a process with this root would see it: `..` of
    /// a target stays inside. Components the index does not know are kept as
    /// they are.
    ///
    /// # Errors
    /// [`Error::TooManyLinks`] after 40 links; [`Error::Path`] where the
    /// result is too long.
    pub fn resolve_parent(&self, path: &ImagePath) -> Result<ImagePath, Error> {
        self.follow(path, false)
    }

    /// As [`Index::resolve_parent`], with the last component followed too.
    ///
    /// # Errors
    /// As [`Index::resolve_parent`].
    pub fn resolve(&self, path: &ImagePath) -> Result<ImagePath, Error> {
        self.follow(path, true)
    }

    fn follow(&self, path: &ImagePath, last_too: bool) -> Result<ImagePath, Error> {
        let mut pending: Vec<Box<[u8]>> = path.components().rev().map(Box::from).collect();
        let mut here = ImagePath::root();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if &*name == b".." {
                here = here.parent().unwrap_or(here);
                continue;
            }
            let next = here.join(&name).map_err(|why| Error::path(path, why))?;
            let followed = last_too || !pending.is_empty();
            let link = self.get(&next).filter(|_| followed).map(|entry| &entry.kind);
            let Some(Kind::Symlink { target }) = link else {
                here = next;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::TooManyLinks(path.clone()));
            }
            if target.starts_with(b"/") {
                here = ImagePath::root();
            }
            let names = target.split(|&b| b == b'/').rev();
            pending.extend(names.filter(|n| !matches!(*n, b"" | b".")).map(Box::from));
        }
        Ok(here)
    }

    fn group_of(&mut self, path: &ImagePath) -> u32 {
        if let Some(&group) = self.member.get(path) {
            return group;
        }
        let group = self.next_group;
        self.next_group += 1;
        self.member.insert(path.clone(), group);
        self.groups.insert(group, BTreeSet::from([path.clone()]));
        group
    }

    fn leave_group(&mut self, path: &ImagePath) {
        let Some(group) = self.member.remove(path) else { return };
        let Some(names) = self.groups.get_mut(&group) else { return };
        names.remove(path);
        let alone = names.first().filter(|_| names.len() == 1).cloned();
        if let Some(last) = alone {
            self.groups.remove(&group);
            self.member.remove(&last);
        }
    }
}
