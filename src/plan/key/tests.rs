//! Change what a step depends on, and its key changes; change anything else, and it does not.

use super::*;
use crate::image::Reference;
use crate::plan::{CopySource, Origin};

fn platform() -> Platform {
    Platform::new("linux", "amd64", None)
}

fn start() -> Key {
    Key::of_base(&[Digest::of(b"layer")], &platform())
}

fn run() -> RunStep {
    RunStep {
        argv: ["/bin/sh", "-c", "make"].map(str::to_owned).to_vec(),
        env: vec![("PATH".into(), "/bin".into()), ("http_proxy".into(), "p".into())],
        user: String::new(),
        dir: "/".into(),
        network_none: false,
        mounts: Vec::new(),
        script: None,
    }
}

fn key_of_run(change: impl FnOnce(&mut RunStep)) -> Key {
    let mut run = run();
    change(&mut run);
    Inputs::of_run(&run, &["http_proxy".to_owned()], Vec::new()).key(start())
}

#[test]
fn each_input_of_run_is_in_its_key() {
    type Change = fn(&mut RunStep);
    let changes: &[(&str, Change)] = &[
        ("argument", |run| run.argv[2].push(' ')),
        ("border of arguments", |run| {
            run.argv = ["/bin/sh", "-cmake", ""].map(str::to_owned).to_vec();
        }),
        ("value", |run| run.env[0].1.push('x')),
        ("name", |run| run.env[0].0.push('x')),
        ("one more variable", |run| run.env.push(("A".into(), String::new()))),
        ("user", |run| run.user.push('1')),
        ("directory", |run| run.dir.push('w')),
        ("network", |run| run.network_none = true),
        ("script", |run| run.script = Some(("s".into(), String::new()))),
        ("content of script", |run| run.script = Some(("s".into(), "b".into()))),
    ];
    let mut seen = vec![key_of_run(|_| {})];
    for (what, change) in changes {
        let key = key_of_run(change);
        assert!(!seen.contains(&key), "{what} is in no key");
        seen.push(key);
    }
    let proxy = key_of_run(|run| run.env[1].1 = "another".into());
    assert_eq!(proxy, seen[0], "a proxy that nobody declared");
}

fn copy() -> CopyStep {
    CopyStep {
        from: Origin::Context,
        sources: vec![CopySource::Path("src".into())],
        dest: "/d/".into(),
        chown: None,
        chmod: None,
        exclude: Vec::new(),
        link: false,
        parents: false,
        add: None,
    }
}

fn key_of_copy(change: impl FnOnce(&mut CopyStep), content: &[Input]) -> Key {
    let mut copy = copy();
    change(&mut copy);
    Inputs::of_copy(&copy, content.to_vec()).key(start())
}

#[test]
fn each_input_of_copy_is_in_its_key() {
    type Change = fn(&mut CopyStep);
    let changes: &[(&str, Change)] = &[
        ("destination", |copy| copy.dest = "/d".into()),
        ("chown", |copy| copy.chown = Some("1".into())),
        ("chmod", |copy| copy.chmod = Some("1".into())),
        ("link", |copy| copy.link = true),
        ("parents", |copy| copy.parents = true),
        ("add", |copy| copy.add = Some(AddStep { unpack: None, checksum: None })),
        ("unpack", |copy| {
            copy.add = Some(AddStep { unpack: Some(false), checksum: None });
        }),
    ];
    let mut seen = vec![key_of_copy(|_| {}, &[])];
    for (what, change) in changes {
        let key = key_of_copy(change, &[]);
        assert!(!seen.contains(&key), "{what} is in no key");
        seen.push(key);
    }
    for content in [Input::text("a", "1"), Input::text("a", "2"), Input::text("b", "1")] {
        let key = key_of_copy(|_| {}, std::slice::from_ref(&content));
        assert!(!seen.contains(&key), "{content:?} is in no key");
        seen.push(key);
    }
    let renamed = |copy: &mut CopyStep| copy.sources = vec![CopySource::Path("./src/".into())];
    assert_eq!(key_of_copy(renamed, &[]), seen[0], "how the context's files were named");
}

#[test]
fn what_is_taken_from_a_stage_counts_where_its_content_is_unknown() {
    let one = |change: fn(&mut CopyStep), key: &[u8]| {
        let mut copy = copy();
        change(&mut copy);
        [stage("build", Key(Digest::of(key))), selection(&copy)]
    };
    let base = one(|_| {}, b"k");
    for (what, other) in [
        ("the stage", one(|_| {}, b"l")),
        ("a source", one(|it| it.sources.push(CopySource::Path("b".into())), b"k")),
        ("an exclusion", one(|it| it.exclude.push("b".into()), b"k")),
    ] {
        assert_ne!(other, base, "{what}");
    }
}

/// One part of something that was changed, and whether that matters.
type Changed<T> = (&'static str, bool, fn(&mut T));

/// Holds the key against that of each change.
fn hold<T: Clone>(what: &str, base: &T, key: impl Fn(&T) -> Key, changes: &[Changed<T>]) {
    let mut seen = vec![key(base)];
    for (part, counts, change) in changes {
        let mut changed = base.clone();
        change(&mut changed);
        let key = key(&changed);
        if *counts {
            assert!(!seen.contains(&key), "{what}: {part} is in no key");
            seen.push(key);
        } else {
            assert_eq!(key, seen[0], "{what}: {part} is in the key");
        }
    }
}

/// The key of a RUN with this mount.
fn key_of_mount(one: &RunMount) -> Key {
    let run = RunStep { mounts: vec![one.clone()], ..run() };
    Inputs::of_run(&run, &[], vec![mount(one)]).key(start())
}

/// Changes a mount of the kind that the pattern names.
macro_rules! changed {
    ($kind:ident { $($field:ident),* } => $change:expr) => {
        |mount: &mut RunMount| {
            let RunMount::$kind { $($field,)* .. } = mount else { panic!("another kind") };
            $change
        }
    };
}

#[test]
fn every_part_of_a_mount_counts_but_what_is_in_a_cache() {
    let bind = RunMount::Bind {
        from: Origin::Context,
        source: "/s".into(),
        target: "/t".into(),
        read_only: true,
    };
    let cache = RunMount::Cache {
        id: "a".into(),
        sharing: crate::dockerfile::Sharing::Shared,
        from: None,
        source: "/".into(),
        target: "/t".into(),
        read_only: false,
        mode: None,
        owner: None,
    };
    let tmpfs = RunMount::Tmpfs { target: "/t".into(), size: None, read_only: false };
    let secret = RunMount::Secret {
        id: "a".into(),
        target: Some("/t".into()),
        env: None,
        required: false,
        mode: 0o400,
        owner: (0, 0),
    };
    let ssh = RunMount::Ssh {
        id: "a".into(),
        target: "/t".into(),
        required: false,
        mode: 0o600,
        owner: (0, 0),
    };
    let kinds = [&bind, &cache, &tmpfs, &secret, &ssh].map(key_of_mount);
    let different: std::collections::BTreeSet<Key> = kinds.into_iter().collect();
    assert_eq!(different.len(), kinds.len(), "the kind of a mount at one target");
    hold(
        "bind",
        &bind,
        key_of_mount,
        &[
            ("source", true, changed!(Bind { source } => source.push('x'))),
            ("target", true, changed!(Bind { target } => target.push('x'))),
            ("read-only", true, changed!(Bind { read_only } => *read_only = false)),
        ],
    );
    hold(
        "cache",
        &cache,
        key_of_mount,
        &[
            ("source", true, changed!(Cache { source } => source.push('x'))),
            ("target", true, changed!(Cache { target } => target.push('x'))),
            ("read-only", true, changed!(Cache { read_only } => *read_only = true)),
            ("mode", true, changed!(Cache { mode } => *mode = Some(0o700))),
            ("owner", true, changed!(Cache { owner } => *owner = Some((1, 1)))),
            ("id", false, changed!(Cache { id } => id.push('x'))),
            (
                "sharing",
                false,
                changed!(Cache { sharing } => *sharing = crate::dockerfile::Sharing::Locked),
            ),
        ],
    );
    hold(
        "tmpfs",
        &tmpfs,
        key_of_mount,
        &[
            ("target", true, changed!(Tmpfs { target } => target.push('x'))),
            ("size", true, changed!(Tmpfs { size } => *size = Some(1))),
            ("read-only", true, changed!(Tmpfs { read_only } => *read_only = true)),
        ],
    );
    hold(
        "secret",
        &secret,
        key_of_mount,
        &[
            ("id", true, changed!(Secret { id } => id.push('x'))),
            ("target", true, changed!(Secret { target } => *target = None)),
            ("variable", true, changed!(Secret { env } => *env = Some("E".into()))),
            ("required", true, changed!(Secret { required } => *required = true)),
            ("mode", true, changed!(Secret { mode } => *mode = 0o440)),
            ("user", true, changed!(Secret { owner } => owner.0 = 1)),
            ("group", true, changed!(Secret { owner } => owner.1 = 1)),
        ],
    );
    hold(
        "ssh",
        &ssh,
        key_of_mount,
        &[
            ("id", true, changed!(Ssh { id } => id.push('x'))),
            ("target", true, changed!(Ssh { target } => target.push('x'))),
            ("required", true, changed!(Ssh { required } => *required = true)),
            ("mode", true, changed!(Ssh { mode } => *mode = 0o660)),
            ("owner", true, changed!(Ssh { owner } => *owner = (1, 1))),
        ],
    );
}

/// What WORKDIR is made of, and what is the same for all steps of a build.
#[derive(Clone)]
struct Workdir {
    path: &'static str,
    user: &'static str,
    rule: (&'static str, &'static str),
    before: &'static [u8],
}

#[test]
fn each_input_of_workdir_and_each_rule_is_in_its_key() {
    let base = Workdir { path: "/w", user: "", rule: ("compression", "gzip 1"), before: b"1" };
    let key = |it: &Workdir| {
        let path = ImagePath::parse(it.path.as_bytes()).expect("a path");
        let mut inputs = Inputs::of_workdir(&path, it.user);
        inputs.push(it.rule.0, it.rule.1);
        inputs.key(Key::of_base(&[Digest::of(it.before)], &platform()))
    };
    hold(
        "WORKDIR",
        &base,
        key,
        &[
            ("directory", true, |it| it.path = "/x"),
            ("user", true, |it| it.user = "1"),
            ("value of a rule", true, |it| it.rule.1 = "gzip 2"),
            ("name of a rule", true, |it| it.rule.0 = "other"),
            ("what came before", true, |it| it.before = b"2"),
            ("how the directory is written", false, |it| it.path = "/./w/"),
        ],
    );
}

#[test]
fn where_content_comes_from_counts_by_what_it_is() {
    let one = |input: Input| Inputs::of_copy(&copy(), vec![input]).key(start());
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    let all = [
        inline("f", "text"),
        inline("f", "other"),
        inline("g", "text"),
        fetched("https://h/f", "f", a),
        fetched("https://h/f", "f", b),
        fetched("https://h/f", "g", a),
        image("i", &[a]),
        image("i", &[b]),
        image("i", &[a, b]),
        stage("s", Key(a)),
        stage("s", Key(b)),
        copied(),
    ];
    let keys: std::collections::BTreeSet<Key> = all.iter().cloned().map(one).collect();
    assert_eq!(keys.len(), all.len());
}

#[test]
fn a_key_by_content_is_no_other_key() {
    let (inputs, other) =
        (Inputs::of_copy(&copy(), vec![copied()]), Inputs::of_copy(&copy(), vec![]));
    let key = Key::by_content(start(), &inputs);
    let different = [
        inputs.key(start()),
        Key::by_content(start(), &other),
        Key::by_content(inputs.key(start()), &inputs),
        Key::by_content(key, &inputs),
    ];
    assert!(!different.contains(&key));
    assert_eq!(Key::by_content(start(), &inputs.clone()), key);
}

#[test]
fn the_base_counts_by_its_files_and_platform() {
    let one = Digest::of(b"1");
    let arm = Platform::new("linux", "arm64", None);
    assert_ne!(Key::of_base(&[one], &platform()), Key::of_base(&[one], &arm));
    assert_ne!(Key::of_base(&[one], &platform()), Key::of_base(&[one, one], &platform()));
    let key = start();
    assert_eq!(Key::parse(&key.to_string()), Some(key));
    let run = Inputs::of_run(&run(), &[], Vec::new());
    assert_ne!(run.key(start()), run.key(run.key(start())), "what came before");
    let _: Reference = format!("r.example/cache:{key}").parse().expect("a key is a tag");
}
