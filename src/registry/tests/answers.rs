//! The answers that the distribution spec allows, and some that it does not, to each kind of request.

use super::fake::{Answer, Fake};
use super::{image, impatient, noise};
use crate::image::{Flavor, Platform, Reference};
use crate::registry::{Registry, Settings};

/// Large enough to be sent by PATCH.
const LARGE: usize = (1 << 20) + 1000;

/// What became of a push or a pull: nothing, or the end of the message.
fn outcome(pull: bool, size: usize, request: &str, status: u16) -> String {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path(), Flavor::Oci, &[noise(5, size)]);
    let fake = Fake::start();
    let fake = if pull { fake.holding(&image) } else { fake };
    let name: Reference = format!("{}/a:1", fake.host).parse().unwrap();
    let registry = Registry::new(impatient()).unwrap();
    fake.fault(request, Answer::status(status).body(br#"{"errors":[{"code":"TOLD"}]}"#));
    let done = if pull {
        registry.pull(&name, &Platform::host()).and_then(|image| {
            image.layers().iter().try_for_each(|it| registry.fetch(it, dir.path()).wait().map(drop))
        })
    } else {
        registry.push(&image, &[name], Vec::new(), dir.path()).map(drop)
    };
    match done {
        Ok(()) => "done".to_owned(),
        Err(error) => {
            let told = error.to_string();
            assert!(told.contains(&status.to_string()), "{request} {status}: {told}");
            "refused".to_owned()
        }
    }
}

#[test]
fn each_answer_to_each_request_is_understood() {
    let layers = "GET /v2/a/blobs/";
    for (pull, size, request, done, refused) in [
        (
            true,
            10,
            "GET /v2/a/manifests/1",
            &[408, 429, 500, 502, 503, 504][..],
            &[400, 401, 403, 404][..],
        ),
        (true, 10, layers, &[408, 429, 500, 502, 503, 504], &[400, 401, 403, 404, 410]),
        // Only 200 says that a blob is there; whoever may not look may not push.
        (false, 10, "HEAD /v2/a/blobs/", &[200, 404, 405, 429, 500, 503], &[401, 403]),
        // A blob that comes with the first request is one that a registry need not take.
        (
            false,
            10,
            "POST /v2/a/blobs/uploads/?digest",
            &[400, 404, 405, 408, 413, 415, 429, 500, 502, 503, 504],
            &[401, 403],
        ),
        (
            false,
            100_000,
            "POST /v2/a/blobs/uploads/ ",
            &[408, 429, 500, 502, 503, 504],
            &[400, 401, 403, 404, 405],
        ),
        // A session that is gone, or is somewhere else, is begun anew.
        (
            false,
            LARGE,
            "PATCH /v2/a/blobs/uploads/",
            &[404, 408, 416, 429, 500, 502, 503, 504],
            &[400, 401, 403, 405, 413],
        ),
        (
            false,
            LARGE,
            "PUT /v2/a/blobs/uploads/",
            &[404, 416, 429, 500, 503],
            &[400, 401, 403, 413],
        ),
        (false, 10, "PUT /v2/a/blobs/uploads/", &[404, 416, 429, 500, 503], &[400, 401, 403, 413]),
        (
            false,
            10,
            "PUT /v2/a/manifests/1",
            &[408, 429, 500, 502, 503, 504],
            &[400, 401, 403, 404, 405, 413],
        ),
    ] {
        for status in done {
            assert_eq!(outcome(pull, size, request, *status), "done", "{request} {status}");
        }
        for status in refused {
            assert_eq!(outcome(pull, size, request, *status), "refused", "{request} {status}");
        }
    }
}

/// Where a registry takes small blobs with the first request, there is no other for them; where it does
/// not, it is not asked again.
#[test]
fn a_small_blob_comes_with_the_first_request() {
    for (status, posts, puts) in [(201, 2, 0), (202, 2, 2)] {
        let dir = tempfile::tempdir().unwrap();
        let bytes = noise(5, 10);
        let image = image(dir.path(), Flavor::Oci, std::slice::from_ref(&bytes));
        let fake = Fake::start();
        let name: Reference = format!("{}/a:1", fake.host).parse().unwrap();
        let settings = Settings { parallel: 1, ..impatient() };
        let registry = Registry::new(settings).unwrap();
        for _ in 0..2 {
            let location = "/v2/a/blobs/uploads/1?_state=x";
            let answer = Answer::status(status).with("Location", location);
            fake.fault("POST /v2/a/blobs/uploads/?digest", answer);
        }
        registry.push(&image, &[name], Vec::new(), dir.path()).unwrap();
        assert_eq!(fake.count("POST /v2/a/blobs/uploads/"), posts, "{status}");
        assert_eq!(fake.count("PUT /v2/a/blobs/uploads/"), puts, "{status}");
        let whole = fake.state().faults.len();
        assert_eq!(whole, if status == 201 { 0 } else { 1 }, "{status}: what is left to answer");
        let state = fake.state();
        let posted: Vec<_> = state.seen.iter().filter(|it| it.method == "POST").collect();
        let arrived = posted.iter().any(|it| it.body == bytes);
        assert!(arrived || status == 202, "{:?}", state.seen);
    }
}
