//! Dockerfiles that lie in no file: on standard input, and on the web.

use std::io::{Seek as _, Write as _};

use crate::build_basic::{Facts, assert_facts};
use crate::executor::{Build, PLACES, Place};
use crate::web::{Answer, Web};

const DOCKERFILE: &str = "FROM scratch\nCOPY . /\n";

/// A context with an ignore file of its own, and a Dockerfile that must not be read.
fn build(place: Place, dockerfile: &str) -> Build {
    Build::of("FROM nothing-that-is-read\n")
        .file(".dockerignore", "ignored\nDockerfile\n.dockerignore\n")
        .file("ignored", "1")
        .file("kept", "2")
        .flag(format!("--dockerfile={dockerfile}"))
        .place(place)
}

const FACTS: Facts<'_> = &[("/kept", "- 0644 0:0 1 \"2\""), ("/ignored", ""), ("/Dockerfile", "")];

fn stdin(text: &str) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

#[test]
fn from_standard_input() {
    for place in PLACES {
        let image = build(place, "-").stdin(stdin(DOCKERFILE)).image();
        assert_facts(&format!("{place:?}"), &image.tree(), FACTS);
    }
    let build = |name| build(Place::Host, name);
    let ended = build("-").stdin(stdin("FROM scratch\nCOPY\n")).run();
    ended.refused(1, &["Dockerfile:2", "COPY requires at least two arguments"]);
    build("-").run().refused(1, &["the Dockerfile is empty"]);
}

#[test]
fn from_the_web() {
    let web = Web::start(|request| match request.path.as_str() {
        "/good" => Answer::of(200, DOCKERFILE),
        "/bad" => Answer::of(200, "FROM scratch\nCOPPY a b\n"),
        _ => Answer::of(404, "not here"),
    });
    for place in PLACES {
        let image = build(place, &web.url("/good")).image();
        assert_facts(&format!("{place:?}"), &image.tree(), FACTS);
    }
    let build = |name: &str| build(Place::Host, name);
    build(&web.url("/bad")).run().refused(1, &["/bad:2", "did you mean COPY?"]);
    build(&web.url("/absent")).run().refused(1, &["/absent", "404"]);
    build("ftp://host.example/x").run().refused(1, &["ftp://", "http"]);
}

#[test]
fn several_errors_are_told_at_once() {
    let ended =
        build(Place::Host, "-").stdin(stdin("FROM scratch\nCOPPY a b\nENV x\nEXPOSE\n")).run();
    ended.refused(
        1,
        &["error: Dockerfile:2:", "did you mean COPY?", "3 | ENV x", "4 | EXPOSE", "2 more errors"],
    );
}
