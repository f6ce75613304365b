//! What became of each path that was looked at.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::fd::BorrowedFd;

use super::candidates::Gathered;
use super::{Change, Difference, Put};
use crate::observe::fingerprint;
use crate::{Entry, Error, Fingerprint, ImagePath, Index, Inode, Kind, Observed};

pub(super) fn judge(
    root: BorrowedFd<'_>,
    index: &Index,
    gathered: Gathered,
) -> Result<Difference, Error> {
    let (sockets, present, absent) = sort_out(gathered.found);
    let mut verdict = Verdict { root, index, contents: HashMap::new(), puts: BTreeMap::new() };
    let mut refreshed = Vec::new();
    for (path, new) in &present {
        if !verdict.is_changed(path, new)?
            && index.get(path).is_some_and(|o| o.seen != new.entry.seen)
        {
            refreshed.push((path.clone(), new.entry.seen));
        }
    }
    let groups = inodes(&present);
    verdict.put_groups(&present, &groups);
    verdict.put_foreign_parents(&present);
    refreshed.retain(|(path, _)| !verdict.puts.contains_key(path));
    let (whiteouts, forgotten) = removed(index, &present, &absent);
    let mut changes: Vec<Change> = whiteouts.into_iter().map(Change::Whiteout).collect();
    changes.extend(verdict.into_changes(&present, &groups)?);
    Ok(Difference { changes, sockets, looked_at: gathered.looked_at, refreshed, forgotten })
}

type Present = BTreeMap<ImagePath, Observed>;
type Groups<'a> = HashMap<Inode, BTreeSet<&'a ImagePath>>;

/// Sockets, what the image will have, and what it will not; a socket is
/// absent from the image.
fn sort_out(
    found: BTreeMap<ImagePath, Option<Observed>>,
) -> (Vec<ImagePath>, Present, BTreeSet<ImagePath>) {
    let (mut sockets, mut present, mut absent) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
    for (path, observed) in found {
        match observed {
            Some(observed) if observed.entry.kind == Kind::Socket => {
                sockets.push(path.clone());
                absent.insert(path);
            }
            Some(observed) => {
                present.insert(path, observed);
            }
            None => {
                absent.insert(path);
            }
        }
    }
    (sockets, present, absent)
}

/// The names of each inode that has several, directories aside.
fn inodes(present: &Present) -> Groups<'_> {
    let mut groups: Groups<'_> = HashMap::new();
    for (path, observed) in present.iter().filter(|(_, o)| !o.entry.is_dir() && o.names > 1) {
        groups.entry(observed.inode).or_default().insert(path);
    }
    groups
}

struct Verdict<'a> {
    root: BorrowedFd<'a>,
    index: &'a Index,
    /// Contents read so far, so that an inode is read once.
    contents: HashMap<Inode, Fingerprint>,
    puts: BTreeMap<ImagePath, Option<Fingerprint>>,
}

impl Verdict<'_> {
    /// Whether a path that is present goes into the layer on its own account.
    fn is_changed(&mut self, path: &ImagePath, new: &Observed) -> Result<bool, Error> {
        let (changed, content) = match self.index.get(path) {
            // An image that never mentioned its root does not begin to.
            None => (!path.is_root(), None),
            Some(old) if self.index.vouches(old, new.glance) => (false, None),
            Some(old) if old.foreign || !old.same_metadata(&new.entry) => (true, None),
            Some(old) => self.compare_content(path, old, new)?,
        };
        if changed {
            self.puts.insert(path.clone(), content);
        }
        Ok(changed)
    }

    fn compare_content(
        &mut self,
        path: &ImagePath,
        old: &Entry,
        new: &Observed,
    ) -> Result<(bool, Option<Fingerprint>), Error> {
        if !matches!(new.entry.kind, Kind::File { .. }) {
            return Ok((false, None));
        }
        let Some(before) = old.fingerprint else { return Ok((true, None)) };
        let now = match self.contents.get(&new.inode) {
            Some(known) => *known,
            None => fingerprint(self.root, path)?,
        };
        self.contents.insert(new.inode, now);
        Ok((before != now, Some(now)))
    }

    /// A group goes into the layer whole, when one of its names does or when
    /// it is not the group it was.
    fn put_groups(&mut self, present: &Present, groups: &Groups<'_>) {
        let alone = BTreeSet::new();
        for (path, new) in present.iter().filter(|(_, new)| !new.entry.is_dir()) {
            let now = groups.get(&new.inode).unwrap_or(&alone);
            let survivors: BTreeSet<&ImagePath> = self
                .index
                .names_linked_with(path)
                .filter(|name| present.contains_key(name))
                .collect();
            let regrouped =
                self.index.contains(path) && partners(now, path).ne(partners(&survivors, path));
            let member_put = now.iter().any(|name| self.puts.contains_key(*name));
            if regrouped || member_put {
                self.puts.entry(path.clone()).or_default();
                for name in now {
                    self.puts.entry((*name).clone()).or_default();
                }
            }
        }
    }

    /// What goes into the layer needs its directories there; those of the
    /// executor's own image are in no layer yet.
    fn put_foreign_parents(&mut self, present: &Present) {
        let mut above = HashSet::new();
        for path in self.puts.keys() {
            // Once a directory is known, so are those above it.
            let unknown = path.ancestors().take_while(|up| !above.contains(up));
            let unknown: Vec<ImagePath> = unknown.collect();
            above.extend(unknown);
        }
        for path in above {
            let foreign = self.index.get(&path).is_some_and(|entry| entry.foreign);
            if foreign && present.contains_key(&path) {
                self.puts.entry(path).or_default();
            }
        }
    }

    fn into_changes(self, present: &Present, groups: &Groups<'_>) -> Result<Vec<Change>, Error> {
        self.puts.into_iter().map(|(path, content)| put(path, content, present, groups)).collect()
    }
}

fn put(
    path: ImagePath,
    fingerprint: Option<Fingerprint>,
    present: &Present,
    groups: &Groups<'_>,
) -> Result<Change, Error> {
    if path.file_name().is_some_and(|name| name.starts_with(b".wh.")) {
        return Err(Error::ReservedName(path));
    }
    let observed = present.get(&path).expect("only what is present is put");
    let first = groups.get(&observed.inode).and_then(BTreeSet::first);
    let link_to = first.filter(|first| **first != &path).map(|first| (*first).clone());
    let entry = Entry { fingerprint, ..observed.entry.clone() };
    Ok(Change::Put(Put { path, entry, link_to }))
}

/// The other names of a group.
fn partners<'a>(
    group: &'a BTreeSet<&'a ImagePath>,
    path: &'a ImagePath,
) -> impl Iterator<Item = &'a ImagePath> {
    group.iter().copied().filter(move |name| *name != path)
}

/// The topmost paths that are gone, and the foreign ones that are.
fn removed(
    index: &Index,
    present: &Present,
    absent: &BTreeSet<ImagePath>,
) -> (Vec<ImagePath>, Vec<ImagePath>) {
    let (mut whiteouts, mut forgotten) = (Vec::new(), Vec::new());
    let mut covered: Option<&ImagePath> = None;
    for path in absent {
        let Some(old) = index.get(path).filter(|old| !old.unwritten) else { continue };
        if old.foreign {
            forgotten.push(path.clone());
        } else if !covered.is_some_and(|top| path.starts_with(top)) && !is_replaced(path, present) {
            whiteouts.push(path.clone());
            covered = Some(path);
        }
    }
    (whiteouts, forgotten)
}

/// Whether something above is no directory any more, which removes all below.
fn is_replaced(path: &ImagePath, present: &Present) -> bool {
    path.ancestors().any(|up| present.get(&up).is_some_and(|new| !new.entry.is_dir()))
}
