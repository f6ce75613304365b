//! Links that come between the look at a name and the call that uses it.
//!
//! Calls are seen before they happen, and of two threads' calls the one that was
//! seen first may happen last. Where one of them brings a link to a name that
//! the other goes through, nobody knows where that leads. Only links do this: a
//! directory that is moved is a whole tree of names that may have changed, and
//! what is removed leads nowhere.
//!
//! What a thread does is over when it makes its next call, or ends.

use std::collections::HashMap;

use crate::outcome::is_within;

/// What the last call of each thread may still be about to do.
#[derive(Debug, Default)]
pub(crate) struct Arriving {
    /// Names to which a link may be coming, and who brings it.
    coming: HashMap<Vec<u8>, i32>,
    last: HashMap<i32, Last>,
    /// Threads whose last call matters to the one that is looked at.
    doubtful: Vec<i32>,
}

#[derive(Debug, Default)]
struct Last {
    /// The number of the call.
    number: u64,
    /// Names that it goes through, itself included where it follows.
    used: Vec<Vec<u8>>,
    /// Whether it only reads.
    reads: bool,
}

impl Arriving {
    /// A thread makes its next call: all that it did so far has happened.
    pub(crate) fn begin(&mut self, thread: i32, number: u64) {
        self.settle(thread);
        let last = self.last.entry(thread).or_default();
        last.number = number;
        last.used.clear();
        last.reads = false;
    }

    /// The same of a call that only reads.
    pub(crate) fn begin_reading(&mut self, thread: i32, number: u64) {
        self.begin(thread, number);
        if let Some(last) = self.last.get_mut(&thread) {
            last.reads = true;
        }
    }

    /// Whether the last call of a thread only reads.
    pub(crate) fn is_reading(&self, thread: i32) -> bool {
        self.last.get(&thread).is_some_and(|last| last.reads)
    }

    /// A thread has ended.
    pub(crate) fn gone(&mut self, thread: i32) {
        self.settle(thread);
        self.last.remove(&thread);
    }

    fn settle(&mut self, thread: i32) {
        if !self.coming.is_empty() {
            self.coming.retain(|_, by| *by != thread);
        }
    }

    /// A link may come to `name`.
    pub(crate) fn expect(&mut self, name: &[u8], by: i32) {
        self.coming.insert(name.to_vec(), by);
        for (thread, last) in &self.last {
            if *thread != by && last.used.iter().any(|used| is_within(used, name)) {
                self.doubtful.push(*thread);
            }
        }
    }

    /// A thread goes through the directories of `path`, and where `follow`
    /// through a link at its end.
    pub(crate) fn uses(&mut self, path: &[u8], follow: bool, thread: i32) {
        let parent = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let name = if follow { path } else { &path[..parent] };
        self.last.entry(thread).or_default().used.push(name.to_vec());
    }

    /// Whether another thread may be bringing a link to `name`.
    pub(crate) fn is_expected(&self, name: &[u8], thread: i32) -> bool {
        !self.coming.is_empty() && self.coming.get(name).is_some_and(|by| *by != thread)
    }

    /// A thread looks at `name` to see whether it is a link.
    pub(crate) fn look(&mut self, name: &[u8], thread: i32) {
        if self.is_expected(name, thread) {
            self.doubtful.extend(self.coming.get(name));
        }
    }

    /// Threads on whose last call, the number of which is told, it depends
    /// where the call leads that was just looked at, or where they lead.
    pub(crate) fn take_doubtful(&mut self) -> Vec<(i32, u64)> {
        let threads = std::mem::take(&mut self.doubtful);
        let number = |thread| self.last.get(&thread).map_or(0, |last| last.number);
        threads.into_iter().map(|thread| (thread, number(thread))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What two threads do, the first word of each step being who, and whether
    /// the last of it leaves nobody sure.
    #[test]
    fn a_link_in_the_way_of_another_thread_is_noticed() {
        for (steps, want) in [
            ("1 link /s, 2 look /s", true),
            ("1 link /s, 1 look /s", false),
            ("1 link /s, 2 look /t", false),
            ("1 link /s, 1 next, 2 look /s", false),
            ("2 follow /s/x, 1 link /s", true),
            ("2 follow /s/x, 1 link /s/x", true),
            ("2 name /s/x, 1 link /s", true),
            ("2 name /s/x, 1 link /s/x", false),
            ("2 name /sx/x, 1 link /s", false),
            ("1 follow /s/x, 1 link /s", false),
            ("2 follow /s/x, 2 next, 1 link /s", false),
            ("2 follow /s/x, 2 gone, 1 link /s", false),
        ] {
            let mut arriving = Arriving::default();
            for step in steps.split(", ") {
                let words: Vec<&str> = step.split(' ').collect();
                let (thread, name) = (words[0].parse().unwrap(), words.get(2).unwrap_or(&""));
                match words[1] {
                    "link" => arriving.expect(name.as_bytes(), thread),
                    "look" => arriving.look(name.as_bytes(), thread),
                    "follow" => arriving.uses(name.as_bytes(), true, thread),
                    "name" => arriving.uses(name.as_bytes(), false, thread),
                    "next" => arriving.begin(thread, 2),
                    _ => arriving.gone(thread),
                }
            }
            assert_eq!(!arriving.take_doubtful().is_empty(), want, "{steps}");
        }
    }
}
