//! Operations begun again as a whole, tags that must not be moved, places that stand for a registry.

use super::fake::{Answer, Fake};
use super::{image, impatient, noise};
use crate::image::{Flavor, Image, Platform, Reference};
use crate::registry::{Attempts, Registry, Settings};

fn one_layer(dir: &std::path::Path) -> Image {
    image(dir, Flavor::Oci, &[noise(1, 1000)])
}

fn name(fake: &Fake, tag: &str) -> Reference {
    format!("{}/a:{tag}", fake.host).parse().unwrap()
}

#[test]
fn what_fails_for_good_is_begun_again_as_often_as_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let image = one_layer(dir.path());
    for more in [0, 1, 2] {
        let attempts = Attempts { push: more, pull: more, layer: more };
        let registry = Registry::new(Settings { attempts, ..impatient() }).unwrap();
        for request in ["PUT /v2/a/manifests", "GET /v2/a/manifests", "GET /v2/a/blobs"] {
            let fake = Fake::start().holding(&image);
            let layer = image.layers()[0].descriptor.digest;
            let request = match request {
                "GET /v2/a/blobs" => format!("{request}/{layer}"),
                other => other.to_owned(),
            };
            for _ in 0..2 {
                fake.fault(&request, Answer::status(403));
            }
            let done = registry.push(&image, &[name(&fake, "2")], Vec::new(), dir.path()).is_ok()
                && registry.pull(&name(&fake, "1"), &Platform::host()).is_ok_and(|pulled| {
                    registry.fetch(&pulled.layers()[0], dir.path()).wait().is_ok()
                });
            assert_eq!(done, more == 2, "{more} more attempts at {request}");
            let sent = fake.count(&request);
            assert_eq!(sent, more as usize + 1, "{more} more attempts at {request}");
        }
    }
}

#[test]
fn a_tag_that_must_not_be_moved() {
    let dir = tempfile::tempdir().unwrap();
    let image = one_layer(dir.path());
    let said = |message: &str| {
        let body = serde_json::json!({"errors": [{"code": "TAG_INVALID", "message": message}]});
        Answer::status(400).body(body.to_string().as_bytes())
    };
    for (message, known) in [
        (
            "The image tag '2' already exists in the 'a' repository and cannot be overwritten because the repository is immutable.",
            true,
        ),
        ("tag invalid: cannot be overwritten because the tag is immutable.", true),
        ("The repository has enabled tag immutability", true),
        ("manifest invalid", false),
    ] {
        for ignored in [false, true] {
            let fake = Fake::start().holding(&image);
            fake.fault("PUT /v2/a/manifests/2", said(message));
            let attempts = Attempts { push: 3, ..Attempts::default() };
            let settings = match ignored {
                true => Settings { ignore_immutable_tags: true, attempts, ..impatient() },
                false => impatient(),
            };
            let registry = Registry::new(settings).unwrap();
            let names = [name(&fake, "2"), name(&fake, "3")];
            let pushed = registry.push(&image, &names, Vec::new(), dir.path());
            let tags: Option<Vec<String>> = pushed.ok().map(|pushed| {
                pushed.iter().filter_map(|it| it.reference.tag().map(str::to_owned)).collect()
            });
            let want = match (known, ignored) {
                (true, true) => Some(vec!["3".to_owned()]),
                (false, true) => Some(vec!["2".to_owned(), "3".to_owned()]), // by its second attempt
                (_, false) => None,
            };
            assert_eq!(tags, want, "{message} {ignored}");
        }
    }
}

#[test]
fn whether_the_registry_itself_is_asked_when_its_mirrors_fail() {
    let dir = tempfile::tempdir().unwrap();
    let image = one_layer(dir.path());
    for (mirror_has_it, skip, want) in
        [(true, true, true), (false, false, true), (false, true, false)]
    {
        let (origin, mirror) = (Fake::start().holding(&image), Fake::start());
        let mirror = if mirror_has_it { mirror.holding(&image) } else { mirror };
        let settings = Settings {
            maps: [(origin.host.clone(), vec![mirror.host.clone()])].into(),
            skip_default_registry_fallback: skip,
            ..impatient()
        };
        let registry = Registry::new(settings).unwrap();
        let pulled = registry.pull(&name(&origin, "1"), &Platform::host());
        assert_eq!(pulled.is_ok(), want, "{mirror_has_it} {skip}");
        assert_eq!(origin.count("GET") > 0, !mirror_has_it && !skip, "{mirror_has_it} {skip}");
    }
    let settings = Settings { skip_default_registry_fallback: true, ..impatient() };
    let origin = Fake::start().holding(&image);
    let registry = Registry::new(settings).unwrap();
    registry.pull(&name(&origin, "1"), &Platform::host()).expect("nothing stands for it");
}
