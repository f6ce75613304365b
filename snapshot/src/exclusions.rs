//! What lies below the root but is no part of the image: mounts, the
//! executor's own directory, the contents of volumes.

use std::collections::HashSet;

use crate::ImagePath;

/// Paths that never appear in a layer, neither as files nor as whiteouts.
#[derive(Debug, Clone, Default)]
pub struct Exclusions {
    whole: HashSet<ImagePath>,
    contents: HashSet<ImagePath>,
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

    /// Whether a path is excluded, by itself or through a directory above it.
    #[must_use]
    pub fn covers(&self, path: &ImagePath) -> bool {
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
        for (given, want) in [
            ("/", false),
            ("/proc", true),
            ("/proc/1/fd", true),
            ("/processes", false),
            ("/data", false),
            ("/data/x", true),
        ] {
            assert_eq!(exclusions.covers(&path(given)), want, "{given}");
        }
        assert!(!Exclusions::none().covers(&path("/proc")));
    }
}
