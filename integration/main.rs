//! The whole program against real registries, real bases and other tools.
//!
//! One binary: the first modules are the harness, the rest are the cases. Every
//! part is started by the test that needs it, from Debian's packages; what is
//! missing is a failure which says what to install.

#![expect(clippy::unwrap_used, reason = "what a test cannot go on without has to be there")]

mod base;
mod craft;
mod executor;
mod git;
mod https;
mod image;
mod pod;
mod registry;
mod tools;
mod web;

mod architecture;
mod build_basic;
mod cloud;
mod command_line;
mod contexts;
mod deploy;
mod errors;
mod git_contexts;
mod harness;
mod hostile;
mod isolation;
mod language;
mod layer_flags;
mod layers;
mod limits;
mod multistage;
mod outline;
mod registry_flags;
mod registry_io;
mod results;
mod rough_steps;
mod run_mounts;
mod signals;
mod tracers;
mod verify;
