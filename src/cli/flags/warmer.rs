//! What can be typed to `warmer`. Names, short forms and defaults are kaniko's.

use std::path::PathBuf;

use clap::ArgAction::Append;

use super::PullFlags;
use crate::cli::gobool::GoBool;
use crate::report::{LogFormat, Verbosity};

/// Fills a directory with base images, for executors with --cache-dir.
#[derive(Debug, clap::Parser)]
#[command(
    name = "warmer",
    version,
    disable_version_flag = true,
    args_override_self = true,
    max_term_width = 100
)]
pub(in crate::cli) struct WarmerFlags {
    /// An image to fetch; repeat for several.
    #[arg(short = 'i', long, value_name = "REFERENCE", action = Append)]
    pub(in crate::cli) image: Vec<String>,

    /// A Dockerfile whose base images are fetched: a file or an http URL.
    #[arg(short = 'd', long, value_name = "FILE|URL")]
    pub(in crate::cli) dockerfile: Option<String>,

    /// Sets an argument of the Dockerfile: NAME=VALUE, or NAME to take it from the environment.
    #[arg(long, value_name = "NAME[=VALUE]", action = Append)]
    pub(in crate::cli) build_arg: Vec<String>,

    /// Where the images go.
    #[arg(short = 'c', long, value_name = "DIR", default_value = "/cache")]
    pub(in crate::cli) cache_dir: PathBuf,

    /// How old an image may be that is there already: a number with a unit, such as 6h.
    #[arg(long, value_name = "TIME", default_value = "336h")]
    pub(in crate::cli) cache_ttl: String,

    /// Fetches what is there already, too.
    #[arg(short = 'f', long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) force: GoBool,

    /// The platform of the images: OS/ARCH[/VARIANT].
    #[arg(long, alias = "customPlatform", value_name = "PLATFORM")]
    pub(in crate::cli) custom_platform: Option<String>,

    #[command(flatten)]
    pub(in crate::cli) pulls: PullFlags,

    /// Which log lines to show: panic, fatal, error, warn, info, debug, trace.
    #[arg(short = 'v', long, value_name = "LEVEL", default_value = "info")]
    pub(in crate::cli) verbosity: Verbosity,

    /// The form of log lines: text, color, json.
    #[arg(long, value_name = "FORMAT", default_value = "color")]
    pub(in crate::cli) log_format: LogFormat,

    /// Full times in log lines.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) log_timestamp: GoBool,
}
