//! Bases come from real registries, images go to them, and other tools read them.

use std::fs;

use crate::base;
use crate::craft::{Compression, Craft, Layer, machine, write_multi_platform};
use crate::executor::{Build, PLACES, Place};
use crate::image::{Image, compare};
use crate::pod::Privileges;
use crate::registry::{Access, Registry};
use crate::tools;

/// A build that may talk to the registry, however it is reached.
fn with_access(registry: &Registry, access: Access, build: Build) -> Build {
    let build = match access {
        Access::Plain | Access::PlainBasic => build.flags(["--insecure", "--insecure-pull"]),
        _ => build.bring("ca", registry.authority()).variable("SSL_CERT_FILE", "{ca}"),
    };
    match access {
        Access::Plain | Access::Tls => build,
        _ => build.bring("login", registry.docker_config()).variable("DOCKER_CONFIG", "{login}"),
    }
}

fn pushing(registry: &Registry, dockerfile: &str, name: &str) -> Build {
    Build::bare()
        .file("Dockerfile", dockerfile)
        .flag("--digest-file={out}/digest")
        .flag(format!("--destination={}", registry.reference(name)))
}

#[test]
fn a_base_is_pulled_and_the_image_pushed() {
    for access in [Access::Plain, Access::Tls, Access::TlsBasic, Access::PlainBasic] {
        let registry = Registry::start(access);
        registry.push(&base::busybox(), base::TAG, "base:1", None);
        for place in PLACES {
            let dockerfile = format!("FROM {}\nRUN echo 1 > /a\n", registry.reference("base:1"));
            let build = pushing(&registry, &dockerfile, "app:1");
            let ended = with_access(&registry, access, build).place(place).run().succeeded();
            let image = Image::pull(&registry, "app:1");
            image.validate();
            assert_eq!(image.top().names(), ["/a"], "{access:?} {place:?}");
            let digest = fs::read_to_string(ended.out("digest")).unwrap();
            assert_eq!(digest, image.digest, "{access:?} {place:?}");
            assert!(registry.manifest(&format!("app@{digest}")).is_some(), "{access:?} {place:?}");
        }
        let tls = matches!(access, Access::Tls | Access::TlsBasic);
        assert_eq!(registry.was_asked_by("HTTP/2.0"), tls, "{access:?}");
    }
}

#[test]
fn tls_without_verification_is_allowed_when_asked_for() {
    let registry = Registry::start(Access::Tls);
    registry.push(&base::busybox(), base::TAG, "base:1", None);
    let dockerfile = format!("FROM {}\nRUN true\n", registry.reference("base:1"));
    pushing(&registry, &dockerfile, "app:1").flag("--skip-tls-verify").run().succeeded();
    Image::pull(&registry, "app:1").validate();
}

#[test]
fn every_kind_of_base_gives_the_same_files() {
    let registry = Registry::start(Access::Plain);
    let tar = Layer::new().directory("d").file("d/f", "1").tar();
    let craft =
        |how| Craft::new().tar(tar.clone(), how).tar(Layer::new().file("g", "2").tar(), how);
    let layout = tempfile::tempdir().unwrap();
    let mut names = Vec::new();
    for (name, how, format) in [
        ("gzip", Compression::Gzip, None),
        ("zstd", Compression::Zstd, None),
        ("plain", Compression::None, None),
        ("docker", Compression::Gzip, Some("v2s2")),
    ] {
        craft(how).write(layout.path(), "x");
        registry.push(layout.path(), "x", &format!("{name}:1"), format);
        names.push(format!("{name}:1"));
    }
    let other = if machine() == "amd64" { "arm64" } else { "amd64" };
    let foreign = Craft::new().architecture(other).layer(Layer::new().file("wrong", "x"));
    write_multi_platform(layout.path(), "x", &[foreign, craft(Compression::Gzip)]);
    registry.push(layout.path(), "x", "index:1", None);
    names.push("index:1".to_owned());
    let digest = crate::craft::digest(&registry.manifest("gzip:1").unwrap());
    names.push(format!("gzip@{digest}"));
    names.push(format!("gzip:1@{digest}"));

    for name in names {
        let base = registry.reference(&name);
        let image = Build::of(&format!("FROM {base}\nCOPY f /added\n"))
            .file("f", "1")
            .flag("--insecure-pull")
            .image();
        let paths: Vec<String> = image.tree().into_keys().filter(|path| path != "/").collect();
        assert_eq!(paths, ["/added", "/d", "/d/f", "/g"], "{name}");
    }
}

#[test]
fn the_image_is_of_its_base_s_kind() {
    let registry = Registry::start(Access::Plain);
    for (format, manifest_type) in [
        (None, "application/vnd.oci.image.manifest.v1+json"),
        (Some("v2s2"), "application/vnd.docker.distribution.manifest.v2+json"),
    ] {
        registry.push(&base::busybox(), base::TAG, "base:1", format);
        let dockerfile = format!("FROM {}\nRUN touch /a\n", registry.reference("base:1"));
        with_access(&registry, Access::Plain, pushing(&registry, &dockerfile, "app:1"))
            .run()
            .succeeded();
        let manifest = registry.manifest("app:1").unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        assert_eq!(manifest["mediaType"], manifest_type);
    }
}

#[test]
fn a_second_push_uploads_nothing_that_is_there() {
    let registry = Registry::start(Access::Plain);
    registry.push(&base::busybox(), base::TAG, "base:1", None);
    let dockerfile = format!("FROM {}\nLABEL a=b\n", registry.reference("base:1"));
    let build = |name| {
        with_access(&registry, Access::Plain, pushing(&registry, &dockerfile, name))
            .run()
            .succeeded();
    };
    let uploads = || registry.paths("PUT").iter().filter(|path| path.contains("/blobs/")).count();
    build("base:2");
    let first = uploads();
    build("base:3");
    // The config may differ: it says when the image was made.
    assert!(uploads() - first <= 1, "{:?}", registry.paths("PUT"));
}

#[test]
fn the_manifest_is_pushed_last() {
    let registry = Registry::start(Access::Plain);
    let dockerfile = "FROM busybox\nRUN echo 1 > /a\nRUN echo 2 > /b\nCOPY f /f\n";
    pushing(&registry, dockerfile, "app:1")
        .file("f", "1")
        .base("busybox", base::busybox())
        .flag("--insecure")
        .run()
        .succeeded();
    let written = registry.paths("PUT");
    assert_eq!(written.last().map(String::as_str), Some("/v2/app/manifests/1"), "{written:?}");
    assert_eq!(written.iter().filter(|path| path.contains("/manifests/")).count(), 1);
}

#[test]
fn a_blob_that_a_registry_garbles_is_refused() {
    let registry = Registry::start(Access::Plain);
    registry.push(&base::busybox(), base::TAG, "base:1", None);
    let digest = Image::open(&base::busybox()).top().digest.clone();
    let file = registry.blob_file(&digest);
    let whole = fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for bytes in [flipped, whole[..whole.len() - 1].to_vec()] {
        fs::write(&file, bytes).unwrap();
        let dockerfile = format!("FROM {}\nRUN true\n", registry.reference("base:1"));
        let ended = with_access(&registry, Access::Plain, Build::of(&dockerfile)).run();
        ended.refused(1, &[&digest["sha256:".len()..][..12]]);
    }
}

#[test]
fn several_destinations_get_the_same_image() {
    let registry = Registry::start(Access::Plain);
    let build = pushing(&registry, "FROM busybox\nRUN touch /a\n", "one:1")
        .base("busybox", base::busybox())
        .flags(["--insecure", "-d"])
        .flag(registry.reference("two/deep:latest"));
    build.run().succeeded();
    assert_eq!(registry.manifest("one:1"), registry.manifest("two/deep:latest"));
    assert!(registry.manifest("one:1").is_some());
    // The registry gets each blob once, and is told where it has it.
    let uploads = registry.paths("PUT").into_iter().filter(|path| path.contains("/blobs/uploads/"));
    let mut repositories: Vec<String> =
        uploads.map(|path| path.split("/blobs/").next().unwrap().to_owned()).collect();
    assert_eq!(repositories.len(), 3, "{repositories:?}");
    repositories.sort_unstable();
    Image::pull(&registry, "one:1").validate();
    Image::pull(&registry, "two/deep:latest").validate();
}

#[test]
fn other_tools_read_the_tarball_and_the_layout() {
    let dockerfile = "FROM busybox\nRUN mkdir -p /a/b && echo 1 > /a/b/c && ln /a/b/c /hard && \
                      ln -s c /a/b/l && chmod 4750 /hard && chown 3:4 /a && rm /etc/group\n\
                      ENV A=1\nCMD [\"x\"]\n";
    for place in PLACES {
        let ended = Build::of(dockerfile)
            .base("busybox", base::busybox())
            .flags(["--tar-path={out}/image.tar", "--destination=example.test/app:1"])
            .place(place)
            .run()
            .succeeded();
        let image = ended.image();

        let read = tempfile::tempdir().unwrap();
        let archive = format!("docker-archive:{}", ended.out("image.tar").display());
        let layout = format!("oci:{}:x", read.path().join("layout").display());
        tools::run("skopeo", ["--insecure-policy", "copy", "--quiet", &archive, &layout]);
        let loaded = Image::open(&read.path().join("layout"));
        assert_eq!(compare(&image.tree(), &loaded.tree()), Vec::<String>::new(), "{place:?}");
        assert_eq!(loaded.setting("/Env"), image.setting("/Env"), "{place:?}");

        assert_eq!(
            compare(&image.tree(), &unpacked_by_umoci(&ended.out("image"))),
            Vec::<String>::new()
        );
    }
}

/// The tree that umoci makes of the only image in a layout.
fn unpacked_by_umoci(layout: &std::path::Path) -> crate::image::Tree {
    let home = tempfile::tempdir().unwrap();
    let root = crate::image::unpack(layout, home.path());
    let tar = home.path().join("tree.tar");
    base::pack(&root, &tar);
    let packed = home.path().join("packed");
    fs::create_dir(&packed).unwrap();
    Craft::new().tar(fs::read(tar).unwrap(), Compression::None).write(&packed, "x");
    let mut tree = Image::open(&packed).tree();
    tree.remove("/");
    tree
}

#[test]
fn a_debian_base_goes_through_a_registry_and_a_pod() {
    let registry = Registry::start(Access::Plain);
    registry.push(&base::toolchain(), base::TAG, "toolchain:1", None);
    let dockerfile = format!(
        "FROM {}\nRUN python3 -c 'open(\"/a\", \"w\")'\n",
        registry.reference("toolchain:1")
    );
    let build = with_access(&registry, Access::Plain, pushing(&registry, &dockerfile, "app:1"));
    build.place(Place::Pod(Privileges::DEFAULT)).run().succeeded();
    let image = Image::pull(&registry, "app:1");
    image.validate();
    assert_eq!(image.top().names(), ["/a"]);
    let mut built = image.tree();
    built.remove("/a");
    assert_eq!(compare(&Image::open(&base::toolchain()).tree(), &built), Vec::<String>::new());
}
