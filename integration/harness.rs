//! The harness tried on its own, so that a failure of a case is the executor's.

use std::fs;

use serde_json::json;

use crate::base;
use crate::craft::{Compression, Craft, Layer};
use crate::image::{Image, compare};
use crate::registry::{Access, Registry};
use crate::tools;

#[test]
fn an_image_goes_through_every_kind_of_registry() {
    for access in [Access::Plain, Access::Tls, Access::TlsBasic, Access::PlainBasic] {
        let registry = Registry::start(access);
        registry.push(&base::busybox(), base::TAG, "base:1", None);
        let image = Image::pull(&registry, "base:1");
        image.validate();
        assert_eq!(image.digest, Image::open(&base::busybox()).digest, "{access:?}");
        assert!(registry.manifest("base:1").is_some(), "{access:?}");
        assert!(registry.manifest("base:2").is_none(), "{access:?}");
        let written = registry.paths("PUT");
        assert_eq!(written.last().map(String::as_str), Some("/v2/base/manifests/1"), "{access:?}");
    }
}

#[test]
fn a_tree_is_what_the_layers_say() {
    let layout = tempfile::tempdir().unwrap();
    let below = Layer::new()
        .directory("d")
        .file("d/gone", "1")
        .file("d/kept", "2")
        .directory("o")
        .file("o/hidden", "3")
        .file("became-a-directory", "4");
    let above = Layer::new()
        .whiteout("d/gone")
        .directory("o")
        .file("o/new", "5")
        .opaque("o")
        .directory("became-a-directory")
        .mode(0o4755)
        .owner(7, 8)
        .xattr("user.a", b"b")
        .file("set-id", "6")
        .hard_link("second", "set-id")
        .symlink("link", "/nowhere")
        .fifo("fifo")
        .character_device("null", 1, 3);
    Craft::new()
        .layer(below)
        .tar(above.tar(), Compression::Zstd)
        .config("User", json!("7"))
        .write(layout.path(), "x");
    let image = Image::open(layout.path());
    image.validate();
    assert_eq!(image.setting("/User"), "7");
    let tree = image.tree();
    let paths: Vec<&str> = tree.keys().map(String::as_str).collect();
    let want =
        "/became-a-directory /d /d/kept /fifo /link /null /o /o/new /second /set-id".split(' ');
    assert_eq!(paths, want.collect::<Vec<_>>());
    assert_eq!(tree["/second"], tree["/set-id"]);
    assert_eq!(tree["/set-id"].to_string(), "- 4755 7:8 1 \"6\" user.a=b");
    assert_eq!(tree["/null"].to_string(), "c 0644 0:0 0 1,3");
}

#[test]
fn what_is_wrong_with_a_layer_is_named() {
    for (layer, problem) in [
        (Layer::new().file("a", "").file("./a", ""), "./a is twice in one layer"),
        (Layer::new().file("../a", ""), "../a leaves the root"),
        (Layer::new().hard_link("a", "b"), "a links to b, not in this layer before it"),
        (Layer::new().file("b", "").hard_link("a", "/b"), "a links to /b: not relative"),
    ] {
        let layout = tempfile::tempdir().unwrap();
        Craft::new().layer(layer).write(layout.path(), "x");
        assert_eq!(Image::open(layout.path()).problems(), [problem]);
    }
}

#[test]
fn a_flipped_blob_is_noticed() {
    let layout = tempfile::tempdir().unwrap();
    let tar = Layer::new().file("a", "content").tar();
    Craft::new().tar(tar, Compression::None).write(layout.path(), "x");
    let image = Image::open(layout.path());
    let digest = image.top().digest.replace("sha256:", "");
    let blob = layout.path().join("blobs/sha256").join(digest);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[512] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let problems = Image::open(layout.path()).problems();
    assert_eq!(problems.len(), 2, "digest and diff ID: {problems:?}");
}

#[test]
fn umoci_unpacks_what_the_reader_reads() {
    let bundle = tempfile::tempdir().unwrap();
    let bundle = bundle.path().join("bundle");
    let image = format!("{}:{}", base::busybox().display(), base::TAG);
    tools::run("umoci", ["unpack", "--image", &image, bundle.to_str().unwrap()]);
    let tar = bundle.with_extension("tar");
    base::pack(&bundle.join("rootfs"), &tar);
    let layout = tempfile::tempdir().unwrap();
    Craft::new().tar(fs::read(tar).unwrap(), Compression::None).write(layout.path(), "x");
    let mut unpacked = Image::open(layout.path()).tree();
    unpacked.remove("/");
    assert_eq!(compare(&Image::open(&base::busybox()).tree(), &unpacked), Vec::<String>::new());
}
