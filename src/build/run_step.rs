//! RUN: what it may have changed becomes a difference, held against a walk where that is asked for.

use std::time::Instant;

use snapshot::{Difference, ImagePath, Suspects};
use tracer::Touched;

use super::stage::{Fold, Stages, shown};
use super::{SnapshotMode, Verify, Watch};
use crate::plan::{RunStep, Step};
use crate::report::{ExitStatus, Explain as _, Failure};
use crate::rootfs::{Exclusions, Rootfs};
use crate::step::{Runner, make_workdir, run};

impl Stages<'_, '_> {
    pub(super) fn run(
        &mut self,
        step: &RunStep,
        ready: &Step,
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
        let (rootfs, marks) = fold.root_and_marks()?;
        let scratch = builder.work.scratch();
        let runner = Runner {
            tracer: builder.tracer,
            isolation: builder.isolation,
            interrupt: builder.interrupt,
            scratch: &scratch,
            event_budget,
        };
        builder.work.restore()?;
        let started = Instant::now();
        let ran = run(&runner, rootfs, marks, step, &who, mounts)
            .map_err(|error| run_failure(&error, step.argv.first().map_or("", String::as_str)))?;
        let took = started.elapsed();
        let recognized = fold.root_mut()?.recognize(&ran.restored);
        recognized.could_not(|| "look at what the mounts were put over".to_owned())?;
        builder.work.restore()?;
        let status = ran.outcome.status;
        builder.go_on()?;
        if !status.success() {
            let command = shown(&ready.text);
            let code = ExitStatus::of_command(status.code());
            return Err(Failure::new(format!("{command}: {status}")).status(code));
        }
        let mut suspects = ran.suspects;
        if let Suspects::Only { paths, .. } = &mut suspects {
            paths.extend(made);
        }
        warn_of_mounts(&suspects, fold.root()?.exclusions());
        let difference = self.after_run(&ran.outcome.touched, &suspects, fold)?;
        tracing::debug!(
            "the command took {took:?}: {} stops, {} events, {} resolved",
            ran.outcome.stats.stops,
            ran.outcome.stats.events,
            ran.outcome.stats.resolved
        );
        Ok(difference)
    }

    /// Looks where the tracer says, or everywhere.
    pub(super) fn after_run(
        &self,
        touched: &Touched,
        suspects: &Suspects,
        fold: &mut Fold,
    ) -> Result<Difference, Failure> {
        let watch = self.builder.order.watch;
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
                verdict(verify, traced, walked)
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

fn run_failure(error: &crate::step::RunError, program: &str) -> Failure {
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
                count => format!(" and {} more paths", count - 1),
            }
        );
    }
}

/// Holds the trace against the walk.
fn verdict(verify: Verify, traced: Difference, walked: Difference) -> Result<Difference, Failure> {
    if traced.changes == walked.changes {
        tracing::debug!("the walk found what the trace found: {} changes", traced.changes.len());
        return Ok(traced);
    }
    let listed = |difference: &Difference| -> Vec<String> {
        snapshot::listing::changes(&difference.changes).lines().map(str::to_owned).collect()
    };
    let (trace, walk) = (listed(&traced), listed(&walked));
    let only = |these: &[String], those: &[String]| {
        let missing = these.iter().filter(|line| !those.contains(line)).take(20).cloned();
        missing.collect::<Vec<_>>().join("\n  ")
    };
    let told = format!(
        "the trace and the walk differ\nfound by the walk only:\n  {}\nfound by the trace only:\n  {}",
        only(&walk, &trace),
        only(&trace, &walk)
    );
    if verify == Verify::Fail {
        return Err(Failure::new(told).hint(
            "this is a bug of the tracer; please report the step. --run-tracer=off avoids it",
        ));
    }
    tracing::warn!("{told}");
    Ok(walked)
}

/// Events cost about 5.5 µs, looking at a path about 1.55 µs; below some thousands of events the
/// difference is not worth giving up the names for.
fn event_budget(entries: usize) -> Option<u64> {
    Some((entries as u64 * 28 / 100).max(20_000))
}
