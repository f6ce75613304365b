//! What was meant with the flags about who watches RUN steps.

use tracer::Choice;

use super::super::flags::TracerFlags;
use crate::build::{SnapshotMode, StepTracer, Verify, Watch};
use crate::report::Failure;

/// Who watches all steps, and the exceptions.
///
/// # Errors
/// A value that means nothing, or two flags that ask for opposites.
pub(super) fn watch(flags: &TracerFlags) -> Result<(Watch, Vec<StepTracer>), Failure> {
    let mode = mode(flags.snapshot_mode.as_deref())?;
    let verify = verify(&flags.verify_snapshot)?;
    let (given, steps) = tracers(&flags.run_tracer)?;
    let tracer = given.unwrap_or(Choice::Auto);
    let asked_for = given.is_some_and(|given| given != Choice::Off) || !steps.is_empty();
    let new_run = flags.use_new_run.map(|flag| flag.0);
    let is_off = tracer == Choice::Off && steps.is_empty();
    let walks = mode.is_some() && new_run != Some(true) || new_run == Some(false) || is_off;
    if walks && verify != Verify::Off {
        return Err(Failure::new(
            "--verify-snapshot compares the trace with a walk, and nothing is traced here",
        ));
    }
    if flags.run_tracer_strict.0 && (walks || matches!(tracer, Choice::Inotify | Choice::Fanotify))
    {
        return Err(Failure::new(
            "--run-tracer-strict is for ptrace, and nothing is traced by it here",
        ));
    }
    let watch = match (mode, new_run) {
        (Some(_), _) if asked_for => {
            return Err(Failure::new(
                "--snapshot-mode walks the file system and --run-tracer traces: give one of them",
            ));
        }
        (_, Some(false)) if asked_for => {
            return Err(Failure::new(
                "--use-new-run=false walks the file system and --run-tracer traces: give one of them",
            ));
        }
        // As in kaniko, where --use-new-run decides over the mode for RUN.
        (Some(mode), None | Some(false)) => Watch::Walk(mode),
        (None, Some(false)) => Watch::Walk(SnapshotMode::Full),
        (_, None | Some(true)) if is_off => Watch::Walk(SnapshotMode::Redo),
        (_, None | Some(true)) => Watch::Trace { tracer, verify },
    };
    Ok((watch, steps))
}

fn mode(given: Option<&str>) -> Result<Option<SnapshotMode>, Failure> {
    Ok(match given {
        None | Some("") => None,
        Some("full") => Some(SnapshotMode::Full),
        Some("redo") => Some(SnapshotMode::Redo),
        Some("time") => Some(SnapshotMode::Time),
        Some(other) => {
            let what = format!("--snapshot-mode={other}: use full, redo or time");
            return Err(Failure::new(what));
        }
    })
}

fn verify(given: &str) -> Result<Verify, Failure> {
    match given {
        "off" | "false" => Ok(Verify::Off),
        "warn" => Ok(Verify::Warn),
        "fail" | "true" => Ok(Verify::Fail),
        other => Err(Failure::new(format!("--verify-snapshot={other}: use off, warn or fail"))),
    }
}

/// The last value for all steps, and those for one.
fn tracers(given: &[String]) -> Result<(Option<Choice>, Vec<StepTracer>), Failure> {
    let failed = |text: &str, why: String| Failure::new(format!("--run-tracer={text}: {why}"));
    let choice = |text: &str, word: &str| -> Result<Choice, Failure> {
        word.parse().map_err(|error: tracer::UnknownChoice| failed(text, error.to_string()))
    };
    let (mut general, mut steps) = (None, Vec::new());
    for text in given.iter().filter(|text| !text.is_empty()) {
        match text.rsplit_once('=') {
            None => general = Some(choice(text, text)?),
            Some((step, word)) => {
                let tracer = choice(text, word)?;
                steps.push(StepTracer::parse(step, tracer).map_err(|why| failed(text, why))?);
            }
        }
    }
    Ok((general, steps))
}

#[cfg(test)]
mod tests {
    use super::super::super::flags::Flags;
    use super::*;
    use clap::Parser as _;

    fn told(line: &str) -> Result<(Watch, Vec<StepTracer>), String> {
        let flags =
            Flags::try_parse_from(std::iter::once("executor").chain(line.split_whitespace()));
        watch(&flags.expect(line).tracer).map_err(|failure| failure.to_string())
    }

    #[test]
    fn who_watches() {
        let traced = |tracer, verify| Some(Watch::Trace { tracer, verify });
        for (line, want) in [
            ("", traced(Choice::Auto, Verify::Off)),
            ("--snapshot-mode= --run-tracer=", traced(Choice::Auto, Verify::Off)),
            ("--verify-snapshot", traced(Choice::Auto, Verify::Fail)),
            ("--verify-snapshot=warn", traced(Choice::Auto, Verify::Warn)),
            ("--run-tracer=ptrace", traced(Choice::Ptrace, Verify::Off)),
            ("--run-tracer=off --run-tracer=inotify", traced(Choice::Inotify, Verify::Off)),
            ("--run-tracer=off", Some(Watch::Walk(SnapshotMode::Redo))),
            ("--run-tracer=off --run-tracer=0:3=inotify", traced(Choice::Off, Verify::Off)),
            ("--use-new-run=false", Some(Watch::Walk(SnapshotMode::Full))),
            ("--snapshot-mode=redo", Some(Watch::Walk(SnapshotMode::Redo))),
            ("--snapshotMode=time", Some(Watch::Walk(SnapshotMode::Time))),
            ("--snapshot-mode=redo --use-new-run", traced(Choice::Auto, Verify::Off)),
            ("--snapshot-mode=x", None),
            ("--snapshot-mode=redo --run-tracer=ptrace", None),
            ("--snapshot-mode=redo --run-tracer=*:1=ptrace", None),
            ("--verify-snapshot=x", None),
            ("--verify-snapshot --run-tracer=off", None),
            ("--verify-snapshot --snapshot-mode=redo", None),
            ("--run-tracer=x", None),
            ("--run-tracer-strict", traced(Choice::Auto, Verify::Off)),
            ("--run-tracer-strict --run-tracer=inotify", None),
            ("--run-tracer-strict --use-new-run=false", None),
            ("--run-tracer=3=ptrace", None),
            ("--run-tracer=a:3=x", None),
        ] {
            assert_eq!(told(line).ok().map(|(watch, _)| watch), want, "{line}");
        }
    }
}
