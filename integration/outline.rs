//! Stages whose base is not written to disk: their images are those of stages whose base is.

use crate::build_basic::on_busybox;
use crate::craft::{Craft, Layer};
use crate::executor::{Build, PLACES, Place};

const LISTED: &str = "no step needs its files unpacked";

/// Instructions that read nothing of the base, and meet what is in it.
const STEPS: &str = "COPY f /etc/issue
COPY --chown=app:app f /data/
COPY --chown=1:2 --chmod=600 d /data/d
COPY f /data/first
COPY f /through/file
COPY --link f /linked
WORKDIR /data/new/er
USER app
WORKDIR own
COPY <<EOF /data/text
text
EOF
ENV A=1
COPY f /gone/again
COPY f /data/fifo
";

/// A base with users, links to directories, hard links, a FIFO, in three layers.
fn craft() -> Craft {
    let first = Layer::new()
        .directory("etc")
        .file("etc/passwd", "root:x:0:0::/root:/bin/sh\nold:x:7:7::/:/\n")
        .file("etc/group", "root:x:0:\n")
        .directory("data")
        .file("data/first", "first")
        .hard_link("data/second", "data/first")
        .directory("real")
        .symlink("through", "real")
        .directory("gone")
        .file("gone/file", "file");
    let second = Layer::new()
        .file("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:7:8::/:/\n")
        .file("etc/group", "root:x:0:\napp:x:9:\n")
        .file("etc/issue", "name")
        .fifo("data/fifo")
        .whiteout("gone");
    let third = Layer::new()
        .owner(3, 4)
        .directory("data/d")
        .xattr("user.x", b"y")
        .file("data/d/inner", "inner")
        .file("x", "x");
    Craft::new().layer(first).layer(second).layer(third)
}

fn build(place: Place, layout: &std::path::Path, steps: &str) -> Build {
    Build::of(&format!("FROM crafted\n{steps}"))
        .base("crafted", layout)
        .file("f", "content")
        .file("d/one", "1")
        .place(place)
        .flag("--reproducible")
}

#[test]
fn the_layers_are_the_same_without_the_files_of_the_base() {
    let home = tempfile::tempdir().unwrap();
    craft().write(home.path(), "latest");
    for place in PLACES {
        let outline = build(place, home.path(), STEPS).run().succeeded();
        assert!(outline.log.contains(LISTED), "{place:?} {}", outline.log);
        let outline = outline.image();
        // An archive may have hard links to files of the base, so its stage has them.
        let full = build(place, home.path(), &format!("{STEPS}ADD f /added\n")).run().succeeded();
        assert!(!full.log.contains(LISTED), "{place:?} {}", full.log);
        let full = full.image();
        assert_eq!(full.layers.len(), outline.layers.len() + 1, "{place:?}");
        for (layer, want) in outline.layers.iter().zip(&full.layers) {
            // What is left of a group of hard links is repeated where it is on disk.
            let kept = |names: Vec<String>| -> Vec<String> {
                names.into_iter().filter(|name| name != "/data/second").collect()
            };
            assert_eq!(kept(layer.names()), kept(want.names()), "{place:?}");
            if layer.names() == want.names() {
                assert_eq!(layer.digest, want.digest, "{place:?} {:?}", layer.names());
            }
        }
        let (outline, mut full) = (outline.tree(), full.tree());
        full.remove("/added");
        if let Some(root) = outline.get("/") {
            full.insert("/".to_owned(), root.clone());
        }
        assert_eq!(crate::image::compare(&outline, &full), Vec::<String>::new(), "{place:?}");
        assert_eq!(outline["/data/f"].to_string(), "- 0644 7:9 7 \"content\"", "{place:?}");
        let own = &outline["/data/new/er/own"];
        assert_eq!((own.uid, own.gid), (7, 8), "{place:?}");
    }
}

#[test]
fn accounts_behind_links_to_other_files_are_found() {
    let home = tempfile::tempdir().unwrap();
    let layer = Layer::new()
        .directory("store")
        .file("store/accounts", "app:x:7:8::/:/\n")
        .directory("etc")
        .symlink("etc/passwd", "../store/accounts")
        .file("etc/group", "app:x:9:\n");
    Craft::new().layer(layer).write(home.path(), "latest");
    let two = "COPY f /f\nFROM crafted\nCOPY --chown=app f /f\nCOPY --from=0 /f /g\n";
    for place in PLACES {
        for (steps, want) in [("COPY --chown=app:app f /f\n", "7:9"), (two, "7:8")] {
            let image = build(place, home.path(), steps).image();
            let want = format!("- 0644 {want} 7 \"content\"");
            assert_eq!(image.tree()["/f"].to_string(), want, "{place:?} {steps}");
        }
    }
}

#[test]
fn what_is_in_the_way_is_in_the_way_without_its_content() {
    let home = tempfile::tempdir().unwrap();
    craft().write(home.path(), "latest");
    for (step, want) in [
        ("COPY f /x/", "/x, which is a file"),
        ("COPY f /x/y", "/x, which is a file"),
        ("COPY d /x", "/x, which is a file"),
        ("WORKDIR /x", "/x exists and is no directory"),
        ("COPY f /data/d/inner/", "/data/d/inner, which is a file"),
    ] {
        for last in ["", "ADD f /added\n"] {
            let ended = build(Place::Host, home.path(), &format!("{step}\n{last}")).run();
            ended.refused(1, &[want]);
        }
    }
}

#[test]
fn stages_of_one_image_share_what_was_unpacked() {
    let dockerfile = "FROM busybox AS one
RUN echo 1 > /one && rm /etc/group && echo changed > /etc/passwd
FROM busybox AS two
RUN test -e /etc/group && ! test -e /one && echo 2 > /two
FROM busybox AS three
COPY --from=one /one /one
COPY --from=two --chown=builder /two /two
FROM three
LABEL a=b
WORKDIR /w
";
    for place in PLACES {
        let ended = on_busybox(place, dockerfile).flag("--parallel-stages=1").run().succeeded();
        let shared = ended.log.matches("is there already").count();
        assert_eq!(shared, if place == Place::Host { 2 } else { 1 }, "{place:?} {}", ended.log);
        let tree = ended.image().tree();
        assert_eq!(tree["/one"].to_string(), "- 0644 0:0 2 \"1\\n\"", "{place:?}");
        assert_eq!(tree["/two"].to_string(), "- 0644 1000:1000 2 \"2\\n\"", "{place:?}");
        assert!(tree.contains_key("/etc/group"), "{place:?}");
    }
}
