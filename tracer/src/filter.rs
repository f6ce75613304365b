//! The seccomp program: which calls stop, which are refused, and that all
//! others run at full speed.
//!
//! One program for all call conventions of the machine, so that `int 0x80`
//! and 32-bit programs are seen too. It is inherited and cannot be removed.

use crate::arch::{ABIS, Abi, Call, HIGHEST_KNOWN, SIGHTS, Shape, TRACE_REQUESTS};

/// One instruction of classic BPF, as the kernel reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    operand: u32,
}

/// `BPF_LD | BPF_W | BPF_ABS`: loads a word of `struct seccomp_data`.
const LOAD: u16 = 0x20;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
const IF_EQUAL: u16 = 0x15;
/// `BPF_JMP | BPF_JGT | BPF_K`.
const IF_ABOVE: u16 = 0x25;
/// `BPF_JMP | BPF_JSET | BPF_K`.
const IF_ANY_BIT: u16 = 0x45;
/// `BPF_JMP | BPF_JA`.
const JUMP: u16 = 0x05;
/// `BPF_RET | BPF_K`.
const RETURN: u16 = 0x06;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const TRACE: u32 = libc::SECCOMP_RET_TRACE;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | 38; // ENOSYS
const INVALID: u32 = libc::SECCOMP_RET_ERRNO | 22; // EINVAL

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER`.
const NEW_LISTENER: u32 = 1 << 3;
/// `CLONE_UNTRACED`.
pub(crate) const CLONE_UNTRACED: u32 = 0x0080_0000;
/// Open flags that can change a file or make one: `O_WRONLY`, `O_RDWR`,
/// `O_CREAT`, `O_TRUNC` (which works with `O_RDONLY`) and `__O_TMPFILE`; the
/// same on every architecture here.
pub(crate) const OPEN_CHANGES: u32 = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20_000_000;

/// Which calls stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stops {
    /// Those that can change the tree.
    Changes,
    /// Those that show something of it, too. Of a call convention that is not
    /// the machine's own, all.
    ChangesAndReads,
}

/// The whole program.
pub(crate) fn program(stops: Stops) -> Vec<Instruction> {
    let mut code = vec![load(ARCH)];
    for (number, abi) in ABIS.iter().enumerate() {
        let section = section(abi, stops, number == 0);
        // The section is longer than a conditional jump reaches.
        let length = u32::try_from(section.len()).expect("a section is a few hundred instructions");
        code.push(branch(IF_EQUAL, abi.audit_arch, 1, 0));
        code.push(Instruction { code: JUMP, jump_true: 0, jump_false: 0, operand: length });
        code.extend(section);
    }
    code.push(give(KILL));
    code
}

/// What holds for one call convention; always returns.
///
/// Calls of which the kernel can see beforehand that they are let through in any
/// case do not come here (Linux 5.11). Of those that do, the ones that mostly
/// change nothing are judged first: with a table of fifty in front of it, to open
/// and close a file for reading is dearer by a twenty-fifth.
fn section(abi: &Abi, stops: Stops, is_own: bool) -> Vec<Instruction> {
    let (first, others): (Vec<&Call>, Vec<&Call>) = abi.calls.iter().partition(|call| is_hot(call));
    let mut code = vec![load(NUMBER)];
    for call in first {
        add(&mut code, call.number, &judgement(call, stops));
    }
    code.extend([branch(IF_ABOVE, HIGHEST_KNOWN, 0, 1), give(NO_SUCH_CALL)]);
    for number in abi.refused {
        code.extend([branch(IF_EQUAL, *number, 0, 1), give(NO_SUCH_CALL)]);
    }
    add(&mut code, abi.seccomp, &if_any_bit(1, NEW_LISTENER, INVALID));
    for call in others {
        add(&mut code, call.number, &judgement(call, stops));
    }
    if stops == Stops::ChangesAndReads && is_own {
        for glimpse in SIGHTS {
            add(&mut code, glimpse.number, &[give(TRACE)]);
        }
    }
    let all = stops == Stops::ChangesAndReads && !is_own;
    code.push(give(if all { TRACE } else { ALLOW }));
    code
}

/// Calls whose arguments decide, and that nearly every program makes.
fn is_hot(call: &Call) -> bool {
    matches!(call.shape, Shape::Open { .. } | Shape::Clone) || call.name == "ioctl"
}

/// What is done about a call, given what is wanted to be known.
fn judgement(call: &Call, stops: Stops) -> Vec<Instruction> {
    match (stops, call.shape) {
        (Stops::ChangesAndReads, Shape::Open { .. } | Shape::BlindIfBits(..)) => vec![give(TRACE)],
        (Stops::Changes | Stops::ChangesAndReads, _) => verdict(call),
    }
}

/// Runs `body`, which returns, for call `number`.
fn add(code: &mut Vec<Instruction>, number: u32, body: &[Instruction]) {
    let length = u8::try_from(body.len()).expect("a body is a few instructions");
    code.push(branch(IF_EQUAL, number, 0, length));
    code.extend_from_slice(body);
}

/// Whether a call stops, given its arguments.
fn verdict(call: &Call) -> Vec<Instruction> {
    match call.shape {
        Shape::Open { flags, .. } => if_any_bit(flags, OPEN_CHANGES, TRACE),
        Shape::Clone => if_any_bit(0, CLONE_UNTRACED, TRACE),
        Shape::BlindIfBits(arg, bits) => if_any_bit(arg, bits, TRACE),
        Shape::BlindIfOneOf(arg, values) => if_one_of(arg, values),
        Shape::Trace(request) => if_one_of(request, TRACE_REQUESTS),
        Shape::OpenHow { .. }
        | Shape::Path { .. }
        | Shape::Entry { .. }
        | Shape::Fd(_)
        | Shape::Rename { .. }
        | Shape::Link { .. }
        | Shape::Bind { .. }
        | Shape::SocketCall
        | Shape::Chroot
        | Shape::Processors { .. }
        | Shape::Blind => vec![give(TRACE)],
    }
}

fn if_any_bit(arg: usize, bits: u32, answer: u32) -> Vec<Instruction> {
    vec![load_arg(arg), branch(IF_ANY_BIT, bits, 0, 1), give(answer), give(ALLOW)]
}

fn if_one_of(arg: usize, values: &[u32]) -> Vec<Instruction> {
    let mut code = vec![load_arg(arg)];
    for value in values {
        code.extend([branch(IF_EQUAL, *value, 0, 1), give(TRACE)]);
    }
    code.push(give(ALLOW));
    code
}

/// The low word of an argument; all flags are `int`.
fn load_arg(arg: usize) -> Instruction {
    let arg = u32::try_from(arg).expect("a call has six arguments");
    let low = if cfg!(target_endian = "little") { 0 } else { 4 };
    load(ARGS + 8 * arg + low)
}

const fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, jump_true: 0, jump_false: 0, operand: offset }
}

const fn branch(code: u16, operand: u32, jump_true: u8, jump_false: u8) -> Instruction {
    Instruction { code, jump_true, jump_false, operand }
}

const fn give(answer: u32) -> Instruction {
    Instruction { code: RETURN, jump_true: 0, jump_false: 0, operand: answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would.
    fn judge(stops: Stops, arch: u32, number: u32, args: [u32; 6]) -> u32 {
        let code = program(stops);
        let (mut at, mut accumulator) = (0, 0);
        loop {
            let i = code[at];
            at += 1;
            let skip = |holds: bool| usize::from(if holds { i.jump_true } else { i.jump_false });
            match i.code {
                LOAD => {
                    accumulator = match i.operand {
                        NUMBER => number,
                        ARCH => arch,
                        offset => args[(offset as usize - 16) / 8],
                    }
                }
                IF_EQUAL => at += skip(accumulator == i.operand),
                IF_ABOVE => at += skip(accumulator > i.operand),
                IF_ANY_BIT => at += skip(accumulator & i.operand != 0),
                JUMP => at += i.operand as usize,
                RETURN => return i.operand,
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_program_judges_by_arch_number_and_flags() {
        const X86_64: u32 = 0xc000_003e;
        const I386: u32 = 0x4000_0003;
        for (case, arch, number, args, want) in [
            ("read", X86_64, 0, [0; 6], ALLOW),
            ("open read-only", X86_64, 2, [0; 6], ALLOW),
            (
                "open O_RDONLY|O_CLOEXEC|O_DIRECTORY",
                X86_64,
                257,
                [0, 0, 0o2_200_000, 0, 0, 0],
                ALLOW,
            ),
            ("openat O_WRONLY", X86_64, 257, [0, 0, 1, 0, 0, 0], TRACE),
            ("open O_TRUNC", X86_64, 2, [0, 0o1000, 0, 0, 0, 0], TRACE),
            ("openat O_TMPFILE", X86_64, 257, [0, 0, 0o20_000_000, 0, 0, 0], TRACE),
            ("rename", X86_64, 82, [0; 6], TRACE),
            ("fchmodat2", X86_64, 452, [0; 6], TRACE),
            ("highest known", X86_64, HIGHEST_KNOWN, [0; 6], ALLOW),
            ("a future call", X86_64, HIGHEST_KNOWN + 1, [0; 6], NO_SUCH_CALL),
            ("x32 open", X86_64, 0x4000_0002, [0; 6], NO_SUCH_CALL),
            ("io_uring_setup", X86_64, 425, [0; 6], NO_SUCH_CALL),
            ("clone3", X86_64, 435, [0; 6], NO_SUCH_CALL),
            ("clone", X86_64, 56, [17, 0, 0, 0, 0, 0], ALLOW),
            ("clone untraced", X86_64, 56, [CLONE_UNTRACED | 17, 0, 0, 0, 0, 0], TRACE),
            ("seccomp filter", X86_64, 317, [1, 0, 0, 0, 0, 0], ALLOW),
            ("seccomp listener", X86_64, 317, [1, 8, 0, 0, 0, 0], INVALID),
            ("ioctl", X86_64, 16, [0, 0x5401, 0, 0, 0, 0], ALLOW),
            ("ioctl subvolume", X86_64, 16, [0, 0x5000_940e, 0, 0, 0, 0], TRACE),
            ("ioctl for a userfaultfd", X86_64, 16, [3, 0xaa00, 0, 0, 0, 0], TRACE),
            ("userfaultfd", X86_64, 323, [0; 6], NO_SUCH_CALL),
            ("i386 userfaultfd", I386, 374, [0; 6], NO_SUCH_CALL),
            ("ptrace of itself", X86_64, 101, [0; 6], TRACE),
            ("ptrace that reads", X86_64, 101, [1, 0, 0, 0, 0, 0], ALLOW),
            ("i386 open", I386, 5, [0, 1, 0, 0, 0, 0], TRACE),
            ("i386 open read-only", I386, 5, [0; 6], ALLOW),
            ("i386 chmod", I386, 15, [0; 6], TRACE),
            ("i386 number of x86_64 rename", I386, 82, [0; 6], ALLOW),
            ("i386 io_uring_setup", I386, 425, [0; 6], NO_SUCH_CALL),
            ("another architecture", 0x4000_0028, 0, [0; 6], KILL),
        ] {
            assert_eq!(judge(Stops::Changes, arch, number, args), want, "{case}");
            // What is stopped or refused otherwise, is with reads too.
            let with_reads = judge(Stops::ChangesAndReads, arch, number, args);
            assert!(with_reads == want || (want, with_reads) == (ALLOW, TRACE), "{case}");
        }
        for (case, arch, number, want) in [
            ("open read-only", X86_64, 2, TRACE),
            ("stat", X86_64, 4, TRACE),
            ("execve", X86_64, 59, TRACE),
            ("open_tree", X86_64, 428, TRACE),
            ("statx", X86_64, 332, TRACE),
            ("read", X86_64, 0, ALLOW),
            ("fstat", X86_64, 5, ALLOW),
            ("getdents64", X86_64, 217, ALLOW),
            ("i386 stat64", I386, 195, TRACE),
        ] {
            assert_eq!(judge(Stops::ChangesAndReads, arch, number, [0; 6]), want, "{case}");
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[test]
    fn the_program_judges_by_arch_number_and_flags() {
        const AARCH64: u32 = 0xc000_00b7;
        // Four flags have other values than on x86: O_DIRECTORY, O_NOFOLLOW, O_DIRECT and O_LARGEFILE.
        let looks = 0o2_000_000 | 0o40_000 | 0o100_000 | 0o200_000 | 0o400_000;
        for (case, arch, number, args, want) in [
            ("read", AARCH64, 63, [0; 6], ALLOW),
            (
                "openat with all flags that change nothing",
                AARCH64,
                56,
                [0, 0, looks, 0, 0, 0],
                ALLOW,
            ),
            ("openat O_WRONLY", AARCH64, 56, [0, 0, looks | 1, 0, 0, 0], TRACE),
            ("openat O_TRUNC", AARCH64, 56, [0, 0, 0o1000, 0, 0, 0], TRACE),
            ("openat O_TMPFILE", AARCH64, 56, [0, 0, 0o20_040_000, 0, 0, 0], TRACE),
            ("renameat", AARCH64, 38, [0; 6], TRACE),
            ("fchmodat2", AARCH64, 452, [0; 6], TRACE),
            ("highest known", AARCH64, HIGHEST_KNOWN, [0; 6], ALLOW),
            ("a future call", AARCH64, HIGHEST_KNOWN + 1, [0; 6], NO_SUCH_CALL),
            ("io_uring_setup", AARCH64, 425, [0; 6], NO_SUCH_CALL),
            ("userfaultfd", AARCH64, 282, [0; 6], NO_SUCH_CALL),
            ("clone3", AARCH64, 435, [0; 6], NO_SUCH_CALL),
            ("clone", AARCH64, 220, [17, 0, 0, 0, 0, 0], ALLOW),
            ("clone untraced", AARCH64, 220, [CLONE_UNTRACED | 17, 0, 0, 0, 0, 0], TRACE),
            ("seccomp filter", AARCH64, 277, [1, 0, 0, 0, 0, 0], ALLOW),
            ("seccomp listener", AARCH64, 277, [1, 8, 0, 0, 0, 0], INVALID),
            ("ioctl subvolume", AARCH64, 29, [0, 0x5000_940e, 0, 0, 0, 0], TRACE),
            ("ptrace of itself", AARCH64, 117, [0; 6], TRACE),
            ("ptrace that reads", AARCH64, 117, [1, 0, 0, 0, 0, 0], ALLOW),
            ("number of x86_64 rename", AARCH64, 82, [0; 6], ALLOW),
            ("a program of 32-bit ARM", 0x4000_0028, 322, [0, 0, 1, 0, 0, 0], KILL),
        ] {
            assert_eq!(judge(Stops::Changes, arch, number, args), want, "{case}");
            let with_reads = judge(Stops::ChangesAndReads, arch, number, args);
            assert!(with_reads == want || (want, with_reads) == (ALLOW, TRACE), "{case}");
        }
        for (case, number, want) in [
            ("openat read-only", 56, TRACE),
            ("newfstatat", 79, TRACE),
            ("execve", 221, TRACE),
            ("open_tree", 428, TRACE),
            ("statx", 291, TRACE),
            ("read", 63, ALLOW),
            ("fstat", 80, ALLOW),
            ("getdents64", 61, ALLOW),
        ] {
            assert_eq!(judge(Stops::ChangesAndReads, AARCH64, number, [0; 6]), want, "{case}");
        }
    }

    /// By the names that the C library's headers have for this machine.
    #[test]
    fn the_tables_have_the_numbers_of_this_machine() {
        for (name, number) in [
            ("openat", libc::SYS_openat),
            ("mkdirat", libc::SYS_mkdirat),
            ("mknodat", libc::SYS_mknodat),
            ("unlinkat", libc::SYS_unlinkat),
            ("symlinkat", libc::SYS_symlinkat),
            ("linkat", libc::SYS_linkat),
            ("renameat", libc::SYS_renameat),
            ("renameat2", libc::SYS_renameat2),
            ("truncate", libc::SYS_truncate),
            ("fchmod", libc::SYS_fchmod),
            ("fchmodat", libc::SYS_fchmodat),
            ("fchown", libc::SYS_fchown),
            ("fchownat", libc::SYS_fchownat),
            ("utimensat", libc::SYS_utimensat),
            ("setxattr", libc::SYS_setxattr),
            ("lsetxattr", libc::SYS_lsetxattr),
            ("fsetxattr", libc::SYS_fsetxattr),
            ("removexattr", libc::SYS_removexattr),
            ("lremovexattr", libc::SYS_lremovexattr),
            ("fremovexattr", libc::SYS_fremovexattr),
            ("ioctl", libc::SYS_ioctl),
            ("bind", libc::SYS_bind),
            ("clone", libc::SYS_clone),
            ("ptrace", libc::SYS_ptrace),
            ("mount", libc::SYS_mount),
            ("umount2", libc::SYS_umount2),
            ("pivot_root", libc::SYS_pivot_root),
            ("chroot", libc::SYS_chroot),
            ("acct", libc::SYS_acct),
            ("swapon", libc::SYS_swapon),
            ("setns", libc::SYS_setns),
            ("open_by_handle_at", libc::SYS_open_by_handle_at),
            ("setuid", libc::SYS_setuid),
            ("setreuid", libc::SYS_setreuid),
            ("setresuid", libc::SYS_setresuid),
            ("sched_setaffinity", libc::SYS_sched_setaffinity),
            ("sched_getaffinity", libc::SYS_sched_getaffinity),
            ("openat2", libc::SYS_openat2),
        ] {
            let call = ABIS[0].calls.iter().find(|call| call.name == name);
            assert_eq!(call.map(|call| i64::from(call.number)), Some(number), "{name}");
        }
        let refused = ABIS[0].refused.iter().map(|number| i64::from(*number));
        let want = [libc::SYS_userfaultfd, libc::SYS_io_uring_setup, libc::SYS_clone3];
        assert_eq!(refused.collect::<Vec<_>>(), want);
        assert_eq!(i64::from(ABIS[0].seccomp), libc::SYS_seccomp);
    }

    #[test]
    fn the_kernel_takes_a_program_of_this_size() {
        assert!(program(Stops::ChangesAndReads).len() < 4096, "BPF_MAXINSNS");
    }

    #[test]
    fn a_table_names_each_number_once() {
        for abi in ABIS {
            let mut numbers: Vec<u32> = abi.calls.iter().map(|call| call.number).collect();
            numbers.sort_unstable();
            let count = numbers.len();
            numbers.dedup();
            assert_eq!(numbers.len(), count, "audit arch {:#x}", abi.audit_arch);
            assert!(numbers.iter().all(|n| *n <= HIGHEST_KNOWN));
        }
    }
}
