//! What `executor cache` takes.

use clap::Subcommand;

use super::{LogFlags, RegistryFlags};
use crate::cli::gobool::GoBool;

/// `executor cache`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum CacheCommand {
    /// Lists the entries: key, size, when each was made and used, and the step that made it.
    Ls(CacheListFlags),
    /// Removes entries: all of them, those of an age, or what is above a size.
    Prune(CachePruneFlags),
    /// Says what an entry was made of, and what changed since another one.
    Explain(CacheExplainFlags),
}

/// How a list is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum ListFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// Which cache.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct WhichCache {
    /// As --cache-repo of a build: a repository of a registry, oci:DIR or dir:DIR; or
    /// mounts:DIR, the caches of RUN mounts in the --cache-dir of builds.
    #[arg(value_name = "PLACE")]
    pub(in crate::cli) place: String,

    /// For people, or one JSON object for programs.
    #[arg(
        long,
        value_enum,
        value_name = "text|json",
        default_value = "text",
        hide_possible_values = true
    )]
    pub(in crate::cli) format: ListFormat,

    #[command(flatten)]
    pub(in crate::cli) registry: RegistryFlags,

    #[command(flatten)]
    pub(in crate::cli) log: LogFlags,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct CacheListFlags {
    #[command(flatten)]
    pub(in crate::cli) which: WhichCache,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct CachePruneFlags {
    #[command(flatten)]
    pub(in crate::cli) which: WhichCache,

    /// Removes every entry.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) all: GoBool,

    /// Removes what was not used for so long: a number with a unit, such as 336h. A registry
    /// does not know of use; there the time since it was made counts.
    #[arg(long, value_name = "TIME")]
    pub(in crate::cli) older_than: Option<String>,

    /// Removes what was not used for longest, until the rest takes no more than this:
    /// bytes, or with a unit, such as 20G.
    #[arg(long, value_name = "SIZE")]
    pub(in crate::cli) keep: Option<String>,

    /// Says what would go, and removes nothing.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) dry_run: GoBool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct CacheExplainFlags {
    #[command(flatten)]
    pub(in crate::cli) which: WhichCache,

    /// The entry, or the first digits of it.
    #[arg(value_name = "KEY")]
    pub(in crate::cli) key: String,

    /// The entry to compare with [default: the last one of the same step].
    #[arg(value_name = "OTHER")]
    pub(in crate::cli) other: Option<String>,
}

impl CacheCommand {
    /// What all of them take.
    pub(in crate::cli) fn which(&self) -> &WhichCache {
        match self {
            Self::Ls(flags) => &flags.which,
            Self::Prune(flags) => &flags.which,
            Self::Explain(flags) => &flags.which,
        }
    }
}
