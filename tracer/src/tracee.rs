//! What can be read of a stopped process: its memory, its links in /proc.
//!
//! A process that changed its user, or that made itself unreadable, refuses a
//! tracer that lacks CAP_SYS_PTRACE. For the first, the links are read with
//! the ids of the process; for the second, see `watch`.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fmt::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, readlinkat_raw};
use rustix::path::{Arg, DecInt};

use crate::error::Errno;
use crate::sys::{self, ActingAs, trace};

/// Longest path the kernel takes, its terminating zero included.
const PATH_MAX: usize = 4096;

/// Why something of a tracee could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The process is gone: the call it was stopped at will not happen.
    Gone,
    /// What the call was given is not there; the kernel will refuse it too.
    Bad,
    /// The process may not be read.
    Locked(Errno),
    /// Something else.
    Other(Errno),
}

impl Refusal {
    fn of(errno: Errno) -> Refusal {
        match errno.0 {
            libc::ESRCH => Refusal::Gone,
            libc::ENOENT | libc::EBADF | libc::EFAULT => Refusal::Bad,
            libc::EPERM | libc::EACCES | libc::EIO => Refusal::Locked(errno),
            _ => Refusal::Other(errno),
        }
    }
}

/// A thread that is stopped, so that what is read of it holds until it goes
/// on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tracee<'a> {
    tid: i32,
    held: Option<&'a Directories>,
}

/// The /proc directories of the thread that stopped last, held open once it
/// has stopped several times in a row: looking through them is quicker than by
/// name.
#[derive(Debug, Default)]
pub(crate) struct Held {
    tid: i32,
    stops: u32,
    directories: Option<Directories>,
}

/// Directories of /proc stay those of one thread, whoever gets its id later.
#[derive(Debug)]
struct Directories {
    thread: OwnedFd,
    descriptors: OwnedFd,
}

/// A link in a thread's /proc directory.
#[derive(Clone, Copy)]
enum Link {
    Cwd,
    Root,
    Descriptor(i32),
}

impl Held {
    /// Stops in a row after which opening the directories has paid.
    const WORTH_HOLDING: u32 = 8;

    /// The thread that has stopped now.
    pub(crate) fn thread(&mut self, tid: i32) -> Tracee<'_> {
        if self.tid != tid {
            *self = Held { tid, ..Held::default() };
        }
        self.stops = self.stops.saturating_add(1);
        if self.stops == Held::WORTH_HOLDING {
            self.directories = Directories::open(tid);
        }
        Tracee { tid, held: self.directories.as_ref() }
    }
}

impl Directories {
    fn open(tid: i32) -> Option<Directories> {
        let open = |name: String| {
            let name = CString::new(name).ok()?;
            sys::open(&name, libc::O_PATH | libc::O_DIRECTORY).ok()
        };
        let thread = open(format!("/proc/{tid}"))?;
        Some(Directories { thread, descriptors: open(format!("/proc/{tid}/fd"))? })
    }

    fn read(&self, link: Link) -> Result<Vec<u8>, Errno> {
        match link {
            Link::Cwd => read_link(self.thread.as_fd(), c"cwd"),
            Link::Root => read_link(self.thread.as_fd(), c"root"),
            Link::Descriptor(fd) => read_link(self.descriptors.as_fd(), DecInt::new(fd)),
        }
    }
}

impl Tracee<'_> {
    pub(crate) fn new(tid: i32) -> Self {
        Tracee { tid, held: None }
    }

    pub(crate) fn tid(self) -> i32 {
        self.tid
    }

    /// The string at `address`, without its zero.
    pub(crate) fn string(self, address: u64) -> Result<Vec<u8>, Refusal> {
        let mut text = Vec::new();
        let mut chunk = [0; 256];
        while text.len() < PATH_MAX {
            let at = address.wrapping_add(text.len() as u64);
            let piece = &mut chunk[..within_page(at, 256)];
            let count = self.read(at, piece)?;
            match piece[..count].iter().position(|byte| *byte == 0) {
                Some(end) => {
                    text.extend_from_slice(&piece[..end]);
                    return Ok(text);
                }
                None if count == 0 => return Err(Refusal::Bad),
                None => text.extend_from_slice(&piece[..count]),
            }
        }
        Err(Refusal::Bad) // ENAMETOOLONG
    }

    /// Fills `into` from `address`, across pages.
    pub(crate) fn bytes(self, address: u64, into: &mut [u8]) -> Result<(), Refusal> {
        let mut done = 0;
        while done < into.len() {
            let at = address.wrapping_add(done as u64);
            let end = (done + within_page(at, into.len())).min(into.len());
            match self.read(at, &mut into[done..end])? {
                0 => return Err(Refusal::Bad),
                count => done += count,
            }
        }
        Ok(())
    }

    /// Reads within one page, word by word where the quick way is refused.
    fn read(self, address: u64, into: &mut [u8]) -> Result<usize, Refusal> {
        match trace::read_memory(self.tid, address, into) {
            Ok(count) => Ok(count),
            Err(Errno(libc::EPERM | libc::ENOSYS)) => self.peek(address, into),
            Err(errno) => Err(Refusal::of(errno)),
        }
    }

    fn peek(self, address: u64, into: &mut [u8]) -> Result<usize, Refusal> {
        let aligned = address & !7;
        let skip = usize::from((address & 7) as u8);
        let word = self.word(aligned)?.to_ne_bytes();
        let piece = &word[skip..];
        let count = piece.len().min(into.len());
        into[..count].copy_from_slice(&piece[..count]);
        Ok(count)
    }

    /// A word, by the right of the tracer. EIO says that nothing may be read, or that nothing is there, and which of
    /// them cannot be asked afterwards: what may be read is a matter of the whole process, and another thread may change
    /// it at any time, on its own or because it is being made readable for a call of its own.
    fn word(self, aligned: u64) -> Result<u64, Refusal> {
        match trace::peek(self.tid, aligned) {
            Err(Errno(libc::EIO)) => self.word_of_file(aligned),
            answer => answer.map_err(Refusal::of),
        }
    }

    /// The same by the file of its memory: whether it may be read is asked when it is opened, and never again
    /// (`mem_open` and `mem_rw` in the kernel's `fs/proc/base.c`). So nothing is there only where that was said to one who
    /// had been let in. Opening wants more than a tracer has where real and effective ids differ: such a process is
    /// locked, and a walk is what follows in the end.
    fn word_of_file(self, aligned: u64) -> Result<u64, Refusal> {
        let path = self.proc("mem");
        let memory = self.as_owner(|| sys::open(&path, libc::O_RDONLY))?;
        let mut word = [0; 8];
        match rustix::io::pread(&memory, &mut word, aligned) {
            Ok(8) => Ok(u64::from_ne_bytes(word)),
            Ok(_) | Err(rustix::io::Errno::IO) => Err(Refusal::Bad),
            Err(errno) => Err(Refusal::of(kernel_errno(errno))),
        }
    }

    /// The target of `/proc/TID/cwd`.
    pub(crate) fn cwd(self) -> Result<Vec<u8>, Refusal> {
        self.link(Link::Cwd)
    }

    /// The target of `/proc/TID/root`.
    pub(crate) fn root(self) -> Result<Vec<u8>, Refusal> {
        self.link(Link::Root)
    }

    /// The target of `/proc/TID/fd/N`.
    pub(crate) fn descriptor(self, fd: i32) -> Result<Vec<u8>, Refusal> {
        self.link(Link::Descriptor(fd))
    }

    /// How many names the file behind a descriptor has, and which file it is.
    pub(crate) fn identity(self, fd: i32) -> Result<Identity, Refusal> {
        let path = self.proc(&descriptor(fd));
        self.as_owner(|| Identity::of(CWD, path.as_c_str(), AtFlags::empty()))
    }

    /// The file that the process executes.
    pub(crate) fn program(self) -> Result<Program, Refusal> {
        let path = self.proc("exe");
        let stat = self.as_owner(|| rustix::fs::stat(path.as_c_str()).map_err(kernel_errno))?;
        let capability = self.as_owner(|| {
            let size = rustix::fs::getxattr(path.as_c_str(), c"security.capability", &mut [0u8; 0]);
            match size {
                Ok(size) => Ok(size > 0),
                Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(false),
                Err(errno) => Err(kernel_errno(errno)),
            }
        })?;
        let is_on_nosuid = || {
            let flags = rustix::fs::statvfs(path.as_c_str()).map(|disk| disk.f_flag);
            flags.is_ok_and(|flags| flags.contains(rustix::fs::StatVfsMountFlags::NOSUID))
        };
        Ok(Program {
            mode: stat.st_mode,
            owner: stat.st_uid,
            has_capabilities: capability,
            is_on_nosuid: (stat.st_mode & 0o6000 != 0 || capability) && is_on_nosuid(),
        })
    }

    /// The path of that file, as its mounts have it.
    pub(crate) fn program_name(self) -> Option<Vec<u8>> {
        let path = self.proc("exe");
        self.as_owner(|| read_link(CWD, path.as_c_str())).ok()
    }

    /// Where its root has mounts, but for the root itself, as it sees them.
    pub(crate) fn mount_points(self) -> Result<Vec<Vec<u8>>, Refusal> {
        let text = self.read_own("mountinfo")?;
        let lines = text.split(|byte| *byte == b'\n');
        let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
        Ok(points.map(unescaped).filter(|point| point != b"/").collect())
    }

    /// The files that are mapped, as their mounts have them.
    pub(crate) fn mapped(self) -> Result<BTreeSet<Vec<u8>>, Refusal> {
        let text = self.read_own("maps")?;
        let lines = text.split(|byte| *byte == b'\n');
        let names = lines.filter_map(|line| {
            let from = line.iter().position(|byte| *byte == b'/')?;
            Some(unescaped(&line[from..]))
        });
        Ok(names.collect())
    }

    fn read_own(self, name: &str) -> Result<Vec<u8>, Refusal> {
        let path = format!("/proc/{}/{name}", self.tid);
        let errno = |error: std::io::Error| Errno(error.raw_os_error().unwrap_or(libc::EIO));
        self.as_owner(|| std::fs::read(&path).map_err(errno))
    }

    /// What anybody may know of the name of its program.
    pub(crate) fn command_name(self) -> Vec<u8> {
        let name = std::fs::read(format!("/proc/{}/comm", self.tid)).unwrap_or_default();
        name.trim_ascii_end().to_vec()
    }

    /// Its effective user.
    pub(crate) fn user(self) -> Option<u32> {
        self.ids().map(|(uid, _)| uid)
    }

    /// Whether no program it executes can gain anything.
    pub(crate) fn has_no_new_privs(self) -> bool {
        self.status().is_some_and(|status| numbers(&status, "NoNewPrivs:").next() == Some(1))
    }

    /// Whatever stands in the way of the quick look, the thread's end
    /// included, the one by name decides.
    fn link(self, link: Link) -> Result<Vec<u8>, Refusal> {
        if let Some(Ok(text)) = self.held.map(|held| held.read(link)) {
            return Ok(text);
        }
        let path = match link {
            Link::Cwd => self.proc("cwd"),
            Link::Root => self.proc("root"),
            Link::Descriptor(fd) => self.proc(&descriptor(fd)),
        };
        self.as_owner(|| read_link(CWD, path.as_c_str()))
    }

    /// Does `read`; where that is refused, with the ids of the process.
    pub(crate) fn as_owner<T>(self, read: impl Fn() -> Result<T, Errno>) -> Result<T, Refusal> {
        match read() {
            Err(Errno(libc::EACCES | libc::EPERM)) => {}
            answer => return answer.map_err(Refusal::of),
        }
        let Some((uid, gid)) = self.ids() else { return Err(Refusal::Gone) };
        let _acting = ActingAs::new(uid, gid);
        read().map_err(Refusal::of)
    }

    /// Effective user and group id, which anybody may read.
    fn ids(self) -> Option<(u32, u32)> {
        let status = self.status()?;
        let effective = |field| numbers(&status, field).nth(1);
        Some((effective("Uid:")?, effective("Gid:")?))
    }

    /// The process and thread ids in the PID namespace `level` below ours.
    pub(crate) fn ids_in_namespace(self, level: usize) -> Option<(u32, u32)> {
        let status = self.status()?;
        let of = |field| numbers(&status, field).nth(level);
        Some((of("NStgid:")?, of("NSpid:")?))
    }

    /// Whether it is not in the system call of this number any more.
    pub(crate) fn has_left(self, number: u64) -> bool {
        match std::fs::read_to_string(format!("/proc/{}/syscall", self.tid)) {
            // It says `running` of one that may be on its way into the call, or out of it.
            Ok(text) => text.split_ascii_whitespace().next().is_some_and(|word| {
                word.parse::<i64>().is_ok_and(|now| now != number.cast_signed())
            }),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    /// How many seccomp filters judge its calls; `None` before Linux 5.9.
    pub(crate) fn filters(self) -> Option<u32> {
        numbers(&self.status()?, "Seccomp_filters:").next()
    }

    /// Which thread traces it; 0 for none.
    pub(crate) fn tracer(self) -> Option<u32> {
        numbers(&self.status()?, "TracerPid:").next()
    }

    /// The processor it ran on last.
    pub(crate) fn processor(self) -> Option<usize> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.tid)).ok()?;
        // Field 39; the second is a name in brackets, in which there may be anything (proc(5)).
        let (_, fields) = text.rsplit_once(')')?;
        fields.split_ascii_whitespace().nth(36)?.parse().ok()
    }

    fn status(self) -> Option<String> {
        std::fs::read_to_string(format!("/proc/{}/status", self.tid)).ok()
    }

    fn proc(self, name: &str) -> CString {
        let mut path = String::with_capacity(32);
        // Writing to a string cannot be refused.
        let _ = write!(path, "/proc/{}/{name}", self.tid);
        CString::new(path).expect("a number and a name without zeros")
    }
}

fn descriptor(fd: i32) -> String {
    format!("fd/{fd}")
}

/// How much of `wanted` bytes from `address` lies on its page. 4 KiB, whatever
/// the page size: it divides all of them.
fn within_page(address: u64, wanted: usize) -> usize {
    let left = 4096 - (address % 4096);
    wanted.min(usize::try_from(left).unwrap_or(wanted))
}

/// Text of /proc in which some bytes are written in octal.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    bytes
}

/// The numbers of a field of /proc/PID/status.
fn numbers<'a>(status: &'a str, field: &str) -> impl Iterator<Item = u32> + use<'a> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("");
    line.split_ascii_whitespace().filter_map(|word| word.parse().ok())
}

/// A program's file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    pub(crate) mode: u32,
    pub(crate) owner: u32,
    pub(crate) has_capabilities: bool,
    /// Whether its mount takes the effect from set-id bits.
    pub(crate) is_on_nosuid: bool,
}

/// A file, and how many names it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) names: u64,
    pub(crate) is_directory: bool,
    pub(crate) is_link: bool,
}

impl Identity {
    pub(crate) fn of(
        dir: rustix::fd::BorrowedFd<'_>,
        path: impl Arg,
        flags: AtFlags,
    ) -> Result<Identity, Errno> {
        let stat = rustix::fs::statat(dir, path, flags).map_err(kernel_errno)?;
        let kind = rustix::fs::FileType::from_raw_mode(stat.st_mode);
        Ok(Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
            #[cfg_attr(
                target_arch = "x86_64",
                expect(clippy::useless_conversion, reason = "u32 on aarch64")
            )]
            names: u64::from(stat.st_nlink),
            is_directory: kind.is_dir(),
            is_link: kind.is_symlink(),
        })
    }

    /// Whether both are the same file.
    pub(crate) fn is(&self, other: &Identity) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// readlinkat(2).
pub(crate) fn read_link(dir: rustix::fd::BorrowedFd<'_>, path: impl Arg) -> Result<Vec<u8>, Errno> {
    // No link of the kernel's says more.
    let mut buffer = [MaybeUninit::uninit(); PATH_MAX];
    let (text, _) = readlinkat_raw(dir, path, &mut buffer).map_err(kernel_errno)?;
    Ok(text.to_vec())
}

pub(crate) fn kernel_errno(errno: rustix::io::Errno) -> Errno {
    Errno(errno.raw_os_error())
}
