//! RUN: what it may have changed becomes a difference, held against a walk where that is asked for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use snapshot::{Difference, ImagePath, Suspects};
use tracer::{Denied, Touched};

use super::spent::Stopwatch;
use super::stage::{Fold, Stages, shown};
use super::verdict::verdict;
use super::{SnapshotMode, Verify, Watch};
use crate::plan::{PlannedStage, RunStep, Step};
use crate::report::{ExitStatus, Explain as _, Failure};
use crate::rootfs::{Exclusions, Rootfs};
use crate::step::{Runner, make_workdir, run};

impl Stages<'_, '_> {
    pub(super) fn run(
        &self,
        step: &RunStep,
        ready: &Step,
        (stage, text): (&PlannedStage<'_>, &str),
        fold: &mut Fold,
    ) -> Result<Difference, Failure> {
        let builder = self.builder;
        let rootfs = fold.root()?;
        let accounts = rootfs.accounts().could_not(|| "read the users of the image".to_owned())?;
        let who = accounts.identity(&step.user).map_err(|error| {
            Failure::new(format!("USER {}: {error}", step.user))
                .hint("give a number, or create the user in an earlier step")
        })?;
        let mounts = self.mounts(&step.mounts, &step.env)?;
        let made = make_own_dir(&step.dir, fold.root()?)?;
        let number = fold.number;
        let (rootfs, marks) = fold.root_and_marks()?;
        let watcher = builder.tracers.of(stage, number, (step, text), rootfs);
        if let Some(why) = &watcher.why {
            tracing::info!("This step: {} ({why})", watcher.tracer.name());
        }
        let reads = self.is_recorded(stage, number - 1);
        let caches: BTreeSet<PathBuf> = mounts.caches().map(Path::to_owned).collect();
        let scratch = builder.work.scratch_of(stage.number)?;
        let runner = Runner {
            tracer: watcher.tracer,
            isolation: builder.isolation,
            interrupt: &builder.interrupt,
            scratch: &scratch,
            event_budget: if reads { u64::MAX } else { watcher.event_budget },
            strict: builder.order.strict,
            reads,
            hostname: &builder.order.hostname,
        };
        let running = Stopwatch::start();
        let ran = run(&runner, rootfs, marks, step, &who, mounts).map_err(|error| {
            let program = step.argv.first().map_or("", String::as_str);
            run_failure(&error, program, &format!("{}:{number}", stage.label))
        })?;
        let ran_for = running.stop(ran.outcome.stats.cpu);
        let recognized = fold.root_mut()?.recognize(&ran.restored);
        recognized.could_not(|| "look at what the mounts were put over".to_owned())?;
        builder.work.restore()?;
        let status = ran.outcome.status;
        builder.go_on()?;
        if !status.success() {
            let command = shown(&ready.text);
            let code = ExitStatus::of_command(status.code());
            let failure = Failure::new(format!("{command}: {status}")).status(code);
            let hint = denied_hint(&ran.outcome.denied, &stage.label, number);
            return Err(hint.into_iter().fold(failure, Failure::hint));
        }
        builder.caches.step_succeeded(&caches);
        for program in &ran.outcome.denied.programs {
            tracing::warn!(
                "{} ran without the rights that its file gives: ptrace watched. If it needs them, \
                 use --run-tracer={}:{number}=inotify",
                program.escape_ascii(),
                stage.label
            );
        }
        let unsure = builder.tracers.saw(&ran);
        let mut suspects = if unsure.is_some() { Suspects::Everything } else { ran.suspects };
        if let Suspects::Only { paths, .. } = &mut suspects {
            paths.extend(made);
        }
        warn_of_mounts(&suspects, fold.root()?.exclusions());
        let named = format!("[{number}/{}] {}", stage.instructions.len(), shown(&ready.text));
        let looking = Stopwatch::start();
        if let Some(why) = unsure {
            tracing::info!("Taking snapshot of full filesystem: {why}");
        }
        let difference = self.after_run(&ran.outcome.touched, &suspects, &named, fold)?;
        fold.read = self.read_set(&ran.outcome.reads, step, &difference, fold);
        let stats = ran.outcome.stats;
        tracing::debug!(
            "step {number} took: command {ran_for}; looking {}; {} stops, {} events, {} resolved",
            looking.stop(Duration::ZERO),
            stats.stops,
            stats.events,
            stats.resolved
        );
        Ok(difference)
    }

    /// Looks where the tracer says, or everywhere.
    pub(super) fn after_run(
        &self,
        touched: &Touched,
        suspects: &Suspects,
        step: &str,
        fold: &mut Fold,
    ) -> Result<Difference, Failure> {
        let watch = self.builder.order.watch;
        if self.builder.tracers.has_to_read() {
            fold.root_mut()?.distrust();
        }
        let compare = |rootfs: &Rootfs, suspects: &Suspects| {
            rootfs.difference(suspects).map_err(|error| {
                Failure::new("could not tell what the step changed").because(error)
            })
        };
        match (watch, touched) {
            (Watch::Walk(mode), _) => {
                tracing::info!("Taking snapshot of full filesystem...");
                if mode == SnapshotMode::Full {
                    fold.root_mut()?.distrust();
                }
                compare(fold.root()?, &Suspects::Everything)
            }
            (Watch::Trace { .. }, Touched::Anything(why)) => {
                tracing::info!("Taking snapshot of full filesystem: {why}");
                compare(fold.root()?, &Suspects::Everything)
            }
            (Watch::Trace { verify, .. }, Touched::Only(_)) => {
                let traced = compare(fold.root()?, suspects)?;
                if verify == Verify::Off {
                    return Ok(traced);
                }
                let walked = compare(fold.root()?, &Suspects::Everything)?;
                verdict(verify, step, fold.root()?.index(), traced, walked)
            }
        }
    }
}

/// Mounts that every container has, and into which programs write as a matter of course.
const USUAL_MOUNTS: [&str; 6] =
    ["/proc", "/dev", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// A working directory that the image names but does not have, as the runtime of Docker makes it:
/// root's. Answers what was made, which belongs into the layer of the step.
fn make_own_dir(dir: &str, rootfs: &Rootfs) -> Result<Vec<ImagePath>, Failure> {
    let path = ImagePath::parse(dir.as_bytes()).could_not(|| format!("work in {dir}"))?;
    make_workdir(rootfs, &path, (0, 0))
        .map_err(|error| Failure::new(format!("could not work in {dir}: {error}")))
}

/// What a failed step may have missed because ptrace watched it.
fn denied_hint(denied: &Denied, stage: &str, number: usize) -> Option<String> {
    let way_out = format!("use --run-tracer={stage}:{number}=inotify for this step");
    let program = denied.programs.first().map(|program| program.escape_ascii());
    match (denied.ptrace, program) {
        (true, _) => Some(format!(
            "the step called ptrace, as strace, gdb and leak checkers do, and was refused because \
             it is traced itself: {way_out}"
        )),
        (false, Some(program)) => Some(format!(
            "{program} ran without the rights that its file gives, because ptrace watched: {way_out}"
        )),
        (false, None) => None,
    }
}

fn run_failure(error: &crate::step::RunError, program: &str, step: &str) -> Failure {
    use crate::step::RunError;
    let failure = Failure::new(error.to_string());
    match error {
        RunError::Tracer(tracer::Error::Exec { errno, .. }) => {
            let not_there = errno.0 == libc::ENOENT;
            let status = ExitStatus::of_command(if not_there { 127 } else { 126 });
            let failure = Failure::new(format!("could not run {program:?}: {errno}"));
            failure.status(status).hint(if not_there {
                "the image has no such program in its PATH, or not the interpreter that the file names"
            } else {
                "is the file executable, and built for this platform?"
            })
        }
        RunError::Tracer(tracer::Error::SetId { .. }) => failure.hint(format!(
            "a step that starts as root and comes back to root by sudo or su is for another \
             tracer: --run-tracer={step}=inotify"
        )),
        RunError::Tracer(tracer::Error::NotAvailable { .. } | tracer::Error::Call { .. }) => {
            failure.hint("build with --run-tracer=off to walk the file system instead")
        }
        _ => failure,
    }
}

/// What a step writes into a mount of the container is in no layer. Kaniko loses it without a word.
fn warn_of_mounts(suspects: &Suspects, exclusions: &Exclusions) {
    let Suspects::Only { paths, .. } = suspects else { return };
    let usual = |path: &ImagePath| {
        USUAL_MOUNTS.iter().any(|mount| {
            ImagePath::parse(mount.as_bytes()).is_ok_and(|mount| path.starts_with(&mount))
        })
    };
    let lost: Vec<&ImagePath> =
        paths.iter().filter(|path| exclusions.excludes(path) && !usual(path)).collect();
    if let Some(first) = lost.first() {
        tracing::warn!(
            "the step wrote {first}{}, on a mount of this container or in the executor's own \
             directory: not in the image",
            match lost.len() {
                1 => String::new(),
                2 => " and one more path".to_owned(),
                count => format!(" and {} more paths", count - 1),
            }
        );
    }
}
