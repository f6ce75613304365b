//! Images of this program beside those of buildah: the same Dockerfiles, the same context.
//!
//! What is compared is what an image is to whoever runs it: the merged tree
//! with all metadata, times of what was copied among it, and the settings.
//! Layers and history are each builder's own way; here they have to be
//! consistent, and be read by umoci and skopeo.
//!
//! Where buildah is not BuildKit, BuildKit counts and the table has no case: a
//! link at the destination of a COPY is followed, and a directory that is
//! copied keeps its time.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::base;
use crate::build_basic::on_busybox;
use crate::executor::{Ended, Place};
use crate::image::{Entry, Image, Kind, Tree, compare, unpack};
use crate::tools;

const DOCKERFILES: &str = include_str!("../testdata/against-buildah.txt");

/// The time of every file of the context.
const THEN: &str = "1600000000";

/// Paths that buildah makes or touches for its own mounts.
const BUILDAHS_OWN: [&str; 6] =
    ["/", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/run", "/run/.containerenv"];

/// Settings that mean the same in every image; buildah loses others on the way to OCI.
const SETTINGS: [&str; 9] = [
    "Env",
    "Entrypoint",
    "Cmd",
    "WorkingDir",
    "User",
    "ExposedPorts",
    "Volumes",
    "Labels",
    "StopSignal",
];

fn dockerfiles() -> Vec<(&'static str, String)> {
    let cases = DOCKERFILES.split("\n=== ").skip(1).filter_map(|case| case.split_once('\n'));
    cases
        .map(|(name, text)| (name, format!("{}\n", text.replace("BASE", "FROM busybox"))))
        .collect()
}

/// Fills the context, with times that both builders see.
fn fill(context: &Path) {
    for (path, mode) in [
        ("f", 0o640),
        ("a.txt", 0o644),
        ("b.txt", 0o600),
        ("ignored.txt.no", 0o644),
        ("program", 0o755),
        ("d/one", 0o644),
        ("d/sub/two", 0o444),
        (".dockerignore", 0o644),
    ] {
        let file = context.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let text = match path {
            "program" => "#!/bin/sh\necho program\n",
            ".dockerignore" => "ignored*\nDockerfile\n.dockerignore\narchive.tar.src\n",
            other => other,
        };
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::symlink("sub/two", context.join("d/link")).unwrap();
    fs::create_dir(context.join("d/empty")).unwrap();
    tools::output(
        Command::new("tar")
            .arg("-C")
            .arg(context.join("d"))
            .arg("-cf")
            .arg(context.join("archive.tar"))
            .args(["--owner=3", "--group=4", "--mtime=@1600000000", "one", "sub"]),
    );
    tools::output(Command::new("find").arg(context).args([
        "-exec",
        "touch",
        "-h",
        "-d",
        "@1600000000",
        "{}",
        "+",
    ]));
}

/// buildah, with storage of its own.
struct Buildah {
    home: TempDir,
}

impl Buildah {
    fn with_busybox() -> Self {
        let buildah = Self { home: tempfile::tempdir_in(base::bases()).expect("a directory") };
        let pulled = buildah.run(&["pull".into(), format!("oci:{}", base::busybox().display())]);
        buildah.run(&["tag".into(), pulled.trim().to_owned(), "localhost/busybox:latest".into()]);
        buildah
    }

    fn run(&self, arguments: &[String]) -> String {
        let home = self.home.path();
        let mut command = tools::command("buildah");
        command
            .env("TMPDIR", home)
            .arg("--root")
            .arg(home.join("root"))
            .arg("--runroot")
            .arg(home.join("run"))
            .args(["--storage-driver=vfs"])
            .args(arguments);
        tools::output(&mut command)
    }

    fn image(&self, dockerfile: &Path, context: &Path, number: usize) -> Image {
        let layout = self.home.path().join(format!("image-{number}"));
        let name = format!("localhost/built:{number}");
        let text = |path: &Path| path.display().to_string();
        self.run(&[
            "build".into(),
            "--quiet".into(),
            "--isolation=chroot".into(),
            "--pull=never".into(),
            format!("--tag={name}"),
            format!("--file={}", text(dockerfile)),
            text(context),
        ]);
        self.run(&["push".into(), "--quiet".into(), name, format!("oci:{}:latest", text(&layout))]);
        Image::open(&layout)
    }
}

/// What is compared of a tree, one line for each path: times where one of both has the context's.
fn comparable(image: &Image) -> Tree {
    let mut tree = image.tree();
    tree.retain(|path, _| !BUILDAHS_OWN.contains(&path.as_str()));
    // A link's own mode means nothing.
    for entry in tree.values_mut().filter(|entry| entry.kind == Kind::Symlink) {
        entry.mode = 0o777;
    }
    tree
}

fn times(left: &Tree, right: &Tree) -> Vec<String> {
    let of_context = |entry: &Entry| entry.mtime == THEN;
    let both = left.iter().filter_map(|(path, entry)| Some((path, entry, right.get(path)?)));
    both.filter(|(_, left, _)| left.kind != Kind::Directory)
        .filter(|(_, left, right)| of_context(left) != of_context(right))
        .map(|(path, left, right)| format!("{path}: time {} | {}", left.mtime, right.mtime))
        .collect()
}

fn settings(image: &Image) -> BTreeMap<&'static str, Value> {
    let setting = |name: &'static str| {
        let mut value = image.setting(&format!("/{name}")).clone();
        if let Some(labels) = value.as_object_mut() {
            labels.remove("io.buildah.version");
        }
        let is_empty = value.as_object().is_some_and(serde_json::Map::is_empty);
        let none = value.is_null() || is_empty || value == "" || value == "/";
        (!none).then_some((name, value))
    };
    SETTINGS.into_iter().filter_map(setting).collect()
}

fn read_by_others(ended: &Ended, case: &str) {
    let image = format!("oci:{}", ended.out("image").display());
    let told = tools::run("skopeo", ["inspect", "--config", image.as_str()]);
    assert!(told.contains("rootfs"), "{case}: {told}");
    let home = tempfile::tempdir().unwrap();
    assert!(unpack(&ended.out("image"), home.path()).is_dir(), "{case}");
}

fn differences(case: &str, ours: &Image, theirs: &Image) -> Vec<String> {
    let (left, right) = (comparable(ours), comparable(theirs));
    let mut found = compare(&left, &right);
    found.extend(times(&left, &right));
    let (left, right) = (settings(ours), settings(theirs));
    if left != right {
        found.push(format!("settings: {left:?} | {right:?}"));
    }
    found.into_iter().map(|line| format!("{case}: {line}")).collect()
}

#[test]
fn images_are_those_of_buildah() {
    let buildah = Buildah::with_busybox();
    let context: PathBuf = buildah.home.path().join("context");
    fs::create_dir(&context).unwrap();
    fill(&context);
    let cases = dockerfiles();
    assert!(cases.len() >= 40, "{}", cases.len());
    let mut found = Vec::new();
    for (number, (case, text)) in cases.iter().enumerate() {
        let dockerfile = buildah.home.path().join(format!("Dockerfile-{number}"));
        fs::write(&dockerfile, text).unwrap();
        let ended = on_busybox(Place::Host, text).context_by(fill).run().succeeded();
        read_by_others(&ended, case);
        let theirs = buildah.image(&dockerfile, &context, number);
        found.extend(differences(case, &ended.image(), &theirs));
    }
    assert_eq!(found, Vec::<String>::new(), "ours | buildah's:\n{}", found.join("\n"));
}
