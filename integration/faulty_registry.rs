//! Whole builds through a network that fails: what passes is survived, what does not is told, nobody else is
//! told who asks, and a refused build leaves the registry as it was.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::base;
use crate::executor::{Build, Ended, PLACES, Place};
use crate::faulty::{Fault, Faulty, Rule};
use crate::image::Image;
use crate::registry::{Access, PASSWORD, Registry, USER, base64};
use crate::web::{Answer, Web};

/// A registry that wants a login, with a base, and the proxy before it.
struct Setup {
    registry: Registry,
    faulty: Faulty,
    login: tempfile::TempDir,
    made: AtomicUsize,
}

impl Setup {
    fn new() -> Self {
        let registry = Registry::start(Access::PlainBasic);
        registry.push(&base::busybox(), base::TAG, "base:1", None);
        let faulty = Faulty::before(registry.address());
        let login = tempfile::tempdir().unwrap();
        let auth = base64(format!("{USER}:{PASSWORD}").as_bytes());
        let config = json!({"auths": {faulty.address(): {"auth": auth}}});
        fs::write(login.path().join("config.json"), config.to_string()).unwrap();
        Self { registry, faulty, login, made: AtomicUsize::new(0) }
    }

    /// Builds with a base from the proxy and pushes the image to `name` there. What it makes nobody made before.
    fn build(&self, name: &str, rules: &[Rule], flags: &[&str]) -> Ended {
        self.build_at(Place::Host, name, rules, flags)
    }

    fn build_at(&self, place: Place, name: &str, rules: &[Rule], flags: &[&str]) -> Ended {
        self.faulty.rules(rules.to_vec());
        let (host, new) = (self.faulty.address(), self.made.fetch_add(1, Ordering::Relaxed));
        let build = Build::bare()
            .file("Dockerfile", format!("FROM {host}/base:1\nRUN echo {new} > /made\n"))
            .flag(format!("--destination={host}/{name}"))
            .flag("--digest-file={out}/digest")
            .bring("login", self.login.path())
            .variable("DOCKER_CONFIG", "{login}")
            .canary(PASSWORD)
            .place(place);
        flags.iter().fold(build, |build, flag| build.flag(*flag)).run()
    }

    /// The build's image is in the registry, whole.
    fn arrived(&self, name: &str, ended: Ended, what: &str) {
        let ended = ended.succeeded();
        let image = Image::pull(&self.registry, name);
        image.validate();
        assert_eq!(image.top().names(), ["/made"], "{what}");
        let digest = fs::read_to_string(ended.out("digest")).unwrap();
        assert_eq!(digest, image.digest, "{what}");
        assert_eq!(format!("{:?}", self.faulty.unmet()), "[]", "{what}\n{}", ended.log);
    }
}

/// The digest of the base's only layer.
fn base_layer() -> String {
    let manifest = Image::open(&base::busybox()).manifest;
    manifest["layers"][0]["digest"].as_str().unwrap().to_owned()
}

fn rule(request: &str, fault: Fault) -> Rule {
    (request.to_owned(), 1, fault)
}

/// Each kind of request of a build, the name of whose image is `app`.
const KINDS: [&str; 6] = [
    "GET /v2/base/manifests/1",
    "GET /v2/base/blobs/",
    "HEAD /v2/app/blobs/",
    "POST /v2/app/blobs/uploads/",
    "PUT /v2/app/blobs/uploads/",
    "PUT /v2/app/manifests/1",
];

#[test]
fn what_passes_is_survived_at_each_kind_of_request() {
    let it = Setup::new();
    let passing = [
        ("408", Fault::status(408)),
        ("502", Fault::status(502)),
        ("503", Fault::status(503)),
        ("429", Fault::Answer(429, vec![("Retry-After", "1".to_owned())], "")),
        ("silence", Fault::Silence),
        ("reset", Fault::Reset(3)),
        ("closed", Fault::Cut(3)),
    ];
    for (what, fault) in passing {
        let kinds: Vec<&str> = KINDS
            .into_iter()
            // What has no body is whole without one.
            .filter(|kind| {
                !matches!(fault, Fault::Reset(_) | Fault::Cut(_)) || kind.starts_with("GET")
            })
            .collect();
        let rules: Vec<Rule> = kinds.iter().map(|kind| rule(kind, fault.clone())).collect();
        let ended = it.build("app:1", &rules, &[]);
        assert!(ended.log.contains("trying again in"), "{what}: {}", ended.log);
        it.arrived("app:1", ended, what);
        for kind in kinds {
            assert!(it.faulty.seen(kind).len() > 1, "{what} {kind}");
        }
    }
}

#[test]
fn a_layer_that_comes_in_pieces_is_whole() {
    let it = Setup::new();
    let request = format!("GET /v2/base/blobs/{}", base_layer());
    for (what, fault, resumes) in [
        ("reset", Fault::Reset(400_000), true),
        ("cut", Fault::Cut(400_000), true),
        ("slow", Fault::Drip(1000), false),
    ] {
        let name = format!("{what}:1");
        let ended = it.build(&name, &[rule(&request, fault)], &[]);
        it.arrived(&name, ended, what);
        let seen = it.faulty.seen(&request);
        let ranges =
            seen.iter().filter(|head| head.to_lowercase().contains("range: bytes=")).count();
        assert_eq!(ranges > 0, resumes, "{what}: {seen:?}");
    }
}

#[test]
fn what_does_not_pass_is_told_and_changes_nothing() {
    let it = Setup::new();
    let refusal = r#"{"errors":[{"code":"DENIED","message":"not on Mondays"}]}"#;
    let denied = || Fault::Answer(403, Vec::new(), refusal);
    for (request, fault, words) in [
        ("GET /v2/base/manifests/1", denied(), vec!["/base:1", "not on Mondays"]),
        ("GET /v2/base/manifests/1", Fault::status(404), vec!["/base:1", "404"]),
        ("GET /v2/base/blobs/", denied(), vec!["not on Mondays"]),
        ("GET /v2/base/manifests/1", Fault::Flip(5), vec!["/base:1"]),
        ("POST /v2/app/blobs/uploads/", denied(), vec!["check push permission", "not on Mondays"]),
        ("PUT /v2/app/manifests/1", denied(), vec!["/app:1", "not on Mondays"]),
        ("PUT /v2/app/blobs/uploads/", denied(), vec!["/app", "not on Mondays"]),
    ] {
        let rules = [(request.to_owned(), 9, fault)];
        let ended = it.build("app:1", &rules, &[]);
        ended.refused(1, &words);
        assert!(it.registry.manifest("app:1").is_none(), "{request}");
    }
}

#[test]
fn what_was_refused_is_tried_again_as_often_as_asked_for() {
    let it = Setup::new();
    let layer = format!("GET /v2/base/blobs/{}", base_layer());
    for (request, flag) in [
        ("GET /v2/base/manifests/1", "--image-download-retry=1"),
        (&layer, "--image-fs-extract-retry=1"),
        ("PUT /v2/app/manifests/", "--push-retry=1"),
    ] {
        let refusal = [rule(request, Fault::status(403))];
        it.build("app:0", &refusal, &[]);
        assert!(it.registry.manifest("app:0").is_none(), "{request}");
        let ended = it.build("app:1", &refusal, &[flag]);
        it.arrived("app:1", ended, flag);
    }
    let immutable = r#"{"errors":[{"code":"TAG_INVALID","message":"The image tag '1' already exists in the 'app' repository and cannot be overwritten because the repository is immutable."}]}"#;
    let rules = [(KINDS[5].to_owned(), 1, Fault::Answer(400, Vec::new(), immutable))];
    it.build("app:1", &rules, &[]).refused(1, &["immutable", "--push-ignore-immutable-tag-errors"]);
    it.build("app:1", &rules, &["--push-ignore-immutable-tag-errors"]).succeeded();
}

#[test]
fn nobody_else_is_told_who_asks() {
    let it = Setup::new();
    let layout = base::busybox();
    let stranger = Web::start(move |request| {
        let digest = request.path.rsplit('/').next().unwrap_or_default();
        let blob = layout.join("blobs").join(digest.replacen("%3A", ":", 1).replacen(':', "/", 1));
        fs::read(blob).map_or_else(|_| Answer::of(404, ""), |bytes| Answer::of(200, bytes))
    });
    let digest = base_layer();
    let location = vec![("Location", stranger.url(&format!("/store/{digest}")))];
    let redirect = rule(&format!("GET /v2/base/blobs/{digest}"), Fault::Answer(307, location, ""));
    let ended = it.build("app:1", &[redirect], &[]);
    it.arrived("app:1", ended, "redirect");
    assert_eq!(stranger.seen().len(), 1);
    // By another name it is another host.
    let elsewhere = stranger.url("/token").replace("127.0.0.1", "localhost");
    for realm in [elsewhere.as_str(), "http://169.254.169.254/latest/meta-data"] {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"x\"");
        let wrong = vec![("WWW-Authenticate", challenge)];
        let ended = it.build("other:1", &[("".to_owned(), 99, Fault::Answer(401, wrong, ""))], &[]);
        ended.refused(1, &["token server", "no password goes there"]);
    }
    let location = vec![("Location", stranger.url("/upload/1"))];
    let session =
        ("POST /v2/other/blobs/uploads/".to_owned(), 99, Fault::Answer(202, location, ""));
    assert_ne!(it.build("other:1", &[session], &[]).code(), 0);
    for request in stranger.seen() {
        assert!(!request.headers.contains_key("authorization"), "{request:?}");
    }
    assert!(it.registry.manifest("other:1").is_none());
}

#[test]
fn the_same_in_a_pod() {
    let it = Setup::new();
    for place in PLACES {
        let rules = KINDS.map(|kind| rule(kind, Fault::status(503)));
        let ended = it.build_at(place, "app:1", &rules, &[]);
        it.arrived("app:1", ended, &format!("{place:?}"));
    }
}
