//! `executor push` and `executor login`, on real registries.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::base;
use crate::craft::{Compression, Craft, Layer, digest, machine, write_multi_platform};
use crate::executor::static_executor;
use crate::image::{Image, compare};
use crate::registry::{Access, PASSWORD, Registry, USER};
use crate::tools;

/// The executor with nothing of this machine but a directory.
fn executor(home: &Path) -> Command {
    let mut command = Command::new(static_executor());
    command.env_clear().env("HOME", home).env("TMPDIR", home).current_dir(home);
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Pushes; what was said. Nothing is left behind.
fn push(path: &Path, names: &[String], flags: &[&str]) -> Result<String, String> {
    let home = tempfile::tempdir().unwrap();
    let mut command = executor(home.path());
    command.arg("push").arg(path).args(flags);
    for name in names {
        command.arg("-d").arg(name);
    }
    let output = command.output().unwrap();
    let left: Vec<String> = fs::read_dir(home.path().join("kaniko"))
        .map(|entries| entries.map(|entry| entry.unwrap().path().display().to_string()).collect())
        .unwrap_or_default();
    assert_eq!(left, Vec::<String>::new());
    match output.status.success() {
        true => Ok(said(&output)),
        false => Err(said(&output)),
    }
}

fn blob(layout: &Path, bytes: &[u8], media_type: &str) -> Value {
    let digest = digest(bytes);
    fs::write(layout.join("blobs/sha256").join(&digest["sha256:".len()..]), bytes).unwrap();
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}

#[test]
fn a_layout_goes_as_it_is_to_each_name() {
    let registry = Registry::start(Access::Plain);
    let names = [registry.reference("a:1"), registry.reference("b/c:2")];
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("digest");
    let log =
        push(&base::busybox(), &names, &[&format!("--digest-file={}", file.display())]).unwrap();
    let image = Image::open(&base::busybox());
    assert_eq!(fs::read_to_string(file).unwrap(), image.digest);
    for name in ["a:1", "b/c:2"] {
        assert_eq!(Image::pull(&registry, name).digest, image.digest, "{log}");
    }
    // Once more: nothing is sent but the manifest.
    let all = ["HEAD", "GET", "POST", "PATCH", "PUT", "DELETE"];
    let requests = || all.iter().map(|method| registry.paths(method).len()).sum::<usize>();
    let before = requests();
    push(&base::busybox(), &names[..1], &[]).unwrap();
    let more = requests() - before;
    assert!(more <= image.layers.len() + 4, "{more} requests for an unchanged image");
    push(&base::busybox(), &names[..1], &["--skip-push-permission-check"]).unwrap();
    assert_eq!(requests() - before - more, image.layers.len() + 2);
}

#[test]
fn an_index_goes_with_all_its_images() {
    let registry = Registry::start(Access::Plain);
    let layout = tempfile::tempdir().unwrap();
    let other = if machine() == "amd64" { "arm64" } else { "amd64" };
    let one = |name: &str| Craft::new().layer(Layer::new().file(name, name));
    write_multi_platform(layout.path(), "x", &[one("own"), one("foreign").architecture(other)]);
    push(layout.path(), &[registry.reference("multi:1")], &[]).unwrap();
    let index: Value = serde_json::from_slice(&registry.manifest("multi:1").unwrap()).unwrap();
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    for entry in entries {
        let name = format!("multi@{}", entry["digest"].as_str().unwrap());
        assert!(registry.manifest(&name).is_some(), "{name}");
    }
}

#[test]
fn archives_of_docker_save_by_other_tools_and_by_this_one() {
    let registry = Registry::start(Access::Plain);
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    fs::create_dir(&layout).unwrap();
    let tar = |name: &str| Layer::new().directory("d").file(&format!("d/{name}"), name).tar();
    Craft::new()
        .tar(tar("a"), Compression::Gzip)
        .tar(tar("b"), Compression::None)
        .write(&layout, "x");
    let theirs = dir.path().join("theirs.tar");
    let to = format!("docker-archive:{}:example.test/a:1", theirs.display());
    let from = format!("oci:{}:x", layout.display());
    tools::run("skopeo", ["--insecure-policy", "copy", "--quiet", &from, &to]);
    let built = crate::executor::Build::of("FROM busybox\nRUN touch /a\n")
        .base("busybox", base::busybox())
        .flag("--tar-path={out}/image.tar")
        .run()
        .succeeded();
    let packed = fs::File::create(dir.path().join("packed.tar.gz")).unwrap();
    let gzip = Command::new("gzip").args(["-c"]).arg(&theirs).stdout(packed).status();
    assert!(gzip.unwrap().success());
    for (archive, want) in [
        (theirs, Image::open(&layout)),
        (dir.path().join("packed.tar.gz"), Image::open(&layout)),
        (built.out("image.tar"), Image::open(&built.out("image"))),
    ] {
        push(&archive, &[registry.reference("app:1")], &[]).unwrap();
        let image = Image::pull(&registry, "app:1");
        image.validate();
        assert_eq!(compare(&want.tree(), &image.tree()), Vec::<String>::new());
        assert_eq!(image.setting("/Env"), want.setting("/Env"));
    }
}

#[test]
fn what_refers_to_an_image_comes_along_and_can_be_found() {
    const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
    let registry = Registry::start(Access::Plain);
    let layout = tempfile::tempdir().unwrap();
    Craft::new().layer(Layer::new().file("f", "1")).write(layout.path(), "x");
    let path = layout.path().join("index.json");
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let subject = json!({"mediaType": OCI, "digest": index["manifests"][0]["digest"],
        "size": index["manifests"][0]["size"]});
    let artifact = |text: &str, kind: &str| {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI, "artifactType": kind,
            "config": blob(layout.path(), b"{}", "application/vnd.oci.empty.v1+json"),
            "layers": [blob(layout.path(), text.as_bytes(), "text/plain")],
            "subject": subject, "annotations": {"text": text},
        });
        blob(layout.path(), manifest.to_string().as_bytes(), OCI)
    };
    let artifacts = [artifact("signature", "a/sig"), artifact("attestation", "a/att")];
    index["manifests"].as_array_mut().unwrap().extend(artifacts.clone());
    fs::write(&path, index.to_string()).unwrap();
    let tag = format!("app:{}", subject["digest"].as_str().unwrap().replace(':', "-"));
    for _ in 0..2 {
        push(layout.path(), &[registry.reference("app:1")], &[]).unwrap();
        let found: Value = serde_json::from_slice(&registry.manifest(&tag).unwrap()).unwrap();
        let listed: Vec<(&str, &str, &str)> = found["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| {
                let text = |pointer: &str| it.pointer(pointer).and_then(Value::as_str).unwrap();
                (text("/digest"), text("/artifactType"), text("/annotations/text"))
            })
            .collect();
        let digest = |at: usize| artifacts[at]["digest"].as_str().unwrap();
        assert_eq!(
            listed,
            [(digest(0), "a/sig", "signature"), (digest(1), "a/att", "attestation")]
        );
    }
    // An artifact by itself, to the image that is there already.
    index["manifests"] = json!([artifact("sbom", "a/sbom")]);
    fs::write(&path, index.to_string()).unwrap();
    push(layout.path(), &[registry.reference("app:sbom")], &[]).unwrap();
    let found = String::from_utf8(registry.manifest(&tag).unwrap()).unwrap();
    assert_eq!(found.matches("artifactType").count(), 3, "{found}");
}

#[test]
fn what_is_refused() {
    let registry = Registry::start(Access::Plain);
    let name = [registry.reference("app:1")];
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("layout");
    fs::create_dir(&broken).unwrap();
    Craft::new().layer(Layer::new().file("f", "1")).write(&broken, "x");
    let layer = Image::open(&broken).top().digest.clone();
    let file = broken.join("blobs/sha256").join(&layer["sha256:".len()..]);
    fs::write(file, "other").unwrap();
    let text = dir.path().join("text");
    fs::write(&text, "no archive").unwrap();
    for (path, want) in [
        (dir.path().join("nothing"), "No such file"),
        (text, "no archive of docker save"),
        (dir.path().to_owned(), "no OCI layout"),
        (broken, layer.as_str()),
    ] {
        let said = push(&path, &name, &[]).unwrap_err();
        assert!(said.contains(want), "{want}: {said}");
        assert!(registry.manifest("app:1").is_none(), "{want}");
    }
    let said = push(&base::busybox(), &["r.example/UPPER:1".to_owned()], &[]).unwrap_err();
    assert!(said.contains("--destination=r.example/UPPER"), "{said}");
}

#[test]
fn a_login_lets_a_push_in() {
    let registry = Registry::start(Access::PlainBasic);
    let home = tempfile::tempdir().unwrap();
    let try_push = || {
        let mut command = executor(home.path());
        command.arg("push").arg(base::busybox()).args(["-d", &registry.reference("app:1")]);
        command.output().unwrap()
    };
    assert!(said(&try_push()).contains("401"));
    let password = home.path().join("password");
    fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let output = executor(home.path())
        .args(["login", registry.address(), "-u", USER, "--password-stdin"])
        .stdin(fs::File::open(password).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success() && !said(&output).contains(PASSWORD), "{}", said(&output));
    let output = try_push();
    assert!(output.status.success(), "{}", said(&output));
    assert!(registry.manifest("app:1").is_some());
}
