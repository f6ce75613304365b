//! The whole program against real registries, real bases and other tools.
//!
//! One binary: the first modules are the harness, the rest are the cases. Every
//! part is started by the test that needs it, from Debian's packages; what is
//! missing is a failure which says what to install.

#![expect(clippy::unwrap_used, reason = "what a test cannot go on without has to be there")]

mod base;
mod craft;
mod executor;
mod faulty;
mod faulty_registry;
mod git;
mod https;
mod image;
mod peer;
mod pod;
#[expect(dead_code, unused_imports, reason = "some of it is for the tracer's own tests")]
#[path = "../tracer/tests/soundness/proof/mod.rs"]
mod proof;
mod registry;
mod ssh_agent;
mod telemetry;
mod tools;
mod warmer;
mod web;

mod architecture;
mod arriving;
mod at_once;
mod build_basic;
mod cache;
mod cache_command;
mod cache_proof;
mod cloud;
mod command_line;
mod contexts;
mod deploy;
mod elsewhere;
mod epoch;
mod errors;
mod git_contexts;
mod growth;
mod harness;
mod hostile;
mod inspect;
mod isolation;
mod killed;
mod language;
mod layer_flags;
mod layers;
mod lazy;
mod limits;
mod multistage;
mod outline;
mod own_root;
mod push_login;
mod read_set;
mod readers;
mod real_workloads;
mod registry_flags;
mod registry_io;
mod relay;
mod resets;
mod results;
mod rough_steps;
mod run_mounts;
mod second_client;
mod shared_caches;
mod signals;
mod stores;
mod tracer_in_pod;
mod tracers;
mod verify;
mod whole_language;
