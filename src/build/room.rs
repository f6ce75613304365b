//! Room on the file system of the working directory, at the beginning of a build and where it ran out.

use std::path::{Path, PathBuf};

use crate::report::bytes;

/// How much was free when a build began.
pub(super) struct Room {
    dir: PathBuf,
    free: Option<u64>,
}

impl Room {
    /// On the file system that has this directory.
    pub(super) fn of(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), free: free(dir) }
    }

    /// Whether there is none left: a command that met this says it in its own words, or not at all.
    pub(super) fn is_used_up(&self) -> bool {
        const HARDLY_ANY: u64 = 1 << 16;
        free(&self.dir).is_some_and(|free| free < HARDLY_ANY)
    }

    /// What to do about it, and how much the build has taken, which is the least it needs.
    pub(super) fn hint(&self) -> String {
        let dir = self.dir.display();
        let way_out = "give another place with --kaniko-dir";
        match (self.free, free(&self.dir)) {
            (Some(before), Some(now)) => {
                let (taken, before) = (bytes(before.saturating_sub(now)), bytes(before));
                format!(
                    "{dir} needs more room: of the {before} that were free, {taken} are taken; {way_out}"
                )
            }
            _ => format!("{dir} needs more room; {way_out}"),
        }
    }
}

fn free(dir: &Path) -> Option<u64> {
    rustix::fs::statvfs(dir).ok().map(|disk| disk.f_bavail * disk.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_told() {
        for (free, want) in
            [(None, "more room; give"), (Some(0), "of the 0 B that were free, 0 B are")]
        {
            let room = Room { dir: "/".into(), free };
            assert!(room.hint().contains(want), "{}", room.hint());
        }
    }
}
