//! Runs a command and prints the paths it may have changed.
//!
//! `touched -- make install`; `--off` runs it without a tracer, for comparing
//! times, and `--stats` prints what watching it took.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

use std::ffi::{CString, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;
use std::time::Instant;

use tracer::{Choice, Command, Interrupt, Outcome, Touched, Tracer};

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    let is_off = take(&mut args, "--off");
    let wants_stats = take(&mut args, "--stats");
    take(&mut args, "--");
    match run(&args, if is_off { Choice::Off } else { Choice::Ptrace }) {
        Ok((outcome, seconds)) => {
            print(&outcome.touched);
            if wants_stats {
                eprintln!("{seconds:.3} s, {:?}", outcome.stats);
            }
            ExitCode::from(u8::try_from(outcome.status.code()).unwrap_or(1))
        }
        Err(error) => {
            eprintln!("touched: {error}");
            ExitCode::FAILURE
        }
    }
}

fn take(args: &mut Vec<OsString>, flag: &str) -> bool {
    let is_there = args.first().is_some_and(|arg| arg == flag);
    if is_there {
        args.remove(0);
    }
    is_there
}

fn run(args: &[OsString], choice: Choice) -> Result<(Outcome, f64), Box<dyn std::error::Error>> {
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
    let tracer = Tracer::probe(choice)?;
    let started = Instant::now();
    let outcome = tracer.run(&command, &Interrupt::new())?;
    Ok((outcome, started.elapsed().as_secs_f64()))
}

fn on_path(program: &OsString) -> Result<Vec<CString>, Box<dyn std::error::Error>> {
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
