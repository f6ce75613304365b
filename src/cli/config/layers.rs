//! What was meant with the flags about layers.

use std::collections::BTreeMap;

use snapshot::{Compression, ImagePath};

use super::super::flags::LayerFlags;
use crate::build::{IgnoredPath, LayerRules};
use crate::image::Flavor;
use crate::report::Failure;

/// The variable that says how late a time may be (reproducible-builds.org), as an argument of the
/// build: what was given goes before the environment.
pub(super) const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The rules for new layers.
///
/// # Errors
/// A value that means nothing.
pub(super) fn rules(flags: &LayerFlags, flavor: Option<Flavor>) -> Result<LayerRules, Failure> {
    let mut ignored: Vec<IgnoredPath> =
        flags.ignore_path.iter().map(|text| ignored(text)).collect::<Result<_, _>>()?;
    if flags.ignore_var_run.0 {
        ignored.push(IgnoredPath::exactly(&ImagePath::parse(b"/var/run").expect("absolute")));
    }
    let compression = compression(&flags.compression, flags.compression_level)?;
    if flavor == Some(Flavor::Docker) && !is_dockers(compression) {
        let what = format!(
            "--compression={}: Docker's media types, which --image-format=docker asks for, have no {} for it",
            flags.compression,
            if matches!(compression, Compression::Estargz { .. }) { "annotations" } else { "name" },
        );
        return Err(Failure::new(what).hint("use --image-format=oci"));
    }
    Ok(LayerRules {
        reproducible: flags.reproducible.0,
        single: flags.single_snapshot.0,
        metadata: flags.force_build_metadata.0,
        ignored,
        compression,
    })
}

fn ignored(text: &str) -> Result<IgnoredPath, Failure> {
    IgnoredPath::parse(text).map_err(|error| Failure::new(format!("--ignore-path={text}: {error}")))
}

/// Whether images with Docker's media types can have such layers.
fn is_dockers(compression: Compression) -> bool {
    match compression {
        Compression::Gzip { .. } | Compression::None => true,
        Compression::Zstd { .. }
        | Compression::Estargz { .. }
        | Compression::ZstdChunked { .. } => false,
    }
}

/// The default is each format's "best speed", as in kaniko.
fn compression(name: &str, level: i32) -> Result<Compression, Failure> {
    let within = |highest: i32, fastest: i32| match level {
        -1 => Ok(fastest),
        level if (1..=highest).contains(&level) => Ok(level),
        other => Err(Failure::new(format!(
            "--compression-level={other}: {name} has levels 1 to {highest}, or -1 for its fastest"
        ))),
    };
    match name {
        "gzip" | "" => Ok(Compression::Gzip { level: within(9, 1)?.unsigned_abs() }),
        "zstd" => Ok(Compression::Zstd { level: within(22, 1)? }),
        "estargz" => Ok(Compression::Estargz { level: within(9, 1)?.unsigned_abs() }),
        "zstd:chunked" => Ok(Compression::ZstdChunked { level: within(22, 1)? }),
        other => Err(Failure::new(format!(
            "--compression={other}: use gzip, zstd, estargz or zstd:chunked"
        ))),
    }
}

/// Takes the epoch of the environment as a build argument, as `docker buildx build` does.
pub(super) fn with_epoch(
    mut arguments: BTreeMap<String, String>,
    environment: Option<&str>,
) -> BTreeMap<String, String> {
    if let Some(value) = environment {
        arguments.entry(EPOCH.to_owned()).or_insert_with(|| value.to_owned());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn told(line: &str) -> Result<LayerRules, String> {
        told_for(line, None)
    }

    fn told_for(line: &str, flavor: Option<Flavor>) -> Result<LayerRules, String> {
        let words = std::iter::once("executor").chain(line.split_whitespace());
        let flags = super::super::Flags::try_parse_from(words).expect(line);
        rules(&flags.layers, flavor).map_err(|failure| failure.to_string())
    }

    #[test]
    fn how_layers_are_compressed() {
        let gzip = |level| Ok(Compression::Gzip { level });
        let zstd = |level| Ok(Compression::Zstd { level });
        for (line, want) in [
            ("", gzip(1)),
            ("--compression=", gzip(1)),
            ("--compression-level=-1", gzip(1)),
            ("--compression-level 9", gzip(9)),
            ("--compression=zstd", zstd(1)),
            ("--compression=zstd --compression-level=19", zstd(19)),
            ("--compression-level=10", Err("gzip has levels 1 to 9")),
            ("--compression-level=0", Err("gzip has levels 1 to 9")),
            ("--compression=zstd --compression-level=23", Err("zstd has levels 1 to 22")),
            ("--compression=estargz", Ok(Compression::Estargz { level: 1 })),
            ("--compression=estargz --compression-level=9", Ok(Compression::Estargz { level: 9 })),
            (
                "--compression=estargz --compression-level=10",
                Err("--compression-level=10: estargz has levels 1 to 9"),
            ),
            ("--compression=zstd:chunked", Ok(Compression::ZstdChunked { level: 1 })),
            (
                "--compression=zstd:chunked --compression-level=22",
                Ok(Compression::ZstdChunked { level: 22 }),
            ),
            ("--compression=xz", Err("use gzip, zstd, estargz or zstd:chunked")),
        ] {
            match (told(line).map(|rules| rules.compression), want) {
                (Ok(found), Ok(want)) => assert_eq!(found, want, "{line}"),
                (Err(found), Err(want)) => assert!(found.contains(want), "{line}: {found}"),
                (found, want) => panic!("{line}: {found:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn only_gzip_is_for_docker() {
        for (flavor, good) in
            [(None, true), (Some(Flavor::Oci), true), (Some(Flavor::Docker), false)]
        {
            for name in ["zstd", "estargz", "zstd:chunked"] {
                let told = told_for(&format!("--compression={name}"), flavor);
                assert_eq!(told.is_ok(), good, "{name} {flavor:?}");
            }
            assert!(told_for("", flavor).is_ok(), "{flavor:?}");
        }
    }

    #[test]
    fn what_is_left_out() {
        let path = |text: &str| ImagePath::parse(text.as_bytes()).expect(text);
        for (line, ignored, kept) in [
            ("", "", "/var/run"),
            ("--ignore-var-run", "/var/run", "/run"),
            ("--whitelist-var-run=true", "/var/run/x.pid", "/var/runs"),
            ("--ignore-path=/a/b --ignore-path=/c", "/c/d", "/a"),
            ("--ignore-path=/home/*/.cache", "/home/me/.cache/x", "/home/me"),
            ("--ignore-path=relative/x/", "/relative/x", "/relative"),
        ] {
            let rules = told(line).expect(line);
            let covers = |text: &str| rules.ignored.iter().any(|it| it.covers(&path(text)));
            assert!(ignored.is_empty() || covers(ignored), "{line} {ignored}");
            assert!(!covers(kept), "{line} {kept}");
        }
        for line in ["--ignore-path=/", "--ignore-path=/a/../..", "--ignore-path=/[a"] {
            assert!(told(line).is_err(), "{line}");
        }
    }

    #[test]
    fn an_epoch_that_was_given_goes_before_the_environment() {
        let given = |value: &str| BTreeMap::from([(EPOCH.to_owned(), value.to_owned())]);
        assert_eq!(with_epoch(given("1"), Some("2")), given("1"));
        assert_eq!(with_epoch(BTreeMap::new(), Some("2")), given("2"));
        assert_eq!(with_epoch(BTreeMap::new(), None), BTreeMap::new());
    }
}
