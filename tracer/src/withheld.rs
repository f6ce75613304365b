//! Programs that would have gained something by their file, had nobody watched.
//!
//! Under no_new_privs, and under a tracer without CAP_SYS_PTRACE, execve(2)
//! passes over set-id bits and file capabilities without a word. A command that
//! starts as root is watched all the same; should a process of it give up its
//! rights and come back by such a program, that must not go unnoticed.

use crate::run::CAP_SYS_PTRACE;
use crate::sys;
use crate::sys::child;
use crate::tracee::{Refusal, Tracee};

const SET_UID: u32 = 0o4000;
/// Set-group-id with the right to execute; without it, it means something else.
const SET_GID: u32 = 0o2010;

/// What a program that has just been executed did not get.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Withheld {
    Nothing,
    /// Another user or group than root, or capabilities, or nobody can tell.
    Some(Vec<u8>),
    /// To be root.
    Root(Vec<u8>),
}

/// Whether programs of `main`, which has all filters by now, gain less than
/// they would if nobody watched.
pub(crate) fn is_anything_withheld(main: Tracee<'_>) -> bool {
    if child::prctl(libc::PR_GET_NO_NEW_PRIVS, 0) == Ok(1) {
        return false;
    }
    let may_trace = sys::effective_capabilities().unwrap_or(0) & (1 << CAP_SYS_PTRACE) != 0;
    main.has_no_new_privs() || !may_trace
}

impl Withheld {
    /// Looks at the program of a process that stopped after its exec.
    pub(crate) fn from(tracee: Tracee<'_>) -> Withheld {
        let file = match tracee.program() {
            Ok(file) => file,
            // A program that may be executed but not read makes its process unreadable, too. Root
            // could not have meant to gain anything.
            Err(Refusal::Locked(_)) if tracee.user() != Some(0) => {
                return Withheld::Some(tracee.command_name());
            }
            Err(_) => return Withheld::Nothing,
        };
        let (sets_user, sets_group) = (file.mode & SET_UID != 0, file.mode & SET_GID == SET_GID);
        if !(sets_user || sets_group || file.has_capabilities) || file.is_on_nosuid {
            return Withheld::Nothing;
        }
        let is_root = tracee.user() == Some(0);
        let name = || tracee.program_name().unwrap_or_else(|| tracee.command_name());
        match (sets_user, file.owner) {
            (true, 0) if !is_root => Withheld::Root(name()),
            // What root lacks here it lacks for good, and few programs mind.
            _ if is_root => Withheld::Nothing,
            _ => Withheld::Some(name()),
        }
    }
}
