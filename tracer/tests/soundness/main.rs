//! Small programs under the tracer: what a walk finds changed, the trace has.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod behaviours;
mod lifecycle;
mod random;
mod scene;
mod snapshot;
