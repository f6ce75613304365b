//! Whether RUN steps are also found by what they read.

use crate::cli::gobool::GoBool;

/// The flag about what steps read.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cache")]
pub(in crate::cli) struct ReadSetFlags {
    /// Records what each RUN step reads of the image, and takes its layer where a
    /// later build has all that as it was, even though a COPY before it changed.
    /// Steps are slower where many files are opened; ptrace only.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) cache_read_set: GoBool,
}
