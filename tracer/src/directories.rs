//! The directories that names may lead through without a look at them.
//!
//! Calls are seen before they happen. What is forgotten for one call could be
//! learned again by another thread's before the first has happened; so what
//! was forgotten once is not learned again.

use std::collections::{BTreeSet, HashSet};
use std::ops::Bound;

use crate::outcome::is_within;

/// Names that were found to be no links, so that the kernel will take them as
/// they are.
#[derive(Debug, Default)]
pub(crate) struct Directories {
    known: BTreeSet<Vec<u8>>,
    volatile: HashSet<Vec<u8>>,
}

impl Directories {
    pub(crate) fn contains(&self, path: &[u8]) -> bool {
        self.known.contains(path)
    }

    /// Learns a name and its parents.
    pub(crate) fn add(&mut self, path: &[u8]) {
        let mut path = path;
        while !path.is_empty() && !self.is_volatile(path) && self.known.insert(path.to_vec()) {
            let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            path = &path[..end];
        }
    }

    fn is_volatile(&self, path: &[u8]) -> bool {
        !self.volatile.is_empty()
            && (self.volatile.contains(path)
                || path.iter().enumerate().any(|(end, byte)| {
                    *byte == b'/' && end > 0 && self.volatile.contains(&path[..end])
                }))
    }

    /// Every known name has its parents known, so that an unknown one has
    /// nothing known below.
    pub(crate) fn forget(&mut self, path: &[u8]) {
        // Known or not: the call that makes us forget has not happened yet, and another thread could
        // have us learn the name before it does.
        if !self.volatile.contains(path) {
            self.volatile.insert(path.to_vec());
        }
        if !self.known.contains(path) {
            return;
        }
        let from = (Bound::Included(path.to_vec()), Bound::Unbounded);
        let below: Vec<_> = self
            .known
            .range(from)
            .take_while(|known| known.starts_with(path))
            .filter(|known| is_within(known, path))
            .cloned()
            .collect();
        for known in below {
            self.known.remove(&known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_is_not_learned_again() {
        let mut directories = Directories::default();
        for path in ["/a", "/a/b", "/a/b/c", "/a/bc", "/d"] {
            directories.add(path.as_bytes());
        }
        directories.forget(b"/a/b");
        directories.add(b"/a/b/c");
        // Not known yet: by the time it is, the call may not have happened.
        directories.forget(b"/e/f");
        directories.add(b"/e/f/g");
        let known: Vec<_> =
            directories.known.iter().map(|p| p.escape_ascii().to_string()).collect();
        assert_eq!(known, ["/a", "/a/bc", "/d"]);
        assert!(directories.is_volatile(b"/a/b/c") && !directories.is_volatile(b"/a/bc"));
    }
}
