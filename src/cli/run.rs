//! From the arguments of the process to its exit status.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use clap::Parser as _;
use clap::error::ErrorKind;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracer::Interrupt;
use tracing::field::Empty;

use super::config::{Surroundings, order, variables};
use super::flags::{CacheCommand, Command, DryRun, Flags, LoginFlags, PushFlags};
use super::telemetry::Telemetry;
use crate::build::{Checked, Order, build, check, dry_run};
use crate::report::{ExitStatus, Explain as _, Failure, LogFormat, coloured, in_span, install};

/// Enough for a tree of the deepest paths there can be.
const OPEN_FILES: u64 = 4096;

/// After a signal a build has this long to end by itself.
const GRACE: Duration = Duration::from_secs(4);

/// Runs the executor; answers its exit status.
pub fn main() -> i32 {
    let flags = match Flags::try_parse() {
        Ok(flags) => flags.without_empty_values(),
        Err(error) => return refuse(&error),
    };
    let log = match &flags.command {
        Some(Command::Push(push)) => push.log.settings(),
        Some(Command::Cache(cache)) => cache.which().log.settings(),
        None | Some(Command::Login(_) | Command::Version) => flags.log.settings(),
    };
    let form = log.format;
    let telemetry = flags.command.is_none().then(|| Telemetry::wanted(&variables())).flatten();
    install(log, telemetry.as_ref().map(Telemetry::traces));
    let done = match &flags.command {
        None => execute(&flags, telemetry.as_ref()),
        Some(Command::Push(push)) => execute_push(push),
        Some(Command::Login(login)) => execute_login(login),
        Some(Command::Cache(cache)) => execute_cache(cache),
        Some(Command::Version) => {
            say(&format!("Kaniko version :  {}\n", env!("CARGO_PKG_VERSION")))
        }
    };
    match done {
        Ok(()) => 0,
        Err(failure) => {
            let words = last_words(&failure, form);
            let colour = form == LogFormat::Color
                && std::io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none();
            tell(&if colour { coloured(&words) } else { words });
            failure.exit_status().code()
        }
    }
}

fn execute(flags: &Flags, telemetry: Option<&Telemetry>) -> Result<(), Failure> {
    harden();
    let interrupt = Interrupt::new();
    let around = Surroundings::take()?;
    let order = order(flags, &around)?;
    let signalled = listen(&interrupt, order.work_dir.clone())?;
    let span = tracing::info_span!("build", kaniko.dockerfile.content = Empty, error = Empty);
    let built = in_span(span, || carry_out(flags, &order, &interrupt));
    if let Some(telemetry) = telemetry.filter(|_| signalled.get().is_none()) {
        telemetry.send(&order.registry);
    }
    unless_signalled(built, &signalled)
}

fn execute_push(flags: &PushFlags) -> Result<(), Failure> {
    harden();
    let interrupt = Interrupt::new();
    let around = Surroundings::take()?;
    let work_dir = WorkDir::default();
    let signalled = listen(&interrupt, work_dir.clone())?;
    let pushed = super::push::push(flags, &around, &interrupt, &work_dir);
    unless_signalled(pushed, &signalled)
}

fn execute_cache(command: &CacheCommand) -> Result<(), Failure> {
    harden();
    let interrupt = Interrupt::new();
    let signalled = listen(&interrupt, WorkDir::default())?;
    let told = super::cache::cache(command, &Surroundings::take()?, &interrupt);
    // What was removed before a failure is told, too.
    let done = told.and_then(|told| print(&told));
    unless_signalled(done, &signalled)
}

fn execute_login(flags: &LoginFlags) -> Result<(), Failure> {
    harden();
    let told = super::login::login(flags, &Surroundings::take()?, std::io::stdin().lock())?;
    say(&format!("{told}\n"))
}

/// What was asked for goes to standard output.
fn say(line: &str) -> Result<(), Failure> {
    std::io::stdout().write_all(line.as_bytes()).could_not(|| "write to standard output".to_owned())
}

fn unless_signalled(done: Result<(), Failure>, signalled: &Signalled) -> Result<(), Failure> {
    match (done, signalled.get()) {
        // It came too late to change anything.
        (Ok(()), _) => Ok(()),
        (Err(failure), None) => Err(failure),
        (Err(_), Some(signal)) => {
            Err(Failure::new(format!("the build was ended by signal {signal}"))
                .status(ExitStatus::of_signal(*signal)))
        }
    }
}

/// Builds, or looks at what would be built.
fn carry_out(flags: &Flags, order: &Order, interrupt: &Interrupt) -> Result<(), Failure> {
    if flags.language.check.0 {
        return tell_checked(&check(order, interrupt, std::io::stdout().is_terminal())?);
    }
    match flags.language.dryrun {
        DryRun::Off => build(order, interrupt).map(drop),
        DryRun::Text => print(&dry_run(order, interrupt)?.to_string()),
        DryRun::Json => print(&format!("{}\n", dry_run(order, interrupt)?.json())),
    }
}

fn tell_checked(checked: &Checked) -> Result<(), Failure> {
    match checked.count {
        0 => print("the checks found nothing\n"),
        count => {
            print(&format!("{}\n\n", checked.text))?;
            let things = if count == 1 { "thing" } else { "things" };
            Err(Failure::new(format!("the checks found {count} {things}")))
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).could_not(|| "write to standard output".to_owned())
}

/// What a step must not learn: this process holds credentials. What it makes for itself is nobody
/// else's to write, whatever it was started with; files of the image get their modes by chmod(2).
/// Many files may be open: one for each level of a tree.
fn harden() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit};
    if let Err(errno) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(
            "steps may read the memory of this process: prctl(PR_SET_DUMPABLE): {errno}"
        );
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // Steps inherit it, and some programs close all descriptors they could have.
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = limit.current.map(|current| current.max(OPEN_FILES));
    let current = wanted.map(|wanted| limit.maximum.map_or(wanted, |most| wanted.min(most)));
    let raised = Rlimit { current, maximum: limit.maximum };
    if let Err(errno) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::debug!("setrlimit(RLIMIT_NOFILE): {errno}");
    }
}

/// Where the build keeps its files, once it has begun.
pub(super) type WorkDir = std::sync::Arc<std::sync::OnceLock<std::path::PathBuf>>;

type Signalled = std::sync::Arc<std::sync::OnceLock<i32>>;

/// The first SIGTERM or SIGINT ends the build, the second or the end of the grace period the process.
fn listen(interrupt: &Interrupt, work_dir: WorkDir) -> Result<Signalled, Failure> {
    let doing = || "handle signals".to_owned();
    let mut signals = Signals::new([SIGTERM, SIGINT]).could_not(doing)?;
    let signalled = Signalled::default();
    let (first, interrupt) = (signalled.clone(), interrupt.clone());
    let listen = move || {
        for signal in signals.forever() {
            if first.set(signal).is_err() {
                std::process::exit(ExitStatus::of_signal(signal).code());
            }
            tracing::warn!("signal {signal}: ending the build");
            interrupt.trigger();
            let work_dir = work_dir.clone();
            std::thread::spawn(move || {
                let end = Instant::now() + GRACE;
                while let Some(left) = end.checked_duration_since(Instant::now()) {
                    std::thread::park_timeout(left);
                }
                // Something does not end in time; what it has on disk goes all the same.
                if let Some(dir) = work_dir.get() {
                    let _ = std::fs::remove_dir_all(dir);
                }
                std::process::exit(ExitStatus::of_signal(signal).code());
            });
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen).could_not(doing)?;
    Ok(signalled)
}

/// Help goes to standard output; a wrong flag ends with 1, as in kaniko.
pub(super) fn refuse(error: &clap::Error) -> i32 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = error.print();
            0
        }
        _ => {
            tell(&error.to_string());
            1
        }
    }
}

/// Where every line is a JSON object, the last one is too.
pub(super) fn last_words(failure: &Failure, format: LogFormat) -> String {
    match format {
        LogFormat::Json => {
            format!("{}\n", serde_json::json!({"level": "fatal", "msg": failure.to_string()}))
        }
        LogFormat::Text | LogFormat::Color => format!("{failure}\n"),
    }
}

pub(super) fn tell(text: &str) {
    // Nobody reads it when this fails.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
