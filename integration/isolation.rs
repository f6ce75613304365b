//! One Dockerfile, one image: wherever the steps run, and whoever watches them.

use crate::base;
use crate::build_basic::on_busybox;
use crate::executor::{Build, PLACES, Place};
use crate::image::{Image, compare};
use crate::pod::Privileges;

const DOCKERFILE: &str = "FROM busybox
ENV LANG=C
WORKDIR /srv
COPY . .
RUN mkdir -p a/b/c && echo 1 > a/b/c/d && ln a/b/c/d hard && ln -s a soft && mkfifo fifo
RUN chmod 4711 hard && chown 5:6 a && rm -r a/b/c && mv /etc/group /etc/groups
USER builder
RUN echo $(id -un) > /tmp/who
";

fn build(place: Place) -> Image {
    on_busybox(place, DOCKERFILE).file("f", "1").flag("--verify-snapshot=fail").image()
}

#[test]
fn both_places_give_the_same_tree_and_config() {
    let host = build(Place::Host);
    let pod = build(Place::Pod(Privileges::DEFAULT));
    assert_eq!(compare(&host.tree(), &pod.tree()), Vec::<String>::new());
    assert_eq!(host.config["config"], pod.config["config"]);
    assert_eq!(host.history(), pod.history());
    let layers = |image: &Image| image.layers.iter().map(|layer| layer.names()).collect::<Vec<_>>();
    assert_eq!(layers(&host), layers(&pod));
}

#[test]
fn a_pod_works_below_a_shell_and_without_new_privileges() {
    let default = Privileges::DEFAULT;
    let want = build(Place::Pod(default)).tree();
    for privileges in [
        Privileges { below_shell: true, ..default },
        Privileges { no_new_privs: true, ..default },
        Privileges { added: &["CAP_SYS_PTRACE"], ..default },
        Privileges { added: &["CAP_SYS_ADMIN", "CAP_SYS_PTRACE"], ..default },
    ] {
        let tree = build(Place::Pod(privileges)).tree();
        assert_eq!(compare(&want, &tree), Vec::<String>::new(), "{privileges:?}");
    }
}

/// A runtime that may not make devices mounts those of the host over files: what is written to them is told to
/// nobody in the container.
#[test]
fn a_pod_in_a_user_namespace_watches_by_both() {
    let privileges = Privileges { user_namespace: true, ..Privileges::DEFAULT };
    let want = build(Place::Pod(Privileges::DEFAULT)).tree();
    let build = on_busybox(Place::Pod(privileges), DOCKERFILE).file("f", "1");
    let ended = build.flag("--verify-snapshot=fail").run().succeeded();
    let watched = "RUN steps: ptrace (it works here), inotify where many programs may be started";
    assert!(ended.log.contains(watched), "{}", ended.log);
    assert_eq!(compare(&want, &ended.image().tree()), Vec::<String>::new());
}

/// Every time is fixed, so that layers of two builds can be equal to the byte.
const TIMELESS: &str = "FROM busybox
RUN mkdir -p /a/b && echo 1 > /a/b/c && rm -r /home/builder && \
    touch -d @1000000001 /a/b/c /a/b /a /home / /etc
RUN echo 2 > /a/b/c && chmod 600 /etc/passwd && touch -d @1000000002 /a/b/c /etc
";

#[test]
fn layers_do_not_depend_on_who_watches() {
    for place in PLACES {
        let layers = |flags: &[&str]| {
            let build =
                flags.iter().fold(on_busybox(place, TIMELESS), |build, flag| build.flag(*flag));
            let layers = build.image().layers;
            layers.into_iter().map(|layer| (layer.entries, layer.digest)).collect::<Vec<_>>()
        };
        let traced = layers(&["--run-tracer=ptrace"]);
        for flags in [
            &["--run-tracer=off"][..],
            &["--use-new-run=false"],
            &["--snapshot-mode=full"],
            &["--snapshot-mode=redo"],
            &["--snapshotMode=time"],
        ] {
            let found = layers(flags);
            for (found, traced) in found[1..].iter().zip(&traced[1..]) {
                assert_eq!(found, traced, "{place:?} {flags:?}");
            }
        }
    }
}

#[test]
fn a_step_cannot_see_the_executor_s_files_in_a_namespace() {
    let secret = tempfile::tempdir().unwrap();
    std::fs::write(secret.path().join("config.json"), "{}").unwrap();
    let path = secret.path().display();
    let dockerfile = format!(
        "FROM busybox\nRUN test ! -e {path} && test ! -e /kaniko && \
         ! readlink /proc/[0-9]*/exe | grep executor && ! env | grep DOCKER_CONFIG\n"
    );
    Build::of(&dockerfile)
        .base("busybox", base::busybox())
        .variable("DOCKER_CONFIG", path.to_string())
        .run()
        .succeeded();
}

#[test]
fn a_daemon_that_ignores_signals_is_dead_before_the_layer_is_taken() {
    let dockerfile = "FROM busybox\n\
        RUN (trap '' TERM HUP INT; while :; do echo x >> /growing; done) & \
            while ! test -s /growing; do :; done\n\
        RUN a=$(stat -c %s /growing); usleep 100000; test $a = $(stat -c %s /growing)\n";
    for place in PLACES {
        let image = on_busybox(place, dockerfile).flag("--verify-snapshot=fail").image();
        assert!(image.tree()["/growing"].size > 0, "{place:?}");
    }
}

#[test]
fn the_mounts_of_a_step_leave_no_trace() {
    for place in PLACES {
        let image =
            on_busybox(place, "FROM scratch AS x\nFROM busybox\nRUN true\nRUN rm -rf /etc/none\n");
        let names: Vec<String> = image.image().layers[1..].iter().flat_map(|l| l.names()).collect();
        assert_eq!(names, Vec::<String>::new(), "{place:?}");
    }
}

#[test]
fn a_build_in_place_cleans_up_when_asked_to() {
    let dockerfile = "FROM busybox AS x\nRUN mkdir -p /made/by/x\nFROM busybox\nRUN mkdir /srv\n";
    for (flag, left) in [("--cleanup=false", true), ("--cleanup", false)] {
        let place = Place::Pod(Privileges::DEFAULT);
        let ended = on_busybox(place, dockerfile).flag(flag).run().succeeded();
        ended.image();
        for name in ["bin", "home", "srv", "made"] {
            let there = ended.root.contains(&name.to_owned());
            assert_eq!(there, left && name != "made", "{flag} {name}: {:?}", ended.root);
        }
        assert!(ended.root.contains(&"kaniko".to_owned()), "{flag}: {:?}", ended.root);
    }
}
