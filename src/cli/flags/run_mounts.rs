//! What the mounts of RUN steps are made of.

use clap::ArgAction::Append;

/// `--cache-mounts`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(in crate::cli) enum CacheMounts {
    Local,
    Registry,
}

/// Flags about `RUN --mount`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Mounts of RUN")]
pub(in crate::cli) struct RunMountFlags {
    /// A secret for RUN --mount=type=secret: id=NAME,src=FILE or id=NAME,env=VARIABLE.
    /// With id=NAME alone, the variable of that name, else the file. Repeat for several.
    #[arg(long, value_name = "id=NAME[,src=FILE|,env=VARIABLE]", action = Append)]
    pub(in crate::cli) secret: Vec<String>,

    /// An SSH agent for RUN --mount=type=ssh: its socket, or $SSH_AUTH_SOCK with
    /// "default" or another ID alone, or files with keys that have no passphrase.
    /// Repeat for several.
    #[arg(long, value_name = "default|ID[=SOCKET|KEY[,KEY…]]", action = Append)]
    pub(in crate::cli) ssh: Vec<String>,

    /// Where RUN --mount=type=cache keeps caches [default: a directory in --kaniko-dir],
    /// and where --cache looks for base images of the warmer [default: /cache].
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    pub(in crate::cli) cache_dir: String,

    /// What these caches may take on disk when a build ends: bytes, or with a unit, such
    /// as 20G. What was not used for longest is emptied first [default: no limit].
    #[arg(long, value_name = "SIZE", default_value = "", hide_default_value = true)]
    pub(in crate::cli) cache_mount_limit: String,

    /// Whether these caches stay on this machine, or go to the repository of --cache-repo
    /// too, from which machines that lack them take them. --no-push-cache only takes.
    #[arg(
        long,
        value_enum,
        value_name = "local|registry",
        default_value = "local",
        hide_possible_values = true
    )]
    pub(in crate::cli) cache_mounts: CacheMounts,

    /// How large a cache may be that goes to the repository: bytes, or with a unit, such as
    /// 20G. One that is larger begins anew for others.
    #[arg(long, value_name = "SIZE", default_value = "5G")]
    pub(in crate::cli) cache_mount_export_limit: String,
}
