//! `RUN --mount`: what a step sees besides its root, and no layer holds.
//!
//! In namespaces these are mounts of the step alone ([`namespace`]). In place nothing can be mounted:
//! there the content is put where the mount would be and taken out again ([`in_place`]), before
//! anybody compares the tree. Either way the tree is afterwards what it was, but for what the step
//! did outside of its mounts.

mod agent;
mod cache;
mod in_place;
mod keys;
mod namespace;
mod trim;

use std::io;
use std::path::{Path, PathBuf};

use snapshot::ImagePath;
use thiserror::Error;
use tracer::Hidden;

use super::copy::CopyError;
use super::sources::{Found, SourceTree};
use crate::rootfs::Point;

pub use agent::AgentSource;
pub use cache::{CacheDir, CacheError, CacheHold, CacheKey, CacheStore};
pub(super) use in_place::Placed;
pub use keys::{BadKey, KeyRing};
pub(super) use namespace::Shows;
pub use trim::{StoredCache, Trimmed};

/// What is seen where.
#[derive(Debug)]
pub struct Mounted<'a> {
    /// Where: absolute; its links are those of the image.
    pub target: ImagePath,
    /// What.
    pub content: Content<'a>,
}

/// What is seen.
#[derive(Debug)]
pub enum Content<'a> {
    /// Files of a context, a stage or an image.
    Files {
        /// Whose.
        sources: SourceTree<'a>,
        /// Which.
        found: Found,
        /// Whether they cannot be written to; what is written is dropped.
        read_only: bool,
    },
    /// A cache.
    Cache {
        /// Which; held while this lives.
        dir: CacheDir,
        /// The part of it that is shown, relative to it.
        part: PathBuf,
        /// Whether it cannot be written to.
        read_only: bool,
        /// Whether others may use it meanwhile.
        shared: bool,
    },
    /// An empty directory.
    Tmpfs {
        /// Its limit in bytes.
        size: Option<u64>,
        /// Whether it stays empty.
        read_only: bool,
    },
    /// A file with a secret.
    Secret {
        /// The secret.
        content: Hidden,
        /// The file's permission bits.
        mode: u32,
        /// The file's owner.
        owner: (u32, u32),
    },
    /// A socket to an SSH agent.
    Agent {
        /// Who answers.
        agent: AgentSource,
        /// The new socket's permission bits.
        mode: u32,
        /// The new socket's owner.
        owner: (u32, u32),
    },
}

/// All mounts of a step.
#[derive(Debug, Default)]
pub struct Mounts<'a> {
    /// In any order.
    pub mounted: Vec<Mounted<'a>>,
    /// Variables that only this step sees; they win over others of their name.
    pub env: Vec<(String, Hidden)>,
}

impl Mounts<'_> {
    /// The directories of the caches among them, as often as they are mounted.
    pub fn caches(&self) -> impl Iterator<Item = &Path> {
        self.mounted.iter().filter_map(|mount| match &mount.content {
            Content::Cache { dir, .. } => Some(dir.path.as_path()),
            Content::Files { .. }
            | Content::Tmpfs { .. }
            | Content::Secret { .. }
            | Content::Agent { .. } => None,
        })
    }
}

/// Why something cannot be shown to a step.
#[derive(Debug, Error)]
pub enum MountError {
    /// Its files cannot be had.
    #[error("RUN --mount at {target}: {source}")]
    Copy {
        /// Where it was to be seen.
        target: ImagePath,
        /// Why.
        source: CopyError,
    },
    /// A call failed.
    #[error("RUN --mount at {target}: {source}")]
    Io {
        /// Where it was to be seen.
        target: ImagePath,
        /// What the call answered.
        source: io::Error,
    },
    /// It cannot be there.
    #[error("RUN --mount at {target}: {why}")]
    Refused {
        /// Where it was to be seen.
        target: ImagePath,
        /// Why.
        why: String,
    },
}

impl Content<'_> {
    /// What has to be there to be mounted over.
    fn point(&self) -> io::Result<Point> {
        let is_dir = match self {
            Self::Files { sources, found, .. } => sources.is_dir(found)?,
            Self::Cache { dir, part, .. } => dir.path.join(part).is_dir(),
            Self::Tmpfs { .. } => true,
            Self::Secret { .. } | Self::Agent { .. } => false,
        };
        Ok(if is_dir { Point::Dir } else { Point::File })
    }
}

/// As the reference has it: parents first, and of two at the same place the later.
fn ordered(mut mounted: Vec<Mounted<'_>>) -> Vec<Mounted<'_>> {
    mounted.sort_by(|a, b| a.target.cmp(&b.target));
    let mut ordered: Vec<Mounted<'_>> = Vec::new();
    for mount in mounted {
        if ordered.last().is_some_and(|last| last.target == mount.target) {
            ordered.pop();
        }
        ordered.push(mount);
    }
    ordered
}

/// Where a target really is: a mount that was made before hides the links below it.
fn place_below(
    earlier: &ImagePath,
    place: &ImagePath,
    target: &ImagePath,
) -> Option<Result<ImagePath, snapshot::PathError>> {
    let rest = target.relative().strip_prefix(earlier.relative())?;
    if rest.first().is_some_and(|byte| *byte != b'/') {
        return None;
    }
    let mut names = rest.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    Some(names.try_fold(place.clone(), |path, name| path.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ImagePath {
        ImagePath::parse(text.as_bytes()).expect(text)
    }

    fn tmpfs(target: &str, size: u64) -> Mounted<'static> {
        let content = Content::Tmpfs { size: Some(size), read_only: false };
        Mounted { target: path(target), content }
    }

    #[test]
    fn parents_come_first_and_the_later_of_two_wins() {
        let mounted = vec![tmpfs("/b/c", 1), tmpfs("/a", 2), tmpfs("/b", 3), tmpfs("/a", 4)];
        let told: Vec<String> = ordered(mounted)
            .iter()
            .map(|mount| match mount.content {
                Content::Tmpfs { size, .. } => format!("{} {}", mount.target, size.unwrap_or(0)),
                _ => "another".to_owned(),
            })
            .collect();
        assert_eq!(told, ["/a 4", "/b 3", "/b/c 1"]);
    }

    #[test]
    fn what_lies_below_a_mount_is_where_the_mount_is() {
        for (earlier, place, target, want) in [
            ("/a", "/real", "/a/b/c", Some("/real/b/c")),
            ("/a", "/real", "/a", Some("/real")),
            ("/a", "/real", "/ab", None),
            ("/a/b", "/real", "/a", None),
        ] {
            let found = place_below(&path(earlier), &path(place), &path(target));
            let found = found.map(|place| place.expect("short").to_string());
            assert_eq!(found.as_deref(), want, "{earlier} {target}");
        }
    }
}
