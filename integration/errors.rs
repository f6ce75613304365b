//! What cannot be built is refused: one message, status 1, nothing left behind.

use std::fs;
use std::net::TcpListener;

use crate::base;
use crate::build_basic::on_busybox;
use crate::craft::{Craft, Layer};
use crate::executor::{Build, PLACES, Place, static_executor};
use crate::pod::Privileges;
use crate::registry::{Access, PASSWORD, Registry};
use crate::tools;

#[test]
fn bad_dockerfiles_are_refused_with_their_line() {
    for (dockerfile, words) in [
        ("", &["Dockerfile"][..]),
        ("FROM busybox\nFORM x\n", &["FORM", "Dockerfile", "2"]),
        ("FROM busybox\nRUN echo x\nCOPY a\n", &["COPY", "3"]),
        ("RUN true\nFROM busybox\n", &["RUN", "1"]),
        ("FROM busybox\nCOPY --from=nowhere:1 /a\n", &["2"]),
        ("FROM busybox\nCOPY absent /a\n", &["absent", "2"]),
        ("FROM busybox\nCOPY --chown=nobody-knows f /a\n", &["nobody-knows", "2"]),
        ("FROM busybox\nCOPY --frm=x f /a\n", &["--frm", "2"]),
        ("FROM busybox\nUSER who-is-this\nRUN true\n", &["who-is-this"]),
        ("FROM busybox\nEXPOSE x/y\n", &["x/y", "2"]),
        ("FROM busybox\nENV A\n", &["ENV", "2"]),
        ("FROM busybox\nRUN [\"/no/such/program\"]\n", &["/no/such/program", "2"]),
    ] {
        for place in PLACES {
            on_busybox(place, dockerfile).file("f", "1").run().refused_with_any_status(words);
        }
    }
}

#[test]
fn bad_command_lines_are_refused() {
    for (flags, words) in [
        (&["--destinatoin=x"][..], &["--destinatoin", "--destination"][..]),
        (&["--noPush"], &["--noPush", "--no-push"]),
        (&["--context=/no/such/place", "--no-push"], &["/no/such/place"]),
        (&["--dockerfile=absent", "--no-push"], &["absent"]),
        (&["--no-push", "--target=absent"], &["absent"]),
        (&[], &["--destination", "--no-push"]),
        (&["--destination=UPPER/CASE:x"], &["UPPER/CASE"]),
        (&["--no-push", "--snapshot-mode=fast"], &["fast"]),
        (&["--no-push", "--isolation=chroot"], &["chroot"]),
        (&["--no-push", "--verbosity=loud"], &["loud"]),
        (
            &["--no-push", "--build-context=busybox=oci-layout:///no/such/layout"],
            &["/no/such/layout"],
        ),
        (
            &["--no-push", "--build-context=Scratch=docker-image://x"],
            &["--build-context=Scratch", "choose another"],
        ),
        (&["--no-push", "--oci-layout-path=/proc/no/image"], &["/proc/no/image"]),
        (&["--no-push", "--tar-path=/proc/no/image.tar"], &["/proc/no/image.tar"]),
        (&["--no-push", "--digest-file=/proc/no/digest"], &["/proc/no/digest"]),
    ] {
        let build = Build::bare()
            .file("Dockerfile", "FROM busybox\nRUN true\n")
            .base("busybox", base::busybox());
        let build = flags.iter().fold(build, |build, flag| build.flag(*flag));
        build.run().refused(1, words);
    }
}

#[test]
fn a_step_s_status_is_the_build_s() {
    for (step, code, words) in [
        ("exit 3", 3, &["exit 3", "2"][..]),
        ("(sh -c 'kill -9 $$'); exit $?", 137, &["2"]),
        ("echo to-stderr >&2; false", 1, &["to-stderr"]),
        ("no-such-program", 127, &["no-such-program"]),
    ] {
        for place in PLACES {
            on_busybox(place, &format!("FROM busybox\nRUN {step}\n"))
                .flag("--digest-file={out}/digest")
                .run()
                .refused(code, words);
        }
    }
}

#[test]
fn registries_that_refuse_are_named_without_the_password() {
    let open = Registry::start(Access::Plain);
    let closed = Registry::start(Access::PlainBasic);
    let unknown = Registry::start(Access::Tls);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let wrong = closed.docker_config_with("wrong", &format!("{PASSWORD}-but-wrong"));
    for (base, words) in [
        (open.reference("absent:1"), vec!["absent", "1"]),
        (format!("{nobody}/x:1"), vec!["127.0.0.1", "onnection refused"]),
        (closed.reference("x:1"), vec![closed.address(), "401"]),
        (unknown.reference("x:1"), vec![unknown.address(), "certificate"]),
    ] {
        let build = Build::of(&format!("FROM {base}\nRUN true\n"))
            .bring("login", &wrong)
            .variable("DOCKER_CONFIG", "{login}");
        // The registry under TLS is not known to speak HTTP.
        let plain = !base.starts_with(unknown.address());
        let ended = if plain { build.flag("--insecure-pull") } else { build }.run();
        ended.refused(1, &words);
        assert!(!ended.log.contains(PASSWORD), "{}", ended.log);
    }
}

#[test]
fn a_push_that_is_refused_is_found_before_the_first_step() {
    let closed = Registry::start(Access::PlainBasic);
    let ended = Build::bare()
        .file("Dockerfile", "FROM busybox\nRUN echo begun-$((40+2))\n")
        .base("busybox", base::busybox())
        .flags(["--insecure", "--digest-file={out}/digest"])
        .flag(format!("--destination={}", closed.reference("app:1")))
        .run();
    ended.refused(1, &[closed.address(), "401"]);
    assert!(!ended.log.contains("begun-42"), "{}", ended.log);
    assert!(closed.manifest("app:1").is_none());
}

#[test]
fn the_platform_that_an_index_lacks_is_named() {
    let layout = tempfile::tempdir().unwrap();
    let image =
        |architecture| Craft::new().architecture(architecture).layer(Layer::new().file("a", "1"));
    crate::craft::write_multi_platform(layout.path(), "x", &[image("s390x"), image("riscv64")]);
    Build::of("FROM other\nRUN true\n")
        .base("other", layout.path())
        .run()
        .refused(1, &[crate::craft::machine(), "s390x"]);
}

#[test]
fn a_missing_capability_is_named() {
    for (capability, dockerfile) in [
        ("CAP_CHOWN", "FROM busybox\nRUN true\n"),
        ("CAP_SETUID", "FROM busybox\nUSER builder\nRUN true\n"),
        ("CAP_MKNOD", "FROM device\nRUN true\n"),
    ] {
        let layout = tempfile::tempdir().unwrap();
        let device = Layer::new().character_device("n", 1, 3);
        Craft::new().layer(device).write(layout.path(), base::TAG);
        let privileges = Privileges { dropped: Some(capability), ..Privileges::DEFAULT };
        let ended =
            on_busybox(Place::Pod(privileges), dockerfile).base("device", layout.path()).run();
        ended.refused(1, &[capability]);
    }
}

/// The root that would be overwritten is a throw-away one, in case the refusal fails.
#[test]
fn in_place_outside_of_a_container_needs_force() {
    let root = tempfile::tempdir().unwrap();
    for directory in ["bin", "dev", "etc", "proc", "tmp", "context"] {
        fs::create_dir(root.path().join(directory)).unwrap();
    }
    fs::copy(tools::find("busybox"), root.path().join("bin/sh")).unwrap();
    fs::copy(static_executor(), root.path().join("bin/executor")).unwrap();
    fs::write(root.path().join("context/Dockerfile"), "FROM scratch\nCOPY Dockerfile /copied\n")
        .unwrap();
    let said = tools::in_root(
        root.path(),
        "if executor --isolation=in-place --context=/context --no-push 2>&1; then exit 1; fi",
    );
    for word in ["in-place", "--force"] {
        assert!(said.contains(word), "nothing about {word}: {said}");
    }
    assert!(!root.path().join("copied").exists());
}
