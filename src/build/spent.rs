//! What a RUN step took, told at `debug`: its command, and the look at the tree afterwards.
//!
//! `benches/tracer` reads the line.

use std::fmt;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// A part of a step, under way.
pub(super) struct Stopwatch {
    wall: Instant,
    own: Duration,
}

/// What a part took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    wall: Duration,
    cpu: Duration,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self { wall: Instant::now(), own: own_cpu() }
    }

    /// `command` is the CPU time of processes that were waited for, besides the executor's own.
    pub(super) fn stop(&self, command: Duration) -> Spent {
        let cpu = own_cpu().saturating_sub(self.own) + command;
        Spent { wall: self.wall.elapsed(), cpu }
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6} s, CPU {:.6} s", self.wall.as_secs_f64(), self.cpu.as_secs_f64())
    }
}

/// CPU time of the executor, all threads together: those of stages that are built at the same time, too.
fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let whole = Duration::from_secs(time.tv_sec.unsigned_abs());
    whole + Duration::from_nanos(time.tv_nsec.unsigned_abs())
}
