//! Base images that a warmer left on a volume.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::base;
use crate::executor::{Build, Ended, PLACES};
use crate::image::Image;
use crate::registry::{Access, Registry};
use crate::tools;

fn registry() -> Registry {
    let registry = Registry::start(Access::Plain);
    registry.push(&base::busybox(), base::TAG, "base:1", None);
    registry
}

/// Runs the warmer on a directory.
fn warmer(dir: &Path, flags: &[&str]) -> Output {
    let mut warmer = Command::new(env!("CARGO_BIN_EXE_warmer"));
    warmer.args(["--insecure-pull", "--cache-dir"]).arg(dir).args(flags);
    warmer.output().expect("the warmer runs")
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name != ".warmer-locks")
        .collect();
    names.sort();
    names
}

fn build(registry: &Registry, dir: &Path, from: &str) -> Build {
    Build::of(&format!("FROM {from}\nRUN echo 1 > /a\n"))
        .bring("bases", dir)
        .flags(["--insecure-pull", "--cache", "--no-push-cache", "--cache-dir={bases}"])
        .flag(format!("--cache-repo={}", registry.reference("cache")))
        .flag("--insecure")
}

fn blobs_asked(registry: &Registry) -> usize {
    registry.paths("GET").iter().filter(|path| path.contains("/base/blobs/")).count()
}

fn says(ended: &Ended, words: &str) {
    assert!(ended.log.contains(words), "no {words:?} in:\n{}", ended.log);
}

#[test]
fn what_is_warm_is_not_downloaded() {
    let registry = registry();
    let volume = tempfile::tempdir().expect("a directory");
    let dir = volume.path().join("new");
    let name = registry.reference("base:1");
    let dockerfile = volume.path().join("Dockerfile");
    let text = format!("ARG V=0\nFROM {} AS a\nFROM a\nFROM scratch\n", name.replace(":1", ":$V"));
    fs::write(&dockerfile, text).expect("written");
    let file = dockerfile.display().to_string();
    let output = warmer(&dir, &["-d", &file, "--build-arg=V=1", "-i", &name]);
    assert!(output.status.success(), "{}", tools::said(&output));
    let digest = Image::pull(&registry, "base:1").digest;
    assert_eq!(entries(&dir), std::slice::from_ref(&digest));
    for place in PLACES {
        // The config of the base is asked for, and no layer.
        let before = blobs_asked(&registry);
        let ended = build(&registry, &dir, &name).place(place).run().succeeded();
        says(&ended, "in the cache");
        assert_eq!(blobs_asked(&registry) - before, 1, "{place:?}: {:?}", registry.paths("GET"));
        assert!(ended.image().tree().contains_key("/a"));
        // By digest no registry is needed.
        let gone = format!("127.0.0.1:1/base@{digest}");
        let ended = build(&registry, &dir, &gone).place(place).run().succeeded();
        assert!(ended.image().tree().contains_key("/a"), "{place:?}");
    }
    // It is there, so nothing is fetched; unless it is to be, or expired.
    for (flag, fetched) in [("--force=false", 0), ("--force", 1), ("--cache-ttl=0s", 1)] {
        let before = blobs_asked(&registry);
        let output = warmer(&dir, &["-i", &name, flag]);
        assert!(output.status.success(), "{}", tools::said(&output));
        assert_eq!(blobs_asked(&registry) - before, 1 + fetched, "{flag}");
        assert_eq!(entries(&dir), std::slice::from_ref(&digest), "{flag}");
    }
    let expired = build(&registry, &dir, &name).flag("--cache-ttl=0s").run().succeeded();
    says(&expired, "expired");
}

#[test]
fn a_damaged_layer_is_downloaded_and_an_archive_is_read() {
    let registry = registry();
    let volume = tempfile::tempdir().expect("a directory");
    let name = registry.reference("base:1");
    warmer(volume.path(), &["-i", &name]);
    let image = Image::pull(&registry, "base:1");
    let layer = image.top().digest["sha256:".len()..].to_owned();
    let layout = volume.path().join(&image.digest);
    let blob = layout.join("blobs/sha256").join(&layer);
    let archive = volume.path().join("archive.tar");
    fs::copy(&blob, volume.path().join(format!("{layer}.tar.gz"))).expect("copied");
    let dir = volume.path().display().to_string();
    tools::run(
        "tar",
        ["-C", &dir, "-cf", &archive.display().to_string(), &format!("{layer}.tar.gz")],
    );
    fs::write(&blob, "damage").expect("written");
    let ended = build(&registry, volume.path(), &name).run().succeeded();
    says(&ended, "is not used: ");
    assert!(ended.image().tree().contains_key("/a"));
    fs::remove_dir_all(&layout).expect("removed");
    fs::rename(&archive, &layout).expect("moved");
    let before = blobs_asked(&registry);
    build(&registry, volume.path(), &name).run().succeeded();
    assert_eq!(blobs_asked(&registry) - before, 1, "the layer is in the archive");
}

#[test]
fn warmers_share_a_volume_and_one_image_that_is_missing_is_a_warning() {
    let registry = registry();
    let volume = tempfile::tempdir().expect("a directory");
    let (name, missing) = (registry.reference("base:1"), registry.reference("none:1"));
    std::thread::scope(|scope| {
        let start = || scope.spawn(|| warmer(volume.path(), &["-i", &missing, "-i", &name]));
        let running: Vec<_> = (0..3).map(|_| start()).collect();
        for one in running {
            let output = one.join().expect("it ends");
            assert!(output.status.success(), "{}", tools::said(&output));
            assert!(tools::said(&output).contains("not found"), "{}", tools::said(&output));
        }
    });
    assert_eq!(entries(volume.path()).len(), 1);
    let output = warmer(volume.path(), &["-i", &missing]);
    assert_eq!(output.status.code(), Some(1), "{}", tools::said(&output));
    assert!(tools::said(&output).contains("no image could be warmed"), "{}", tools::said(&output));
}
