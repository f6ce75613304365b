//! `executor cache` for the caches of RUN mounts on this machine: `mounts:DIR`, where builds have
//! `--cache-dir=DIR`.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::told::object;
use crate::cache::Pruning;
use crate::cli::config::Surroundings;
use crate::cli::flags::{CacheCommand, ListFormat};
use crate::report::{Explain as _, Failure, age, bytes};
use crate::step::{CacheStore, StoredCache};

/// Does what the command says; what it has to tell.
///
/// # Errors
/// A directory that has no caches, or cannot be read or written.
pub(super) fn cache(
    command: &CacheCommand,
    pruning: Option<&Pruning>,
    dir: &str,
    around: &Surroundings,
) -> Result<String, Failure> {
    let dir = around.here.join(dir.strip_prefix("//").unwrap_or(dir));
    if !dir.join("mounts").is_dir() {
        return Err(Failure::new(format!("there are no caches of mounts in {}", dir.display()))
            .hint("write mounts: and what builds have as --cache-dir, or else as --kaniko-dir"));
    }
    let doing = || format!("list the caches in {}", dir.display());
    let caches = CacheStore::new(&dir).list().could_not(doing)?;
    let now = around.time()?.as_second();
    let format = command.which().format;
    match command {
        CacheCommand::Ls(_) => {
            let all: Vec<&StoredCache> = caches.iter().collect();
            Ok(match format {
                ListFormat::Text => format!("{}{}\n", table(&all, now), sum(&all)),
                ListFormat::Json => object(&json!({"caches": values(&all), "bytes": total(&all)})),
            })
        }
        CacheCommand::Explain(flags) => explain(&caches, &flags.key, now, format),
        CacheCommand::Prune(flags) => {
            let chosen = chosen(&caches, pruning, now);
            prune(&caches, chosen, flags.dry_run.0, now, format)
        }
    }
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// What goes: of caches that were used last first.
fn chosen<'c>(
    caches: &'c [StoredCache],
    pruning: Option<&Pruning>,
    now: i64,
) -> Vec<&'c StoredCache> {
    let Some(pruning) = pruning else { return Vec::new() };
    let mut left = 0_u64;
    let mut goes = |cache: &StoredCache| {
        let oldest = pruning.older_than.and_then(|it| i64::try_from(it.as_secs()).ok());
        let unused = now.saturating_sub(seconds(cache.used()));
        if pruning.all || oldest.is_some_and(|oldest| unused >= oldest) {
            return true;
        }
        left = left.saturating_add(cache.bytes());
        pruning.keep.is_some_and(|most| left > most)
    };
    caches.iter().filter(|cache| goes(cache)).collect()
}

fn prune(
    caches: &[StoredCache],
    mut chosen: Vec<&StoredCache>,
    dry_run: bool,
    now: i64,
    format: ListFormat,
) -> Result<String, Failure> {
    let mut busy = 0;
    if !dry_run {
        let mut gone = Vec::new();
        for cache in chosen {
            let (name, copy) = cache.name();
            if cache.remove().could_not(|| format!("empty the cache {name}/{copy}"))? {
                gone.push(cache);
            } else {
                busy += 1;
            }
        }
        chosen = gone;
    }
    let left = (caches.len() - chosen.len(), caches.iter().map(StoredCache::bytes).sum::<u64>());
    let left = (left.0, left.1 - total(&chosen));
    if format == ListFormat::Json {
        return Ok(object(&json!({
            "removed": values(&chosen),
            "bytes": total(&chosen),
            "in_use": busy,
            "dry_run": dry_run,
            "left": {"caches": left.0, "bytes": left.1},
        })));
    }
    let done = if dry_run { "would be emptied" } else { "emptied" };
    let in_use = match busy {
        0 => String::new(),
        busy => format!("{busy} in use by a build, and left as they are\n"),
    };
    let (table, sum) = (table(&chosen, now), sum(&chosen));
    Ok(format!("{table}{sum} {done}; {} of {} stay\n{in_use}", left.0, bytes(left.1)))
}

fn explain(
    caches: &[StoredCache],
    start: &str,
    now: i64,
    format: ListFormat,
) -> Result<String, Failure> {
    let called: Vec<&StoredCache> =
        caches.iter().filter(|cache| cache.name().0.starts_with(start)).collect();
    if called.is_empty() {
        return Err(
            Failure::new(format!("no cache is called {start}")).hint("executor cache ls tells all")
        );
    }
    if format == ListFormat::Json {
        return Ok(object(&json!({"caches": values(&called)})));
    }
    let lines = called.iter().map(|cache| {
        let (name, copy) = cache.name();
        let used = age(now.saturating_sub(seconds(cache.used())));
        let size = bytes(cache.bytes());
        let key = cache.key.lines().map(|line| format!("  {line}\n")).collect::<String>();
        format!("cache {name}/{copy}\nsize  {size}\nused  {used} ago\nit is that of\n{key}")
    });
    Ok(lines.collect())
}

/// The `id` in the text of a key.
fn id(cache: &StoredCache) -> String {
    let line = cache.key.lines().find_map(|line| line.strip_prefix("id "));
    line.unwrap_or("unknown").to_owned()
}

fn table(caches: &[&StoredCache], now: i64) -> String {
    if caches.is_empty() {
        return String::new();
    }
    let row = |name: &str, size: &str, used: &str, id: &str| {
        format!("{name:<14}  {size:>9}  {used:>8}  {id}\n")
    };
    let lines = caches.iter().map(|cache| {
        let (name, copy) = cache.name();
        let short: String = name.chars().take(12).collect();
        let used = age(now.saturating_sub(seconds(cache.used())));
        row(&format!("{short}/{copy}"), &bytes(cache.bytes()), &used, &id(cache))
    });
    std::iter::once(row("CACHE", "SIZE", "USED", "ID")).chain(lines).collect()
}

fn total(caches: &[&StoredCache]) -> u64 {
    caches.iter().map(|cache| cache.bytes()).sum()
}

fn sum(caches: &[&StoredCache]) -> String {
    let count = caches.len();
    let noun = if count == 1 { "cache" } else { "caches" };
    format!("{count} {noun}, {}", bytes(total(caches)))
}

fn values(caches: &[&StoredCache]) -> Vec<Value> {
    let value = |cache: &&StoredCache| {
        let (name, copy) = cache.name();
        let used = jiff::Timestamp::from_second(seconds(cache.used())).ok();
        json!({
            "name": name,
            "copy": copy,
            "key": cache.key,
            "bytes": cache.bytes(),
            "used": used.map(|it| it.to_string()),
        })
    };
    caches.iter().map(value).collect()
}
