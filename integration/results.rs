//! What the image carries besides its files, and where its name is told.

use std::fs;

use crate::base;
use crate::executor::{Build, Ended};
use crate::https::HttpsSink;
use crate::image::Image;
use crate::registry::{Access, Registry};

fn small(dockerfile: &str) -> Build {
    Build::bare().file("Dockerfile", dockerfile).base("busybox", base::busybox())
}

#[test]
fn labels_of_the_dockerfile_win_and_annotations_are_the_images_own() {
    let image = small("FROM busybox AS one\nLABEL a=stage\nFROM one\nLABEL b=file\nRUN touch /f\n")
        .flags(["--no-push", "--oci-layout-path={out}/image", "--label=b=flag", "--label=c=d=e"])
        .flags(["--annotation=k=v=w", "--annotation=k2="])
        .run()
        .succeeded()
        .image();
    assert_eq!(
        image.setting("/Labels"),
        &serde_json::json!({"a": "stage", "b": "file", "c": "d=e"})
    );
    assert_eq!(image.manifest["annotations"], serde_json::json!({"k": "v=w", "k2": ""}));
}

#[test]
fn the_image_has_the_media_types_that_are_asked_for() {
    let registry = Registry::start(Access::Plain);
    for (of_base, format) in [(None, "docker"), (Some("v2s2"), "oci")] {
        registry.push(&base::busybox(), base::TAG, "base:1", of_base);
        let dockerfile = format!("FROM {}\nRUN touch /a\n", registry.reference("base:1"));
        Build::bare()
            .file("Dockerfile", dockerfile)
            .flag(format!("--destination={}", registry.reference("app:1")))
            .flag(format!("--image-format={format}"))
            .run()
            .succeeded();
        Image::pull(&registry, "app:1").validate();
        let manifest = String::from_utf8(registry.manifest("app:1").unwrap()).unwrap();
        let (one, other) = ("application/vnd.oci.", "application/vnd.docker.");
        let (wanted, unwanted) = if format == "oci" { (one, other) } else { (other, one) };
        // The manifest's own, the config's, and those of two layers.
        assert_eq!(manifest.matches(wanted).count(), 4, "{manifest}");
        assert_eq!(manifest.matches(unwanted).count(), 0, "{manifest}");
    }
}

#[test]
fn a_zstd_base_is_no_docker_image() {
    use crate::craft::{Compression, Craft, Layer};
    let layout = tempfile::tempdir().unwrap();
    Craft::new()
        .tar(Layer::new().file("f", "1").tar(), Compression::Zstd)
        .write(layout.path(), "x");
    Build::bare()
        .file("Dockerfile", "FROM zstd\nCOPY Dockerfile /\n")
        .base("zstd", layout.path())
        .flags(["--no-push", "--image-format=docker"])
        .run()
        .refused(1, &["--image-format", "zstd", "--image-format=oci"]);
}

#[test]
fn names_are_told_for_each_destination_in_each_registry() {
    let (one, two) = (Registry::start(Access::Plain), Registry::start(Access::Plain));
    let names = [one.reference("a:1"), one.reference("a:2"), two.reference("b/c:1")];
    let build = small("FROM busybox\nRUN touch /f\n")
        .flags(["--digest-file={out}/digest", "--image-name-with-digest-file={out}/new/names"])
        .flag("--image-name-tag-with-digest-file={out}/tags")
        .variable("BUILDER_OUTPUT", "{out}/builder");
    let ended = names.iter().fold(build, |it, name| it.flags(["-d"]).flag(name)).run().succeeded();
    let digest = fs::read_to_string(ended.out("digest")).unwrap();
    let lines = |line: &dyn Fn(&String) -> String| names.iter().map(line).collect::<String>();
    let bare = |name: &String| name.rsplit_once(':').unwrap().0.to_owned();
    for (file, want) in [
        ("new/names", lines(&|it| format!("{}@{digest}\n", bare(it)))),
        ("tags", lines(&|it| format!("{it}@{digest}\n"))),
        ("builder/images", lines(&|it| format!("{{\"name\":\"{it}\",\"digest\":\"{digest}\"}}\n"))),
    ] {
        assert_eq!(fs::read_to_string(ended.out(file)).unwrap(), want, "{file}");
    }
    for (registry, name) in [(&one, "a"), (&two, "b/c")] {
        assert!(registry.manifest(&format!("{name}@{digest}")).is_some(), "{name}");
        // Each blob is sent once to each registry: one layer of the base, a new one, the config.
        let uploads = registry.paths("PUT").iter().filter(|it| it.contains("/blobs/")).count();
        assert_eq!(uploads, 3, "{name}");
    }
}

/// A build whose digest goes to a signed URL.
fn digest_to(sink: &HttpsSink) -> Ended {
    let ended = small("FROM busybox\n")
        .flags(["--no-push", "--oci-layout-path={out}/image", "-v", "trace"])
        .flag(format!("--digest-file={}", sink.url("bucket/digest?signature=canary")))
        .bring("ca", sink.authority())
        .variable("SSL_CERT_FILE", "{ca}")
        .run();
    assert!(!ended.log.contains("canary"), "{}", ended.log);
    ended
}

#[test]
fn a_digest_is_put_to_a_url_that_no_log_tells() {
    let sink = HttpsSink::start(&[503]);
    let ended = digest_to(&sink).succeeded();
    let digest = Image::open(&ended.out("image")).digest;
    let put = ("PUT /bucket/digest?signature=canary HTTP/1.1".to_owned(), digest);
    assert_eq!(sink.seen(), [put.clone(), put]);

    let sink = HttpsSink::start(&[403]);
    let ended = digest_to(&sink);
    assert_eq!(ended.code(), 1);
    assert!(ended.log.contains("PUT to 127.0.0.1:") && ended.log.contains("403"), "{}", ended.log);
}
