//! The root file system of a stage: a directory, and the index that says what is in it.
//!
//! It changes in two places only: [`Rootfs::unpack`], and the execution of a
//! step, after which the difference is applied to the index.

mod archive;
mod capabilities;
mod container;
#[cfg(test)]
pub(crate) mod crafted;
mod exclusions;
mod extract;
mod inflate;
mod isolation;
mod mounts;
mod parents;
mod pax;
mod place;
mod relocate;
mod shown;
mod sparse;
mod tree;
mod unpack;
mod users;
mod writer;

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use snapshot::{Difference, ImagePath, Index, Kind, Suspects};
use thiserror::Error;

pub use archive::{Archive, ArchiveError, Member, MemberKind, newest_file};
pub use capabilities::missing_capabilities;
pub use container::{Container, container};
pub use exclusions::{Exclusions, mount_points};
pub use extract::{ExtractError, Extracted, Extraction};
pub use inflate::{Inflated, Packing, Sniffed, decoder, inflate, sniffed};
pub(crate) use isolation::enter;
pub use isolation::{Choice, Chosen, Isolation, IsolationError, UnknownIsolation, choose};
pub use mounts::{BindMount, MountPlan, MountPoints, Point};
pub(crate) use mounts::{restore as restore_parent, time_of_parent, under};
pub(crate) use relocate::relocate;
pub use shown::Shown;
pub use tree::{Metadata, Tree, names_in};
pub use unpack::{UnpackError, Unpacked, Unpacker};
pub use users::{Accounts, Identity, UnknownUser};
pub use writer::{Attributes, WriteError, Writer};

/// Where an image has its users and groups.
pub(crate) const ACCOUNT_FILES: [&str; 2] = ["/etc/passwd", "/etc/group"];

/// Whether this is what an account file is called.
pub(crate) fn is_account_file(path: &ImagePath) -> bool {
    matches!(path.file_name(), Some(b"passwd" | b"group"))
}

/// The longest account file that is read: more is no account file.
const LONGEST_ACCOUNT_FILE: u64 = 10 << 20;

/// Why a root file system could not be used.
#[derive(Debug, Error)]
pub enum RootfsError {
    /// A call on the root failed.
    #[error("{path}: {source}")]
    Io {
        /// The path, in the image.
        path: String,
        /// What the call answered.
        source: io::Error,
    },
    /// The comparison or the index failed.
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
}

/// A directory tree that becomes an image.
#[derive(Debug)]
pub struct Rootfs {
    tree: Tree,
    index: Index,
    exclusions: Exclusions,
    /// Whether files are in the index only: see [`Rootfs::outline`].
    outline: bool,
}

impl Rootfs {
    /// An empty directory that is going to be a root.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn empty(path: &Path) -> Result<Self, RootfsError> {
        Self::open(path, Index::new(), Exclusions::default())
    }

    /// A directory with something in it that is no part of the image: the executor's own root.
    ///
    /// # Errors
    /// It cannot be opened or read.
    pub fn occupied(path: &Path, exclusions: Exclusions) -> Result<Self, RootfsError> {
        let mut rootfs = Self::open(path, Index::new(), exclusions)?;
        rootfs.note_foreign()?;
        Ok(rootfs)
    }

    /// The same with what was there before, none of which is part of the image. What the image has is the
    /// image's.
    #[must_use]
    pub fn with_foreign(mut self, before: &Index) -> Self {
        for (path, entry) in before.iter().filter(|(_, entry)| entry.foreign) {
            if !self.index.contains(path) {
                self.index.insert(path.clone(), entry.clone());
            }
        }
        self
    }

    /// Walks what is there, none of which is part of the image.
    fn note_foreign(&mut self) -> Result<(), RootfsError> {
        let found = self.difference(&Suspects::Everything)?;
        self.index.apply(&found);
        let paths: Vec<ImagePath> = self.index.iter().map(|(path, _)| path.clone()).collect();
        for path in paths {
            if let Some(entry) = self.index.get_mut(&path) {
                entry.foreign = true;
            }
        }
        Ok(())
    }

    /// A directory with something in it, all of which counts.
    ///
    /// # Errors
    /// It cannot be opened or read.
    pub fn found(path: &Path, exclusions: Exclusions) -> Result<Self, RootfsError> {
        let mut rootfs = Self::open(path, Index::new(), exclusions)?;
        let found = rootfs.difference(&Suspects::Everything)?;
        rootfs.index.apply(&found);
        Ok(rootfs)
    }

    /// A directory that is as `index` says.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path, index: Index, exclusions: Exclusions) -> Result<Self, RootfsError> {
        let tree = Tree::open(path)
            .map_err(|source| RootfsError::Io { path: path.display().to_string(), source })?;
        Ok(Self { tree, index, exclusions, outline: false })
    }

    /// Starts to apply layers; call [`Unpacker::finish`] after the last.
    pub fn unpack(&mut self) -> Unpacker<'_> {
        Unpacker::new(&self.tree, &mut self.index, &mut self.exclusions, self.outline)
    }

    /// The same as the outline of a tree, in which nobody runs programs and from which nobody copies:
    /// of layers it gets directories, links and account files, and of other files what headers say.
    #[must_use]
    pub fn outline(self) -> Self {
        Self { outline: true, ..self }
    }

    /// Whether it is an outline.
    #[must_use]
    pub fn is_outline(&self) -> bool {
        self.outline
    }

    /// A tree with its files again, once it is empty.
    ///
    /// # Errors
    /// As [`Rootfs::wipe`].
    pub fn start_over_with_files(&mut self) -> Result<(), RootfsError> {
        self.outline = false;
        self.wipe()
    }

    /// Whether nothing in it is part of an image.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.index.iter().all(|(_, entry)| entry.foreign)
    }

    /// The tree without what layers have put there.
    ///
    /// # Errors
    /// As [`Rootfs::wipe`] and [`Rootfs::occupied`].
    pub fn start_over(&mut self) -> Result<(), RootfsError> {
        let occupied = self.index.iter().any(|(_, entry)| entry.foreign);
        self.wipe()?;
        if occupied { self.note_foreign() } else { Ok(()) }
    }

    /// Whether the account files are there, if the image has them.
    ///
    /// # Errors
    /// Links that lead nowhere.
    pub fn has_account_files(&self) -> Result<bool, RootfsError> {
        for path in ACCOUNT_FILES {
            let path = ImagePath::parse(path.as_bytes()).map_err(|error| RootfsError::Io {
                path: path.to_owned(),
                source: io::Error::other(error),
            })?;
            let place = self.resolve(&path)?;
            if self.index.get(&place).is_some_and(|entry| entry.unwritten) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The directory.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What is in it, as of the last step.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// What lies below it but is no part of it.
    pub fn exclusions(&self) -> &Exclusions {
        &self.exclusions
    }

    /// The index alone, when the directory goes its own way.
    pub fn into_index(self) -> Index {
        self.index
    }

    /// What changed since the last step, looking where the suspects say.
    ///
    /// # Errors
    /// The tree cannot be read, or holds what no layer can.
    pub fn difference(&self, suspects: &Suspects) -> Result<Difference, RootfsError> {
        self.difference_from(&self.index, suspects)
    }

    /// What changed since the tree was as `before` says, looking where the suspects say.
    ///
    /// # Errors
    /// As [`Rootfs::difference`].
    pub fn difference_from(
        &self,
        before: &Index,
        suspects: &Suspects,
    ) -> Result<Difference, RootfsError> {
        let exclusions = self.exclusions.for_snapshot();
        Ok(snapshot::diff(self.tree.as_fd(), before, suspects, &exclusions)?)
    }

    /// Takes note that these foreign paths were moved about, or their times set, and put back: where
    /// one is what it was, it is no change that a layer has to hold.
    ///
    /// # Errors
    /// A path cannot be looked at.
    pub fn recognize(&mut self, paths: &[ImagePath]) -> Result<(), RootfsError> {
        for path in paths {
            let Some(known) = self.index.get(path).filter(|entry| entry.foreign) else { continue };
            let found = snapshot::observe(self.tree.as_fd(), path)?;
            if let Some(found) = found.filter(|found| known.same_metadata(&found.entry)) {
                self.index.record_seen(path, found.entry.seen);
            }
        }
        Ok(())
    }

    /// Takes a difference into the index.
    pub fn accept(&mut self, difference: &Difference) {
        self.index.apply(difference);
        self.settle();
    }

    /// Notes that the index is right as of now.
    pub fn settle(&mut self) {
        self.index.settle(now());
    }

    /// Makes the next walk read and compare all content.
    pub fn distrust(&mut self) {
        self.index.distrust();
    }

    /// Packs a difference as a layer, in a temporary file in `dir`.
    ///
    /// # Errors
    /// A file changed meanwhile, or the layer cannot be written.
    pub fn pack(
        &self,
        difference: &mut Difference,
        dir: &Path,
        options: snapshot::Options,
    ) -> Result<snapshot::Layer, RootfsError> {
        Ok(snapshot::pack(self.tree.as_fd(), difference, dir, options)?)
    }

    /// What is at `path` now, if only by the index; links are not followed.
    ///
    /// # Errors
    /// The path cannot be looked at.
    pub fn kind(&self, path: &ImagePath) -> io::Result<Option<Kind>> {
        let seen = snapshot::observe(self.tree.as_fd(), path).map_err(io::Error::other)?;
        let unwritten = || self.index.get(path).filter(|entry| entry.unwritten);
        Ok(seen.map(|seen| seen.entry.kind).or_else(|| unwritten().map(|entry| entry.kind.clone())))
    }

    /// Where `path` leads, through the links of the tree: the last component too.
    ///
    /// # Errors
    /// Too many links.
    pub fn resolve(&self, path: &ImagePath) -> Result<ImagePath, snapshot::Error> {
        self.index.resolve(path)
    }

    /// The accounts of the image.
    ///
    /// # Errors
    /// A file is there but cannot be read.
    pub fn accounts(&self) -> Result<Accounts, RootfsError> {
        let [passwd, group] = ACCOUNT_FILES;
        Ok(Accounts::parse(&self.read_small(passwd)?, &self.read_small(group)?))
    }

    /// The content of a file; nothing where it does not exist.
    fn read_small(&self, path: &str) -> Result<Vec<u8>, RootfsError> {
        use std::io::Read as _;
        let failed = |source| RootfsError::Io { path: path.to_owned(), source };
        let place =
            ImagePath::parse(path.as_bytes()).map_err(|error| failed(io::Error::other(error)))?;
        let place = self.resolve(&place)?;
        if !matches!(self.kind(&place), Ok(Some(Kind::File { .. }))) {
            return Ok(Vec::new());
        }
        let mut content = Vec::new();
        let file = self.tree.read(&place).map_err(failed)?;
        file.take(LONGEST_ACCOUNT_FILE).read_to_end(&mut content).map_err(failed)?;
        Ok(content)
    }

    /// Removes everything that is neither excluded nor above something excluded.
    ///
    /// # Errors
    /// The first removal that fails.
    pub fn wipe(&mut self) -> Result<(), RootfsError> {
        let failed = |path: &ImagePath| {
            let path = path.to_string();
            move |source| RootfsError::Io { path, source }
        };
        let mut pending = vec![ImagePath::root()];
        while let Some(dir) = pending.pop() {
            let handle = self.tree.dir(&dir).map_err(failed(&dir))?;
            let readable = rustix::fs::openat(
                &handle,
                c".",
                rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )
            .map_err(|errno| failed(&dir)(errno.into()))?;
            for name in names_in(readable.as_fd()).map_err(failed(&dir))? {
                let path = dir
                    .join(name.as_bytes())
                    .map_err(|source| snapshot::Error::Path { path: dir.clone(), source })?;
                if self.exclusions.excludes(&path) {
                    continue;
                }
                if self.exclusions.covers_any_below(&path) {
                    pending.push(path);
                } else {
                    self.tree.remove(&path).map_err(failed(&path))?;
                }
            }
        }
        self.index = Index::new();
        Ok(())
    }
}

fn now() -> snapshot::Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    snapshot::Timestamp::new(now.tv_sec, u32::try_from(now.tv_nsec).unwrap_or(0))
}
