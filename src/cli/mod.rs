//! The command line: what was typed ([`flags`]) becomes what was meant ([`config`]).
//!
//! Nothing outside this module sees a flag, an environment variable, the
//! current directory or the clock.

mod cache;
mod config;
mod flags;
mod gobool;
mod login;
mod push;
mod run;
mod telemetry;
mod warmer;

pub use run::main;
pub use warmer::main as warm_main;
