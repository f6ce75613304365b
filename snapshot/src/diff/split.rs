//! Takes a part of a difference out of the layer without losing sight of it.

use std::collections::{HashMap, HashSet};

use super::{Change, Difference};
use crate::ImagePath;

impl Difference {
    /// Takes the changes of paths that `leaves` names out of this difference, and gives them as one
    /// of their own, to be applied to an index after this one.
    ///
    /// A group of hard links of which the first name leaves has the first that stays in its place.
    #[must_use]
    pub fn split_off(&mut self, leaves: impl Fn(&ImagePath) -> bool) -> Self {
        let changes = std::mem::take(&mut self.changes);
        let (left, mut kept): (Vec<Change>, Vec<Change>) =
            changes.into_iter().partition(|change| leaves(change.path()));
        let mut left = Self { changes: left, ..Self::default() };
        let gone: HashSet<&ImagePath> = left
            .changes
            .iter()
            .filter(|change| matches!(change, Change::Put(put) if put.link_to.is_none()))
            .map(Change::path)
            .collect();
        let mut successors: HashMap<ImagePath, ImagePath> = HashMap::new();
        for change in &mut kept {
            let Change::Put(put) = change else { continue };
            let Some(first) = put.link_to.take_if(|first| gone.contains(first)) else {
                continue;
            };
            put.link_to = successors.get(&first).cloned();
            if put.link_to.is_none() {
                successors.insert(first, put.path.clone());
            }
        }
        for change in &mut left.changes {
            let Change::Put(put) = change else { continue };
            let first = put.link_to.as_ref().unwrap_or(&put.path);
            if let Some(successor) = successors.get(first) {
                put.link_to = Some(successor.clone());
            }
        }
        self.changes = kept;
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entry, Index, Kind, Put};

    fn path(text: &str) -> ImagePath {
        ImagePath::parse(text.as_bytes()).unwrap()
    }

    fn put(name: &str, link: Option<&str>) -> Change {
        let entry = Entry::new(Kind::File { size: 1 }, 0o644);
        Change::Put(Put { path: path(name), entry, link_to: link.map(path) })
    }

    #[test]
    fn links_go_to_the_first_name_that_stays() {
        let changes = vec![
            Change::Whiteout(path("/gone")),
            Change::Whiteout(path("/x/gone")),
            put("/a", None),
            put("/x/1", None),
            put("/x/2", Some("/x/1")),
            put("/y/1", Some("/x/1")),
            put("/y/2", Some("/x/1")),
            put("/z/1", None),
        ];
        let mut kept = Difference { changes, ..Difference::default() };
        let left = kept.split_off(|path| path.starts_with(&self::path("/x")));
        let want = [
            Change::Whiteout(path("/gone")),
            put("/a", None),
            put("/y/1", None),
            put("/y/2", Some("/y/1")),
            put("/z/1", None),
        ];
        assert_eq!(kept.changes, want);
        let want = [
            Change::Whiteout(path("/x/gone")),
            put("/x/1", Some("/y/1")),
            put("/x/2", Some("/y/1")),
        ];
        assert_eq!(left.changes, want);
        let mut index = Index::new();
        index.apply(&kept);
        index.apply(&left);
        let group: Vec<_> = index.names_linked_with(&path("/y/2")).cloned().collect();
        assert_eq!(group, ["/x/1", "/x/2", "/y/1", "/y/2"].map(path));
    }
}
