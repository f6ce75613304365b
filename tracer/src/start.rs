//! The start of a command, as its own process lives it.
//!
//! Everything here runs between fork and exec in a copy of a program that had
//! threads: no allocation, no locks, only system calls.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::Errno;
use crate::filter::Instruction;
use crate::report::{Report, Stage};
use crate::sys::child::{self, StringArray};
use crate::{Command, Credentials, Preparation, Setup};

/// Exit status of a process that could not become the command; nobody but the
/// reader of its report sees it.
const NOT_STARTED: i32 = 127;

/// So many milliseconds a program may be open for writing when it is to be executed.
const BUSY_FOR: u32 = 200;

/// Calls that a probe makes: enough to measure what a stop costs.
pub(crate) const PROBED_CALLS: u64 = 64;

/// Everything a child needs, made before the fork.
pub(crate) struct Plan<'a> {
    pub(crate) command: &'a Command,
    pub(crate) argv: StringArray<'a>,
    pub(crate) envp: StringArray<'a>,
    /// Standard input, output and error, none of them among 0, 1 and 2.
    pub(crate) streams: [OwnedFd; 3],
    /// The filter, if the command is watched.
    pub(crate) filter: Option<Vec<Instruction>>,
    /// What to do instead of the command, to find out whether watching works.
    pub(crate) probing: bool,
}

/// The pipes between a run and its first process.
pub(crate) struct Pipes {
    /// The parent writes a byte when the child may go on, or closes it.
    pub(crate) go: (OwnedFd, OwnedFd),
    /// The main process writes a byte when it may be attached to.
    pub(crate) ready: (OwnedFd, OwnedFd),
    /// The child's [`Report`]s.
    pub(crate) report: (OwnedFd, OwnedFd),
}

type Started = Result<(), (Stage, Errno)>;

impl Plan<'_> {
    /// The main process, from its first instruction to exec.
    pub(crate) fn main_process(&self, pipes: &Pipes) -> i32 {
        self.close_others(pipes);
        child::default_signals();
        // So that the parent may attach, write the id maps and read its /proc: a copy of a program
        // that is not dumpable is not either, and only CAP_SYS_PTRACE would help then (ptrace(2),
        // "Ptrace access mode checking").
        let _ = child::prctl(libc::PR_SET_DUMPABLE, 1);
        child::write(pipes.ready.1.as_fd(), b"!");
        if !matches!(child::read(pipes.go.0.as_fd(), &mut [0]), Ok(1)) {
            return NOT_STARTED;
        }
        match self.start() {
            Ok(()) => 0,
            Err((stage, errno)) => {
                Report::Refused(stage, errno).send(pipes.report.1.as_fd());
                NOT_STARTED
            }
        }
    }

    /// Another thread may write a program in this moment, which nobody can execute while it is open
    /// for that; or wait for the end of a pipe, which does not come while there are copies of it.
    fn close_others(&self, pipes: &Pipes) {
        let [input, output, error] = &self.streams;
        child::close_others([
            input.as_fd(),
            output.as_fd(),
            error.as_fd(),
            pipes.go.0.as_fd(),
            pipes.ready.1.as_fd(),
            pipes.report.1.as_fd(),
        ]);
    }

    fn start(&self) -> Started {
        if self.probing {
            return self.probe();
        }
        let at = |stage| move |errno| (stage, errno);
        child::new_session().map_err(at(Stage::Session))?;
        // An empty one of its own: the caller's may hold keys (session-keyring(7)). Where keyctl(2) is
        // not allowed, it is not to the command either.
        child::join_new_session_keyring();
        child::no_core_files().map_err(at(Stage::CoreLimit))?;
        self.take_streams().map_err(at(Stage::Streams))?;
        child::umask(0);
        self.prepare()?;
        child::umask(0o022);
        self.install_filter()?;
        self.drop_bounding_set()?;
        let entered = child::chdir(&self.command.cwd);
        self.take_credentials()?;
        self.drop_capabilities().map_err(at(Stage::Capabilities))?;
        if entered.is_err() {
            child::chdir(&self.command.cwd).map_err(at(Stage::Chdir))?;
        }
        // The last thing, because a change of ids clears it.
        let _ = child::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL.unsigned_abs() as usize);
        child::close_rest_on_exec();
        self.exec()
    }

    fn take_streams(&self) -> child::Done {
        for (to, stream) in (0..).zip(&self.streams) {
            child::dup2(stream.as_fd(), to)?;
        }
        Ok(())
    }

    fn prepare(&self) -> Started {
        for (index, Preparation { setup, optional }) in (0..).zip(&self.command.setup) {
            match perform(setup) {
                Err(errno) if !optional => return Err((Stage::Setup(index), errno)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Installs the filter while CAP_SYS_ADMIN is still there, if it ever was.
    /// Without it the kernel demands no_new_privs; whoever made the plan has
    /// seen to it that this takes nothing from the command.
    fn install_filter(&self) -> Started {
        let Some(filter) = &self.filter else { return Ok(()) };
        match child::install_filter(filter) {
            Err(Errno(libc::EACCES)) => {
                child::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
                    .map_err(|errno| (Stage::NoNewPrivileges, errno))?;
                child::install_filter(filter)
            }
            answer => answer,
        }
        .map_err(|errno| (Stage::Filter, errno))
    }

    fn drop_bounding_set(&self) -> Started {
        let Some(keep) = self.command.capabilities else { return Ok(()) };
        for number in 0..64 {
            let is_held = child::prctl(libc::PR_CAPBSET_READ, number as usize);
            if is_held == Ok(1) && !keep.contains(number) {
                child::prctl(libc::PR_CAPBSET_DROP, number as usize)
                    .map_err(|errno| (Stage::BoundingSet(number), errno))?;
            }
        }
        Ok(())
    }

    fn take_credentials(&self) -> Started {
        let Some(Credentials { uid, gid, groups }) = &self.command.credentials else {
            return Ok(());
        };
        match child::setgroups(groups) {
            // A user namespace made without privileges has no setgroups.
            Err(Errno(libc::EPERM)) if self.command.namespaces.user.is_some() => {}
            answer => answer.map_err(|errno| (Stage::Groups, errno))?,
        }
        child::setresgid(*gid).map_err(|errno| (Stage::Gid, errno))?;
        child::setresuid(*uid).map_err(|errno| (Stage::Uid, errno))
    }

    fn drop_capabilities(&self) -> child::Done {
        let Some(keep) = self.command.capabilities else { return Ok(()) };
        // Kernels before 4.3 have no ambient set to clear.
        let _ = child::clear_ambient();
        let held = child::capabilities()?;
        child::set_capabilities(child::Capabilities {
            effective: held.effective & keep.0,
            permitted: held.permitted & keep.0,
            inheritable: 0,
        })
    }

    /// Tries the programs in order. What says most is reported: that one may
    /// not be executed rather than that the others do not exist.
    fn exec(&self) -> Started {
        let mut refusal = (Stage::Exec(0), Errno(libc::ENOENT));
        for (index, program) in (0..).zip(&self.command.programs) {
            match self.exec_when_closed(program) {
                Errno(libc::ENOENT | libc::ENOTDIR) => {}
                Errno(libc::EACCES) if refusal.1.0 == libc::EACCES => {}
                Errno(libc::EACCES) => refusal = (Stage::Exec(index), Errno(libc::EACCES)),
                errno => return Err((Stage::Exec(index), errno)),
            }
        }
        Err(refusal)
    }

    /// A process that was started while the program was written has a copy of the descriptor, for as
    /// long as it takes to close it.
    fn exec_when_closed(&self, program: &CStr) -> Errno {
        for _ in 0..BUSY_FOR {
            match child::execve(program, &self.argv, &self.envp) {
                Errno(libc::ETXTBSY) => child::pause(1),
                errno => return errno,
            }
        }
        Errno(libc::ETXTBSY)
    }

    /// Makes calls that stop, and reports one that did not.
    fn probe(&self) -> Started {
        self.install_filter()?;
        for _ in 0..PROBED_CALLS {
            match child::harmless_mkdir() {
                Errno(libc::EBADF) => {}
                errno => return Err((Stage::Filter, errno)),
            }
        }
        Ok(())
    }
}

/// Makes the call that a setup step stands for.
fn perform(setup: &Setup) -> child::Done {
    match setup {
        Setup::Mount { source, target, fstype, flags, data } => {
            child::mount(source, target, fstype, *flags, data)
        }
        Setup::Bind { source, target, recursive, read_only, no_devices } => {
            let recursive = if *recursive { libc::MS_REC } else { 0 };
            child::mount(source, target, c"", libc::MS_BIND | recursive, c"")?;
            let read_only = if *read_only { libc::MS_RDONLY } else { 0 };
            restrict(target, read_only | if *no_devices { libc::MS_NODEV } else { 0 })
        }
        Setup::PivotRoot { new_root } => pivot_root(new_root),
        Setup::Chroot { root } => child::chroot(root).and_then(|()| child::chdir(c"/")),
        Setup::Unmount { target, flags } => child::unmount(target, *flags),
        Setup::Symlink { target, path } => unless_exists(child::symlink(target, path)),
        Setup::Mkdir { path, mode } => unless_exists(child::mkdir(path, *mode)),
        Setup::File { path, mode } => {
            unless_exists(child::open(path, libc::O_CREAT | libc::O_EXCL, *mode).map(drop))
        }
        Setup::Content { path, mode, owner, content } => {
            let file = child::open(path, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL, *mode)?;
            child::write_all(file.as_fd(), &content.0)?;
            child::fchown(file.as_fd(), *owner)
        }
        Setup::Hostname(name) => child::sethostname(name),
        Setup::LoopbackUp => child::loopback_up(),
    }
}

fn unless_exists(answer: child::Done) -> child::Done {
    match answer {
        Err(Errno(libc::EEXIST)) => Ok(()),
        answer => answer,
    }
}

/// Remounts a bind mount with further flags and those it has: a user namespace
/// may not take them away. The `ST_*` numbers are those of `MS_*`.
fn restrict(target: &CStr, further: u64) -> child::Done {
    if further == 0 {
        return Ok(());
    }
    const LOCKED: u64 =
        libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_NOATIME | libc::MS_NODIRATIME;
    let kept = child::mount_flags(target)? & LOCKED;
    let flags = libc::MS_BIND | libc::MS_REMOUNT | further | kept;
    child::mount(c"", target, c"", flags, c"")
}

/// pivot_root(2) with both roots on the same place, so that no directory for
/// the old one is needed inside the new.
fn pivot_root(new_root: &CStr) -> child::Done {
    let old = child::open(c"/", libc::O_PATH | libc::O_DIRECTORY, 0)?;
    child::chdir(new_root)?;
    child::pivot_root(c".", c".")?;
    child::fchdir(old.as_fd())?;
    // Nothing that is unmounted here may be unmounted outside as well.
    child::mount(c"", c".", c"", libc::MS_REC | libc::MS_SLAVE, c"")?;
    child::unmount(c".", libc::MNT_DETACH)?;
    child::chdir(c"/")
}

/// The keeper: parent of a main process that has no PID namespace, and heir of
/// everything it leaves behind.
///
/// Being a process of its own, it can wait for *any* child without taking one
/// that belongs to another part of the program.
pub(crate) fn keeper(plan: &Plan<'_>, flags: i32, pipes: &Pipes) -> i32 {
    let report = pipes.report.1.as_fd();
    let _ = child::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL.unsigned_abs() as usize);
    let _ = child::prctl(libc::PR_SET_CHILD_SUBREAPER, 1);
    child::default_sigchld();
    let cloned = child::clone(flags, &mut || plan.main_process(pipes));
    let main = match cloned {
        Ok((pid, _)) => pid,
        Err(errno) => {
            Report::Refused(Stage::Clone, errno).send(report);
            return NOT_STARTED;
        }
    };
    child::close_all_but(report);
    // The copy of the program's memory is nothing for the command to read.
    let _ = child::prctl(libc::PR_SET_DUMPABLE, 0);
    Report::Started(main).send(report);
    reap_until(main, report);
    NOT_STARTED
}

/// Reaps until the main process has ended, then ends and reaps all others.
fn reap_until(main: i32, report: BorrowedFd<'_>) {
    let mut end = None;
    loop {
        match child::reap_any() {
            Ok((pid, status)) if pid == main => end = Some(status),
            Ok(_) => {}
            Err(_) => break,
        }
        if end.is_some()
            && let Err(errno) = kill_children()
        {
            Report::Refused(Stage::Children, errno).send(report);
            return;
        }
    }
    if let Some(status) = end {
        Report::Ended(status).send(report);
    }
}

/// Kills this process's children. Theirs become ours when they are dead.
fn kill_children() -> child::Done {
    let list = child::open(c"/proc/thread-self/children", libc::O_RDONLY, 0)?;
    let mut bytes = [0; 4096];
    let mut pid = 0i32;
    loop {
        match child::read(list.as_fd(), &mut bytes)? {
            0 => return Ok(()),
            count => {
                for byte in bytes.iter().take(count) {
                    match byte {
                        b'0'..=b'9' => pid = pid.wrapping_mul(10) + i32::from(byte - b'0'),
                        _ if pid > 0 => child::kill(std::mem::take(&mut pid)),
                        _ => {}
                    }
                }
            }
        }
    }
}
