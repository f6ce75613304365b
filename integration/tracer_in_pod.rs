//! What each backend answers in containers, in the tables of `tracer/tests/answers`.
//!
//! This program is its own guest runner: static as it is, it is the first
//! process of a pod and runs all guests there.

use crate::pod::{Pod, Privileges, give_to_mapped_root};
use crate::proof::{BUILT, Guests, SETTINGS, Setting, TABLES, compare};
use crate::tools;

#[test]
fn in_a_pod_answers_are_those_of_the_table() {
    hold_tables(Privileges::DEFAULT, Setting::POD);
}

#[test]
fn without_privilege_escalation_answers_are_those_of_the_table() {
    let privileges = Privileges { no_new_privs: true, ..Privileges::DEFAULT };
    hold_tables(privileges, Setting::POD_NO_NEW_PRIVS);
}

#[test]
fn in_a_user_namespace_answers_are_those_of_the_table() {
    let privileges = Privileges { user_namespace: true, ..Privileges::DEFAULT };
    hold_tables(privileges, Setting::POD);
}

fn hold_tables<const N: usize>(privileges: Privileges, settings: [Setting; N]) {
    let guests = Guests::built();
    let tables = tempfile::tempdir().unwrap();
    if privileges.user_namespace {
        give_to_mapped_root(tables.path());
    }
    let pod = Pod::new(&std::env::current_exe().unwrap(), privileges)
        .mount(guests.path(), "/guests", "ro")
        .mount(tables.path(), "/out", "rw")
        .variable(BUILT, "/guests")
        .variable(TABLES, "/out")
        .variable(SETTINGS, &settings.map(|setting| setting.name).join(","))
        .variable("TMPDIR", "/root");
    let inside = ["--exact", "proof::answers::inside", "--ignored", "--nocapture"];
    let pod = pod.arguments(inside.map(str::to_owned).to_vec());
    let output = pod.command().output().unwrap();
    let said = tools::said(&output);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    compare(&settings, tables.path());
}
