//! What is going to be built: a value, computed without touching the root file system.
//!
//! [`stages`] chooses the stages that the target needs and says what each is
//! based on; [`Scope`] and [`step`] turn an instruction, at its point of the
//! build, into a [`Step`] in which nothing is left to expand; [`key`] tells what that depends on.

mod goals;
pub mod key;
mod mounts;
mod origin;
mod scope;
mod show;
mod stages;
mod step;
mod transfer;

pub use goals::Goals;
pub use key::{Framed, Input, Inputs, Key};
pub use mounts::RunMount;
pub use origin::Origin;
pub use scope::{Arguments, EPOCH, Scope};
pub use show::{
    Found, LayersAre, Outline, OutlinedBase, OutlinedInput, OutlinedLayer, OutlinedStage,
    OutlinedStep, Outputs, SkippedStage,
};
pub use stages::{Base, BaseImages, Plan, PlanError, PlannedStage, plan};
pub use step::{
    Action, AddStep, CopySource, CopyStep, RunStep, Step, StepError, StepErrorKind, step,
};
