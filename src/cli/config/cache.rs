//! What was meant with the flags about the cache.

use std::time::Duration;

use super::Surroundings;
use crate::build::Outputs;
use crate::cache::{Bases, Place, Settings, parse_size};
use crate::cli::flags::CacheFlags;
use crate::report::Failure;

/// Where kaniko has base images unless told otherwise.
const BASES: &str = "/cache";

/// How the cache is used; nothing where it is not.
///
/// # Errors
/// A value that means nothing, or no place to keep layers in.
pub(super) fn settings(
    flags: &CacheFlags,
    base_dir: &str,
    outputs: &Outputs,
    around: &Surroundings,
) -> Result<Option<Settings>, Failure> {
    // Wrong values are told even if they are not used.
    let (ttl, wait) = (ttl(&flags.cache_ttl)?, timeout(flags)?);
    let limit = match size("--cache-limit", &flags.cache_limit)? {
        0 => {
            return Err(Failure::new("--cache-limit=0: nothing could be kept")
                .hint("leave --cache out, or give --no-push-cache"));
        }
        limit => limit,
    };
    let place = place(&flags.cache_repo, outputs, limit, around)?;
    if !flags.cache.0 {
        return Ok(None);
    }
    let push = !flags.no_push_cache.0;
    let place = match place {
        Some((place, given)) if given || outputs.push || !push => place,
        _ => {
            return Err(Failure::new(
                "if using cache with --no-push, specify cache repo with --cache-repo",
            ));
        }
    };
    let now = around.time()?;
    Ok(Some(Settings {
        place,
        ttl,
        run_layers: flags.cache_run_layers.0,
        copy_layers: flags.cache_copy_layers.0,
        push,
        by_reads: false,
        now: now.as_second(),
        wait,
        bases: bases(base_dir, ttl, now, around),
    }))
}

/// `--insecure` is said of pushes, and of the cache as a whole: its layers come by plain HTTP, too.
pub(super) fn reach(cache: Option<&Settings>, registry: &mut crate::registry::Settings) {
    if let Some(cache) = cache {
        insecure_cache(&cache.place, registry);
    }
}

/// As [`reach`], for a cache alone.
pub(in crate::cli) fn insecure_cache(place: &Place, registry: &mut crate::registry::Settings) {
    if let (true, Place::Registry(place)) = (registry.insecure, place) {
        registry.insecure_registries.push(place.registry().to_owned());
    }
}

/// `--cache-dir`, or else kaniko's directory where there is one.
fn bases(given: &str, ttl: Duration, now: jiff::Timestamp, around: &Surroundings) -> Option<Bases> {
    let dir = if given.is_empty() { BASES.into() } else { around.here.join(given) };
    dir.is_dir().then(|| Bases::new(dir, ttl, now.into()))
}

/// The place, and whether it was given rather than inferred.
pub(super) fn place(
    given: &str,
    outputs: &Outputs,
    limit: u64,
    around: &Surroundings,
) -> Result<Option<(Place, bool)>, Failure> {
    let inferred = outputs.destinations.first().map(|it| format!("{}/cache", it.repository()));
    let (text, is_given) = match (given, inferred) {
        ("", None) => return Ok(None),
        ("", Some(inferred)) => (inferred, false),
        (given, _) => (given.to_owned(), true),
    };
    let place = Place::parse(&text, &around.here, limit)
        .map_err(|error| Failure::new(format!("--cache-repo={text}: {error}")))?;
    Ok(Some((place, is_given)))
}

/// `--cache-ttl`
pub(super) fn ttl(text: &str) -> Result<Duration, Failure> {
    duration("--cache-ttl", text)
}

/// `--cache-timeout`
pub(super) fn timeout(flags: &CacheFlags) -> Result<Duration, Failure> {
    match duration("--cache-timeout", &flags.cache_timeout)? {
        Duration::ZERO => {
            Err(Failure::new("--cache-timeout=0: nothing could be looked up")
                .hint("leave --cache out"))
        }
        timeout => Ok(timeout),
    }
}

/// A duration as Go writes it; kaniko refuses one without a unit.
pub(in crate::cli) fn duration(flag: &str, text: &str) -> Result<Duration, Failure> {
    let nanoseconds = crate::dockerfile::parse_duration(text);
    let nanoseconds = nanoseconds.and_then(|it| u64::try_from(it).ok());
    nanoseconds.map(Duration::from_nanos).ok_or_else(|| {
        Failure::new(format!("{flag}={text}: no duration"))
            .hint("write a number with a unit, such as 6h")
    })
}

/// A size in bytes.
pub(in crate::cli) fn size(flag: &str, text: &str) -> Result<u64, Failure> {
    parse_size(text).ok_or_else(|| {
        Failure::new(format!("{flag}={text}: no size"))
            .hint("write a number with a unit, such as 500M or 20G")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::outputs::outputs;
    use super::*;
    use crate::cli::config::tests::around;
    use crate::cli::flags::Flags;

    fn told(line: &str) -> String {
        let line = std::iter::once("executor").chain(line.split_whitespace());
        let flags = Flags::try_parse_from(line).expect("known flags");
        let outputs = outputs(&flags, &around()).expect("outputs");
        match settings(&flags.cache, "", &outputs, &around()) {
            Ok(None) => "none".to_owned(),
            Ok(Some(settings)) => match settings.place {
                Place::Registry(repository) => format!("{repository} {:?}", settings.ttl),
                Place::Layout(layout) => format!("{} {:?}", layout.dir().display(), settings.ttl),
            },
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn an_insecure_cache_is_pulled_from_by_plain_http() {
        for (line, want) in [
            ("-d r.example/a --cache --insecure", &["r.example"][..]),
            ("-d r.example/a --cache", &[]),
            ("-d r.example/a --insecure", &[]),
        ] {
            let flags = std::iter::once("executor").chain(line.split_whitespace());
            let flags = Flags::try_parse_from(flags).expect("known flags");
            let outputs = outputs(&flags, &around()).expect("outputs");
            let cache = settings(&flags.cache, "", &outputs, &around()).expect("a cache");
            let insecure = flags.registry.insecure.0;
            let mut registry =
                crate::registry::Settings { insecure, ..crate::registry::Settings::default() };
            reach(cache.as_ref(), &mut registry);
            assert_eq!(registry.insecure_registries, want, "{line}");
        }
    }

    #[test]
    fn where_layers_are_cached() {
        for (line, want) in [
            ("-d r.example/a:1", "none"),
            ("-d r.example/a:1 -d r.example/b --cache", "r.example/a/cache 1209600s"),
            (
                "-d r.example/a --cache=true --cache-repo=r.example/c --cache-ttl=6h",
                "r.example/c 21600s",
            ),
            ("--no-push --cache --cache-repo=dir:c", "/here/c"),
            ("--no-push --cache", "error: if using cache with --no-push"),
            ("--no-push -d r.example/a --cache", "error: if using cache with --no-push"),
            ("--no-push -d r.example/a --cache --no-push-cache", "r.example/a/cache"),
            ("--no-push --cache-ttl=6", "error: --cache-ttl=6: no duration"),
            ("--no-push --cache-ttl=-6h", "error: --cache-ttl=-6h: no duration"),
            ("-d r.example/a --cache --cache-timeout=0s", "error: --cache-timeout=0"),
            ("--no-push --cache-timeout=soon", "error: --cache-timeout=soon"),
            ("--no-push --cache-limit=much", "error: --cache-limit=much: no size"),
            ("--no-push --cache --cache-repo=r.example/c:t", "error: --cache-repo=r.example/c:t"),
        ] {
            let told = told(line);
            assert!(told.starts_with(want), "{line}: {told}");
        }
    }
}
