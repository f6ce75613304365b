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

    /// Looks for what is allowed and probably not meant (docs/checks.md), and builds nothing; ends with
    /// status 1 if something is found.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) check: GoBool,

    /// Prints what would be built, pulled and pushed, and builds nothing; =json for programs.
    #[arg(
        long,
        value_name = "text|json",
        num_args = 0..=1,
        require_equals = true,
        default_value = "false",
        default_missing_value = "text"
    )]
    pub(in crate::cli) dryrun: DryRun,
}

/// `--dryrun`: a boolean in kaniko, and here the form as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum DryRun {
    /// The build is a build.
    Off,
    /// The plan as text.
    Text,
    /// The plan as JSON.
    Json,
}

impl std::str::FromStr for DryRun {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse::<GoBool>()) {
            ("text", _) | (_, Ok(GoBool(true))) => Ok(Self::Text),
            ("json", _) => Ok(Self::Json),
            (_, Ok(GoBool(false))) => Ok(Self::Off),
            (_, Err(_)) => Err(format!("{text:?} is neither text nor json")),
        }
    }
}

impl LanguageFlags {
    /// Whether nothing is built, so that nothing has a destination.
    pub(in crate::cli) fn build_nothing(&self) -> bool {
        self.check.0 || self.dryrun != DryRun::Off
    }
}
