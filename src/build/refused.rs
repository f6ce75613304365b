//! Instructions that cannot be carried out, found before the first step runs.
//!
//! A mode that is none on the last line must not wait for an hour of RUN. What can be known without any
//! file is: words are expanded, ports, signals, modes, mounts and `--from` are read.

use std::collections::BTreeMap;

use super::images::Images;
use super::outline::{Ended, start_of};
use super::step_failure;
use crate::dockerfile::{Dockerfile, Instruction};
use crate::plan::{Arguments, Base, Plan, PlannedStage, Scope, step};
use crate::report::Failure;

/// All of them, in the order of the plan, but those that may come of another one.
pub(super) fn refused(
    file: &Dockerfile,
    arguments: &Arguments,
    plan: &Plan<'_>,
    images: &Images<'_>,
) -> Vec<Failure> {
    let mut ended: BTreeMap<usize, Option<Ended>> = BTreeMap::new();
    let mut failures = Vec::new();
    for stage in &plan.stages {
        let start = match &stage.base {
            Base::Stage(number) => ended.get(number).cloned().flatten(),
            Base::Scratch | Base::Image(..) => Some(start_of(stage, plan, arguments)),
        };
        let end = start.and_then(|start| walk(stage, file, images, start, &mut failures));
        ended.insert(stage.number, end);
    }
    failures
}

/// The stage's end; nothing where a variable is not known any more.
fn walk(
    stage: &PlannedStage<'_>,
    file: &Dockerfile,
    images: &Images<'_>,
    (image, mut scope): Ended,
    failures: &mut Vec<Failure>,
) -> Option<Ended> {
    let mut config = image.config().clone();
    config.config.on_build.clear();
    scope.begin_stage(&config.config.env);
    let mut command_is_own = false;
    for (place, instruction) in stage.instructions.iter().enumerate() {
        let scope: &mut Scope = &mut scope;
        let number = stage.number;
        let done = step(instruction, number, file, images, &mut config, scope, &mut command_is_own);
        let Err(error) = done else { continue };
        failures.push(step_failure(&error, place < stage.triggers, file));
        if matches!(instruction.node, Instruction::Arg(_) | Instruction::Env(_)) {
            return None;
        }
    }
    Some((image.with_config(config), scope))
}
