//! Which part of a source a COPY takes: `.dockerignore`, `--exclude`, and the pattern of `--parents`.
//!
//! All three are patterns with moby's rules. A directory that is not taken itself may hold something that
//! is; it is made then, with the metadata of its source, and only then. Where it is already, it takes the
//! mode of its source and nothing else.

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::FileType;

use super::copy::CopyError;
use super::sources::{Found, SourceTree, clean, has_wildcard, stat_at};
use crate::context::Ignore;
use crate::rootfs::names_in;

/// What is copied of a tree: `--exclude` and `--parents` are relative to where it starts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'p> {
    start: Option<&'p Path>,
    only: Option<&'p Ignore>,
}

/// What becomes of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is copied.
    In,
    /// Only what the context holds below it made it a part of the context: it is copied with that.
    WithContent,
    /// It is not, but something below it may be.
    PerhapsBelow,
    /// Neither it nor anything below it is.
    Out,
}

impl<'p> Part<'p> {
    /// What is below `start`.
    pub(super) fn of(start: &'p Path) -> Self {
        Self { start: Some(start), only: None }
    }

    /// A single file that is named: its whole path counts.
    pub(super) fn file() -> Self {
        Self { start: None, only: None }
    }

    /// Only what a pattern matches; everything where there is none.
    pub(super) fn only(self, only: Option<&'p Ignore>) -> Self {
        Self { only, ..self }
    }

    /// The directory that it is below.
    pub(super) fn start(self) -> &'p Path {
        self.start.unwrap_or(Path::new(""))
    }

    pub(super) fn verdict(
        self,
        path: &Path,
        exclude: Option<&Ignore>,
        sources: &SourceTree<'_>,
    ) -> Verdict {
        let relative = path.strip_prefix(self.start()).unwrap_or(path);
        let bytes = relative.as_os_str().as_bytes();
        let wanted = self.only.is_none_or(|only| only.matches(bytes));
        let excluded = exclude.is_some_and(|exclude| exclude.matches(bytes));
        let ignored = sources.ignores(path);
        if wanted && !excluded {
            return match ignored {
                false => Verdict::In,
                true if sources.may_hold_included(path) => Verdict::WithContent,
                true => Verdict::Out,
            };
        }
        let perhaps = (wanted || self.only.is_some_and(|only| only.may_match_below(bytes)))
            && (!excluded || exclude.is_some_and(|exclude| exclude.may_hold_kept(bytes)))
            && (!ignored || sources.may_hold_included(path));
        if perhaps { Verdict::PerhapsBelow } else { Verdict::Out }
    }

    /// Whether a directory that is not taken itself holds something that is.
    pub(super) fn holds_any(
        self,
        path: &Path,
        exclude: Option<&Ignore>,
        sources: &SourceTree<'_>,
    ) -> Result<bool, CopyError> {
        let dir = sources.open_dir(path).map_err(|error| sources.at(path, error))?;
        for name in names_in(dir.as_fd()).map_err(|error| sources.at(path, error))? {
            let child = path.join(OsStr::from_bytes(name.as_bytes()));
            let held = match self.verdict(&child, exclude, sources) {
                Verdict::In => true,
                Verdict::Out => false,
                Verdict::WithContent | Verdict::PerhapsBelow => {
                    let stat = stat_at(&dir, &name).map_err(|error| sources.at(&child, error))?;
                    FileType::from_raw_mode(stat.st_mode).is_dir()
                        && self.holds_any(&child, exclude, sources)?
                }
            };
            if held {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// A source of `COPY --parents`, read.
#[derive(Debug)]
pub(super) struct Parents {
    /// The directories before the pivot; the root of the sources without one.
    pub(super) starts: Vec<Found>,
    /// What is copied of them; everything where nothing is named after the pivot.
    pub(super) only: Option<Ignore>,
    /// No wildcard is used, so something has to be there.
    pub(super) exact: bool,
}

impl SourceTree<'_> {
    /// Reads a source of `COPY --parents` and finds where it starts.
    pub(super) fn parents(&self, written: &str) -> Result<Parents, CopyError> {
        let (start, pattern) = pivot(written);
        let pattern = clean(pattern);
        let exact = !has_wildcard(start) && !has_wildcard(&pattern);
        let mut starts = self.find(start)?;
        if exact && !pattern.is_empty() {
            self.there(written)?;
        }
        // The last one of a name counts, so the order is that of the names.
        starts.sort_by(|a, b| a.path.cmp(&b.path));
        let bad = |_| CopyError::BadPattern { pattern: written.to_owned() };
        let only = match literal_mark(&pattern) {
            pattern if pattern.is_empty() => None,
            pattern => Some(Ignore::new([pattern]).map_err(bad)?),
        };
        Ok(Parents { starts, only, exact })
    }
}

/// What is before the first `/./`, and what after it; without one everything is after it.
fn pivot(written: &str) -> (&str, &str) {
    written.split_once("/./").unwrap_or(("/", written))
}

/// A `!` at the beginning is part of the name here, no exception.
fn literal_mark(pattern: &str) -> String {
    if pattern.starts_with('!') { format!("\\{pattern}") } else { pattern.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pivots() {
        for (written, want) in [
            ("a/b", ("/", "a/b")),
            ("./a/b", ("/", "./a/b")),
            ("/a/./b/./c", ("/a", "b/./c")),
            ("a/./", ("a", "")),
            ("a/.", ("/", "a/.")),
        ] {
            assert_eq!(pivot(written), want, "{written}");
        }
    }

    #[test]
    fn what_is_taken() {
        let dir = tempfile::tempdir().expect("a directory");
        let own = tempfile::tempdir().expect("a directory");
        let ignore = Ignore::parse(b"ignored\n!ignored/kept\n").expect("patterns");
        let tree = SourceTree::context(dir.path(), Some(&ignore), own.path(), "the context");
        let tree = tree.expect("it is there");
        use Verdict::{In, Out, PerhapsBelow, WithContent};
        for (start, only, exclude, path, want) in [
            ("", None, None, "a", In),
            ("", None, None, "ignored", WithContent),
            ("", None, None, "ignored/x", Out),
            ("", None, None, "ignored/kept", In),
            ("", None, Some("*.md"), "ignored", WithContent),
            ("", Some("ignored/kept"), None, "ignored", PerhapsBelow),
            ("", None, Some("*.md"), "a.md", Out),
            ("", None, Some("*.md"), "d/a.md", In),
            ("d", None, Some("*.md"), "d/a.md", Out),
            ("", Some("a/b"), None, "a", PerhapsBelow),
            ("", Some("a/b"), None, "a/b", In),
            ("", Some("a/b"), None, "a/b/c", In),
            ("", Some("a/b"), None, "a/c", Out),
            ("", Some("a/b"), None, "c", Out),
            ("", Some("**/x"), None, "a", PerhapsBelow),
            ("", Some("**/x"), Some("**/q"), "a/q/x", Out),
            ("d", Some("a"), None, "d/a", In),
            ("d", Some("a"), None, "d/d", Out),
        ] {
            let patterns = |text: Option<&str>| text.map(|text| Ignore::new([text]).expect(text));
            let (only, exclude) = (patterns(only), patterns(exclude));
            let part = Part::of(Path::new(start)).only(only.as_ref());
            let got = part.verdict(Path::new(path), exclude.as_ref(), &tree);
            assert_eq!(got, want, "{path} from {start:?}");
        }
    }
}
