//! How registries are spoken to.

use clap::ArgAction::Append;

use crate::cli::gobool::GoBool;

/// Flags about registries: what is trusted, where else to look, how often to try.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Registries")]
pub(in crate::cli) struct RegistryFlags {
    #[command(flatten)]
    pub(in crate::cli) pulls: PullFlags,

    /// Pushes by plain HTTP.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) insecure: GoBool,

    /// Does not verify the certificates of registries.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) skip_tls_verify: GoBool,

    /// Who is asked for a login that no file has: env, google, ecr, acr, gitlab; repeat for several, empty
    /// for none [default: all].
    #[arg(long, value_name = "HELPER", action = Append)]
    pub(in crate::cli) credential_helpers: Vec<String>,

    /// How often a failed push to one destination is begun again, beside the retries of each request.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) push_retry: u32,

    /// How often a failed look-up of a base image is begun again, beside the retries of each request.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) image_download_retry: u32,

    /// How often a failed download of a layer is begun again, beside the retries of each request.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(in crate::cli) image_fs_extract_retry: u32,

    /// Begins the build without asking the registries whether the image may be pushed there.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) skip_push_permission_check: GoBool,

    /// Takes a tag that exists and must not be moved for a success.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) push_ignore_immutable_tag_errors: GoBool,
}

/// Flags about whom images are pulled from, and how.
#[derive(Debug, Default, Clone, clap::Args)]
#[command(next_help_heading = "Registries")]
pub(in crate::cli) struct PullFlags {
    /// Pulls by plain HTTP.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) insecure_pull: GoBool,

    /// Speaks plain HTTP with this registry; repeat for several.
    #[arg(long, value_name = "HOST", action = Append)]
    pub(in crate::cli) insecure_registry: Vec<String>,

    /// Does not verify the certificates of registries that are pulled from.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) skip_tls_verify_pull: GoBool,

    /// Does not verify the certificate of this registry; repeat for several.
    #[arg(long, value_name = "HOST", action = Append)]
    pub(in crate::cli) skip_tls_verify_registry: Vec<String>,

    /// A certificate authority for one registry: HOST=FILE (PEM); repeat for several.
    #[arg(long, value_name = "HOST=FILE", action = Append)]
    pub(in crate::cli) registry_certificate: Vec<String>,

    /// A client certificate for one registry: HOST=CERTIFICATE,KEY (PEM files); repeat for several.
    #[arg(long, value_name = "HOST=FILE,FILE", action = Append)]
    pub(in crate::cli) registry_client_cert: Vec<String>,

    /// Pulls from here before Docker Hub; repeat for several, in order.
    #[arg(long, value_name = "HOST[/PREFIX]", action = Append)]
    pub(in crate::cli) registry_mirror: Vec<String>,

    /// Pulls from elsewhere before a registry: REGISTRY=HOST[/PREFIX], several joined by ';'.
    #[arg(long, value_name = "REGISTRY=HOST", action = Append)]
    pub(in crate::cli) registry_map: Vec<String>,

    /// Fails when all mirrors and maps of a registry fail, instead of asking the registry itself.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(in crate::cli) skip_default_registry_fallback: GoBool,
}
