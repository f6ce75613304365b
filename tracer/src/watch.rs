//! The loop that waits for stopped processes and lets them go on.
//!
//! # Its duties
//!
//! 1. Every stop is answered once: [`Stopped`] can be resumed only by giving
//!    it up, and a process that vanished meanwhile is no error.
//! 2. Signals reach the process they were for, real-time ones included.
//! 3. A group stop stays one, so that SIGCONT and job control work.
//! 4. What a call names is recorded before the call runs.
//! 5. No process is left: the loop ends when none is.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::time::{Duration, Instant};

use crate::arch::Shape;
use crate::error::{Errno, Error};
use crate::filter::CLONE_UNTRACED;
use crate::names::View;
use crate::outcome::{Blindness, Denied, Stats, Touched, TouchedSet};
use crate::pairing::Pairing;
use crate::reads::Reads;
use crate::record::{Effect, Record, find, is_native};
use crate::start::PROBED_CALLS;
use crate::sys::trace::{self, Change, Diverted, Go, StoppedCall};
use crate::tracee::Tracee;
use crate::withheld::{Withheld, is_anything_withheld};

/// What to be told about, and that everything dies with the tracer.
const OPTIONS: i32 = libc::PTRACE_O_TRACESECCOMP
    | libc::PTRACE_O_TRACEFORK
    | libc::PTRACE_O_TRACEVFORK
    | libc::PTRACE_O_TRACECLONE
    | libc::PTRACE_O_TRACEEXEC
    | libc::PTRACE_O_TRACESYSGOOD
    | libc::PTRACE_O_EXITKILL;

/// How often a process is made readable for one call.
const MOST_UNLOCKINGS: u32 = 8;

/// A tracee that waits for us.
#[must_use = "a stopped tracee hangs until it is resumed"]
struct Stopped(i32); // neither Clone nor Copy, on purpose

impl Stopped {
    /// A tracee that was killed while it was stopped needs nothing more.
    fn resume(self, how: Go) -> Result<(), Error> {
        match trace::resume(self.0, how) {
            Ok(()) | Err(Errno(libc::ESRCH)) => Ok(()),
            Err(errno) => Err(refused("PTRACE_CONT", self.0, errno)),
        }
    }
}

/// A command under watch.
pub(crate) struct Watch {
    main: i32,
    in_pid_namespace: bool,
    budget: u64,
    /// There from the first exec on, when the surroundings are set up.
    record: Option<Record>,
    blind: Option<Blindness>,
    /// Filters that judge the command's calls at its start.
    filters: Option<u32>,
    /// Whether opened files are looked up again by their descriptor.
    strict: bool,
    /// What is started, and where, if what it reads is recorded.
    reads: Option<(Vec<CString>, CString)>,
    /// Tracees of which the end of an open is awaited.
    opening: BTreeSet<i32>,
    /// Tracees that make a call of ours in place of their own.
    diverted: BTreeMap<i32, Diverted>,
    /// Tracees that were made readable, and have not been read since.
    /// For which call, and how often for that.
    unlocked: BTreeMap<i32, (StoppedCall, u32)>,
    /// Tracees that were seen and whose end was not.
    alive: BTreeSet<i32>,
    /// Whether set-id programs gain nothing, that would if nobody watched.
    withholds: bool,
    denied: Denied,
    pairing: Pairing,
    pace: Pace,
    stats: Stats,
}

/// How quickly the first stops follow each other: the quickest few in a row,
/// because other programs can only make them slower.
#[derive(Default)]
pub(crate) struct Pace {
    since: Option<Instant>,
    quickest: Option<Duration>,
}

impl Pace {
    const IN_A_ROW: u64 = 8;

    fn count(&mut self, events: u64) {
        if events > PROBED_CALLS || !events.is_multiple_of(Self::IN_A_ROW) {
            return;
        }
        let now = Instant::now();
        if let Some(since) = self.since.replace(now) {
            let took = now - since;
            self.quickest = Some(self.quickest.map_or(took, |quickest| quickest.min(took)));
        }
    }

    /// What a stop took; zero while nobody knows.
    pub(crate) fn of_a_stop(&self) -> Duration {
        let in_a_row = u32::try_from(Self::IN_A_ROW).unwrap_or(u32::MAX);
        self.quickest.unwrap_or_default() / in_a_row
    }
}

impl Watch {
    /// Attaches to `main`, which waits to be let go.
    pub(crate) fn attach(
        main: i32,
        in_pid_namespace: bool,
        budget: Option<u64>,
        strict: bool,
    ) -> Result<Watch, Error> {
        trace::seize(main, OPTIONS).map_err(|errno| refused("PTRACE_SEIZE", main, errno))?;
        Ok(Watch {
            main,
            in_pid_namespace,
            budget: budget.unwrap_or(u64::MAX),
            record: None,
            blind: None,
            filters: None,
            strict,
            reads: None,
            opening: BTreeSet::new(),
            diverted: BTreeMap::new(),
            unlocked: BTreeMap::new(),
            alive: BTreeSet::from([main]),
            withholds: false,
            denied: Denied::default(),
            pairing: Pairing::new(),
            pace: Pace::default(),
            stats: Stats::default(),
        })
    }

    /// Records what is read, too, by a command that is started as the first of
    /// these programs that there is, in this directory.
    pub(crate) fn record_reads(&mut self, programs: &[CString], cwd: &CString) {
        self.reads = Some((programs.to_vec(), cwd.clone()));
    }

    /// Answers one change of state.
    pub(crate) fn handle(&mut self, change: &Change) -> Result<(), Error> {
        let (tid, status) = (change.pid, change.status);
        if !libc::WIFSTOPPED(status) {
            if libc::WIFSIGNALED(status) && libc::WCOREDUMP(status) {
                self.lose_sight(Blindness::CoreDump);
            }
            self.drop_tid(tid);
            return Ok(());
        }
        self.stats.stops += 1;
        if self.alive.insert(tid) {
            self.pairing.on_birth(tid);
        }
        let stopped = Stopped(tid);
        let signal = libc::WSTOPSIG(status);
        match status >> 16 {
            libc::PTRACE_EVENT_SECCOMP => self.on_call(stopped),
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                self.stats.forks += 1;
                self.pairing.on_heir(tid, || other_of(tid));
                stopped.resume(Go::On(0))
            }
            0 if signal == libc::SIGTRAP | 0x80 => self.on_call_exit(stopped),
            libc::PTRACE_EVENT_EXEC => self.on_exec(stopped),
            event => {
                self.pairing.on_other(tid);
                match event {
                    libc::PTRACE_EVENT_STOP => stopped.resume(after_event_stop(signal)),
                    0 => stopped.resume(Go::On(signal)),
                    _ => stopped.resume(Go::On(0)),
                }
            }
        }
    }

    /// The answer, once nothing is left to watch.
    pub(crate) fn finish(mut self) -> (Touched, Reads, Denied, Stats) {
        self.stats.from_cache = self.record.as_ref().map_or(0, Record::cache_hits);
        let wanted = self.reads.is_some();
        let (touched, reads) = match (self.blind, self.record.map(Record::finish)) {
            (Some(why), _) if wanted => {
                let reads = Reads::Unknown(why.to_string());
                (Touched::Anything(why), reads)
            }
            (Some(why), _) => (Touched::Anything(why), Reads::NotAsked),
            (None, Some((touched, reads))) => (Touched::Only(touched), reads),
            (None, None) => (Touched::Only(TouchedSet::default()), Reads::NotAsked),
        };
        (touched, reads, self.denied, self.stats)
    }

    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Kills every tracee: whoever should have done so is gone. An id that is
    /// no tracee of ours any more is left alone.
    pub(crate) fn kill_all(&self) {
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        for tid in &self.alive {
            if Tracee::new(*tid).tracer() == Some(own.unsigned_abs()) {
                crate::sys::child::kill(*tid);
            }
        }
    }

    /// The first exec ends the preparations. Later ones are of interest only
    /// where programs may lack what their files give: a stop each would be a
    /// tenth of the cost of a short process.
    ///
    /// An exec by a thread other than the first takes over the first's id, and
    /// its own is gone without a word. What is known of either by its id is
    /// replaced when it is next used, whether the exec was seen or not.
    fn on_exec(&mut self, stopped: Stopped) -> Result<(), Error> {
        let tid = stopped.0;
        if let Some(former) = other_of(tid) {
            self.pairing.on_heir(former, || Some(tid));
            self.drop_tid(former);
            self.alive.insert(tid);
        }
        if tid == self.main && self.record.is_none() {
            self.filters = Tracee::new(tid).filters();
            self.withholds = is_anything_withheld(Tracee::new(tid));
            match View::of(tid, self.in_pid_namespace) {
                Ok(view) => {
                    let record = self.record.insert(Record::new(view));
                    if let Some((programs, cwd)) = &self.reads {
                        record.record_reads(tid, programs, cwd);
                    }
                }
                Err(error) => self.lose_sight(Blindness::Unresolved {
                    call: "execve",
                    pid: tid,
                    why: error.to_string(),
                }),
            }
        }
        let reads = self.record.as_mut().filter(|record| record.records_reads());
        let is_over = !self.withholds && reads.is_none();
        if let Some(record) = reads {
            record.check_mapped(tid);
        }
        if self.withholds {
            self.check_program(tid)?;
        }
        if is_over {
            let options = OPTIONS & !libc::PTRACE_O_TRACEEXEC;
            let set = ignore_gone(trace::set_options(tid, options));
            set.map_err(|errno| refused("PTRACE_SETOPTIONS", tid, errno))?;
        }
        stopped.resume(Go::On(0))
    }

    /// A program that should have become root and did not would fail in a way
    /// that nobody understands.
    fn check_program(&mut self, tid: i32) -> Result<(), Error> {
        match Withheld::from(Tracee::new(tid)) {
            Withheld::Nothing => Ok(()),
            Withheld::Some(program) => {
                self.denied.programs.insert(program);
                Ok(())
            }
            Withheld::Root(program) => Err(Error::SetId { program }),
        }
    }

    /// A call that may change the tree.
    fn on_call(&mut self, stopped: Stopped) -> Result<(), Error> {
        let tid = stopped.0;
        let call = match trace::stopped_call(tid) {
            Ok(Some(call)) => call,
            Ok(None) | Err(Errno(libc::ESRCH)) => return stopped.resume(Go::On(0)),
            Err(errno) => return Err(refused("PTRACE_GET_SYSCALL_INFO", tid, errno)),
        };
        if let Some(Shape::Processors { told }) = find(&call).map(|(_, call)| call.shape) {
            match told {
                true => self.pairing.give_up(tid),
                false => self.pairing.on_other(tid),
            }
            return stopped.resume(Go::On(0));
        }
        if self.pairing.on_call(tid) {
            let set = ignore_gone(trace::set_options(tid, OPTIONS));
            set.map_err(|errno| refused("PTRACE_SETOPTIONS", tid, errno))?;
            self.pairing.join(tid);
        }
        self.stats.events += 1;
        self.pace.count(self.stats.events);
        if self.stats.events > self.budget {
            self.lose_sight(Blindness::Budget(self.budget));
        }
        let effect = match &mut self.record {
            Some(record) if self.blind.is_none() => record.add(tid, &call),
            _ => match find(&call).map(|(_, call)| call.shape) {
                Some(Shape::Clone) => Effect::Escape,
                Some(Shape::Trace(_)) => Effect::Trace,
                _ => return stopped.resume(Go::On(0)),
            },
        };
        match effect {
            Effect::Recorded => {
                self.resolved(tid);
                if self.strict && opens(&call) {
                    return self.await_opened(stopped);
                }
            }
            Effect::Unsure(others) => {
                self.resolved(tid);
                if opens(&call) {
                    return self.await_opened(stopped);
                }
                if !others.iter().all(|other| self.opening.contains(other)) {
                    self.lose_sight(Blindness::Unresolved {
                        call: find(&call).map_or("a call", |(_, call)| call.name),
                        pid: tid,
                        why: "a link may come in its way, or in that of another process".to_owned(),
                    });
                }
            }
            Effect::Trace => self.denied.ptrace = true,
            Effect::Blind(blindness) => self.lose_sight(blindness),
            Effect::Locked(why) => return self.unlock(stopped, call, why),
            Effect::Escape => {
                let cleared = trace::clear_in_first_argument(tid, is_native(&call), CLONE_UNTRACED);
                ignore_gone(cleared).map_err(|errno| refused("PTRACE_SETREGS", tid, errno))?;
            }
        }
        stopped.resume(Go::On(0))
    }

    /// Makes a process readable: in place of its call it first makes one that
    /// says so, then its own again, which stops again. Some processes change
    /// their ids so often that this is needed more than once; for one call, when
    /// another thread changes its own meanwhile. Filters of the process's own could object, so those are
    /// left alone.
    fn unlock(&mut self, stopped: Stopped, call: StoppedCall, why: String) -> Result<(), Error> {
        let tid = stopped.0;
        let has_own_filter = self.filters.is_none() || Tracee::new(tid).filters() != self.filters;
        let times = match self.unlocked.get(&tid) {
            Some((before, times)) if *before == call => *times,
            Some(_) | None => 0,
        };
        if has_own_filter || times == MOST_UNLOCKINGS {
            self.stats.unresolved += 1;
            let name = find(&call).map_or("a call", |(_, call)| call.name);
            self.lose_sight(Blindness::Unresolved { call: name, pid: tid, why });
            return stopped.resume(Go::On(0));
        }
        match trace::divert_to_dumpable(tid, is_native(&call)) {
            Ok(diverted) => {
                self.stats.unlocked += 1;
                self.opening.remove(&tid);
                self.diverted.insert(tid, diverted);
                self.unlocked.insert(tid, (call, times + 1));
                stopped.resume(Go::ToCallExit)
            }
            Err(Errno(libc::ESRCH)) => stopped.resume(Go::On(0)),
            Err(errno) => Err(refused("PTRACE_SETREGS", tid, errno)),
        }
    }

    /// The end of a call of ours: back to before the process's own. Or that of
    /// an open.
    fn on_call_exit(&mut self, stopped: Stopped) -> Result<(), Error> {
        if self.opening.remove(&stopped.0) {
            self.look_up_opened(stopped.0);
        }
        if let Some(diverted) = self.diverted.remove(&stopped.0) {
            let answer = trace::return_to_call(stopped.0, &diverted);
            ignore_gone(answer).map_err(|errno| refused("PTRACE_SETREGS", stopped.0, errno))?;
        }
        stopped.resume(Go::On(0))
    }

    fn resolved(&mut self, tid: i32) {
        self.stats.resolved += 1;
        self.unlocked.remove(&tid);
    }

    /// Lets an open happen, and stops again to see what it opened.
    fn await_opened(&mut self, stopped: Stopped) -> Result<(), Error> {
        self.diverted.remove(&stopped.0);
        self.opening.insert(stopped.0);
        stopped.resume(Go::ToCallExit)
    }

    fn look_up_opened(&mut self, tid: i32) {
        let Ok(Some(fd)) = trace::answer(tid) else { return };
        let Some(record) = self.record.as_mut() else { return };
        match record.opened(tid, fd) {
            Effect::Blind(blindness) => self.lose_sight(blindness),
            Effect::Locked(why) => {
                self.lose_sight(Blindness::Unresolved { call: "open", pid: tid, why });
            }
            Effect::Recorded | Effect::Unsure(_) | Effect::Escape | Effect::Trace => {}
        }
    }

    /// The first reason stands.
    fn lose_sight(&mut self, blindness: Blindness) {
        if self.blind.is_none() {
            tracing::debug!(%blindness, "lost sight of the command");
            self.blind = Some(blindness);
        }
    }

    fn drop_tid(&mut self, tid: i32) {
        self.pairing.on_end(tid);
        self.alive.remove(&tid);
        self.opening.remove(&tid);
        self.diverted.remove(&tid);
        self.unlocked.remove(&tid);
        if let Some(record) = &mut self.record {
            record.done(tid);
        }
    }
}

/// The thread that a stop is also about: a new one, or who the stopped one was
/// before it executed a program.
fn other_of(tid: i32) -> Option<i32> {
    i32::try_from(trace::event_message(tid).ok()?).ok()
}

/// A stop that is none of a signal: the first of a new process, the news of a
/// SIGCONT, or a group stop, which has to last.
fn after_event_stop(signal: i32) -> Go {
    match signal {
        libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU => Go::Listen,
        _ => Go::On(0),
    }
}

/// Whether a call gives a descriptor for a file it was given a name of.
fn opens(call: &StoppedCall) -> bool {
    find(call).is_some_and(|(_, call)| {
        matches!(call.shape, Shape::Open { .. } | Shape::OpenHow { .. }) || call.name == "creat"
    })
}

fn ignore_gone(answer: Result<(), Errno>) -> Result<(), Errno> {
    match answer {
        Err(Errno(libc::ESRCH)) => Ok(()),
        answer => answer,
    }
}

fn refused(request: &str, tid: i32, errno: Errno) -> Error {
    Error::Call { call: format!("ptrace({request}, {tid})"), errno }
}
