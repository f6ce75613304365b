//! One Dockerfile with a bit of everything, built on a host and in a pod to the same image. What each bit means
//! in all its forms is told elsewhere, by `testdata/builds` for the most part.

use std::fs;
use std::path::Path;

use crate::base;
use crate::build_basic::{Facts, assert_facts};
use crate::craft::Layer;
use crate::executor::{Build, PLACES, Place};
use crate::git::{Login, Repository, Server};
use crate::image::{Image, compare};
use crate::registry::{Access, Registry};
use crate::tools;
use crate::web::{Answer, Web};

/// With `WEB`, `GIT` and `REGISTRY` in the place of servers.
const DOCKERFILE: &str = r#"# syntax=docker/dockerfile:1
# check=skip=all
ARG PART=sy
ARG IMAGE=bu${PART}box

FROM --platform=$BUILDPLATFORM ${IMAGE} AS Tools
ARG TARGETPLATFORM BUILDPLATFORM TARGETSTAGE
RUN mkdir /tools && test $TARGETPLATFORM = $BUILDPLATFORM && echo $TARGETSTAGE > /tools/stage
ONBUILD COPY --from=LATE /raw /triggered
ONBUILD RUN --mount=from=late,target=/m cat /m/cooked > /trigger

FROM scratch AS late
ENV X=x
COPY <<-"raw" <<cooked /
	$X stays
	raw
${X:+y} goes
cooked

FROM unused.example/none AS unused
RUN exit 9

FROM tools AS result
MAINTAINER somebody
SHELL ["/bin/sh", "-e", "-c"]
ARG GIVEN WORD=default NEVER
ENV A=${GIVEN:-no} B=${NEVER:-no}${NEVER-unset} C=${WORD:+set}${WORD+set} D=${WORD:?no}${WORD?no} \
    # in the middle
    E=${WORD#d*f}${WORD##*a} F=${WORD%u*t}${WORD%%f*} G=${WORD/f/F}${WORD//f/_} H='$A' I=\$A
ENV WORD=later
ARG WORD
LABEL a="$A" "b c"=$WORD
EXPOSE 80 53/udp 9/sctp 1000-1001
VOLUME ["/data"]
WORKDIR /work
WORKDIR rel
USER builder
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --timeout=3s --start-period=2s --start-interval=1s --retries=4 CMD true
RUN echo $(id -un) $PWD $no_proxy > /tmp/who
USER root
COPY --chown=builder:extra --chmod=u=rwX,go= d /copied
COPY --parents --exclude=**/*.no d/./deep /parents/
COPY --link d/f /linked/
COPY --from=named . /named
COPY --from=repository sub/only /repository
COPY --from=image /etc/group /groups
COPY --from=REGISTRY/base:1 /etc/group /same
RUN --mount=from=REGISTRY/base:1,target=/i cmp /i/etc/group /groups && cmp /same /groups
COPY --from=0 --chmod=600 /tools/stage /
ADD --checksum=sha256:982d9e3eb996f559e633f4d194def3761d909f5a3b647d1a851fead67c32c9d1 --chmod=640 WEB/text /text
ADD --unpack=true WEB/files.tar /unpacked/
ADD --chown=3:4 GIT#v1:sub /git
ADD GIT?tag=v1&subdir=sub /query
ADD a.tar b.tar.gz c.tar.bz2 d.tar.xz e.tar.zst /archives/
ADD --unpack=false a.tar /packed/
RUN --network=host --security=sandbox <<EOF
echo one > /script
test "$WORD" = later && echo two >> /script
EOF
RUN <<EOF cat > /piped
three
EOF
RUN --mount=source=d,target=/m,rw --mount=from=named,target=/n --mount=from=tools,source=/tools,target=/o \
    --mount=type=cache,id=c,target=/c,uid=5,gid=6,mode=0700,sharing=locked \
    --mount=type=tmpfs,target=/t,size=1m --mount=type=secret,id=s,env=S,target=/s,uid=7,mode=0440,required \
    echo 1 > /m/f; echo 1 > /t/x; \
    echo $(cat /m/f /n/x) $(stat -c %u:%g:%a /c /s) ${#S} $(cat /o/stage) > /seen
ENTRYPOINT ["/bin/run"]
CMD run $A
ONBUILD RUN later
"#;

const FACTS: Facts<'_> = &[
    ("/triggered", "- 0644 0:0 9 \"$X stays\\n\""),
    ("/trigger", "- 0644 0:0 7 \"y goes\\n\""),
    ("/tools/stage", "- 0644 0:0 7 \"RESULT\\n\""),
    ("/stage", "- 0600 0:0 7 \"RESULT\\n\""),
    ("/work/rel", "d 0755 0:0 0"),
    ("/tmp/who", "- 0644 1000:1000 31 \"builder /work/rel host.example\\n\""),
    ("/copied/f", "- 0600 1000:2000 4 \"file\""),
    ("/copied/deep", "d 0700 1000:2000 0"),
    ("/parents/deep/yes", "- 0644 0:0 3 \"yes\""),
    ("/parents/deep/x.no", ""),
    ("/linked/f", "- 0644 0:0 4 \"file\""),
    ("/named/x", "- 0644 0:0 5 \"named\""),
    ("/named/ignored", ""),
    ("/repository", "- 0644 0:0 3 \"sub\""),
    ("/text", "- 0640 0:0 4 \"text\""),
    ("/unpacked/a", "- 0644 5:6 1 \"a\""),
    ("/git/only", "- 0644 3:4 3 \"sub\""),
    ("/query/only", "- 0644 0:0 3 \"sub\""),
    ("/archives/a", "- 0644 5:6 1 \"a\""),
    ("/archives/b", "- 0644 5:6 1 \"b\""),
    ("/archives/c", "- 0644 5:6 1 \"c\""),
    ("/archives/d", "- 0644 5:6 1 \"d\""),
    ("/archives/e", "- 0644 5:6 1 \"e\""),
    ("/script", "- 0644 0:0 8 \"one\\ntwo\\n\""),
    ("/piped", "- 0644 0:0 6 \"three\\n\""),
    ("/seen", "- 0644 0:0 33 \"1 named 5:6:700 7:0:440 6 RESULT\\n\""),
    ("/m", ""),
    ("/c", ""),
    ("/s", ""),
];

const VARIABLES: &[&str] = &[
    "A=g",
    "B=nounset",
    "C=setset",
    "D=defaultdefault",
    "E=aultult",
    "F=defade",
    "G=deFaultde_ault",
    "H=$A",
    "I=$A",
    "WORD=later",
];

const SETTINGS: &[(&str, &str)] = &[
    ("Labels", r#"{"a":"g","b c":"later"}"#),
    ("ExposedPorts", r#"{"1000/tcp":{},"1001/tcp":{},"53/udp":{},"80/tcp":{},"9/sctp":{}}"#),
    ("Volumes", r#"{"/data":{}}"#),
    ("StopSignal", r#""SIGINT""#),
    ("Shell", r#"["/bin/sh","-e","-c"]"#),
    ("Entrypoint", r#"["/bin/run"]"#),
    ("Cmd", r#"["/bin/sh","-e","-c","run $A"]"#),
    ("OnBuild", r#"["RUN later"]"#),
    ("User", r#""root""#),
    ("WorkingDir", r#""/work/rel""#),
    ("ArgsEscaped", "true"),
];

/// An archive of one file of this name, packed by this program.
fn packed(dir: &Path, name: &str, program: Option<&str>) -> Vec<u8> {
    let dir = dir.join(format!("packed-{name}"));
    fs::create_dir(&dir).unwrap();
    let plain = dir.join("a.tar");
    fs::write(&plain, Layer::new().owner(5, 6).file(name, name).tar()).unwrap();
    let Some(program) = program else { return fs::read(plain).unwrap() };
    tools::run(program, ["-f", plain.to_str().unwrap()]);
    let mut made = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    fs::read(made.find(|path| *path != plain).unwrap()).unwrap()
}

/// A project, and what its Dockerfile takes from elsewhere.
struct Project {
    home: tempfile::TempDir,
    archives: Vec<(&'static str, Vec<u8>)>,
    web: Web,
    git: Server,
    registry: Registry,
}

impl Project {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let pack = |name: &str, program| packed(home.path(), name, program);
        let archives = vec![
            ("a.tar", pack("a", None)),
            ("b.tar.gz", pack("b", Some("gzip"))),
            ("c.tar.bz2", pack("c", Some("bzip2"))),
            ("d.tar.xz", pack("d", Some("xz"))),
            ("e.tar.zst", pack("e", Some("zstd"))),
        ];
        let files = archives[0].1.clone();
        let web = Web::start(move |request| match request.path.as_str() {
            "/text" => Answer::of(200, "text"),
            _ => Answer::of(200, files.clone()),
        });
        let repository = Repository::new(home.path(), "app");
        repository.commit(&[("sub/only", "sub"), ("other", "x")]);
        repository.git(&["tag", "v1"]);
        repository.push();
        let git = Server::web(home.path(), Login::Open);
        let named = home.path().join("named");
        fs::create_dir(&named).unwrap();
        for (name, text) in [("x", "named"), ("ignored", "x"), (".dockerignore", "ignored\n")] {
            fs::write(named.join(name), text).unwrap();
        }
        fs::write(home.path().join("secret"), "secret").unwrap();
        let registry = Registry::start(Access::Plain);
        registry.push(&base::busybox(), base::TAG, "base:1", None);
        Self { home, archives, web, git, registry }
    }

    fn build(&self, place: Place) -> Image {
        let repository = format!("http://{}/app.git", self.git.address());
        let dockerfile = DOCKERFILE
            .replace("WEB", self.web.url("/").trim_end_matches('/'))
            .replace("REGISTRY", self.registry.address())
            .replace("GIT", &repository);
        let build = Build::of(&dockerfile)
            .base("busybox", base::busybox())
            .place(place)
            .bring("named", self.home.path().join("named"))
            .bring("secret", self.home.path().join("secret"))
            .flags(["--build-context=named={named}", "--secret=id=s,src={secret}"])
            .flags(["--build-arg=GIVEN=g", "--build-arg=no_proxy=host.example", "--target=RESULT"])
            .flag(format!("--build-context=repository={repository}#v1"))
            .flag(format!(
                "--build-context=image=docker-image://{}",
                self.registry.reference("base:1")
            ))
            .flag("--verify-snapshot=fail")
            .file("d/f", "file")
            .file("d/deep/yes", "yes")
            .file("d/deep/x.no", "no");
        let archives = self.archives.iter();
        archives.fold(build, |build, (name, bytes)| build.file(name, bytes)).image()
    }
}

#[test]
fn a_bit_of_everything_is_the_same_image_everywhere() {
    let project = Project::new();
    let [host, pod] = PLACES.map(|place| project.build(place));
    for (place, image) in [("host", &host), ("pod", &pod)] {
        assert_facts(place, &image.tree(), FACTS);
        let config = &image.config["config"];
        for want in VARIABLES {
            let env = config["Env"].as_array().unwrap();
            assert!(env.contains(&(*want).into()), "{place}: {want} in {env:?}");
        }
        for (name, want) in SETTINGS {
            assert_eq!(config[name].to_string(), *want, "{place}: {name}");
        }
        assert_eq!(config["Healthcheck"]["StartInterval"], 1_000_000_000, "{place}");
        assert_eq!(image.config["author"], "somebody", "{place}");
        assert!(!image.config.to_string().contains("host.example"), "{place}");
    }
    assert_eq!(compare(&host.tree(), &pod.tree()), Vec::<String>::new());
    assert_eq!(host.config["config"], pod.config["config"]);
    assert_eq!(host.history(), pod.history());
}
