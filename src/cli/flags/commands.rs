//! The commands beside a build, and what they take.

use std::path::PathBuf;

use clap::ArgAction::Append;
use clap::Subcommand;

use super::{CacheCommand, LogFlags, RegistryFlags};
use crate::cli::gobool::GoBool;

/// What is done instead of a build.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Command {
    /// Prints the version.
    Version,
    /// Keeps the login of a registry in config.json, or gives it to the helper that is named there.
    Login(LoginFlags),
    /// Pushes an image that is a file: an OCI layout, or an archive of `docker save`.
    Push(Box<PushFlags>),
    /// Lists, explains and removes what --cache keeps.
    #[command(subcommand)]
    Cache(Box<CacheCommand>),
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct LoginFlags {
    /// Host and port of the registry; docker.io is Docker Hub.
    #[arg(value_name = "REGISTRY")]
    pub(in crate::cli) registry: String,

    /// The user.
    #[arg(short = 'u', long)]
    pub(in crate::cli) username: String,

    /// The password; others see it in the list of processes.
    #[arg(short = 'p', long)]
    pub(in crate::cli) password: Option<String>,

    /// Reads the password from standard input.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) password_stdin: GoBool,
}

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct PushFlags {
    /// An OCI layout (a directory) or an archive of `docker save` (a file) with one image.
    #[arg(value_name = "PATH")]
    pub(in crate::cli) path: PathBuf,

    /// Where to push the image; repeat for several.
    #[arg(short = 'd', long, value_name = "REFERENCE", action = Append, required = true)]
    pub(in crate::cli) destination: Vec<String>,

    /// Writes the digest of the image to this file, or PUTs it to this https URL.
    #[arg(long, value_name = "FILE|URL", default_value = "", hide_default_value = true)]
    pub(in crate::cli) digest_file: String,

    #[command(flatten)]
    pub(in crate::cli) registry: RegistryFlags,

    #[command(flatten)]
    pub(in crate::cli) log: LogFlags,
}
