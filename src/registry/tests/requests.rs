//! Faults of a push and of the token server, request by request.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::fake::{Answer, Fake};
use super::{image, impatient, noise};
use crate::image::{Flavor, Image, Platform, Reference};
use crate::registry::{Credentials, Registry, RegistryError, Settings};

/// Large enough to be sent by PATCH.
const LARGE: usize = (1 << 20) + 1000;

struct Setting {
    dir: tempfile::TempDir,
    image: Image,
    fake: Fake,
    registry: Registry,
}

/// An empty registry, a user whom its token server knows, and an image of one layer of this size.
fn set(size: usize) -> Setting {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), Flavor::Oci, &[noise(7, size)]);
    let fake = Fake::start();
    fake.state().token = Some("first".to_owned());
    fake.state().login = Some(BASE64_STANDARD.encode("u:canary"));
    let config =
        format!(r#"{{"auths":{{"{}":{{"username":"u","password":"canary"}}}}}}"#, fake.host);
    let credentials =
        Credentials::anonymous().with_docker_config(config.as_bytes(), "/c.json").unwrap();
    let registry = Registry::new(Settings { credentials, ..impatient() }).unwrap();
    Setting { dir, image, fake, registry }
}

impl Setting {
    fn push(&self) -> Result<(), RegistryError> {
        let name: Reference = format!("{}/a:1", self.fake.host).parse().unwrap();
        self.registry.push(&self.image, &[name], Vec::new(), self.dir.path()).map(|_| ())
    }

    fn assert_arrived(&self, what: &str) {
        let state = self.fake.state();
        assert_eq!(state.content["manifests/1"].1, self.image.manifest_bytes(), "{what}");
        for layer in self.image.layers() {
            let blob = format!("blobs/{}", layer.descriptor.digest);
            assert_eq!(state.content[&blob].1.len() as u64, layer.descriptor.size, "{what}");
        }
        assert_eq!(state.seen.last().unwrap().line(), "PUT /v2/a/manifests/1", "{what}");
    }
}

#[test]
fn every_request_of_a_push_survives_what_passes() {
    let requests = [
        "GET /token",
        "HEAD /v2/a/blobs",
        "POST",
        "PATCH",
        "PUT /v2/a/blobs",
        "PUT /v2/a/manifests",
    ];
    for request in requests {
        let it = set(LARGE);
        for status in [408, 500, 502, 504] {
            it.fake.fault(request, Answer::status(status));
        }
        it.push().unwrap_or_else(|error| panic!("{request}: {error}"));
        it.assert_arrived(request);
        let it = set(LARGE);
        it.fake.fault(request, Answer::status(429).with("Retry-After", "7"));
        it.fake.fault(
            request,
            Answer::status(503).with("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT"),
        );
        it.fake.fault(request, Answer::silence());
        it.push().unwrap_or_else(|error| panic!("{request}: {error}"));
        it.assert_arrived(request);
    }
}

#[test]
fn a_stall_in_each_request_of_a_push_is_noticed() {
    for request in ["GET /token", "HEAD", "POST", "PATCH", "PUT /v2/a/manifests"] {
        let it = set(LARGE);
        it.fake.fault(request, Answer::stall());
        it.push().unwrap_or_else(|error| panic!("{request}: {error}"));
        it.assert_arrived(request);
    }
}

#[test]
fn a_session_that_the_registry_forgot_is_begun_anew() {
    for status in [404, 416] {
        let it = set(LARGE);
        it.fake.fault("PATCH", Answer::status(status));
        it.push().unwrap_or_else(|error| panic!("{status}: {error}"));
        it.assert_arrived(&status.to_string());
        assert!(it.fake.count("POST /v2/a/blobs/uploads/") >= 2, "{status}");
    }
}

#[test]
fn a_token_that_expires_during_a_push_is_renewed() {
    let it = set(LARGE);
    it.registry.check_push(&format!("{}/a:1", it.fake.host).parse().unwrap()).unwrap();
    it.fake.state().token = Some("second".to_owned());
    it.push().unwrap();
    it.assert_arrived("with the second token");
    assert_eq!(it.fake.count("GET /token"), 2);
}

#[test]
fn an_upload_at_another_host_is_not_told_who_asks() {
    for size in [1000, LARGE] {
        let it = set(size);
        let stranger = Fake::start();
        let layer = it.image.layers()[0].descriptor.digest;
        let elsewhere = format!("http://{}/v2/a/blobs/uploads/1?signed=x", stranger.host);
        // The config and the layer ask beside each other; both go there, each to a session of its own.
        let begin = |session: u32| {
            let location = format!("{elsewhere}&_state={session}");
            it.fake.fault("POST", Answer::status(202).with("Location", &location));
        };
        (0..2).for_each(begin);
        // The first request brings the token.
        it.registry.check_push(&format!("{}/b:1", it.fake.host).parse().unwrap()).unwrap();
        (2..4).for_each(begin);
        let _ = it.push();
        let state = stranger.state();
        assert!(!state.seen.is_empty(), "{layer} went nowhere");
        for seen in &state.seen {
            assert_eq!(seen.header("authorization"), "", "{}", seen.line());
        }
    }
}

#[test]
fn a_slow_server_is_no_dead_one() {
    let it = set(1000);
    let bytes = noise(7, 1000);
    let fake = Fake::start().holding(&it.image);
    let layer = format!("GET /v2/a/blobs/{}", it.image.layers()[0].descriptor.digest);
    // In all more than the idle time, of which no single pause is a third.
    fake.fault(
        &layer,
        Answer::status(200).body(&bytes).slow(5, std::time::Duration::from_millis(250)),
    );
    let registry = Registry::new(impatient()).unwrap();
    let name: Reference = format!("{}/a:1", fake.host).parse().unwrap();
    let pulled = registry.pull(&name, &Platform::host()).unwrap();
    let file = registry.fetch(&pulled.layers()[0], it.dir.path()).wait().unwrap();
    assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
    assert_eq!(fake.count(&layer), 1);
}

#[test]
fn what_a_push_is_refused_for_is_told_once() {
    for (request, status) in [("POST", 403), ("PUT /v2/a/manifests", 400), ("PUT /v2/a/blobs", 413)]
    {
        let it = set(1000);
        let said = br#"{"errors":[{"code":"DENIED","message":"quota"}]}"#;
        for _ in 0..9 {
            it.fake.fault(request, Answer::status(status).body(said));
        }
        let error = it.push().unwrap_err().to_string();
        assert!(error.contains(&status.to_string()) && error.contains("quota"), "{error}");
        assert!(!it.fake.state().content.contains_key("manifests/1"), "{request}");
    }
}
