//! Entries come, are found, go; several writers at once lose nothing.

use std::time::Duration;

use super::*;
use crate::image::{Blob, BlobFile, Flavor, ImageLayer, Platform};

/// An image of one layer with this content.
fn image(home: &Path, content: &[u8]) -> Image {
    let path = home.join(Digest::of(content).hex());
    fs::write(&path, content).expect("written");
    let media_type = "application/vnd.oci.image.layer.v1.tar";
    Image::scratch(Flavor::Oci, &Platform::new("linux", "amd64", None)).with_layer(ImageLayer {
        descriptor: Descriptor::of(media_type, content),
        diff_id: Digest::of(content),
        blob: Blob::File(BlobFile::kept(path)),
    })
}

fn tags(layout: &Layout) -> String {
    let mut tags: Vec<_> = layout.list().expect("listed").into_iter().map(|it| it.tag).collect();
    tags.sort();
    tags.join(" ")
}

fn used_at(layout: &Layout, tag: &str, seconds: u64) {
    let listed = layout.list().expect("listed");
    let found = listed.iter().find(|it| it.tag == tag).expect(tag);
    let path = layout_path(layout.dir(), found.descriptor.digest);
    let file = File::options().write(true).open(path).expect("open");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).expect("set");
}

#[test]
fn what_is_put_is_found_and_what_is_damaged_is_told() {
    let home = tempfile::tempdir().expect("a directory");
    let layout = Layout::new(home.path().join("cache"), None);
    let ask = |tag: &str| layout.manifests(&[tag.to_owned()]).remove(0);
    assert!(matches!(ask("a"), Ok(None)), "no layout yet");
    let image = image(home.path(), b"one");
    layout.put(&image, &["a".to_owned(), "last".to_owned()]).expect("put");
    assert_eq!(ask("a").expect("read").expect("there").digest(), image.digest());
    assert_eq!(tags(&layout), "a last");
    fs::write(layout_path(layout.dir(), image.digest()), "{}").expect("written");
    assert!(ask("a").is_err(), "a damaged manifest");
    layout.put(&image, &["a".to_owned()]).expect("put again");
    assert!(ask("a").is_ok(), "mended");
    fs::write(layout.dir().join("index.json"), "{").expect("written");
    assert!(ask("a").is_err(), "a damaged index");
    layout.put(&image, &["a".to_owned()]).expect("begun anew");
    assert_eq!(tags(&layout), "a");
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("cache");
    let unlimited = Layout::new(dir.clone(), None);
    for (tag, used) in [("a", 10), ("b", 30), ("c", 20)] {
        let content = tag.repeat(10_000);
        unlimited.put(&image(home.path(), content.as_bytes()), &[tag.to_owned()]).expect("put");
        used_at(&unlimited, tag, used);
    }
    let limited = Layout::new(dir, Some(38_000));
    limited.put(&image(home.path(), &[b'd'; 10_000]), &["d".to_owned()]).expect("put");
    assert_eq!(tags(&limited), "b c d");
    assert!(limited.size().expect("size") < 38_000);
    assert!(limited.manifests(&["a".to_owned()])[0].as_ref().expect("read").is_none());
    limited.touch("c");
    assert_eq!(limited.remove(|tag, _| tag == "d").expect("removed"), 1);
    assert_eq!(tags(&limited), "b c");
    let small = Layout::new(limited.dir().to_owned(), Some(30_000));
    small.put(&image(home.path(), &[b'e'; 10_000]), &["e".to_owned()]).expect("put");
    assert_eq!(tags(&limited), "c e", "touched last");
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    let home = tempfile::tempdir().expect("a directory");
    let layout = Layout::new(home.path().join("cache"), Some(1 << 30));
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let (layout, home) = (&layout, home.path());
            scope.spawn(move || {
                for number in 0..8 {
                    let content = format!("{writer}-{number}");
                    let image = image(home, content.as_bytes());
                    layout.put(&image, &[content]).expect("put");
                }
            });
        }
    });
    assert_eq!(layout.list().expect("listed").len(), 32);
}
