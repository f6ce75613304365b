//! Layers of earlier builds: cached equals cold, a miss says why, and a damaged entry is a miss.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::base;
use crate::build_basic::on_busybox;
use crate::executor::{Build, Ended, PLACES, Place};
use crate::image::{Image, compare};
use crate::registry::{Access, Registry};
use crate::tools;

const STAGES: &str = "FROM busybox AS build
WORKDIR /src
COPY main.c .
RUN cat main.c > out && ln out out2 && echo built > /built
FROM busybox
ARG WHO=me
ENV GREETING=hello
RUN echo \"$GREETING $WHO\" > /said && rm -r /usr/share/udhcpc || true
COPY --from=build /src/out /result
WORKDIR /work
RUN rm /result && echo 2 > two && chmod 4755 two && ln two /linked
ADD --chown=5:6 main.c /added/
CMD [\"x\"]
";

/// The steps of [`STAGES`] that make layers of the last stage.
const LAST: usize = 5;

/// A directory that several builds use as their cache.
struct Store(TempDir);

impl Store {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory for the cache"))
    }

    fn used_by(&self, build: Build) -> Build {
        build.share("cache", self.0.path()).flags([
            "--cache",
            "--cache-copy-layers",
            "--cache-repo=dir:{cache}",
        ])
    }

    /// The manifest of each entry, by the step that it says.
    fn manifests(&self) -> Vec<(String, PathBuf, Value)> {
        let read = |path: &Path| -> Value {
            serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
        };
        let index = read(&self.0.path().join("index.json"));
        let listed = index["manifests"].as_array().expect("a list").clone();
        let keys = listed.iter().filter(|it| {
            let tag = it["annotations"]["org.opencontainers.image.ref.name"].as_str();
            !tag.expect("a tag").starts_with("last-")
        });
        keys.map(|it| {
            let path = self.blob(it["digest"].as_str().expect("a digest"));
            let manifest = read(&path);
            let step = manifest["annotations"]["dev.kaniko-rs.cache.step"].as_str();
            (step.expect("a step").to_owned(), path, manifest)
        })
        .collect()
    }

    fn entry(&self, step: &str) -> (PathBuf, Value) {
        let mut all = self.manifests();
        all.retain(|(known, ..)| known.starts_with(step));
        let (_, path, manifest) = all.pop().unwrap_or_else(|| panic!("no entry of {step}"));
        (path, manifest)
    }

    fn blob(&self, digest: &str) -> PathBuf {
        self.0.path().join("blobs/sha256").join(&digest["sha256:".len()..])
    }

    fn layer(&self, step: &str) -> PathBuf {
        let (_, manifest) = self.entry(step);
        self.blob(manifest["layers"][0]["digest"].as_str().expect("a layer"))
    }
}

fn stages(place: Place, dockerfile: &str) -> Build {
    on_busybox(place, dockerfile).file("main.c", "int main;\n")
}

fn count(ended: &Ended, words: &str) -> usize {
    ended.log.lines().filter(|line| line.contains(words)).count()
}

fn digests(image: &Image) -> Vec<&str> {
    image.layers.iter().map(|layer| layer.digest.as_str()).collect()
}

fn lacks(ended: &Ended, words: &str) {
    assert!(!ended.log.contains(words), "{words:?} in:\n{}", ended.log);
}

fn says(ended: &Ended, words: &str) {
    assert!(ended.log.contains(words), "no {words:?} in:\n{}", ended.log);
}

#[test]
fn cached_equals_cold_and_so_does_half_cached() {
    for place in PLACES {
        let store = Store::new();
        let build = |dockerfile: &str| store.used_by(stages(place, dockerfile)).run().succeeded();
        let cold = build(STAGES);
        assert_eq!(count(&cold, "Cached: "), 0, "{}", cold.log);
        let cached = build(STAGES);
        assert_eq!(count(&cached, "Cached: "), LAST, "{}", cached.log);
        says(&cached, "Stage build is not needed");
        lacks(&cached, "npack");
        lacks(&cached, "Miss");
        let (cold, cached) = (cold.image(), cached.image());
        assert_eq!(digests(&cold), digests(&cached), "{place:?}");
        assert_eq!(cold.setting(""), cached.setting(""), "{place:?}");

        // One more step needs the tree, and finds in it what a build without a cache has there.
        let more = format!(
            "{STAGES}RUN find /work /added /linked /said /bin /usr | sort > /all && cat /linked /added/* > /both\n"
        );
        let half = build(&more);
        assert_eq!(count(&half, "Cached: "), LAST, "{}", half.log);
        says(&half, "Miss: this step is not in the cache");
        let half = half.image();
        assert_eq!(digests(&half)[..digests(&cold).len()], digests(&cold)[..], "{place:?}");
        let fresh = stages(place, &more).image();
        assert_eq!(compare(&half.tree(), &fresh.tree()), [] as [String; 0], "{place:?}");

        // A stage whose image is cached is unpacked where a new step takes other files from it.
        let other = format!("{STAGES}COPY --from=build /built /src/out2 /other/\n");
        let other = build(&other);
        assert_eq!(count(&other, "Cached: "), LAST + 3, "{}", other.log);
        let tree = other.image().tree();
        assert_eq!(tree["/other/built"].to_string(), "- 0644 0:0 6 \"built\\n\"", "{place:?}");
        assert!(tree.contains_key("/other/out2"), "{place:?}");
    }
}

#[test]
fn with_an_epoch_the_whole_image_is_the_same() {
    let store = Store::new();
    let build = || store.used_by(stages(Place::Host, STAGES)).flag("--reproducible").image();
    assert_eq!(build().digest, build().digest);
}

#[test]
fn a_miss_says_what_changed_and_what_does_not_matter_hits() {
    type Change = fn(Build) -> Build;
    let store = Store::new();
    let dockerfile = "FROM busybox\nARG WHO=me\nLABEL a=1\nCOPY src /src\nRUN echo $WHO > /who\n";
    let build = |dockerfile: &str, change: Change| {
        let build = on_busybox(Place::Host, dockerfile).file("src/main.c", "1").file("src/x", "x");
        store.used_by(change(build)).run().succeeded()
    };
    says(&build(dockerfile, |it| it), "Miss: this step is not in the cache");
    let cases: &[(&str, Change)] = &[
        ("Miss: main.c changed", |it| it.file("src/main.c", "2")),
        ("y is new", |it| it.file("src/y", "y")),
        ("Miss: variable WHO changed", |it| it.flag("--build-arg=WHO=you")),
    ];
    for (told, change) in cases {
        // Compared is with the entry that was written last, so an earlier case may be told, too.
        says(&build(dockerfile, *change), told);
    }
    let same: &[(&str, String, Change)] = &[
        ("label", dockerfile.replace("a=1", "a=2"), |it| it),
        ("comment", dockerfile.replace("COPY", "# comment\nCOPY"), |it| it),
        ("path", dockerfile.replace("COPY src", "COPY ./src/"), |it| it),
        ("proxy", dockerfile.to_owned(), |it| it.flag("--build-arg=http_proxy=http://p")),
        ("label of the command line", dockerfile.to_owned(), |it| it.flag("--label=b=c")),
        ("log", dockerfile.to_owned(), |it| it.flag("--verbosity=debug")),
    ];
    for (what, dockerfile, change) in same {
        let ended = build(dockerfile, *change);
        assert_eq!(count(&ended, "Cached: "), 2, "{what}: {}", ended.log);
    }
}

#[test]
fn layers_of_two_executions_are_not_mixed() {
    let dockerfile = "FROM busybox AS build\n\
                      RUN cat /proc/sys/kernel/random/uuid > /id\nRUN cp /id /copy\n\
                      FROM busybox\nCOPY --from=build /id /id\nCOPY --from=build /copy /copy\n";
    for place in PLACES {
        let store = Store::new();
        let build = || store.used_by(on_busybox(place, dockerfile)).run().succeeded();
        build();
        // The first command has to run again; what was made after its old outcome is of no use.
        let id = store.layer("COPY --from=build /id");
        fs::remove_file(store.entry("RUN cat").0).expect("removed");
        fs::remove_file(id).expect("removed");
        let ended = build();
        says(&ended, "another outcome");
        let tree = ended.image().tree();
        assert_eq!(tree["/id"].content, tree["/copy"].content, "{place:?}\n{}", ended.log);
    }
}

#[test]
fn a_command_with_the_same_outcome_keeps_what_follows() {
    let store = Store::new();
    let dockerfile = "FROM busybox\nRUN echo 1 > /a\nRUN echo 2 > /b\n";
    let build = || store.used_by(on_busybox(Place::Host, dockerfile)).run().succeeded();
    build();
    fs::remove_file(store.entry("RUN echo 1").0).expect("removed");
    let ended = build();
    assert_eq!((count(&ended, "Miss: "), count(&ended, "Cached: ")), (1, 1), "{}", ended.log);
}

#[test]
fn damaged_entries_are_misses() {
    type Damage = fn(&Store);
    let damages: &[(&str, Damage)] = &[
        ("an index that is cut off", |store| {
            fs::write(store.0.path().join("index.json"), "{").expect("written");
        }),
        ("a manifest of something else", |store| {
            fs::write(store.entry("RUN echo 1").0, "{}").expect("written");
        }),
        ("a layer that is gone", |store| {
            fs::remove_file(store.layer("RUN echo 1")).expect("removed");
        }),
        ("a layer that is cut off", |store| {
            fs::write(store.layer("RUN echo 1"), "x").expect("written");
        }),
        ("a layer with a wrong byte", |store| {
            let path = store.layer("RUN echo 1");
            let mut bytes = fs::read(&path).expect("read");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).expect("written");
        }),
    ];
    let dockerfile = "FROM busybox\nRUN echo 1 > /a\nCOPY f /f\n";
    for place in PLACES {
        for (what, damage) in damages {
            let store = Store::new();
            let build = |content: &str| {
                let build = on_busybox(place, dockerfile).file("f", content);
                store.used_by(build).run().succeeded()
            };
            build("1");
            damage(&store);
            // The second step has to be executed, so the layer of the first is read.
            let ended = build("2");
            says(&ended, "is not used: ");
            let tree = ended.image().tree();
            assert!(tree.contains_key("/a") && tree.contains_key("/f"), "{what}\n{}", ended.log);
            let again = build("2");
            assert_eq!(count(&again, "Cached: "), 2, "not mended: {what}\n{}", again.log);
        }
    }
}

#[test]
fn nothing_old_is_taken_and_nothing_is_kept_unless_wanted() {
    let store = Store::new();
    let build = |flag: &str| {
        let build = store.used_by(on_busybox(Place::Host, "FROM busybox\nRUN echo 1 > /a\n"));
        build.flag(flag).run().succeeded()
    };
    build("--no-push-cache");
    assert!(!store.0.path().join("index.json").exists());
    build("--cache-run-layers=false");
    assert!(!store.0.path().join("index.json").exists());
    build("--cache-ttl=1h");
    says(&build("--cache-ttl=0s"), "Miss: it expired");
    says(&build("--cache-ttl=1h"), "Cached: ");
}

fn pushing(registry: &Registry, dockerfile: &str, name: &str) -> Build {
    Build::bare()
        .file("Dockerfile", dockerfile)
        .file("main.c", "int main;\n")
        .flags(["--insecure", "--insecure-pull", "--cache", "--cache-copy-layers"])
        .flag(format!("--destination={}", registry.reference(name)))
}

#[test]
fn a_registry_is_asked_once_for_a_step_and_gives_no_layer() {
    let registry = Registry::start(Access::Plain);
    registry.push(&base::busybox(), base::TAG, "base:1", None);
    let dockerfile =
        STAGES.replace("FROM busybox", &format!("FROM {}", registry.reference("base:1")));
    pushing(&registry, &dockerfile, "app:1").run().succeeded();
    let before = registry.paths("GET").len();
    let ended = pushing(&registry, &dockerfile, "app:2").run().succeeded();
    assert_eq!(count(&ended, "Cached: "), LAST, "{}", ended.log);
    let asked = registry.paths("GET").split_off(before);
    let entries = asked.iter().filter(|path| path.starts_with("/v2/app/cache/manifests/"));
    // One is the note of what was pushed last.
    assert_eq!(entries.count(), LAST + 4, "{asked:?}");
    // Besides: the version, manifest and config of the base; no layer.
    let blobs: Vec<_> = asked.iter().filter(|path| path.contains("/blobs/")).collect();
    assert_eq!(blobs.len(), 1, "{asked:?}");
    let (first, second) = (Image::pull(&registry, "app:1"), Image::pull(&registry, "app:2"));
    assert_eq!(digests(&first), digests(&second));
    second.validate();
}

#[test]
fn a_destination_that_has_the_image_is_asked_for_one_manifest() {
    let registry = Registry::start(Access::Plain);
    registry.push(&base::busybox(), base::TAG, "base:1", None);
    let dockerfile =
        STAGES.replace("FROM busybox", &format!("FROM {}", registry.reference("base:1")));
    let asked = |method: &str| {
        let paths = registry.paths(method);
        paths.iter().filter(|path| path.starts_with("/v2/app/blobs/")).count()
    };
    pushing(&registry, &dockerfile, "app:1").run().succeeded();
    let notes = || {
        let put = registry.paths("PUT").into_iter();
        put.filter(|it| it.starts_with("/v2/app/cache/manifests/pushed-")).count()
    };
    // A name that is new is the rule in pipelines: there the cache tells what was pushed last.
    for name in ["app:1", "app:2", "app:3"] {
        let (heads, sent) = (asked("HEAD"), asked("PUT"));
        pushing(&registry, &dockerfile, name).run().succeeded();
        // The config has another date.
        assert_eq!((asked("HEAD") - heads, asked("PUT") - sent, notes()), (1, 1, 1), "{name}");
    }
    // What it tells is noted anew once it is not all of an image.
    let longer = format!("{dockerfile}RUN echo more > /more\n");
    for (tag, noted) in [("app:4", 2), ("app:5", 2)] {
        pushing(&registry, &longer, tag).run().succeeded();
        assert_eq!(notes(), noted, "{tag}");
    }
    // It does not take a manifest whose layers it lost, and gets them then.
    let layers = Image::pull(&registry, "app:1").layers;
    registry.forget_blob("app", &layers[0].digest);
    registry.forget_blob("app", &layers[2].digest);
    let ended = pushing(&registry, &dockerfile, "app:1").run().succeeded();
    says(&ended, "looking at every layer there");
    Image::pull(&registry, "app:1").validate();
}

#[test]
fn a_layer_that_vanishes_from_a_registry_is_built_again() {
    let registry = Registry::start(Access::Plain);
    registry.push(&base::busybox(), base::TAG, "base:1", None);
    let base = registry.reference("base:1");
    let dockerfile = format!("FROM {base}\nRUN echo lost > /lost\nRUN echo kept > /kept\n");
    let build = |name: &str| {
        pushing(&registry, &dockerfile, name)
            .flag(format!("--cache-repo={}", registry.reference("cache")))
            .run()
            .succeeded()
    };
    build("one:1");
    let lost = Image::pull(&registry, "one:1").layers[1].digest.clone();
    fs::remove_file(registry.blob_file(&lost)).expect("removed");
    let ended = build("two:1");
    says(&ended, "is not used: ");
    assert_eq!(Image::pull(&registry, "two:1").tree()["/lost"].size, 5);
}

#[test]
fn a_cache_that_cannot_be_reached_ends_no_build() {
    let ended = on_busybox(Place::Host, "FROM busybox\nRUN echo 1 > /a\n")
        .flags(["--cache", "--cache-repo=127.0.0.1:1/cache", "--insecure-pull", "--insecure"])
        .run()
        .succeeded();
    says(&ended, "could not be written");
    assert!(ended.image().tree().contains_key("/a"));
}

#[test]
fn executors_share_a_directory_and_others_read_it() {
    let store = Store::new();
    let dockerfile = |n: usize| format!("FROM busybox\nRUN echo both > /b\nRUN echo {n} > /n\n");
    let start = |n| store.used_by(on_busybox(Place::Host, &dockerfile(n))).start();
    let running = [start(1), start(2), start(3)];
    for one in running {
        one.end().succeeded();
    }
    for n in 1..=3 {
        let ended = store.used_by(on_busybox(Place::Host, &dockerfile(n))).run().succeeded();
        assert_eq!(count(&ended, "Cached: "), 2, "{}", ended.log);
    }
    let listed = store.0.path().join("index.json");
    let index: Value = serde_json::from_slice(&fs::read(listed).expect("read")).expect("JSON");
    let tag = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].clone();
    let name = format!("oci:{}:{}", store.0.path().display(), tag.as_str().expect("a tag"));
    tools::run("skopeo", ["--insecure-policy", "inspect", &name]);
}

/// The part of a plan that speaks of the cache: a line for each step, without times and keys.
fn planned(store: &Store, change: impl Fn(Build) -> Build) -> (Vec<String>, Value) {
    let build = || {
        let build = Build::bare().file("Dockerfile", STAGES).base("busybox", base::busybox());
        let build = build.file("main.c", "int main;\n").flag("--verbosity=error");
        change(store.used_by(build))
    };
    let text = build().flag("--dryrun").run().succeeded().log;
    let json = build().flag("--dryrun=json").run().succeeded().log;
    let told = text.lines().filter_map(|line| line.strip_prefix("        "));
    let told = told.filter(|line| !line.starts_with("key "));
    let kind = |line: &str| match line.split_once(": ") {
        Some((found @ ("hit" | "likely hit"), _)) => found.to_owned(),
        _ => line.to_owned(),
    };
    (told.map(kind).collect(), serde_json::from_str(&json).expect("JSON"))
}

#[test]
fn a_dry_run_tells_keys_inputs_hits_and_misses() {
    let store = Store::new();
    let (told, _) = planned(&store, |it| it);
    let absent = "miss: this step is not in the cache";
    let earlier = "miss: an earlier step missed";
    assert_eq!(told, [absent, earlier, earlier, absent, earlier, earlier, earlier, earlier]);
    assert!(!store.0.path().join("index.json").exists(), "nothing is built");
    store.used_by(stages(Place::Host, STAGES)).run().succeeded();

    let (told, json) = planned(&store, |it| it);
    assert_eq!(told, ["hit"; 8]);
    assert_eq!(json["stages"][0]["not_needed"], true);
    assert_eq!(json["stages"][1]["base"]["layers_are"], "named");
    let copy = &json["stages"][0]["steps"][1]["cache"];
    assert_eq!(copy["key"].as_str().map(str::len), Some(64), "{copy}");
    let names: Vec<&str> = copy["inputs"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|it| it["name"].as_str())
        .collect();
    assert!(names.contains(&"main.c") && names.contains(&"the destination"), "{names:?}");
    assert_eq!(json["stages"][1]["steps"][0].get("cache"), None, "ARG makes no layer");

    let (told, json) = planned(&store, |it| it.file("main.c", "int x;\n"));
    let changed = "miss: main.c changed";
    let stage = "miss: stage build changed";
    assert_eq!(told, ["hit", changed, earlier, "hit", stage, earlier, earlier, earlier]);
    assert_eq!(json["stages"][0].get("not_needed"), None);
    let (told, _) = planned(&store, |it| it.flag("--build-arg=WHO=you"));
    assert_eq!(told[3..5], ["miss: variable WHO changed", earlier]);

    // What follows a command that has to run again is found if that makes the same.
    fs::remove_file(store.entry("RUN cat main.c").0).expect("removed");
    let (told, _) = planned(&store, |it| it);
    assert!(told[2].starts_with("miss: /"), "{told:?}");
    assert_eq!(told[4], "likely hit");
    let (told, _) = planned(&store, |it| it.flag("--cache-copy-layers=false"));
    assert_eq!(told[1], "not cached: the flags say that it is not to be cached");
}

/// A stage that makes the same of sources that differ in their comments, and what copies from it.
const IDENTICAL: &str = "FROM busybox AS build
COPY main.c /src/
RUN grep -v comment /src/main.c > /made; mkdir /d && cp /made /d/two && ln -s two /d/link
FROM busybox AS mid
COPY --from=build /made /app/
RUN cat /app/made > /final && cat /proc/sys/kernel/random/uuid > /id
COPY --from=build --chown=3:4 /d /d/
FROM mid
RUN cat /final /d/link /id > /last
";

/// The steps of [`IDENTICAL`] that come after its first stage.
const AFTER: usize = 4;

#[test]
fn a_stage_that_is_built_again_and_made_the_same_keeps_what_follows() {
    for place in PLACES {
        let store = Store::new();
        let build = |source: &str| {
            let build = on_busybox(place, IDENTICAL).file("main.c", source);
            store.used_by(build).run().succeeded()
        };
        let cold = build("int x;\n// comment 1\n");
        lacks(&cold, "by its content");
        let again = build("int x;\n// comment 2\n");
        assert_eq!(count(&again, "by its content"), AFTER, "{place:?} {}", again.log);
        // The base of the stage that is executed is unpacked, and no other.
        assert_eq!(count(&again, "Unpacking rootfs"), 1, "{place:?} {}", again.log);
        assert_eq!(digests(&again.image()), digests(&cold.image()), "{place:?}");

        // The next time all is known ahead.
        let known = build("int x;\n// comment 2\n");
        says(&known, "Stage build is not needed");
        assert_eq!((count(&known, "Cached: "), count(&known, "by its content")), (AFTER, 0));
        assert_eq!(digests(&known.image()), digests(&cold.image()), "{place:?}");

        let other = build("int y;\n");
        assert_eq!(count(&other, "Cached: "), 0, "{place:?} {}", other.log);
        let tree = other.image().tree();
        assert!(tree["/last"].to_string().contains("int y;"), "{place:?}");
        let fresh = on_busybox(place, IDENTICAL).file("main.c", "int y;\n").image().tree();
        assert_eq!(tree["/d/two"].to_string(), fresh["/d/two"].to_string(), "{place:?}");
    }
}

#[test]
fn what_is_found_by_content_is_never_of_another_execution() {
    let store = Store::new();
    let build = |source: &str| {
        let build = on_busybox(Place::Host, IDENTICAL).file("main.c", source);
        store.used_by(build).run().succeeded()
    };
    build("int x;\n// comment 1\n");
    // Its command runs again, and makes another ID: the copy before it is found, what follows is not.
    fs::remove_file(store.entry("RUN cat /app/made").0).expect("removed");
    let ended = build("int x;\n// comment 2\n");
    assert_eq!(count(&ended, "by its content"), 1, "{}", ended.log);
    let tree = ended.image().tree();
    let shown = |path: &str| tree[path].to_string();
    let id = shown("/id").split('"').nth(1).map(str::to_owned).expect("its text");
    assert!(shown("/last").contains(&id), "{} in {}", id, shown("/last"));
}

#[test]
fn a_command_after_a_copy_that_is_not_cached_is_found_by_content() {
    let store = Store::new();
    let dockerfile = "FROM busybox AS build\nCOPY main.c /\nRUN grep -v comment /main.c > /made\n\
                      FROM busybox\nCOPY --from=build /made /m\nRUN cat /m > /last\n";
    let build = |source: &str| {
        let build = on_busybox(Place::Host, dockerfile).file("main.c", source);
        let build = build.share("cache", store.0.path());
        build.flags(["--cache", "--cache-repo=dir:{cache}"]).run().succeeded()
    };
    let first = build("int x;\n// comment 1\n");
    let again = build("int x;\n// comment 2\n");
    assert_eq!(count(&again, "by its content"), 1, "{}", again.log);
    assert_eq!(compare(&again.image().tree(), &first.image().tree()), [] as [String; 0]);
}
