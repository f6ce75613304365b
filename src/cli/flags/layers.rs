//! What can be typed about layers: what goes into them, how they are packed, and their times.

use super::super::gobool::GoBool;

/// Flags that decide what layers are made of.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Layers")]
pub(in crate::cli) struct LayerFlags {
    /// Gives config, history and new files no time later than 1970, or than
    /// $SOURCE_DATE_EPOCH if that is set, so that the same build has the same digest.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) reproducible: GoBool,

    /// Makes one layer of all that a stage changed, instead of one for each step.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) single_snapshot: GoBool,

    /// Leaves this path, and what is below it, out of new layers; repeat for
    /// several. A component may have wildcards: /var/*/cache.
    #[arg(long, value_name = "PATH", action = clap::ArgAction::Append)]
    pub(in crate::cli) ignore_path: Vec<String>,

    /// Leaves /var/run out of new layers.
    #[arg(long, alias = "whitelist-var-run", num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) ignore_var_run: GoBool,

    /// Adds an empty layer for each instruction that changes no files, too.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) force_build_metadata: GoBool,

    /// How layers are compressed. Of estargz, which is gzip, and zstd:chunked runtimes that
    /// can fetch single files do so. All but gzip need media types of OCI.
    #[arg(long, value_name = "gzip|zstd|estargz|zstd:chunked", default_value = "gzip")]
    pub(in crate::cli) compression: String,

    /// 1 to 9 for gzip and estargz, 1 to 22 for zstd and zstd:chunked; -1 is the fastest.
    #[arg(long, value_name = "LEVEL", allow_negative_numbers = true, default_value = "-1")]
    pub(in crate::cli) compression_level: i32,

    /// Has no effect: layers are compressed as they are written, never in memory.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub(in crate::cli) compressed_caching: GoBool,
}
