//! The command line: what was typed ([`flags`]) becomes what was meant ([`config`]).
//!
//! Nothing outside this module sees a flag, an environment variable, the
//! current directory or the clock.

mod config;
mod flags;
mod gobool;
mod login;
mod push;
mod run;

pub use run::main;
