//! Small programs under the tracer: what a walk finds changed, the trace has.

mod behaviours;
mod lifecycle;
mod random;
mod scene;
mod snapshot;
