//! Paths and their entries, in path order, in little memory.
//!
//! Trees come in order, and a B-tree that grows in order stays half empty. Here entries lie in
//! slots, one behind the other, and the order is a list of runs of slot numbers: beyond path
//! and entry, a path costs some six bytes.

use crate::{Entry, ImagePath};

/// Slots that are allocated at once.
const BLOCK: usize = 256;
/// The longest run.
const RUN: usize = 1024;

/// A map from path to entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct PathMap {
    /// Slots by number; what was removed is none.
    blocks: Vec<Vec<Option<Slot>>>,
    /// Numbers of slots that are none.
    free: Vec<u32>,
    /// Slot numbers in path order. No run is empty.
    runs: Vec<Vec<u32>>,
    /// A bit for each slot: whether it was set since [`PathMap::age`].
    fresh: Vec<u64>,
}

#[derive(Debug, Clone)]
struct Slot {
    path: ImagePath,
    entry: Entry,
}

/// A place in the order.
#[derive(Debug, Clone, Copy)]
struct Position {
    run: usize,
    at: usize,
}

impl PathMap {
    pub(crate) fn len(&self) -> usize {
        let slots =
            self.blocks.last().map_or(0, |last| (self.blocks.len() - 1) * BLOCK + last.len());
        slots - self.free.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    pub(crate) fn get(&self, path: &ImagePath) -> Option<&Entry> {
        let position = self.find(path).ok()?;
        Some(&self.slot(self.number(position)).entry)
    }

    pub(crate) fn get_mut(&mut self, path: &ImagePath) -> Option<&mut Entry> {
        let number = self.number(self.find(path).ok()?);
        Some(&mut self.slot_mut(number).entry)
    }

    /// Sets the entry of a path, whether it had one or not.
    pub(crate) fn insert(&mut self, path: ImagePath, entry: Entry) {
        let number = match self.find(&path) {
            Ok(position) => {
                let number = self.number(position);
                self.slot_mut(number).entry = entry;
                number
            }
            Err(position) => {
                let number = self.occupy(Slot { path, entry });
                self.insert_at(position, number);
                number
            }
        };
        let (word, bit) = bit(number);
        self.fresh.resize(self.fresh.len().max(word + 1), 0);
        self.fresh[word] |= bit;
    }

    /// Makes everything old.
    pub(crate) fn age(&mut self) {
        self.fresh.clear();
    }

    /// Whether the path, or one below it, was set since everything was made old.
    pub(crate) fn has_fresh_below(&self, path: &ImagePath) -> bool {
        let mut paths = self.from(path);
        while let Some(number) = paths.next_number() {
            if !self.path(number).starts_with(path) {
                return false;
            }
            let (word, bit) = bit(number);
            if self.fresh.get(word).is_some_and(|word| word & bit != 0) {
                return true;
            }
        }
        false
    }

    pub(crate) fn remove(&mut self, path: &ImagePath) -> Option<Entry> {
        let Position { run, at } = self.find(path).ok()?;
        let number = self.runs[run].remove(at);
        if self.runs[run].is_empty() {
            self.runs.remove(run);
        }
        self.free.push(number);
        let (word, bit) = bit(number);
        if let Some(word) = self.fresh.get_mut(word) {
            *word &= !bit;
        }
        let (block, within) = place(number);
        self.blocks[block][within].take().map(|slot| slot.entry)
    }

    /// All paths.
    pub(crate) fn iter(&self) -> Paths<'_> {
        Paths { map: self, next: Position { run: 0, at: 0 } }
    }

    /// The path, if there, and all behind it.
    pub(crate) fn from(&self, path: &ImagePath) -> Paths<'_> {
        Paths { map: self, next: self.find(path).unwrap_or_else(|position| position) }
    }

    /// All behind the path.
    pub(crate) fn after(&self, path: &ImagePath) -> Paths<'_> {
        let next = self.find(path).map(|Position { run, at }| Position { run, at: at + 1 });
        Paths { map: self, next: next.unwrap_or_else(|position| position) }
    }

    /// Where a path is, or where it would be.
    fn find(&self, path: &ImagePath) -> Result<Position, Position> {
        let behind_last = self.runs.last().is_some_and(|run| self.path(run[run.len() - 1]) < path);
        let run = if behind_last {
            self.runs.len()
        } else {
            self.runs.partition_point(|run| self.path(run[0]) <= path)
        };
        let Some(run) = run.checked_sub(1) else { return Err(Position { run: 0, at: 0 }) };
        if behind_last {
            return Err(Position { run, at: self.runs[run].len() });
        }
        let found = self.runs[run].binary_search_by(|number| self.path(*number).cmp(path));
        found.map(|at| Position { run, at }).map_err(|at| Position { run, at })
    }

    fn insert_at(&mut self, Position { run, at }: Position, number: u32) {
        let last = run + 1 == self.runs.len();
        match self.runs.get_mut(run) {
            None => self.runs.push(vec![number]),
            Some(full) if full.len() == RUN && at == RUN && last => self.runs.push(vec![number]),
            Some(full) if full.len() == RUN => {
                let mut rest = full.split_off(RUN / 2);
                match at.checked_sub(full.len()) {
                    Some(at) => rest.insert(at, number),
                    None => full.insert(at, number),
                }
                self.runs.insert(run + 1, rest);
            }
            Some(run) => run.insert(at, number),
        }
    }

    fn occupy(&mut self, slot: Slot) -> u32 {
        if let Some(number) = self.free.pop() {
            let (block, within) = place(number);
            self.blocks[block][within] = Some(slot);
            return number;
        }
        if self.blocks.last().is_none_or(|last| last.len() == BLOCK) {
            self.blocks.push(Vec::with_capacity(BLOCK));
        }
        let block = self.blocks.len() - 1;
        self.blocks[block].push(Some(slot));
        let number = block * BLOCK + self.blocks[block].len() - 1;
        u32::try_from(number).expect("four thousand million paths take more memory than there is")
    }

    fn number(&self, Position { run, at }: Position) -> u32 {
        self.runs[run][at]
    }

    fn path(&self, number: u32) -> &ImagePath {
        &self.slot(number).path
    }

    fn slot(&self, number: u32) -> &Slot {
        let (block, within) = place(number);
        self.blocks[block][within].as_ref().expect("slots in a run are taken")
    }

    fn slot_mut(&mut self, number: u32) -> &mut Slot {
        let (block, within) = place(number);
        self.blocks[block][within].as_mut().expect("slots in a run are taken")
    }
}

/// Block and place in it of a slot.
fn place(number: u32) -> (usize, usize) {
    let number = number as usize;
    (number / BLOCK, number % BLOCK)
}

/// Where the bit of a slot is.
fn bit(number: u32) -> (usize, u64) {
    (number as usize / 64, 1 << (number % 64))
}

/// Paths and entries from one on, in order.
#[derive(Debug, Clone)]
pub(crate) struct Paths<'a> {
    map: &'a PathMap,
    next: Position,
}

impl Paths<'_> {
    fn next_number(&mut self) -> Option<u32> {
        let mut run = self.map.runs.get(self.next.run)?;
        if self.next.at >= run.len() {
            self.next = Position { run: self.next.run + 1, at: 0 };
            run = self.map.runs.get(self.next.run)?;
        }
        self.next.at += 1;
        Some(run[self.next.at - 1])
    }
}

impl<'a> Iterator for Paths<'a> {
    type Item = (&'a ImagePath, &'a Entry);

    fn next(&mut self) -> Option<Self::Item> {
        let slot = self.map.slot(self.next_number()?);
        Some((&slot.path, &slot.entry))
    }

    /// Passes over whole runs, so that a sample of a large tree costs no more than that of a small one.
    fn nth(&mut self, mut skipped: usize) -> Option<Self::Item> {
        while let Some(run) = self.map.runs.get(self.next.run) {
            let left = run.len() - self.next.at;
            if skipped < left {
                self.next.at += skipped;
                return self.next();
            }
            skipped -= left;
            self.next = Position { run: self.next.run + 1, at: 0 };
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn path(number: u32) -> ImagePath {
        ImagePath::parse(format!("/{}/{number}", number % 7).as_bytes()).unwrap()
    }

    fn entry(mode: u32) -> Entry {
        Entry::new(Kind::Fifo, mode)
    }

    fn same(map: &PathMap, model: &BTreeMap<ImagePath, u32>) -> bool {
        map.len() == model.len()
            && map.is_empty() == model.is_empty()
            && map.iter().map(|(path, entry)| (path, &entry.mode)).eq(model.iter())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_a_sorted_map(steps in prop::collection::vec((0..3_u8, 0..5000_u32), 0..60)) {
            let (mut map, mut model) = (PathMap::default(), BTreeMap::new());
            for (what, start) in steps {
                // Runs of neighbours fill and empty whole runs of the order.
                for number in start..start + 150 {
                    if what == 0 {
                        let removed = map.remove(&path(number)).map(|entry| entry.mode);
                        prop_assert_eq!(removed, model.remove(&path(number)));
                    } else {
                        map.insert(path(number), entry(start));
                        model.insert(path(number), start);
                    }
                }
                prop_assert!(same(&map, &model));
                let probe = path(start + 40);
                prop_assert_eq!(map.get(&probe).map(|entry| entry.mode), model.get(&probe).copied());
                let from: Vec<_> = map.from(&probe).map(|(path, _)| path).collect();
                let after: Vec<_> = map.after(&probe).map(|(path, _)| path).collect();
                prop_assert!(from.iter().copied().eq(model.range(&probe..).map(|(path, _)| path)));
                prop_assert!(after.iter().eq(from.iter().filter(|path| ***path != probe)));
                prop_assert!(same(&map.clone(), &model));
            }
        }
    }

    #[test]
    fn entries_can_be_changed_in_place() {
        let mut map = PathMap::default();
        assert!(map.get_mut(&path(1)).is_none());
        map.insert(path(1), entry(1));
        map.get_mut(&path(1)).unwrap().mode = 2;
        assert_eq!(map.get(&path(1)), Some(&entry(2)));
    }

    #[test]
    fn what_was_set_since_is_fresh() {
        let parsed = |text: &str| ImagePath::parse(text.as_bytes()).unwrap();
        let mut map = PathMap::default();
        for old in ["/a", "/a/b", "/a/b/c", "/d", "/e"] {
            map.insert(parsed(old), entry(0));
        }
        map.age();
        map.insert(parsed("/a/b"), entry(1));
        map.insert(parsed("/f"), entry(1));
        map.insert(parsed("/e"), entry(1));
        map.remove(&parsed("/e"));
        map.insert(parsed("/g/h"), entry(1));
        for (path, want) in [
            ("/", true),
            ("/a", true),
            ("/a/b", true),
            ("/a/b/c", false),
            ("/d", false),
            ("/e", false),
            ("/f", true),
            ("/g", true),
            ("/g/h/i", false),
        ] {
            assert_eq!(map.has_fresh_below(&parsed(path)), want, "{path}");
        }
    }

    #[test]
    fn what_comes_in_order_fills_runs_and_blocks() {
        let mut map = PathMap::default();
        for number in 0..10_000 {
            map.insert(ImagePath::parse(format!("/{number:05}").as_bytes()).unwrap(), entry(0));
        }
        assert_eq!(map.runs.len(), 10_000_usize.div_ceil(RUN));
        assert_eq!(map.blocks.len(), 10_000_usize.div_ceil(BLOCK));
        for step in [1, 3, RUN - 1, RUN, RUN + 1, 9_999, 10_000] {
            let sample: Vec<String> =
                map.iter().step_by(step).map(|(path, _)| path.to_string()).collect();
            let want: Vec<String> =
                (0..10_000).step_by(step).map(|number| format!("/{number:05}")).collect();
            assert_eq!(sample, want, "{step}");
        }
        assert_eq!(size_of::<Option<Slot>>(), size_of::<Entry>() + size_of::<ImagePath>());
    }
}
