//! What a child tells its parent through a pipe.
//!
//! Messages are 16 bytes, so that each is written whole.

use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use crate::error::{Errno, Error};
use crate::sys::child;
use crate::{Command, Setup};

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// The keeper started the main process, with this id.
    Started(i32),
    /// The main process ended, with this raw wait status.
    Ended(i32),
    /// A step of the main process's start was refused.
    Refused(Stage, Errno),
}

/// The steps of a start that can be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The keeper's clone(2).
    Clone,
    /// Finding and killing the keeper's children.
    Children,
    Session,
    CoreLimit,
    Streams,
    /// The preparation with this index.
    Setup(u32),
    Filter,
    NoNewPrivileges,
    BoundingSet(u32),
    Groups,
    Gid,
    Uid,
    Capabilities,
    Chdir,
    /// The program with this index.
    Exec(u32),
}

const SIZE: usize = 16;

impl Report {
    /// Sends it; a parent that is gone needs no message.
    pub(crate) fn send(self, to: BorrowedFd<'_>) {
        let (kind, index, value) = match self {
            Report::Started(pid) => (0, 0, pid),
            Report::Ended(status) => (1, 0, status),
            Report::Refused(stage, errno) => {
                let (kind, index) = stage.encode();
                (kind, index, errno.0)
            }
        };
        let mut bytes = [0; SIZE];
        bytes[..4].copy_from_slice(&u32::to_ne_bytes(kind));
        bytes[4..8].copy_from_slice(&u32::to_ne_bytes(index));
        bytes[8..12].copy_from_slice(&i32::to_ne_bytes(value));
        child::write(to, &bytes);
    }

    /// The next message; `None` when no sender is left.
    pub(crate) fn receive(from: BorrowedFd<'_>) -> Option<Report> {
        let mut bytes = [0; SIZE];
        match child::read(from, &mut bytes) {
            Ok(SIZE) => {}
            Ok(_) | Err(_) => return None,
        }
        let word = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        let (kind, index) = (u32::from_ne_bytes(word(0)), u32::from_ne_bytes(word(4)));
        let value = i32::from_ne_bytes(word(8));
        match kind {
            0 => Some(Report::Started(value)),
            1 => Some(Report::Ended(value)),
            _ => Stage::decode(kind, index).map(|stage| Report::Refused(stage, Errno(value))),
        }
    }
}

impl Stage {
    const fn encode(self) -> (u32, u32) {
        match self {
            Stage::Clone => (2, 0),
            Stage::Children => (3, 0),
            Stage::Session => (4, 0),
            Stage::CoreLimit => (5, 0),
            Stage::Streams => (6, 0),
            Stage::Setup(index) => (7, index),
            Stage::Filter => (8, 0),
            Stage::NoNewPrivileges => (9, 0),
            Stage::BoundingSet(number) => (10, number),
            Stage::Groups => (11, 0),
            Stage::Gid => (12, 0),
            Stage::Uid => (13, 0),
            Stage::Capabilities => (14, 0),
            Stage::Chdir => (15, 0),
            Stage::Exec(index) => (16, index),
        }
    }

    const fn decode(kind: u32, index: u32) -> Option<Stage> {
        Some(match kind {
            2 => Stage::Clone,
            3 => Stage::Children,
            4 => Stage::Session,
            5 => Stage::CoreLimit,
            6 => Stage::Streams,
            7 => Stage::Setup(index),
            8 => Stage::Filter,
            9 => Stage::NoNewPrivileges,
            10 => Stage::BoundingSet(index),
            11 => Stage::Groups,
            12 => Stage::Gid,
            13 => Stage::Uid,
            14 => Stage::Capabilities,
            15 => Stage::Chdir,
            16 => Stage::Exec(index),
            _ => return None,
        })
    }

    /// The error that this stage's refusal is.
    pub(crate) fn error(self, errno: Errno, command: &Command) -> Error {
        if let Stage::Exec(index) = self {
            let program = command.programs.get(index as usize);
            let program = program.map(|p| p.as_bytes().to_vec()).unwrap_or_default();
            return Error::Exec { program, errno };
        }
        Error::Setup { call: self.call(command), errno }
    }

    /// The call, as it would be written.
    fn call(self, command: &Command) -> String {
        let ids = command.credentials.as_ref();
        match self {
            Stage::Clone => "clone".to_owned(),
            Stage::Children => "read /proc/thread-self/children".to_owned(),
            Stage::Session => "setsid()".to_owned(),
            Stage::CoreLimit => "setrlimit(RLIMIT_CORE)".to_owned(),
            Stage::Streams => "dup2".to_owned(),
            Stage::Setup(index) => match command.setup.get(index as usize) {
                Some(preparation) => preparation.setup.to_string(),
                None => "setup".to_owned(),
            },
            Stage::Filter => "seccomp(SECCOMP_SET_MODE_FILTER)".to_owned(),
            Stage::NoNewPrivileges => "prctl(PR_SET_NO_NEW_PRIVS)".to_owned(),
            Stage::BoundingSet(number) => format!("prctl(PR_CAPBSET_DROP, {number})"),
            Stage::Groups => "setgroups".to_owned(),
            Stage::Gid => format!("setresgid({})", ids.map_or(0, |ids| ids.gid)),
            Stage::Uid => format!("setresuid({})", ids.map_or(0, |ids| ids.uid)),
            Stage::Capabilities => "capset".to_owned(),
            Stage::Chdir => format!("chdir({})", quoted(&command.cwd)),
            Stage::Exec(_) => "execve".to_owned(),
        }
    }
}

impl std::fmt::Display for Setup {
    /// As the call it stands for.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Setup::Mount { source, target, fstype, .. } => {
                write!(f, "mount({}, {}, {})", quoted(source), quoted(target), quoted(fstype))
            }
            Setup::Bind { source, target, .. } => {
                write!(f, "mount({}, {}, MS_BIND)", quoted(source), quoted(target))
            }
            Setup::PivotRoot { new_root } => write!(f, "pivot_root({})", quoted(new_root)),
            Setup::Chroot { root } => write!(f, "chroot({})", quoted(root)),
            Setup::Unmount { target, .. } => write!(f, "umount2({})", quoted(target)),
            Setup::Symlink { target, path } => {
                write!(f, "symlink({}, {})", quoted(target), quoted(path))
            }
            Setup::Mkdir { path, mode } => write!(f, "mkdir({}, {mode:#o})", quoted(path)),
            Setup::File { path, mode } => write!(f, "creat({}, {mode:#o})", quoted(path)),
            Setup::Content { path, .. } => write!(f, "write({})", quoted(path)),
            Setup::LoopbackUp => f.write_str("ioctl(SIOCSIFFLAGS, \"lo\")"),
            Setup::Hostname(name) => write!(f, "sethostname({})", quoted(name)),
        }
    }
}

fn quoted(text: &CStr) -> String {
    format!("\"{}\"", text.to_bytes().escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_report_arrives_as_it_was_sent() {
        let (reader, writer) = crate::sys::pipe().expect("a pipe");
        let stages = [
            Stage::Clone,
            Stage::Children,
            Stage::Session,
            Stage::CoreLimit,
            Stage::Streams,
            Stage::Setup(7),
            Stage::Filter,
            Stage::NoNewPrivileges,
            Stage::BoundingSet(21),
            Stage::Groups,
            Stage::Gid,
            Stage::Uid,
            Stage::Capabilities,
            Stage::Chdir,
            Stage::Exec(2),
        ];
        let refusals = stages.map(|stage| Report::Refused(stage, Errno(libc::EPERM)));
        for report in refusals.into_iter().chain([Report::Started(41), Report::Ended(0x8b)]) {
            report.send(writer.as_fd());
            assert_eq!(Report::receive(reader.as_fd()), Some(report));
        }
        drop(writer);
        assert_eq!(Report::receive(reader.as_fd()), None);
    }

    #[test]
    fn an_error_reads_like_the_call() {
        let mut command = Command::new(c"/bin/sh".into(), vec![]);
        command.prepare(Setup::Mount {
            source: c"proc".into(),
            target: c"/proc".into(),
            fstype: c"proc".into(),
            flags: 0,
            data: c"".into(),
        });
        for (stage, errno, want) in [
            (
                Stage::Setup(0),
                libc::EPERM,
                r#"mount("proc", "/proc", "proc"): Operation not permitted"#,
            ),
            (Stage::Chdir, libc::ENOENT, r#"chdir("/"): No such file or directory"#),
            (Stage::Exec(0), libc::EACCES, "/bin/sh: Permission denied"),
        ] {
            assert_eq!(stage.error(Errno(errno), &command).to_string(), want);
        }
    }
}
