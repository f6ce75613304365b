//! Small programs under the tracer: what a walk finds changed, the trace has.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod proof;

mod guests;
mod lifecycle;
mod program;
mod random;
mod reads;
