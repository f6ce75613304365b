//! Every instruction in its common forms, in both places.

use serde_json::json;

use crate::base;
use crate::craft::{Craft, Layer};
use crate::executor::{Build, PLACES, Place};
use crate::image::{Image, Tree};

/// What has to be at a path of the built image; an empty entry means nothing.
pub(crate) type Facts<'a> = &'a [(&'a str, &'a str)];

/// A build on `busybox` at this place.
pub(crate) fn on_busybox(place: Place, dockerfile: &str) -> Build {
    Build::of(dockerfile).base("busybox", base::busybox()).place(place)
}

/// Fails where the tree differs from the facts.
pub(crate) fn assert_facts(case: &str, tree: &Tree, facts: Facts<'_>) {
    for (path, want) in facts {
        let found = tree.get(*path).map(ToString::to_string).unwrap_or_default();
        assert_eq!(found, *want, "{case}: {path}");
    }
}

/// A Dockerfile, the context's files, the facts.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Facts<'a>);

fn check(cases: &[Case<'_>]) {
    for (dockerfile, files, facts) in cases {
        for place in PLACES {
            let build = on_busybox(place, dockerfile);
            let build = files.iter().fold(build, |build, (path, text)| build.file(path, text));
            assert_facts(&format!("{place:?}\n{dockerfile}"), &build.image().tree(), facts);
        }
    }
}

#[test]
fn run_in_every_form() {
    check(&[
        (
            "FROM busybox\nRUN echo shell > /a && echo two \\\n  # a comment\n  lines > /b\n",
            &[],
            &[("/a", "- 0644 0:0 6 \"shell\\n\""), ("/b", "- 0644 0:0 10 \"two lines\\n\"")],
        ),
        (
            "FROM busybox\nRUN [\"touch\", \"/with space\"]\n",
            &[],
            &[("/with space", "- 0644 0:0 0 \"\"")],
        ),
        (
            "FROM busybox\nRUN <<EOF\necho one > /a\necho $((1+1)) >> /a\nEOF\n",
            &[],
            &[("/a", "- 0644 0:0 6 \"one\\n2\\n\"")],
        ),
        (
            "FROM busybox\nRUN <<EOF\n#!/usr/bin/awk -f\nBEGIN { print \"awk\" > \"/a\" }\nEOF\n\
             RUN <<EOF\n#!/bin/sh -e\ntest -x \"$0\" && echo sh > /b\nEOF\n",
            &[],
            &[
                ("/a", "- 0644 0:0 4 \"awk\\n\""),
                ("/b", "- 0644 0:0 3 \"sh\\n\""),
                ("/dev/pipes", ""),
            ],
        ),
        (
            "FROM busybox\nRUN cat <<EOF > /a\ntext\nEOF\n",
            &[],
            &[("/a", "- 0644 0:0 5 \"text\\n\"")],
        ),
        (
            "FROM busybox\nSHELL [\"/bin/sh\", \"-c\", \"echo $0 > /a\"]\nRUN as-argument\n",
            &[],
            &[("/a", "- 0644 0:0 12 \"as-argument\\n\"")],
        ),
    ]);
}

#[test]
fn what_a_step_finds_around_itself() {
    check(&[
        (
            "FROM busybox\nARG A=default\nENV E=env\nRUN echo $A $E $HOME $PWD > /a; wc -c > /stdin\n",
            &[],
            &[
                ("/a", "- 0644 0:0 20 \"default env /root /\\n\""),
                ("/stdin", "- 0644 0:0 2 \"0\\n\""),
            ],
        ),
        (
            "FROM busybox\nUSER builder\nWORKDIR /home/builder\nRUN echo $(id -u) $(id -G) $HOME $PWD > a\n",
            &[],
            &[(
                "/home/builder/a",
                "- 0644 1000:1000 43 \"1000 1000 2000 /home/builder /home/builder\\n\"",
            )],
        ),
        (
            "FROM busybox\nRUN mkdir -m 777 /w\nUSER 1234\nRUN echo $(id -u):$(id -g) $HOME > /w/a\n",
            &[],
            &[("/w/a", "- 0644 1234:0 9 \"1234:0 /\\n\"")],
        ),
        (
            "FROM busybox\nRUN mkdir -m 777 /w\nUSER builder:nogroup\nRUN id -g > /w/a\n",
            &[],
            &[("/w/a", "- 0644 1000:65534 6 \"65534\\n\"")],
        ),
        (
            "FROM busybox\nRUN test -c /dev/null && test -d /proc/self && test -s /etc/resolv.conf && echo ok > /a\n",
            &[],
            &[("/a", "- 0644 0:0 3 \"ok\\n\""), ("/dev/null", ""), ("/proc/self", "")],
        ),
        (
            "FROM busybox\nRUN umask > /a; (sleep 1000 &) ; echo done >> /a\n",
            &[],
            &[("/a", "- 0644 0:0 10 \"0022\\ndone\\n\"")],
        ),
    ]);
}

#[test]
fn copy_in_every_form() {
    let files: &[(&str, &str)] =
        &[("a.txt", "a"), ("b.txt", "b"), ("d/c", "c"), ("d/e/f", "f"), (".dockerignore", "d/e\n")];
    check(&[
        ("FROM busybox\nCOPY a.txt /x\n", files, &[("/x", "- 0644 0:0 1 \"a\"")]),
        (
            "FROM busybox\nCOPY a.txt b.txt /new/dir/\n",
            files,
            &[
                ("/new", "d 0755 0:0 0"),
                ("/new/dir", "d 0755 0:0 0"),
                ("/new/dir/a.txt", "- 0644 0:0 1 \"a\""),
                ("/new/dir/b.txt", "- 0644 0:0 1 \"b\""),
            ],
        ),
        (
            "FROM busybox\nCOPY *.txt /x/\nCOPY d /y\n",
            files,
            &[
                ("/x/a.txt", "- 0644 0:0 1 \"a\""),
                ("/x/d", ""),
                ("/y/c", "- 0644 0:0 1 \"c\""),
                ("/y/e", ""),
            ],
        ),
        (
            "FROM busybox\nCOPY --chown=builder:extra --chmod=0701 a.txt /x\nCOPY --chown=7 b.txt /y\n",
            files,
            &[("/x", "- 0701 1000:2000 1 \"a\""), ("/y", "- 0644 7:7 1 \"b\"")],
        ),
        (
            "FROM busybox\nWORKDIR /w\nARG NAME=a\nCOPY ${NAME}.txt .\nCOPY [\"b.txt\", \"with space\"]\n",
            files,
            &[("/w/a.txt", "- 0644 0:0 1 \"a\""), ("/w/with space", "- 0644 0:0 1 \"b\"")],
        ),
        (
            "FROM busybox\nCOPY <<EOF /x\nhello $PATHLESS\nEOF\nCOPY <<'EOF' /y\n$RAW\nEOF\n",
            files,
            &[("/x", "- 0644 0:0 7 \"hello \\n\""), ("/y", "- 0644 0:0 5 \"$RAW\\n\"")],
        ),
        (
            "FROM busybox\nRUN mkdir /real && ln -s real /link\nCOPY a.txt /link/x\n",
            files,
            &[("/link", "l 0777 0:0 0 -> real"), ("/real/x", "- 0644 0:0 1 \"a\"")],
        ),
    ]);
}

#[test]
fn what_is_ignored_and_taken_back() {
    let files: &[(&str, &str)] = &[
        (".dockerignore", "# all but two\n*\n!keep\n!d/keep*\nd/keep-not\n**/*.o\n"),
        ("keep", "1"),
        ("drop", "2"),
        ("d/keep-it", "3"),
        ("d/keep-not", "4"),
        ("d/drop", "5"),
        ("d/keep.o", "6"),
        ("e/drop", "7"),
    ];
    check(&[
        (
            "FROM busybox\nCOPY . /x/\n",
            files,
            &[
                ("/x/keep", "- 0644 0:0 1 \"1\""),
                ("/x/d/keep-it", "- 0644 0:0 1 \"3\""),
                ("/x/d/keep-not", ""),
                ("/x/d/drop", ""),
                ("/x/d/keep.o", ""),
                ("/x/drop", ""),
                ("/x/e", ""),
                ("/x/Dockerfile", ""),
            ],
        ),
        (
            "FROM busybox\nCOPY d /x/\nCOPY --chown=5 keep d/keep* /y/\n",
            files,
            &[
                ("/x/keep-it", "- 0644 0:0 1 \"3\""),
                ("/x/drop", ""),
                ("/y/keep", "- 0644 5:5 1 \"1\""),
                ("/y/keep-it", "- 0644 5:5 1 \"3\""),
                ("/y/keep-not", ""),
            ],
        ),
    ]);
}

#[test]
fn a_copied_file_keeps_all_but_its_owner() {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    for place in PLACES {
        let image = on_busybox(place, "FROM busybox\nCOPY . /x/\n")
            .context_by(|context| {
                let file = context.join("file");
                std::fs::write(&file, "1").unwrap();
                std::fs::set_permissions(&file, PermissionsExt::from_mode(0o4751)).unwrap();
                chown(&file, Some(1234), Some(1234)).unwrap();
                std::fs::set_permissions(&file, PermissionsExt::from_mode(0o4751)).unwrap();
                let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_234_567_890);
                std::fs::File::options()
                    .write(true)
                    .open(&file)
                    .unwrap()
                    .set_modified(time)
                    .unwrap();
                symlink("/nowhere/at/all", context.join("link")).unwrap();
                std::fs::create_dir(context.join("empty")).unwrap();
            })
            .image();
        let tree = image.tree();
        assert_facts(
            &format!("{place:?}"),
            &tree,
            &[
                ("/x/file", "- 4751 0:0 1 \"1\""),
                ("/x/link", "l 0777 0:0 0 -> /nowhere/at/all"),
                ("/x/empty", "d 0755 0:0 0"),
            ],
        );
        assert_eq!(tree["/x/file"].mtime, "1234567890", "{place:?}");
    }
}

#[test]
fn add_unpacks_a_local_archive_and_copies_the_rest() {
    let archive = Layer::new().directory("in").owner(5, 6).file("in/side", "x").tar();
    for place in PLACES {
        let image = on_busybox(place, "FROM busybox\nADD a.tar /u/\nADD plain /p\n")
            .file("a.tar", &archive)
            .file("plain", "text")
            .image();
        let facts: Facts<'_> = &[
            ("/u/in/side", "- 0644 5:6 1 \"x\""),
            ("/u/a.tar", ""),
            ("/p", "- 0644 0:0 4 \"text\""),
        ];
        assert_facts(&format!("{place:?}"), &image.tree(), facts);
    }
}

const METADATA: &str = r#"FROM busybox
ARG VERSION=1
ENV A=1 B="two words" C=$VERSION
ENV OLD style value
LABEL org.a="x" b=$A
EXPOSE 80 53/udp
VOLUME ["/data"]
WORKDIR /srv
WORKDIR app
USER builder
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=5s --timeout=3s --retries=2 CMD true
SHELL ["/bin/sh", "-e", "-c"]
ENTRYPOINT ["/bin/echo"]
CMD hello
ONBUILD RUN echo later
"#;

#[test]
fn metadata_arrives_in_the_config() {
    for place in PLACES {
        let image = on_busybox(place, METADATA).image();
        for (pointer, want) in [
            ("/Env", json!([base::PATH_VARIABLE, "A=1", "B=two words", "C=1", "OLD=style value"])),
            ("/Labels", json!({"org.a": "x", "b": "1"})),
            ("/ExposedPorts", json!({"80/tcp": {}, "53/udp": {}})),
            ("/Volumes", json!({"/data": {}})),
            ("/WorkingDir", json!("/srv/app")),
            ("/User", json!("builder")),
            ("/StopSignal", json!("SIGQUIT")),
            ("/Healthcheck/Test", json!(["CMD-SHELL", "true"])),
            ("/Healthcheck/Interval", json!(5_000_000_000_u64)),
            ("/Healthcheck/Timeout", json!(3_000_000_000_u64)),
            ("/Healthcheck/Retries", json!(2)),
            ("/Shell", json!(["/bin/sh", "-e", "-c"])),
            ("/Entrypoint", json!(["/bin/echo"])),
            ("/Cmd", json!(["/bin/sh", "-e", "-c", "hello"])),
            ("/OnBuild", json!(["RUN echo later"])),
        ] {
            assert_eq!(*image.setting(pointer), want, "{place:?} {pointer}");
        }
        assert_eq!(image.config["os"], "linux");
        assert_eq!(image.config["architecture"], crate::craft::machine());
        assert!(image.config["created"].is_string());
    }
}

#[test]
fn entrypoint_and_command_go_together_as_docker_has_them() {
    let null = json!(null);
    for (instructions, entrypoint, command) in [
        ("LABEL a=b", null.clone(), json!(["sh"])),
        ("CMD [\"c\"]", null.clone(), json!(["c"])),
        ("ENTRYPOINT [\"e\"]", json!(["e"]), null.clone()),
        ("ENTRYPOINT e \"$HOME\"", json!(["/bin/sh", "-c", "e \"$HOME\""]), null.clone()),
        ("ENTRYPOINT [\"e\"]\nCMD c", json!(["e"]), json!(["/bin/sh", "-c", "c"])),
        ("CMD [\"c\"]\nENTRYPOINT [\"e\"]", json!(["e"]), json!(["c"])),
        ("CMD [\"c\"]\nCMD [\"d\", \"\"]", null.clone(), json!(["d", ""])),
        ("ENTRYPOINT []", json!([]), null.clone()),
        ("CMD []", null.clone(), json!([])),
    ] {
        let image = on_busybox(Place::Host, &format!("FROM busybox\n{instructions}\n")).image();
        let found = |pointer| match image.setting(pointer) {
            // An empty list and none are the same to whoever starts the image.
            value if *value == json!([]) => json!(null),
            value => value.clone(),
        };
        let wanted = |value| if value == json!([]) { json!(null) } else { value };
        assert_eq!(found("/Entrypoint"), wanted(entrypoint), "{instructions}");
        assert_eq!(found("/Cmd"), wanted(command), "{instructions}");
    }
}

#[test]
fn arguments_and_variables_have_docker_s_scopes() {
    let dockerfile = "ARG BASE=nonsense\nARG GLOBAL=g\nFROM $BASE\n\
        RUN echo \"[$GLOBAL][$BASE]\" > /a\nARG GLOBAL\nARG LOCAL=l\nARG OVER\nENV OVER=env\n\
        RUN echo \"[$GLOBAL][$LOCAL][$OVER]\" > /b\nENV X=${MISSING:-word} Y=${LOCAL:+set}\n\
        RUN echo \"[$X][$Y]\" > /c\n";
    for place in PLACES {
        let image = on_busybox(place, dockerfile)
            .flags(["--build-arg=BASE=busybox", "--build-arg", "OVER=argument"])
            .flag("--build-arg=LOCAL=given")
            .image();
        let facts: Facts<'_> = &[
            ("/a", "- 0644 0:0 5 \"[][]\\n\""),
            ("/b", "- 0644 0:0 16 \"[g][given][env]\\n\""),
            ("/c", "- 0644 0:0 12 \"[word][set]\\n\""),
        ];
        assert_facts(&format!("{place:?}"), &image.tree(), facts);
        let environment = image.setting("/Env").to_string();
        assert!(!environment.contains("LOCAL"), "{environment}");
    }
}

#[test]
fn triggers_of_the_base_run_first() {
    let layout = tempfile::tempdir().unwrap();
    let busybox = std::fs::read(crate::tools::find("busybox")).unwrap();
    let layer = Layer::new().directory("bin").mode(0o755).file("bin/busybox", busybox);
    Craft::new()
        .layer(layer.symlink("bin/sh", "busybox").symlink("bin/touch", "busybox"))
        .config("OnBuild", json!(["COPY f /copied", "RUN touch /triggered"]))
        .write(layout.path(), base::TAG);
    for place in PLACES {
        let image = Build::of("FROM parent\nRUN test -e /triggered && touch /after\n")
            .file("f", "1")
            .base("parent", layout.path())
            .place(place)
            .image();
        let facts: Facts<'_> =
            &[("/copied", "- 0644 0:0 1 \"1\""), ("/after", "- 0644 0:0 0 \"\"")];
        assert_facts(&format!("{place:?}"), &image.tree(), facts);
        assert!(image.setting("/OnBuild").is_null(), "{}", image.config);
    }
}

#[test]
fn an_image_from_scratch_holds_what_was_copied_and_nothing_else() {
    for place in PLACES {
        let image: Image =
            Build::of("FROM scratch\nCOPY a /a\n").file("a", "1").place(place).image();
        let names: Vec<String> = image.tree().into_keys().filter(|path| path != "/").collect();
        assert_eq!(names, ["/a"], "{place:?}");
    }
}
