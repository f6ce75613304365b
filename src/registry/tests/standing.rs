//! What is there before a push is told by the manifest that the push replaces.

use super::fake::{Answer, Fake};
use super::{image, impatient, noise};
use crate::image::{Flavor, Image, Reference};
use crate::registry::Registry;

struct Setting {
    dir: tempfile::TempDir,
    image: Image,
    fake: Fake,
    registry: Registry,
}

/// A fake that has an image of two layers as `a:1`, and a client that is going to push there.
fn set(expected: &[&str]) -> Setting {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), Flavor::Oci, &[noise(1, 1000), noise(2, 1000)]);
    let fake = Fake::start().holding(&image);
    let registry = Registry::new(impatient()).unwrap();
    let it = Setting { dir, image, fake, registry };
    it.registry.expect_push(&it.names(expected));
    it
}

impl Setting {
    fn names(&self, tags: &[&str]) -> Vec<Reference> {
        tags.iter().map(|tag| format!("{}/a:{tag}", self.fake.host).parse().unwrap()).collect()
    }

    /// Pushes under these tags; how often each method was used for it.
    fn push(&self, tags: &[&str]) -> String {
        self.registry.push(&self.image, &self.names(tags), Vec::new(), self.dir.path()).unwrap();
        let state = self.fake.state();
        for layer in self.image.layers() {
            assert!(state.content.contains_key(&format!("blobs/{}", layer.descriptor.digest)));
        }
        drop(state);
        let counted =
            ["GET /v2/a/", "HEAD", "POST", "PUT /v2/a/manifests"].map(|it| self.fake.count(it));
        format!("{counted:?}")
    }

    fn lose_the_first_layer(&self) {
        let lost = format!("blobs/{}", self.image.layers()[0].descriptor.digest);
        assert!(self.fake.state().content.remove(&lost).is_some());
    }
}

#[test]
fn a_tag_that_is_there_spares_the_look_at_each_layer() {
    for (expected, pushed, want) in [
        (&["1"][..], &["1"][..], "[1, 0, 0, 1]"),
        // The first name that is there is enough for all of a repository.
        (&["2", "1"], &["2", "1"], "[2, 0, 0, 2]"),
        // A new name tells nothing, and a client that expects nothing asks for nothing.
        (&["2"], &["2"], "[1, 3, 0, 1]"),
        (&[], &["1"], "[0, 3, 0, 1]"),
    ] {
        assert_eq!(set(expected).push(pushed), want, "{expected:?}");
    }
}

#[test]
fn an_image_that_was_pushed_before_tells_as_much_for_a_new_tag() {
    for (told, want, by) in [
        ("HELD", "[1, 0, 0, 1]", true),
        // Names that are told later come first, and what is gone costs one request.
        (
            "sha256:00000000000000000000000000000000000000000000000000000000000000ff",
            "[2, 3, 0, 1]",
            false,
        ),
    ] {
        let it = set(&["2"]);
        let held = it.image.digest();
        let told = told.replace("HELD", &held.to_string());
        it.registry.expect_push(&[format!("{}/a@{told}", it.fake.host).parse().unwrap()]);
        assert_eq!(it.push(&["2"]), want, "{told}");
        let layers: Vec<_> = it.image.layers().iter().map(|it| it.descriptor.digest).collect();
        let repository = it.names(&["2"])[0].repository().clone();
        assert_eq!(it.registry.was_told(&repository, held, &layers), by, "{told}");
        let other = crate::image::Digest::of(b"another layer");
        assert!(!it.registry.was_told(&repository, held, &[other]));
    }
}

#[test]
fn a_look_that_comes_to_nothing_costs_one_request() {
    for answer in [
        Answer::status(500),
        Answer::silence(),
        Answer::status(200).body(b"{}"),
        Answer::status(401),
    ] {
        let it = set(&["1"]);
        it.fake.fault("GET /v2/a/manifests/1", answer);
        assert_eq!(it.push(&["1"]), "[1, 3, 0, 1]");
    }
}

#[test]
fn a_registry_that_lost_a_layer_and_says_so_gets_it_again() {
    for status in [400, 404] {
        let it = set(&["1"]);
        it.lose_the_first_layer();
        let said = br#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN"}]}"#;
        it.fake.fault("PUT /v2/a/manifests/1", Answer::status(status).body(said));
        assert_eq!(it.push(&["1"]), "[1, 3, 1, 2]", "{status}");
    }
}
