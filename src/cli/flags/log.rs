//! What is told, and in which form.

use crate::cli::gobool::GoBool;
use crate::report::{LogFormat, LogSettings, Verbosity};

/// Flags about the log.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Log")]
pub(in crate::cli) struct LogFlags {
    /// Which log lines to show: panic, fatal, error, warn, info, debug, trace.
    #[arg(short = 'v', long, value_name = "LEVEL", default_value = "info")]
    verbosity: Verbosity,

    /// The form of log lines: text, color, json.
    #[arg(long, value_name = "FORMAT", default_value = "color")]
    log_format: LogFormat,

    /// Full times in log lines.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    log_timestamp: GoBool,
}

impl LogFlags {
    /// What they mean.
    pub(in crate::cli) fn settings(&self) -> LogSettings {
        LogSettings {
            verbosity: self.verbosity,
            format: self.log_format,
            timestamps: self.log_timestamp.0,
        }
    }
}
