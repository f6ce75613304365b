//! What lies below the root but is no part of the image: mounts, the
//! executor's own directory, the contents of volumes.

use std::collections::HashSet;

use crate::ImagePath;

/// Paths that never appear in a layer, neither as files nor as whiteouts.
#[derive(Debug, Clone, Default)]
pub struct Exclusions {
    whole: HashSet<ImagePath>,
    contents: HashSet<ImagePath>,
    alone: HashSet<ImagePath>,
}

impl Exclusions {
    /// Nothing is excluded.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Excludes a path and all below it.
    #[must_use]
    pub fn with(mut self, path: ImagePath) -> Self {
        self.whole.insert(path);
        self
    }

    /// Excludes all that is below a directory, but not the directory itself.
    #[must_use]
    pub fn with_contents_of(mut self, path: ImagePath) -> Self {
        self.contents.insert(path);
        self
    }

    /// Excludes a path, but not what is below it: a directory that had to stay
    /// where the image has something else.
    #[must_use]
    pub fn with_only(mut self, path: ImagePath) -> Self {
        self.alone.insert(path);
        self
    }

    /// Whether a path is excluded, by itself or through a directory above it.
    #[must_use]
    pub fn covers(&self, path: &ImagePath) -> bool {
        if self.alone.contains(path) {
            return true;
        }
        if self.whole.is_empty() && self.contents.is_empty() {
            return false;
        }
        self.whole.contains(path)
            || path.ancestors().any(|up| self.whole.contains(&up) || self.contents.contains(&up))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage() {
        let path = |text: &str| ImagePath::parse(text.as_bytes()).unwrap();
        let exclusions = Exclusions::none().with(path("/proc")).with_contents_of(path("/data"));
        let exclusions = exclusions.with_only(path("/var/run"));
        for (given, want) in [
            ("/", false),
            ("/proc", true),
            ("/proc/1/fd", true),
            ("/processes", false),
            ("/data", false),
            ("/data/x", true),
            ("/var/run", true),
            ("/var/run/x", false),
        ] {
            assert_eq!(exclusions.covers(&path(given)), want, "{given}");
        }
        assert!(!Exclusions::none().covers(&path("/proc")));
    }
}
