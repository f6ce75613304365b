//! What lies below the root but is no part of the image.
//!
//! In place, that is every mount of the container and the executor's own
//! directory. In a namespace there is nothing: mounts live in the step only.

use snapshot::ImagePath;

/// Paths that are never unpacked over, never packed, never removed.
#[derive(Debug, Clone, Default)]
pub struct Exclusions {
    trees: Vec<ImagePath>,
    /// Directories above a mount where the image has something else: they stay as they are.
    pinned: Vec<ImagePath>,
}

impl Exclusions {
    /// Excludes each path with everything below it. The root itself cannot be excluded.
    pub fn new(mut trees: Vec<ImagePath>) -> Self {
        trees.retain(|path| path.parent().is_some());
        trees.sort();
        trees.dedup();
        Self { trees, pinned: Vec::new() }
    }

    /// Whether `path` is excluded, or lies below an excluded path.
    pub fn excludes(&self, path: &ImagePath) -> bool {
        self.trees.iter().any(|tree| path.starts_with(tree))
    }

    /// Whether `path` is excluded or something below it is: then it cannot be removed.
    pub fn covers_any_below(&self, path: &ImagePath) -> bool {
        self.trees.iter().any(|tree| tree.starts_with(path))
    }

    /// Leaves the directory `path` as it is, whatever the image has there; what is below it counts.
    pub fn pin(&mut self, path: ImagePath) {
        self.pinned.push(path);
    }

    /// With the pins of a tree whose content comes here.
    #[must_use]
    pub fn with_pins_of(mut self, other: &Self) -> Self {
        self.pinned.extend(other.pinned.iter().cloned());
        self
    }

    /// The same for the comparison of trees.
    pub fn for_snapshot(&self) -> snapshot::Exclusions {
        let whole = self.trees.iter().cloned();
        let none = snapshot::Exclusions::none();
        let trees = whole.fold(none, snapshot::Exclusions::with);
        self.pinned.iter().cloned().fold(trees, snapshot::Exclusions::with_only)
    }
}

/// The mount points of `/proc/self/mountinfo` (proc(5), field 5), with its octal escapes undone.
pub fn mount_points(mountinfo: &[u8]) -> Vec<ImagePath> {
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .filter_map(|field| ImagePath::parse(&unescape(field)).ok())
        .filter(|path| path.parent().is_some())
        .collect()
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(value) => {
                out.push(value);
                rest = &tail[3..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ImagePath {
        ImagePath::parse(text.as_bytes()).expect(text)
    }

    #[test]
    fn mounts_are_found_with_their_escapes() {
        let text = b"22 1 0:20 / / rw - overlay o rw\n\
            23 22 0:21 / /proc rw - proc proc rw\n\
            24 22 0:22 / /a\\040b rw shared:1 - tmpfs t rw\n";
        assert_eq!(mount_points(text), [path("/proc"), path("/a b")]);
    }

    #[test]
    fn a_tree_is_excluded_with_what_is_below_and_pins_what_is_above() {
        let exclusions = Exclusions::new(vec![path("/proc"), path("/var/x"), path("/")]);
        for (which, excluded, pinned) in [
            ("/proc", true, true),
            ("/proc/1", true, false),
            ("/process", false, false),
            ("/var", false, true),
            ("/var/x/y", true, false),
            ("/etc", false, false),
        ] {
            assert_eq!(exclusions.excludes(&path(which)), excluded, "{which}");
            assert_eq!(exclusions.covers_any_below(&path(which)), pinned, "{which}");
        }
    }
}
