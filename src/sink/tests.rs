//! What is written is read back by this program, by skopeo and by umoci.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::image::{
    Blob, BlobFile, Compression, Descriptor, Flavor, HistoryEntry, Image, ImageLayer, Platform,
    Reference, from_layout,
};

/// An image of two layers, one of them compressed, whose files are below `dir`.
fn image(flavor: Flavor, dir: &Path) -> Image {
    let base = Image::scratch(flavor, &Platform::host());
    [("one", Compression::Gzip), ("two", Compression::None)].iter().fold(
        base,
        |image, (name, compression)| {
            image
                .with_layer(layer(flavor, dir, name, *compression))
                .with_history(HistoryEntry::default())
        },
    )
}

fn layer(flavor: Flavor, dir: &Path, name: &str, compression: Compression) -> ImageLayer {
    let mut header = tar::Header::new_gnu();
    header.set_size(name.len() as u64);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, name, name.as_bytes()).unwrap();
    let tar = builder.into_inner().unwrap();
    let stored = match compression {
        Compression::Gzip => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(&tar).unwrap();
            gzip.finish().unwrap()
        }
        Compression::None | Compression::Zstd => tar.clone(),
    };
    let path = dir.join(name);
    fs::write(&path, &stored).unwrap();
    ImageLayer {
        descriptor: Descriptor::of(flavor.layer(compression).unwrap(), &stored),
        diff_id: Digest::of(&tar),
        blob: Blob::File(BlobFile::kept(path)),
    }
}

/// Runs a program that has to be installed and has to succeed; its output.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_layout_is_read_by_all() {
    for flavor in [Flavor::Oci, Flavor::Docker] {
        let dir = tempfile::tempdir().unwrap();
        let image = image(flavor, dir.path());
        let out = dir.path().join("deep/layout");
        let digest = write_oci_layout(&image, Some("v1"), &out).unwrap();
        assert_eq!(digest, image.clone().with_flavor(Flavor::Oci).unwrap().digest());
        let again = from_layout(&out, Some("v1"), &Platform::host()).unwrap();
        assert_eq!(again.digest(), digest);
        let by_digest = from_layout(&out, Some(&digest.to_string()), &Platform::host());
        assert_eq!(by_digest.unwrap().digest(), digest);
        let text = out.display().to_string();
        let seen = run("skopeo", &["inspect", &format!("oci:{text}:v1")]);
        assert!(seen.contains(&digest.to_string()), "{seen}");
        assert_eq!(run("umoci", &["ls", "--layout", &text]), "v1\n");
        let bundle = dir.path().join("bundle").display().to_string();
        run("umoci", &["unpack", "--rootless", "--image", &format!("{text}:v1"), &bundle]);
        assert_eq!(names(&dir.path().join("bundle/rootfs")), ["one", "two"]);
        assert_eq!(names(&dir.path().join("deep")), ["layout"], "nothing temporary is left");
    }
}

#[test]
fn an_archive_is_read_by_skopeo() {
    for flavor in [Flavor::Oci, Flavor::Docker] {
        let dir = tempfile::tempdir().unwrap();
        let image = image(flavor, dir.path());
        let out = dir.path().join("out/image.tar");
        let name: Reference = "r.example/a:1".parse().unwrap();
        write_docker_archive(&image, &[name], &out).unwrap();
        let from = format!("docker-archive:{}", out.display());
        let config = run("skopeo", &["inspect", "--config", "--raw", &from]);
        assert_eq!(config.as_bytes(), &image.config_bytes()[..]);
        let copy = dir.path().join("copy");
        run("skopeo", &["copy", &from, &format!("oci:{}:x", copy.display())]);
        let copied = from_layout(&copy, Some("x"), &Platform::host()).unwrap();
        assert_eq!(copied.config(), image.config());
        assert_eq!(names(&dir.path().join("out")), ["image.tar"]);
    }
}

#[test]
fn a_failure_leaves_the_old_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let good = image(Flavor::Oci, dir.path());
    let out = dir.path().join("out");
    let (layout, archive) = (out.join("layout"), out.join("image.tar"));
    write_oci_layout(&good, None, &layout).unwrap();
    write_docker_archive(&good, &[], &archive).unwrap();
    let before = fs::read(&archive).unwrap();
    fs::write(dir.path().join("two"), b"other bytes").unwrap();
    let error = write_oci_layout(&good, None, &layout).unwrap_err();
    assert!(matches!(error, SinkError::Layer { .. }), "{error}");
    assert!(write_docker_archive(&good, &[], &archive).is_err());
    assert_eq!(fs::read(&archive).unwrap(), before);
    assert_eq!(from_layout(&layout, None, &Platform::host()).unwrap().digest(), good.digest());
    assert_eq!(names(&out), ["image.tar", "layout"]);
}

#[test]
fn a_directory_with_something_else_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(Flavor::Oci, dir.path());
    let error = write_oci_layout(&image, None, dir.path()).unwrap_err();
    assert!(matches!(error, SinkError::Occupied { .. }), "{error}");
    write_oci_layout(&image, None, &dir.path().join("l")).unwrap();
    write_oci_layout(&image, Some("again"), &dir.path().join("l")).unwrap();
    let error = from_layout(&dir.path().join("l"), Some("other"), &Platform::host()).unwrap_err();
    assert!(error.to_string().ends_with("no image other; there are again"), "{error}");
}

#[test]
fn a_corrupt_layout_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(Flavor::Oci, dir.path());
    let layout = dir.path().join("l");
    write_oci_layout(&image, None, &layout).unwrap();
    let config = layout.join("blobs/sha256").join(image.config_descriptor().digest.hex());
    let mut bytes = fs::read(&config).unwrap();
    bytes[0] ^= 1;
    fs::write(&config, bytes).unwrap();
    let error = from_layout(&layout, None, &Platform::host()).unwrap_err().to_string();
    assert!(error.contains("other content than its name says"), "{error}");
}

#[test]
fn a_digest_has_no_newline_and_makes_its_directories() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/digest");
    write_text(&path, "first").unwrap();
    write_text(&path, &Digest::of(b"x").to_string()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), Digest::of(b"x").to_string());
    assert_eq!(names(&dir.path().join("a/b")), ["digest"]);
}

/// The same image, its layers in files that this program hashed and that nobody else has.
fn in_temporary_files(image: &Image, dir: &Path) -> Image {
    image.layers().iter().fold(image.clone(), |image, layer| {
        let file = tempfile::NamedTempFile::new_in(dir).unwrap();
        fs::copy(layer.blob.path(layer.descriptor.digest).unwrap(), file.path()).unwrap();
        let file = BlobFile::temporary(file.into_temp_path());
        image.with_blob(layer.descriptor.digest, &Blob::File(file))
    })
}

#[test]
fn a_hashed_layer_is_linked_where_that_is_possible_and_never_taken_once_changed() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let kept = image(Flavor::Oci, dir.path());
    for (out, linked) in [(dir.path(), true), (elsewhere.path(), false)] {
        let image = in_temporary_files(&kept, dir.path());
        let layout = out.join("layout");
        write_oci_layout(&image, None, &layout).unwrap();
        for layer in image.layers() {
            let digest = layer.descriptor.digest;
            let from = fs::metadata(layer.blob.path(digest).unwrap()).unwrap();
            let path = layout.join("blobs/sha256").join(digest.hex());
            let to = fs::metadata(&path).unwrap();
            assert_eq!((from.dev(), from.ino()) == (to.dev(), to.ino()), linked, "{path:?}");
            assert_eq!(to.mode() & 0o777, 0o644, "{path:?}");
            assert_eq!(Digest::of(&fs::read(&path).unwrap()), digest);
        }
        drop(image);
        assert!(from_layout(&layout, None, &Platform::host()).is_ok(), "it stays when they go");

        let image = in_temporary_files(&kept, dir.path());
        let changed = &image.layers()[1];
        let path = changed.blob.path(changed.descriptor.digest).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        let before = fs::metadata(&path).unwrap().ctime_nsec();
        while tempfile::tempfile_in(dir.path()).unwrap().metadata().unwrap().ctime_nsec() == before
        {
        }
        fs::write(&path, bytes).unwrap();
        let error = write_oci_layout(&image, None, &layout).unwrap_err();
        assert!(matches!(error, SinkError::Layer { .. }), "{error}");
    }
}
