//! `warmer`, from the arguments of the process to its exit status.

use std::time::SystemTime;

use clap::Parser as _;
use tracer::Interrupt;

use super::config::{Surroundings, warm_order};
use super::flags::WarmerFlags;
use super::run::{last_words, refuse, tell};
use crate::report::{Failure, LogSettings, install};
use crate::warm::warm;

/// Runs the warmer; answers its exit status.
pub fn main() -> i32 {
    let flags = match WarmerFlags::try_parse() {
        Ok(flags) => flags,
        Err(error) => return refuse(&error),
    };
    let log = LogSettings {
        verbosity: flags.verbosity,
        format: flags.log_format,
        timestamps: flags.log_timestamp.0,
    };
    install(log, None);
    match execute(&flags) {
        Ok(()) => 0,
        Err(failure) => {
            tell(&last_words(&failure, flags.log_format));
            failure.exit_status().code()
        }
    }
}

/// A signal ends the process at once: what it leaves is a directory with another name, and no image.
fn execute(flags: &WarmerFlags) -> Result<(), Failure> {
    let around = Surroundings::take()?;
    let order = warm_order(flags, &around, SystemTime::now(), &Interrupt::new())?;
    warm(&order)
}
