//! `SOURCE_DATE_EPOCH` where it names a time instead of telling it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use crate::executor::{Build, PLACES, Place};
use crate::git::{Login, Repository, Server};
use crate::tools;
use crate::web::{Answer, Web};

/// An image that tells its epoch twice: in its variable, and as its time.
const TELLS: &str = "FROM scratch\nARG SOURCE_DATE_EPOCH\nENV E=$SOURCE_DATE_EPOCH\nCOPY f /f\n";

/// Servers: of a file, of an archive, of a repository; the time of its commit.
struct Elsewhere {
    web: Web,
    git: Server,
    commit: String,
    archive: PathBuf,
    _home: tempfile::TempDir,
}

impl Elsewhere {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("files");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("Dockerfile"), TELLS).unwrap();
        fs::write(dir.join("f"), "f").unwrap();
        let archive = home.path().join("files.tar.gz");
        tar(&dir, &archive);
        let bytes = fs::read(&archive).unwrap();
        let web = Web::start(move |request| {
            let answer = Answer::of(200, bytes.clone());
            match request.path.as_str() {
                "/stated" => answer.header("Last-Modified", "Thu, 01 Jan 1970 00:33:20 GMT"),
                "/text" => Answer::of(200, "text"),
                _ => answer,
            }
        });
        let repository = Repository::new(home.path(), "app");
        repository.commit(&[("Dockerfile", TELLS), ("f", "f")]);
        let commit = repository.git(&["log", "-1", "--format=%ct"]);
        let git = Server::web(home.path(), Login::Open);
        Self { web, git, commit, archive, _home: home }
    }

    fn repository(&self) -> String {
        format!("http://{}/app.git", self.git.address())
    }
}

/// An archive whose newest file was changed at 3000, its directory later.
fn tar(dir: &Path, archive: &Path) {
    for (name, seconds) in [("f", 3000), ("Dockerfile", 2500), (".", 9000)] {
        let time = UNIX_EPOCH + Duration::from_secs(seconds);
        File::open(dir.join(name)).unwrap().set_modified(time).unwrap();
    }
    let (dir, archive) = (dir.to_str().unwrap(), archive.to_str().unwrap());
    tools::run("tar", ["-C", dir, "-czf", archive, "."]);
}

/// The variable, and when the image and its file were made.
fn told(build: Build) -> (String, String, String) {
    let image = build.image();
    let env = image.config["config"]["Env"].as_array().unwrap().iter().filter_map(Value::as_str);
    let epoch = env.filter_map(|it| it.strip_prefix("E=")).collect();
    let created = image.config["created"].as_str().unwrap().to_owned();
    let mut entries = image.layers.last().unwrap().entries.iter();
    let file = entries.find(|(path, _)| path == "/f").map(|(_, entry)| entry.mtime.clone());
    (epoch, created, file.unwrap())
}

fn bare(context: &str) -> Build {
    Build::bare()
        .flags(["--no-push", "--oci-layout-path={out}/image"])
        .flag(format!("--context={context}"))
        .flag("--build-arg=SOURCE_DATE_EPOCH=context")
}

#[test]
fn the_time_of_the_context() {
    let elsewhere = Elsewhere::new();
    for place in PLACES {
        let (epoch, created, file) = told(bare(&elsewhere.repository()).place(place));
        assert_eq!((&epoch, &file), (&elsewhere.commit, &elsewhere.commit), "{place:?} {created}");
    }
    for (context, epoch, created, file) in [
        (elsewhere.web.url("/stated"), "2000", "1970-01-01T00:33:20Z", "2000"),
        (elsewhere.web.url("/silent"), "3000", "1970-01-01T00:50:00Z", "3000"),
        ("tar://{archive}".to_owned(), "3000", "1970-01-01T00:50:00Z", "3000"),
    ] {
        let build = bare(&context).bring("archive", &elsewhere.archive);
        let want = (epoch.to_owned(), created.to_owned(), file.to_owned());
        assert_eq!(told(build), want, "{context}");
    }
}

#[test]
fn a_directory_has_no_time_that_counts() {
    let build = Build::of(TELLS).file("f", "f").variable("SOURCE_DATE_EPOCH", "context");
    let ended = build.run().succeeded();
    assert!(ended.log.contains("SOURCE_DATE_EPOCH=context has no time"), "{}", ended.log);
    let image = ended.image();
    assert!(!image.config["created"].as_str().unwrap().starts_with("1970"));
    assert!(image.config["config"]["Env"].as_array().unwrap().contains(&"E=".into()));
}

#[test]
fn the_time_of_a_further_context_or_of_a_stage() {
    let elsewhere = Elsewhere::new();
    let (stated, silent) = (elsewhere.web.url("/stated"), elsewhere.web.url("/silent"));
    let (repository, text) = (elsewhere.repository(), elsewhere.web.url("/text"));
    let commit = elsewhere.commit.as_str();
    let stage = |body: String| (format!("FROM scratch AS Source\n{body}\n{TELLS}"), String::new());
    let context = |url: &str| (TELLS.to_owned(), format!("--build-context=source={url}"));
    for (what, (dockerfile, flag), want) in [
        ("stage, stated", stage(format!("ADD {stated} /x")), "2000"),
        ("stage, archive", stage(format!("ADD --unpack=true {silent} /x")), "3000"),
        ("stage, repository", stage(format!("ADD {repository} /x")), commit),
        ("stage, argument", stage(format!("ARG U={stated}\nADD $U /x")), "2000"),
        ("stage, no time", stage(format!("ADD {text} /x")), ""),
        ("context, stated", context(&stated), "2000"),
        ("context, archive", context(&silent), "3000"),
        ("context, repository", context(&repository), commit),
        ("context, image", context("docker-image://scratch"), ""),
    ] {
        // As an argument, and as a default of the file.
        for given in [true, false] {
            let (build, dockerfile) = if given {
                let flag = "--build-arg=SOURCE_DATE_EPOCH=source";
                (Build::of(&dockerfile).flag(flag), dockerfile.clone())
            } else {
                let dockerfile = format!("ARG SOURCE_DATE_EPOCH=source\n{dockerfile}");
                (Build::of(&dockerfile), dockerfile)
            };
            let build = if flag.is_empty() { build } else { build.flag(&flag) };
            let (epoch, ..) = told(build.file("f", "f"));
            assert_eq!(epoch, want, "{what} {dockerfile}");
        }
    }
}

#[test]
fn what_has_no_time_is_refused() {
    let with = |body: &str| format!("ARG SOURCE_DATE_EPOCH=source\n{body}\nFROM scratch\n");
    let hint = "its time is that of one file of the web, or of one Git repository";
    let more = "names a stage that is more than FROM scratch and one ADD";
    let url = "https://host.example/x";
    for (body, words) in [
        ("FROM scratch AS other".to_owned(), ["SOURCE_DATE_EPOCH=source: not a number", "context"]),
        ("FROM busybox AS source\nADD x /".to_owned(), [more, hint]),
        ("FROM scratch AS source".to_owned(), [more, hint]),
        ("FROM scratch AS source\nADD x /".to_owned(), [more, "2 | FROM scratch AS source"]),
        (format!("FROM scratch AS source\nADD {url} {url} /"), [more, hint]),
        (format!("FROM scratch AS source\nADD {url} /\nADD {url} /"), [more, hint]),
        (format!("FROM scratch AS source\nADD {url} /\nENV A=1"), [more, hint]),
        (format!("FROM scratch AS source\nADD {url} $X/${{Y:?gone}}"), ["gone", "Dockerfile:3"]),
    ] {
        for flag in ["--check", "--dryrun", "--no-push"] {
            let build = Build::bare().file("Dockerfile", with(&body)).flag(flag);
            build.place(Place::Host).run().refused(1, &words);
        }
    }
}
