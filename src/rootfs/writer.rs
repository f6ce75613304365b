//! Puts one entry of an archive in its place, with everything its header says.
//!
//! What the file system cannot store is told once for each archive and left
//! out; what the process may not do, and would change what a program can do,
//! ends the build with the capability that is missing.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::AsFd as _;

use rustix::fs::{FileType, XattrFlags};
use rustix::io::Errno;
use snapshot::{Fingerprint, Fingerprinter, Seen, Xattrs, belongs_to_image};
use thiserror::Error;

use super::archive::{Member, MemberKind};
use super::place::Place;
use super::tree::{gid, mode_bits, seen_by, seen_in, times, uid};

/// How many zeros are worth a hole, in bytes.
const SHORTEST_HOLE: usize = 64 << 10;

/// Why an entry could not be put in place.
#[derive(Debug, Error)]
pub enum WriteError {
    /// Its content cannot be read.
    #[error("{0}")]
    Content(#[source] io::Error),
    /// A call on the file system failed.
    #[error("{call}: {source}{advice}")]
    Call {
        /// The call.
        call: &'static str,
        /// What it answered.
        source: io::Error,
        /// What is missing, with a separator before it, where that is known.
        advice: &'static str,
    },
    /// An extended attribute was not taken.
    #[error("extended attribute {name}: {source}{advice}")]
    Xattr {
        /// Its full name.
        name: String,
        /// What the call answered.
        source: io::Error,
        /// As in [`WriteError::Call`].
        advice: &'static str,
    },
}

impl WriteError {
    pub(super) fn call(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            let errno = Errno::from_io_error(&source);
            let advice = errno.map_or("", |errno| advice(call, errno));
            Self::Call { call, source, advice }
        }
    }
}

fn advice(call: &str, errno: Errno) -> &'static str {
    match (call, errno) {
        ("mknod", Errno::PERM) => "; making devices takes CAP_MKNOD outside of a user namespace",
        ("chown", Errno::PERM) => "; giving files away takes CAP_CHOWN",
        ("chown", Errno::INVAL) => "; this user namespace has no mapping for that owner",
        ("chmod", Errno::PERM) => "; changing files of others takes CAP_FOWNER",
        (_, Errno::NOSPC | Errno::DQUOT) => "; the file system of the work directory is full",
        (_, Errno::ROFS) => "; the file system of the work directory is mounted read-only",
        _ => "",
    }
}

/// How what an archive says about attributes is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attributes {
    /// Those that matter to the kernel have to take.
    Needed,
    /// They are welcome.
    Welcome,
}

/// What was put in place.
#[derive(Debug, Default)]
pub struct Written {
    /// Inode and ctime; none for a directory, whose times are not final yet.
    pub seen: Option<Seen>,
    /// Of a regular file.
    pub fingerprint: Option<Fingerprint>,
    /// The extended attributes that took.
    pub xattrs: Xattrs,
}

/// Writes entries.
#[derive(Debug)]
pub struct Writer {
    buffer: Vec<u8>,
    attributes: Attributes,
    warned: bool,
    /// Whom new files belong to.
    creator: (u32, u32),
}

impl Writer {
    /// For one or more archives.
    pub fn new(attributes: Attributes) -> Self {
        let creator = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { buffer: vec![0; 256 << 10], attributes, warned: false, creator }
    }

    /// The next archive begins: what is left out is told again.
    pub fn begin(&mut self) {
        self.warned = false;
    }

    /// Makes what `member` says, but for a hard link, where nothing is; a directory may be there.
    ///
    /// # Errors
    /// The first call that fails.
    pub fn put(
        &mut self,
        place: &Place,
        member: &Member,
        content: &mut impl Read,
    ) -> Result<Written, WriteError> {
        let node = |kind, major, minor| {
            place.make_node(kind, major, minor).map_err(WriteError::call("mknod"))
        };
        match &member.kind {
            MemberKind::File { size } => return self.put_file(place, member, *size, content),
            MemberKind::Dir => {
                place.make_dir(0o700).map_err(WriteError::call("mkdir"))?;
            }
            MemberKind::Symlink(target) => {
                place.make_symlink(target).map_err(WriteError::call("symlink"))?;
            }
            MemberKind::HardLink(_) => return Err(WriteError::call("link")(Errno::INVAL.into())),
            MemberKind::Fifo => node(FileType::Fifo, 0, 0)?,
            MemberKind::CharDevice { major, minor } => {
                node(FileType::CharacterDevice, *major, *minor)?;
            }
            MemberKind::BlockDevice { major, minor } => {
                node(FileType::BlockDevice, *major, *minor)?;
            }
        }
        self.finish(place, member)
    }

    /// Takes what `member` says without making anything.
    ///
    /// # Errors
    /// The content cannot be read.
    pub fn note(&mut self, member: &Member, content: &mut impl Read) -> io::Result<Written> {
        let mut fingerprint = None;
        if let MemberKind::File { size } = member.kind {
            let mut hash = Fingerprinter::default();
            self.pass(size, content, |bytes| {
                hash.update(bytes);
                Ok(())
            })
            .map_err(|error| match error {
                WriteError::Content(source) => source,
                other => io::Error::other(other),
            })?;
            fingerprint = Some(hash.finish());
        }
        let mut xattrs = Xattrs::default();
        for (name, value) in member.xattrs.iter().filter(|(name, _)| belongs_to_image(name)) {
            xattrs.insert(name, value);
        }
        Ok(Written { seen: None, fingerprint, xattrs })
    }

    /// Metadata of what is no regular file. chown(2) clears set-id bits, so it comes first.
    fn finish(&mut self, place: &Place, member: &Member) -> Result<Written, WriteError> {
        if self.is_born_right(member) && matches!(member.kind, MemberKind::Symlink(_)) {
            place.set_mtime(member.mtime).map_err(WriteError::call("utimensat"))?;
            let stat = place.stat().map_err(WriteError::call("stat"))?;
            if (stat.st_uid, stat.st_gid) == (member.uid, member.gid) {
                return Ok(Written { seen: seen_in(&stat), ..Written::default() });
            }
        }
        place.set_owner((member.uid, member.gid)).map_err(WriteError::call("chown"))?;
        if !matches!(member.kind, MemberKind::Symlink(_)) {
            place.set_mode(member.mode).map_err(WriteError::call("chmod"))?;
        }
        let xattrs = self.put_xattrs(member, |name, value| place.set_xattr(name, value))?;
        if member.kind == MemberKind::Dir {
            return Ok(Written { xattrs, ..Written::default() });
        }
        place.set_mtime(member.mtime).map_err(WriteError::call("utimensat"))?;
        let seen = place.seen().map_err(WriteError::call("stat"))?;
        Ok(Written { seen, fingerprint: None, xattrs })
    }

    /// Whether what is made may have owner and mode from the start, as most files of most images have.
    /// It is looked at anyway, and then mended where a umask or a set-id directory made it another.
    fn is_born_right(&self, member: &Member) -> bool {
        member.mode & 0o7000 == 0
            && (member.uid, member.gid) == self.creator
            && !member.xattrs.iter().any(|(name, _)| belongs_to_image(name))
    }

    fn put_file(
        &mut self,
        place: &Place,
        member: &Member,
        size: u64,
        content: &mut impl Read,
    ) -> Result<Written, WriteError> {
        let mode = if self.is_born_right(member) { member.mode } else { 0o600 };
        let file = place.create_file(mode).map_err(WriteError::call("open"))?;
        let fingerprint = Some(self.fill(&file, size, content)?);
        let call = |call, result: rustix::io::Result<()>| {
            result.map_err(|errno| WriteError::call(call)(errno.into()))
        };
        if self.is_born_right(member) {
            call("utimensat", rustix::fs::futimens(&file, &times(member.mtime)))?;
            let stat = rustix::fs::fstat(&file);
            let stat = stat.map_err(|errno| WriteError::call("stat")(errno.into()))?;
            let found = (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
            if found == (member.uid, member.gid, member.mode) {
                return Ok(Written {
                    seen: seen_in(&stat),
                    fingerprint,
                    xattrs: Xattrs::default(),
                });
            }
        }
        let owner = (member.uid, member.gid);
        call("chown", rustix::fs::fchown(&file, Some(uid(owner)), Some(gid(owner))))?;
        call("chmod", rustix::fs::fchmod(&file, mode_bits(member.mode)))?;
        let xattrs = self.put_xattrs(member, |name, value| {
            Ok(rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty())?)
        })?;
        call("utimensat", rustix::fs::futimens(&file, &times(member.mtime)))?;
        let seen = seen_by(file.as_fd()).map_err(WriteError::call("stat"))?;
        Ok(Written { seen, fingerprint, xattrs })
    }

    /// Copies exactly `size` bytes, hashing them on the way.
    fn fill(
        &mut self,
        mut file: &File,
        size: u64,
        content: &mut impl Read,
    ) -> Result<Fingerprint, WriteError> {
        let mut fingerprint = Fingerprinter::default();
        let (mut written, mut at) = (0, 0);
        self.pass(size, content, |bytes| {
            fingerprint.update(bytes);
            at += bytes.len() as u64;
            // Zeros of some length are left as a hole.
            if bytes.len() >= SHORTEST_HOLE && bytes.iter().all(|byte| *byte == 0) {
                let end = file.seek(io::SeekFrom::Start(at)).map_err(WriteError::call("lseek"));
                return end.map(drop);
            }
            written = at;
            file.write_all(bytes).map_err(WriteError::call("write"))
        })?;
        if written < size {
            file.set_len(size).map_err(WriteError::call("ftruncate"))?;
        }
        Ok(fingerprint.finish())
    }

    /// Reads exactly `size` bytes.
    fn pass(
        &mut self,
        size: u64,
        content: &mut impl Read,
        mut take: impl FnMut(&[u8]) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let got = content.read(&mut self.buffer[..most]).map_err(WriteError::Content)?;
            if got == 0 {
                return Err(WriteError::Content(io::ErrorKind::UnexpectedEof.into()));
            }
            take(&self.buffer[..got])?;
            left -= got as u64;
        }
        Ok(())
    }

    fn put_xattrs(
        &mut self,
        member: &Member,
        set: impl Fn(&std::ffi::CStr, &[u8]) -> io::Result<()>,
    ) -> Result<Xattrs, WriteError> {
        let mut taken = Xattrs::default();
        for (name, value) in member.xattrs.iter().filter(|(name, _)| belongs_to_image(name)) {
            let done = CString::new(name.as_slice())
                .map_err(|_| Errno::INVAL.into())
                .and_then(|name| set(&name, value));
            match done {
                Ok(()) => taken.insert(name, value),
                Err(source) => self.not_taken(member, name, source)?,
            }
        }
        Ok(taken)
    }

    /// Decides whether an attribute can be left out.
    fn not_taken(
        &mut self,
        member: &Member,
        name: &[u8],
        source: io::Error,
    ) -> Result<(), WriteError> {
        let errno = Errno::from_io_error(&source);
        let matters = name.starts_with(b"security.") || name.starts_with(b"system.");
        let denied = errno == Some(Errno::PERM) || errno == Some(Errno::ACCESS);
        let name = String::from_utf8_lossy(name).into_owned();
        let skip = match self.attributes {
            Attributes::Welcome => denied || errno == Some(Errno::OPNOTSUPP),
            Attributes::Needed => errno == Some(Errno::OPNOTSUPP) || (denied && !matters),
        };
        if !skip {
            let advice = match (denied, name.as_str()) {
                (true, "security.capability") => {
                    "; setting file capabilities takes CAP_SETFCAP (in a user namespace: one that maps root)"
                }
                _ => "",
            };
            return Err(WriteError::Xattr { name, source, advice });
        }
        if !self.warned {
            self.warned = true;
            let path = String::from_utf8_lossy(&member.name);
            tracing::warn!(
                "{path:?}: extended attribute {name} is left out: {source}; others may be, too"
            );
        }
        Ok(())
    }
}
