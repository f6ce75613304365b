//! Independent stages at the same time, each on a thread of its own.
//!
//! A stage begins when all that it starts from and copies from is finished, in the order of the plan, and
//! while fewer than so many others are at it. What comes out is what it would be one after the other:
//! a stage sees nothing of another that is not finished. The first that fails ends the others; what is
//! told is the failure of the first, in the plan, of those that failed by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use tracer::Interrupt;

use super::builder::Builder;
use super::stage::Stages;
use crate::plan::{Plan, PlannedStage};
use crate::report::{Failure, labelled};
use crate::rootfs::Isolation;

/// As the first thread of a program has: trees are walked by recursion.
const STACK: usize = 8 << 20;

/// How many stages may be built at the same time: as many as there are processors, unless it was said.
pub(super) fn most(wanted: Option<NonZero<usize>>, isolation: Isolation) -> usize {
    match (isolation, wanted) {
        (Isolation::InPlace, Some(wanted)) if wanted.get() > 1 => {
            tracing::warn!(
                "--parallel-stages={wanted}: in place there is one root, so stages are built one after \
                 the other"
            );
            1
        }
        (Isolation::InPlace, _) => 1,
        (Isolation::Namespace { .. }, wanted) => wanted
            .map_or_else(|| thread::available_parallelism().map_or(1, NonZero::get), NonZero::get),
    }
}

/// Which stages may begin.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Of each stage, the places of those that have to be finished before it.
    needs: Vec<BTreeSet<usize>>,
    waiting: BTreeSet<usize>,
    finished: BTreeSet<usize>,
}

impl Schedule {
    pub(super) fn new(plan: &Plan<'_>, stages: &[&PlannedStage<'_>]) -> Self {
        let of = |stage: &PlannedStage<'_>| -> BTreeSet<usize> {
            let below = plan.stages.iter().filter(|below| {
                below.base_of.contains(&stage.number) || below.copied_by.contains(&stage.number)
            });
            let place = |number| stages.iter().position(|stage| stage.number == number);
            below.filter_map(|below| place(below.number)).collect()
        };
        Self::of(stages.iter().map(|stage| of(stage)).collect())
    }

    fn of(needs: Vec<BTreeSet<usize>>) -> Self {
        let (waiting, finished) = ((0..needs.len()).collect(), BTreeSet::new());
        Self { needs, waiting, finished }
    }

    /// Whether there are two stages of which neither needs the other.
    pub(super) fn is_any_independent(&self) -> bool {
        let mut all: Vec<BTreeSet<usize>> = Vec::new();
        for needs in &self.needs {
            let below = needs.iter().filter_map(|place| all.get(*place)).flatten();
            all.push(below.chain(needs).copied().collect());
        }
        // Needs come before: in a chain every stage needs all before it.
        all.iter().enumerate().any(|(place, needs)| needs.len() < place)
    }

    /// The first stage that may begin now.
    fn next(&mut self) -> Option<usize> {
        let is_ready = |place: &usize| self.needs[*place].is_subset(&self.finished);
        let next = self.waiting.iter().copied().find(is_ready)?;
        self.waiting.remove(&next);
        Some(next)
    }

    fn finish(&mut self, place: usize) {
        self.finished.insert(place);
    }
}

/// How a stage ended.
struct End {
    place: usize,
    done: Result<(), Failure>,
    /// Whether nobody had ended it.
    by_itself: bool,
}

/// Tells how a stage ended, also where its thread panics.
struct Telling {
    to: Sender<End>,
    place: usize,
    interrupt: Interrupt,
    done: Option<Result<(), Failure>>,
}

impl Drop for Telling {
    fn drop(&mut self) {
        let lost = || Err(Failure::new("the thread of a stage could not go on"));
        let done = self.done.take().unwrap_or_else(lost);
        let by_itself = !self.interrupt.is_triggered();
        // Whoever started the thread listens until it ends.
        let _ = self.to.send(End { place: self.place, done, by_itself });
    }
}

/// The failure that is told: of those that came by themselves the first in the plan, whenever it came.
#[derive(Default)]
struct Failed(Option<(usize, Failure)>);

impl Failed {
    fn add(&mut self, place: usize, failure: Failure, by_itself: bool) {
        let is_first = self.0.as_ref().is_none_or(|(other, _)| by_itself && place < *other);
        if is_first {
            self.0 = Some((place, failure));
        }
    }
}

impl Stages<'_, '_> {
    /// Builds the stages, at most so many at the same time.
    pub(super) fn build_at_once(
        self,
        stages: &[&PlannedStage<'_>],
        mut schedule: Schedule,
        most: usize,
    ) -> Result<(), Failure> {
        thread::scope(|scope| {
            let (to, ended) = channel();
            let mut running: BTreeMap<usize, Interrupt> = BTreeMap::new();
            let mut failed = Failed::default();
            loop {
                while failed.0.is_none()
                    && running.len() < most
                    && let Some(place) = schedule.next()
                {
                    let interrupt = self.own_interrupt();
                    running.insert(place, interrupt.clone());
                    let telling = Telling { to: to.clone(), place, interrupt, done: None };
                    let span = tracing::Span::current();
                    let build = move || span.in_scope(|| self.build_beside(stages, telling));
                    let thread = thread::Builder::new().name("stage".to_owned()).stack_size(STACK);
                    if let Err(error) = thread.spawn_scoped(scope, build) {
                        tracing::warn!("no thread for a stage: {error}");
                    }
                }
                if running.is_empty() {
                    break;
                }
                let Ok(End { place, done, by_itself }) = ended.recv() else { break };
                running.remove(&place);
                match done {
                    Ok(()) => schedule.finish(place),
                    Err(failure) => {
                        failed.add(place, failure, by_itself);
                        running.values().for_each(Interrupt::trigger);
                        self.builder.images.call_off();
                    }
                }
            }
            failed.0.map_or(Ok(()), |(_, failure)| Err(failure))
        })
    }

    /// One that ends with the build, or alone.
    fn own_interrupt(self) -> Interrupt {
        let own = Interrupt::new();
        let below = own.clone();
        self.builder.interrupt.also(move || below.trigger());
        own
    }

    fn build_beside(self, stages: &[&PlannedStage<'_>], mut telling: Telling) {
        let (place, stage) = (telling.place, stages[telling.place]);
        let builder = Builder { interrupt: telling.interrupt.clone(), ..self.builder.clone() };
        let own = Stages { builder: &builder, plan: self.plan, between: self.between };
        telling.done = Some(labelled(name_of(stage), || {
            let finished = own.build_one(stage, place, stages.len())?;
            own.keep(stage, finished, None)
        }));
    }
}

/// What lines about a stage begin with.
pub(super) fn name_of(stage: &PlannedStage<'_>) -> String {
    let unnamed = || format!("stage-{}", stage.number);
    stage.source.name.clone().unwrap_or_else(unnamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(needs: &[&[usize]]) -> Schedule {
        Schedule::of(needs.iter().map(|needs| needs.iter().copied().collect()).collect())
    }

    #[test]
    fn stages_that_do_not_need_each_other() {
        for (needs, want) in [
            (&[][..], false),
            (&[&[][..]], false),
            (&[&[], &[]], true),
            (&[&[], &[0]], false),
            (&[&[], &[0], &[1]], false),
            (&[&[], &[0], &[0]], true),
            (&[&[], &[0], &[0, 1]], false),
            (&[&[], &[], &[0, 1]], true),
        ] {
            assert_eq!(schedule(needs).is_any_independent(), want, "{needs:?}");
        }
    }

    #[test]
    fn a_stage_begins_when_what_it_needs_is_finished() {
        let mut schedule = schedule(&[&[], &[0], &[], &[1, 2]]);
        assert_eq!([schedule.next(), schedule.next(), schedule.next()], [Some(0), Some(2), None]);
        schedule.finish(2);
        assert_eq!(schedule.next(), None);
        schedule.finish(0);
        assert_eq!([schedule.next(), schedule.next()], [Some(1), None]);
        schedule.finish(1);
        assert_eq!([schedule.next(), schedule.next()], [Some(3), None]);
    }

    #[test]
    fn the_first_in_the_plan_that_failed_by_itself_is_told() {
        for (failures, want) in [
            (&[(2, true), (1, false), (0, true)][..], 0),
            (&[(1, true), (2, true)], 1),
            (&[(2, true), (0, false)], 2),
            (&[(1, false), (0, false)], 1),
        ] {
            let mut failed = Failed::default();
            for (place, by_itself) in failures {
                failed.add(*place, Failure::new("x"), *by_itself);
            }
            assert_eq!(failed.0.map(|(place, _)| place), Some(want), "{failures:?}");
        }
    }
}
