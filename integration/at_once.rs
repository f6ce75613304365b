//! Stages that do not need each other, at the same time.
//!
//! A FIFO in a shared cache is where two of them meet: a step that opens one end waits for the other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::base;
use crate::build_basic::on_busybox;
use crate::executor::{Build, PLACES, Place, processes_with};
use crate::registry::{Access, Registry};

/// Makes the meeting points; one of two steps is first with each.
const MEET: &str = "--mount=type=cache,id=meet,target=/meet mkfifo /meet/a /meet/b 2>/dev/null;";

/// A build whose caches of mounts are in a directory of their own.
fn with_caches(place: Place, dockerfile: &str) -> (Build, TempDir) {
    let caches = tempfile::tempdir().unwrap();
    let build = on_busybox(place, dockerfile).share("caches", caches.path());
    (build.flag("--cache-dir={caches}"), caches)
}

fn meeting() -> String {
    format!(
        "FROM busybox AS left\n\
         RUN {MEET} echo from-left > /meet/a && cat /meet/b > /met && printf 'met %s' left\n\
         FROM busybox\n\
         RUN {MEET} cat /meet/a > /met && echo from-right > /meet/b && echo met right >&2\n\
         FROM scratch\n\
         COPY --from=left /met /left\n\
         COPY --from=1 /met /right\n"
    )
}

#[test]
fn stages_that_wait_for_each_other_meet() {
    for flag in ["--run-tracer=auto", "--run-tracer=inotify", "--snapshot-mode=full"] {
        let (build, _caches) = with_caches(Place::Host, &meeting());
        let ended = build.flags(["--parallel-stages=2", flag]).run().succeeded();
        let tree = ended.image().tree();
        assert_eq!(tree["/left"].to_string(), "- 0644 0:0 11 \"from-right\\n\"", "{flag}");
        assert_eq!(tree["/right"].to_string(), "- 0644 0:0 10 \"from-left\\n\"", "{flag}");
        assert!(!ended.log.contains("Unpacking once more"), "{flag}: {}", ended.log);
        let is_line = |want: &str| ended.log.lines().any(|line| line == want);
        for want in ["[left 1/1] met left", "[stage-1 1/1] met right"] {
            assert!(is_line(want), "{flag}: no line {want:?} in\n{}", ended.log);
        }
        let is_told = |want: &str| ended.log.lines().any(|line| line.ends_with(want));
        for want in
            ["] [left] Building stage left (1 of 3)", "] [stage-2 1/2] COPY --from=left /met /left"]
        {
            assert!(is_told(want), "{flag}: nothing of {want:?} in\n{}", ended.log);
        }
    }
}

#[test]
fn one_after_the_other_in_place_and_where_that_is_wanted() {
    let dockerfile = "FROM busybox AS left\nRUN echo one > /f && echo said-it\n\
                      FROM busybox AS right\nRUN echo two > /f\n\
                      FROM scratch\nCOPY --from=left /f /left\nCOPY --from=right /f /right\n";
    for place in PLACES {
        for wanted in ["", "1", "2"] {
            let flag = format!("--parallel-stages={wanted}");
            let build =
                on_busybox(place, dockerfile).flag(&flag).variable("KANIKO_PARALLEL_STAGES", "1");
            let ended = build.run().succeeded();
            let tree = ended.image().tree();
            assert_eq!(tree["/left"].to_string(), "- 0644 0:0 4 \"one\\n\"", "{place:?} {flag}");
            assert_eq!(tree["/right"].to_string(), "- 0644 0:0 4 \"two\\n\"", "{place:?} {flag}");
            let in_turn = place != Place::Host || wanted != "2";
            assert_eq!(
                ended.log.contains("\nsaid-it\n"),
                in_turn,
                "{place:?} {flag}: {}",
                ended.log
            );
            let is_told = ended.log.contains("in place there is one root");
            assert_eq!(is_told, place != Place::Host && wanted == "2", "{place:?}: {}", ended.log);
        }
    }
}

/// Dockerfiles whose stages need each other in different ways.
const GRAPHS: [(&str, &str); 5] = [
    (
        "a diamond",
        "FROM busybox AS base\nRUN echo base > /base && ln /base /linked\n\
         FROM base AS left\nRUN cat /base > /left && rm /linked\n\
         FROM base AS right\nRUN cat /base /base > /right && chmod 4755 /right\n\
         FROM base\nCOPY --from=left /left /\nCOPY --from=right /right /\nRUN cat /left /right > /all\n",
    ),
    (
        "the same base again and again",
        "FROM busybox AS one\nRUN echo 1 > /1\nFROM busybox AS two\nRUN echo 2 > /2\n\
         FROM busybox AS three\nCOPY --from=one /1 /1\nRUN echo 3 > /3\n\
         FROM busybox\nCOPY --from=two /2 /\nCOPY --from=three /1 /3 /\nWORKDIR /w\n",
    ),
    (
        "mounts of stages and images",
        "FROM busybox AS tools\nRUN mkdir /t && echo tool > /t/tool\n\
         FROM busybox AS left\nRUN --mount=type=bind,from=tools,source=/t,target=/t,rw \
         cp /t/tool /left && echo gone > /t/tool\n\
         FROM busybox AS right\nRUN --mount=type=bind,from=tools,source=/t,target=/t \
         --mount=type=bind,from=busybox,target=/b cat /t/tool /b/etc/group > /right\n\
         FROM scratch\nCOPY --from=left /left /\nCOPY --from=right /right /\n\
         COPY --from=busybox /etc/passwd /\n",
    ),
    (
        "scripts of one name",
        "FROM busybox AS left\nRUN <<one\n#!/bin/sh\necho left > /f\none\n\
         FROM busybox AS right\nRUN <<one\n#!/bin/sh\necho right > /f\none\n\
         FROM left AS last\nCOPY --from=right /f /other\nENV A=1\n",
    ),
    (
        "the base's layers are taken by one and copied by others",
        "FROM busybox AS base\nRUN mkdir /d && echo 1 > /d/1\nFROM base AS a\nRUN echo a > /d/a\n\
         FROM base AS b\nRUN rm /d/1\nFROM base AS c\nRUN mv /d /e\n\
         FROM scratch\nCOPY --from=a /d /a\nCOPY --from=b /d /b\nCOPY --from=c /e /c\n",
    ),
];

#[test]
fn the_image_is_that_of_a_build_in_turn() {
    for (case, dockerfile) in GRAPHS {
        let digest = |stages: &str, tracer: &str| {
            let build = on_busybox(Place::Host, dockerfile)
                .flags(["--build-arg=SOURCE_DATE_EPOCH=1700000000", "--verify-snapshot=fail"])
                .flag(format!("--parallel-stages={stages}"))
                .flag(format!("--run-tracer={tracer}"));
            build.image().digest
        };
        let in_turn = digest("1", "auto");
        assert_eq!(digest("4", "auto"), in_turn, "{case}");
        assert_eq!(digest("2", "inotify"), in_turn, "{case}");
    }
}

#[test]
fn stages_of_one_image_download_it_once() {
    let registry = Registry::start(Access::Plain);
    registry.push(&base::busybox(), base::TAG, "base:1", None);
    let image = registry.reference("base:1");
    let mut dockerfile = String::new();
    for name in ["a", "b", "c", "d"] {
        dockerfile += &format!("FROM {image} AS {name}\nRUN {MEET} echo {name} > /{name}\n");
    }
    dockerfile += &format!("FROM {image}\nCOPY --from=a /a /\nCOPY --from=b /b /\n");
    dockerfile += &format!("COPY --from=c /c /\nCOPY --from=d /d /\nCOPY --from={image} /bin /e\n");
    let build = Build::of(&dockerfile).flags(["--insecure-pull", "--parallel-stages=4"]);
    let tree = build.image().tree();
    for path in ["/a", "/b", "/c", "/d", "/e/sh"] {
        assert!(tree.contains_key(path), "{path}");
    }
    let mut blobs = registry.paths("GET");
    blobs.retain(|path| path.contains("/blobs/"));
    let count = blobs.len();
    blobs.sort();
    blobs.dedup();
    assert_eq!(count, blobs.len(), "{blobs:?}");
}

#[test]
fn a_cache_is_the_same_whichever_way_it_was_filled() {
    let mut tags = Vec::new();
    for (first, second) in [("1", "4"), ("4", "1")] {
        let cache = tempfile::tempdir().unwrap();
        let build = |dockerfile: &str, stages: &str| {
            let build = on_busybox(Place::Host, dockerfile).share("cache", cache.path());
            build
                .flags(["--cache", "--cache-copy-layers", "--cache-repo=dir:{cache}"])
                .flag(format!("--parallel-stages={stages}"))
                .run()
                .succeeded()
        };
        for (case, dockerfile) in &GRAPHS[..3] {
            let cold = build(dockerfile, first).image();
            let again = build(dockerfile, second);
            let told = format!("{case}, {first} and then {second}: {}", again.log);
            assert!(!again.log.contains("Miss"), "{told}");
            assert_eq!(again.image().tree(), cold.tree(), "{told}");
            assert_eq!(again.image().config["rootfs"], cold.config["rootfs"], "{told}");
        }
        tags.push(names_in(cache.path()));
    }
    assert!(tags[0].len() > 20, "{tags:?}");
    assert_eq!(tags[0], tags[1]);
}

/// The names of the entries of a cache.
fn names_in(layout: &Path) -> BTreeSet<String> {
    let index = fs::read(layout.join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let name = |it: &Value| it["annotations"]["org.opencontainers.image.ref.name"].to_string();
    index["manifests"].as_array().unwrap().iter().map(name).collect()
}

#[test]
fn who_has_a_cache_alone_has_it_alone() {
    let step = "RUN --mount=type=cache,target=/c,sharing=locked mkdir /c/held && \
                { [ -p /c/fifo ] || { mkfifo /c/fifo && cat /c/fifo; }; } && rmdir /c/held";
    let dockerfile = format!(
        "FROM busybox AS left\n{step} && touch /f\nFROM busybox AS right\n{step} && touch /f\n\
         FROM scratch\nCOPY --from=left /f /left\nCOPY --from=right /f /right\n"
    );
    let (build, caches) = with_caches(Place::Host, &dockerfile);
    let mut running = build.flag("--parallel-stages=2").start();
    running.until("Waiting for the cache");
    let fifo = loop {
        // The one that has the lock makes it in a moment.
        if let Some(fifo) = found(caches.path(), "fifo") {
            break fifo;
        }
        std::thread::yield_now();
    };
    fs::write(fifo, "go on").unwrap();
    let tree = running.end().succeeded().image().tree();
    assert!(tree.contains_key("/left") && tree.contains_key("/right"));
}

fn found(below: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(below).ok()?.flatten().find_map(|entry| {
        let path = entry.path();
        if path.ends_with(name) { Some(path) } else { found(&path, name) }
    })
}

#[test]
fn a_stage_that_fails_ends_the_others() {
    let mark = format!("{}7", std::process::id());
    let dockerfile = format!(
        "FROM busybox AS endless\n\
         RUN {MEET} trap '' TERM; setsid sleep {mark} & echo begun > /meet/a; sleep {mark}\n\
         FROM busybox AS broken\n\
         RUN {MEET} cat /meet/a; exit 7\n\
         FROM scratch\n\
         COPY --from=endless /etc/group /\n\
         COPY --from=broken /etc/group /\n"
    );
    for flag in ["--run-tracer=auto", "--run-tracer=off"] {
        let (build, _caches) = with_caches(Place::Host, &dockerfile);
        let ended = build.flags(["--parallel-stages=2", flag]).run();
        ended.refused(7, &["Dockerfile:4", "exit 7"]);
        assert_eq!(processes_with(&mark), Vec::<String>::new(), "{flag}");
        assert!(!ended.log.contains("Building stage 2"), "{}", ended.log);
    }
}

#[test]
fn a_signal_ends_all_stages() {
    let mark = format!("{}8", std::process::id());
    let dockerfile = format!(
        "FROM busybox AS left\nRUN {MEET} cat /meet/a; echo both-$((40+2)); sleep {mark}\n\
         FROM busybox AS right\nRUN {MEET} echo > /meet/a; sleep {mark}\n\
         FROM scratch\nCOPY --from=left /etc/group /\nCOPY --from=right /etc/group /b\n"
    );
    let (build, _caches) = with_caches(Place::Host, &dockerfile);
    let mut running = build.flag("--parallel-stages=2").start();
    running.until("both-42");
    running.signal(Signal::SIGTERM);
    let ended = running.end();
    assert_eq!(ended.code(), 143, "{}", ended.log);
    assert_eq!(ended.leftovers(), Vec::<String>::new(), "{}", ended.log);
    assert_eq!(processes_with(&mark), Vec::<String>::new());
}
