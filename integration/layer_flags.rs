//! The flags about layers: times, one layer for a stage, what stays out, compression.

use crate::base;
use crate::build_basic::on_busybox;
use crate::executor::{Build, PLACES, Place};
use crate::image::{Image, Kind};
use crate::registry::{Access, Registry};
use crate::tools;

/// Files of every kind, by every instruction that makes some.
const TIMES: &str = "FROM busybox AS tools
RUN mkdir /t && echo tool > /t/tool && ln /t/tool /t/second
FROM busybox
ARG A=1
WORKDIR /work
RUN echo new > /new && mkdir -p /d/e && ln -s new /link && touch -d @1000 /old && rm /etc/group
COPY f /copied
COPY --from=tools /t /t
ENV B=2
";

/// Times of files, and those that the config tells.
fn times(image: &Image, base: &Image) -> (Vec<(String, String)>, Vec<String>) {
    let new = &image.layers[base.layers.len()..];
    let entries = new.iter().flat_map(|layer| &layer.entries);
    let files = entries
        .filter(|(_, entry)| entry.kind != Kind::Whiteout)
        .map(|(path, entry)| (path.clone(), entry.mtime.clone()))
        .collect();
    let history = image.config["history"].as_array().unwrap()[base.history().len()..].iter();
    let told = history.chain([&image.config]).map(|it| it["created"].as_str().unwrap().to_owned());
    (files, told.collect())
}

#[test]
fn the_same_build_has_the_same_digest_at_any_time_traced_or_walked() {
    let base = Image::open(&base::busybox());
    for place in PLACES {
        let mut digests = Vec::new();
        for flags in
            [["--reproducible", "--run-tracer=auto"], ["--reproducible", "--snapshot-mode=redo"]]
        {
            let image = on_busybox(place, TIMES).file("f", "1").flags(flags).image();
            let (files, told) = times(&image, &base);
            assert!(files.len() > 8, "{files:?}");
            assert!(files.iter().all(|(_, time)| time == "0"), "{place:?} {files:?}");
            assert!(told.iter().all(|time| time == "1970-01-01T00:00:00Z"), "{place:?} {told:?}");
            digests.push(image.digest);
        }
        assert_eq!(digests[0], digests[1], "{place:?}");
    }
}

#[test]
fn an_epoch_clamps_what_is_younger() {
    const EPOCH: &str = "SOURCE_DATE_EPOCH";
    let base = Image::open(&base::busybox());
    let with_default = format!("ARG {EPOCH}=2000\n{TIMES}");
    let declared = TIMES.replace("ARG A=1\n", &format!("ARG {EPOCH}\nRUN test ${EPOCH} = 2000\n"));
    let cases: [(&str, &str, Option<&str>, &[&str]); 5] = [
        ("variable", TIMES, Some("2000"), &[]),
        ("argument", TIMES, None, &["--build-arg=SOURCE_DATE_EPOCH=2000"]),
        (
            "argument first",
            TIMES,
            Some("7"),
            &["--build-arg=SOURCE_DATE_EPOCH=2000", "--reproducible"],
        ),
        ("default of the Dockerfile", &with_default, None, &[]),
        ("seen by a step", &declared, Some("2000"), &[]),
    ];
    for (case, dockerfile, variable, flags) in cases {
        let build = on_busybox(Place::Host, dockerfile).file("f", "1");
        let build = flags.iter().fold(build, |build, flag| build.flag(*flag));
        let build = variable.into_iter().fold(build, |build, value| build.variable(EPOCH, value));
        let ended = build.run().succeeded();
        assert!(!ended.log.contains("but nothing declares it"), "{case}: {}", ended.log);
        let (files, told) = times(&ended.image(), &base);
        let time =
            |path: &str| files.iter().find(|(name, _)| name == path).map(|(_, time)| time.as_str());
        assert_eq!((time("/new"), time("/old")), (Some("2000"), Some("1000")), "{case}");
        assert!(
            files.iter().all(|(_, time)| time == "2000" || time == "1000"),
            "{case}: {files:?}"
        );
        assert!(told.iter().all(|time| time == "1970-01-01T00:33:20Z"), "{case}: {told:?}");
    }
    let ended = on_busybox(Place::Host, TIMES).file("f", "1").variable(EPOCH, "soon").run();
    ended.refused(1, &["SOURCE_DATE_EPOCH=soon", "git log"]);
}

#[test]
fn a_single_snapshot_is_one_layer_for_each_stage() {
    let dockerfile = "FROM busybox AS below
RUN echo 1 > /a && echo gone > /gone && ln /a /b
RUN echo 2 > /a && rm /gone && rm /etc/group
FROM below
ENV A=1
COPY f /f
RUN mkdir /d && mv /f /d/f && chmod 600 /etc/passwd
WORKDIR /w
CMD x
";
    let base = Image::open(&base::busybox());
    for place in PLACES {
        let build = |flag: &str| on_busybox(place, dockerfile).file("f", "1").flag(flag).image();
        let (single, each) = (build("--single-snapshot"), build("--single-snapshot=false"));
        let names: Vec<_> =
            single.layers[base.layers.len()..].iter().map(|it| it.names()).collect();
        assert_eq!(
            names,
            [vec!["-/etc/group", "/a", "/b"], vec!["/d/f", "/etc/passwd"]],
            "{place:?}"
        );
        let history: Vec<_> = single.history()[base.history().len()..]
            .iter()
            .map(|line| (!line.starts_with("# "), line.trim_start_matches("# ")[..4].to_owned()))
            .collect();
        let line = |layer, text: &str| (layer, text.to_owned());
        let want = [
            line(false, "RUN "),
            line(true, "RUN "),
            line(false, "ENV "),
            line(false, "COPY"),
            line(false, "RUN "),
            line(true, "WORK"),
            line(false, "CMD "),
        ];
        assert_eq!(history, want, "{place:?}");
        let strip = |image: &Image| {
            let mut tree = image.tree();
            tree.values_mut().for_each(|entry| entry.mtime.clear());
            tree
        };
        assert_eq!(crate::image::compare(&strip(&single), &strip(&each)), Vec::<String>::new());
    }
}

#[test]
fn ignored_paths_are_seen_by_steps_and_are_in_no_layer() {
    let dockerfile = "FROM busybox AS one
RUN mkdir -p /cache/x /home/me/.cache /var/run && echo 1 > /cache/x/f && echo 2 > /home/me/.cache/g \\
 && echo 3 > /var/run/pid && ln /cache/x/f /kept && ln /cache/x/f /second && echo 4 > /home/me/h
RUN test $(cat /cache/x/f)$(cat /home/me/.cache/g) = 12
COPY f /cache/copied
FROM busybox
COPY --from=one /cache/x/f /from-ignored
FROM one
RUN test -e /cache/copied && rm /second
COPY --from=1 /from-ignored /from-ignored
";
    for place in PLACES {
        let ended = on_busybox(place, dockerfile)
            .file("f", "1")
            .flags(["--ignore-path=/cache", "--ignore-path=/home/*/.cache", "--ignore-var-run"])
            .run()
            .succeeded();
        assert!(ended.log.contains("left out of the layer"), "{place:?} {}", ended.log);
        let image = ended.image();
        let tree = image.tree();
        for (path, there) in [
            ("/cache", false),
            ("/cache/x/f", false),
            ("/cache/copied", false),
            ("/home/me/.cache", false),
            ("/var/run/pid", false),
            ("/home/me/h", true),
            ("/kept", true),
            ("/second", false),
            ("/from-ignored", true),
        ] {
            assert_eq!(tree.contains_key(path), there, "{place:?} {path}");
        }
        assert_eq!(tree["/kept"].to_string(), "- 0644 0:0 2 \"1\\n\"", "{place:?}");
    }
    Build::bare().flag("--no-push").flag("--ignore-path=/").run().refused(1, &["--ignore-path=/"]);
}

#[test]
fn metadata_has_layers_where_they_are_forced() {
    let base = Image::open(&base::busybox());
    let dockerfile = "FROM busybox\nENV A=1\nRUN true\nLABEL a=b\nCMD x\n";
    let image = on_busybox(Place::Host, dockerfile).flag("--force-build-metadata").image();
    let new = &image.layers[base.layers.len()..];
    assert_eq!(new.iter().map(|layer| layer.entries.len()).collect::<Vec<_>>(), [0; 4]);
    let scratch = Build::of("FROM scratch\nENV A=1\n").flag("--force-build-metadata").image();
    assert_eq!(scratch.layers.len(), 1);
}

#[test]
fn zstd_layers_have_media_types_of_oci_wherever_the_base_is_from() {
    let registry = Registry::start(Access::Plain);
    let name = registry.reference("zstd:1");
    for (dockerfile, warned) in
        [("FROM scratch\nCOPY f /f\n", true), ("FROM busybox\nCOPY f /f\n", false)]
    {
        let build = Build::bare().file("Dockerfile", dockerfile).file("f", "1".repeat(100_000));
        let ended = build
            .base("busybox", base::busybox())
            .flags(["--compression=zstd", "--compression-level=7"])
            .flag("--tar-path={out}/image.tar")
            .flag("--oci-layout-path={out}/image")
            .flag(format!("--destination={name}"))
            .flag("--insecure")
            .run()
            .succeeded();
        assert_eq!(
            ended.log.contains("the image gets OCI's"),
            warned,
            "{dockerfile}: {}",
            ended.log
        );
        let image = ended.image();
        let pulled = Image::pull(&registry, "zstd:1");
        assert_eq!(pulled.digest, image.digest, "{dockerfile}");
        let manifest = tools::run(
            "skopeo",
            ["inspect", "--raw", "--tls-verify=false", &format!("docker://{name}")],
        );
        assert!(manifest.contains("application/vnd.oci.image.layer.v1.tar+zstd"), "{manifest}");
        let archive = format!("docker-archive:{}", ended.out("image.tar").display());
        let told = tools::run("skopeo", ["inspect", "--config", archive.as_str()]);
        assert!(told.contains("diff_ids"), "{told}");
    }
}
