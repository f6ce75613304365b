//! What a child calls between fork and exec.

use std::ffi::{CStr, CString, c_char};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use super::{check, int, last_errno};
use crate::error::Errno;
use crate::filter::Instruction;

/// The result of most calls here.
pub(crate) type Done = Result<(), Errno>;

/// Starts a process with a copy of this one's memory that runs `body` and
/// exits with what it returns. `flags` are `CLONE_NEW*`.
///
/// `body` must not allocate, lock or panic: other threads of this process do
/// not exist in the copy, but the locks they held do.
pub(crate) fn clone(flags: i32, body: &mut dyn FnMut() -> i32) -> Result<(i32, OwnedFd), Errno> {
    let mut pidfd: i32 = -1;
    let flags = i64::from(flags | libc::CLONE_PIDFD | libc::SIGCHLD);
    // SAFETY: without CLONE_VM this is fork(2); the kernel writes the pidfd
    // through the third argument, which is the same on every architecture.
    let pid =
        unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, &raw mut pidfd, 0usize, 0usize) };
    if pid == 0 {
        exit(body());
    }
    let pid = int(check(pid)?);
    // SAFETY: the kernel has just made this descriptor for us.
    Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Ends this process at once.
pub(crate) fn exit(status: i32) -> ! {
    // SAFETY: _exit(2) runs no handlers and does not return.
    unsafe { libc::_exit(status) }
}

/// Gives every signal its default action and lets all through.
///
/// Raw, because the C library refuses the two signals it keeps for itself,
/// which may have been ignored since before this program.
pub(crate) fn default_signals() {
    // `struct sigaction` of the kernel: SIG_DFL, no flags, an empty mask.
    let default = [0usize; 4];
    // SAFETY: rt_sigaction(2) and rt_sigprocmask(2) read structs on this
    // stack; SIGKILL and SIGSTOP are refused, harmlessly.
    unsafe {
        for signal in 1..=64 {
            let action = (&raw const default).addr();
            libc::syscall(libc::SYS_rt_sigaction, signal, action, 0usize, 8usize);
        }
        let none = 0u64;
        let set = (&raw const none).addr();
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, set, 0usize, 8usize);
    }
}

/// Lets children wait to be reaped, should the program have said otherwise.
pub(crate) fn default_sigchld() {
    // SAFETY: signal(2) with SIG_DFL.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
}

/// prctl(2) with one argument.
pub(crate) fn prctl(option: i32, argument: usize) -> Result<i64, Errno> {
    // SAFETY: the options used here take numbers only.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, argument, 0usize, 0usize, 0usize) })
}

/// Clears the ambient capabilities.
pub(crate) fn clear_ambient() -> Done {
    let (option, all) = (libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL);
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_prctl, option, all, 0usize, 0usize, 0usize) }).map(drop)
}

/// setsid(2), umask(2).
pub(crate) fn new_session() -> Done {
    // SAFETY: takes nothing.
    check(i64::from(unsafe { libc::setsid() })).map(drop)
}

/// Joins a new, anonymous session keyring, if that is allowed.
pub(crate) fn join_new_session_keyring() {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: the name of the keyring is NULL, so nothing is read.
    unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0) };
}

/// umask(2).
pub(crate) fn umask(mask: u32) {
    // SAFETY: takes a number only, always succeeds.
    unsafe { libc::umask(mask) };
}

/// Forbids core files.
pub(crate) fn no_core_files() -> Done {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: reads a struct on this stack.
    check(i64::from(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })).map(drop)
}

/// dup2(2).
pub(crate) fn dup2(from: BorrowedFd<'_>, to: i32) -> Done {
    // SAFETY: takes numbers only.
    check(i64::from(unsafe { libc::dup2(from.as_raw_fd(), to) })).map(drop)
}

/// Lets every descriptor from 3 up close on exec.
pub(crate) fn close_rest_on_exec() {
    let flag = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: takes numbers only.
    if unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, flag) } == 0 {
        return;
    }
    for fd in 3..65_536 {
        // SAFETY: takes numbers only; one that is not open is refused.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Closes every descriptor but these. Only for a process that will not touch
/// any other descriptor it inherited.
pub(crate) fn close_all_but(keep: BorrowedFd<'_>) {
    let keep = keep.as_raw_fd().cast_unsigned();
    let below = keep.saturating_sub(1);
    // SAFETY: the caller gives up what it inherited.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 0u32, below, 0u32) == 0 {
            libc::syscall(libc::SYS_close_range, keep + 1, u32::MAX, 0u32);
            return;
        }
        for fd in (0..65_536).filter(|fd| *fd != keep.cast_signed()) {
            libc::close(fd);
        }
    }
}

/// Closes every descriptor from 3 up but these. Only for a process that will not
/// touch any other descriptor it inherited.
pub(crate) fn close_others<const COUNT: usize>(keep: [BorrowedFd<'_>; COUNT]) {
    let mut keep = keep.map(|fd| fd.as_raw_fd().cast_unsigned());
    keep.sort_unstable();
    let mut from = 3;
    for next in keep.into_iter().chain([u32::MAX]) {
        if next > from {
            close_range(from, next - 1);
        }
        from = from.max(next.saturating_add(1));
    }
}

/// Closes the descriptors from `first` to `last`.
fn close_range(first: u32, last: u32) {
    // SAFETY: the caller gives up what it inherited.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, last, 0u32) != 0 {
            for fd in first..=last.min(65_535) {
                libc::close(fd.cast_signed());
            }
        }
    }
}

/// Waits so many milliseconds.
pub(crate) fn pause(milliseconds: i64) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
    // SAFETY: reads a struct on this stack; null is allowed for what is left.
    unsafe { libc::nanosleep(&raw const time, ptr::null_mut()) };
}

/// Reads some bytes; 0 is the end.
pub(crate) fn read(fd: BorrowedFd<'_>, into: &mut [u8]) -> Result<usize, Errno> {
    loop {
        // SAFETY: writes at most the slice's length into it.
        let count = unsafe { libc::read(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len()) };
        match usize::try_from(count) {
            Ok(count) => return Ok(count),
            Err(_) if last_errno().0 == libc::EINTR => {}
            Err(_) => return Err(last_errno()),
        }
    }
}

/// Writes bytes that fit into a pipe at once.
pub(crate) fn write(fd: BorrowedFd<'_>, bytes: &[u8]) {
    // SAFETY: reads the slice only. A reader that is gone needs no message.
    unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
}

/// Writes all bytes to a file.
pub(crate) fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Done {
    while !bytes.is_empty() {
        // SAFETY: reads at most the slice's length from it.
        let count = unsafe { libc::write(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(count) {
            Ok(0) => return Err(Errno(libc::EIO)),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(_) if last_errno().0 == libc::EINTR => {}
            Err(_) => return Err(last_errno()),
        }
    }
    Ok(())
}

/// fchown(2).
pub(crate) fn fchown(fd: BorrowedFd<'_>, (uid, gid): (u32, u32)) -> Done {
    // SAFETY: takes numbers only.
    check(i64::from(unsafe { libc::fchown(fd.as_raw_fd(), uid, gid) })).map(drop)
}

/// Sets `lo` up (netdevice(7)).
pub(crate) fn loopback_up() -> Done {
    // SAFETY: a struct of plain bytes may be zero.
    let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
    // SAFETY: takes numbers only.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let socket = int(check(i64::from(socket))?);
    // SAFETY: the kernel has just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: the kernel reads a struct on this stack.
    let answer =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    check(i64::from(answer)).map(drop)
}

/// openat(2) for reading, or to create; the descriptor closes on exec.
pub(crate) fn open(path: &CStr, flags: i32, mode: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: `path` lives through the call.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, mode) };
    // SAFETY: the kernel has just made this descriptor for us.
    check(i64::from(fd)).map(|fd| unsafe { OwnedFd::from_raw_fd(int(fd)) })
}

/// mount(2); empty strings are null.
pub(crate) fn mount(source: &CStr, target: &CStr, fstype: &CStr, flags: u64, data: &CStr) -> Done {
    // SAFETY: all strings live through the call; null is allowed for them.
    let answer = unsafe {
        libc::mount(or_null(source), target.as_ptr(), or_null(fstype), flags, or_null(data).cast())
    };
    check(i64::from(answer)).map(drop)
}

fn or_null(text: &CStr) -> *const c_char {
    if text.is_empty() { ptr::null() } else { text.as_ptr() }
}

/// The `ST_*` flags of the mount that holds `path`.
pub(crate) fn mount_flags(path: &CStr) -> Result<u64, Errno> {
    // SAFETY: a struct of integers may be zero; statfs(2) fills it.
    unsafe {
        let mut answer = std::mem::zeroed::<libc::statvfs>();
        check(i64::from(libc::statvfs(path.as_ptr(), &raw mut answer)))?;
        Ok(answer.f_flag)
    }
}

/// umount2(2).
pub(crate) fn unmount(target: &CStr, flags: i32) -> Done {
    // SAFETY: `target` lives through the call.
    check(i64::from(unsafe { libc::umount2(target.as_ptr(), flags) })).map(drop)
}

/// pivot_root(2).
pub(crate) fn pivot_root(new_root: &CStr, put_old: &CStr) -> Done {
    // SAFETY: both strings live through the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_pivot_root, new_root.as_ptr(), put_old.as_ptr()) };
    check(answer).map(drop)
}

/// chroot(2).
pub(crate) fn chroot(path: &CStr) -> Done {
    // SAFETY: `path` lives through the call.
    check(i64::from(unsafe { libc::chroot(path.as_ptr()) })).map(drop)
}

/// chdir(2).
pub(crate) fn chdir(path: &CStr) -> Done {
    // SAFETY: `path` lives through the call.
    check(i64::from(unsafe { libc::chdir(path.as_ptr()) })).map(drop)
}

/// fchdir(2).
pub(crate) fn fchdir(fd: BorrowedFd<'_>) -> Done {
    // SAFETY: takes a number only.
    check(i64::from(unsafe { libc::fchdir(fd.as_raw_fd()) })).map(drop)
}

/// symlink(2).
pub(crate) fn symlink(target: &CStr, path: &CStr) -> Done {
    // SAFETY: both strings live through the call.
    check(i64::from(unsafe { libc::symlink(target.as_ptr(), path.as_ptr()) })).map(drop)
}

/// mkdir(2).
pub(crate) fn mkdir(path: &CStr, mode: u32) -> Done {
    // SAFETY: `path` lives through the call.
    check(i64::from(unsafe { libc::mkdir(path.as_ptr(), mode) })).map(drop)
}

/// sethostname(2).
pub(crate) fn sethostname(name: &CStr) -> Done {
    // SAFETY: the kernel reads as many bytes as it is told.
    check(i64::from(unsafe { libc::sethostname(name.as_ptr(), name.count_bytes()) })).map(drop)
}

/// setgroups(2), for this process only.
pub(crate) fn setgroups(groups: &[u32]) -> Done {
    // SAFETY: the kernel reads as many ids as it is told.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// setresgid(2): real, effective and saved.
pub(crate) fn setresgid(gid: u32) -> Done {
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// setresuid(2): real, effective and saved.
pub(crate) fn setresuid(uid: u32) -> Done {
    // SAFETY: takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// The capability sets of a thread, bit *n* for capability *n*.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
}

/// `_LINUX_CAPABILITY_VERSION_3` for this thread.
const CAPABILITY_HEADER: [u32; 2] = [0x2008_0522, 0];

/// capget(2) of this thread.
pub(crate) fn capabilities() -> Result<Capabilities, Errno> {
    let mut sets = [[0u32; 3]; 2];
    // SAFETY: version 3 fills two structs of three words.
    let answer =
        unsafe { libc::syscall(libc::SYS_capget, CAPABILITY_HEADER.as_ptr(), sets.as_mut_ptr()) };
    check(answer)?;
    let set = |i: usize| u64::from(sets[0][i]) | u64::from(sets[1][i]) << 32;
    Ok(Capabilities { effective: set(0), permitted: set(1), inheritable: set(2) })
}

/// capset(2) of this thread.
#[expect(clippy::cast_possible_truncation, reason = "a set is two words, low and high")]
pub(crate) fn set_capabilities(to: Capabilities) -> Done {
    let Capabilities { effective, permitted, inheritable } = to;
    let sets = [
        [effective as u32, permitted as u32, inheritable as u32],
        [(effective >> 32) as u32, (permitted >> 32) as u32, (inheritable >> 32) as u32],
    ];
    // SAFETY: version 3 reads two structs of three words.
    check(unsafe { libc::syscall(libc::SYS_capset, CAPABILITY_HEADER.as_ptr(), sets.as_ptr()) })
        .map(drop)
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: u16,
    code: *const Instruction,
}

/// Installs a seccomp filter without the slow-down some processors would
/// otherwise get with it.
pub(crate) fn install_filter(code: &[Instruction]) -> Done {
    const SPEC_ALLOW: u32 = 1 << 2;
    let Ok(length) = u16::try_from(code.len()) else { return Err(Errno(libc::EINVAL)) };
    let program = Program { length, code: code.as_ptr() };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel copies `length` instructions of its own layout.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, mode, SPEC_ALLOW, &raw const program) };
    check(answer).map(drop)
}

/// A null-terminated array of strings, made before the fork.
pub(crate) struct StringArray<'a> {
    pointers: Vec<*const c_char>,
    _strings: &'a [CString],
}

impl<'a> StringArray<'a> {
    pub(crate) fn new(strings: &'a [CString]) -> StringArray<'a> {
        let mut pointers: Vec<_> = strings.iter().map(|text| text.as_ptr()).collect();
        pointers.push(ptr::null());
        StringArray { pointers, _strings: strings }
    }
}

/// execve(2); returns only when it was refused.
pub(crate) fn execve(program: &CStr, argv: &StringArray<'_>, envp: &StringArray<'_>) -> Errno {
    // SAFETY: both arrays end with null and borrow their strings.
    unsafe { libc::execve(program.as_ptr(), argv.pointers.as_ptr(), envp.pointers.as_ptr()) };
    last_errno()
}

/// mkdirat(2) with a descriptor that cannot be: changes nothing, but stops at
/// a filter.
pub(crate) fn harmless_mkdir() -> Errno {
    // SAFETY: the string is static.
    unsafe { libc::syscall(libc::SYS_mkdirat, -1, c"probe".as_ptr(), 0) };
    last_errno()
}

/// kill(2) with SIGKILL.
pub(crate) fn kill(pid: i32) {
    // SAFETY: takes numbers only.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Waits for any child and reaps it: its id and raw status.
pub(crate) fn reap_any() -> Result<(i32, i32), Errno> {
    loop {
        let mut status = 0;
        // SAFETY: writes the status into this stack.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL) };
        match check(i64::from(pid)) {
            Ok(_) => return Ok((pid, status)),
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
        }
    }
}
