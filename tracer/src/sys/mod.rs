#![expect(unsafe_code, reason = "the one place for system calls that no safe crate offers")]
//! The system calls: thin, plain types in, owned types out, no policy.
use std::os::fd::{AsRawFd, OwnedFd};

/// Sends SIGKILL to the process behind `pidfd`; one that is gone is fine.
pub(crate) fn kill_by_pidfd(pidfd: &OwnedFd) {
    // SAFETY: pidfd_send_signal(2) reads no memory when siginfo is null.
    unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, 0usize, 0u32)
    };
}
