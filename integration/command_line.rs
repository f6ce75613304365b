//! The command line and the log, as a pipeline written for kaniko uses them.

use serde_json::Value;

use crate::base;
use crate::executor::{Build, static_executor};
use crate::tools;

fn small() -> Build {
    Build::bare()
        .file("Dockerfile", "FROM busybox\nRUN echo line-1; echo line-2 >&2\n")
        .base("busybox", base::busybox())
}

#[test]
fn flags_are_spelled_as_kaniko_spells_them() {
    for flags in [
        &["--no-push"][..],
        &["--no-push=true", "--cleanup=false", "--use-new-run=true"],
        &["--no-push", "--tarPath={out}/x.tar", "--destination=example.test/a:1"],
        &["--no-push", "--tar-path={out}/x.tar", "--destination", "example.test/a:1"],
        &["--no-push", "--snapshotMode=redo", "-v", "debug", "-f", "Dockerfile"],
        &["--no-push", "--log-format=text", "--log-timestamp", "--force=false"],
    ] {
        let build = flags.iter().fold(small(), |build, flag| build.flag(*flag));
        build.run().succeeded();
    }
}

#[test]
fn a_log_in_json_is_one_object_a_line() {
    let ended = small().flags(["--no-push", "--log-format=json"]).run().succeeded();
    let step_said = ["line-1", "line-2"];
    for line in ended.log.lines().filter(|line| !step_said.contains(line)) {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(entry["level"].is_string() && entry["msg"].is_string(), "{line}");
    }
    for said in step_said {
        assert!(ended.log.contains(said), "{}", ended.log);
    }
}

#[test]
fn the_log_says_where_steps_run_and_who_watches() {
    let ended = small().flags(["--no-push", "--verbosity=info"]).run().succeeded();
    for word in ["namespace", "RUN steps: "] {
        assert!(ended.log.contains(word), "nothing about {word}:\n{}", ended.log);
    }
}

#[test]
fn a_quiet_build_says_only_what_its_steps_say() {
    let ended = small().flags(["--no-push", "--verbosity=error"]).run().succeeded();
    let mut lines: Vec<&str> = ended.log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["line-1", "line-2"]);
}

#[test]
fn the_version_is_told() {
    let said = tools::output(std::process::Command::new(static_executor()).arg("version"));
    assert!(said.contains(env!("CARGO_PKG_VERSION")), "{said}");
}
