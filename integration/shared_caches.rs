//! Caches of RUN mounts that go through a registry: what one machine left, another one finds.
//!
//! Every build here has a `--kaniko-dir` of its own, as a new pod has.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::build_basic::on_busybox;
use crate::executor::{Build, Ended, PLACES, Place};
use crate::faulty::{Fault, Faulty};
use crate::registry::{Access, Registry};

/// A machine that has no cache, and shares those of this registry.
fn machine(place: Place, registry: &Registry, script: &str) -> Build {
    let dockerfile = format!(
        "FROM busybox\nCOPY turn /turn\nRUN --mount=type=cache,id=shared,target=/c {script}\n"
    );
    // A step that is not to be found in a cache of layers needs none.
    on_busybox(place, &dockerfile).file("turn", script).flags([
        "--insecure",
        "--cache-mounts=registry",
        &format!("--cache-repo={}", registry.reference("cache")),
    ])
}

fn run(registry: &Registry, script: &str) -> Ended {
    machine(Place::Host, registry, script).run().succeeded()
}

fn says(ended: &Ended, words: &str) {
    assert!(ended.log.contains(words), "no {words:?} in:\n{}", ended.log);
}

/// The tags that were written, in order.
fn written(registry: &Registry) -> Vec<String> {
    let paths = registry.paths("PUT");
    let tags = paths.iter().filter_map(|path| path.strip_prefix("/v2/cache/manifests/"));
    tags.map(str::to_owned).collect()
}

/// The image of the one cache.
fn manifest(registry: &Registry) -> Value {
    let tags = written(registry);
    let tag = tags.last().expect("a cache was written");
    assert!(tag.starts_with("mount-"), "{tag}");
    let bytes = registry.manifest(&format!("cache:{tag}")).expect("it is there");
    serde_json::from_slice(&bytes).expect("JSON")
}

fn sizes(manifest: &Value) -> Vec<u64> {
    let layers = manifest["layers"].as_array().expect("a list");
    layers.iter().map(|layer| layer["size"].as_u64().expect("a size")).collect()
}

const FILL: &str = "mkdir -p /c/d/e && echo 1 > /c/d/a && echo 2 > /c/d/e/b && ln /c/d/a /c/hard && \
    ln -s d/a /c/soft && chown 5:6 /c/d/e /c/d/e/b && chmod 4750 /c/d/e/b && chmod 1777 /c && \
    mkfifo /c/p && touch -d @981173106 /c/d/a /c/d/e /c/d";

/// A line for everything in the cache, times included.
const LIST: &str = "find /c | sort | xargs stat -c '%n %F %a %u:%g %Y %h' | grep -v ^/c/p > /list && \
    stat -c '%n %a %u:%g' /c /c/p >> /list && cat /c/d/e/b /c/soft >> /list";

#[test]
fn another_machine_finds_what_one_left() {
    for place in PLACES {
        let registry = Registry::start(Access::Plain);
        let first = machine(place, &registry, &format!("{FILL} && {LIST}")).run().succeeded();
        says(&first, "is shared: ");
        let want = first.image().tree()["/list"].content.clone().expect("a listing");
        let second = machine(place, &registry, LIST).run().succeeded();
        says(&second, "The cache \"shared\" of ");
        let image = second.image();
        assert_eq!(image.tree()["/list"].content.as_deref(), Some(want.as_str()), "{place:?}");
        let names = image.layers.last().expect("its layer").entries.iter().map(|(name, _)| name);
        let names: Vec<_> = names.filter(|name| *name != "/").collect();
        assert_eq!(names, ["/list"], "{place:?}");
        // What did not change is not sent: one tag was written, once.
        assert_eq!(written(&registry).len(), 1, "{place:?}\n{}", second.log);
    }
}

#[test]
fn only_what_changed_is_sent_until_most_of_it_is_of_no_use() {
    let registry = Registry::start(Access::Plain);
    let large = |name: &str| format!("dd if=/dev/urandom of=/c/{name} bs=1M count=20 2> /dev/null");
    run(&registry, &large("a"));
    let base = sizes(&manifest(&registry));
    run(&registry, "test -s /c/a && echo 1 > /c/one");
    run(&registry, "echo 2 > /c/two && rm /c/one");
    let grown = sizes(&manifest(&registry));
    assert_eq!((grown.len(), grown[0]), (3, base[0]), "{grown:?}");
    assert!(grown[1..].iter().all(|size| *size < 1000), "{grown:?}");
    run(&registry, "test -s /c/a && test ! -e /c/one && cat /c/two");
    assert_eq!(sizes(&manifest(&registry)), grown, "nothing changed");
    // Each of these replaces what there was.
    run(&registry, &format!("rm /c/a && {}", large("b")));
    assert_eq!(sizes(&manifest(&registry)).len(), 4);
    run(&registry, &format!("rm /c/b && {}", large("c")));
    let anew = sizes(&manifest(&registry));
    assert!(anew.len() == 1 && anew[0] < 2 * base[0], "{anew:?}");
    run(&registry, "test -s /c/c && test ! -e /c/a && cat /c/two");
}

#[test]
fn a_cache_that_is_damaged_is_empty_and_is_mended() {
    type Damage = fn(&Path);
    let flip: Damage = |path| {
        let mut bytes = fs::read(path).expect("a blob");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).expect("written");
    };
    let lose: Damage = |path| fs::remove_file(path).expect("removed");
    let registry = Registry::start(Access::Plain);
    // In the second layer: what is in the first is in the directory by then.
    for (part, number, damage) in [("layer", 1, flip), ("layer", 0, lose), ("config", 0, flip)] {
        run(&registry, &format!("seq 1 20000 > /c/{part}{number} && chmod 700 /c"));
        if number == 1 {
            run(&registry, "seq 20000 90000 > /c/second");
        }
        let manifest = manifest(&registry);
        let named = match part {
            "layer" => &manifest["layers"][number],
            _ => &manifest["config"],
        };
        damage(&registry.blob_file(named["digest"].as_str().expect("a digest")));
        let ended =
            run(&registry, "test -z \"$(ls /c)\" && stat -c %a /c > /mode && echo 1 > /c/new");
        says(&ended, "the cache \"shared\" begins empty: ");
        assert_eq!(ended.image().tree()["/mode"].content.as_deref(), Some("\"755\\n\""));
        run(&registry, "test $(ls /c) = new && rm /c/new");
    }
}

#[test]
fn a_tag_that_is_something_else_is_no_cache() {
    let registry = Registry::start(Access::Plain);
    run(&registry, "echo 1 > /c/one");
    let tag = written(&registry).pop().expect("a tag");
    registry.push(&crate::base::busybox(), crate::base::TAG, &format!("cache:{tag}"), None);
    let ended = run(&registry, "test -z \"$(ls /c)\" && echo 2 > /c/two");
    says(&ended, "version is missing");
    run(&registry, "test $(ls /c) = two");
}

#[test]
fn a_cache_above_the_limit_begins_anew_for_others() {
    let registry = Registry::start(Access::Plain);
    let limited = |script: &str| {
        let build = machine(Place::Host, &registry, script);
        build.flag("--cache-mount-export-limit=1M").run().succeeded()
    };
    let ended = limited("dd if=/dev/zero of=/c/huge bs=1M count=2");
    says(&ended, "more than --cache-mount-export-limit");
    assert_eq!(written(&registry), [""; 0], "there was nothing to begin anew");
    limited("echo 1 > /c/small");
    says(&limited("dd if=/dev/zero of=/c/huge bs=1M count=2"), "begins anew for others");
    limited("test -z \"$(ls /c)\" && echo 2 > /c/again");
    limited("test $(ls /c) = again");
}

#[test]
fn machines_that_write_at_once_leave_one_whole_cache() {
    let registry = Registry::start(Access::Plain);
    run(&registry, "echo 0 > /c/base");
    let start = |n: u32| {
        let script = format!("seq {n}00000 {n}90000 > /c/own && echo {n} > /c/name");
        machine(Place::Host, &registry, &script).start()
    };
    for one in [start(1), start(2), start(3)] {
        one.end().succeeded();
    }
    run(&registry, "test -e /c/base && n=$(cat /c/name) && seq ${n}00000 ${n}90000 | cmp - /c/own");
}

#[test]
fn what_is_shared_and_what_is_not() {
    let registry = Registry::start(Access::Plain);
    // A step that fails may have left anything; one before it did not.
    let dockerfile = "FROM busybox\n\
        RUN --mount=type=cache,id=good,target=/c echo 1 > /c/one\n\
        RUN --mount=type=cache,id=bad,target=/c echo 1 > /c/one; exit 3\n";
    let shared = |build: Build| {
        build.flags([
            "--insecure",
            "--cache-mounts=registry",
            &format!("--cache-repo={}", registry.reference("cache")),
        ])
    };
    shared(on_busybox(Place::Host, dockerfile)).run().refused_in_words(&["Dockerfile:3"]);
    assert_eq!(written(&registry).len(), 1);
    let look = "FROM busybox\n\
        RUN --mount=type=cache,id=good,target=/c ls /c > /good\n\
        RUN --mount=type=cache,id=bad,target=/c ls /c > /bad\n\
        RUN --mount=type=cache,id=good,target=/c,mode=0700 ls /c > /other\n";
    let tree = shared(on_busybox(Place::Host, look)).image().tree();
    let found = |path: &str| tree[path].content.clone().unwrap_or_default();
    assert_eq!(["/good", "/bad", "/other"].map(found), ["\"one\\n\"", "\"\"", "\"\""]);
    // Another namespace is another cache, and who must not write does not.
    let before = written(&registry);
    let other =
        "FROM busybox\nRUN --mount=type=cache,id=good,target=/c ls /c > /l; echo 2 > /c/two\n";
    let build = shared(on_busybox(Place::Host, other)).flag("--no-push-cache");
    let tree = build.image().tree();
    assert_eq!(tree["/l"].content.as_deref(), Some("\"one\\n\""));
    assert_eq!(written(&registry), before);
    let build =
        shared(on_busybox(Place::Host, other)).flag("--build-arg=BUILDKIT_CACHE_MOUNT_NS=n");
    assert_eq!(build.image().tree()["/l"].content.as_deref(), Some("\"\""));
}

#[test]
fn a_cache_that_is_here_is_sent_when_it_changed_or_is_not_known_there() {
    let (registry, caches) = (Registry::start(Access::Plain), tempfile::tempdir().unwrap());
    let here = |script: &str, flag: &str| {
        let build = machine(Place::Host, &registry, script).share("caches", caches.path());
        build.flags(["--cache-dir={caches}", flag]).run().succeeded()
    };
    here("echo 1 > /c/one", "--cache-mounts=local");
    assert_eq!(written(&registry), [""; 0]);
    for (script, times) in [
        ("test $(cat /c/one) = 1", 1),
        ("test $(cat /c/one) = 1", 1),
        ("echo 2 > /c/two", 2),
        ("test $(cat /c/two) = 2", 2),
    ] {
        let ended = here(script, "--cache-mounts=registry");
        assert_eq!(written(&registry).len(), times, "{script}\n{}", ended.log);
    }
    run(&registry, "test $(cat /c/one)$(cat /c/two) = 12");
}

#[test]
fn a_registry_that_does_not_answer_is_waited_for_once() {
    let registry = Registry::start(Access::Plain);
    let faulty = Faulty::before(registry.address());
    faulty.rules(vec![("GET /v2/cache/manifests/mount-".to_owned(), 99, Fault::Stall)]);
    let dockerfile = "FROM busybox\n\
        RUN --mount=type=cache,target=/c echo 1 > /c/one\n\
        RUN --mount=type=cache,target=/d echo 1 > /d/one\n";
    let ended = on_busybox(Place::Host, dockerfile)
        .flags(["--insecure", "--cache-mounts=registry", "--cache-timeout=1s"])
        .flag(format!("--cache-repo={}/cache", faulty.address()))
        .run()
        .succeeded();
    says(&ended, "the cache \"/c\" begins empty: ");
    assert_eq!(faulty.seen("GET /v2/cache/").len(), 1, "{}", ended.log);
    assert_eq!(written(&registry), [""; 0]);
}

#[test]
fn a_registry_that_is_not_there_ends_no_build() {
    let dockerfile = "FROM busybox\nRUN --mount=type=cache,target=/c echo 1 > /c/one\n";
    let ended = on_busybox(Place::Host, dockerfile)
        .flags(["--insecure", "--cache-mounts=registry", "--cache-repo=127.0.0.1:1/cache"])
        .run()
        .succeeded();
    says(&ended, "the cache \"/c\" begins empty: ");
    says(&ended, "the cache \"/c\" is not shared: ");
}
