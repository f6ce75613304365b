//! Tables: before, after, and the layer between them.

use snapshot::{Error, Exclusions, Suspects, diff, listing};

use crate::sandbox::{Sandbox, only, path};

fn listed(before: &str, after: &str) -> String {
    let sandbox = Sandbox::new(before);
    let index = sandbox.index();
    sandbox.build(after);
    listing::changes(&sandbox.walk(&index).changes)
}

#[test]
fn trees() {
    for (before, after, want) in [
        ("/", "/", ""),
        ("/ /a=1 /d/ /d/x=2 /l->a", "/ /a=1 /d/ /d/x=2 /l->a", ""),
        ("/ /a=1", "/ /a=2 /b=1", "+ /a\n+ /b\n"),
        ("/ /a=1", "/ /a=22", "+ /a\n"),
        ("/ /d/ /d/x=1", "/", "- /d\n"),
        ("/ /d/ /d/x=1", "/ /d/", "- /d/x\n"),
        ("/ /d/ /d/x=1", "/ /d=1", "+ /d\n"), // a directory became a file
        ("/ /d/ /d/x=1", "/ /d->e", "+ /d\n"),
        ("/ /d=1", "/ /d/ /d/x=1", "+ /d\n+ /d/x\n"),
        ("/ /d/ /d/x=1 /d/y=1", "/ /d/ /d/z=1", "- /d/x\n- /d/y\n+ /d/z\n"),
        ("/ /l->a", "/ /l->b", "+ /l\n"),
        ("/ /l->a", "/ /l|", "+ /l\n"),
        ("/ /d/ /d/e/ /d/e/x=1 /d!=1", "/ /d/", "- /d/e\n- /d!\n"),
        // hard links
        ("/ /a=1 /b==/a", "/ /a=1 /b==/a", ""),
        ("/ /a=1 /b==/a", "/ /a=1 /b=1", "+ /a\n+ /b\n"),
        ("/ /a=1 /b=1", "/ /a=1 /b==/a", "+ /a\n+ /b => /a\n"),
        ("/ /a=1 /b==/a", "/ /b=1", "- /a\n"),
        ("/ /a=1 /b==/a", "/ /a=2 /b==/a", "+ /a\n+ /b => /a\n"),
        ("/ /b=1 /c==/b", "/ /b=1 /c==/b /a==/b", "+ /a\n+ /b => /a\n+ /c => /a\n"),
        ("/ /a=1 /b==/a /c==/a", "/ /a=1 /b==/a /c=1", "+ /a\n+ /b => /a\n+ /c\n"),
    ] {
        assert_eq!(listed(before, after), want, "{before} -> {after}");
    }
}

#[test]
fn a_second_look_finds_nothing() {
    let sandbox = Sandbox::new("/ /a=1 /b==/a /d/ /d/x=1");
    let mut index = sandbox.index();
    sandbox.build("/ /a=2 /b==/a /d->a /e/ /e/x=1 /e/y==/e/x");
    let mut difference = sandbox.walk(&index);
    sandbox.pack(&mut difference).unwrap();
    index.apply(&difference);
    assert_eq!(listing::changes(&sandbox.walk(&index).changes), "");
    assert_eq!(listing::tree(&index), listing::tree(&sandbox.index()));
    assert!(index.names_linked_with(&path("/e/y")).eq([&path("/e/x"), &path("/e/y")]));
}

#[test]
fn only_looks_where_it_is_told() {
    let sandbox = Sandbox::new("/ /a=1 /b=1 /d/ /d/x=1");
    let index = sandbox.index();
    sandbox.build("/ /a=2 /b=2 /d/ /d/x=2");
    for (suspects, want) in [
        (only(&["/a"]), "+ /a\n"),
        (only(&["/b", "/d/x", "/nothing/here"]), "+ /b\n+ /d/x\n"),
        (Suspects::Only { paths: vec![], trees: vec![path("/d")] }, "+ /d/x\n"),
        (only(&[]), ""),
    ] {
        assert_eq!(
            listing::changes(&sandbox.diff(&index, &suspects).changes),
            want,
            "{suspects:?}"
        );
    }
}

#[test]
fn exclusions_are_neither_packed_nor_whited_out() {
    let before = "/ /proc/ /proc/1=1 /data/ /data/old=1 /a=1";
    let exclusions = Exclusions::none().with(path("/proc")).with_contents_of(path("/data"));
    for after in ["/ /data/ /data/new=1 /a=1", "/ /proc/ /proc/2=1 /data/ /data/old=2 /a=1"] {
        let sandbox = Sandbox::new(before);
        let index = sandbox.index();
        sandbox.build(after);
        let tree = Suspects::Only {
            paths: vec![path("/proc/1")],
            trees: vec![path("/proc"), path("/data")],
        };
        for suspects in [Suspects::Everything, tree] {
            let found = diff(sandbox.root(), &index, &suspects, &exclusions).unwrap();
            assert_eq!(listing::changes(&found.changes), "", "{after} {suspects:?}");
        }
    }
}

#[test]
fn foreign_files_are_packed_once_touched_and_never_whited_out() {
    // A walk that compares all content has none to compare theirs with, and must not pack them for that.
    for (touch, want) in [
        ("", ""),
        ("/f/x", "+ /f\n+ /f/x\n"), // its directory is in no layer yet
        ("-/f/x", "+ /f\n"),
        ("-/f/y", "- /f/y\n+ /f\n"), // the image's own file in a foreign directory
    ] {
        let sandbox = Sandbox::new("/ /f/ /f/x=1 /f/y=1 /a=1");
        let mut index = sandbox.index();
        for name in ["/f", "/f/x"] {
            index.get_mut(&path(name)).unwrap().foreign = true;
        }
        index.distrust();
        match touch.strip_prefix('-') {
            Some(gone) => std::fs::remove_file(sandbox.at(gone)).unwrap(),
            None if touch.is_empty() => {}
            None => std::fs::write(sandbox.at(touch), "2").unwrap(),
        }
        let difference = sandbox.walk(&index);
        assert_eq!(listing::changes(&difference.changes), want, "{touch}");
        index.apply(&difference);
        assert_eq!(index.contains(&path("/f/x")), touch != "-/f/x", "{touch}");
    }
}

#[test]
fn whiteout_names_are_refused() {
    for name in ["/.wh.foo", "/d/.wh..wh..opq"] {
        let sandbox = Sandbox::new("/ /d/");
        let index = sandbox.index();
        std::fs::write(sandbox.at(name), "").unwrap();
        let refused = diff(sandbox.root(), &index, &Suspects::Everything, &Exclusions::none());
        assert!(matches!(refused, Err(Error::ReservedName(at)) if at == path(name)), "{name}");
    }
}

#[test]
fn links_on_the_way_are_resolved_inside_the_root() {
    let sandbox =
        Sandbox::new("/ /run/ /var/ /var/run->../run /up->../../.. /loop->loop /abs->/var/run");
    let index = sandbox.index();
    for (given, want) in [
        ("/var/run/x", Some("/run/x")),
        ("/var/run", Some("/var/run")),
        ("/up/run/x", Some("/run/x")),
        ("/abs/x/y", Some("/run/x/y")),
        ("/unknown/x", Some("/unknown/x")),
        ("/loop/x", None),
    ] {
        assert_eq!(index.resolve_parent(&path(given)).ok(), want.map(path), "{given}");
    }
    for below_a_link in ["/var/run/x", "/loop/x"] {
        let found = snapshot::observe(sandbox.root(), &path(below_a_link)).unwrap();
        assert_eq!(found, None, "{below_a_link}");
    }
}

#[test]
fn children_are_direct() {
    let index = Sandbox::new("/ /d/ /d/a=1 /d/e/ /d/e/f=1 /d/e!=1 /d/g=1 /d!=1").index();
    for (dir, want) in
        [("/", "/d /d!"), ("/d", "/d/a /d/e /d/e! /d/g"), ("/d/e", "/d/e/f"), ("/d/a", "")]
    {
        let children: Vec<String> =
            index.children(&path(dir)).map(|(path, _)| path.to_string()).collect();
        assert_eq!(children.join(" "), want, "{dir}");
    }
}
