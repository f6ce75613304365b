//! Flags of the build context.

/// The build context.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Build context")]
pub(in crate::cli) struct ContextFlags {
    /// The build context: a directory, plain or as dir://PATH; a tar archive,
    /// plain or packed with gzip, zstd, xz or bzip2, as tar://FILE, tar://stdin
    /// or https://HOST/PATH; a Git repository as git://HOST/PATH[#REF[#COMMIT]]
    /// (fetched by HTTPS, with its history) or https://HOST/PATH.git[#REF[:DIR]].
    /// An archive may also be in an object store: s3://BUCKET/OBJECT,
    /// gs://BUCKET/OBJECT, or the URL of an Azure blob
    /// [default: /workspace/].
    #[arg(short = 'c', long, value_name = "SOURCE")]
    pub(in crate::cli) context: Option<String>,

    /// A bucket of Google Cloud Storage with the context; write --context=gs://… instead.
    #[arg(short = 'b', long, value_name = "BUCKET", default_value = "", hide = true)]
    pub(in crate::cli) bucket: String,

    /// The directory of the context to build from.
    #[arg(long, value_name = "PATH", default_value = "", hide_default_value = true)]
    pub(in crate::cli) context_sub_path: String,

    /// How to fetch a Git repository: branch=NAME, single-branch=true,
    /// recurse-submodules=true, depth=N, insecure-skip-tls=true; repeat for
    /// several.
    #[arg(long, value_name = "KEY=VALUE", action = clap::ArgAction::Append)]
    pub(in crate::cli) git: Vec<String>,
}
