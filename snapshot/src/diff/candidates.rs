//! Which paths have to be looked at, and what is there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::BorrowedFd;

use crate::observe::Observer;
use crate::walk::{Judge, walk};
use crate::{Error, Exclusions, ImagePath, Index, Inode, Observed, Suspects};

/// Everything that was looked at; none where nothing is on disk.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) found: BTreeMap<ImagePath, Option<Observed>>,
    pub(super) looked_at: usize,
}

pub(super) fn gather(
    root: BorrowedFd<'_>,
    index: &Index,
    suspects: &Suspects,
    exclusions: &Exclusions,
) -> Result<Gathered, Error> {
    let mut gatherer = Gatherer {
        index,
        exclusions,
        observer: Observer::new(root),
        pending: BTreeSet::new(),
        found: BTreeMap::new(),
        searched: HashSet::new(),
    };
    let looked_at = gatherer.start(root, suspects)?;
    gatherer.pending.insert(ImagePath::root());
    while !gatherer.pending.is_empty() {
        gatherer.look()?;
        gatherer.search_missing_names();
    }
    Ok(Gathered { looked_at: looked_at.max(gatherer.found.len()), found: gatherer.found })
}

struct Gatherer<'a> {
    index: &'a Index,
    exclusions: &'a Exclusions,
    observer: Observer<'a>,
    pending: BTreeSet<ImagePath>,
    found: BTreeMap<ImagePath, Option<Observed>>,
    /// Inodes whose other names were searched already.
    searched: HashSet<Inode>,
}

impl Gatherer<'_> {
    /// Takes the suspects as they are given; tells how many names a walk met.
    fn start(&mut self, root: BorrowedFd<'_>, suspects: &Suspects) -> Result<usize, Error> {
        let mut walk_below = |start: &ImagePath, judge| -> Result<usize, Error> {
            let walked = walk(root, start, self.index, self.exclusions, judge)?;
            self.pending.extend(walked.suspects);
            Ok(walked.looked_at)
        };
        match suspects {
            Suspects::Everything => walk_below(&ImagePath::root(), Judge::Changed),
            Suspects::Only { paths, trees } => {
                let mut met = 0;
                for tree in trees.iter().filter(|tree| !self.exclusions.covers(tree)) {
                    met += walk_below(tree, Judge::All)?;
                }
                paths.iter().for_each(|path| self.suspect(path));
                trees.iter().for_each(|tree| self.suspect_tree(tree));
                Ok(met)
            }
        }
    }

    fn suspect(&mut self, path: &ImagePath) {
        if !self.found.contains_key(path) && !self.exclusions.covers(path) {
            self.pending.insert(path.clone());
        }
    }

    /// Everything the index has at a path and below it.
    fn suspect_tree(&mut self, path: &ImagePath) {
        self.suspect(path);
        let index = self.index;
        index.subtree(path).for_each(|(below, _)| self.suspect(below));
    }

    fn look(&mut self) -> Result<(), Error> {
        while let Some(path) = self.pending.pop_first() {
            if self.found.contains_key(&path) {
                continue;
            }
            let observed = self.observer.observe(&path)?;
            self.widen(&path, observed.as_ref());
            self.found.insert(path, observed);
        }
        Ok(())
    }

    fn widen(&mut self, path: &ImagePath, observed: Option<&Observed>) {
        if let Some(parent) = path.parent() {
            self.suspect(&parent);
        }
        let index = self.index;
        index.names_linked_with(path).for_each(|name| self.suspect(name));
        let Some(old) = index.get(path).filter(|old| old.is_dir()) else { return };
        let same_directory = observed.is_some_and(|new| {
            new.entry.is_dir() && old.seen.is_none_or(|seen| seen.ino() == new.inode.ino)
        });
        if !same_directory {
            self.suspect_tree(path);
        }
    }

    /// Linking a file that had one name touches the new name and the inode,
    /// and a tracer may name only the first: the inode number tells the rest.
    fn search_missing_names(&mut self) {
        let mut named: HashMap<Inode, u64> = HashMap::new();
        for observed in self.found.values().flatten().filter(|seen| !seen.entry.is_dir()) {
            *named.entry(observed.inode).or_default() += 1;
        }
        let incomplete = self.found.values().flatten().filter(|observed| {
            named.get(&observed.inode).is_some_and(|&names| names < observed.names)
        });
        let inodes: HashSet<Inode> =
            incomplete.map(|o| o.inode).filter(|inode| self.searched.insert(*inode)).collect();
        if inodes.is_empty() {
            return;
        }
        let numbers: HashSet<u64> = inodes.iter().map(|inode| inode.ino).collect();
        let index = self.index;
        for (path, _) in index.iter().filter(|(_, entry)| {
            !entry.is_dir() && entry.seen.is_some_and(|seen| numbers.contains(&seen.ino()))
        }) {
            self.suspect(path);
        }
    }
}
