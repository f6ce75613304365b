//! Whatever happens to a cache, a build with it makes what a build without it makes.
//!
//! `KANIKO_LONG_RUN=1 cargo test --test integration cache_proof` takes the whole of `testdata/builds`;
//! an ordinary run takes some of it.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::base;
use crate::executor::{Build, Place, static_executor};
use crate::faulty::{Fault, Faulty};
use crate::image::{Image, compare};
use crate::language::cases;
use crate::registry::{Access, Registry};

/// Of the Dockerfiles in `testdata/builds`, an ordinary run takes each of so many.
const EACH: usize = 10;

fn with_store(build: Build, store: &TempDir) -> Build {
    build.share("cache", store.path()).flags([
        "--cache",
        "--cache-copy-layers",
        "--cache-repo=dir:{cache}",
    ])
}

fn index(store: &TempDir) -> Value {
    let bytes = fs::read(store.path().join("index.json")).expect("an index");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// Removes each second entry.
fn thin_out(store: &TempDir) {
    let index = index(store);
    for entry in index["manifests"].as_array().expect("a list").iter().step_by(2) {
        let hex = entry["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
        // Two tags may name it.
        let _ = fs::remove_file(store.path().join("blobs/sha256").join(hex));
    }
}

#[test]
fn cold_cached_and_half_cached_are_one_image() {
    let each = if std::env::var_os("KANIKO_LONG_RUN").is_some() { 1 } else { EACH };
    let mut compared = 0;
    for case in cases().iter().step_by(each) {
        let build = || case.build(Place::Host).flag("--reproducible");
        let cold = build().run();
        if cold.code() != 0 {
            continue;
        }
        let cold = cold.image().digest;
        let store = tempfile::tempdir().unwrap();
        let cached = || with_store(build(), &store).run().succeeded();
        for state in ["empty", "full"] {
            assert_eq!(cached().image().digest, cold, "{}: a cache that is {state}", case.title);
        }
        if store.path().join("index.json").exists() {
            thin_out(&store);
            let half = cached();
            assert_eq!(half.image().digest, cold, "{}: half a cache\n{}", case.title, half.log);
            compared += 1;
        }
    }
    assert!(compared >= 3, "only {compared} had anything to cache");
}

/// What a log says just before something is written to a cache, or while it is.
const MOMENTS: &[&str] = &["Layer of", "[2/3]", "Wrote OCI layout"];

#[test]
fn who_is_killed_spoils_nothing_for_those_who_share_a_directory() {
    let store = tempfile::tempdir().unwrap();
    let dockerfile = |n: usize| {
        format!(
            "FROM busybox\nRUN seq 1 300000 > /both\nCOPY f /f\nRUN cat /both /f > /own && echo {n} >> /own\n"
        )
    };
    let build = |n: usize| {
        let build = Build::of(&dockerfile(n)).base("busybox", base::busybox()).file("f", "1\n");
        build.flag("--reproducible")
    };
    for (n, moment) in MOMENTS.iter().enumerate() {
        let (mut killed, other) =
            (with_store(build(n), &store).start(), with_store(build(n + 100), &store).start());
        killed.until(moment);
        killed.signal(Signal::SIGKILL);
        killed.end();
        let other = other.end().succeeded();
        let want = build(n + 100).image();
        assert_eq!(other.image().digest, want.digest, "{moment}: {}", other.log);
        let again = with_store(build(n), &store).run().succeeded();
        let want = build(n).image().tree();
        assert_eq!(compare(&again.image().tree(), &want), [] as [String; 0], "{moment}");
    }
    let listed = Command::new(static_executor())
        .args(["cache", "ls", &format!("dir:{}", store.path().display())])
        .output()
        .expect("the executor runs");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("RUN seq") && !listed.contains("unusable"), "{listed}");
}

/// Something that happens to what a registry holds.
type Damage = fn(&Path);

fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("a blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).expect("written");
}

fn cut(path: &Path) {
    let bytes = fs::read(path).expect("a blob");
    fs::write(path, &bytes[..bytes.len() / 2]).expect("written");
}

#[test]
fn a_registry_that_loses_and_spoils_costs_time_only() {
    let lose: Damage = |path| fs::remove_file(path).expect("removed");
    let damages: &[(&str, &str, Damage)] = &[
        ("layer", "lost", lose),
        ("layer", "spoilt", flip),
        ("layer", "cut off", cut),
        ("config", "lost", lose),
        ("manifest", "lost", lose),
        ("manifest", "spoilt", flip),
        ("manifest", "emptied", |path| fs::write(path, "").expect("written")),
    ];
    let registry = Registry::start(Access::Plain);
    registry.push(&base::busybox(), base::TAG, "base:1", None);
    for (number, (part, damage, spoil)) in damages.iter().enumerate() {
        let name = format!("{part}{number}");
        let cache = registry.reference(&format!("cache-{name}"));
        // Each has layers of its own: the registry keeps one copy of equal ones.
        let dockerfile =
            format!("FROM {}\nRUN echo {name} > /one\nCOPY f /f\n", registry.reference("base:1"));
        let build = |content: &str| {
            Build::of(&dockerfile)
                .file("f", content)
                .flags(["--insecure", "--insecure-pull", "--cache"])
                .flag(format!("--cache-repo={cache}"))
                .run()
                .succeeded()
        };
        let first = build("1").image();
        let key = keys(&cache).pop().expect("an entry");
        let manifest = registry.manifest(&format!("cache-{name}:{key}")).expect("there");
        let digest = digest_of(part, &manifest, &registry, &name, &key);
        spoil(&registry.blob_file(&digest));
        // What comes after it has to be executed, so the layer is needed.
        let second = build("2");
        let tree = second.image().tree();
        let mut want = first.tree();
        want.insert("/f".to_owned(), tree["/f"].clone());
        let differences = compare(&tree, &want);
        assert_eq!(differences, [] as [String; 0], "{part} {damage}\n{}", second.log);
    }
}

#[test]
fn a_registry_that_delays_is_waited_for_within_a_limit() {
    let registry = Registry::start(Access::Plain);
    let faulty = Faulty::before(registry.address());
    let look_up = "GET /v2/cache/manifests/";
    let build = |rules: &[(&str, usize, Fault)]| {
        faulty.rules(rules.iter().map(|(at, n, it)| ((*at).to_owned(), *n, it.clone())).collect());
        let dockerfile = "FROM busybox\nRUN echo 1 > /one\nRUN echo 2 > /two\n";
        let build = Build::of(dockerfile).base("busybox", base::busybox());
        let flags = ["--insecure", "--cache", "--cache-timeout=2s", "--reproducible"];
        let repository = format!("--cache-repo={}/cache", faulty.address());
        build.flags(flags).flag(repository).run().succeeded()
    };
    let want = build(&[]).image().digest;
    for (what, rules, hits) in [
        ("nobody answers", vec![(look_up, 99, Fault::Stall)], 0),
        ("one answer is missing", vec![(look_up, 1, Fault::Stall)], 1),
        ("all answers are slow", vec![(look_up, 99, Fault::Drip(20))], 2),
    ] {
        let ended = build(&rules);
        assert_eq!(ended.image().digest, want, "{what}");
        assert_eq!(ended.log.matches("Cached: ").count(), hits, "{what}\n{}", ended.log);
        let told = ended.log.matches("goes on without it (--cache-timeout)").count();
        assert_eq!(told, usize::from(hits < 2), "{what}\n{}", ended.log);
        assert!(faulty.seen("PUT /v2/cache/").is_empty(), "{what}");
    }
}

fn keys(cache: &str) -> Vec<String> {
    let listed = Command::new(static_executor())
        .args(["cache", "ls", cache, "--insecure", "--format=json"])
        .output()
        .expect("the executor runs");
    let listed: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    let entries = listed["entries"].as_array().expect("a list");
    entries.iter().map(|it| it["key"].as_str().expect("a key").to_owned()).collect()
}

/// The digest of a part of an entry.
fn digest_of(part: &str, manifest: &[u8], registry: &Registry, name: &str, key: &str) -> String {
    let json: Value = serde_json::from_slice(manifest).expect("JSON");
    let digest = match part {
        "layer" => json["layers"][0]["digest"].clone(),
        "config" => json["config"]["digest"].clone(),
        _ => {
            let dir = tempfile::tempdir().unwrap();
            registry.pull(&format!("cache-{name}:{key}"), dir.path());
            Image::open(dir.path()).digest.into()
        }
    };
    digest.as_str().expect("a digest").to_owned()
}
