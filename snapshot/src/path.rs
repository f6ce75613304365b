//! Paths inside the image.
//!
//! An [`ImagePath`] is parsed once and cannot be wrong afterwards: absolute,
//! normal, without `..`, and short enough for the kernel. Its order compares
//! component by component, so that a directory comes before what is in it and
//! a subtree is one contiguous range.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// The longest component, `NAME_MAX`.
const NAME_MAX: usize = 255;
/// The longest path with its leading slash. Relative to a directory handle it
/// and its terminating NUL just fit `PATH_MAX`.
const PATH_MAX: usize = 4096;

/// An absolute, normal path of the image, as bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ImagePath(Box<[u8]>);

/// Why some bytes are no path of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `..` has no meaning without the links on the way: see `Index::resolve_parent`.
    #[error("path holds `..`")]
    Parent,
    /// A NUL cannot be passed to the kernel.
    #[error("path holds a NUL byte")]
    Nul,
    /// A component is longer than 255 bytes.
    #[error("path component is longer than 255 bytes")]
    LongName,
    /// The whole is longer than 4,096 bytes.
    #[error("path is longer than 4096 bytes")]
    LongPath,
    /// A single name was asked for; this is empty, `.`, or holds a slash.
    #[error("not the name of a single file")]
    NotAName,
}

impl ImagePath {
    /// `/`.
    #[must_use]
    pub fn root() -> Self {
        Self(Box::from(&b"/"[..]))
    }

    /// Parses a relative or absolute path; `.` and repeated slashes vanish.
    ///
    /// # Errors
    /// `..`, NUL, a component over 255 bytes, or more than 4,096 bytes in all.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        let mut normal = Vec::with_capacity(bytes.len() + 1);
        for name in bytes.split(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b".")) {
            check_name(name)?;
            normal.push(b'/');
            normal.extend_from_slice(name);
        }
        if normal.is_empty() {
            normal.push(b'/');
        }
        Self::checked(normal)
    }

    /// The path of `name` in this directory.
    ///
    /// # Errors
    /// As [`ImagePath::parse`], and where `name` is not exactly one component.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        if matches!(name, b"" | b".") || name.contains(&b'/') {
            return Err(PathError::NotAName);
        }
        check_name(name)?;
        let mut path = Vec::with_capacity(self.0.len() + 1 + name.len());
        path.extend_from_slice(self.prefix());
        path.push(b'/');
        path.extend_from_slice(name);
        Self::checked(path)
    }

    fn checked(path: Vec<u8>) -> Result<Self, PathError> {
        if path.len() > PATH_MAX { Err(PathError::LongPath) } else { Ok(Self(path.into())) }
    }

    /// The directory that holds this path; none for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let slash = self.last_slash()?;
        Some(Self(Box::from(&self.0[..slash.max(1)])))
    }

    /// All directories above, nearest first, ending with the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> {
        std::iter::successors(self.parent(), Self::parent)
    }

    /// The last component; none for the root.
    #[must_use]
    pub fn file_name(&self) -> Option<&[u8]> {
        self.last_slash().map(|slash| &self.0[slash + 1..])
    }

    /// Whether this is `other` or below it.
    #[must_use]
    pub fn starts_with(&self, other: &Self) -> bool {
        let prefix = other.prefix();
        self.0.starts_with(prefix) && matches!(self.0.get(prefix.len()), None | Some(b'/'))
    }

    /// Whether this is `/`.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    /// The bytes, with the leading slash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes without the leading slash; empty for the root.
    #[must_use]
    pub fn relative(&self) -> &[u8] {
        &self.0[1..]
    }

    /// The names from the root down.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.relative().split(|&b| b == b'/').filter(|name| !name.is_empty())
    }

    /// The relative path as the `*at` calls want it; `.` for the root.
    pub(crate) fn beneath(&self) -> &OsStr {
        if self.is_root() { OsStr::new(".") } else { OsStr::from_bytes(self.relative()) }
    }

    /// The ancestor of this path, or itself, that is directly in `dir`; none
    /// for what is not below it.
    pub(crate) fn child_below(&self, dir: &Self) -> Option<Self> {
        let start = dir.prefix().len() + 1;
        if self.0.len() <= start || !self.starts_with(dir) {
            return None;
        }
        let end =
            self.0[start..].iter().position(|&b| b == b'/').map_or(self.0.len(), |n| start + n);
        Some(Self(Box::from(&self.0[..end])))
    }

    /// The least path that sorts after everything below this one: no byte of
    /// a name sorts before 1.
    pub(crate) fn after_subtree(&self) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1);
        bytes.extend_from_slice(&self.0);
        bytes.push(1);
        Self(bytes.into())
    }

    /// The path without a trailing slash, even for the root.
    fn prefix(&self) -> &[u8] {
        if self.is_root() { b"" } else { &self.0 }
    }

    fn last_slash(&self) -> Option<usize> {
        if self.is_root() {
            return None;
        }
        self.0.iter().rposition(|&b| b == b'/')
    }
}

fn check_name(name: &[u8]) -> Result<(), PathError> {
    match name {
        b".." => Err(PathError::Parent),
        _ if name.contains(&0) => Err(PathError::Nul),
        _ if name.len() > NAME_MAX => Err(PathError::LongName),
        _ => Ok(()),
    }
}

impl Ord for ImagePath {
    fn cmp(&self, other: &Self) -> Ordering {
        let at = common_length(&self.0, &other.0);
        match (self.0.get(at), other.0.get(at)) {
            (Some(left), Some(right)) => weight(*left).cmp(&weight(*right)),
            (left, right) => left.cmp(&right),
        }
    }
}

/// How many leading bytes are the same. Neighbours in a tree share most of
/// theirs, so eight are compared at a time.
fn common_length(left: &[u8], right: &[u8]) -> usize {
    let (lefts, rights) = (left.as_chunks::<8>().0, right.as_chunks::<8>().0);
    let same = 8 * lefts.iter().zip(rights).take_while(|(l, r)| l == r).count();
    same + left[same..].iter().zip(&right[same..]).take_while(|(l, r)| l == r).count()
}

/// The end of a component sorts before any byte of a longer one.
fn weight(byte: u8) -> u8 {
    if byte == b'/' { 0 } else { byte }
}

impl PartialOrd for ImagePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() || c == '\\' {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    write!(f, "{c}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ImagePath {
        ImagePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn parsing() {
        let long_name = "x".repeat(256);
        let long_path = "/x".repeat(2049);
        for (given, want) in [
            ("", Ok("/")),
            ("/", Ok("/")),
            ("./", Ok("/")),
            ("a/b", Ok("/a/b")),
            ("//a/./b/", Ok("/a/b")),
            ("/a/..", Err(PathError::Parent)),
            ("/a\0", Err(PathError::Nul)),
            ("/..a/b..", Ok("/..a/b..")),
            (&long_name, Err(PathError::LongName)),
            (&long_path, Err(PathError::LongPath)),
        ] {
            let parsed = ImagePath::parse(given.as_bytes());
            assert_eq!(
                parsed.as_ref().map(ImagePath::as_bytes),
                want.as_ref().map(|w| w.as_bytes()),
                "{given:?}"
            );
        }
    }

    #[test]
    fn order_keeps_subtrees_together() {
        let sorted = ["/", "/a", "/a/b", "/a/b/c", "/a!", "/a.x", "/ab", "/b"].map(path);
        for (i, left) in sorted.iter().enumerate() {
            for (j, right) in sorted.iter().enumerate() {
                assert_eq!(left.cmp(right), i.cmp(&j), "{left} and {right}");
            }
        }
    }

    #[test]
    fn relations() {
        for (child, parent, name) in
            [("/a", Some("/"), Some("a")), ("/a/b", Some("/a"), Some("b")), ("/", None, None)]
        {
            assert_eq!(path(child).parent(), parent.map(path), "{child}");
            assert_eq!(path(child).file_name(), name.map(str::as_bytes), "{child}");
        }
        for (below, above, want) in
            [("/a/b", "/a", true), ("/a", "/a", true), ("/ab", "/a", false), ("/a", "/", true)]
        {
            assert_eq!(path(below).starts_with(&path(above)), want, "{below} under {above}");
        }
        assert_eq!(path("/a").join(b"b"), Ok(path("/a/b")));
        assert_eq!(ImagePath::root().join(b"b"), Ok(path("/b")));
        assert_eq!(path("/a").join(b"b/c"), Err(PathError::NotAName));
    }

    #[test]
    fn display_escapes_what_a_terminal_would_obey() {
        let path = ImagePath::parse(b"/a\nb\xff\\\xc3\xa9").unwrap();
        assert_eq!(path.to_string(), "/a\\nb\\xff\\\\\u{e9}");
    }
}
