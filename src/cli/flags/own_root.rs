//! What becomes of the root file system that the executor itself runs in.

use crate::cli::gobool::GoBool;

/// Flags about the executor's own root: they matter where a build is in place.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "The container's own root (in place)")]
pub(in crate::cli) struct OwnRootFlags {
    /// Empties the root file system before the build, mounts and the executor's
    /// own directories excepted.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) pre_cleanup: GoBool,

    /// Empties the root file system after the build, also after one that failed;
    /// in a namespace there is nothing to do.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) cleanup: GoBool,

    /// With --cleanup: puts back afterwards what was there before the build.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) preserve_context: GoBool,

    /// Leaves the files of the image in the root file system, even if all its
    /// layers were cached. The build is in place.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) materialize: GoBool,
}
