//! What a store to a mapped file leaves in the file's times.

use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::time::Duration;

use rustix::fs::{Mode, OFlags, Stat, fstat};
use rustix::time::{ClockId, clock_gettime};

use super::{check, last_errno};
use crate::error::Errno;
use crate::tracee::kernel_errno;

/// Whether the file system of `directory` moves a file's ctime at the first store through a shared mapping, though the
/// page has been read through it before. It does where it is asked before a page becomes writable (`page_mkwrite` of
/// the kernel's `vfs.rst`): not on tmpfs, nor on an overlay of one. Found out by doing it, in a file without a name; takes as long as
/// a tick of the kernel's clock.
///
/// # Errors
/// A call was refused, such as files without a name on this file system (`EOPNOTSUPP`).
pub fn are_stores_stamped(directory: &std::path::Path) -> Result<bool, Errno> {
    const LENGTH: usize = 1;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR).map_err(kernel_errno)?;
    rustix::io::write(&file, b"1").map_err(kernel_errno)?;
    let ctime = |stat: Stat| (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or(0));
    let before = ctime(fstat(&file).map_err(kernel_errno)?);
    // Times are those of the last tick.
    loop {
        let now = clock_gettime(ClockId::RealtimeCoarse);
        if (now.tv_sec, now.tv_nsec) > before {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: a new mapping where the kernel likes, of a file that has this length and that nobody else can open.
    let page = unsafe { libc::mmap(ptr::null_mut(), LENGTH, access, libc::MAP_SHARED, fd, 0) };
    if page == libc::MAP_FAILED {
        return Err(last_errno());
    }
    let byte = page.cast::<u8>();
    // SAFETY: `byte` is the first of that mapping, which nobody else knows and which is taken away only after this.
    let unmapped = unsafe {
        // Two accesses: one that does both would fault as a store.
        let _ = ptr::read_volatile(byte);
        ptr::write_volatile(byte, b'2');
        libc::munmap(page, LENGTH)
    };
    check(i64::from(unmapped))?;
    Ok(ctime(fstat(&file).map_err(kernel_errno)?) != before)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::are_stores_stamped;

    #[test]
    fn a_store_in_memory_leaves_no_stamp() {
        assert_eq!(are_stores_stamped(Path::new("/dev/shm")), Ok(false));
        assert!(are_stores_stamped(Path::new("/proc")).is_err());
    }
}
