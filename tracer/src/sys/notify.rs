//! fanotify(7) with file handles, which no safe crate offers.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{check, int};
use crate::error::Errno;

/// `FAN_CLOEXEC`, `FAN_NONBLOCK`, and `FAN_REPORT_DFID_NAME_TARGET` (Linux
/// 5.17): events carry the handle of the directory, the name in it, and the
/// handle of the file.
const INIT: u32 = 0x1 | 0x2 | 0x200 | 0x400 | 0x800 | 0x1000;
/// `FAN_MARK_ADD` and `FAN_MARK_FILESYSTEM`.
const MARK: u32 = 0x1 | 0x100;

pub(crate) const MODIFY: u64 = 0x2;
pub(crate) const ATTRIB: u64 = 0x4;
pub(crate) const CLOSE_WRITE: u64 = 0x8;
pub(crate) const CREATE: u64 = 0x100;
pub(crate) const DELETE: u64 = 0x200;
pub(crate) const OVERFLOW: u64 = 0x4000;
pub(crate) const RENAME: u64 = 0x1000_0000;
pub(crate) const ON_DIRECTORY: u64 = 0x4000_0000;

/// A queue of events that is read without waiting.
pub(crate) fn queue() -> Result<OwnedFd, Errno> {
    let flags = libc::O_RDONLY | libc::O_CLOEXEC;
    // SAFETY: fanotify_init(2) takes numbers only.
    let fd = unsafe { libc::fanotify_init(INIT, flags.unsigned_abs()) };
    let fd = check(i64::from(fd))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(int(fd)) })
}

/// Marks the file system that `directory` is on.
pub(crate) fn mark_file_system(
    queue: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
) -> Result<(), Errno> {
    let events = MODIFY | ATTRIB | CLOSE_WRITE | CREATE | DELETE | RENAME | ON_DIRECTORY;
    // SAFETY: the path is a string that lives through the call.
    let answer = unsafe {
        libc::fanotify_mark(queue.as_raw_fd(), MARK, events, directory.as_raw_fd(), c".".as_ptr())
    };
    check(i64::from(answer)).map(drop)
}

/// Takes all marks on file systems off: nothing is told from now on.
pub(crate) fn unmark_file_systems(queue: BorrowedFd<'_>) -> Result<(), Errno> {
    /// `FAN_MARK_FLUSH` and `FAN_MARK_FILESYSTEM`.
    const FLUSH: u32 = 0x80 | 0x100;
    // SAFETY: the path is a string that lives through the call; it is not looked at.
    let answer =
        unsafe { libc::fanotify_mark(queue.as_raw_fd(), FLUSH, 0, libc::AT_FDCWD, c"/".as_ptr()) };
    check(i64::from(answer)).map(drop)
}

/// The handle of an open file: type and bytes, as events have them.
pub(crate) fn handle_of(file: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    const MAX: usize = 128;
    #[repr(C)]
    struct Handle {
        length: u32,
        kind: i32,
        bytes: [u8; MAX],
    }
    let mut handle = Handle { length: 128, kind: 0, bytes: [0; MAX] };
    let (mut mount, empty): (i32, &CStr) = (0, c"");
    // SAFETY: `handle` starts as a file_handle with room for `length` bytes; the kernel writes no
    // more, and the mount's number.
    let answer = unsafe {
        libc::name_to_handle_at(
            file.as_raw_fd(),
            empty.as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    check(i64::from(answer))?;
    let length = usize::try_from(handle.length).unwrap_or(0).min(MAX);
    Ok([&handle.kind.to_ne_bytes(), &handle.bytes[..length]].concat())
}

/// Opens what a handle is of, on the file system of an open file, as a place only.
pub(crate) fn open_handle(on: BorrowedFd<'_>, handle: &[u8]) -> Result<OwnedFd, Errno> {
    const KIND: usize = 4;
    let (kind, bytes) = handle.split_at_checked(KIND).ok_or(Errno(libc::EINVAL))?;
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    // `struct file_handle`: length, type, bytes; in words, because it begins with some.
    let whole = [&length.to_ne_bytes(), kind, bytes].concat();
    let mut words = vec![0u64; whole.len().div_ceil(8)];
    for (word, piece) in words.iter_mut().zip(whole.chunks(8)) {
        let mut full = [0; 8];
        full[..piece.len()].copy_from_slice(piece);
        *word = u64::from_ne_bytes(full);
    }
    let flags = libc::O_PATH | libc::O_CLOEXEC;
    // SAFETY: the kernel reads a header and as many bytes as it says, and all of them are there.
    let fd = unsafe { libc::open_by_handle_at(on.as_raw_fd(), words.as_mut_ptr().cast(), flags) };
    let fd = check(i64::from(fd))?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(int(fd)) })
}
