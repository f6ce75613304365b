//! Keeps the tracer and a process that stops again and again on one processor.
//!
//! The two never run at the same time: one waits while the other works. Yet a
//! kernel with idle processors wakes either on another one, because the one that
//! wakes it still runs; and a processor that has to be woken first makes a stop
//! several times as dear. To move the tracer alone would not help: it would find
//! the process gone to where the tracer was.
//!
//! So while one thread stops many times in a row, and was seen on another
//! processor than the tracer, both are confined to one. That ends with whatever
//! could run beside it, or see it: the stop of any other thread, a new process, a
//! new program, a question about processors, a change of ids (which could take
//! the right to undo it), or a while without a stop. All of these stop before
//! they happen, but for the last, which a thread of its own looks after. It also
//! ends when it does not pay, and is then tried ever more seldom.
//!
//! What remains to be seen of it is `Cpus_allowed` of /proc/PID/status, by a
//! program that reads it between two changes of many to the tree.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_getcpu, sched_setaffinity};

use crate::tracee::Tracee;

/// Tracer and tracee, on one processor or wherever the kernel likes.
pub(crate) struct Pairing {
    /// Where everything may run. `None` if that is one processor, or if it is not
    /// for us to say.
    everywhere: Option<CpuSet>,
    rhythm: Rhythm,
    joined: Option<i32>,
    /// Who was let go while it ran, and may have passed on its confinement before.
    let_go: Option<i32>,
    has_joined: bool,
    /// After this long without a stop the two are let go.
    term: Duration,
    lease: Option<Lease>,
}

impl Pairing {
    /// For the thread that calls, which is the tracer, and what it starts.
    pub(crate) fn new() -> Pairing {
        let everywhere = sched_getaffinity(None).ok().filter(|set| set.count() > 1);
        Pairing {
            everywhere,
            rhythm: Rhythm::default(),
            joined: None,
            let_go: None,
            has_joined: false,
            term: Duration::from_millis(20),
            lease: None,
        }
    }

    /// A call of `tid` stopped. Whether the two are to be joined.
    pub(crate) fn on_call(&mut self, tid: i32) -> bool {
        if self.everywhere.is_none() {
            return false;
        }
        if self.joined.is_some() {
            self.renew(tid);
        }
        self.stopped(tid);
        match self.rhythm.count(tid, self.joined.is_some(), Instant::now) {
            Advice::Stay => false,
            Advice::Part => {
                self.part();
                false
            }
            Advice::Look => {
                let are_apart = self.is_anything_idle() && is_elsewhere(tid);
                self.rhythm.saw(are_apart);
                are_apart
            }
            Advice::LookAgain => {
                if !self.is_anything_idle() {
                    self.part();
                }
                false
            }
        }
    }

    /// Whether there is a processor with nothing to do. Where all are busy, the
    /// two stay together by themselves, and to confine them would be to let them
    /// wait for others.
    fn is_anything_idle(&self) -> bool {
        let processors = self.everywhere.as_ref().map_or(0, CpuSet::count);
        running().is_some_and(|running| running < processors)
    }

    /// Joins the two. From here on `tid` has to stop when it executes a program.
    pub(crate) fn join(&mut self, tid: i32) {
        let Some(everywhere) = &self.everywhere else { return };
        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        let is_free = sched_getaffinity(Pid::from_raw(tid)).is_ok_and(|set| set == *everywhere);
        // A process of another user is none of ours to confine without CAP_SYS_NICE.
        if !is_free || sched_setaffinity(Pid::from_raw(tid), &here).is_err() {
            self.everywhere = None;
            return;
        }
        let lease = self.lease.get_or_insert_with(|| Lease::start(*everywhere, self.term));
        // It runs there.
        let _ = sched_setaffinity(None, &here);
        lease.begin(tid);
        (self.joined, self.has_joined) = (Some(tid), true);
    }

    /// `tid` stopped for another reason.
    pub(crate) fn on_other(&mut self, tid: i32) {
        self.part();
        self.stopped(tid);
        self.rhythm = Rhythm { rest: self.rhythm.rest, ..Rhythm::default() };
    }

    /// `tid` is gone. Its number may soon be that of somebody else.
    pub(crate) fn on_end(&mut self, tid: i32) {
        if self.joined == Some(tid) {
            self.lease.as_ref().inspect(|lease| lease.forget());
        }
        self.on_other(tid);
    }

    /// The first stop of a new thread. It may be confined as its parent was.
    pub(crate) fn on_birth(&mut self, tid: i32) {
        if self.has_joined
            && let Some(everywhere) = &self.everywhere
            && sched_getaffinity(Pid::from_raw(tid)).is_ok_and(|set| set != *everywhere)
        {
            free(tid, everywhere);
        }
    }

    /// What held for thread `from` holds for `to` as well: its child; or itself,
    /// by another number, once it has executed a program over its siblings.
    pub(crate) fn on_heir(&mut self, from: i32, to: impl FnOnce() -> Option<i32>) {
        if [self.joined, self.let_go].contains(&Some(from))
            && let (Some(to), Some(lease)) = (to(), &self.lease)
        {
            free(to, &lease.shared.everywhere);
        }
        self.on_other(from);
    }

    /// The command decides itself where its processes run; `tid` does. From now
    /// on one that is confined may be meant to be.
    pub(crate) fn give_up(&mut self, tid: i32) {
        self.on_other(tid);
        self.everywhere = None;
    }

    /// Whatever `tid` passed on, it has done so.
    fn stopped(&mut self, tid: i32) {
        self.let_go.take_if(|let_go| *let_go == tid);
    }

    /// Nothing is confined after this.
    fn part(&mut self) {
        let Some(tid) = self.joined.take() else { return };
        self.lease.as_ref().inspect(|lease| lease.end());
        self.let_go = Some(tid);
    }

    fn renew(&mut self, tid: i32) {
        let is_held = self.lease.as_ref().is_some_and(Lease::renew);
        if !is_held || self.joined != Some(tid) {
            self.part();
        }
    }
}

impl Drop for Pairing {
    fn drop(&mut self) {
        self.part();
    }
}

/// What the stops so far say.
#[derive(Debug, PartialEq, Eq)]
enum Advice {
    /// As it is.
    Stay,
    /// Find out where the two run.
    Look,
    /// Find out whether there is still room for it.
    LookAgain,
    /// Being joined does not pay.
    Part,
}

/// How one thread's stops follow each other.
#[derive(Debug, Clone)]
struct Rhythm {
    tid: i32,
    in_a_row: u32,
    /// The number of the stop at which something is decided.
    next: u32,
    /// When the last decision was, and at which stop.
    since: (Instant, u32),
    /// Stops to the next look.
    pause: u32,
    /// What a stop took while the two were apart.
    apart: Duration,
    /// Stops to let pass after joining did not pay.
    rest: u32,
    /// The two have just been joined: what a stop takes now says nothing.
    is_settling: bool,
}

impl Default for Rhythm {
    fn default() -> Rhythm {
        Rhythm {
            tid: 0,
            in_a_row: 0,
            next: 0,
            since: (Instant::now(), 0),
            pause: Rhythm::WINDOW,
            apart: Duration::ZERO,
            rest: 0,
            is_settling: false,
        }
    }
}

impl Rhythm {
    /// Stops over which a mean is taken.
    const WINDOW: u32 = 16;
    /// Looking costs about a stop; so it happens every so many at least.
    const LONGEST_PAUSE: u32 = 256;
    const LONGEST_REST: u32 = 1 << 16;
    /// Who stops more seldom has other cares than what a stop takes.
    const SELDOM: Duration = Duration::from_micros(300);

    fn count(&mut self, tid: i32, is_joined: bool, clock: impl Fn() -> Instant) -> Advice {
        if self.tid != tid {
            let next = Self::WINDOW.max(self.rest);
            let since = (clock(), 0);
            *self = Rhythm { tid, next, since, rest: self.rest, ..Rhythm::default() };
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row < self.next {
            return Advice::Stay;
        }
        self.decide(clock(), is_joined)
    }

    fn decide(&mut self, now: Instant, is_joined: bool) -> Advice {
        let (then, stops) = self.since;
        let mean = (now - then) / (self.in_a_row - stops).max(1);
        self.since = (now, self.in_a_row);
        self.next = self.in_a_row.saturating_add(Self::WINDOW);
        if is_joined {
            if std::mem::take(&mut self.is_settling) {
                return Advice::Stay;
            }
            if mean <= self.apart {
                self.rest = 0;
                self.next = self.in_a_row.saturating_add(Self::LONGEST_PAUSE);
                return Advice::LookAgain;
            }
            self.rest = (self.rest * 2).clamp(Self::LONGEST_PAUSE, Self::LONGEST_REST);
            self.next = self.in_a_row.saturating_add(self.rest);
            return Advice::Part;
        }
        self.apart = mean;
        if mean > Self::SELDOM { Advice::Stay } else { Advice::Look }
    }

    /// What a look showed.
    fn saw(&mut self, apart: bool) {
        self.is_settling = apart;
        self.pause = if apart { Self::WINDOW } else { Self::LONGEST_PAUSE.min(self.pause * 2) };
        self.next = self.in_a_row.saturating_add(self.pause);
    }
}

/// Whether a thread that is stopped ran on another processor than this one.
fn is_elsewhere(tid: i32) -> bool {
    Tracee::new(tid).processor().is_some_and(|there| there != sched_getcpu())
}

/// How many threads of the machine run now, or could (proc(5), `/proc/loadavg`).
fn running() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_ascii_whitespace().nth(3)?.split_once('/')?.0.parse().ok()
}

/// Ends a confinement of which nothing is heard for a while: the two may be
/// waiting for somebody who keeps their processor.
struct Lease {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    everywhere: CpuSet,
    term: Duration,
    tracer: i32,
    /// Who is confined beside the tracer; 0 for nobody. Who takes it out sets it free.
    tid: AtomicI32,
    stops: AtomicU32,
    is_over: AtomicBool,
}

impl Lease {
    fn start(everywhere: CpuSet, term: Duration) -> Lease {
        let shared = Arc::new(Shared {
            everywhere,
            term,
            tracer: gettid().as_raw_nonzero().get(),
            tid: AtomicI32::new(0),
            stops: AtomicU32::new(0),
            is_over: AtomicBool::new(false),
        });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("tracer lease".to_owned());
        let thread = thread.spawn(move || theirs.look_after()).ok();
        Lease { shared, thread }
    }

    /// Without the thread nobody is held.
    fn begin(&self, tid: i32) {
        self.shared.tid.store(tid, Ordering::Release);
        match &self.thread {
            Some(thread) => thread.thread().unpark(),
            None => self.shared.free(),
        }
    }

    /// Says that there was a stop. Whether somebody is held still.
    fn renew(&self) -> bool {
        self.shared.stops.fetch_add(1, Ordering::Relaxed);
        self.shared.tid.load(Ordering::Acquire) != 0
    }

    fn end(&self) {
        self.shared.free();
    }

    /// Ends it for one that is gone.
    fn forget(&self) {
        if self.shared.tid.swap(0, Ordering::AcqRel) != 0 {
            free(self.shared.tracer, &self.shared.everywhere);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.free();
        self.shared.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It cannot panic.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn look_after(&self) {
        while !self.is_over.load(Ordering::Acquire) {
            if self.tid.load(Ordering::Acquire) == 0 {
                thread::park();
                continue;
            }
            let (began, before) = (Instant::now(), self.stops.load(Ordering::Relaxed));
            thread::park_timeout(self.term);
            // It may have been woken for a new confinement.
            if began.elapsed() >= self.term && self.stops.load(Ordering::Relaxed) == before {
                self.free();
            }
        }
    }

    fn free(&self) {
        let tid = self.tid.swap(0, Ordering::AcqRel);
        if tid != 0 {
            free(tid, &self.everywhere);
            free(self.tracer, &self.everywhere);
        }
    }
}

/// One that is gone needs nothing more.
fn free(tid: i32, everywhere: &CpuSet) {
    match sched_setaffinity(Pid::from_raw(tid), everywhere) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => tracing::warn!(tid, %error, "a process stays on one processor"),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// Stops every so many microseconds.
    struct Stops(Rhythm, Instant);

    impl Stops {
        fn until_advice(&mut self, tid: i32, micros: u64, is_joined: bool) -> (u32, Advice) {
            for stops in 1..=10_000 {
                self.1 += Duration::from_micros(micros);
                match self.0.count(tid, is_joined, || self.1) {
                    Advice::Stay | Advice::LookAgain => {}
                    advice => return (stops, advice),
                }
            }
            (10_000, Advice::Stay)
        }
    }

    const LONG: Duration = Duration::from_secs(3600);

    struct Sleeper(Child);

    impl Sleeper {
        fn start() -> (Sleeper, i32) {
            let child = Command::new("sleep").arg("60").spawn().expect("sleep of coreutils");
            let tid = i32::try_from(child.id()).expect("a process id");
            (Sleeper(child), tid)
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn processors(tid: i32) -> u32 {
        sched_getaffinity(Pid::from_raw(tid)).expect("it is there").count()
    }

    /// `None` where there is one processor only, and nothing to be tested.
    fn joined(term: Duration) -> Option<(Pairing, Sleeper, i32, u32)> {
        let mut pairing = Pairing::new();
        pairing.term = term;
        let all = pairing.everywhere.as_ref()?.count();
        let (sleeper, tid) = Sleeper::start();
        pairing.join(tid);
        assert!(term < LONG || (processors(tid), processors(0)) == (1, 1), "both are confined");
        Some((pairing, sleeper, tid, all))
    }

    #[test]
    fn whatever_else_happens_ends_it() {
        type Happening = fn(&mut Pairing, i32);
        for (case, happens) in [
            ("another reason to stop", (|pairing, tid| pairing.on_other(tid)) as Happening),
            ("the stop of another thread", |pairing, _| pairing.on_other(1)),
            ("a call of another thread", |pairing, _| assert!(!pairing.on_call(1))),
            ("a new process", |pairing, tid| pairing.on_heir(tid, || None)),
            ("processors are chosen", Pairing::give_up),
        ] {
            let Some((mut pairing, _sleeper, tid, all)) = joined(LONG) else { return };
            happens(&mut pairing, tid);
            assert_eq!((processors(tid), processors(0)), (all, all), "{case}");
        }
    }

    #[test]
    fn it_ends_with_the_tracer_and_when_nothing_is_heard() {
        let Some((pairing, _sleeper, tid, all)) = joined(LONG) else { return };
        drop(pairing);
        assert_eq!((processors(tid), processors(0)), (all, all));
        let Some((_pairing, _sleeper, tid, all)) = joined(Duration::ZERO) else { return };
        while (processors(tid), processors(0)) != (all, all) {
            thread::yield_now();
        }
    }

    #[test]
    fn a_new_process_is_not_confined_as_its_parent_was() {
        let Some((mut pairing, _sleeper, tid, all)) = joined(LONG) else { return };
        let born = || {
            let (sleeper, child) = Sleeper::start(); // of this thread, which is confined
            assert_eq!(processors(child), 1);
            (sleeper, child)
        };
        let ((_first, first), (_second, second), (_third, third)) = (born(), born(), born());
        pairing.on_birth(first);
        assert_eq!(processors(first), all, "its first stop comes before that of its parent");
        pairing.on_other(1);
        pairing.on_heir(tid, || Some(second));
        assert_eq!(processors(second), all, "its parent was let go meanwhile");
        pairing.on_heir(tid, || Some(third));
        assert_eq!(processors(third), 1, "its parent has stopped since: it was meant to be so");
    }

    #[test]
    fn who_stops_often_is_looked_at_and_joined_while_that_pays() {
        let mut stops = Stops(Rhythm::default(), Instant::now());
        let nothing = (10_000, Advice::Stay);
        assert_eq!(stops.until_advice(7, 40, false), (16, Advice::Look));
        stops.0.saw(true);
        assert_eq!(stops.until_advice(7, 10, true), nothing);
        assert_eq!(stops.until_advice(7, 41, true).1, Advice::Part, "dearer than apart");
        assert_eq!(stops.until_advice(7, 40, false), (256, Advice::Look), "after a rest");
        stops.0.saw(true);
        assert_eq!(
            stops.until_advice(7, 90, true),
            (32, Advice::Part),
            "the first few say nothing"
        );
        assert_eq!(stops.until_advice(8, 40, false), (512, Advice::Look), "a longer one");
        stops.0.saw(true);
        assert_eq!(stops.until_advice(8, 10, true), nothing);
        assert_eq!(stops.until_advice(9, 40, false), (16, Advice::Look), "it has paid since");
        stops.0.saw(false);
        assert_eq!(stops.until_advice(9, 40, false), (32, Advice::Look), "more and more seldom");
        stops.0.saw(false);
        assert_eq!(stops.until_advice(9, 40, false), (64, Advice::Look));
        assert_eq!(stops.until_advice(10, 400, false), nothing, "it stops too seldom");
    }
}
