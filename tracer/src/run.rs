//! One run, from fork to the last reaped process, on a thread of its own:
//! ptrace(2) belongs to the thread that attached.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use crate::error::{Errno, Error};
use crate::filter::Stops;
use crate::interrupt::Enrolled;
use crate::outcome::{Blindness, Denied, Outcome, Stats, Status, Touched};
use crate::reads::Reads;
use crate::report::Report;
use crate::start::{PROBED_CALLS, Pipes, Plan, keeper};
use crate::sys::child::{self, StringArray};
use crate::sys::trace::{self, Usage};
use crate::watch::Watch;
use crate::{Command, IdMaps, Interrupt, Namespaces, filter, sys};

pub(crate) const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;

/// Finds out whether a filter can be installed and its stops be seen; answers
/// what a stop costs.
pub(crate) fn probe() -> Result<Duration, Error> {
    let command = Command::new(c"/".into(), Vec::new());
    let unavailable =
        |error: Error| Error::NotAvailable { backend: "ptrace", why: error.to_string() };
    let ended = on_own_thread(|| Run::start(&command, true, true)?.finish(&Interrupt::new()));
    let ended = ended.map_err(unavailable)?;
    if ended.stats.events == PROBED_CALLS && ended.status.success() {
        return Ok(ended.stop);
    }
    Err(unavailable(Error::Setup {
        call: "mkdirat behind a seccomp filter".to_owned(),
        errno: Errno(libc::ENOSYS),
    }))
}

/// Runs a command, watched if that is wanted and takes nothing from it.
pub(crate) fn run(
    wanted: bool,
    command: &Command,
    interrupt: &Interrupt,
) -> Result<Outcome, Error> {
    let unwatchable = if wanted { what_watching_would_take(command) } else { None };
    if let Some(why) = unwatchable {
        tracing::debug!(why, "the command runs without a tracer");
    }
    let watched = wanted && unwatchable.is_none();
    let ended = on_own_thread(|| {
        if interrupt.is_triggered() {
            return Err(Error::Interrupted);
        }
        Run::start(command, watched, false)?.finish(interrupt)
    })?;
    let touched = ended.touched.unwrap_or_else(|| {
        Touched::Anything(unwatchable.map_or(Blindness::NotTraced, Blindness::Unwatchable))
    });
    let Ended { status, reads, denied, stats, .. } = ended;
    let reads = match reads {
        Reads::NotAsked if command.reads => Reads::Unknown("it was not traced".to_owned()),
        reads => reads,
    };
    Ok(Outcome { status, touched, reads, denied, stats })
}

/// What a command would lose under ptrace. Set-id programs gain nothing when
/// the tracer lacks CAP_SYS_PTRACE, nor under no_new_privs, which a filter
/// demands of those who lack CAP_SYS_ADMIN. Root has nothing to gain; in a user
/// namespace of ours, both capabilities are there.
pub(crate) fn what_watching_would_take(command: &Command) -> Option<&'static str> {
    let uid = match &command.credentials {
        Some(credentials) => credentials.uid,
        None => rustix::process::geteuid().as_raw(),
    };
    if uid == 0 || command.namespaces.user.is_some() {
        return None;
    }
    // Under no_new_privs, as with `allowPrivilegeEscalation: false`, there is nothing left to lose.
    if child::prctl(libc::PR_GET_NO_NEW_PRIVS, 0) == Ok(1) {
        return None;
    }
    let held = sys::effective_capabilities().unwrap_or(0);
    let is_held = |number: u32| held & (1 << number) != 0;
    if is_held(CAP_SYS_ADMIN) && is_held(CAP_SYS_PTRACE) {
        return None;
    }
    Some("set-id programs of users other than root would not work under ptrace here")
}

fn on_own_thread<T: Send>(body: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let body = || {
            sys::block_signals();
            body()
        };
        let thread = thread::Builder::new().name("tracer".to_owned()).spawn_scoped(scope, body);
        let thread = thread.map_err(|error| Error::Call {
            call: "clone".to_owned(),
            errno: Errno(error.raw_os_error().unwrap_or(0)),
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A command whose first process exists.
struct Run<'a> {
    command: &'a Command,
    watched: bool,
    /// Our child: the main process itself, or its keeper.
    child: i32,
    /// The child's or, once known, the main process's descriptor.
    main_fd: OwnedFd,
    go: Option<OwnedFd>,
    ready: OwnedFd,
    report: OwnedFd,
}

/// A command of which no process is left.
struct Ended {
    status: Status,
    touched: Option<Touched>,
    reads: Reads,
    denied: Denied,
    stats: Stats,
    /// What a stop took.
    stop: Duration,
}

/// What the wait for the end brought.
struct Waited {
    /// The raw status of our child.
    status: i32,
    usage: Usage,
    watch: Option<Watch>,
}

impl<'a> Run<'a> {
    /// Starts the first process, which then waits to be let go.
    fn start(command: &'a Command, watched: bool, probing: bool) -> Result<Run<'a>, Error> {
        let stops = if command.reads { Stops::ChangesAndReads } else { Stops::Changes };
        let plan = Plan {
            command,
            argv: StringArray::new(&command.argv),
            envp: StringArray::new(&command.envp),
            streams: streams(command)?,
            filter: watched.then(|| filter::program(stops)),
            probing,
        };
        let pipes = Pipes { go: pipe()?, ready: pipe()?, report: pipe()? };
        let flags = clone_flags(&command.namespaces);
        let cloned = if needs_keeper(command) {
            child::clone(0, &mut || keeper(&plan, flags, &pipes))
        } else {
            child::clone(flags, &mut || plan.main_process(&pipes))
        };
        let (child, main_fd) = cloned.map_err(|errno| call("clone", errno))?;
        let Pipes { go: (_, go), ready: (ready, _), report: (report, _) } = pipes;
        Ok(Run { command, watched, child, main_fd, go: Some(go), ready, report })
    }

    /// Lets it go, watches it, and waits until everything is gone.
    fn finish(mut self, interrupt: &Interrupt) -> Result<Ended, Error> {
        let attached = self.attach();
        let (watch, enrolled) = match attached {
            Ok((watch, pidfd)) => (Ok(watch), pidfd.map(|pidfd| interrupt.enroll(pidfd))),
            Err(error) => (Err(error), None),
        };
        if watch.is_ok() {
            self.let_go();
        }
        // Without a word, the main process ends where it is; a process that is being started beside it may
        // have a copy of the pipe.
        self.go = None;
        if watch.is_err() && !needs_keeper(self.command) {
            sys::kill_by_pidfd(&self.main_fd);
        }
        let (watch, error) = match watch {
            Ok(watch) => (watch, None),
            Err(error) => (None, Some(error)),
        };
        let waited = self.wait(watch);
        drop::<Option<Enrolled<'_>>>(enrolled);
        let ended = self.conclude(waited?);
        match error {
            _ if interrupt.is_triggered() => Err(Error::Interrupted),
            Some(error) => Err(error),
            None => ended,
        }
    }

    /// Learns the main process's id, maps its ids and attaches to it.
    fn attach(&mut self) -> Result<(Option<Watch>, Option<OwnedFd>), Error> {
        let main = self.main_process()?;
        // Nothing to read means that it ended; attaching will say so.
        let _ = child::read(self.ready.as_fd(), &mut [0]);
        if let Some(maps) = &self.command.namespaces.user {
            write_id_maps(main, maps)?;
        }
        let watch = match self.watched {
            true => {
                let in_pid_namespace = self.command.namespaces.pid;
                let (budget, strict) = (self.command.event_budget, self.command.strict);
                let mut watch = Watch::attach(main, in_pid_namespace, budget, strict)?;
                if self.command.reads {
                    watch.record_reads(&self.command.programs, &self.command.cwd);
                }
                Some(watch)
            }
            false => None,
        };
        let pidfd = self.main_fd.try_clone().map_err(|error| call_io("dup", &error))?;
        Ok((watch, Some(pidfd)))
    }

    fn main_process(&mut self) -> Result<i32, Error> {
        if !needs_keeper(self.command) {
            return Ok(self.child);
        }
        match Report::receive(self.report.as_fd()) {
            Some(Report::Started(main)) => {
                self.main_fd = sys::pidfd_open(main).map_err(|errno| call("pidfd_open", errno))?;
                Ok(main)
            }
            Some(Report::Refused(stage, errno)) => Err(stage.error(errno, self.command)),
            Some(Report::Ended(_)) | None => Err(Error::KeeperLost),
        }
    }

    fn let_go(&self) {
        if let Some(go) = &self.go {
            child::write(go.as_fd(), b"!");
        }
    }

    /// Waits until there is no child and no tracee left. A refusal on the way
    /// does not end the wait: it kills the main process, and the rest with it.
    fn wait(&self, mut watch: Option<Watch>) -> Result<Waited, Error> {
        let mut end = None;
        let mut refusal = None;
        while let Some(change) = trace::wait().map_err(|errno| call("wait4", errno))? {
            let is_stop = libc::WIFSTOPPED(change.status);
            if change.pid == self.child && !is_stop {
                end = Some((change.status, change.usage));
            }
            let answer = watch.as_mut().map_or(Ok(()), |watch| watch.handle(&change));
            // After that, because a process may be known by this change only, and none may follow.
            if end.is_some()
                && let Some(watch) = &watch
            {
                watch.kill_all();
            }
            if let Err(error) = answer {
                sys::kill_by_pidfd(&self.main_fd);
                child::kill(change.pid);
                refusal.get_or_insert(error);
            }
        }
        match (refusal, end) {
            (Some(error), _) => Err(error),
            (None, Some((status, usage))) => Ok(Waited { status, usage, watch }),
            (None, None) => Err(Error::KeeperLost),
        }
    }

    /// Puts the reports and the child's end together.
    fn conclude(&self, waited: Waited) -> Result<Ended, Error> {
        let mut end = (!needs_keeper(self.command)).then_some(waited.status);
        while let Some(report) = Report::receive(self.report.as_fd()) {
            match report {
                Report::Refused(stage, errno) => return Err(stage.error(errno, self.command)),
                Report::Ended(status) => end = Some(status),
                Report::Started(_) => {}
            }
        }
        let status = end.map(status_of).ok_or(Error::KeeperLost)?;
        let stop = waited.watch.as_ref().map_or(Duration::ZERO, |watch| watch.pace().of_a_stop());
        let (touched, reads, denied, mut stats) = match waited.watch.map(Watch::finish) {
            Some((touched, reads, denied, stats)) => (Some(touched), reads, denied, stats),
            None => (None, Reads::NotAsked, Denied::default(), Stats::default()),
        };
        stats.cpu = waited.usage.cpu;
        stats.max_rss = waited.usage.max_rss;
        Ok(Ended { status, touched, reads, denied, stats, stop })
    }
}

/// A main process that is PID 1 takes everything with it; any other needs
/// somebody who does that.
fn needs_keeper(command: &Command) -> bool {
    !command.namespaces.pid
}

fn status_of(raw: i32) -> Status {
    if libc::WIFEXITED(raw) {
        Status::Exited(libc::WEXITSTATUS(raw))
    } else {
        Status::Signaled(libc::WTERMSIG(raw), libc::WCOREDUMP(raw))
    }
}

fn clone_flags(namespaces: &Namespaces) -> i32 {
    [
        (namespaces.mount, libc::CLONE_NEWNS),
        (namespaces.pid, libc::CLONE_NEWPID),
        (namespaces.user.is_some(), libc::CLONE_NEWUSER),
        (namespaces.ipc, libc::CLONE_NEWIPC),
        (namespaces.uts, libc::CLONE_NEWUTS),
        (namespaces.net, libc::CLONE_NEWNET),
        (namespaces.cgroup, libc::CLONE_NEWCGROUP),
    ]
    .into_iter()
    .fold(0, |flags, (wanted, flag)| if wanted { flags | flag } else { flags })
}

/// Standard input, output and error, none of them among 0, 1 and 2.
fn streams(command: &Command) -> Result<[OwnedFd; 3], Error> {
    let null = || sys::open(c"/dev/null", libc::O_RDWR);
    let input = null().map_err(|errno| call("open(\"/dev/null\")", errno))?;
    let output = |stream: &Option<OwnedFd>| match stream {
        Some(fd) => sys::duplicate(fd).map_err(|errno| call("fcntl(F_DUPFD_CLOEXEC)", errno)),
        None => null().map_err(|errno| call("open(\"/dev/null\")", errno)),
    };
    Ok([input, output(&command.stdout)?, output(&command.stderr)?])
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Error> {
    sys::pipe().map_err(|errno| call("pipe2", errno))
}

/// Writes the maps as user_namespaces(7) demands: who is not root gives up
/// setgroups before mapping groups.
fn write_id_maps(pid: i32, maps: &IdMaps) -> Result<(), Error> {
    let write = |file: &str, text: String| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, text).map_err(|error| call_io(&format!("write({path:?})"), &error))
    };
    if !rustix::process::geteuid().is_root() {
        write("setgroups", "deny".to_owned())?;
    }
    let lines = |maps: &[crate::IdMap]| {
        maps.iter().map(|m| format!("{} {} {}\n", m.inside, m.outside, m.count)).collect()
    };
    write("gid_map", lines(&maps.gids))?;
    write("uid_map", lines(&maps.uids))
}

fn call(call: &str, errno: Errno) -> Error {
    Error::Call { call: call.to_owned(), errno }
}

fn call_io(name: &str, error: &io::Error) -> Error {
    call(name, Errno(error.raw_os_error().unwrap_or(0)))
}
