//! What the image carries, and which files tell its name.

use clap::ArgAction::Append;

/// Flags about the result.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Result")]
pub(in crate::cli) struct OutputFlags {
    /// Adds an annotation to the image's manifest; repeat for several.
    #[arg(long, value_name = "KEY=VALUE", action = Append)]
    pub(in crate::cli) annotation: Vec<String>,

    /// Adds a label to the image, unless the Dockerfile sets it; repeat for several.
    #[arg(long, value_name = "KEY=VALUE", action = Append)]
    pub(in crate::cli) label: Vec<String>,

    /// The media types of the image: docker or oci [default: those of the base].
    #[arg(long, value_name = "docker|oci", default_value = "", hide_default_value = true)]
    pub(in crate::cli) image_format: String,

    /// Writes REPOSITORY@DIGEST, one line for each destination, to this file or https URL.
    #[arg(long, value_name = "FILE|URL", default_value = "", hide_default_value = true)]
    pub(in crate::cli) image_name_with_digest_file: String,

    /// Writes REPOSITORY:TAG@DIGEST, one line for each destination, to this file or https URL.
    #[arg(long, value_name = "FILE|URL", default_value = "", hide_default_value = true)]
    pub(in crate::cli) image_name_tag_with_digest_file: String,
}
