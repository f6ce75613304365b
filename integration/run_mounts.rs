//! `RUN --mount`: seen by its step, kept where it is a cache, and in no layer.
//!
//! Every build here walks as well as it traces, and fails where the two differ.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

use nix::sys::signal::Signal;

use crate::base;
use crate::build_basic::{Facts, assert_facts, on_busybox};
use crate::executor::{Build, Ended, PLACES, Place, files_below};
use crate::image::Image;
use crate::pod::Privileges;
use crate::ssh_agent::Agent;
use crate::tools;

const POD: Place = Place::Pod(Privileges::DEFAULT);

fn build(place: Place, dockerfile: &str) -> Build {
    on_busybox(place, dockerfile).flag("--verify-snapshot=fail")
}

/// The names in all layers above the base.
fn changed(image: &Image) -> Vec<String> {
    let entries = image.layers[1..].iter().flat_map(|layer| &layer.entries);
    entries.map(|(path, _)| path.clone()).filter(|path| path != "/").collect()
}

/// Files of a context with owners, modes and links, and something that is ignored.
fn project(build: Build) -> Build {
    build
        .file("sub/file", "1")
        .file("sub/deep/x.sh", "#!/bin/sh\necho ran\n")
        .file("hidden", "no")
        .file(".dockerignore", "hidden\n")
        .context_by(|context| {
            let script = context.join("sub/deep/x.sh");
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            chown(&script, Some(7), Some(8)).unwrap();
            symlink("sub/file", context.join("link")).unwrap();
        })
}

/// Options of a mount of files, and a script that sees them. The working directory is `/work/dir`.
const FILES: &[(&str, &str)] = &[
    ("target=/new/place", "test $(cat /new/place/sub/file) = 1 && ! test -e /new/place/hidden"),
    ("target=/w", "test $(/w/sub/deep/x.sh) = ran"),
    ("target=/w", "test $(stat -c %u:%g:%a /w/sub/deep/x.sh) = 0:0:755"),
    ("target=/w", "test $(stat -c %u:%g:%a /w) = 0:0:755"),
    ("src=sub,dst=/home", "test -e /home/file && ! test -e /home/builder"),
    ("source=/sub/file,target=/etc/passwd", "test $(cat /etc/passwd) = 1"),
    ("source=link,target=/f", "test $(cat /f) = 1 && ! test -L /f"),
    ("source=sub,destination=relative", "test $(cat /work/dir/relative/file) = 1"),
    ("source=sub", "test $(cat /work/dir/file) = 1"),
    ("source=sub,target=/linked/x", "test $(cat /home/x/file) = 1"),
    ("source=${DIR},target=/$DIR-here", "test $(cat /sub-here/file) = 1"),
    ("source=sub,target=/w,rw", "echo 2 > /w/file && echo 3 > /w/new && rm -r /w/deep"),
    ("from=made,source=/d,target=/home", "test $(stat -c %u:%g /home/a) = 5:6"),
    ("from=made,source=/d,target=/home,rw", "rm -rf /home/* && echo 1 > /home/b"),
    ("from=made,source=/d,target=/home", "test $(cat /home/a) = a && ! test -e /home/b"),
    ("from=busybox,target=/other", "cmp /other/etc/group /etc/group"),
    ("from=named,target=/n", "test $(cat /n/x) = named && ! test -e /n/y"),
    ("from=scratch,target=/empty,rw", "test -z \"$(ls -A /empty)\" && echo 1 > /empty/x"),
    ("target=/a --mount=target=/a/sub,from=named", "test -e /a/sub/x && ! test -e /a/sub/file"),
    ("type=tmpfs,target=/t --mount=target=/t/b/c", "test -e /t/b/c/sub/file && echo 1 > /t/y"),
    ("target=/same --mount=from=named,target=/same", "test -e /same/x && ! test -e /same/sub"),
];

#[test]
fn files_are_seen_and_leave_no_trace() {
    let named = tempfile::tempdir().unwrap();
    for (name, content) in [("x", "named"), ("y", "ignored"), (".dockerignore", "y")] {
        fs::write(named.path().join(name), content).unwrap();
    }
    let mut dockerfile = "FROM busybox AS made\nRUN mkdir /d && echo a > /d/a && chown 5:6 /d/a\n\
        FROM busybox\nRUN ln -s home /linked && mkdir -p /work/dir\nENV DIR=sub\nWORKDIR /work/dir\n"
        .to_owned();
    for (options, script) in FILES {
        dockerfile += &format!("RUN --mount={options} {script}\n");
    }
    dockerfile += "RUN test $(stat -c %u:%g /home/builder) = 1000:1000 && ls -A /home /work/dir\n";
    for place in PLACES {
        for flag in ["--verify-snapshot=fail", "--run-tracer=off", "--run-tracer=inotify"] {
            let image = project(on_busybox(place, &dockerfile))
                .bring("named", named.path())
                .flags(["--build-context=named={named}", flag])
                .image();
            let names = changed(&image);
            assert_eq!(names, ["/linked", "/work", "/work/dir"], "{place:?} {flag}");
        }
    }
}

#[test]
fn what_was_at_the_target_is_there_again() {
    let dockerfile = "FROM busybox AS made\n\
        RUN mkdir -p /d/e /only/dir && echo 1 > /d/a && ln /d/a /d/e/b && ln -s a /d/l && \
            chown 5:6 /d/e && chmod 1750 /d && touch -d @1000000001 /d/a /d/e /d / && mkfifo /d/p\n\
        FROM made\n\
        RUN --mount=type=tmpfs,target=/d touch /d/x\n\
        RUN --mount=type=cache,target=/d/e touch /d/e/x\n\
        RUN --mount=target=/d/a,source=Dockerfile test -s /d/a\n\
        RUN --mount=type=tmpfs,target=/d --mount=target=/d/e touch /d/x && rm -rf /d/y\n\
        RUN --mount=type=tmpfs,target=/only/dir/x/y --mount=type=tmpfs,target=/root true\n\
        RUN --mount=type=tmpfs,target=/d mkdir /d/x /after\n";
    for place in PLACES {
        for flag in ["--verify-snapshot=fail", "--snapshot-mode=full"] {
            let image = on_busybox(place, dockerfile).flag(flag).image();
            let made: Vec<String> = image.layers[2..]
                .iter()
                .flat_map(|layer| &layer.entries)
                .map(|(path, _)| path.clone())
                .collect();
            assert_eq!(made.last().map(String::as_str), Some("/after"), "{place:?} {flag}");
            assert!(made.len() == 1 || made == ["/", "/after"], "{place:?} {flag}: {made:?}");
        }
    }
}

#[test]
fn a_cache_is_kept_from_step_to_step_and_from_build_to_build() {
    let dockerfile = "FROM busybox AS seed\nRUN mkdir /s && echo seed > /s/seed\n\
        FROM busybox\nARG COUNT\n\
        RUN --mount=type=cache,target=/c echo $COUNT >> /c/count\n\
        RUN --mount=type=cache,target=/other,id=/c cat /other/count > /result\n\
        RUN --mount=type=cache,target=/ro,id=/c,ro cat /ro/count && (echo no > /ro/no || true)\n\
        RUN --mount=type=cache,target=/c ! test -e /c/no\n\
        RUN --mount=type=cache,target=/own,mode=0770,uid=5,gid=6 \
            test $(stat -c %u:%g:%a /own) = 5:6:770\n\
        RUN --mount=type=cache,target=/s,from=seed,source=/s,sharing=locked \
            test $(cat /s/seed) = seed && echo $COUNT >> /s/more && cat /s/more > /seeded\n\
        RUN --mount=type=cache,target=/p,sharing=private echo $COUNT >> /p/n && cat /p/n > /private\n\
        RUN --mount=type=cache,target=/c ! test -e /c/x && ls / | grep -c '^c$'\n\
        RUN ! test -e /c && ! test -e /s && ! test -e /p\n";
    for place in PLACES {
        let caches = tempfile::tempdir().unwrap();
        let run = |count: &str, flag: &str| {
            build(place, dockerfile)
                .share("caches", caches.path())
                .flags([&format!("--build-arg=COUNT={count}"), flag])
                .image()
        };
        for (count, want) in [("1", "\"1\\n\""), ("2", "\"1\\n2\\n\"")] {
            let image = run(count, "--cache-dir={caches}");
            let tree = image.tree();
            for path in ["/result", "/seeded", "/private"] {
                let found = tree[path].content.as_deref();
                assert_eq!(found, Some(want), "{place:?} {count} {path}");
            }
            assert_eq!(changed(&image), ["/result", "/seeded", "/private"], "{place:?}");
        }
        // In the executor's own directory a cache lasts as long as that.
        let image = run("3", "--cache-dir=");
        assert_eq!(image.tree()["/result"].content.as_deref(), Some("\"3\\n\""), "{place:?}");
    }
}

#[test]
fn a_namespace_of_caches_has_caches_of_its_own() {
    let caches = tempfile::tempdir().unwrap();
    let dockerfile =
        "FROM busybox\nRUN --mount=type=cache,target=/c echo 1 >> /c/n && cat /c/n > /result\n";
    for (namespace, want) in [("", "\"1\\n\""), ("a", "\"1\\n\""), ("a", "\"1\\n1\\n\"")] {
        let tree = build(Place::Host, dockerfile)
            .share("caches", caches.path())
            .flag("--cache-dir={caches}")
            .flag(format!("--build-arg=BUILDKIT_CACHE_MOUNT_NS={namespace}"))
            .image()
            .tree();
        assert_eq!(tree["/result"].content.as_deref(), Some(want), "{namespace}");
    }
}

#[test]
fn a_failed_step_keeps_its_cache_and_leaves_its_mounts_nowhere() {
    let caches = tempfile::tempdir().unwrap();
    for place in PLACES {
        let failing = "FROM busybox\nRUN mkdir /c && echo image > /c/image\n\
            RUN --mount=type=cache,target=/c echo kept > /c/kept; exit 3\n";
        let ended =
            build(place, failing).share("caches", caches.path()).flag("--cache-dir={caches}").run();
        ended.refused(3, &["Dockerfile:3"]);
        let next = "FROM busybox\nRUN --mount=type=cache,target=/c rm /c/kept && ! ls /c/image\n";
        build(place, next).share("caches", caches.path()).flag("--cache-dir={caches}").image();
    }
}

#[test]
fn a_tmpfs_is_empty_and_forgotten() {
    let dockerfile = "FROM busybox\nUSER builder\n\
        RUN --mount=type=tmpfs,target=/home,size=64k test -z \"$(ls -A /home)\" && \
            test $(stat -c %a /home) = 1777 && echo 1 > /home/x\n\
        RUN --mount=type=tmpfs,target=/home ! test -e /home/x && ! test -e /home/builder\n\
        RUN test -e /home/builder && ! test -e /home/x\n";
    for place in PLACES {
        let ended = build(place, dockerfile).run().succeeded();
        assert_eq!(changed(&ended.image()), Vec::<String>::new(), "{place:?}");
        assert_eq!(ended.log.contains("65536 bytes"), place == POD, "{}", ended.log);
    }
    let limited = "FROM busybox\nRUN --mount=type=tmpfs,target=/t,size=64k \
        ! dd if=/dev/zero of=/t/x bs=1k count=100 2> /dev/null && mount | grep -q ' /t type tmpfs '\n\
        RUN --mount=type=tmpfs,target=/t,ro ! touch /t/x\n\
        RUN --mount=target=/ro ! touch /ro/x\n\
        RUN --mount=type=tmpfs,target=/dev/shm,size=4k ! dd if=/dev/zero of=/dev/shm/x bs=1k count=9\n\
        RUN --mount=type=tmpfs,target=/dev/new/dir touch /dev/new/dir/x\n";
    build(Place::Host, limited).image();
}

/// A canary that nothing may show.
const SECRET: &str = "c4n4ry-5f2d";

/// Fails where the canary is in the image, the log or anything that a build left.
fn assert_kept(case: &str, ended: &Ended) {
    assert!(!ended.log.contains(SECRET), "{case}: {}", ended.log);
    let left: Vec<String> =
        ended.leftovers().into_iter().filter(|path| path.starts_with("in ")).collect();
    assert_eq!(left, Vec::<String>::new(), "{case}");
    let image = ended.image();
    assert!(!image.config.to_string().contains(SECRET), "{case}: {}", image.config);
    for (path, entry) in image.layers.iter().flat_map(|layer| &layer.entries) {
        let holds = entry.content.as_ref().is_some_and(|text| text.contains(SECRET));
        assert!(!holds, "{case}: {path}");
    }
}

#[test]
fn secrets_reach_their_step_and_nothing_else() {
    let dockerfile = format!(
        "FROM busybox\nENV TOKEN=image\nRUN echo old > /etc/token && mkdir /root/.aws && \
            echo old > /root/.aws/credentials && ln -s /etc/token /link\n\
        RUN --mount=type=secret,id=a test $(stat -c %u:%g:%a /run/secrets/a) = 0:0:400 && \
            test $(head -c 6 /run/secrets/a) = c4n4ry && test $(wc -c < /run/secrets/a) = {length}\n\
        RUN ! test -e /run\n\
        RUN --mount=type=secret,id=a,target=/root/.aws/credentials,uid=1000,gid=5,mode=0440 \
            test $(stat -c %u:%g:%a /root/.aws/credentials) = 1000:5:440\n\
        RUN --mount=type=secret,target=/link,id=a grep -q c4n4ry /etc/token && test -L /link\n\
        RUN test $(cat /link) = old\n\
        RUN --mount=type=secret,id=v,env=TOKEN test $(echo $TOKEN | head -c 6) = c4n4ry && \
            ! test -e /run/secrets/v\n\
        RUN --mount=type=secret,id=v,env=BOTH,target=both test $(cat /both) = $BOTH\n\
        RUN --mount=type=secret,target=/x/a grep -q c4n4ry /x/a\n\
        RUN --mount=type=secret,id=none --mount=type=secret,id=none,env=NONE \
            ! test -e /run/secrets/none && test -z \"$NONE\" && env | grep -q '^NONE='\n\
        RUN test $TOKEN = image && ! env | grep c4n4ry\n\
        USER builder\nRUN --mount=type=secret,id=a,mode=0444,target=/run/secrets/a,env=A cat /run/secrets/a > /dev/null\n",
        length = SECRET.len()
    );
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("a"), SECRET).unwrap();
    for place in PLACES {
        for tracer in ["auto", "off"] {
            let ended = on_busybox(place, &dockerfile)
                .bring("home", home.path())
                .variable("CANARY", SECRET)
                .flags(["--secret=id=a,src={home}/a", "--secret=id=v,env=CANARY", "-v=trace"])
                .canary(SECRET)
                .flag(format!("--run-tracer={tracer}"))
                .run()
                .succeeded();
            let image = ended.image();
            assert_kept(&format!("{place:?} {tracer}"), &ended);
            let want =
                ["/etc", "/etc/token", "/link", "/root", "/root/.aws", "/root/.aws/credentials"];
            let names = changed(&image);
            assert_eq!(names, want, "{place:?} {tracer}");
            let facts: Facts<'_> = &[
                ("/root/.aws/credentials", "- 0644 0:0 4 \"old\\n\""),
                ("/etc/token", "- 0644 0:0 4 \"old\\n\""),
            ];
            assert_facts(&format!("{place:?}"), &image.tree(), facts);
        }
    }
}

#[test]
fn a_step_in_place_cannot_take_a_secret_along() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("a"), SECRET).unwrap();
    for script in [
        "mv /run/secrets/a /home/kept",
        "ln /run/secrets/a /home/kept",
        "mv /run/secrets /home/kept",
        "mv /run /home/kept",
        "rm /run/secrets/a; mkdir /run/secrets/a; touch /run/secrets/a/x",
        "rm -rf /run; touch /home/other",
    ] {
        let dockerfile = format!("FROM busybox\nRUN --mount=type=secret,id=a {script}\n");
        let ended = build(POD, &dockerfile)
            .bring("home", home.path())
            .flag("--secret=id=a,src={home}/a")
            .canary(SECRET)
            .run()
            .succeeded();
        assert_kept(script, &ended);
        let tree = ended.image().tree();
        let other = script.contains("other");
        assert_eq!(tree.contains_key("/home/other"), other, "{script}");
    }
}

/// Options that are refused, and the words that say why.
type Refusals<'a> = &'a [(&'a str, &'a [&'a str])];

/// Refused before anything is mounted or moved.
const REFUSED: Refusals<'_> = &[
    ("type=secret,id=a,required", &["the secret \"a\"", "--secret=id=a,src=FILE"]),
    ("type=ssh,required", &["the SSH agent \"default\"", "--ssh=default"]),
    ("target=/", &["the target cannot be /"]),
    ("source=none,target=/x", &["RUN --mount at /x: /none: not found in the build context"]),
    ("source=hidden,target=/x", &["/hidden: excluded by .dockerignore"]),
    ("from=later,target=/x", &["--from=later names a stage that begins later"]),
    ("type=cache,target=/c,source=/sub", &["there is no /sub in the cache \"/c\""]),
    ("type=bint,target=/x", &["unsupported mount type `bint`", "did you mean bind?"]),
    ("type=tmpfs,target=/x,mode=1", &["mode is not allowed for a tmpfs mount"]),
    ("type=ssh,source=x", &["a ssh mount has no `source`"]),
    ("from=scratch,source=x,target=/x", &["there is no /x in scratch"]),
    ("source=.,target=/x --mount=type=cache,target=/x/new", &["/x/new", "read-only", "rw"]),
];

/// Refused where it is put.
const MISPLACED: Refusals<'_> = &[
    ("source=Dockerfile,target=/home", &["RUN --mount at /home", "directory"]),
    ("target=/etc/passwd", &["RUN --mount at /etc/passwd", "directory"]),
    ("type=tmpfs,target=/proc/x", &["RUN --mount at /proc/x", "/proc"]),
];

fn assert_refused(place: Place, refusals: Refusals<'_>) {
    for (options, words) in refusals {
        let dockerfile =
            format!("FROM busybox\nRUN --mount={options} true\nFROM busybox AS later\n");
        let ended = build(place, &dockerfile)
            .file("hidden", "")
            .file(".dockerignore", "hidden")
            .flag("--target=0")
            .run();
        ended.refused_in_words(words);
        ended.refused_in_words(&["Dockerfile:2"]);
    }
}

#[test]
fn what_is_wrong_with_a_mount_is_told() {
    assert_refused(Place::Host, REFUSED);
    assert_refused(Place::Host, MISPLACED);
    assert_refused(POD, MISPLACED);
    let twice = "type=cache,id=a,target=/x --mount=type=cache,id=a,target=/y";
    assert_refused(POD, &[(twice, &["at one target only"])]);
    for place in PLACES {
        let dockerfile = "FROM busybox\nRUN --mount=type=cache,target=/c ln -s /etc /c/sub\n\
            RUN --mount=type=cache,id=/c,source=sub,target=/s ls /s\n";
        build(place, dockerfile).run().refused_in_words(&["Dockerfile:3", "no /sub in the cache"]);
    }
    build(Place::Host, &format!("FROM busybox\nRUN --mount={twice} touch /x/f && ls /y/f\n"))
        .image();
}

#[test]
fn a_trigger_mounts_from_a_stage_of_the_one_that_builds_on_it() {
    let home = tempfile::tempdir().unwrap();
    let trigger = "FROM busybox\nONBUILD RUN --mount=from=assets,target=/a cp /a/file /got\n\
        ONBUILD COPY --from=assets /file /copied\n";
    let ended = build(Place::Host, trigger).run().succeeded();
    let layout = home.path().join("layout");
    tools::run("cp", ["-a".as_ref(), ended.out("image").as_os_str(), layout.as_os_str()]);
    let index = fs::read_to_string(layout.join("index.json")).unwrap();
    let tag = index.split("ref.name\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let tag = tag.map(|tag| format!(":{tag}")).unwrap_or_default();
    for place in PLACES {
        let image = Build::of("FROM scratch AS assets\nCOPY file /file\nFROM trigger\n")
            .file("file", "1")
            .bring("trigger", &layout)
            .flag(format!("--build-context=trigger=oci-layout://{{trigger}}{tag}"))
            .place(place)
            .image();
        let tree = image.tree();
        for path in ["/got", "/copied"] {
            assert_eq!(tree[path].content.as_deref(), Some("\"1\""), "{place:?} {path}");
        }
    }
}

#[test]
fn no_network_is_kept_or_refused() {
    let dockerfile = "FROM busybox\nRUN --network=host true\nRUN --network=default true\n\
        RUN --network=none test $(ls /sys/class/net | tr '\\n' ' ' | wc -w) = 1 && \
            ping -c 1 127.0.0.1 > /dev/null\n";
    build(Place::Host, dockerfile).image();
    build(POD, dockerfile).run().refused(1, &["RUN --network=none cannot be kept in place"]);
}

/// Sends what its argument says in hexadecimal digits to `$SSH_AUTH_SOCK`, and prints the answer so.
const ASK: &str = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n\
    #include <sys/socket.h>\n#include <sys/un.h>\n#include <unistd.h>\n\
    int main(int argc, char **argv) {\n\
        struct sockaddr_un to = { .sun_family = AF_UNIX };\n\
        unsigned byte, count = 0;\n\
        unsigned char bytes[4096];\n\
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);\n\
        if (argc != 2 || !getenv(\"SSH_AUTH_SOCK\")) return 2;\n\
        strncpy(to.sun_path, getenv(\"SSH_AUTH_SOCK\"), sizeof to.sun_path - 1);\n\
        if (connect(fd, (struct sockaddr *)&to, sizeof to)) return 3;\n\
        for (char *at = argv[1]; sscanf(at, \"%2x\", &byte) == 1; at += 2) bytes[count++] = byte;\n\
        if (write(fd, bytes, count) != count) return 4;\n\
        ssize_t got = read(fd, bytes, sizeof bytes);\n\
        for (ssize_t i = 0; i < got; i++) printf(\"%02x\", bytes[i]);\n\
        return got > 0 ? 0 : 5;\n\
    }\n";

#[test]
fn an_agent_lists_and_signs_and_does_nothing_else() {
    let agent = Agent::start();
    let program = agent.home().join("ask");
    fs::write(program.with_extension("c"), ASK).unwrap();
    let compiled = [program.with_extension("c"), "-o".into(), program.clone(), "-static".into()];
    tools::run("gcc", compiled);
    let (list, sign) =
        ("000000010b", format!("000000440d{:08x}{}000000040102030400000000", 51, agent.key()));
    let dockerfile = format!(
        "FROM busybox\nCOPY ask /bin/ask\n\
        RUN --mount=type=ssh test $(stat -c %u:%g:%a $SSH_AUTH_SOCK) = 0:0:600 && \
            test $SSH_AUTH_SOCK = /run/buildkit/ssh_agent.0 && ask {list} | grep -q {key}\n\
        RUN --mount=type=ssh,id=default ask {sign} | grep -q '^........0e'\n\
        RUN --mount=type=ssh test $(ask 0000000113) = 0000000105\n\
        RUN --mount=type=ssh,id=other,target=/s,uid=1000,mode=0666,required \
            test $(stat -c %u:%a /s) = 1000:666 && test $SSH_AUTH_SOCK = /s && ask {list}\n\
        RUN --mount=type=ssh,id=key ask {list} | grep -q {key} && ask {sign} | grep -q '^........0e'\n\
        RUN --mount=type=ssh,id=none ! test -e /run\n\
        RUN ! test -e /run && ! test -e /s && test -z \"$SSH_AUTH_SOCK\"\n",
        key = agent.key(),
    );
    for place in PLACES {
        let image = build(place, &dockerfile)
            .bring("agent", agent.home())
            .context_by(|context| {
                fs::copy(&program, context.join("ask")).unwrap();
            })
            .variable("SSH_AUTH_SOCK", "{agent}/socket")
            .flags(["--ssh=default", "--ssh=other={agent}/socket", "--ssh=key={agent}/key"])
            .image();
        assert_eq!(changed(&image), ["/bin", "/bin/ask"], "{place:?}");
        let listed = agent.command("ssh-add").arg("-l").output().unwrap();
        assert!(String::from_utf8_lossy(&listed.stdout).contains("ED25519"), "{place:?}");
    }
}

#[test]
fn a_signal_takes_the_mounts_back() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("a"), SECRET).unwrap();
    let dockerfile = "FROM busybox\n\
        RUN --mount=type=secret,id=a,target=/etc/group --mount=type=secret,id=a,env=A \
            --mount=type=cache,target=/home --mount=type=secret,id=a,target=/home/deep/a \
            echo kept > /home/kept; touch /home/deep/b; echo begun-$((40+2)); sleep 1000\n";
    for place in PLACES {
        let caches = tempfile::tempdir().unwrap();
        let mut running = on_busybox(place, dockerfile)
            .bring("home", home.path())
            .share("caches", caches.path())
            .flags(["--secret=id=a,src={home}/a", "--cache-dir={caches}"])
            .canary(SECRET)
            .start();
        running.until("begun-42");
        running.signal(Signal::SIGTERM);
        let ended = running.end();
        ended.refused(143, &["signal 15"]);
        assert!(!ended.log.contains(SECRET), "{}", ended.log);
        if place == Place::Host {
            let kept = files_below(caches.path());
            assert!(kept.iter().any(|path| path.ends_with("/0/kept")), "{kept:?}");
        }
        let kept = fs::read_dir(caches.path().join("mounts")).unwrap().next().unwrap().unwrap();
        assert!(kept.path().join("0").is_dir(), "{place:?}");
    }
}

#[test]
fn a_locked_cache_is_used_by_one_build_after_the_other() {
    let shared = tempfile::tempdir().unwrap();
    let dockerfile = |script: &str| {
        format!("FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked {script}\n")
    };
    for place in PLACES {
        // A build in place has a copy of its own, and sees other directories that are mounted.
        let go = match place {
            Place::Host => "/c/go",
            Place::Pod(_) => "/brought/shared/go",
        };
        let first = format!(
            "echo 1 > /c/first; echo begun-$((40+2)); while ! test -e {go}; do usleep 1000; done"
        );
        let with = |script: &str| {
            on_busybox(place, &dockerfile(script))
                .share("shared", shared.path())
                .flag("--cache-dir={shared}/caches")
        };
        let mut holds = with(&first).start();
        holds.until("begun-42");
        let mut waits = with("rm /c/first").start();
        waits.until("Waiting for the cache \"/c\"");
        let cache = fs::read_dir(shared.path().join("caches/mounts")).unwrap();
        let cache = cache.map(|entry| entry.unwrap().path().join("0")).next().unwrap();
        let go = match place {
            Place::Host => cache.join("go"),
            Place::Pod(_) => shared.path().join("go"),
        };
        fs::write(&go, "").unwrap();
        holds.end().succeeded();
        waits.end().succeeded();
        fs::remove_file(&go).unwrap();
        fs::remove_dir_all(shared.path().join("caches")).unwrap();
    }
}

#[test]
fn apt_downloads_once() {
    let caches = "--mount=type=cache,target=/var/cache/apt,sharing=locked \
        --mount=type=cache,target=/var/lib/apt,sharing=locked";
    let install = "apt-get install -y --no-install-recommends";
    let dockerfile = format!(
        "FROM debian\nENV DEBIAN_FRONTEND=noninteractive\n\
        RUN {caches} apt-get update && {install} bc && ls /var/cache/apt/archives/*.deb\n\
        RUN dpkg --purge bc && ! ls /var/cache/apt/archives/*.deb\n\
        RUN {caches} {install} --no-download bc && echo 6*7 | bc > /said\n"
    );
    for place in PLACES {
        let image = Build::of(&dockerfile)
            .base("debian", base::debian())
            .place(place)
            .flag("--verify-snapshot=fail")
            .image();
        assert_facts(&format!("{place:?}"), &image.tree(), &[("/said", "- 0644 0:0 3 \"42\\n\"")]);
        let names = changed(&image);
        let apt: Vec<&String> = names.iter().filter(|path| path.contains("/apt/")).collect();
        assert!(apt.iter().all(|path| path.starts_with("/var/log/")), "{place:?}: {apt:?}");
        assert!(names.iter().any(|path| path == "/usr/bin/bc"), "{place:?}");
    }
}
