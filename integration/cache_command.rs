//! `executor cache`: the same questions to a directory, a layout and a registry.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::base;
use crate::craft::digest;
use crate::executor::{Build, static_executor};
use crate::registry::{Access, Registry};
use crate::tools;

/// Three builds, the second with another argument and the third with another file.
fn filled(base: &str, place: &str, change: impl Fn(Build) -> Build) {
    let dockerfile = format!("FROM {base}\nARG WHO=me\nRUN echo $WHO > /who\nCOPY main.c /src/\n");
    for (who, content) in [("me", "1"), ("you", "1"), ("you", "2")] {
        let build = Build::bare()
            .file("Dockerfile", &dockerfile)
            .file("main.c", content)
            .flags(["--no-push", "--cache", "--cache-copy-layers", "--insecure", "--insecure-pull"])
            .flag(format!("--build-arg=WHO={who}"))
            .flag(format!("--cache-repo={place}"));
        change(build).run().succeeded();
    }
}

fn cache(arguments: &[&str]) -> Output {
    let mut command = Command::new(static_executor());
    command.env_clear().env("HOME", "/nonexistent").arg("cache").args(arguments);
    command.output().expect("the executor runs")
}

fn told(arguments: &[&str]) -> String {
    let output = cache(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

fn json(arguments: &[&str]) -> Value {
    let told = told(&[arguments, &["--format=json"]].concat());
    serde_json::from_str(&told).expect("JSON")
}

/// The keys of the entries that a step made, in the order of the list.
fn keys(listed: &Value, step: &str) -> Vec<String> {
    let entries = listed["entries"].as_array().expect("a list");
    let made =
        entries.iter().filter(|it| it["step"].as_str().is_some_and(|it| it.starts_with(step)));
    made.map(|it| it["key"].as_str().expect("a key").to_owned()).collect()
}

/// What holds wherever entries are. `dated` is whether it is known when each was used.
fn a_cache_is_seen_and_explained(place: &str, dated: bool) {
    let listed = json(&["ls", place, "--insecure"]);
    let entries = listed["entries"].as_array().expect("a list").clone();
    // Two of RUN; of COPY one for each build.
    assert_eq!((entries.len(), keys(&listed, "COPY").len()), (5, 3), "{listed}");
    assert_eq!(entries.iter().all(|it| it["used"].is_string()), dated, "{listed}");
    let sizes: u64 = entries.iter().map(|it| it["bytes"].as_u64().expect("a size")).sum();
    assert_eq!(listed["bytes"], sizes);
    let table = told(&["ls", place, "--insecure"]);
    assert_eq!(table.lines().count(), 7, "{table}");
    assert!(table.contains("RUN echo $WHO > /who"), "{table}");

    let runs = keys(&listed, "RUN");
    let compared = json(&["explain", place, "--insecure", &runs[0], &runs[1]]);
    assert_eq!(compared["compared_with"]["changes"], serde_json::json!(["variable WHO changed"]));
    let copies = keys(&listed, "COPY");
    let explained: Vec<String> =
        copies.iter().map(|key| told(&["explain", place, "--insecure", &key[..20]])).collect();
    // All but the last one are compared with it.
    let differ = explained.iter().filter(|it| it.contains("what is different from")).count();
    assert_eq!(differ, 2, "{explained:?}");
    assert!(explained.iter().any(|it| it.contains("  main.c changed\n")), "{explained:?}");
    assert!(explained.iter().all(|it| it.contains("  main.c\n") && it.contains("after  ")));
}

/// Removes by size and all; `kept` tells what is there afterwards.
fn a_cache_is_pruned(place: &str) {
    let before = json(&["ls", place, "--insecure"]);
    let bytes = before["bytes"].as_u64().expect("a size");
    let most = format!("--keep={}", bytes - 1);
    let would = json(&["prune", place, "--insecure", &most, "--dry-run"]);
    assert_eq!(would["removed"].as_array().map(Vec::len), Some(1), "{would}");
    assert_eq!(json(&["ls", place, "--insecure"]), before, "nothing went");
    let done = json(&["prune", place, "--insecure", &most]);
    assert_eq!(done["removed"], would["removed"]);
    let after = json(&["ls", place, "--insecure"]);
    assert_eq!(after["entries"].as_array().map(Vec::len), Some(4));
    let none = told(&["prune", place, "--insecure", "--older-than=1h"]);
    assert!(none.starts_with("0 entries, 0 B removed; 4 of "), "{none}");
    told(&["prune", place, "--insecure", "--all"]);
    assert_eq!(json(&["ls", place, "--insecure"])["bytes"], 0);
}

#[test]
fn a_directory_is_listed_explained_and_pruned() {
    let store = tempfile::tempdir().unwrap();
    let place = format!("dir:{}", store.path().display());
    filled("busybox", &place, |build| build.base("busybox", base::busybox()));
    a_cache_is_seen_and_explained(&place, true);
    a_cache_is_pruned(&place);
    let blobs = fs::read_dir(store.path().join("blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 0, "nothing is left");
}

#[test]
fn images_of_others_are_left_alone() {
    let store = tempfile::tempdir().unwrap();
    let place = format!("oci:{}", store.path().display());
    let beside = format!("oci:{}:beside", store.path().display());
    let from = format!("oci:{}:{}", base::busybox().display(), base::TAG);
    tools::run("skopeo", ["--insecure-policy", "copy", &from, &beside]);
    filled("busybox", &place, |build| build.base("busybox", base::busybox()));
    assert_eq!(json(&["ls", &place])["others"], 1);
    told(&["prune", &place, "--all"]);
    let left = json(&["ls", &place]);
    assert_eq!((&left["others"], &left["bytes"]), (&Value::from(1), &Value::from(0)));
    let out = tempfile::tempdir().unwrap();
    let copy = format!("dir:{}", out.path().display());
    tools::run("skopeo", ["--insecure-policy", "copy", &beside, &copy]);
}

#[test]
fn a_registry_is_listed_explained_and_pruned() {
    let registry = Registry::start(Access::Plain);
    registry.push(&base::busybox(), base::TAG, "base:1", None);
    let place = registry.reference("cache");
    filled(&registry.reference("base:1"), &place, |build| build);
    a_cache_is_seen_and_explained(&place, false);
    a_cache_is_pruned(&place);
}

#[test]
fn notes_of_what_was_pushed_are_entries() {
    let registry = Registry::start(Access::Plain);
    registry.push(&base::busybox(), base::TAG, "base:1", None);
    let (cache, app) = (registry.reference("cache"), registry.reference("app"));
    Build::bare()
        .file("Dockerfile", format!("FROM {}\nRUN echo 1 > /1\n", registry.reference("base:1")))
        .flags(["--insecure", "--insecure-pull", "--cache"])
        .flag(format!("--cache-repo={cache}"))
        .flag(format!("--destination={app}:1"))
        .run()
        .succeeded();
    let listed = json(&["ls", &cache, "--insecure"]);
    let entries = listed["entries"].as_array().expect("a list");
    let note = entries.iter().find(|it| it["pushed_to"] == app.as_str()).expect("a note");
    let manifest = registry.manifest("app:1").expect("it was pushed");
    let digest = digest(&manifest);
    let key = note["key"].as_str().expect("a key");
    assert_eq!((entries.len(), note["image"].as_str()), (2, Some(digest.as_str())), "{listed}");
    let told = told(&["explain", &cache, key, "--insecure"]);
    assert!(told.contains(&format!("{app} was given {digest}")), "{told}");
    let pruned = json(&["prune", &cache, "--all", "--insecure"]);
    assert_eq!(pruned["removed"].as_array().map(Vec::len), Some(2), "{pruned}");
    assert_eq!(json(&["ls", &cache, "--insecure"])["entries"], Value::Array(Vec::new()));
}

/// Builds on a machine with this directory of caches, one called `pip` and one called `apt`.
fn with_mounts(registry: &Registry, caches: &Path) {
    let dockerfile = "FROM busybox\n\
        RUN --mount=type=cache,id=pip,target=/c seq 1 30000 > /c/pip\n\
        RUN --mount=type=cache,id=apt,target=/c,mode=0700 seq 1 3000 > /c/apt\n";
    Build::of(dockerfile)
        .base("busybox", base::busybox())
        .share("caches", caches)
        .flags(["--cache-dir={caches}", "--insecure", "--cache-mounts=registry"])
        .flag(format!("--cache-repo={}", registry.reference("cache")))
        .run()
        .succeeded();
}

#[test]
fn caches_of_mounts_are_seen_and_pruned_where_they_are() {
    let (registry, caches) = (Registry::start(Access::Plain), tempfile::tempdir().unwrap());
    with_mounts(&registry, caches.path());

    let place = registry.reference("cache");
    let listed = json(&["ls", &place, "--insecure"]);
    let shared = listed["entries"].as_array().expect("a list");
    let mut names: Vec<_> = shared.iter().filter_map(|it| it["mount"].as_str()).collect();
    names.sort_unstable();
    assert_eq!((names, &listed["others"]), (vec!["apt", "pip"], &Value::from(0)), "{listed}");
    let table = told(&["ls", &place, "--insecure"]);
    assert!(table.contains("cache \"pip\" for linux/"), "{table}");
    let pip = shared.iter().find(|it| it["mount"] == "pip").expect("it is there");
    let explained =
        told(&["explain", &place, "--insecure", &pip["key"].as_str().expect("a key")[..16]]);
    assert!(explained.contains("content  168.9 kB in 1 layer\n"), "{explained}");
    told(&["prune", &place, "--insecure", "--all"]);
    assert_eq!(json(&["ls", &place, "--insecure"])["entries"], serde_json::json!([]));

    let place = format!("mounts:{}", caches.path().display());
    let listed = json(&["ls", &place]);
    let local = listed["caches"].as_array().expect("a list");
    assert_eq!(local.len(), 2, "{listed}");
    // What was used last comes first.
    assert!(local[0]["key"].as_str().is_some_and(|it| it.starts_with("id \"apt\"")), "{listed}");
    let table = told(&["ls", &place]);
    assert!(table.lines().count() == 4 && table.contains("\"pip\""), "{table}");
    let name = local[0]["name"].as_str().expect("a name");
    assert!(told(&["explain", &place, &name[..12]]).contains("  mode Some(\"700\")\n"));
    let keep = format!("--keep={}", local[0]["bytes"]);
    let would = told(&["prune", &place, &keep, "--dry-run"]);
    assert!(would.contains("1 cache, ") && would.contains("would be emptied; 1 of "), "{would}");
    assert_eq!(json(&["ls", &place]), listed, "nothing went");
    told(&["prune", &place, &keep]);
    let left = json(&["ls", &place]);
    assert_eq!(left["caches"], serde_json::json!([local[0]]));
    assert!(told(&["prune", &place, "--older-than=1h"]).starts_with("0 caches, 0 B emptied; 1 of"));
    told(&["prune", &place, "--all"]);
    assert_eq!(json(&["ls", &place])["bytes"], 0);
}

#[test]
fn what_is_damaged_is_listed_and_goes_with_all() {
    let store = tempfile::tempdir().unwrap();
    let place = format!("dir:{}", store.path().display());
    filled("busybox", &place, |build| build.base("busybox", base::busybox()));
    let listed = json(&["ls", &place]);
    let layer = listed["entries"][0]["layer"].as_str().expect("a layer").to_owned();
    let hex = layer.trim_start_matches("sha256:");
    fs::remove_file(store.path().join("blobs/sha256").join(hex)).unwrap();
    let table = told(&["ls", &place]);
    assert!(table.contains("unusable: its layer"), "{table}");
    told(&["prune", &place, "--all"]);
    assert_eq!(json(&["ls", &place])["entries"], serde_json::json!([]));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let store = tempfile::tempdir().unwrap();
    let dir = format!("dir:{}", store.path().display());
    for (arguments, want) in [
        (&["ls", "dir:/does/not/exist"][..], "there is no cache in /does/not/exist"),
        (&["ls", "r.example/c:tag"], "it names one image"),
        (&["prune", &dir], "nothing says which entries are to go"),
        (&["prune", &dir, "--keep=much"], "--keep=much: no size"),
        (&["prune", &dir, "--older-than=6"], "--older-than=6: no duration"),
        (&["explain", &dir, "abc"], "no entry is called abc"),
        (&["ls", "mounts:/does/not"], "there are no caches of mounts in /does/not"),
        (&["ls", "127.0.0.1:1/cache"], "list the tags of 127.0.0.1:1/cache"),
    ] {
        let output = cache(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(errors.contains(want), "{arguments:?}: {errors}");
    }
    assert!(Path::new(store.path()).read_dir().unwrap().next().is_none(), "nothing was made");
}
