//! Every way in which a registry or the network may misbehave, on demand.

use std::fs;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::fake::{Answer, Fake};
use super::{image, impatient, noise};
use crate::image::{Descriptor, Digest, Flavor, Image, Platform, Reference};
use crate::registry::{Credentials, Registry, RegistryError, Settings};

const SIZE: usize = 300_000;

struct Setting {
    dir: tempfile::TempDir,
    image: Image,
    bytes: Vec<u8>,
    fake: Fake,
    registry: Registry,
}

/// A fake that holds an image of one layer as `a:1`, and a client.
fn set(settings: Settings) -> Setting {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(1, SIZE);
    let image = image(dir.path(), Flavor::Oci, std::slice::from_ref(&bytes));
    let fake = Fake::start().holding(&image);
    Setting { dir, image, bytes, fake, registry: Registry::new(settings).unwrap() }
}

impl Setting {
    fn name(&self, tag: &str) -> Reference {
        format!("{}/a:{tag}", self.fake.host).parse().unwrap()
    }

    fn pull(&self) -> Result<Image, RegistryError> {
        self.registry.pull(&self.name("1"), &Platform::host())
    }

    /// Pulls and fetches; the layer's bytes.
    fn fetch(&self) -> Result<Vec<u8>, RegistryError> {
        let layer = self.pull()?.layers()[0].clone();
        let file = self.registry.fetch(&layer, self.dir.path()).wait()?;
        Ok(fs::read(file.path()).unwrap())
    }

    fn push(&self) -> Result<(), RegistryError> {
        let names = [self.name("2")];
        self.registry.push(&self.image, &names, Vec::new(), self.dir.path()).map(|_| ())
    }

    fn files(&self) -> usize {
        fs::read_dir(self.dir.path()).unwrap().count()
    }
}

fn layer_path(setting: &Setting) -> String {
    format!("GET /v2/a/blobs/{}", setting.image.layers()[0].descriptor.digest)
}

#[test]
fn a_pull_survives_what_passes() {
    for status in [408, 429, 500, 502, 503, 504] {
        for request in ["GET /v2/a/manifests", "GET /v2/a/blobs"] {
            let it = set(impatient());
            it.fake.fault(request, Answer::status(status));
            it.fake.fault(request, Answer::status(status).with("Retry-After", "7"));
            it.fake.fault(request, Answer::status(200).body(&noise(2, 50)).cut(10));
            it.fake.fault(request, Answer::silence());
            assert_eq!(it.fetch().unwrap(), it.bytes, "{status} to {request}");
        }
    }
}

#[test]
fn the_budget_ends_and_says_what_the_registry_said() {
    let it = set(impatient());
    for _ in 0..9 {
        let said = br#"{"errors":[{"code":"BUSY","message":"come back"}]}"#;
        it.fake.fault("GET /v2/a/manifests", Answer::status(503).body(said));
    }
    let error = it.pull().unwrap_err().to_string();
    assert!(error.ends_with("the registry answered 503: BUSY: come back"), "{error}");
    assert_eq!(it.fake.count("GET"), 5);
}

#[test]
fn no_is_no() {
    for (status, want) in [(401, "denied"), (403, "denied"), (404, "not found"), (400, "400")] {
        let it = set(impatient());
        let body = b"Client sent an HTTP request to an HTTPS server.";
        it.fake.fault("GET /v2/a/manifests", Answer::status(status).body(body));
        let error = it.pull().unwrap_err();
        assert!(error.to_string().contains(want), "{status}: {error}");
        assert!(error.hint().is_some(), "{status}");
        assert_eq!(it.fake.count("GET"), 1, "{status} is not tried again");
    }
}

#[test]
fn a_stalled_server_is_asked_again() {
    let it = set(impatient());
    it.fake.fault("GET /v2/a/manifests", Answer::stall());
    assert_eq!(it.fetch().unwrap(), it.bytes);
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let it = set(impatient());
    it.fake.fault(&layer_path(&it), Answer::status(200).body(&it.bytes).cut(200_000));
    assert_eq!(it.fetch().unwrap(), it.bytes);
    let state = it.fake.state();
    let range = state.seen.last().unwrap().header("range");
    let from: usize = range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap();
    assert!(from > 0 && from <= 200_000, "{range}");
}

#[test]
fn a_server_that_does_not_resume_starts_anew() {
    for answer in [Answer::status(416), Answer::status(206).with("Content-Range", "bytes 7-9/10")] {
        let it = set(impatient());
        let layer = layer_path(&it);
        it.fake.fault(&layer, Answer::status(200).body(&it.bytes).cut(100_000));
        it.fake.fault(&layer, answer.clone());
        it.fake.fault(&layer, Answer::status(200).body(&it.bytes).cut(50_000));
        it.fake.fault(&layer, Answer::status(200).body(&it.bytes));
        assert_eq!(it.fetch().unwrap(), it.bytes, "{answer:?}");
    }
}

#[test]
fn wrong_bytes_are_refused_and_leave_no_file() {
    let mut flipped = noise(1, SIZE);
    flipped[1234] ^= 1;
    for (body, want) in [
        (flipped, "the bytes that came are"),
        (noise(1, SIZE - 1), "are offered"),
        (noise(1, SIZE + 1), "are offered"),
    ] {
        let it = set(impatient());
        let files = it.files();
        it.fake.fault(&layer_path(&it), Answer::status(200).body(&body));
        let error = it.fetch().unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
        assert_eq!(it.files(), files, "{want}");
    }
}

#[test]
fn manifests_that_are_refused() {
    let it = set(impatient());
    let image = &it.image;
    let manifest = image.manifest_bytes();
    let oci = Flavor::Oci.manifest();
    let other_config = String::from_utf8(manifest.to_vec()).unwrap().replace(
        &image.config_descriptor().digest.to_string(),
        &image.layers()[0].descriptor.digest.to_string(),
    );
    let text = String::from_utf8(manifest.to_vec()).unwrap();
    let both = text.replacen('{', r#"{"manifests":[],"#, 1);
    let negative = text.replacen("\"size\":", "\"size\":-", 1);
    let entry = Descriptor {
        platform: Some(Platform::new("linux", "s390x", None)),
        ..Descriptor::of(oci, &manifest)
    };
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let index_type = "application/vnd.oci.image.index.v1+json";
    for (content_type, body, want) in [
        (Flavor::Docker.manifest(), &manifest[..], "Content-Type"),
        (oci, b"{}", "schemaVersion"),
        (oci, br#"{"schemaVersion":1,"name":"a","fsLayers":[]}"#, "schema version 1"),
        (oci, both.as_bytes(), "both `layers` and `manifests`"),
        (oci, negative.as_bytes(), "expected u64"),
        (oci, &vec![b' '; (4 << 20) + 1], "more than"),
        (oci, other_config.as_bytes(), "more than"),
        (index_type, index.as_bytes(), "no image for platform linux/"),
    ] {
        let answer = Answer::status(200).with("Content-Type", content_type).body(body);
        it.fake.fault("GET /v2/a/manifests/1", answer);
        let error = it.pull().unwrap_err().to_string();
        assert!(error.contains(want), "{want}: {error}");
    }
    let wrong = it.name("1").with_digest(Digest::of(b"other"));
    it.fake.fault("GET /v2/a/manifests", Answer::status(200).body(&manifest));
    let error = it.registry.pull(&wrong, &Platform::host()).unwrap_err().to_string();
    assert!(error.contains("the manifest is sha256:"), "{error}");
}

fn with_login(fake_host: &str) -> Settings {
    let config = format!(r#"{{"auths":{{"{fake_host}":{{"username":"u","password":"canary"}}}}}}"#);
    let credentials =
        Credentials::anonymous().with_docker_config(config.as_bytes(), "/c.json").unwrap();
    Settings { credentials, ..impatient() }
}

/// Like [`set`], with a token server and a user that it knows.
fn set_with_token() -> Setting {
    let mut it = set(impatient());
    it.registry = Registry::new(with_login(&it.fake.host)).unwrap();
    let mut state = it.fake.state();
    state.token = Some("first".to_owned());
    state.login = Some(BASE64_STANDARD.encode("u:canary"));
    drop(state);
    it
}

#[test]
fn one_token_serves_all_requests_of_a_scope() {
    let it = set_with_token();
    assert_eq!(it.fetch().unwrap(), it.bytes);
    assert_eq!(it.fake.count("GET /token"), 1);
    let state = it.fake.state();
    let token = state.seen.iter().find(|seen| seen.path.starts_with("/token")).unwrap();
    assert!(token.path.contains("service=s&scope=repository%3Aa%3Apull"), "{}", token.path);
}

#[test]
fn a_token_is_used_as_long_as_the_server_said() {
    for (life, asked) in [("300", 1), ("0", 4)] {
        let it = set_with_token();
        let token = format!(r#"{{"token":"first","expires_in":{life}}}"#);
        for _ in 0..4 {
            it.fake.fault("GET /token", Answer::status(200).body(token.as_bytes()));
        }
        // The version, the manifest, the config and the layer want one each.
        assert_eq!(it.fetch().unwrap(), it.bytes);
        assert_eq!(it.fake.count("GET /token"), asked, "{life}");
    }
}

#[test]
fn a_mount_asks_for_a_token_of_both_repositories() {
    let it = set_with_token();
    let layer = it.pull().unwrap().layers()[0].clone();
    it.fake.fault(&format!("HEAD /v2/b/blobs/{}", layer.descriptor.digest), Answer::status(404));
    it.fake.fault("POST /v2/b/blobs/uploads/?mount", Answer::status(201));
    let to = format!("{}/b", it.fake.host).parse().unwrap();
    it.registry.start_upload(&layer, &[to], it.dir.path()).wait().unwrap();
    let state = it.fake.state();
    let last = state.seen.iter().rfind(|seen| seen.path.starts_with("/token")).unwrap();
    let last = &last.path;
    for scope in ["scope=repository%3Aa%3Apull", "scope=repository%3Ab%3Apull%2Cpush"] {
        assert!(last.contains(scope), "{last}");
    }
}

#[test]
fn a_token_that_breaks_off_is_asked_for_again() {
    let it = set_with_token();
    it.fake.fault("GET /token", Answer::status(200).body(br#"{"token":"t"}"#).cut(5));
    it.pull().unwrap();
    assert_eq!(it.fake.count("GET /token"), 2);
}

#[test]
fn an_identity_token_is_posted_and_a_registry_token_is_sent_as_it_is() {
    for (field, value, requests) in [("identitytoken", "canary", 1), ("registrytoken", "first", 0)]
    {
        let mut it = set_with_token();
        let config = format!(r#"{{"auths":{{"{}":{{"{field}":"{value}"}}}}}}"#, it.fake.host);
        let credentials =
            Credentials::anonymous().with_docker_config(config.as_bytes(), "/c.json").unwrap();
        it.registry = Registry::new(Settings { credentials, ..impatient() }).unwrap();
        assert_eq!(it.fetch().unwrap(), it.bytes, "{field}");
        assert_eq!((it.fake.count("POST /token"), it.fake.count("GET /token")), (requests, 0));
    }
}

#[test]
fn a_token_that_expires_is_renewed_once() {
    let it = set_with_token();
    it.pull().unwrap();
    it.fake.state().token = Some("second".to_owned());
    assert_eq!(it.fetch().unwrap(), it.bytes);
    assert_eq!(it.fake.count("GET /token"), 2);
}

#[test]
fn a_wrong_password_is_told_with_the_file_it_is_in() {
    let it = set_with_token();
    it.fake.state().login = Some("other".to_owned());
    let error = it.pull().unwrap_err();
    assert!(error.to_string().contains("denied"), "{error}");
    assert!(error.hint().unwrap().contains("/c.json"), "{:?}", error.hint());
    assert!(!format!("{error:?} {error}").contains("canary"));
}

#[test]
fn nobody_else_is_told_who_asks() {
    let it = set_with_token();
    let stranger = Fake::start().holding(&it.image);
    let layer = it.image.layers()[0].descriptor.digest;
    let target = format!("http://{}/v2/a/blobs/{layer}", stranger.host);
    it.fake.state().faults.push((layer_path(&it), Answer::status(307).with("Location", &target)));
    // The first request for a blob has its token already.
    assert_eq!(it.fetch().unwrap(), it.bytes);
    let seen = stranger.state().seen.clone();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].header("authorization"), "");
}

#[test]
fn realms_that_get_no_password() {
    for (realm, want) in [
        ("http://token.example/", "another host, on plain HTTP"),
        ("http://169.254.169.254/token", "another host, on plain HTTP"),
        ("https://169.254.169.254/token", "link-local"),
        ("https://[fe80::1]/token", "link-local"),
        ("ftp://token.example/", "not on HTTP"),
        ("https://x:y@token.example/", "credentials in its URL"),
        ("nonsense", "no valid URL"),
    ] {
        let it = set_with_token();
        it.fake.state().realm = realm.to_owned();
        let error = it.pull().unwrap_err().to_string();
        assert!(error.contains(want), "{realm}: {error}");
    }
}

#[test]
fn a_push_survives_what_passes() {
    for request in ["HEAD /v2/a/blobs", "POST", "PUT /v2/a/blobs", "PUT /v2/a/manifests"] {
        for answer in
            [Answer::status(503), Answer::status(429).with("Retry-After", "1"), Answer::silence()]
        {
            let it = set(impatient());
            it.fake.state().content.clear();
            it.fake.fault(request, answer.clone());
            it.push().unwrap_or_else(|error| panic!("{request} {answer:?}: {error}"));
            let state = it.fake.state();
            assert_eq!(state.content["manifests/2"].1, it.image.manifest_bytes());
            assert_eq!(state.seen.last().unwrap().line(), "PUT /v2/a/manifests/2");
        }
    }
}

#[test]
fn a_push_of_what_is_there_sends_nothing() {
    let it = set(impatient());
    it.push().unwrap();
    it.push().unwrap();
    assert_eq!((it.fake.count("POST"), it.fake.count("PATCH")), (0, 0));
    assert_eq!(it.fake.count("HEAD"), 2, "what has arrived is remembered");
}

#[test]
fn a_mount_that_does_not_work_becomes_an_upload() {
    for (status, sent) in [(201, 0), (202, 1), (404, 1), (405, 1), (500, 1)] {
        let it = set(impatient());
        let image = it.pull().unwrap();
        let layer = image.layers()[0].clone();
        let answer = Answer::status(status).with("Location", "/v2/b/blobs/uploads/9");
        it.fake
            .fault(&format!("HEAD /v2/b/blobs/{}", layer.descriptor.digest), Answer::status(404));
        it.fake.fault("POST /v2/b/blobs/uploads/?mount", answer);
        let to: crate::image::Repository = format!("{}/b", it.fake.host).parse().unwrap();
        it.registry.start_upload(&layer, &[to.clone(), to], it.dir.path()).wait().unwrap();
        assert_eq!(it.fake.count("PUT /v2/a/blobs/uploads/1"), sent, "{status}");
    }
}

#[test]
fn a_broken_stream_is_resumed_by_the_uploads_status() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = noise(3, 2 << 20);
    let image = image(dir.path(), Flavor::Oci, std::slice::from_ref(&bytes));
    let fake = Fake::start();
    let registry = Registry::new(impatient()).unwrap();
    let name: Reference = format!("{}/a:1", fake.host).parse().unwrap();
    // Half of it arrived in spite of the answer, and the session knows it.
    fake.fault("PATCH", Answer::status(502));
    let half = bytes.len() / 2;
    let status = Answer::status(204)
        .with("Range", &format!("0-{}", half - 1))
        .with("Location", "/v2/a/blobs/uploads/1?_state=z");
    fake.fault("GET /v2/a/blobs/uploads/", status);
    let accepted = Answer::status(202).with("Location", "/v2/a/blobs/uploads/1?_state=z");
    fake.fault("PATCH /v2/a/blobs/uploads/1?_state=z", accepted);
    fake.fault("PUT /v2/a/blobs/uploads/1?_state=z", Answer::status(201));
    registry.push(&image, &[name], Vec::new(), dir.path()).unwrap();
    let state = fake.state();
    let second = state.seen.iter().rfind(|seen| seen.method == "PATCH").unwrap();
    assert_eq!(second.body, bytes[half..]);
    assert_eq!(second.header("content-range"), format!("{half}-{}", bytes.len() - 1));
}

#[test]
fn permission_is_checked_and_the_session_given_back() {
    let it = set(impatient());
    it.registry.check_push(&it.name("2")).unwrap();
    assert_eq!(it.fake.lines(), ["POST /v2/a/blobs/uploads/", "DELETE /v2/a/blobs/uploads/1"]);
    it.fake.fault("POST", Answer::status(403));
    let error = it.registry.check_push(&it.name("2")).unwrap_err().to_string();
    assert!(error.starts_with("check push permission for "), "{error}");
}

#[test]
fn mirrors_come_first_and_the_registry_last() {
    let it = set(impatient());
    let maps = [("r.invalid".to_owned(), vec!["127.0.0.1:1/x".to_owned(), it.fake.host.clone()])];
    let settings = Settings { maps: maps.into(), ..impatient() };
    let registry = Registry::new(settings).unwrap();
    let image = registry.pull(&"r.invalid/a:1".parse().unwrap(), &Platform::host()).unwrap();
    assert_eq!(image.digest(), it.image.digest());
}

#[test]
fn a_layouts_layer_is_verified_where_it_is_and_pushed_from_there() {
    let it = set(impatient());
    let layout = it.dir.path().join("layout");
    crate::sink::write_oci_layout(&it.image, None, &layout).unwrap();
    let image = crate::image::from_layout(&layout, None, &Platform::host()).unwrap();
    let layer = &image.layers()[0];
    let path = layer.blob.path(layer.descriptor.digest).unwrap();
    assert_eq!(it.registry.fetch(layer, it.dir.path()).wait().unwrap().path(), path);
    it.fake.state().content.clear();
    it.registry.push(&image, &[it.name("2")], Vec::new(), it.dir.path()).unwrap();
    assert_eq!(it.fake.state().content["manifests/2"].1, it.image.manifest_bytes());
    fs::write(&path, b"other").unwrap();
    let error = it.registry.fetch(layer, it.dir.path()).wait().unwrap_err().to_string();
    assert!(error.starts_with("read OCI layout: blob sha256:"), "{error}");
}

#[test]
fn dropping_the_client_cancels_what_nobody_waits_for() {
    let it = set(impatient());
    let layer = it.pull().unwrap().layers()[0].clone();
    it.fake.fault(&layer_path(&it), Answer::stall());
    let pending = it.registry.fetch(&layer, it.dir.path());
    drop(it.registry);
    assert!(matches!(pending.wait(), Err(RegistryError::Cancelled(_))));
}
