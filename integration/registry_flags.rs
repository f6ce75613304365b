//! Flags and variables about registries, on real ones.

use crate::base;
use crate::executor::Build;
use crate::image::Image;
use crate::registry::{Access, Registry};

fn build(dockerfile: &str) -> Build {
    Build::bare().file("Dockerfile", dockerfile)
}

#[test]
fn a_mirror_or_a_map_stands_for_a_registry() {
    let registry = Registry::start(Access::Plain);
    registry.push(&base::busybox(), base::TAG, "library/busybox:1", None);
    registry.push(&base::busybox(), base::TAG, "prefix/deep/app:1", None);
    let host = registry.address();
    for (from, flag, variable) in [
        ("busybox:1", format!("--registry-mirror={host}"), None),
        ("busybox:1", "-v=info".to_owned(), Some(("KANIKO_REGISTRY_MIRROR", host.to_owned()))),
        ("r.invalid/deep/app:1", format!("--registry-map=r.invalid={host}/prefix"), None),
        (
            "r.invalid/deep/app:1",
            "--skip-default-registry-fallback".to_owned(),
            Some(("KANIKO_REGISTRY_MAP", format!("r.invalid=127.0.0.1:1;r.invalid={host}/prefix"))),
        ),
    ] {
        let it = build(&format!("FROM {from}\nRUN echo 1 > /a\n"))
            .flags(["--no-push", "--oci-layout-path={out}/image"])
            .flag(&flag);
        let it = variable.iter().fold(it, |it, (name, value)| it.variable(name, value));
        let image = it.run().succeeded().image();
        assert_eq!(image.top().names(), ["/a"], "{from} {flag}");
    }
}

#[test]
fn without_a_way_back_a_failed_mirror_is_the_end() {
    let registry = Registry::start(Access::Plain);
    let mirror = Registry::start(Access::Plain);
    registry.push(&base::busybox(), base::TAG, "base:1", None);
    let from = registry.reference("base:1");
    let it = || {
        build(&format!("FROM {from}\n")).flag("--no-push").flag(format!(
            "--registry-map={}={}",
            registry.address(),
            mirror.address()
        ))
    };
    let ended = it().run().succeeded();
    assert!(ended.log.contains("trying the next place"), "{}", ended.log);
    it().flag("--skip-default-registry-fallback")
        .run()
        .refused(1, &[&mirror.reference("base:1"), "404"]);
}

#[test]
fn unverified_certificates_are_taken_where_that_was_asked_for() {
    let registry = Registry::start(Access::Tls);
    registry.push(&base::busybox(), base::TAG, "base:1", None);
    let dockerfile = format!("FROM {}\nRUN touch /a\n", registry.reference("base:1"));
    let push = format!("--destination={}", registry.reference("app:1"));
    for (flags, want) in [
        (vec!["--no-push".to_owned()], Some("--registry-certificate")),
        (vec!["--no-push".to_owned(), "--skip-tls-verify-pull".to_owned()], None),
        (vec![push.clone(), "--skip-tls-verify-pull".to_owned()], Some("--skip-tls-verify")),
        (vec![push, format!("--skip-tls-verify-registry={}", registry.address())], None),
    ] {
        let ended = flags.iter().fold(build(&dockerfile), |it, flag| it.flag(flag)).run();
        match want {
            Some(words) => ended.refused(1, &[words]),
            None => drop(ended.succeeded()),
        }
    }
    Image::pull(&registry, "app:1").validate();
}

#[test]
fn the_permission_to_push_is_asked_first_unless_that_is_skipped() {
    let registry = Registry::start(Access::PlainBasic);
    let it = |flag: &str| {
        build("FROM busybox\nRUN echo the step ran\n")
            .base("busybox", base::busybox())
            .flag(format!("--destination={}", registry.reference("app:1")))
            .flag(flag)
            .run()
    };
    let ended = it("--skip-push-permission-check=false");
    ended.refused(1, &["check push permission", "401"]);
    assert!(!ended.log.contains("the step ran"), "{}", ended.log);
    let ended = it("--skip-push-permission-check");
    ended.refused(1, &["the step ran", "401"]);
    assert!(!ended.log.contains("check push permission"), "{}", ended.log);
}

#[test]
fn a_login_comes_from_a_variable() {
    let registry = Registry::start(Access::PlainBasic);
    let config = std::fs::read_to_string(registry.docker_config().join("config.json")).unwrap();
    let wrong = registry.docker_config_with("wrong", "nonsense");
    build("FROM busybox\n")
        .base("busybox", base::busybox())
        .flag(format!("--destination={}", registry.reference("app:1")))
        .bring("wrong", wrong)
        .variable("DOCKER_CONFIG", "{wrong}")
        .variable("DOCKER_AUTH_CONFIG", config)
        .run()
        .succeeded();
    assert!(registry.manifest("app:1").is_some());
}
