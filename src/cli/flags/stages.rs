//! How many stages are built at the same time.

/// The flag about stages that do not need each other.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Dockerfile")]
pub(in crate::cli) struct StageFlags {
    /// Builds at most so many stages at the same time that do not need each other
    /// [default: $KANIKO_PARALLEL_STAGES, else the number of processors]; 1 builds one after the other, as
    /// always in place.
    #[arg(long, value_name = "NUMBER", default_value = "", hide_default_value = true)]
    pub(in crate::cli) parallel_stages: String,
}
