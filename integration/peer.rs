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
//!
//! `PEER=all` takes those of `testdata/builds` too, as far as buildah builds
//! them; it prints what it could not, and what differs there is to be read.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tempfile::TempDir;

use crate::base;
use crate::build_basic::on_busybox;
use crate::executor::{Ended, Place};
use crate::image::{Entry, Image, Kind, Tree, compare, unpack};
use crate::{language, tools};

const DOCKERFILES: &str = include_str!("../testdata/against-buildah.txt");

/// The time of every file of the context.
const THEN: &str = "1600000000";

/// How many Dockerfiles of `testdata/builds` buildah 1.28 builds as BuildKit does.
const LANGUAGE_CASES: usize = 35;

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

/// Dockerfiles of `testdata/builds` that buildah builds to something else than BuildKit, whose images these are:
/// triggers and the last of two stages of one name, ARG among itself and between stages, SHELL, VOLUME, ranges of
/// EXPOSE, the owner of a WORKDIR, and several targets, which are kaniko's.
const OTHERWISE_IN_BUILDAH: [&str; 17] = [
    "WORKDIR is relative to the one before, and made with the USER as owner",
    "EXPOSE forms",
    "VOLUME forms",
    "SHELL is for RUN, CMD and ENTRYPOINT after it",
    "triggers of a stage run first in the one that starts from it, and are gone then",
    "settings are inherited, history too",
    "several: the first one is the result, the others are built",
    "the last of two stages with one name",
    "an escaped escape does not continue the line",
    "an empty CMD",
    "names in one ARG see those before them",
    "a stage does not see the ARGs of another one, but those of the one it starts from",
    "the name of the stage that is built",
    "where variables are replaced",
    "one EXPOSE may be a list in a variable",
    "scanner switches are no variables",
    "special names",
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
    /// How many images it was asked for.
    built: AtomicUsize,
}

impl Buildah {
    fn with_busybox() -> Self {
        let home = tempfile::tempdir_in(base::bases()).expect("a directory");
        let buildah = Self { home, built: AtomicUsize::new(0) };
        let pulled = buildah.run(&["pull".into(), format!("oci:{}", base::busybox().display())]);
        buildah.run(&["tag".into(), pulled.trim().to_owned(), "localhost/busybox:latest".into()]);
        buildah
    }

    fn run(&self, arguments: &[String]) -> String {
        tools::output(&mut self.command(arguments))
    }

    fn command(&self, arguments: &[String]) -> Command {
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
        command
    }

    /// The image of a Dockerfile, or what buildah said where it cannot build it.
    fn image(&self, dockerfile: &Path, context: &Path, flags: &[&str]) -> Result<Image, String> {
        let number = self.built.fetch_add(1, Ordering::Relaxed);
        let layout = self.home.path().join(format!("image-{number}"));
        let name = format!("localhost/built:{number}");
        let text = |path: &Path| path.display().to_string();
        let mut arguments = vec![
            "build".into(),
            "--quiet".into(),
            "--isolation=chroot".into(),
            "--pull=never".into(),
            format!("--tag={name}"),
            format!("--file={}", text(dockerfile)),
        ];
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        arguments.push(text(context));
        let built = self.command(&arguments).output().expect("buildah starts");
        if !built.status.success() {
            return Err(tools::said(&built));
        }
        self.run(&["push".into(), "--quiet".into(), name, format!("oci:{}:latest", text(&layout))]);
        Ok(Image::open(&layout))
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

/// What differs where buildah builds a Dockerfile of `testdata/builds`. Of its flags and here-documents, buildah knows some.
fn those_that_language_tests_have(buildah: &Buildah) -> Vec<String> {
    let (mut found, mut compared) = (Vec::new(), 0);
    for case in language::cases() {
        let ended = case.build(Place::Host).run();
        if ended.code() != 0 || OTHERWISE_IN_BUILDAH.contains(&case.title.as_str()) {
            continue;
        }
        read_by_others(&ended, &case.title);
        let flags: Vec<&str> = case.section("flags").lines().collect();
        let context = ended.context();
        if let Ok(theirs) = buildah.image(&context.join("Dockerfile"), &context, &flags) {
            found.extend(differences(&case.title, &ended.image(), &theirs));
            compared += 1;
        }
    }
    assert!(compared >= LANGUAGE_CASES, "{compared} Dockerfiles were compared");
    found
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
    let dockerfile = buildah.home.path().join("Dockerfile");
    for (case, text) in &cases {
        fs::write(&dockerfile, text).unwrap();
        let ended = on_busybox(Place::Host, text).context_by(fill).run().succeeded();
        read_by_others(&ended, case);
        let theirs = buildah.image(&dockerfile, &context, &[]).expect("buildah builds it");
        found.extend(differences(case, &ended.image(), &theirs));
    }
    if std::env::var("PEER").is_ok_and(|peer| peer == "all") {
        found.extend(those_that_language_tests_have(&buildah));
    }
    assert_eq!(found, Vec::<String>::new(), "ours | buildah's:\n{}", found.join("\n"));
}
