//! What a command read, and what it found there.
//!
//! # The promise
//!
//! A command that finds in another tree what the read set says would do there
//! what it did: its layer may be taken. Contents are told apart by SHA-256, as
//! in keys. Times are no inputs, as in keys: for the times of a file its
//! content stands, for those of a directory the names in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{Read as _, Write as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use snapshot::{Entry, ImagePath, Index, Kind};
use thiserror::Error;
use tracer::Access;

use crate::image::{Digest, Image, ImageConfig};
use crate::plan::Framed;

/// Where the config of an entry holds it.
const FIELD: &str = "kaniko-rs.read-set";

/// The first line of a written one.
const VERSION: &str = "kaniko-rs read set 1";

/// As much of a digest as is kept of each path.
const KEPT: usize = 20;

/// The most paths that are kept. More would take longer to compare than most commands run.
const MOST_PATHS: usize = 200_000;

/// No read set is longer than this when it is read.
const MOST_BYTES: u64 = 64 << 20;

/// Why there is no read set.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoReadSet {
    /// Its content cannot be told any more.
    #[error("it changed {0}, which was there before")]
    Changed(ImagePath),
    /// A path that no image can hold.
    #[error("it looked at {0}, which is no path of an image")]
    Path(String),
    /// Too much to be worth it.
    #[error("it read {0} paths")]
    TooMany(usize),
}

/// What a path is, as far as an access goes.
type Value = [u8; KEPT];

/// Paths, and what was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadSet(BTreeMap<ImagePath, (Access, Value)>);

/// The tree that a command is to find.
pub struct Before<'t> {
    /// What is where.
    pub index: &'t Index,
    /// The digest of the content of a file; nothing where nobody can tell.
    pub content: &'t dyn Fn(&ImagePath) -> Option<Digest>,
}

impl fmt::Debug for Before<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Before")
    }
}

impl ReadSet {
    /// What a command found that looked at these paths, but for those at or below `left_out`.
    ///
    /// # Errors
    /// Something that it may have found is not known.
    pub fn of(
        known: &BTreeMap<Vec<u8>, Access>,
        left_out: &[ImagePath],
        before: &Before<'_>,
    ) -> Result<Self, NoReadSet> {
        let mut wanted: BTreeMap<ImagePath, Access> = BTreeMap::new();
        for (path, access) in known {
            let parsed = ImagePath::parse(path);
            let path = parsed.map_err(|_| NoReadSet::Path(path.escape_ascii().to_string()))?;
            if left_out.iter().any(|out| path.starts_with(out)) {
                continue;
            }
            for above in path.ancestors() {
                wanted.entry(above).or_insert(Access::Look);
            }
            let known = wanted.entry(path).or_insert(*access);
            *known = (*known).max(*access);
        }
        if wanted.len() > MOST_PATHS {
            return Err(NoReadSet::TooMany(wanted.len()));
        }
        let valued = wanted.into_iter().map(|(path, access)| {
            let value = before.value(&path, access)?;
            Ok((path, (access, value)))
        });
        valued.collect::<Result<_, _>>().map(Self)
    }

    /// How many paths it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a command looked at nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first `most` paths at which a command would find something else, in words, and how many
    /// there are.
    #[must_use]
    pub fn differences(&self, before: &Before<'_>, most: usize) -> (Vec<String>, usize) {
        let (mut told, mut count) = (Vec::new(), 0);
        for (path, (access, was)) in &self.0 {
            let now = before.value(path, *access).ok();
            if now.as_ref() == Some(was) {
                continue;
            }
            count += 1;
            if told.len() < most {
                told.push(in_words(path, *access, *was, now, before.index));
            }
        }
        (told, count)
    }

    /// Whether a command would find the same, cheaper than [`ReadSet::differences`].
    #[must_use]
    pub fn holds(&self, before: &Before<'_>) -> bool {
        // What was only looked at costs nothing to compare.
        let (looks, rest): (Vec<_>, Vec<_>) =
            self.0.iter().partition(|(_, (access, _))| *access == Access::Look);
        looks
            .into_iter()
            .chain(rest)
            .all(|(path, (access, was))| before.value(path, *access).as_ref() == Ok(was))
    }

    /// Keeps it in a config.
    pub(super) fn write_to(&self, config: &mut ImageConfig) {
        config.other.insert(FIELD.to_owned(), serde_json::Value::String(self.encoded()));
    }

    /// The read set of an entry, if it has one.
    #[must_use]
    pub fn read(image: &Image) -> Option<Self> {
        Self::parse(image.config().other.get(FIELD)?.as_str()?)
    }

    /// Lines, compressed: configs are not.
    fn encoded(&self) -> String {
        let mut gzip = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        let mut put = |bytes: &[u8]| gzip.write_all(bytes).expect("memory takes all");
        put(VERSION.as_bytes());
        for (path, (access, value)) in &self.0 {
            put(&(path.as_bytes().len() as u64).to_le_bytes());
            put(path.as_bytes());
            put(&[sign(*access)]);
            put(value);
        }
        let bytes = gzip.finish().expect("memory takes all");
        STANDARD_NO_PAD.encode(bytes)
    }

    fn parse(text: &str) -> Option<Self> {
        let packed = STANDARD_NO_PAD.decode(text).ok()?;
        let mut bytes = Vec::new();
        let unpacked = flate2::read::ZlibDecoder::new(&packed[..]);
        unpacked.take(MOST_BYTES + 1).read_to_end(&mut bytes).ok()?;
        if bytes.len() as u64 > MOST_BYTES {
            return None;
        }
        let mut rest = bytes.strip_prefix(VERSION.as_bytes())?;
        let mut paths = BTreeMap::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<8>()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            let (path, after) = after.split_at_checked(length)?;
            let (access, after) = after.split_first()?;
            let (value, after) = after.split_first_chunk::<KEPT>()?;
            paths.insert(ImagePath::parse(path).ok()?, (access_of(*access)?, *value));
            rest = after;
        }
        Some(Self(paths))
    }
}

fn sign(access: Access) -> u8 {
    match access {
        Access::Look => b'l',
        Access::Change => b'c',
        Access::Read => b'r',
        Access::Tree => b't',
    }
}

fn access_of(sign: u8) -> Option<Access> {
    [Access::Look, Access::Change, Access::Read, Access::Tree]
        .into_iter()
        .find(|access| self::sign(*access) == sign)
}

fn in_words(
    path: &ImagePath,
    access: Access,
    was: Value,
    now: Option<Value>,
    index: &Index,
) -> String {
    let is_dir = index.get(path).is_some_and(Entry::is_dir);
    if was == absent() {
        return format!("{path}, which is new");
    }
    match now {
        Some(now) if now == absent() => format!("{path}, which is gone"),
        Some(_) if is_dir && access == Access::Read => format!("{path}, where other names are"),
        Some(_) | None => format!("{path}, which changed"),
    }
}

fn absent() -> Value {
    finish(Framed::new("nothing"))
}

fn finish(framed: Framed) -> Value {
    let bytes = framed.finish().bytes();
    *bytes.first_chunk().expect("a digest is longer")
}

impl Before<'_> {
    fn value(&self, path: &ImagePath, access: Access) -> Result<Value, NoReadSet> {
        let Some(entry) = self.index.get(path) else { return Ok(absent()) };
        if access != Access::Tree {
            return self.framed(path, entry, access).map(finish);
        }
        let start = Ok(Framed::new("tree"));
        let all = self.index.subtree(path).try_fold(start, |framed, (below, entry)| {
            let framed = framed?.part(below.as_bytes());
            let value = finish(self.framed(below, entry, Access::Read)?);
            Ok(Ok(framed.part(&value)))
        });
        all?.map(finish)
    }

    fn framed(&self, path: &ImagePath, entry: &Entry, access: Access) -> Result<Framed, NoReadSet> {
        let framed = metadata(entry);
        Ok(match &entry.kind {
            Kind::File { size } if access >= Access::Change => {
                let content =
                    (self.content)(path).ok_or_else(|| NoReadSet::Changed(path.clone()))?;
                let names: BTreeSet<&ImagePath> = self.index.names_linked_with(path).collect();
                let framed = framed.number(*size).digest(content).number(names.len() as u64);
                names.iter().fold(framed, |framed, name| framed.part(name.as_bytes()))
            }
            Kind::Dir if access >= Access::Read => {
                self.index.children(path).fold(framed, |framed, (child, entry)| {
                    let name = child.file_name().unwrap_or_default();
                    framed.part(name).part(&[type_of(&entry.kind)])
                })
            }
            Kind::File { .. }
            | Kind::Dir
            | Kind::Symlink { .. }
            | Kind::Fifo
            | Kind::CharDevice { .. }
            | Kind::BlockDevice { .. }
            | Kind::Socket => framed,
        })
    }
}

/// All but times, size and content. The mode of a link means nothing.
fn metadata(entry: &Entry) -> Framed {
    let mode = if matches!(entry.kind, Kind::Symlink { .. }) { 0 } else { entry.mode };
    let framed = Framed::new("something")
        .part(&[type_of(&entry.kind)])
        .number(u64::from(mode))
        .number(u64::from(entry.uid))
        .number(u64::from(entry.gid));
    let framed = match &entry.kind {
        Kind::Symlink { target } => framed.part(target),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            framed.number(u64::from(*major)).number(u64::from(*minor))
        }
        Kind::File { .. } | Kind::Dir | Kind::Fifo | Kind::Socket => framed,
    };
    let count = entry.xattrs.iter().count() as u64;
    let framed = framed.number(count);
    entry.xattrs.iter().fold(framed, |framed, (name, value)| framed.part(name).part(value))
}

fn type_of(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => b'f',
        Kind::Dir => b'd',
        Kind::Symlink { .. } => b'l',
        Kind::Fifo => b'p',
        Kind::CharDevice { .. } => b'c',
        Kind::BlockDevice { .. } => b'b',
        Kind::Socket => b's',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ImagePath {
        ImagePath::parse(text.as_bytes()).expect("a path")
    }

    /// A tree from lines: `/d/` is a directory, `/f=text` a file, `/l->target` a link; `mode:` before
    /// it sets the mode, and a second name after `&` is another name of the file.
    fn tree(lines: &[&str]) -> (Index, BTreeMap<ImagePath, Digest>) {
        let (mut index, mut contents) = (Index::new(), BTreeMap::new());
        index.insert(ImagePath::root(), Entry::new(Kind::Dir, 0o755));
        for line in lines {
            let (mode, line) = line.split_once(':').unwrap_or(("644", line));
            let mode = u32::from_str_radix(mode, 8).expect("a mode");
            if let Some((name, target)) = line.split_once("->") {
                let target = target.as_bytes().into();
                index.insert(path(name), Entry::new(Kind::Symlink { target }, mode));
            } else if let Some((name, text)) = line.split_once('=') {
                let (text, other) = text.split_once('&').unwrap_or((text, ""));
                let size = text.len() as u64;
                index.insert(path(name), Entry::new(Kind::File { size }, mode));
                contents.insert(path(name), Digest::of(text.as_bytes()));
                if !other.is_empty() {
                    index.link(&path(name), path(other)).expect("a link");
                    contents.insert(path(other), Digest::of(text.as_bytes()));
                }
            } else {
                index.insert(path(line.trim_end_matches('/')), Entry::new(Kind::Dir, mode));
            }
        }
        (index, contents)
    }

    const TREE: &[&str] =
        &["/d/", "/d/f=1", "/d/sub/", "/d/sub/g=2", "/l->d", "/h=3&/d/h2", "/other=4"];

    fn known(list: &[(&str, Access)]) -> BTreeMap<Vec<u8>, Access> {
        list.iter().map(|(path, access)| (path.as_bytes().to_vec(), *access)).collect()
    }

    /// What a set that was taken of TREE says of another one.
    fn told(list: &[(&str, Access)], lines: &[&str]) -> String {
        let (index, contents) = tree(TREE);
        let content = |path: &ImagePath| contents.get(path).copied();
        let before = Before { index: &index, content: &content };
        let set = ReadSet::of(&known(list), &[path("/mnt")], &before).expect("all is known");
        assert!(set.holds(&before), "{list:?}");
        assert_eq!(ReadSet::parse(&set.encoded()).as_ref(), Some(&set));
        let (index, contents) = tree(lines);
        let content = |path: &ImagePath| contents.get(path).copied();
        let now = Before { index: &index, content: &content };
        let (told, count) = set.differences(&now, 1);
        assert_eq!(set.holds(&now), count == 0, "{list:?}");
        told.first().map_or_else(|| "holds".to_owned(), Clone::clone)
    }

    fn changed(from: &str, to: &str) -> Vec<String> {
        let lines = TREE.iter().map(|line| if *line == from { to } else { line });
        lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn what_was_read_counts_and_nothing_else() {
        use Access::{Change, Look, Read, Tree};
        for (at, access, from, to, want) in [
            ("/d/f", Read, "/other=4", "/other=5", "holds"),
            ("/d/f", Read, "/other=4", "", "holds"),
            ("/d/f", Read, "/d/f=1", "/d/f=9", "/d/f, which changed"),
            ("/d/f", Read, "/d/f=1", "755:/d/f=1", "/d/f, which changed"),
            ("/d/f", Read, "/d/f=1", "", "/d/f, which is gone"),
            ("/d/f", Read, "/d/f=1", "/d/f->1", "/d/f, which changed"),
            ("/d/f", Read, "/d/", "700:/d/", "/d, which changed"),
            ("/d/f", Read, "/d/sub/g=2", "/d/sub/g=3", "holds"),
            ("/d/f", Look, "/d/f=1", "/d/f=9", "holds"),
            ("/d/f", Look, "/d/f=1", "/d/f=12", "holds"),
            ("/d/f", Look, "/d/f=1", "755:/d/f=1", "/d/f, which changed"),
            ("/d/f", Change, "/d/f=1", "/d/f=9", "/d/f, which changed"),
            ("/d/none", Look, "/d/f=1", "/d/none=", "/d/none, which is new"),
            ("/d/none/x", Look, "/d/f=1", "/d/none=", "/d/none, which is new"),
            ("/d", Look, "/d/f=1", "/d/f2=1", "holds"),
            ("/d", Change, "/d/f=1", "/d/f2=1", "holds"),
            ("/d", Read, "/d/f=1", "/d/f2=1", "/d, where other names are"),
            ("/d", Read, "/d/f=1", "/d/f/", "/d, where other names are"),
            ("/d", Read, "/d/f=1", "/d/f=2", "holds"),
            ("/d", Read, "/d/sub/g=2", "/d/sub/g2=2", "holds"),
            ("/d", Tree, "/d/sub/g=2", "/d/sub/g=3", "/d, which changed"),
            ("/d", Tree, "/d/sub/g=2", "/d/sub/g2=2", "/d, which changed"),
            ("/d", Tree, "/other=4", "/other=5", "holds"),
            ("/l", Look, "/l->d", "/l->e", "/l, which changed"),
            ("/l", Look, "/l->d", "777:/l->d", "holds"),
            ("/h", Read, "/h=3&/d/h2", "/h=3", "/h, which changed"),
            ("/h", Look, "/h=3&/d/h2", "/h=3", "holds"),
            ("/mnt/x", Read, "/other=4", "/mnt/x=4", "holds"),
        ] {
            let lines = changed(from, to);
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            assert_eq!(told(&[(at, access)], &lines), want, "{at} {access:?}: {from} to {to}");
        }
    }

    #[test]
    fn what_is_not_known_makes_no_set() {
        let (index, _) = tree(TREE);
        let before = Before { index: &index, content: &|_| None };
        let set = |at, access| ReadSet::of(&known(&[(at, access)]), &[], &before);
        assert_eq!(set("/d/f", Access::Read), Err(NoReadSet::Changed(path("/d/f"))));
        assert_eq!(set("/d", Access::Tree), Err(NoReadSet::Changed(path("/d/f"))));
        assert_eq!(set("/d/f", Access::Look).map(|set| set.len()), Ok(3));
        assert_eq!(set("d/../x", Access::Look), Err(NoReadSet::Path("d/../x".to_owned())));
    }

    #[test]
    fn what_is_damaged_is_none() {
        for text in ["", "?", "AAAA"] {
            assert_eq!(ReadSet::parse(text), None, "{text}");
        }
    }
}
