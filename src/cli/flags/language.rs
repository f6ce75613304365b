//! What of the Dockerfile is built, and what is told of it instead.

use clap::ArgAction::Append;

use crate::cli::gobool::GoBool;

/// Flags about the Dockerfile and its stages.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Dockerfile")]
pub(in crate::cli) struct LanguageFlags {
    /// The stage to build, by name or number; the last one if not given. Repeat it, or give a list with
    /// commas, to build several: the first one is the result.
    #[arg(long, value_name = "STAGE", action = Append, value_delimiter = ',')]
    pub(in crate::cli) target: Vec<String>,

    /// Builds only the stages that the target needs; =false builds those before it too.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub(in crate::cli) skip_unused_stages: GoBool,
}
