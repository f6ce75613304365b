//! `--check` and `--dryrun`: what is said of a Dockerfile when nothing is built.

use crate::base;
use crate::build_basic::on_busybox;
use crate::executor::{Build, PLACES, Place};

/// A file that would build, with three things that are probably not meant.
const DOUBTFUL: &str =
    "FROM busybox AS Base\nRUN exit 9\nENV TOKEN=$NOTHING\nFROM base\nCMD true\n";

fn inspected(dockerfile: &str, flag: &str) -> Build {
    Build::bare()
        .file("Dockerfile", dockerfile)
        .base("busybox", base::busybox())
        .flags([flag, "--verbosity=error"])
}

#[test]
fn the_checks_print_what_they_find_and_build_nothing() {
    for place in PLACES {
        let ended = inspected(DOUBTFUL, "--check").place(place).run();
        ended.refused(
            1,
            &[
                "StageNameCasing",
                "SecretsUsedInArgOrEnv",
                "$NOTHING is not defined here",
                "Dockerfile:5:1",
                "docs/checks.md#jsonargsrecommended",
                "5 | CMD true",
                "the checks found 4 things",
            ],
        );
    }
}

#[test]
fn the_checks_look_at_all_stages_or_those_of_the_target() {
    let dockerfile = "FROM scratch AS a\nWORKDIR x\nFROM scratch AS b\n";
    for (flags, code) in [(&[][..], 1), (&["--target=a"], 1), (&["--target=b"], 0)] {
        let build = inspected(dockerfile, "--check");
        let ended = flags.iter().fold(build, |build, flag| build.flag(*flag)).run();
        assert_eq!(ended.code(), code, "{flags:?}\n{}", ended.log);
        assert!(ended.log.contains("WorkdirRelativePath") == (code == 1), "{}", ended.log);
    }
}

#[test]
fn the_checks_tell_what_cannot_be_built_after_what_they_found() {
    let ended =
        inspected("FROM scratch AS A\nCOPY --from=later / /\nFROM scratch AS later\n", "--check")
            .run();
    ended.refused(1, &["StageNameCasing", "names a stage that begins later, on line 3"]);
}

/// What can be known before any file is read, and an instruction that is not reached.
const REFUSED: &str = "FROM busybox AS a
RUN echo it ran > /ran
STOPSIGNAL nosuch
COPY --chmod=u+q Dockerfile /
FROM a AS b
ENV A=${B^}
EXPOSE $A
FROM scratch
COPY --from=b /ran /
EXPOSE port
";

#[test]
fn what_cannot_be_carried_out_is_told_together_before_the_first_step() {
    let told = [
        "Dockerfile:3: STOPSIGNAL nosuch: there is no such signal",
        "3 | STOPSIGNAL nosuch",
        "Dockerfile:4: --chmod: \"u+q\" is no mode",
        "Dockerfile:6: unsupported modifier `^`",
        "Dockerfile:10: ",
    ];
    for place in PLACES {
        let ended = on_busybox(place, REFUSED).run();
        ended.refused(1, &told);
        assert!(!ended.log.contains("] RUN"), "{}", ended.log);
        assert_eq!(ended.log.matches("error: ").count(), 4, "{}", ended.log);
    }
    for flag in ["--check", "--dryrun"] {
        inspected(REFUSED, flag).run().refused(1, &told);
    }
}

#[test]
fn an_epoch_that_is_no_time_is_told_by_checks_and_plan() {
    for flag in ["--check", "--dryrun"] {
        let ended = inspected("ARG SOURCE_DATE_EPOCH=soon\nFROM scratch\n", flag).run();
        ended.refused(1, &["SOURCE_DATE_EPOCH=soon: not a number of seconds"]);
    }
}

#[test]
fn the_plan_comes_with_the_warnings_of_a_build_and_fails_by_them() {
    let doubtful = "FROM scratch\nWORKDIR x\n";
    let build = |text: &str| Build::bare().file("Dockerfile", text).flag("--dryrun").run();
    let warned = build(doubtful).succeeded();
    assert!(warned.log.contains("Dockerfile:2: WorkdirRelativePath"), "{}", warned.log);
    build(&format!("# check=error=true\n{doubtful}")).refused(1, &["check=error=true"]);
}

#[test]
fn a_build_warns_and_goes_on_unless_a_finding_is_an_error() {
    let image = on_busybox(Place::Host, "FROM busybox\nWORKDIR x\n").run().succeeded();
    assert!(image.log.contains("Dockerfile:2: WorkdirRelativePath"), "{}", image.log);
    for (directive, flag) in [
        ("# check=error=true\n", "--log-timestamp=false"),
        ("", "--build-arg=BUILDKIT_DOCKERFILE_CHECK=error=true"),
    ] {
        let dockerfile = format!("{directive}FROM busybox\nWORKDIR x\nRUN exit 9\n");
        let ended = on_busybox(Place::Host, &dockerfile).flag(flag).run();
        ended.refused(1, &["WorkdirRelativePath", "check=error=true", "skip="]);
    }
    let skipped = "# check=error=true;skip=WorkdirRelativePath\nFROM busybox\nWORKDIR x\n";
    let quiet = on_busybox(Place::Host, skipped).run().succeeded();
    assert!(!quiet.log.contains("WARN"), "{}", quiet.log);
    let bad = on_busybox(Place::Host, "# check=skp=all\nFROM busybox\n").run();
    bad.refused(1, &["skp=all", "there are skip="]);
}

#[test]
fn a_from_that_names_a_later_stage_is_told_before_any_image_is_asked_for() {
    let ended = on_busybox(Place::Host, "FROM busybox\nFROM later\nFROM busybox AS later\n")
        .flags(["--target=1", "--registry-map=docker.io=127.0.0.1:1"])
        .flag("--skip-default-registry-fallback")
        .run();
    let told =
        "Dockerfile:2: FROM later means an image: the stage of that name begins later, on line 3";
    ended.refused(1, &[told, "FROM later names a stage that begins later, on line 3"]);
    let place = |words: &str| ended.log.find(words).unwrap_or(usize::MAX);
    assert!(place(told) < place("Retrieving image manifest"), "{}", ended.log);
}

/// Stages that are needed, named only, and not needed.
const STAGES: &str = "FROM busybox AS tools
RUN exit 9
FROM busybox AS unused
RUN exit 9
FROM scratch
ARG NAME=x
COPY --from=tools /bin/busybox /$NAME
ADD https://user:word@host.example/file /
CMD [\"/x\"]
";

const PLAN: &str = "stage 0 tools for PLATFORM
     1  from busybox, 1 layers of BYTES bytes: pull and unpack, for RUN exit 9
     2  RUN /bin/sh -c exit 9  [layer]
stage 2 for PLATFORM, the result
     5  from nothing
     6  ARG NAME=x
     7  COPY /bin/busybox /x  [layer]
     8  ADD https://host.example/file /  [layer]  [fetch https://host.example/file]
     9  CMD [\"/x\"]
stage 1 unused (Dockerfile:3): skipped, nothing needs it
push registry.example/team/app:1
";

#[test]
fn a_dry_run_tells_the_plan_and_builds_nothing() {
    let destination = "--destination=registry.example/team/app:1";
    for place in PLACES {
        let ended = inspected(STAGES, "--dryrun").flag(destination).place(place).run();
        assert_eq!((ended.code(), ended.leftovers()), (0, Vec::<String>::new()), "{}", ended.log);
        let bytes = ended.log.split(" layers of ").nth(1).and_then(|rest| rest.split(' ').next());
        let platform = format!("linux/{}", crate::craft::machine());
        let want = PLAN.replace("PLATFORM", &platform).replace("BYTES", bytes.unwrap_or_default());
        assert_eq!(ended.log, want, "{place:?}");
    }
}

#[test]
fn a_dry_run_for_programs() {
    let ended = inspected(STAGES, "--dryrun=json").run().succeeded();
    let plan: serde_json::Value = serde_json::from_str(&ended.log).expect("it is JSON");
    for (pointer, want) in [
        ("/dockerfile", "Dockerfile".into()),
        ("/stages/0/name", "tools".into()),
        ("/stages/0/base/kind", "image".into()),
        ("/stages/0/base/layers_are", "unpacked".into()),
        ("/stages/0/steps/0/layer", true.into()),
        ("/stages/1/is_result", true.into()),
        ("/stages/1/steps/1/created_by", "COPY /bin/busybox /x # buildkit".into()),
        ("/stages/1/steps/2/fetches/0", "https://host.example/file".into()),
        ("/skipped/0/line", 3.into()),
        ("/outputs/push", serde_json::json!([])),
    ] {
        assert_eq!(plan.pointer(pointer), Some(&want), "{pointer}\n{}", ended.log);
    }
}

#[test]
fn a_dry_run_fails_where_a_build_would_before_its_first_step() {
    for (dockerfile, words) in [
        ("FROM busybox\nRUN true\nENV A=${B^}\n", &["Dockerfile:3", "unsupported modifier"][..]),
        ("FROM busybox\nRUN true\nCOPY --from=9 / /\n", &["Dockerfile:3", "--from=9"]),
    ] {
        inspected(dockerfile, "--dryrun").run().refused(1, words);
    }
    inspected("FROM scratch\n", "--dryrun=yaml").run().refused(1, &["yaml"]);
}
