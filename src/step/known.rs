//! Digests of files that did not change since they were hashed.
//!
//! # When a file is taken for unchanged
//!
//! Its device, inode, size and ctime are those of then, on the same boot of the
//! same kernel. Nobody can set a ctime (inode(7)); a change of content, mode,
//! owner or attributes makes it the present time, as far as the kernel's clock
//! goes. What is written through a shared mapping changes it only when a page
//! that was clean becomes dirty (mmap(2), NOTES). So a digest is kept only of a
//! file whose ctime was [`SETTLED`] in the past when it was read: by then its
//! pages have been written back, and whatever changes it later changes the
//! ctime, too. And only where the file system is known to keep that promise:
//! not on tmpfs, which writes nothing back, nor on the network or in user space.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rustix::fs::Stat;

use crate::image::Digest;
use crate::plan::Framed;

/// The first bytes of the file, which say how the rest is to be read.
const HEAD: &[u8] = b"kaniko-rs known files 1\n";

/// Bytes of one file: five numbers and a digest.
const ENTRY: usize = 5 * 8 + 32;

/// The most files that are kept of one context.
const MOST: usize = 1 << 20;

/// How long ago, in seconds, a file was changed at least: twice what a page stays dirty by default (30 s, and 5 s
/// from one look to the next; `vm.dirty_expire_centisecs` of the kernel's `sysctl/vm.rst`).
const SETTLED: i64 = 70;

/// Lists that nobody used for so long are removed.
const OLD: Duration = Duration::from_secs(30 * 86_400);

/// ext2 to ext4, XFS, Btrfs, overlayfs, F2FS, ZFS (statfs(2)).
const PRECISE: [i64; 6] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x794c_7630, 0xF2F5_2010, 0x2FC1_2FC1];

/// What tells a file, and that it was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    dev: u64,
    ino: u64,
    size: i64,
    seconds: i64,
    nanos: u64,
}

impl Identity {
    fn of(stat: &Stat) -> Self {
        Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            size: stat.st_size,
            seconds: stat.st_ctime,
            nanos: stat.st_ctime_nsec,
        }
    }

    fn bytes(&self) -> [[u8; 8]; 5] {
        let Self { dev, ino, size, seconds, nanos } = self;
        [
            dev.to_le_bytes(),
            ino.to_le_bytes(),
            size.to_le_bytes(),
            seconds.to_le_bytes(),
            nanos.to_le_bytes(),
        ]
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (numbers, _) = bytes.as_chunks::<8>();
        let [dev, ino, size, seconds, nanos, ..] = numbers else { return None };
        Some(Self {
            dev: u64::from_le_bytes(*dev),
            ino: u64::from_le_bytes(*ino),
            size: i64::from_le_bytes(*size),
            seconds: i64::from_le_bytes(*seconds),
            nanos: u64::from_le_bytes(*nanos),
        })
    }
}

/// The digests of the files below one directory.
#[derive(Debug, Default)]
pub struct KnownFiles {
    /// Where they are kept; nothing where nothing is known, nor to be.
    file: Option<PathBuf>,
    /// The file system that they are about.
    dev: u64,
    /// In seconds since 1970, when this began.
    now: i64,
    before: HashMap<Identity, Digest>,
    /// Those that were used or found out now, and whether that makes a new list necessary.
    seen: Mutex<(Vec<(Identity, Digest)>, bool)>,
}

impl KnownFiles {
    /// What `store` knows of the files below `dir`; `now` is the time in seconds since 1970.
    #[must_use]
    pub fn load(store: &Path, dir: &Path, now: i64) -> Self {
        match Self::try_load(store, dir, now) {
            Ok(known) => known,
            Err(why) => {
                tracing::debug!("digests of unchanged files are not kept: {why}");
                Self::default()
            }
        }
    }

    fn try_load(store: &Path, dir: &Path, now: i64) -> std::io::Result<Self> {
        let dir = fs::canonicalize(dir)?;
        let kind = rustix::fs::statfs(&dir)?.f_type;
        if !PRECISE.contains(&kind) {
            return Err(std::io::Error::other(format!("file system {kind:#x}")));
        }
        Self::of_precise(store, &dir, now)
    }

    /// The same, whatever file system it is.
    fn of_precise(store: &Path, dir: &Path, now: i64) -> std::io::Result<Self> {
        let boot = fs::read("/proc/sys/kernel/random/boot_id")?;
        let name = Framed::new("known").part(&boot).part(dir.as_os_str().as_bytes()).finish();
        let file = store.join("known").join(name.hex());
        let before = fs::read(&file).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        let dev = fs::metadata(dir)?.dev();
        Ok(Self { file: Some(file), dev, now, before, seen: Mutex::default() })
    }

    /// The digest of a file that is what it was.
    pub(super) fn find(&self, stat: &Stat) -> Option<Digest> {
        let identity = Identity::of(stat);
        let digest = *self.before.get(&identity)?;
        self.lock().0.push((identity, digest));
        Some(digest)
    }

    /// Keeps a digest of what was read from a file; `stat` is from after it was opened and before it was
    /// read.
    pub(super) fn note(&self, stat: &Stat, digest: Digest) {
        let settled = stat.st_ctime.saturating_add(SETTLED) <= self.now;
        if self.file.is_some() && stat.st_dev == self.dev && settled {
            let mut seen = self.lock();
            seen.0.push((Identity::of(stat), digest));
            seen.1 = true;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<(Identity, Digest)>, bool)> {
        self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Writes what was found out. It is of no consequence if that fails.
    pub fn save(&self) {
        let seen = self.lock();
        if let (Some(file), true) = (&self.file, seen.1)
            && let Err(error) = write(file, &encode(&seen.0))
        {
            tracing::debug!("{}: {error}", file.display());
        }
    }
}

fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let Some(dir) = file.parent() else { return Ok(()) };
    fs::create_dir_all(dir)?;
    let mut new = tempfile::Builder::new().prefix(".new-").tempfile_in(dir)?;
    new.write_all(bytes)?;
    new.persist(file).map_err(|error| error.error)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let age = entry.metadata().and_then(|it| it.modified()).map(|it| it.elapsed());
        if matches!(age, Ok(Ok(age)) if age > OLD) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Head, entries, and a digest of both: a list that was cut off or damaged is none.
fn encode(entries: &[(Identity, Digest)]) -> Vec<u8> {
    let mut bytes = HEAD.to_vec();
    for (identity, digest) in entries.iter().take(MOST) {
        bytes.extend(identity.bytes().concat());
        bytes.extend(digest.bytes());
    }
    let sum = Digest::of(&bytes);
    bytes.extend(sum.bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<HashMap<Identity, Digest>> {
    let (content, sum) = bytes.split_last_chunk::<32>()?;
    if Digest::of(content) != Digest::from_bytes(*sum) {
        return None;
    }
    let entries = content.strip_prefix(HEAD)?.chunks_exact(ENTRY);
    let read = entries.map(|entry| {
        let (numbers, digest) = entry.split_last_chunk::<32>()?;
        Some((Identity::read(numbers)?, Digest::from_bytes(*digest)))
    });
    read.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn stat(path: &Path) -> Stat {
        rustix::fs::stat(path).expect("it is there")
    }

    fn load(store: &Path, dir: &Path, now: i64) -> KnownFiles {
        KnownFiles::of_precise(store, dir, now).expect("a list")
    }

    /// A time so late that every file has settled.
    const LATER: i64 = i64::MAX / 2;

    #[test]
    fn a_file_is_known_until_it_changes() {
        let (store, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        type Change = fn(&Path);
        let changes: &[(&str, bool, Change)] = &[
            ("nothing", true, |_| {}),
            ("reading", true, |path| drop(fs::read(path).expect("read"))),
            ("content", false, |path| fs::write(path, "other").expect("written")),
            ("content of the same length, and its time", false, |path| {
                let time = fs::metadata(path).and_then(|it| it.modified()).expect("a time");
                fs::write(path, "ONE").expect("written");
                let file = fs::File::options().write(true).open(path).expect("open");
                file.set_modified(time).expect("set");
            }),
            ("mode", false, |path| {
                fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("set");
            }),
            ("attribute", false, |path| xattr::set(path, "user.x", b"1").expect("set")),
            ("another file of the name", false, |path| {
                let other = path.with_extension("new");
                fs::write(&other, "two").expect("written");
                fs::rename(other, path).expect("moved");
            }),
        ];
        for (what, stays, change) in changes {
            let path = dir.path().join("file");
            fs::write(&path, "one").expect("written");
            let known = load(store.path(), dir.path(), LATER);
            known.note(&stat(&path), Digest::of(b"one"));
            known.save();
            // The kernel's clock goes on in ticks; a real note is of a file that has settled.
            let before = stat(&path);
            while *what != "nothing" && !ticked(&before, dir.path()) {}
            change(&path);
            let known = load(store.path(), dir.path(), LATER);
            let found = known.find(&stat(&path));
            assert_eq!(found, stays.then(|| Digest::of(b"one")), "{what}");
        }
    }

    /// Whether a file that is made now has a later time.
    fn ticked(before: &Stat, dir: &Path) -> bool {
        let probe = dir.join("probe");
        fs::write(&probe, "").expect("written");
        let now = stat(&probe);
        (now.st_ctime, now.st_ctime_nsec) > (before.st_ctime, before.st_ctime_nsec)
    }

    #[test]
    fn what_has_not_settled_or_is_damaged_is_not_known() {
        let (store, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = dir.path().join("file");
        fs::write(&path, "one").expect("written");
        let stat = stat(&path);
        let known_at = |now: i64| {
            let known = load(store.path(), dir.path(), now);
            known.note(&stat, Digest::of(b"one"));
            known.save();
            load(store.path(), dir.path(), now)
        };
        assert!(known_at(stat.st_ctime + 1).find(&stat).is_none(), "changed just now");
        let known = known_at(stat.st_ctime + SETTLED);
        assert!(known.find(&stat).is_some());
        let file = known.file.clone().expect("it has a file");
        let whole = fs::read(&file).expect("read");
        let mut flipped = whole.clone();
        flipped[HEAD.len() + 50] ^= 1;
        for damaged in [&whole[..whole.len() - 1], &flipped, b"", HEAD] {
            fs::write(&file, damaged).expect("written");
            let known = load(store.path(), dir.path(), LATER);
            assert!(known.find(&stat).is_none(), "{damaged:?}");
        }
        let other = load(store.path(), store.path(), LATER);
        assert!(other.find(&stat).is_none(), "another directory");
    }
}
