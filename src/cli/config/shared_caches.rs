//! Whether caches of mounts are shared, and in which repository.

use super::Surroundings;
use super::cache::{insecure_cache, place, size, timeout};
use crate::build::{Outputs, SharedCaches};
use crate::cache::Place;
use crate::cli::flags::{CacheFlags, CacheMounts, RunMountFlags};
use crate::report::Failure;

/// Where they are shared; nothing where each machine keeps its own.
///
/// # Errors
/// A value that means nothing, or no repository.
pub(super) fn shared(
    flags: &RunMountFlags,
    cache: &CacheFlags,
    outputs: &Outputs,
    around: &Surroundings,
) -> Result<Option<SharedCaches>, Failure> {
    let limit = size("--cache-mount-export-limit", &flags.cache_mount_export_limit)?;
    match flags.cache_mounts {
        CacheMounts::Local => return Ok(None),
        CacheMounts::Registry => {}
    }
    let push = !cache.no_push_cache.0;
    match place(&cache.cache_repo, outputs, u64::MAX, around)? {
        Some((Place::Registry(repository), given)) if given || outputs.push || !push => {
            Ok(Some(SharedCaches { repository, push, wait: timeout(cache)?, limit }))
        }
        Some((Place::Layout(layout), _)) => Err(Failure::new(format!(
            "--cache-mounts=registry: --cache-repo is {}, a directory on this machine",
            layout.dir().display()
        ))
        .hint("several builds on one machine share the caches in --cache-dir without it")),
        Some((Place::Registry(_), _)) | None => Err(Failure::new(
            "if using --cache-mounts=registry with --no-push, specify cache repo with --cache-repo",
        )),
    }
}

/// As `--insecure` has it for the layers in the same repository.
pub(super) fn reach(shared: Option<&SharedCaches>, registry: &mut crate::registry::Settings) {
    if let Some(shared) = shared {
        insecure_cache(&Place::Registry(shared.repository.clone()), registry);
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::outputs::outputs;
    use super::*;
    use crate::cli::config::tests::around;
    use crate::cli::flags::Flags;

    #[test]
    fn where_caches_of_mounts_are_shared() {
        for (line, want) in [
            ("-d r.example/a", "none"),
            ("-d r.example/a --cache-mounts=local --cache", "none"),
            ("-d r.example/a:1 --cache-mounts=registry", "r.example/a/cache true 5000000000"),
            (
                "--no-push --cache-mounts=registry --cache-repo=r.example/c --cache-mount-export-limit=1Gi",
                "r.example/c true 1073741824",
            ),
            (
                "-d r.example/a --no-push --cache-mounts=registry --no-push-cache",
                "r.example/a/cache false",
            ),
            ("--no-push --cache-mounts=registry", "error: if using --cache-mounts=registry"),
            (
                "-d r.example/a --no-push --cache-mounts=registry",
                "error: if using --cache-mounts=registry with --no-push",
            ),
            (
                "--no-push --cache-mounts=registry --cache-repo=dir:c",
                "error: --cache-mounts=registry: --cache-repo is /here/c",
            ),
            ("-d r.example/a --cache-mount-export-limit=x", "error: --cache-mount-export-limit=x"),
        ] {
            let flags = std::iter::once("executor").chain(line.split_whitespace());
            let flags = Flags::try_parse_from(flags).expect("known flags");
            let outputs = outputs(&flags, &around()).expect("outputs");
            let told = match shared(&flags.run_mounts, &flags.cache, &outputs, &around()) {
                Ok(None) => "none".to_owned(),
                Ok(Some(SharedCaches { repository, push, limit, .. })) => {
                    format!("{repository} {push} {limit}")
                }
                Err(failure) => failure.to_string(),
            };
            assert!(told.starts_with(want), "{line}: {told}");
        }
    }
}
