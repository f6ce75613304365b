//! From suspects to changes.
//!
//! # The law
//!
//! The changes from [`Suspects::Only`] are those from
//! [`Suspects::Everything`], as long as the suspects name all that changed.
//! Both therefore end in the same comparison, in which a suspect named in
//! vain comes out unchanged.
//!
//! Three things widen a set of suspects: parents, whose times move with what
//! is in them; the contents of a directory that is gone; and all names of an
//! inode that has several, because a hard link in a layer can only point to a
//! file of the same layer.

mod candidates;
mod split;
mod verdict;

use std::os::fd::BorrowedFd;

use crate::{Entry, Error, Exclusions, ImagePath, Index, Seen};

/// Where changes may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suspects {
    /// Nowhere else. New directories are named one by one, or as trees.
    Only {
        /// Paths whose entry, content or metadata may have changed.
        paths: Vec<ImagePath>,
        /// Directories below which anything may have changed: moved ones.
        trees: Vec<ImagePath>,
    },
    /// Anywhere: the tree is walked.
    Everything,
}

/// A path as it goes into the layer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Put {
    /// Where.
    pub path: ImagePath,
    /// What.
    pub entry: Entry,
    /// An earlier put of the same layer with the same inode.
    pub link_to: Option<ImagePath>,
}

/// One entry of a layer. The derived order is the order of the archive:
/// whiteouts first, then directories before what is in them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// The path, and all below it, is gone.
    Whiteout(ImagePath),
    /// The path is new or different.
    Put(Put),
}

impl Change {
    /// Where.
    #[must_use]
    pub fn path(&self) -> &ImagePath {
        match self {
            Self::Whiteout(path) => path,
            Self::Put(put) => &put.path,
        }
    }
}

/// How the tree differs from the index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// The entries of the layer, sorted.
    pub changes: Vec<Change>,
    /// Sockets that were met: no layer can hold one.
    pub sockets: Vec<ImagePath>,
    /// How many paths were looked at.
    pub looked_at: usize,
    /// Unchanged, but with another inode or ctime than before.
    refreshed: Vec<(ImagePath, Option<Seen>)>,
    /// Foreign paths that are gone.
    forgotten: Vec<ImagePath>,
}

/// Compares the tree with the index, where the suspects say and exclusions
/// permit.
///
/// # Errors
/// [`Error::Tree`] where the tree cannot be read, [`Error::ReservedName`] for
/// a changed file named `.wh.*`, [`Error::Path`] for one too long to be named.
pub fn diff(
    root: BorrowedFd<'_>,
    index: &Index,
    suspects: &Suspects,
    exclusions: &Exclusions,
) -> Result<Difference, Error> {
    let gathered = candidates::gather(root, index, suspects, exclusions)?;
    let difference = verdict::judge(root, index, gathered)?;
    tracing::debug!(
        changes = difference.changes.len(),
        looked_at = difference.looked_at,
        "compared the tree"
    );
    for path in &difference.sockets {
        tracing::info!("{path} is a socket and is left out of the layer");
    }
    Ok(difference)
}

impl Index {
    /// Makes this the index of the tree with the difference applied.
    pub fn apply(&mut self, difference: &Difference) {
        for path in &difference.forgotten {
            self.remove(path);
        }
        for change in &difference.changes {
            match change {
                Change::Whiteout(path) => {
                    self.remove_tree(path);
                }
                Change::Put(put) => self.put(put),
            }
        }
        for (path, seen) in &difference.refreshed {
            if let Some(entry) = self.get_mut(path) {
                entry.seen = *seen;
            }
        }
    }

    fn put(&mut self, put: &Put) {
        if !put.entry.is_dir() {
            self.remove_tree(&put.path);
        }
        self.insert(put.path.clone(), put.entry.clone());
        if let Some(first) = &put.link_to {
            self.link(first, put.path.clone()).expect("a link's target is an earlier put");
        }
    }
}
