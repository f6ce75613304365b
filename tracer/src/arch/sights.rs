//! The system calls that show something of the tree and change nothing.
//!
//! They are stopped only where somebody wants to know what a command reads.
//! Not in the tables, because they need a descriptor that was opened, which was
//! seen: read(2) and its kin, mmap, getdents, fstat, fgetxattr, fchdir. Nor
//! sendto(2) and sendmsg(2) to a socket's name: no layer holds a socket.
//!
//! Another call convention than the machine's own is not followed.

use super::{Arg, Follow};

/// What a call shows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sight {
    /// All that stat(2) tells. Times are part of it, for which the content
    /// stands.
    Stat { at: Option<Arg>, path: Arg, follow: Follow },
    /// What is there, but nothing of its content, size or times.
    Look { at: Option<Arg>, path: Arg, follow: Follow },
    /// A program, and what the kernel needs to run it.
    Program { at: Option<Arg>, path: Arg, flags: Option<Arg> },
    /// Whether a socket has a name.
    Socket { addr: Arg, len: Arg },
    /// More than is followed.
    Unknown,
}

/// A call that is stopped.
pub(crate) struct Glimpse {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) sight: Sight,
}

const fn glimpse(number: u32, name: &'static str, sight: Sight) -> Glimpse {
    Glimpse { number, name, sight }
}

#[cfg(target_arch = "x86_64")]
const fn stat(path: Arg, follow: Follow) -> Sight {
    Sight::Stat { at: None, path, follow }
}

const fn stat_at(at: Arg, follow: Follow) -> Sight {
    Sight::Stat { at: Some(at), path: at + 1, follow }
}

const fn look(path: Arg, follow: Follow) -> Sight {
    Sight::Look { at: None, path, follow }
}

const fn look_at(at: Arg, follow: Follow) -> Sight {
    Sight::Look { at: Some(at), path: at + 1, follow }
}

use Follow::{Always, Never, UnlessFlag, UnlessFlagOrNull};

/// By number.
#[cfg(target_arch = "x86_64")]
pub(crate) const SIGHTS: &[Glimpse] = &[
    glimpse(4, "stat", stat(0, Always)),
    glimpse(6, "lstat", stat(0, Never)),
    glimpse(21, "access", look(0, Always)),
    glimpse(42, "connect", Sight::Socket { addr: 1, len: 2 }),
    glimpse(59, "execve", Sight::Program { at: None, path: 0, flags: None }),
    glimpse(80, "chdir", look(0, Always)),
    glimpse(89, "readlink", look(0, Never)),
    glimpse(134, "uselib", Sight::Unknown),
    glimpse(137, "statfs", look(0, Always)),
    glimpse(191, "getxattr", look(0, Always)),
    glimpse(192, "lgetxattr", look(0, Never)),
    glimpse(194, "listxattr", look(0, Always)),
    glimpse(195, "llistxattr", look(0, Never)),
    glimpse(254, "inotify_add_watch", look(1, Always)),
    glimpse(262, "newfstatat", stat_at(0, UnlessFlag(3))),
    glimpse(267, "readlinkat", look_at(0, Never)),
    glimpse(269, "faccessat", look_at(0, Always)),
    glimpse(301, "fanotify_mark", Sight::Unknown),
    glimpse(303, "name_to_handle_at", look_at(0, Always)),
    glimpse(322, "execveat", Sight::Program { at: Some(0), path: 1, flags: Some(4) }),
    glimpse(332, "statx", stat_at(0, UnlessFlagOrNull(2))),
    glimpse(433, "fspick", Sight::Unknown),
    glimpse(439, "faccessat2", look_at(0, UnlessFlag(3))),
    glimpse(442, "mount_setattr", Sight::Unknown),
    glimpse(464, "getxattrat", look_at(0, UnlessFlag(2))),
    glimpse(465, "listxattrat", look_at(0, UnlessFlag(2))),
    glimpse(468, "file_getattr", look_at(0, UnlessFlag(4))),
    glimpse(469, "file_setattr", Sight::Unknown),
];

/// By number.
#[cfg(target_arch = "aarch64")]
pub(crate) const SIGHTS: &[Glimpse] = &[
    glimpse(8, "getxattr", look(0, Always)),
    glimpse(9, "lgetxattr", look(0, Never)),
    glimpse(11, "listxattr", look(0, Always)),
    glimpse(12, "llistxattr", look(0, Never)),
    glimpse(27, "inotify_add_watch", look(1, Always)),
    glimpse(43, "statfs", look(0, Always)),
    glimpse(48, "faccessat", look_at(0, Always)),
    glimpse(49, "chdir", look(0, Always)),
    glimpse(78, "readlinkat", look_at(0, Never)),
    glimpse(79, "newfstatat", stat_at(0, UnlessFlag(3))),
    glimpse(203, "connect", Sight::Socket { addr: 1, len: 2 }),
    glimpse(221, "execve", Sight::Program { at: None, path: 0, flags: None }),
    glimpse(263, "fanotify_mark", Sight::Unknown),
    glimpse(264, "name_to_handle_at", look_at(0, Always)),
    glimpse(281, "execveat", Sight::Program { at: Some(0), path: 1, flags: Some(4) }),
    glimpse(291, "statx", stat_at(0, UnlessFlagOrNull(2))),
    glimpse(433, "fspick", Sight::Unknown),
    glimpse(439, "faccessat2", look_at(0, UnlessFlag(3))),
    glimpse(442, "mount_setattr", Sight::Unknown),
    glimpse(464, "getxattrat", look_at(0, UnlessFlag(2))),
    glimpse(465, "listxattrat", look_at(0, UnlessFlag(2))),
    glimpse(468, "file_getattr", look_at(0, UnlessFlag(4))),
    glimpse(469, "file_setattr", Sight::Unknown),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{ABIS, HIGHEST_KNOWN};

    #[test]
    fn a_call_is_in_one_table_and_once() {
        let sights: Vec<u32> = SIGHTS.iter().map(|it| it.number).collect();
        assert!(sights.is_sorted_by(|a, b| a < b));
        for number in sights {
            assert!(number <= HIGHEST_KNOWN);
            let own = ABIS[0];
            assert!(!own.calls.iter().any(|call| call.number == number), "{number}");
            assert!(!own.refused.contains(&number), "{number}");
        }
    }
}
