//! What the kernel reads by itself to run a program: the interpreter that a
//! script or an ELF file names.

use std::os::fd::AsFd as _;

use rustix::fs::{Mode, OFlags};

use super::{View, below_top};
use crate::tracee::{Refusal, Tracee, kernel_errno};

/// As much of a script as the kernel looks at for `#!` (`BINPRM_BUF_SIZE`).
const SCRIPT_HEAD: usize = 256;
/// As much of a program as is looked at: program headers follow the ELF
/// header, and the interpreter's name them.
const HEAD: usize = 4096;
/// `PT_INTERP`.
const INTERPRETER: u32 = 3;
/// `EM_X86_64` or `EM_AARCH64`.
const OWN_MACHINE: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };

/// What a file is to execve(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    /// It is run by this one, found by this name.
    By(Vec<u8>),
    /// It needs nothing else.
    Alone,
    /// Of another machine, or put together in a way that is not understood.
    Strange,
}

impl View {
    /// What the file at a view path is; nothing where no regular file is.
    pub(crate) fn program(
        &self,
        tracee: Tracee<'_>,
        path: &[u8],
    ) -> Result<Option<Program>, Refusal> {
        if self.look(path).is_none_or(|file| file.is_directory || file.is_link) {
            return Ok(None);
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        tracee.as_owner(|| {
            let open = rustix::fs::openat(self.top.as_fd(), below_top(path), flags, Mode::empty());
            let file = open.map_err(kernel_errno)?;
            let mut head = vec![0; HEAD];
            let mut filled = 0;
            while filled < head.len() {
                match rustix::io::pread(&file, &mut head[filled..], filled as u64) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    // A directory that came to be one, or a pipe: no program.
                    Err(rustix::io::Errno::ISDIR | rustix::io::Errno::SPIPE) => break,
                    Err(errno) => return Err(kernel_errno(errno)),
                }
            }
            Ok(Some(parse(&head[..filled])))
        })
    }
}

/// What these first bytes of a file say.
fn parse(head: &[u8]) -> Program {
    if let Some(line) = head.strip_prefix(b"#!") {
        return script(&line[..line.len().min(SCRIPT_HEAD - 2)]);
    }
    // What is no program at all is left to a shell, which opens it.
    if head.starts_with(b"\x7fELF") {
        elf(head).unwrap_or(Program::Strange)
    } else {
        Program::Alone
    }
}

fn script(line: &[u8]) -> Program {
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | 0));
    words.find(|word| !word.is_empty()).map_or(Program::Alone, |word| Program::By(word.to_vec()))
}

/// Nothing where the head is too short for what it says.
fn elf(head: &[u8]) -> Option<Program> {
    const CLASS_64: u8 = 2;
    if *head.get(4)? != CLASS_64 || half(head, 18)? != OWN_MACHINE {
        return None;
    }
    let start = usize::try_from(long(head, 32)?).ok()?;
    let (size, count) = (usize::from(half(head, 54)?), usize::from(half(head, 56)?));
    for number in 0..count {
        let header = head.get(start.checked_add(number * size)?..)?;
        if word(header, 0)? != INTERPRETER {
            continue;
        }
        let from = usize::try_from(long(header, 8)?).ok()?;
        let length = usize::try_from(long(header, 32)?).ok()?;
        let name = head.get(from..from.checked_add(length)?)?;
        return Some(Program::By(name.split(|byte| *byte == 0).next()?.to_vec()));
    }
    Some(Program::Alone)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(name: &str) -> Program {
        Program::By(name.as_bytes().to_vec())
    }

    /// The smallest ELF file with one program header, of this type.
    fn elf_with(class: u8, machine: u16, kind: u32) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..5].copy_from_slice(&[0x7f, b'E', b'L', b'F', class]);
        file[18..20].copy_from_slice(&machine.to_ne_bytes());
        file[32..40].copy_from_slice(&64u64.to_ne_bytes());
        file[54..56].copy_from_slice(&56u16.to_ne_bytes());
        file[56..58].copy_from_slice(&1u16.to_ne_bytes());
        file[64..68].copy_from_slice(&kind.to_ne_bytes());
        file[72..80].copy_from_slice(&120u64.to_ne_bytes());
        file[96..104].copy_from_slice(&7u64.to_ne_bytes());
        file.extend(b"/ld.so\0");
        file
    }

    #[test]
    fn a_program_says_what_runs_it() {
        let cut = elf_with(2, OWN_MACHINE, INTERPRETER)[..122].to_vec();
        for (head, want) in [
            (b"#!/bin/sh\necho".to_vec(), by("/bin/sh")),
            (b"#! \t/usr/bin/env python3\n".to_vec(), by("/usr/bin/env")),
            (b"#!sh".to_vec(), by("sh")),
            (b"#!\n/bin/sh".to_vec(), Program::Alone),
            (b"echo no program".to_vec(), Program::Alone),
            (Vec::new(), Program::Alone),
            (elf_with(2, OWN_MACHINE, INTERPRETER), by("/ld.so")),
            (elf_with(2, OWN_MACHINE, 1), Program::Alone),
            (elf_with(2, 3, INTERPRETER), Program::Strange),
            (elf_with(1, OWN_MACHINE, INTERPRETER), Program::Strange),
            (cut, Program::Strange),
            (b"\x7fELF".to_vec(), Program::Strange),
        ] {
            assert_eq!(parse(&head), want, "{}", head.escape_ascii());
        }
    }
}
