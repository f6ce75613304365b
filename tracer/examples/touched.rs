//! Runs a command and prints the paths it may have changed.
//!
//! `touched -- make install`. `--backend=NAME` is who watches: ptrace (as is,
//! without one), inotify, off, or auto. inotify marks every directory of the root
//! file system, and takes the rights to mount and to open files by handle from
//! the command, because it could not see what is done with them. `--stats` says
//! what the run took. `--strict` looks at opened files twice. `--compare` runs it five times with and five times
//! without the tracer, in turn, and says what each event cost: for commands
//! that can be repeated. CPU time is the measure, because other programs
//! disturb it least: that of the command and of the tracer together.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::ffi::{CString, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tracer::{CapSet, Choice, Command, Interrupt, Outcome, Stats, Touched, Tracer};

const COMPARED_RUNS: u32 = 5;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_SYS_ADMIN: u32 = 21;

/// One run of the command.
struct Run {
    outcome: Outcome,
    wall: Duration,
    /// CPU time of this program.
    own: Duration,
}

/// The least that several runs took.
struct Least {
    wall: Duration,
    cpu: Duration,
    stats: Stats,
}

type Answer<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let backend = match take_backend(&mut args) {
        Ok(backend) => backend,
        Err(error) => {
            eprintln!("touched: {error}");
            return ExitCode::FAILURE;
        }
    };
    let wants_stats = take(&mut args, "--stats");
    let is_strict = take(&mut args, "--strict");
    let wants_comparison = take(&mut args, "--compare");
    take(&mut args, "--");
    let done = match wants_comparison {
        true => compare(&args, backend).map(|()| ExitCode::SUCCESS),
        false => show(&args, backend, is_strict, wants_stats),
    };
    done.unwrap_or_else(|error| {
        eprintln!("touched: {error}");
        ExitCode::FAILURE
    })
}

fn show(args: &[OsString], choice: Choice, is_strict: bool, wants_stats: bool) -> Answer<ExitCode> {
    let run = run(args, choice, is_strict)?;
    print(&run.outcome.touched);
    if wants_stats {
        let Stats { stops, events, resolved, from_cache, unlocked, forks, cpu, .. } =
            run.outcome.stats;
        eprintln!(
            "{events} events among {stops} stops, {resolved} resolved ({from_cache} below a known \
             directory, {unlocked} made readable first), {forks} forks"
        );
        eprintln!(
            "{:.3} s; CPU: command {:.3} s, tracer {:.3} s",
            seconds(run.wall),
            seconds(cpu),
            seconds(run.own)
        );
        if events > 0 {
            eprintln!("{:.2} us of the tracer's CPU per event", micros(run.own) / count(events));
        }
    }
    Ok(ExitCode::from(u8::try_from(run.outcome.status.code()).unwrap_or(1)))
}

fn compare(args: &[OsString], choice: Choice) -> Answer<()> {
    let (mut untraced, mut traced) = (None, None);
    for _ in 0..COMPARED_RUNS {
        Least::update(&mut untraced, &run(args, Choice::Off, false)?);
        Least::update(&mut traced, &run(args, choice, false)?);
    }
    let (untraced, traced) = untraced.zip(traced).ok_or("nothing was run")?;
    for (name, least) in [("untraced", &untraced), ("traced", &traced)] {
        println!("{name:8} CPU {:.3} s, wall {:.3} s", seconds(least.cpu), seconds(least.wall));
    }
    println!(
        "ratio    CPU {:.2}, wall {:.2}",
        seconds(traced.cpu) / seconds(untraced.cpu),
        seconds(traced.wall) / seconds(untraced.wall)
    );
    let Stats { events, forks, .. } = traced.stats;
    if events > 0 {
        let more = micros(traced.cpu) - micros(untraced.cpu);
        println!("{events} events, {:.2} us of CPU each; {forks} forks", more / count(events));
    }
    Ok(())
}

impl Least {
    fn update(least: &mut Option<Least>, run: &Run) {
        let cpu = run.own + run.outcome.stats.cpu;
        let before =
            least.take().unwrap_or(Least { wall: run.wall, cpu, stats: run.outcome.stats });
        *least = Some(Least {
            wall: run.wall.min(before.wall),
            cpu: cpu.min(before.cpu),
            stats: run.outcome.stats,
        });
    }
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[expect(clippy::cast_precision_loss, reason = "far from 2^53")]
fn count(number: u64) -> f64 {
    number as f64
}

/// CPU time of this program, all threads together.
fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let whole = Duration::from_secs(time.tv_sec.unsigned_abs());
    whole + Duration::from_nanos(time.tv_nsec.unsigned_abs())
}

/// `--backend=NAME`; ptrace where it is not given.
fn take_backend(args: &mut Vec<OsString>) -> Result<Choice, tracer::UnknownChoice> {
    let name = args.first().and_then(|arg| arg.to_str()?.strip_prefix("--backend="));
    let choice = name.map_or(Ok(Choice::Ptrace), str::parse)?;
    if name.is_some() {
        args.remove(0);
    }
    Ok(choice)
}

fn take(args: &mut Vec<OsString>, flag: &str) -> bool {
    let is_there = args.first().is_some_and(|arg| arg == flag);
    if is_there {
        args.remove(0);
    }
    is_there
}

fn run(args: &[OsString], choice: Choice, is_strict: bool) -> Answer<Run> {
    let program = args.first().ok_or("which command?")?;
    let argv: Result<Vec<_>, _> = args.iter().map(|arg| CString::new(arg.as_bytes())).collect();
    let mut command = Command::new(CString::new(program.as_bytes())?, argv?);
    if !program.as_bytes().contains(&b'/') {
        command.programs = on_path(program)?;
    }
    command.envp = environment();
    command.cwd = CString::new(std::env::current_dir()?.into_os_string().into_vec())?;
    command.stdout = Some(std::io::stdout().as_fd().try_clone_to_owned()?);
    command.stderr = Some(std::io::stderr().as_fd().try_clone_to_owned()?);
    command.strict = is_strict;
    if choice == Choice::Inotify {
        command.capabilities = Some(CapSet(!CapSet::of(&[CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN]).0));
    }
    let tracer = Tracer::probe(choice)?;
    let (started, used) = (Instant::now(), own_cpu());
    let outcome = tracer.run(&command, &Interrupt::new())?;
    Ok(Run { outcome, wall: started.elapsed(), own: own_cpu() - used })
}

fn on_path(program: &OsString) -> Answer<Vec<CString>> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::env::split_paths(&path).map(|dir| dir.join(program));
    Ok(candidates
        .map(|file| CString::new(file.as_os_str().as_bytes()))
        .collect::<Result<_, _>>()?)
}

fn environment() -> Vec<CString> {
    let pair = |(name, value): (OsString, OsString)| {
        CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
    };
    std::env::vars_os().filter_map(pair).collect()
}

fn print(touched: &Touched) {
    match touched {
        Touched::Only(set) => {
            for path in &set.paths {
                println!("{}", path.escape_ascii());
            }
            for tree in &set.trees {
                println!("{}/**", tree.escape_ascii());
            }
            eprintln!("only these {} paths and {} trees", set.paths.len(), set.trees.len());
        }
        Touched::Anything(why) => eprintln!("anything: {why}"),
    }
}
