//! What can be typed. Names, short forms and defaults are kaniko's.

mod cache;
mod cache_command;
mod commands;
mod context;
mod language;
mod layers;
mod log;
mod outputs;
mod own_root;
mod read_set;
mod registry;
mod run_mounts;
mod stages;
mod tracer;
mod warmer;

use std::path::PathBuf;

use clap::Parser;

use super::gobool::GoBool;
pub(super) use cache::CacheFlags;
pub(super) use cache_command::{
    CacheCommand, CacheExplainFlags, CachePruneFlags, ListFormat, WhichCache,
};
pub(super) use commands::{Command, LoginFlags, PushFlags};
pub(super) use context::ContextFlags;
pub(super) use language::{DryRun, LanguageFlags};
pub(super) use layers::LayerFlags;
pub(super) use log::LogFlags;
pub(super) use outputs::OutputFlags;
pub(super) use own_root::OwnRootFlags;
pub(super) use read_set::ReadSetFlags;
pub(super) use registry::{PullFlags, RegistryFlags};
pub(super) use run_mounts::{CacheMounts, RunMountFlags};
pub(super) use stages::StageFlags;
pub(super) use tracer::TracerFlags;
pub(super) use warmer::WarmerFlags;

/// Builds a container image from a Dockerfile, without a daemon, and pushes it.
#[derive(Debug, Parser)]
#[command(
    name = "executor",
    version,
    disable_version_flag = true,
    disable_help_subcommand = true,
    args_override_self = true,
    args_conflicts_with_subcommands = true,
    max_term_width = 100,
    help_template = "{about-with-newline}\n{usage-heading} {usage}\n\n{all-args}{after-help}"
)]
pub(super) struct Flags {
    #[command(subcommand)]
    pub(super) command: Option<Command>,

    /// The Dockerfile: a path below the current directory or the context, an http or https URL, or - for
    /// standard input.
    #[arg(short = 'f', long, value_name = "PATH", default_value = "Dockerfile")]
    pub(super) dockerfile: String,

    #[command(flatten)]
    pub(super) contexts: ContextFlags,

    /// A further context for FROM and COPY --from: NAME=DIR,
    /// NAME=oci-layout://DIR[:TAG|@DIGEST], NAME=docker-image://REFERENCE, or
    /// what --context takes.
    #[arg(long, value_name = "NAME=SOURCE", action = clap::ArgAction::Append)]
    pub(super) build_context: Vec<String>,

    /// Where to push the image; repeat for several.
    #[arg(short = 'd', long, value_name = "REFERENCE", action = clap::ArgAction::Append)]
    pub(super) destination: Vec<String>,

    /// Sets a build argument: NAME=VALUE, or NAME to take it from the environment.
    #[arg(long, value_name = "NAME[=VALUE]", action = clap::ArgAction::Append)]
    pub(super) build_arg: Vec<String>,

    /// The platform of base images and of the result: OS/ARCH[/VARIANT].
    #[arg(long, alias = "customPlatform", value_name = "PLATFORM")]
    pub(super) custom_platform: Option<String>,

    /// Builds, but pushes nothing.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(super) no_push: Option<GoBool>,

    /// Also writes the image as a `docker save` archive to this file.
    #[arg(long, alias = "tarPath", value_name = "FILE", value_parser = path)]
    pub(super) tar_path: Option<PathBuf>,

    /// Also writes the image as an OCI layout to this directory.
    #[arg(long, value_name = "DIR", value_parser = path)]
    pub(super) oci_layout_path: Option<PathBuf>,

    /// Writes the digest of the image to this file, or PUTs it to this https URL.
    #[arg(long, value_name = "FILE|URL", default_value = "", hide_default_value = true)]
    pub(super) digest_file: String,

    /// Where steps run: namespace (a root directory of its own), in-place (the
    /// container's own root, as kaniko does) or auto.
    #[arg(long, value_name = "auto|namespace|in-place", default_value = "auto")]
    pub(super) isolation: String,

    /// Builds in place although no container was detected. Dangerous.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(super) force: GoBool,

    /// The working directory of the executor [default: $KANIKO_DIR, /kaniko in a
    /// container, else a directory below $TMPDIR or /var/tmp].
    #[arg(long, value_name = "DIR", value_parser = path)]
    pub(super) kaniko_dir: Option<PathBuf>,

    #[command(flatten)]
    pub(super) own_root: OwnRootFlags,

    #[command(flatten)]
    pub(super) log: LogFlags,

    #[command(flatten)]
    pub(super) language: LanguageFlags,

    #[command(flatten)]
    pub(super) stages: StageFlags,

    #[command(flatten)]
    pub(super) tracer: TracerFlags,

    #[command(flatten)]
    pub(super) registry: RegistryFlags,

    #[command(flatten)]
    pub(super) run_mounts: RunMountFlags,

    #[command(flatten)]
    pub(super) result: OutputFlags,

    #[command(flatten)]
    pub(super) layers: LayerFlags,

    #[command(flatten)]
    pub(super) cache: CacheFlags,

    #[command(flatten)]
    pub(super) read_set: ReadSetFlags,
}

impl Flags {
    /// Templates of pipelines leave values empty: that is not to have given the flag.
    pub(super) fn without_empty_values(mut self) -> Self {
        let texts = [&mut self.custom_platform];
        for text in texts {
            text.take_if(|text| text.is_empty());
        }
        let paths = [&mut self.tar_path, &mut self.oci_layout_path, &mut self.kaniko_dir];
        for path in paths {
            path.take_if(|path| path.as_os_str().is_empty());
        }
        self
    }
}

/// A path, which may be empty.
#[expect(clippy::unnecessary_wraps, reason = "the shape that clap asks for")]
fn path(text: &str) -> Result<PathBuf, std::convert::Infallible> {
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Flags, clap::Error> {
        Flags::try_parse_from(std::iter::once("executor").chain(line.split_whitespace()))
    }

    #[test]
    fn the_command_is_well_formed() {
        Flags::command().debug_assert();
    }

    #[test]
    fn booleans_are_gos() {
        for (line, want) in [
            ("", None),
            ("--no-push", Some(true)),
            ("--no-push=false", Some(false)),
            ("--no-push --no-push=F", Some(false)),
            ("--no-push=1", Some(true)),
        ] {
            let flags = parse(line).expect(line);
            assert_eq!(flags.no_push.map(|GoBool(value)| value), want, "{line}");
        }
        assert!(parse("--no-push=maybe").is_err());
    }

    #[test]
    fn both_spellings_and_short_forms() {
        let flags = parse("--tarPath=/t --snapshotMode redo -d a -d b -f F -c /c -v=debug")
            .expect("known flags");
        assert_eq!(flags.tar_path, Some(PathBuf::from("/t")));
        assert_eq!(flags.tracer.snapshot_mode.as_deref(), Some("redo"));
        assert_eq!(flags.destination, ["a", "b"]);
        assert_eq!(
            (flags.dockerfile.as_str(), flags.contexts.context.as_deref()),
            ("F", Some("/c"))
        );
    }

    #[test]
    fn an_empty_value_is_none() {
        let line = "--digest-file= --tar-path= --custom-platform=";
        let flags = parse(line).expect("known flags").without_empty_values();
        assert_eq!(flags.tar_path, None);
        assert_eq!(flags.custom_platform, None);
    }

    #[test]
    fn an_unknown_flag_names_its_neighbour() {
        let message = parse("--desination=x").expect_err("misspelt").to_string();
        assert!(message.contains("--destination"), "{message}");
    }

    /// Flag to status, from the first table of the compatibility notes.
    fn documented() -> std::collections::BTreeMap<String, String> {
        let text = include_str!("../../docs/compatibility.md");
        let mut sections = text.split("\n## ");
        let section = sections.find(|it| it.starts_with("Flags of")).expect("a section on flags");
        let row = |line: &str| {
            let mut cells = line.strip_prefix("| `--")?.split('|');
            Some((cells.next()?.split('`').next()?.to_owned(), cells.next()?.trim().to_owned()))
        };
        section.lines().filter_map(row).collect()
    }

    #[test]
    fn every_flag_has_its_row_in_the_compatibility_notes() {
        let mut rows = documented();
        let command = Flags::command();
        for arg in command.get_arguments().filter(|arg| arg.get_id() != "help") {
            let names = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
            for name in names {
                let status = rows.remove(name).unwrap_or_default();
                let works = ["same", "differs because", "ours"];
                assert!(works.iter().any(|it| status.starts_with(it)), "--{name}: {status:?}");
            }
        }
        assert!(rows.is_empty(), "rows of flags that do not exist: {rows:?}");
    }
}
