//! Flags and variables about registries, on real ones.

use crate::base;
use crate::craft::{Craft, Layer, machine, write_multi_platform};
use crate::executor::Build;
use crate::image::Image;
use crate::registry::{Access, Registry};
use crate::relay::Tunnels;

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

#[test]
fn a_client_shows_its_certificate_where_one_is_wanted() {
    let registry = Registry::start(Access::TlsClient);
    registry.push(&base::busybox(), base::TAG, "base:1", None);
    let (trust, host) = (registry.authority().parent().unwrap().to_owned(), registry.address());
    let it = |flags: &[String]| {
        let dockerfile = format!("FROM {}\nRUN touch /a\n", registry.reference("base:1"));
        let build = build(&dockerfile)
            .bring("trust", &trust)
            .variable("SSL_CERT_DIR", "{trust}")
            .flag(format!("--destination={}", registry.reference("app:1")));
        flags.iter().fold(build, |build, flag| build.flag(flag)).run()
    };
    let words = "certificate";
    it(&[]).refused(1, &[&registry.reference("app"), words]);
    it(&[format!("--registry-client-cert={host}={{trust}}/client.cert")])
        .refused(1, &["--registry-client-cert", "HOST=CERTIFICATE-FILE,KEY-FILE"]);
    let shown = format!("--registry-client-cert={host}={{trust}}/client.cert,{{trust}}/client.key");
    it(&[shown]).succeeded();
    Image::pull(&registry, "app:1").validate();
}

#[test]
fn another_platform_s_image_is_built_when_asked_for() {
    let registry = Registry::start(Access::Plain);
    let layouts = tempfile::tempdir().unwrap();
    let image = |architecture: &str| {
        Craft::new().layer(Layer::new().file("which", architecture)).architecture(architecture)
    };
    write_multi_platform(layouts.path(), "x", &[image(machine()), image("riscv64")]);
    registry.push(layouts.path(), "x", "many:1", None);
    let dockerfile = format!(
        "FROM {}\nARG TARGETPLATFORM BUILDPLATFORM\nLABEL of=$TARGETPLATFORM on=$BUILDPLATFORM\n\
         COPY Dockerfile /\n",
        registry.reference("many:1")
    );
    for flag in ["--custom-platform=linux/riscv64", "--customPlatform=linux/riscv64"] {
        let image = build(&dockerfile)
            .flags(["--no-push", "--oci-layout-path={out}/image"])
            .flag(flag)
            .image();
        assert_eq!(image.tree()["/which"].content.as_deref(), Some("\"riscv64\""), "{flag}");
        assert_eq!(image.config["architecture"], "riscv64", "{flag}");
        assert_eq!(image.setting("/Labels/of"), "linux/riscv64", "{flag}");
        assert_eq!(*image.setting("/Labels/on"), format!("linux/{}", machine()), "{flag}");
    }
    let absent = build(&dockerfile).flags(["--no-push", "--custom-platform=linux/s390x"]).run();
    absent.refused(1, &["linux/s390x", "linux/riscv64", &registry.reference("many:1")]);
}

#[test]
fn a_login_of_podman_s_file() {
    let registry = Registry::start(Access::PlainBasic);
    let login = registry.docker_config();
    std::fs::rename(login.join("config.json"), login.join("auth.json")).unwrap();
    let it = |variable: &str, value: &str| {
        build("FROM busybox\n")
            .base("busybox", base::busybox())
            .flag(format!("--destination={}", registry.reference("app:1")))
            .bring("login", &login)
            .variable(variable, value)
            .run()
    };
    it("REGISTRY_AUTH_FILE", "{login}/absent.json").refused(1, &["401"]);
    it("REGISTRY_AUTH_FILE", "{login}/auth.json").succeeded();
    assert!(registry.manifest("app:1").is_some());
}

#[test]
fn a_proxy_is_asked_but_for_its_exceptions() {
    let registry = Registry::start(Access::Plain);
    // The registry is its own proxy, so that a name that does not resolve leads to it.
    let it = |exceptions: &str| {
        build("FROM busybox\n")
            .base("busybox", base::busybox())
            .flags(["--destination=registry.invalid/app:1", "--insecure"])
            .variable("HTTP_PROXY", format!("http://{}", registry.address()))
            .variable("NO_PROXY", exceptions)
            .run()
    };
    it("elsewhere.invalid").succeeded();
    assert!(registry.manifest("app:1").is_some());
    it(".invalid").refused(1, &["registry.invalid/app"]);
}

#[test]
fn a_proxy_for_https_carries_tls_that_it_cannot_read() {
    // Its certificate is for a name that does not resolve.
    let registry = Registry::start(Access::TlsOfAnother);
    let tunnels = Tunnels::to(registry.address());
    let name = "registry.example.test";
    let it = |exceptions: &str| {
        build("FROM busybox\nRUN echo 1 > /a\n")
            .base("busybox", base::busybox())
            .flag(format!("--destination={name}/app:1"))
            .flag(format!("--registry-certificate={name}={{roots}}"))
            .bring("roots", registry.authority())
            .variable("HTTPS_PROXY", format!("http://{}", tunnels.address))
            .variable("NO_PROXY", exceptions)
            .run()
    };
    it("elsewhere.test").succeeded();
    let asked = tunnels.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|it| *it == format!("CONNECT {name}:443 HTTP/1.1"))
    );
    assert!(registry.paths("PUT").iter().any(|it| it == "/v2/app/manifests/1"));
    it("example.test").refused(1, &[&format!("{name}/app")]);
    assert_eq!(tunnels.asked().len(), asked.len(), "an exception is not asked for");
}

#[test]
fn a_variable_says_that_nothing_is_pushed() {
    let registry = Registry::start(Access::Plain);
    let it = |value: &str, flag: &str| {
        build("FROM busybox\n")
            .base("busybox", base::busybox())
            .flag(format!("--destination={}", registry.reference("app:1")))
            .flag(flag)
            .variable("KANIKO_NO_PUSH", value)
            .run()
    };
    it("true", "--no-push=false").succeeded();
    assert!(registry.manifest("app:1").is_none());
    it("perhaps", "--no-push").refused(1, &["KANIKO_NO_PUSH", "perhaps"]);
    it("false", "--no-push").succeeded();
    assert!(registry.manifest("app:1").is_some());
}

#[test]
fn a_certificate_that_does_not_hold_is_told_by_what_is_wrong_with_it() {
    for (access, words) in [
        (Access::TlsExpired, "expired"),
        (Access::TlsOfAnother, "not valid for name"),
        (Access::Tls, "UnknownIssuer"),
    ] {
        let registry = Registry::start(access);
        let it = |flag: &str| {
            let build = build("FROM busybox\n")
                .base("busybox", base::busybox())
                .flag(format!("--destination={}", registry.reference("app:1")))
                .flag(flag);
            match access {
                // This one's authority is not known.
                Access::Tls => build.run(),
                _ => {
                    build.bring("ca", registry.authority()).variable("SSL_CERT_FILE", "{ca}").run()
                }
            }
        };
        it("-v=info").refused(1, &[&registry.reference("app"), words, "--skip-tls-verify"]);
        it("--skip-tls-verify").succeeded();
    }
}

/// The first connection ends before a byte came back, as a load balancer's does whose server is being exchanged.
#[test]
fn a_first_handshake_that_breaks_off_is_tried_again() {
    let registry = Registry::start(Access::Tls);
    let (mut first, arrived) = (true, std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let counted = std::sync::Arc::clone(&arrived);
    let address = crate::relay::start(registry.address(), move |mut client, mut server| {
        let number = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if std::mem::take(&mut first) && number == 0 {
            let _ = server.shutdown(std::net::Shutdown::Both);
            let _ = client.shutdown(std::net::Shutdown::Both);
            return;
        }
        let _ = std::io::copy(&mut client, &mut server);
        let _ = server.shutdown(std::net::Shutdown::Write);
    });
    build("FROM busybox\nRUN touch /a\n")
        .base("busybox", base::busybox())
        .flag(format!("--destination={address}/app:1"))
        .bring("ca", registry.authority())
        .variable("SSL_CERT_FILE", "{ca}")
        .run()
        .succeeded();
    Image::pull(&registry, "app:1").validate();
}

/// What kaniko's own documentation has people write, and what its image has the programs for.
#[test]
fn a_helper_that_kaniko_brings_need_not_be_there() {
    let registry = Registry::start(Access::PlainBasic);
    let login = registry.docker_config();
    let config = std::fs::read_to_string(login.join("config.json")).unwrap();
    for (store, succeeds) in [("ecr-login", true), ("gcr", true), ("desktop", false)] {
        let text = config.replacen('{', &format!("{{\"credsStore\":\"{store}\","), 1);
        std::fs::write(login.join("config.json"), text).unwrap();
        let ended = build("FROM busybox\n")
            .base("busybox", base::busybox())
            .flag(format!("--destination={}", registry.reference("app:1")))
            .bring("login", &login)
            .variable("DOCKER_CONFIG", "{login}")
            .run();
        match succeeds {
            true => drop(ended.succeeded()),
            false => ended.refused(1, &["docker-credential-desktop was not found"]),
        }
    }
}
