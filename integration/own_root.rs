//! The root file system of the executor's own container, before and after a build in place.

use crate::base;
use crate::build_basic::on_busybox;
use crate::executor::{Build, PLACES, Place};
use crate::pod::Privileges;

const POD: Place = Place::Pod(Privileges::DEFAULT);

/// A file of the pod's image.
const FOUND: &str = "/etc/nsswitch.conf";

#[test]
fn a_stage_sees_what_is_there_unless_it_was_cleaned_away() {
    for (flag, there) in [("--pre-cleanup=false", true), ("--pre-cleanup", false)] {
        let not = if there { "" } else { "! " };
        let dockerfile = format!("FROM busybox\nRUN test {not}-e {FOUND} && mkdir /made\n");
        let ended = on_busybox(POD, &dockerfile).flag(flag).run().succeeded();
        assert!(!ended.image().tree().contains_key(FOUND), "{flag}");
        assert_eq!(
            ended.root.contains(&".dockerenv".to_owned()),
            there,
            "{flag}: {:?}",
            ended.root
        );
        assert!(ended.root.contains(&"kaniko".to_owned()), "{flag}: {:?}", ended.root);
    }
}

#[test]
fn in_a_namespace_there_is_nothing_to_clean() {
    for variable in ["KANIKO_PRE_CLEANUP", "KANIKO_PRESERVE_CONTEXT"] {
        let build = on_busybox(Place::Host, "FROM busybox\nRUN mkdir /made\n");
        let ended = build.variable(variable, "true").flag("--cleanup").run().succeeded();
        assert!(ended.log.contains("/ stays as it is"), "{}", ended.log);
        assert!(ended.image().tree().contains_key("/made"), "{variable}");
    }
}

#[test]
fn what_was_there_is_put_back_after_the_build() {
    let as_it_was = on_busybox(POD, "FROM busybox\nNONSENSE\n").run();
    as_it_was.refused(1, &["NONSENSE"]);
    let stages = "FROM busybox AS x\nRUN mkdir /of-x && chmod 700 / && rm -rf /root\n";
    for (cleaned, last, code) in [
        (
            false,
            "FROM busybox\nCOPY --from=x /of-x /of-x\nRUN rm -rf /etc/nsswitch.conf /home\n",
            0,
        ),
        (true, "FROM x\nRUN echo >> /etc/passwd\n", 0),
        (false, "FROM x\nRUN exit 3\n", 3),
        (true, "FROM x\nRUN exit 3\n", 3),
    ] {
        let build = on_busybox(POD, &format!("{stages}{last}"))
            .flags(["--cleanup", "--preserve-context"])
            .flag(format!("--pre-cleanup={cleaned}"));
        let ended = build.run();
        assert_eq!(ended.code(), code, "{}", ended.log);
        assert_eq!(
            ended.left_in_root(),
            as_it_was.left_in_root(),
            "{cleaned} {last}: {}",
            ended.log
        );
    }
}

#[test]
fn without_cleanup_nothing_is_put_back_and_that_is_said() {
    let ended = on_busybox(POD, "FROM busybox\nRUN mkdir /made\n")
        .flag("--preserve-context")
        .run()
        .succeeded();
    assert!(ended.log.contains("puts nothing back without --cleanup"), "{}", ended.log);
    assert!(ended.root.contains(&"made".to_owned()), "{:?}", ended.root);
}

/// What a materialized tree has, by the beginning of its line.
fn has(ended: &crate::executor::Ended, line: &str) {
    let found = ended.left_in_root().iter().any(|it| it.starts_with(line));
    assert!(found, "{line}: {:?}\n{}", ended.left_in_root(), ended.log);
}

#[test]
fn the_files_of_the_result_stay_even_if_every_layer_was_cached() {
    let cache = tempfile::tempdir().unwrap();
    let dockerfile = "FROM busybox\nRUN mkdir -m 750 /made && echo text > /made/file\n\
                      RUN rm /etc/group\nCMD x\n";
    for hit in [false, true] {
        let ended = on_busybox(POD, dockerfile)
            .share("cache", cache.path())
            .flags(["--cache", "--cache-repo=oci:{cache}/c", "--materialize", "--pre-cleanup"])
            .run()
            .succeeded();
        assert_eq!(ended.log.contains("Cached: "), hit, "{}", ended.log);
        for line in ["bin/busybox 100755 0:0", "made 40750 0:0", "made/file 100644 0:0 \"text\\n\""]
        {
            has(&ended, line);
        }
        for gone in ["etc/group", "etc/nsswitch.conf"] {
            let left = ended.left_in_root().iter().any(|it| it.starts_with(gone));
            assert!(!left, "{gone}: {:?}", ended.left_in_root());
        }
    }
}

#[test]
fn the_files_of_the_result_stay_whatever_else_is_built() {
    for (dockerfile, targets, line) in [
        ("FROM busybox\nENV A=1\n", "", "bin/busybox 100755"),
        ("FROM busybox\nCOPY f /made\n", "", "made 100644 0:0 \"1\""),
        ("FROM scratch\nCOPY f /made\n", "", "made 100644 0:0 \"1\""),
        // The first target is the result, and the second is built from it, after it.
        (
            "FROM busybox AS a\nRUN echo a > /made\nFROM a AS b\nRUN echo b > /made\n",
            "a,b",
            "made 100644 0:0 \"a\\n\"",
        ),
        (
            "FROM busybox AS a\nRUN echo a > /made\nFROM busybox AS b\nRUN rm -r /bin\n",
            "a,b",
            "made 100644 0:0 \"a\\n\"",
        ),
        (
            "FROM busybox AS a\nRUN echo a > /x\nFROM busybox\nCOPY --from=a /x /made\n",
            "",
            "made 100644 0:0 \"a\\n\"",
        ),
    ] {
        let build = on_busybox(POD, dockerfile).file("f", "1").flag("--materialize");
        let build =
            if targets.is_empty() { build } else { build.flag(format!("--target={targets}")) };
        let ended = build.run().succeeded();
        ended.image();
        has(&ended, line);
        if dockerfile.contains("busybox") {
            has(&ended, "bin/busybox 100755");
        }
    }
}

#[test]
fn what_cannot_be_materialized_is_refused() {
    let dockerfile = "FROM busybox\nRUN mkdir /made\n";
    on_busybox(Place::Host, dockerfile)
        .flags(["--isolation=namespace", "--materialize"])
        .run()
        .refused(1, &["--materialize", "leave --isolation out"]);
    on_busybox(POD, dockerfile)
        .flags(["--cleanup", "--materialize"])
        .run()
        .refused(1, &["--cleanup would remove"]);
}

#[test]
fn the_plan_is_printed_beside_the_build() {
    for place in PLACES {
        let build = Build::of("FROM busybox\nRUN mkdir /made\n").base("busybox", base::busybox());
        let ended = build.place(place).variable("KANIKO_PRINT_PLAN", "1").run().succeeded();
        assert!(ended.log.contains("stage 0 for "), "{}", ended.log);
        assert!(
            ended.log.contains("the result, ") || ended.log.contains("write "),
            "{}",
            ended.log
        );
        assert!(ended.image().tree().contains_key("/made"));
    }
}
