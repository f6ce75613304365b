//! aarch64, in the order of its numbers; it never had the calls without `at`.

use super::Follow::{Always, Never, UnlessFlag, UnlessFlagOrNull};
use super::{
    Abi, BLINDING_IOCTLS, CLONE3, IO_URING_SETUP, LINK_AT, RENAME_AT, Shape, call, path, path_at,
    with_shared_calls,
};

/// `AUDIT_ARCH_AARCH64`.
pub(crate) static ABI: Abi = Abi {
    audit_arch: 0xc000_00b7,
    refused: &[282, IO_URING_SETUP, CLONE3],
    seccomp: 277,
    calls: with_shared_calls![
        call(5, "setxattr", path(0, Always)),
        call(6, "lsetxattr", path(0, Never)),
        call(7, "fsetxattr", Shape::Fd(0)),
        call(14, "removexattr", path(0, Always)),
        call(15, "lremovexattr", path(0, Never)),
        call(16, "fremovexattr", Shape::Fd(0)),
        call(29, "ioctl", Shape::BlindIfOneOf(1, BLINDING_IOCTLS)),
        call(33, "mknodat", path_at(0, Never)),
        call(34, "mkdirat", path_at(0, Never)),
        call(35, "unlinkat", Shape::Entry { at: Some(0), path: 1 }),
        call(36, "symlinkat", Shape::Entry { at: Some(1), path: 2 }),
        call(37, "linkat", LINK_AT),
        call(38, "renameat", RENAME_AT),
        call(39, "umount2", Shape::Blind),
        call(40, "mount", Shape::Blind),
        call(41, "pivot_root", Shape::Blind),
        call(45, "truncate", path(0, Always)),
        call(51, "chroot", Shape::Chroot),
        call(52, "fchmod", Shape::Fd(0)),
        call(53, "fchmodat", path_at(0, Always)),
        call(54, "fchownat", path_at(0, UnlessFlag(4))),
        call(55, "fchown", Shape::Fd(0)),
        call(56, "openat", Shape::Open { at: Some(0), path: 1, flags: 2 }),
        call(88, "utimensat", path_at(0, UnlessFlagOrNull(3))),
        call(89, "acct", Shape::Blind),
        call(117, "ptrace", Shape::Trace(0)),
        call(122, "sched_setaffinity", Shape::Processors { told: true }),
        call(123, "sched_getaffinity", Shape::Processors { told: false }),
        call(145, "setreuid", Shape::Processors { told: false }),
        call(146, "setuid", Shape::Processors { told: false }),
        call(147, "setresuid", Shape::Processors { told: false }),
        call(200, "bind", Shape::Bind { addr: 1, len: 2 }),
        call(220, "clone", Shape::Clone),
        call(224, "swapon", Shape::Blind),
        call(265, "open_by_handle_at", Shape::Blind),
        call(268, "setns", Shape::Blind),
        call(276, "renameat2", RENAME_AT),
    ],
};
