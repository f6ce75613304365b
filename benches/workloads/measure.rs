//! Wall time, CPU time and peak memory of one command.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// What one run cost.
pub(crate) struct Figures {
    /// Seconds on the clock.
    pub(crate) wall: f64,
    /// Seconds of user and system time, those of all descendants included.
    pub(crate) cpu: f64,
    /// Peak resident memory of the command's own process, in megabytes.
    pub(crate) peak: f64,
    pub(crate) succeeded: bool,
}

/// Runs a command to its end; its output is dropped.
pub(crate) fn measure(command: &mut Command) -> Figures {
    let before = cpu_of_children();
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (ended, waiting) = channel();
    let process = child.id();
    let sampler = std::thread::spawn(move || peak_until(&waiting, process));
    let status = child.wait().expect("the command is our child");
    let wall = started.elapsed().as_secs_f64();
    drop(ended);
    Figures {
        wall,
        cpu: cpu_of_children() - before,
        peak: sampler.join().expect("the sampler only reads") / 1024.0,
        succeeded: status.success(),
    }
}

/// Seconds of user and system time of every descendant that was waited for so far.
fn cpu_of_children() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage(RUSAGE_CHILDREN)");
    let microseconds =
        usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(microseconds).expect("time goes on")).as_secs_f64()
}

/// The highest `VmHWM` (proc(5), kilobytes) seen until the sender is dropped.
///
/// wait4(2) would give the peak of the process or of any of its children,
/// whichever is higher; a compiler in a step is not what is asked for.
fn peak_until(ended: &Receiver<()>, process: u32) -> f64 {
    let mut peak = 0.0_f64;
    loop {
        peak = peak.max(high_water(process).unwrap_or(0.0));
        match ended.recv_timeout(Duration::from_millis(10)) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return peak,
        }
    }
}

fn high_water(process: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
