//! What the tracing thread calls.

use std::mem::{self, MaybeUninit};
use std::ptr;
use std::time::Duration;

use super::{check, int};
use crate::error::Errno;

/// A change of state of a child or tracee.
pub(crate) struct Change {
    pub(crate) pid: i32,
    /// The raw status of wait(2).
    pub(crate) status: i32,
    pub(crate) usage: Usage,
}

/// What a process and the children it waited for took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// Bytes.
    pub(crate) max_rss: u64,
}

/// Waits for a change of any child or tracee of this thread; those of other
/// threads are left alone. `None` when there are none left.
///
/// Not the `nix` one, which loses stops by real-time signals.
pub(crate) fn wait() -> Result<Option<Change>, Errno> {
    loop {
        let mut status = 0;
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        let flags = libc::__WALL | libc::__WNOTHREAD;
        // SAFETY: writes the status and the usage into this stack.
        let pid = unsafe { libc::wait4(-1, &raw mut status, flags, usage.as_mut_ptr()) };
        match check(i64::from(pid)) {
            Ok(_) => {
                // SAFETY: integers only, zero or filled by the kernel.
                let usage = unsafe { usage.assume_init() };
                let usage = Usage::from_kernel(&usage);
                return Ok(Some(Change { pid, status, usage }));
            }
            Err(Errno(libc::ECHILD)) => return Ok(None),
            Err(Errno(libc::EINTR)) => {}
            Err(errno) => return Err(errno),
        }
    }
}

impl Usage {
    fn from_kernel(usage: &libc::rusage) -> Usage {
        let time = |t: &libc::timeval| {
            Duration::from_secs(t.tv_sec.unsigned_abs())
                + Duration::from_micros(t.tv_usec.unsigned_abs())
        };
        Usage {
            cpu: time(&usage.ru_utime) + time(&usage.ru_stime),
            max_rss: usage.ru_maxrss.unsigned_abs() * 1024,
        }
    }
}

/// ptrace(2), whose address and data are numbers here.
fn ptrace(request: u32, tid: i32, address: usize, data: usize) -> Result<i64, Errno> {
    // SAFETY: raw, because the C library's wrapper changes the answer of
    // PEEKDATA; callers give pointers that are valid for their request.
    check(unsafe { libc::syscall(libc::SYS_ptrace, request, tid, address, data) })
}

/// Attaches without stopping, with options.
pub(crate) fn seize(tid: i32, options: i32) -> Result<(), Errno> {
    ptrace(libc::PTRACE_SEIZE, tid, 0, options.unsigned_abs() as usize).map(drop)
}

/// Sets the options of a stopped tracee, and of what it starts from now on.
pub(crate) fn set_options(tid: i32, options: i32) -> Result<(), Errno> {
    ptrace(libc::PTRACE_SETOPTIONS, tid, 0, options.unsigned_abs() as usize).map(drop)
}

/// How a stopped tracee goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Go {
    /// With this signal, or none if 0.
    On(i32),
    /// To the end of the system call it is in.
    ToCallExit,
    /// Not at all, but reporting when SIGCONT comes.
    Listen,
}

/// Lets a stopped tracee go on.
pub(crate) fn resume(tid: i32, how: Go) -> Result<(), Errno> {
    let (request, signal) = match how {
        Go::On(signal) => (libc::PTRACE_CONT, signal),
        Go::ToCallExit => (libc::PTRACE_SYSCALL, 0),
        Go::Listen => (libc::PTRACE_LISTEN, 0),
    };
    ptrace(request, tid, 0, signal.unsigned_abs() as usize).map(drop)
}

/// The number that came with a ptrace event.
pub(crate) fn event_message(tid: i32) -> Result<u64, Errno> {
    let mut message = 0u64;
    ptrace(libc::PTRACE_GETEVENTMSG, tid, 0, (&raw mut message).addr())?;
    Ok(message)
}

/// A system call that a filter stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoppedCall {
    /// `AUDIT_ARCH_*`.
    pub(crate) arch: u32,
    pub(crate) number: u64,
    pub(crate) args: [u64; 6],
}

/// `struct ptrace_syscall_info` with its seccomp variant, which the `libc`
/// crate has for one C library only.
#[repr(C)]
#[derive(Default)]
struct SyscallInfo {
    op: u8,
    _pad: [u8; 3],
    arch: u32,
    ip: u64,
    sp: u64,
    number: u64,
    args: [u64; 6],
    ret_data: u32,
    _reserved: u32,
}

/// The call a tracee is stopped at by a filter; `None` if it is stopped
/// elsewhere.
pub(crate) fn stopped_call(tid: i32) -> Result<Option<StoppedCall>, Errno> {
    const SECCOMP_STOP: u8 = 3;
    let info = syscall_info(tid)?;
    Ok((info.op == SECCOMP_STOP).then_some(StoppedCall {
        arch: info.arch,
        number: info.number,
        args: info.args,
    }))
}

fn syscall_info(tid: i32) -> Result<SyscallInfo, Errno> {
    const GET_SYSCALL_INFO: u32 = 0x420e;
    let mut info = SyscallInfo::default();
    ptrace(GET_SYSCALL_INFO, tid, size_of::<SyscallInfo>(), (&raw mut info).addr())?;
    Ok(info)
}

/// What the call answered at whose end a tracee is stopped; `None` if it was
/// refused, or if the tracee is stopped elsewhere.
pub(crate) fn answer(tid: i32) -> Result<Option<i32>, Errno> {
    const EXIT_STOP: u8 = 2;
    let info = syscall_info(tid)?;
    // The exit variant has the answer where the others have the number.
    let answer = info.number.cast_signed();
    Ok((info.op == EXIT_STOP && answer >= 0).then_some(int(answer)))
}

/// Reads another process's memory; fewer bytes than asked for if not all of
/// it is there.
pub(crate) fn read_memory(tid: i32, address: u64, into: &mut [u8]) -> Result<usize, Errno> {
    let Ok(address) = usize::try_from(address) else { return Err(Errno(libc::EFAULT)) };
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let remote =
        libc::iovec { iov_base: ptr::without_provenance_mut(address), iov_len: into.len() };
    // SAFETY: writes into the slice only; the remote address is only a number.
    let count =
        unsafe { libc::process_vm_readv(tid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(count).map_err(|_| super::last_errno())
}

/// Reads one word of a stopped tracee's memory, by the right of its tracer.
pub(crate) fn peek(tid: i32, address: u64) -> Result<u64, Errno> {
    let Ok(address) = usize::try_from(address) else { return Err(Errno(libc::EFAULT)) };
    let mut word = 0u64;
    ptrace(libc::PTRACE_PEEKDATA, tid, address, (&raw mut word).addr())?;
    Ok(word)
}

/// The registers of a tracee whose call was exchanged for another.
pub(crate) struct Diverted(Registers);

type Registers = libc::user_regs_struct;

/// PTRACE_GETREGS always speaks of 64-bit registers; GETREGSET would answer in
/// the layout of the tracee.
#[cfg(target_arch = "x86_64")]
fn registers(tid: i32) -> Result<Registers, Errno> {
    // SAFETY: a struct of integers may be zero.
    let mut registers: Registers = unsafe { mem::zeroed() };
    ptrace(libc::PTRACE_GETREGS, tid, 0, (&raw mut registers).addr())?;
    Ok(registers)
}

#[cfg(target_arch = "x86_64")]
fn set_registers(tid: i32, registers: &Registers) -> Result<(), Errno> {
    ptrace(libc::PTRACE_SETREGS, tid, 0, ptr::from_ref(registers).addr()).map(drop)
}

/// `NT_PRSTATUS`: the general registers.
#[cfg(target_arch = "aarch64")]
const GENERAL: usize = 1;

#[cfg(target_arch = "aarch64")]
fn registers(tid: i32) -> Result<Registers, Errno> {
    // SAFETY: a struct of integers may be zero.
    let mut registers: Registers = unsafe { mem::zeroed() };
    let mut area =
        libc::iovec { iov_base: (&raw mut registers).cast(), iov_len: size_of::<Registers>() };
    ptrace(libc::PTRACE_GETREGSET, tid, GENERAL, (&raw mut area).addr())?;
    Ok(registers)
}

#[cfg(target_arch = "aarch64")]
fn set_registers(tid: i32, registers: &Registers) -> Result<(), Errno> {
    let area = libc::iovec {
        iov_base: ptr::from_ref(registers).cast_mut().cast(),
        iov_len: size_of::<Registers>(),
    };
    ptrace(libc::PTRACE_SETREGSET, tid, GENERAL, (&raw const area).addr()).map(drop)
}

/// Exchanges the call a tracee is stopped at for
/// `prctl(PR_SET_DUMPABLE, 1)`. `native` is whether the call follows the
/// machine's own convention.
#[cfg(target_arch = "x86_64")]
pub(crate) fn divert_to_dumpable(tid: i32, native: bool) -> Result<Diverted, Errno> {
    let saved = registers(tid)?;
    let mut changed = saved;
    let option = u64::from(libc::PR_SET_DUMPABLE.unsigned_abs());
    if native {
        (changed.orig_rax, changed.rdi, changed.rsi) = (157, option, 1);
    } else {
        (changed.orig_rax, changed.rbx, changed.rcx) = (172, option, 1);
    }
    set_registers(tid, &changed)?;
    Ok(Diverted(saved))
}

/// Takes a tracee, at the end of the call it was diverted to, back to before
/// its own call. Every instruction that makes one is two bytes long.
#[cfg(target_arch = "x86_64")]
pub(crate) fn return_to_call(tid: i32, diverted: &Diverted) -> Result<(), Errno> {
    let mut registers = diverted.0;
    registers.rip -= 2;
    registers.rax = registers.orig_rax;
    set_registers(tid, &registers)
}

/// Clears bits in the first argument of the call a tracee is stopped at.
#[cfg(target_arch = "x86_64")]
pub(crate) fn clear_in_first_argument(tid: i32, native: bool, bits: u32) -> Result<(), Errno> {
    let mut registers = registers(tid)?;
    let argument = if native { &mut registers.rdi } else { &mut registers.rbx };
    *argument &= !u64::from(bits);
    set_registers(tid, &registers)
}

/// `NT_ARM_SYSTEM_CALL`: the number of the call a tracee is stopped at.
#[cfg(target_arch = "aarch64")]
const SYSTEM_CALL: usize = 0x404;

/// Exchanges the call a tracee is stopped at for
/// `prctl(PR_SET_DUMPABLE, 1)`.
#[cfg(target_arch = "aarch64")]
pub(crate) fn divert_to_dumpable(tid: i32, _native: bool) -> Result<Diverted, Errno> {
    let saved = registers(tid)?;
    let mut changed = saved;
    changed.regs[0] = u64::from(libc::PR_SET_DUMPABLE.unsigned_abs());
    changed.regs[1] = 1;
    set_registers(tid, &changed)?;
    let mut number = int(libc::SYS_prctl);
    let area = libc::iovec { iov_base: (&raw mut number).cast(), iov_len: size_of::<i32>() };
    ptrace(libc::PTRACE_SETREGSET, tid, SYSTEM_CALL, (&raw const area).addr())?;
    Ok(Diverted(saved))
}

/// Takes a tracee, at the end of the call it was diverted to, back to before
/// its own call. Every instruction is four bytes long.
#[cfg(target_arch = "aarch64")]
pub(crate) fn return_to_call(tid: i32, diverted: &Diverted) -> Result<(), Errno> {
    let mut registers = diverted.0;
    registers.pc -= 4;
    set_registers(tid, &registers)
}

/// Clears bits in the first argument of the call a tracee is stopped at.
#[cfg(target_arch = "aarch64")]
pub(crate) fn clear_in_first_argument(tid: i32, _native: bool, bits: u32) -> Result<(), Errno> {
    let mut registers = registers(tid)?;
    registers.regs[0] &= !u64::from(bits);
    set_registers(tid, &registers)
}
