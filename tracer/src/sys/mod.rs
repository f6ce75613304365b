#![expect(unsafe_code, reason = "the one place for system calls that no safe crate offers")]
//! The system calls: thin, plain types in, owned types out, no policy.
//!
//! None of the functions in [`child`] allocates or takes a lock: they are what
//! a process may do between fork and exec when its parent had threads.

pub(crate) mod child;
pub(crate) mod mapping;
pub(crate) mod notify;
pub(crate) mod trace;

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use crate::error::Errno;

/// The answer of a call that says -1 when it was refused.
fn check(answer: i64) -> Result<i64, Errno> {
    if answer < 0 { Err(last_errno()) } else { Ok(answer) }
}

fn last_errno() -> Errno {
    Errno(io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

/// The low half of a kernel's answer: process ids, descriptors and flags fit.
#[expect(clippy::cast_possible_truncation, reason = "the kernel answers with an int")]
const fn int(answer: i64) -> i32 {
    answer as i32
}

/// Sends SIGKILL to the process behind `pidfd`; one that is gone is fine.
pub(crate) fn kill_by_pidfd(pidfd: &OwnedFd) {
    // SAFETY: pidfd_send_signal(2) reads no memory when siginfo is null.
    unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, 0usize, 0u32)
    };
}

/// A descriptor for process `pid`, which must not have been reaped yet.
pub(crate) fn pidfd_open(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open(2) takes numbers only.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0u32) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(int(fd)) })
}

/// Blocks signals for this thread, so that it neither runs the program's
/// handlers nor passes its own mask on by surprise.
///
/// All but SIGCHLD, which the kernel sends at every stop of a tracee: only an
/// open signal can be ignored at once; for a blocked one another thread would
/// be woken each time, to find that it means nothing.
pub(crate) fn block_signals() {
    // SAFETY: both pointers are to a set on this stack; null is allowed for
    // the old one.
    unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::sigdelset(&raw mut all, libc::SIGCHLD);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}

/// Opens a file; the descriptor closes on exec.
pub(crate) fn open(path: &CStr, flags: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: `path` is a string that lives through the call.
    let fd = check(i64::from(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, 0) }))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(int(fd)) })
}

/// A pipe whose ends close on exec: reading end, writing end.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: pipe2(2) writes two descriptors into the array.
    check(i64::from(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }))?;
    // SAFETY: the kernel has just made these descriptors for us.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// A second descriptor for `fd` that is none of 0, 1 and 2.
pub(crate) fn duplicate(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_DUPFD_CLOEXEC takes numbers only.
    let copy = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) };
    let copy = check(i64::from(copy))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(int(copy)) })
}

/// The effective capabilities of this thread.
pub(crate) fn effective_capabilities() -> Result<u64, Errno> {
    Ok(child::capabilities()?.effective)
}

/// Whether this process, or what it starts, could ever hold a capability.
pub(crate) fn may_hold(number: u32) -> bool {
    child::prctl(libc::PR_CAPBSET_READ, number as usize) == Ok(1)
}

/// Acts on files as another user until dropped.
///
/// /proc compares these ids with those of the process that is looked at. A
/// change makes the whole program unreadable to its own children; the guard
/// puts that back as well.
pub(crate) struct ActingAs {
    uid: u32,
    gid: u32,
    dumpable: usize,
}

/// Whether the program was readable before a thread of it acted as somebody else: all of its threads are
/// readable or none.
static DUMPABLE: OnceLock<usize> = OnceLock::new();

impl ActingAs {
    /// Becomes `uid` and `gid` for this thread.
    pub(crate) fn new(uid: u32, gid: u32) -> ActingAs {
        let dumpable = *DUMPABLE.get_or_init(|| {
            let dumpable = child::prctl(libc::PR_GET_DUMPABLE, 0).unwrap_or(0);
            usize::try_from(dumpable).unwrap_or(0)
        });
        // SAFETY: both calls take numbers only and answer with the old id.
        unsafe {
            let old_gid = libc::setfsgid(gid).cast_unsigned();
            let old_uid = libc::setfsuid(uid).cast_unsigned();
            ActingAs { uid: old_uid, gid: old_gid, dumpable }
        }
    }
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        // SAFETY: both calls take numbers only.
        unsafe {
            libc::setfsuid(self.uid);
            libc::setfsgid(self.gid);
        }
        // A program that is readable was so before, and nothing else refuses.
        let _ = child::prctl(libc::PR_SET_DUMPABLE, self.dumpable);
    }
}
