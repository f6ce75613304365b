//! Layers are unpacked while they come in; what came before a download began anew counts for nothing.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::base;
use crate::craft::{Compression, Craft, Layer, digest};
use crate::executor::{Build, Ended, PLACES, Place};
use crate::image::Image;
use crate::web::{Answer, Web};

/// Enough for some of it to be in the tree when the connection breaks.
const NOISE: usize = 4 << 20;

/// How the first answer with the large layer is wrong; later ones are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// The connection breaks, and the server does not resume.
    Cut,
    /// A byte is another one.
    Flipped,
}

fn noise() -> Vec<u8> {
    let mut noise = vec![0; NOISE];
    fastrand::Rng::with_seed(3).fill(&mut noise);
    noise
}

/// An image of BusyBox and two layers more, the first of them large.
fn image(layout: &Path) -> Image {
    let busybox = Image::open(&base::busybox());
    let digest = &busybox.top().digest;
    let blob = base::busybox().join("blobs").join(digest.replace(':', "/"));
    let mut tar = Vec::new();
    let mut gzip = flate2::read::GzDecoder::new(fs::File::open(blob).unwrap());
    std::io::Read::read_to_end(&mut gzip, &mut tar).unwrap();
    let large = Layer::new().file("first", "1").file("noise", noise()).file("gone", "1");
    Craft::new()
        .tar(tar, Compression::Gzip)
        .layer(large)
        .layer(Layer::new().whiteout("gone").file("last", "1"))
        .write(layout, "x");
    Image::open(layout)
}

/// A registry with one image, which knows nothing of ranges.
fn registry(layout: &Path, fault: Fault) -> Web {
    let (image, layout) = (image(layout), layout.to_owned());
    let large = format!("/v2/base/blobs/{}", image.layers[1].digest);
    let manifest = image.digest.clone();
    let asked = AtomicUsize::new(0);
    let file = move |digest: &str| fs::read(layout.join("blobs").join(digest.replace(':', "/")));
    Web::start(move |request| {
        if request.path == "/v2/base/manifests/1" {
            let kind = "application/vnd.oci.image.manifest.v1+json";
            return Answer::of(200, file(&manifest).unwrap()).header("Content-Type", kind);
        }
        let blob = request.path.strip_prefix("/v2/base/blobs/").map(&file);
        let Some(Ok(mut bytes)) = blob else { return Answer::of(200, "{}") };
        let first = request.path == large && asked.fetch_add(1, Ordering::SeqCst) == 0;
        match fault {
            Fault::Cut if first => Answer::of(200, bytes).cut(NOISE / 2),
            Fault::Flipped if first => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                Answer::of(200, bytes)
            }
            Fault::None | Fault::Cut | Fault::Flipped => Answer::of(200, bytes),
        }
    })
}

fn built(fault: Fault, flag: Option<&str>, place: Place) -> Ended {
    let home = tempfile::tempdir().unwrap();
    let web = registry(home.path(), fault);
    // A full walk finds whatever is not as the index says.
    let dockerfile = format!(
        "FROM {}/base:1\nRUN sha256sum /noise > /sums; ls / | grep -v sums > /names\n",
        web.address()
    );
    let build = Build::of(&dockerfile).flags(["--insecure-pull", "--snapshot-mode=full"]);
    flag.into_iter().fold(build, Build::flag).place(place).run()
}

#[test]
fn a_tree_is_begun_anew_with_its_download() {
    let sums = format!("{}  /noise\n", &digest(&noise())["sha256:".len()..]);
    for place in PLACES {
        for (fault, flag, anew) in [
            (Fault::None, None, false),
            (Fault::Cut, None, true),
            (Fault::Flipped, Some("--image-fs-extract-retry=1"), true),
        ] {
            let ended = built(fault, flag, place).succeeded();
            let told = ended.log.contains("Unpacking once more");
            assert_eq!(told, anew, "{fault:?} {place:?}:\n{}", ended.log);
            let image = ended.image();
            assert_eq!(image.top().names(), ["/names", "/sums"], "{fault:?} {place:?}");
            let (_, found) = &image.top().entries.iter().find(|(path, _)| path == "/sums").unwrap();
            assert_eq!(found.content, Some(format!("{sums:?}")), "{fault:?} {place:?}");
        }
    }
}

#[test]
fn wrong_bytes_are_refused_by_their_digest() {
    for place in PLACES {
        built(Fault::Flipped, None, place).refused(1, &["the bytes that came are sha256:"]);
    }
}
