//! `--verify-snapshot`: the trace of a step, held against a walk.

use snapshot::{Change, Difference, Entry, Index, Kind, Put};

use super::Verify;
use crate::report::Failure;

/// Paths that are told; the rest is counted.
const TOLD: usize = 20;

/// The difference that counts: what the walk found, and where that is more or less than what the
/// trace found, a report of which paths, and what about them. `step` is what a person calls it.
///
/// # Errors
/// They differ, and that is to end the build.
pub(super) fn verdict(
    verify: Verify,
    step: &str,
    before: &Index,
    traced: Difference,
    walked: Difference,
) -> Result<Difference, Failure> {
    if traced.changes == walked.changes {
        tracing::debug!("the walk found what the trace found: {} changes", traced.changes.len());
        return Ok(traced);
    }
    let mut told = format!("the trace and the walk of {step} differ");
    for (who, found, other) in [("walk", &walked, &traced), ("trace", &traced, &walked)] {
        let only: Vec<&Change> =
            found.changes.iter().filter(|change| !other.changes.contains(change)).collect();
        if only.is_empty() {
            continue;
        }
        told += &format!("\nfound by the {who} only:");
        for change in only.iter().take(TOLD) {
            told += &format!("\n  {}", told_of(change, before));
        }
        if only.len() > TOLD {
            told += &format!("\n  and {} more", only.len() - TOLD);
        }
    }
    if verify == Verify::Fail {
        return Err(Failure::new(told).hint(
            "this is a bug of the tracer; please report the step. --run-tracer=off avoids it",
        ));
    }
    tracing::warn!("{told}");
    Ok(walked)
}

/// A path, and what became of it.
fn told_of(change: &Change, before: &Index) -> String {
    match change {
        Change::Whiteout(path) => format!("{path}: gone"),
        Change::Put(put) => format!("{}: {}", put.path, what_differs(put, before.get(&put.path))),
    }
}

fn what_differs(put: &Put, before: Option<&Entry>) -> String {
    let Some(before) = before else { return "new".to_owned() };
    let now = &put.entry;
    let mut told = Vec::new();
    match (&before.kind, &now.kind) {
        (Kind::File { size: old }, Kind::File { size: new }) if old != new => {
            told.push(format!("size {old} → {new}"));
        }
        (old, new) if old != new => told.push("another kind of file, or target".to_owned()),
        _ => {}
    }
    if before.mode != now.mode {
        told.push(format!("mode {:04o} → {:04o}", before.mode, now.mode));
    }
    if (before.uid, before.gid) != (now.uid, now.gid) {
        told.push(format!("owner {}:{} → {}:{}", before.uid, before.gid, now.uid, now.gid));
    }
    if before.mtime != now.mtime {
        told.push("modification time".to_owned());
    }
    if before.xattrs != now.xattrs {
        told.push("extended attributes".to_owned());
    }
    if told.is_empty() {
        told.push("content, or its hard links".to_owned());
    }
    told.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::ImagePath;

    fn path(text: &str) -> ImagePath {
        ImagePath::parse(text.as_bytes()).expect(text)
    }

    fn file(size: u64, mode: u32) -> Entry {
        Entry::new(Kind::File { size }, mode)
    }

    fn put(name: &str, entry: Entry) -> Change {
        Change::Put(Put { path: path(name), entry, link_to: None })
    }

    #[test]
    fn a_report_says_which_path_and_what_about_it() {
        let mut before = Index::new();
        for name in ["/a", "/b", "/c", "/d"] {
            before.insert(path(name), file(1, 0o644));
        }
        for (change, want) in [
            (Change::Whiteout(path("/a")), "/a: gone"),
            (put("/new", file(1, 0o644)), "/new: new"),
            (put("/a", file(1, 0o644)), "/a: content, or its hard links"),
            (put("/b", file(2, 0o600)), "/b: size 1 → 2, mode 0644 → 0600"),
            (put("/c", Entry { uid: 7, ..file(1, 0o644) }), "/c: owner 0:0 → 7:0"),
            (put("/d", Entry::new(Kind::Dir, 0o644)), "/d: another kind of file, or target"),
        ] {
            let mut walked = Difference::default();
            walked.changes.push(change);
            let traced = Difference::default();
            let failure =
                verdict(Verify::Fail, "[2/3] RUN x", &before, traced.clone(), walked.clone());
            let told = failure.expect_err(want).to_string();
            let head = "the trace and the walk of [2/3] RUN x differ\nfound by the walk only:\n  ";
            assert!(told.contains(&format!("{head}{want}\n")), "{want}: {told}");
            let taken = verdict(Verify::Warn, "[2/3] RUN x", &before, traced, walked.clone());
            assert_eq!(taken.expect("only told").changes, walked.changes, "{want}");
        }
    }
}
