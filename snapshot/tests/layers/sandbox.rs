//! A tree in a temporary directory, and the language that describes one:
//! `/` root, `/d/` directory, `/a=1` file, `/l->t` symbolic link, `/b==/a`
//! hard link, `/p|` FIFO. All times are the same, so that only what the
//! description says can differ.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};
use snapshot::{
    Compression, Difference, Error, Exclusions, ImagePath, Index, Layer, Options, Suspects,
    Timestamp, diff, observe, pack,
};
use tempfile::TempDir;

pub(crate) const PLAIN: Options =
    Options { compression: Compression::None, threads: 1, latest: None };

pub(crate) fn path(text: &str) -> ImagePath {
    ImagePath::parse(text.as_bytes()).unwrap()
}

pub(crate) fn paths(text: &[&str]) -> Vec<ImagePath> {
    text.iter().map(|text| path(text)).collect()
}

pub(crate) fn only(text: &[&str]) -> Suspects {
    Suspects::Only { paths: paths(text), trees: Vec::new() }
}

pub(crate) struct Sandbox {
    dir: TempDir,
    root: OwnedFd,
}

impl Sandbox {
    pub(crate) fn new(description: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("layers")).unwrap();
        let root = open(&dir.path().join("root"));
        let sandbox = Self { dir, root };
        sandbox.build(description);
        sandbox
    }

    /// The same place once another directory was put there.
    pub(crate) fn adopt(other: Self) -> Self {
        let root = open(&other.at("/"));
        Self { dir: other.dir, root }
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.dir.path().join("layers")
    }

    /// The host's path of a path of the tree.
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.host(&self::path(path))
    }

    pub(crate) fn host(&self, path: &ImagePath) -> PathBuf {
        self.dir.path().join("root").join(std::ffi::OsStr::from_bytes(path.relative()))
    }

    /// Replaces the whole tree.
    pub(crate) fn build(&self, description: &str) {
        for old in fs::read_dir(self.at("/")).unwrap() {
            let old = old.unwrap().path();
            if old.symlink_metadata().unwrap().is_dir() {
                fs::remove_dir_all(old).unwrap();
            } else {
                fs::remove_file(old).unwrap();
            }
        }
        description.split_whitespace().for_each(|word| self.make(word));
        for word in description.split_whitespace() {
            let end = word.find(['=', '|']).unwrap_or(word.len());
            let end = word.find("->").unwrap_or(end);
            set_mtime(&self.at(&word[..end]), 1_000_000, 0);
        }
    }

    fn make(&self, word: &str) {
        if let Some((new, existing)) = word.split_once("==") {
            fs::hard_link(self.at(existing), self.at(new)).unwrap();
        } else if let Some((file, content)) = word.split_once('=') {
            fs::write(self.at(file), content).unwrap();
        } else if let Some((link, target)) = word.split_once("->") {
            std::os::unix::fs::symlink(target, self.at(link)).unwrap();
        } else if let Some(fifo) = word.strip_suffix('|') {
            make_fifo(&self.at(fifo));
        } else if word != "/" {
            fs::create_dir(self.at(word)).unwrap();
        }
    }

    /// The tree as it is now, with fingerprints, as unpacking would index it.
    pub(crate) fn index(&self) -> Index {
        self.index_without(&Exclusions::none())
    }

    pub(crate) fn index_without(&self, exclusions: &Exclusions) -> Index {
        let mut index = Index::new();
        let root = observe(self.root(), &ImagePath::root()).unwrap().unwrap();
        index.insert(ImagePath::root(), root.entry);
        let mut all = diff(self.root(), &index, &Suspects::Everything, exclusions).unwrap();
        pack(self.root(), &mut all, &self.layers(), PLAIN).unwrap();
        index.apply(&all);
        index.settle(now());
        index
    }

    pub(crate) fn diff(&self, index: &Index, suspects: &Suspects) -> Difference {
        diff(self.root(), index, suspects, &Exclusions::none()).unwrap()
    }

    /// The difference to the tree as it is now, by the walk.
    pub(crate) fn walk(&self, index: &Index) -> Difference {
        self.diff(index, &Suspects::Everything)
    }

    pub(crate) fn pack(&self, difference: &mut Difference) -> Result<Layer, Error> {
        pack(self.root(), difference, &self.layers(), PLAIN)
    }

    /// The layer's archive, uncompressed.
    pub(crate) fn archive(&self, difference: &mut Difference) -> Vec<u8> {
        fs::read(self.pack(difference).unwrap().path()).unwrap()
    }
}

fn open(dir: &Path) -> OwnedFd {
    rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .unwrap()
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::new(i64::try_from(since.as_secs()).unwrap(), since.subsec_nanos())
}

pub(crate) fn set_mtime(path: &Path, secs: i64, nanos: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

pub(crate) fn make_fifo(path: &Path) {
    rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o644), 0)
        .unwrap();
}
