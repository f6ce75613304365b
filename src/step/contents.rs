//! What COPY would copy, as values: for the keys of a cache.
//!
//! It goes the way of [`super::Copier`] and takes what that takes: name below
//! the destination, type, mode, owner where it is kept, attributes, link
//! group, content. Times are no part of it, as in the reference: a checkout
//! gives every file a new one. But where an epoch is set, the same inputs make
//! the same bytes, and so what is left of times counts: those before it.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FileType, Stat};
use snapshot::Timestamp;

use super::attributes::xattrs_of;
use super::copy::CopyError;
use super::known::KnownFiles;
use super::selection::{Part, Verdict};
use super::sources::{Found, SourceTree, open_file, split_last, stat_at};
use crate::context::Ignore;
use crate::image::{Digest, Hasher};
use crate::plan::{Framed, Input};
use crate::rootfs::names_in;

/// How much of a file is read at a time, in bytes.
const PIECE: usize = 128 << 10;

/// What is wanted of sources.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// `--parents`
    pub parents: bool,
    /// `--exclude`
    pub exclude: Option<&'a Ignore>,
    /// Times count, and none is later than this.
    pub latest: Option<Timestamp>,
    /// Files that did not change since they were hashed.
    pub known: Option<&'a KnownFiles>,
}

/// What the sources `written` bring, each file and directory by the name that it gets.
///
/// # Errors
/// As the copy itself: a source that is not there or cannot be read.
pub fn contents(
    sources: &SourceTree<'_>,
    written: &str,
    wanted: Wanted<'_>,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Input>, CopyError> {
    let exclude = wanted.exclude;
    let mut listing =
        Listing { sources, exclude, items: Vec::new(), dirs: Vec::new(), interrupted };
    if wanted.parents {
        let parents = sources.parents(written)?;
        for start in &parents.starts {
            listing.source(start, parents.only.as_ref())?;
        }
    } else {
        for found in sources.find(written)? {
            listing.source(&found, None)?;
        }
    }
    let Listing { items, dirs, .. } = listing;
    let mut inputs = hashed(sources, &items, wanted, interrupted)?;
    // An empty directory makes its destination; a pattern that matches nothing does not.
    let counted = Framed::new("directories").number(dirs.len() as u64);
    let times =
        wanted.latest.into_iter().flat_map(|latest| dirs.iter().map(move |it| *it.min(&latest)));
    let digest = times.fold(counted, timed).finish();
    inputs.push(Input { name: ".".to_owned(), digest });
    Ok(inputs)
}

/// What one source brings that was found by its name.
///
/// # Errors
/// It cannot be read.
pub fn contents_of(
    sources: &SourceTree<'_>,
    found: &Found,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Input>, CopyError> {
    let mut listing =
        Listing { sources, exclude: None, items: Vec::new(), dirs: Vec::new(), interrupted };
    listing.source(found, None)?;
    hashed(sources, &listing.items, Wanted::default(), interrupted)
}

/// One path that is copied.
struct Item {
    /// Below the sources.
    path: PathBuf,
    /// Below the destination.
    name: PathBuf,
    /// Which of the sources it belongs to, for groups of hard links.
    source: usize,
    stat: Stat,
}

struct Listing<'a, 's> {
    sources: &'a SourceTree<'s>,
    exclude: Option<&'a Ignore>,
    items: Vec<Item>,
    /// When those of the sources were changed that are directories.
    dirs: Vec<Timestamp>,
    interrupted: &'a (dyn Fn() -> bool + Sync),
}

impl Listing<'_, '_> {
    fn source(&mut self, found: &Found, only: Option<&Ignore>) -> Result<(), CopyError> {
        let source = self.items.len();
        let (parent, name) = split_last(&found.path);
        let failed = |error| self.sources.at(&found.path, error);
        let dir = self.sources.open_dir(&parent).map_err(failed)?;
        let stat = match &name {
            Some(name) => stat_at(&dir, name).map_err(failed)?,
            None => rustix::fs::fstat(&dir).map_err(|errno| failed(errno.into()))?,
        };
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            self.dirs.push(modified(&stat));
            return self.below(Part::of(&found.path).only(only), &found.path, source);
        }
        if Part::file().verdict(&found.path, self.exclude, self.sources) == Verdict::In {
            let (path, name) = (found.path.clone(), PathBuf::from(&found.name));
            self.items.push(Item { path, name, source, stat });
        }
        Ok(())
    }

    fn below(&mut self, part: Part<'_>, from: &Path, source: usize) -> Result<(), CopyError> {
        let failed = |error| self.sources.at(from, error);
        let dir = self.sources.open_dir(from).map_err(failed)?;
        for name in names_in(dir.as_fd()).map_err(failed)? {
            if (self.interrupted)() {
                return Err(CopyError::Interrupted);
            }
            self.entry(part, &dir, &name, from, source)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        part: Part<'_>,
        dir: &OwnedFd,
        name: &CString,
        from: &Path,
        source: usize,
    ) -> Result<(), CopyError> {
        let path = from.join(OsStr::from_bytes(name.as_bytes()));
        let stat = stat_at(dir, name).map_err(|error| self.sources.at(&path, error))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let verdict = part.verdict(&path, self.exclude, self.sources);
        let taken = match verdict {
            Verdict::In => !kind.is_socket(),
            Verdict::Out => false,
            Verdict::WithContent | Verdict::PerhapsBelow => {
                kind.is_dir() && part.holds_any(&path, self.exclude, self.sources)?
            }
        };
        if !taken {
            return Ok(());
        }
        let name = path.strip_prefix(part.start()).unwrap_or(&path).to_owned();
        self.items.push(Item { path: path.clone(), name, source, stat });
        if kind.is_dir() { self.below(part, &path, source) } else { Ok(()) }
    }
}

/// Hashes all items, on all processors.
fn hashed(
    sources: &SourceTree<'_>,
    items: &[Item],
    wanted: Wanted<'_>,
    interrupted: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Input>, CopyError> {
    let groups = link_groups(items);
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(items.len()));
    let work = || -> Result<(), CopyError> {
        let mut own = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { break };
            if interrupted() {
                return Err(CopyError::Interrupted);
            }
            own.push((at, digest(sources, item, groups.get(&at).copied(), wanted)?));
        }
        done.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(own);
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(items.len())).map(|_| scope.spawn(work)).collect();
        let own = work();
        others
            .into_iter()
            .fold(own, |result, other| result.and(other.join().expect("hashing does not panic")))
    })?;
    let mut digests = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    digests.sort_unstable_by_key(|(at, _)| *at);
    let named = items.iter().zip(digests).map(|(item, (_, digest))| Input {
        name: item.name.to_string_lossy().into_owned(),
        digest,
    });
    let mut inputs: Vec<Input> = named.collect();
    // Neither the order of a directory's names nor that of sources which do not overlap counts; where
    // two sources bring one name, the last one counts.
    inputs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(inputs)
}

/// For each further name of an inode within a source, the first name in order.
fn link_groups(items: &[Item]) -> BTreeMap<usize, &Path> {
    let mut firsts: BTreeMap<(usize, u64, u64), &Path> = BTreeMap::new();
    let linked = |item: &Item| {
        item.stat.st_nlink > 1 && !FileType::from_raw_mode(item.stat.st_mode).is_dir()
    };
    let group = |item: &Item| (item.source, item.stat.st_dev, item.stat.st_ino);
    for item in items.iter().filter(|item| linked(item)) {
        let first = firsts.entry(group(item)).or_insert(&item.name);
        *first = (*first).min(&item.name);
    }
    let further = items.iter().enumerate().filter(|(_, item)| linked(item));
    further
        .filter_map(|(at, item)| Some((at, *firsts.get(&group(item))?)))
        .filter(|(at, first)| items[*at].name != *first)
        .collect()
}

fn digest(
    sources: &SourceTree<'_>,
    item: &Item,
    linked_to: Option<&Path>,
    wanted: Wanted<'_>,
) -> Result<Digest, CopyError> {
    let failed = |error| sources.at(&item.path, error);
    let kind = FileType::from_raw_mode(item.stat.st_mode);
    let mut framed = Framed::new("file")
        .part(item.name.as_os_str().as_bytes())
        .number(u64::from(item.stat.st_mode));
    if sources.keeps_owners() {
        framed = framed.number(u64::from(item.stat.st_uid)).number(u64::from(item.stat.st_gid));
    }
    if let Some(latest) = wanted.latest {
        framed = timed(framed, modified(&item.stat).min(latest));
    }
    if let Some(first) = linked_to {
        return Ok(framed.part(b"link").part(first.as_os_str().as_bytes()).finish());
    }
    let (parent, name) = split_last(&item.path);
    let dir = || sources.open_dir(&parent).map_err(failed);
    let name = || name.clone().ok_or_else(|| failed(io::ErrorKind::NotFound.into()));
    match kind {
        FileType::RegularFile => {
            let known = wanted.known.and_then(|known| known.find(&item.stat));
            let body = match known {
                Some(body) => body,
                None => {
                    let file = open_file(&dir()?, &name()?).map_err(failed)?;
                    body(file, wanted.known).map_err(failed)?
                }
            };
            framed = framed.digest(body);
        }
        FileType::Directory => {
            let opened = File::from(sources.open_dir(&item.path).map_err(failed)?);
            framed = with_xattrs(framed, &opened).map_err(failed)?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(&dir()?, &name()?, Vec::new());
            framed = framed.part(target.map_err(|errno| failed(errno.into()))?.as_bytes());
        }
        FileType::CharacterDevice | FileType::BlockDevice => {
            framed = framed.number(item.stat.st_rdev);
        }
        FileType::Fifo | FileType::Socket | FileType::Unknown => {}
    }
    Ok(framed.finish())
}

/// Attributes and content of a file.
fn body(file: File, known: Option<&KnownFiles>) -> io::Result<Digest> {
    let stat = rustix::fs::fstat(&file)?;
    let framed = with_xattrs(Framed::new("body"), &file)?;
    let body = framed.digest(content(file)?).finish();
    if let Some(known) = known {
        known.note(&stat, body);
    }
    Ok(body)
}

fn timed(framed: Framed, time: Timestamp) -> Framed {
    framed.part(b"time").part(&time.secs().to_le_bytes()).number(u64::from(time.nanos()))
}

fn modified(stat: &Stat) -> Timestamp {
    Timestamp::new(stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or_default())
}

fn with_xattrs(framed: Framed, file: &File) -> io::Result<Framed> {
    let mut xattrs = xattrs_of(file)?;
    xattrs.sort();
    let framed = framed.number(xattrs.len() as u64);
    Ok(xattrs.iter().fold(framed, |framed, (name, value)| framed.part(name).part(value)))
}

fn content(mut file: File) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(hasher.finish().0),
            Ok(n) => hasher.update(&piece[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    /// What `COPY src /` brings, when the context was made so.
    fn of(make: impl FnOnce(&Path)) -> Vec<Input> {
        at_epoch(None, make)
    }

    fn at_epoch(latest: Option<Timestamp>, make: impl FnOnce(&Path)) -> Vec<Input> {
        let dir = tempfile::tempdir().expect("a directory");
        let own = tempfile::tempdir().expect("a directory");
        let src = dir.path().join("src");
        std::fs::create_dir_all(src.join("d")).expect("made");
        std::fs::write(src.join("a"), "a").expect("written");
        std::fs::write(src.join("d/b"), "b").expect("written");
        make(&src);
        let ignore = Ignore::parse(b"**/ignored\n").expect("patterns");
        let exclude = Ignore::parse(b"*.md\n").expect("patterns");
        let tree = SourceTree::context(dir.path(), Some(&ignore), own.path(), "the context");
        let tree = tree.expect("it is there");
        let wanted = Wanted { exclude: Some(&exclude), latest, ..Wanted::default() };
        contents(&tree, "src", wanted, &|| false).expect("readable")
    }

    #[test]
    fn what_is_copied_counts_and_nothing_else() {
        let base = of(|_| {});
        let names: Vec<&str> = base.iter().map(|input| input.name.as_str()).collect();
        assert_eq!(names, ["a", "d", "d/b", "."]);
        type Change = fn(&Path);
        let changes: &[(&str, bool, Change)] = &[
            ("content", true, |src| std::fs::write(src.join("d/b"), "c").expect("written")),
            ("length", true, |src| std::fs::write(src.join("a"), "aa").expect("written")),
            ("name", true, |src| std::fs::rename(src.join("a"), src.join("A")).expect("moved")),
            ("place", true, |src| std::fs::rename(src.join("a"), src.join("d/a")).expect("moved")),
            ("mode", true, |src| {
                let mode = std::fs::Permissions::from_mode(0o755);
                std::fs::set_permissions(src.join("a"), mode).expect("set");
            }),
            ("mode of a directory", true, |src| {
                let mode = std::fs::Permissions::from_mode(0o700);
                std::fs::set_permissions(src.join("d"), mode).expect("set");
            }),
            ("an empty directory", true, |src| std::fs::create_dir(src.join("e")).expect("made")),
            ("type", true, |src| {
                std::fs::remove_file(src.join("a")).expect("removed");
                symlink("a", src.join("a")).expect("linked");
            }),
            ("a hard link", true, |src| {
                std::fs::hard_link(src.join("a"), src.join("c")).expect("linked");
            }),
            ("attribute", true, |src| {
                xattr::set(src.join("a"), "user.x", b"1").expect("set");
            }),
            ("time", false, |src| {
                let file = File::options().write(true).open(src.join("a")).expect("open");
                file.set_modified(std::time::UNIX_EPOCH).expect("set");
            }),
            ("what is ignored", false, |src| {
                std::fs::write(src.join("ignored"), "x").expect("written");
            }),
            ("what is excluded", false, |src| {
                std::fs::write(src.join("x.md"), "x").expect("written");
            }),
            ("what is beside it", false, |src| {
                std::fs::write(src.with_file_name("other"), "x").expect("written");
            }),
        ];
        for (what, counts, change) in changes {
            let changed = of(change) != base;
            assert_eq!(changed, *counts, "{what}");
        }
    }

    #[test]
    fn with_an_epoch_the_times_before_it_count() {
        let at = |seconds: u64| {
            move |src: &Path| {
                for path in [src.join("a"), src.join("d/b"), src.join("d"), src.to_owned()] {
                    let file = File::open(path).expect("open");
                    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
                    file.set_modified(time).expect("set");
                }
            }
        };
        let epoch = Some(Timestamp::new(1000, 0));
        assert_eq!(at_epoch(epoch, at(2000)), at_epoch(epoch, at(3000)), "later ones do not");
        assert_ne!(at_epoch(epoch, at(500)), at_epoch(epoch, at(3000)));
        assert_ne!(at_epoch(epoch, at(500)), at_epoch(epoch, at(501)));
        let of_the_root_alone = |src: &Path| {
            at(2000)(src);
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(500);
            File::open(src).and_then(|src| src.set_modified(time)).expect("set");
        };
        assert_ne!(at_epoch(epoch, of_the_root_alone), at_epoch(epoch, at(2000)));
    }

    #[test]
    fn hard_links_differ_from_copies() {
        let copy = of(|src| std::fs::write(src.join("c"), "a").expect("written"));
        let link = of(|src| std::fs::hard_link(src.join("a"), src.join("c")).expect("linked"));
        assert_ne!(copy, link);
    }
}
