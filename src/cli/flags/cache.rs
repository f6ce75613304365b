//! Whether and where layers are cached.

use crate::cli::gobool::GoBool;

/// Flags about the cache of layers.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Cache")]
pub(in crate::cli) struct CacheFlags {
    /// Takes layers that earlier builds made of the same inputs, and keeps new ones.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) cache: GoBool,

    /// Where layers are kept: a repository of a registry, oci:DIR for an OCI
    /// layout, or dir:DIR for one that is kept below --cache-limit
    /// [default: the first destination's repository with /cache].
    #[arg(long, value_name = "PLACE", default_value = "", hide_default_value = true)]
    pub(in crate::cli) cache_repo: String,

    /// How old a layer may be: a number with a unit, such as 6h or 336h.
    #[arg(long, value_name = "TIME", default_value = "336h")]
    pub(in crate::cli) cache_ttl: String,

    /// How long a build waits in all for answers about cached layers; then it goes on without them.
    #[arg(long, value_name = "TIME", default_value = "1m")]
    pub(in crate::cli) cache_timeout: String,

    /// Caches the layers of RUN and WORKDIR.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true")]
    pub(in crate::cli) cache_run_layers: GoBool,

    /// Caches the layers of COPY and ADD, too. Then a build of which everything
    /// is cached unpacks nothing.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) cache_copy_layers: GoBool,

    /// Takes layers from the cache, but keeps none.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) no_push_cache: GoBool,

    /// What --cache-repo=dir:DIR may take: bytes, or with a unit, such as 20G.
    /// What was not used for longest goes first.
    #[arg(long, value_name = "SIZE", default_value = "20G")]
    pub(in crate::cli) cache_limit: String,
}
