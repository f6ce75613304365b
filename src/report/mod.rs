//! What a person reads: log lines while a build runs, and one message when it fails.
//!
//! Nothing in the library writes to the terminal by itself. Modules emit
//! `tracing` events or return an error; this module decides how both look.

mod amount;
mod colour;
mod failure;
mod label;
mod log;
mod traces;

pub use amount::{age, bytes};
pub use colour::coloured;
pub use failure::{ExitStatus, Explain, Failure};
pub use label::{label, labelled};
pub use log::{LogFormat, LogSettings, UnknownLogFormat, UnknownVerbosity, Verbosity, install};
pub use traces::{TraceParent, Traces, in_span};
