//! The system calls that can change the tree, by architecture.
//!
//! One table per call convention says which numbers matter and where a call
//! holds the names it changes. The filter and the decoder both read it, so
//! that nothing can be stopped without being understood or the reverse.
//!
//! Not in the tables, because they need a descriptor that was opened for
//! writing, which was seen: write(2) and its kin, ftruncate, fallocate,
//! copy_file_range, sendfile, splice, mmap.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod i386;
mod sights;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub(crate) use sights::{SIGHTS, Sight};

/// Call conventions a program can use on this machine; the first is our own.
#[cfg(target_arch = "x86_64")]
pub(crate) const ABIS: &[&Abi] = &[&x86_64::ABI, &i386::ABI];
/// Call conventions a program can use on this machine. 32-bit ARM is none of
/// them: the filter ends such a program.
#[cfg(target_arch = "aarch64")]
pub(crate) const ABIS: &[&Abi] = &[&aarch64::ABI];

/// The highest number known when the tables were written; shared by all
/// architectures since Linux 5.1. What is above is refused: it may be a way to
/// change the tree that these tables do not know.
pub(crate) const HIGHEST_KNOWN: u32 = 470;

/// One call convention.
pub(crate) struct Abi {
    /// `AUDIT_ARCH_*`.
    pub(crate) audit_arch: u32,
    /// Calls that are stopped.
    pub(crate) calls: &'static [Call],
    /// Calls that are refused with ENOSYS, as by a kernel without them:
    /// io_uring works behind a filter's back; clone3 hides its flags in
    /// memory, and every C library falls back to clone; to read a name from a
    /// page that userfaultfd has a thread of the command supply would be to
    /// wait for a thread that waits for us.
    pub(crate) refused: &'static [u32],
    /// seccomp(2): refused with EINVAL when it asks for a listener, whose
    /// answers would outrank ours.
    pub(crate) seccomp: u32,
}

/// A system call that is stopped.
pub(crate) struct Call {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
}

/// An argument's position, from 0.
pub(crate) type Arg = usize;

/// What a call changes, and which arguments say so.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// A file, if its flags are such that it may be created or written.
    Open { at: Option<Arg>, path: Arg, flags: Arg },
    /// The same, with the flags in a `struct open_how`.
    OpenHow { at: Arg, path: Arg, how: Arg },
    /// One name.
    Path { at: Option<Arg>, path: Arg, follow: Follow },
    /// One name that stops being what it was, or becomes a symbolic link:
    /// never followed, and nothing remembered about it holds. mkdir and mknod
    /// are not among them: what they make is no link.
    Entry { at: Option<Arg>, path: Arg },
    /// The file behind a descriptor.
    Fd(Arg),
    /// An old name and a new one.
    Rename { old_at: Option<Arg>, old: Arg, new_at: Option<Arg>, new: Arg },
    /// The name of a file, and another for it.
    Link { old_at: Option<Arg>, old: Arg, new_at: Option<Arg>, new: Arg, flags: Option<Arg> },
    /// A socket's name, in a `struct sockaddr`.
    Bind { addr: Arg, len: Arg },
    /// bind(2) among others, with its arguments in memory.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "a convention of x86 has it")
    )]
    SocketCall,
    /// The caller's root directory.
    Chroot,
    /// A process that must not escape: the flag that asks for it is removed.
    Clone,
    /// ptrace(2), if this argument asks to trace a process. The kernel refuses
    /// it, since every process has us as its tracer.
    Trace(Arg),
    /// Which processors a process may use is asked, or `told`; or its ids
    /// change. Nothing of the tree, but see `pairing`.
    Processors { told: bool },
    /// Anything, from here on.
    Blind,
    /// Anything, if this argument has one of these bits.
    BlindIfBits(Arg, u32),
    /// Anything, if this argument is one of these values.
    BlindIfOneOf(Arg, &'static [u32]),
}

/// Whether a symbolic link at the end of a name is followed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Follow {
    Always,
    /// Always; a null name means the descriptor.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "a convention of x86 has it")
    )]
    AlwaysOrNull,
    Never,
    /// Unless the argument has `AT_SYMLINK_NOFOLLOW`; `AT_EMPTY_PATH` in it
    /// makes an empty name mean the descriptor.
    UnlessFlag(Arg),
    /// As `UnlessFlag`; a null name means the descriptor too.
    UnlessFlagOrNull(Arg),
}

/// btrfs: create or destroy a subvolume or snapshot, through a directory that
/// is open for reading. And `USERFAULTFD_IOC_NEW`, the other way to
/// userfaultfd: from there on no name is read.
pub(crate) const BLINDING_IOCTLS: &[u32] =
    &[0x5000_9401, 0x5000_940e, 0x5000_940f, 0x5000_9417, 0x5000_9418, 0x5000_943f, 0xaa00];

/// `PTRACE_TRACEME`, `PTRACE_ATTACH` and `PTRACE_SEIZE`.
pub(crate) const TRACE_REQUESTS: &[u32] = &[0, 16, 0x4206];

/// `OPEN_TREE_CLONE`: what is below the descriptor has no path.
pub(crate) const OPEN_TREE_CLONE: u32 = 1;

pub(crate) const fn call(number: u32, name: &'static str, shape: Shape) -> Call {
    Call { number, name, shape }
}

/// A path argument without a directory descriptor.
pub(crate) const fn path(path: Arg, follow: Follow) -> Shape {
    Shape::Path { at: None, path, follow }
}

/// A path argument after its directory descriptor.
pub(crate) const fn path_at(at: Arg, follow: Follow) -> Shape {
    Shape::Path { at: Some(at), path: at + 1, follow }
}

/// Old and new name, each after its directory descriptor.
pub(crate) const RENAME_AT: Shape =
    Shape::Rename { old_at: Some(0), old: 1, new_at: Some(2), new: 3 };

/// A file's name and another, each after its directory descriptor, and flags.
pub(crate) const LINK_AT: Shape =
    Shape::Link { old_at: Some(0), old: 1, new_at: Some(2), new: 3, flags: Some(4) };

/// Numbers that every architecture shares, because they came after 5.1.
macro_rules! with_shared_calls {
    ($($call:expr),* $(,)?) => {
        &[
            $($call,)*
            $crate::arch::call(428, "open_tree", $crate::arch::Shape::BlindIfBits(2, $crate::arch::OPEN_TREE_CLONE)),
            $crate::arch::call(429, "move_mount", $crate::arch::Shape::Blind),
            $crate::arch::call(432, "fsmount", $crate::arch::Shape::Blind),
            $crate::arch::call(437, "openat2", $crate::arch::Shape::OpenHow { at: 0, path: 1, how: 2 }),
            $crate::arch::call(438, "pidfd_getfd", $crate::arch::Shape::Blind),
            $crate::arch::call(452, "fchmodat2", $crate::arch::path_at(0, $crate::arch::Follow::UnlessFlag(3))),
            $crate::arch::call(463, "setxattrat", $crate::arch::path_at(0, $crate::arch::Follow::UnlessFlag(2))),
            $crate::arch::call(466, "removexattrat", $crate::arch::path_at(0, $crate::arch::Follow::UnlessFlag(2))),
            $crate::arch::call(467, "open_tree_attr", $crate::arch::Shape::Blind),
        ]
    };
}
use with_shared_calls;

/// Refused, with the same number everywhere.
pub(crate) const IO_URING_SETUP: u32 = 425;
pub(crate) const CLONE3: u32 = 435;
