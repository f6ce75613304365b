//! Build contexts from elsewhere: archives in files, on standard input and on the web.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use crate::base;
use crate::build_basic::assert_facts;
use crate::craft::Layer;
use crate::executor::{Build, PLACES, Place};
use crate::registry::write_certificates;
use crate::tools;
use crate::web::{Answer, Request, Web};

const DOCKERFILE: &str = "FROM busybox\nCOPY . /got/\nRUN test ! -e /got/left-out\n";

/// What every image of [`DOCKERFILE`] has to hold.
const FACTS: &[(&str, &str)] = &[
    ("/got/file", "- 0640 0:0 4 \"text\""),
    ("/got/sub/link", "l 0777 0:0 0 -> ../file"),
    ("/got/left-out", ""),
];

/// A directory, and in it the files of a project in `project`.
fn project() -> (TempDir, PathBuf) {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("project");
    let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
    fs::create_dir_all(dir.join("sub")).unwrap();
    write("Dockerfile", DOCKERFILE);
    write(".dockerignore", "left-out\n");
    write("left-out", "x");
    write("file", "text");
    write("sub/Dockerfile", "FROM busybox\nCOPY only /got/file\n");
    write("sub/only", "sub");
    std::os::unix::fs::symlink("../file", dir.join("sub/link")).unwrap();
    fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o640)).unwrap();
    (home, dir)
}

/// The project as an archive of its own directory, packed by this program.
fn packed(dir: &Path, program: Option<&str>) -> PathBuf {
    let archive = dir.with_extension("tar");
    let (archive_text, dir_text) = (archive.to_str().unwrap(), dir.to_str().unwrap());
    tools::run("tar", ["-C", dir_text, "--owner=1234", "--group=1234", "-cf", archive_text, "."]);
    if let Some(program) = program {
        tools::run(program, ["-f", archive_text]);
        let mut found = fs::read_dir(dir.parent().unwrap()).unwrap().map(|it| it.unwrap().path());
        let stem = format!("{}.", archive.file_name().unwrap().to_str().unwrap());
        return found
            .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&stem))
            .unwrap_or_else(|| panic!("{program} made no file"));
    }
    archive
}

/// A build on busybox whose context the test names; the place `{context}` stays empty.
fn build(place: Place) -> Build {
    Build::bare()
        .flag("--no-push")
        .flag("--oci-layout-path={out}/image")
        .base("busybox", base::busybox())
        .place(place)
}

#[test]
fn archives_packed_by_any_program() {
    for program in [None, Some("gzip"), Some("zstd"), Some("xz"), Some("bzip2")] {
        let (_home, dir) = project();
        let archive = packed(&dir, program);
        let built = build(Place::Host).bring("archive", archive).flag("--context=tar://{archive}");
        assert_facts(&format!("{program:?}"), &built.image().tree(), FACTS);
    }
}

#[test]
fn from_a_file_standard_input_and_the_web() {
    let (_home, dir) = project();
    let archive = packed(&dir, Some("gzip"));
    let bytes = fs::read(&archive).unwrap();
    let web = Web::start(move |_| Answer::of(200, bytes.clone()));
    for place in PLACES {
        for (context, facts) in
            [("tar://{archive}", FACTS), ("tar://stdin", FACTS), (&web.url("/a.tar.gz?x=1"), FACTS)]
        {
            let built = build(place)
                .bring("archive", &archive)
                .stdin(File::open(&archive).unwrap())
                .flag(format!("--context={context}"));
            assert_facts(&format!("{place:?} {context}"), &built.image().tree(), facts);
        }
    }
}

#[test]
fn a_directory_of_any_context() {
    let (_home, dir) = project();
    let archive = packed(&dir, Some("gzip"));
    for context in ["tar://{archive}", "dir://{dir}", "{dir}"] {
        for sub_path in ["sub", "/sub/", "./sub/../sub"] {
            let built = build(Place::Host)
                .bring("archive", &archive)
                .bring("dir", &dir)
                .flag(format!("--context={context}"))
                .flag(format!("--context-sub-path={sub_path}"));
            let facts = &[("/got/file", "- 0644 0:0 3 \"sub\"")];
            assert_facts(&format!("{context} {sub_path}"), &built.image().tree(), facts);
        }
    }
    for sub_path in ["absent", "file", "../../etc"] {
        build(Place::Host)
            .bring("archive", &archive)
            .flag("--context=tar://{archive}")
            .flag(format!("--context-sub-path={sub_path}"))
            .run()
            .refused(1, &["--context-sub-path", sub_path]);
    }
}

#[test]
fn a_named_context_may_be_an_archive() {
    let (_home, dir) = project();
    let archive = packed(&dir, None);
    let bytes = fs::read(&archive).unwrap();
    let web = Web::start(move |_| Answer::of(200, bytes.clone()));
    let tree =
        Build::of("FROM busybox\nCOPY --from=one file /got/\nCOPY --from=two sub /got/sub\n")
            .base("busybox", base::busybox())
            .bring("archive", &archive)
            .flag("--build-context=one=tar://{archive}")
            .flag(format!("--build-context=two={}", web.url("/x.tar")))
            .image()
            .tree();
    assert_facts("named", &tree, &FACTS[..2]);
}

/// Hands out `bytes` under `/a.tar`, breaking off each answer after `most` bytes of it.
fn flaky(bytes: Vec<u8>, most: usize, validator: bool) -> Web {
    Web::start(move |request: &Request| {
        let range = request.headers.get("range").and_then(|it| it.strip_prefix("bytes="));
        let start: usize =
            range.and_then(|it| it.strip_suffix('-')).map_or(0, |it| it.parse().unwrap());
        let rest = bytes[start..].to_vec();
        let cut = most.min(rest.len());
        let answer = match start {
            0 => Answer::of(200, rest),
            _ => Answer::of(206, rest).header(
                "Content-Range",
                &format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()),
            ),
        };
        let answer = if validator { answer.header("ETag", "\"v1\"") } else { answer };
        answer.cut(cut)
    })
}

#[test]
fn a_transfer_that_breaks_off_goes_on_where_it_was() {
    let archive = Layer::new()
        .file("Dockerfile", "FROM busybox\nCOPY big /got/file\n")
        .file("big", "x".repeat(60_000))
        .tar();
    let web = flaky(archive.clone(), 20_000, true);
    let image = build(Place::Host).flag(format!("--context={}", web.url("/a.tar"))).image();
    assert!(image.tree()["/got/file"].to_string().contains("60000"));
    assert!(web.seen().len() > 2, "{:?}", web.seen());
    assert_eq!(web.seen()[1].headers["range"], "bytes=20000-");
    assert_eq!(web.seen()[1].headers["if-range"], "\"v1\"");

    let web = flaky(archive, 20_000, false);
    build(Place::Host)
        .flag(format!("--context={}", web.url("/a.tar")))
        .run()
        .refused(1, &["broke off after 20000 bytes", web.address()]);
}

#[test]
fn https_leads_to_no_plain_http() {
    let plain = Web::start(|_| Answer::of(200, "never asked"));
    let home = tempfile::tempdir().unwrap();
    let certificate = write_certificates(home.path());
    let elsewhere = plain.url("/a.tar");
    let web =
        Web::start_tls(&certificate, move |_| Answer::of(302, "").header("Location", &elsewhere));
    build(Place::Host)
        .flag(format!("--context=https://{}/a.tar", web.address()))
        .bring("roots", home.path().join("trust/ca.crt"))
        .variable("SSL_CERT_FILE", "{roots}")
        .run()
        .refused(1, &["redirected from https to http"]);
    assert_eq!((web.seen().len(), plain.seen().len()), (1, 0));
}

#[test]
fn answers_that_pass_are_waited_for() {
    let archive = Layer::new().file("Dockerfile", "FROM busybox\nRUN true\n").tar();
    let asked = AtomicUsize::new(0);
    let web = Web::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Answer::of(503, "").header("Retry-After", "0"),
        1 => Answer::of(429, "")
            .header("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
            .header("Retry-After", "Sun, 06 Nov 1994 08:49:37 GMT"),
        // Nothing has come, so nothing has to be continued.
        2 => Answer::of(200, archive.clone()).cut(0),
        _ => Answer::of(200, archive.clone()),
    });
    let ended = build(Place::Host).flag(format!("--context={}", web.url("/a.tar"))).run();
    let log = ended.succeeded().log;
    assert_eq!(web.seen().len(), 4);
    assert_eq!(log.matches("trying again in 0.0s").count(), 2, "{log}");
}

#[test]
fn contexts_that_cannot_be_used_are_refused_before_any_step() {
    let steps = "FROM busybox\nRUN echo begun-$((40+2))\n";
    let whole = Layer::new().file("Dockerfile", steps).file("big", "x".repeat(9000)).tar();
    let home = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = home.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let gone = Web::start(|request: &Request| match request.path.as_str() {
        "/login" => Answer::of(401, ""),
        _ => Answer::of(404, ""),
    });
    for (bytes, words) in [
        (&whole[..whole.len() - 1024], &["cut short"][..]),
        (&whole[..3000], &["cut short"]),
        (b"", &["is empty"]),
        (b"FROM busybox\n", &["is no tar archive", "gzip"]),
        (&Layer::new().file("../evil", "x").tar(), &["../evil", "refused"]),
    ] {
        let archive = write("a.tar", bytes);
        for context in ["tar://{archive}", "tar://stdin"] {
            let ended = build(Place::Host)
                .bring("archive", &archive)
                .stdin(File::open(&archive).unwrap())
                .flag(format!("--context={context}"))
                .run();
            ended.refused(1, words);
            assert!(!ended.log.contains("begun-42"), "{}", ended.log);
        }
    }
    build(Place::Host)
        .flags(["--context=tar://stdin", "--dockerfile=-"])
        .run()
        .refused(1, &["tar://stdin", "--dockerfile=-", "standard input"]);
    for (context, words) in [
        (gone.url("/absent.tar"), &["404", "/absent.tar"][..]),
        (gone.url("/login").replace("//", "//me:canary-7@"), &["401", "USER:PASSWORD"]),
        ("tar:///no/such.tar".to_owned(), &["/no/such.tar"]),
        ("tar://{dir}".to_owned(), &["is a directory", "dir://"]),
        ("ftp://host/x".to_owned(), &["ftp://", "tar://"]),
    ] {
        let ended = build(Place::Host)
            .bring("dir", home.path())
            .flag(format!("--context={context}"))
            .flag("--verbosity=trace")
            .run();
        ended.refused(1, words);
        assert!(!ended.log.contains("canary-7"), "{}", ended.log);
    }
}

#[test]
fn a_context_s_links_lead_nowhere_outside() {
    let archive = Layer::new()
        .symlink("Dockerfile", "/etc/passwd")
        .symlink("dir", "/etc")
        .file("Real", "FROM busybox\nCOPY dir/passwd /x\n")
        .tar();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a.tar");
    fs::write(&path, archive).unwrap();
    for (flag, words) in [
        ("--dockerfile=Dockerfile", &["there is no Dockerfile"][..]),
        ("--dockerfile=Real", &["dir/passwd", "not found"]),
        ("--context-sub-path=dir", &["--context-sub-path, dir"]),
    ] {
        build(Place::Host)
            .bring("archive", &path)
            .flag("--context=tar://{archive}")
            .flag(flag)
            .run()
            .refused(1, words);
    }
}

#[test]
fn a_silent_standard_input_can_be_interrupted() {
    let (silent, _kept_open) = std::io::pipe().unwrap();
    let mut running = build(Place::Host).stdin(silent).flag("--context=tar://stdin").start();
    running.until("Reading the build context from standard input");
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.end().refused(143, &["signal 15"]);
}

/// Secrets of the build log in where a Dockerfile adds a file, and are not told to whom the host redirects to.
#[test]
fn add_logs_in_with_secrets_of_the_build() {
    let elsewhere = Web::start(|_| Answer::of(200, "far"));
    // Another name of this machine is another host.
    let far = elsewhere.url("/file").replace("127.0.0.1", "localhost");
    let web = Web::start(move |request| match request.headers.get("authorization") {
        Some(pass) if request.path == "/file" => Answer::of(200, pass.as_bytes()),
        Some(_) => Answer::of(302, "").header("location", &far),
        None => Answer::of(401, ""),
    });
    for (id, path, content) in [
        ("HTTP_AUTH_TOKEN_127.0.0.1", "/file", Some("Bearer canary-word")),
        ("HTTP_AUTH_HEADER_127.0.0.1", "/file", Some("canary-word")),
        ("HTTP_AUTH_HEADER_127.0.0.1", "/moved", Some("far")),
        ("HTTP_AUTH_HEADER_localhost", "/file", None),
    ] {
        let ended = Build::of(&format!("FROM scratch\nADD {} /got\n", web.url(path)))
            .variable("LOGIN", "canary-word")
            .flag(format!("--secret=id={id},env=LOGIN"))
            .run();
        match content {
            Some(text) => {
                let tree = ended.succeeded().image().tree();
                assert!(tree["/got"].to_string().contains(&format!("{text:?}")), "{id} {path}");
            }
            None => ended.refused(1, &["401"]),
        }
    }
    let told = elsewhere.seen();
    assert!(!told.is_empty());
    assert!(told.iter().all(|request| !request.headers.contains_key("authorization")), "{told:?}");
}

#[test]
fn a_named_context_that_nothing_takes_from_is_not_fetched() {
    let (_home, dir) = project();
    let archive = packed(&dir, None);
    let bytes = fs::read(&archive).unwrap();
    let web = Web::start(move |_| Answer::of(200, bytes.clone()));
    let dockerfile = "FROM busybox AS unused\nCOPY --from=Far file /\n\
                      FROM busybox\nCOPY --from=near file /got/\n";
    for (target, paths) in [("1", vec!["/near.tar"]), ("unused", vec!["/far.tar"])] {
        let before = web.seen().len();
        Build::of(dockerfile)
            .base("busybox", base::busybox())
            .flag(format!("--build-context=far={}", web.url("/far.tar")))
            .flag(format!("--build-context=near={}", web.url("/near.tar")))
            .flag(format!("--build-context=other={}", web.url("/other.tar")))
            .flag(format!("--target={target}"))
            .run()
            .succeeded();
        let asked: Vec<String> = web.seen().drain(before..).map(|it| it.path).collect();
        assert_eq!(asked, paths, "{target}");
    }
}

#[test]
fn files_of_a_named_context_are_an_image_for_from() {
    let (_home, dir) = project();
    let archive = packed(&dir, None);
    let dockerfile = "FROM scratch AS replaced\nCOPY nowhere /\n\
                      FROM near AS next\nCOPY --from=replaced sub/only /only\n\
                      FROM next\nENV A=1\n";
    let build = |target: &str| {
        Build::of(dockerfile)
            .bring("archive", &archive)
            .bring("dir", &dir)
            .flag("--build-context=near={dir}")
            .flag("--build-context=replaced=tar://{archive}")
            .flag(format!("--target={target}"))
    };
    let own = [
        ("/file", "- 0640 0:0 4 \"text\""),
        ("/sub/link", "l 0777 0:0 0 -> ../file"),
        ("/left-out", ""),
    ];
    let replaced = build("replaced").image();
    assert_facts("the context itself", &replaced.tree(), &own);
    assert_eq!(replaced.history(), ["COPY . / # buildkit"]);
    let image = build("2").image();
    assert_facts("a stage on it", &image.tree(), &own);
    assert_facts("a stage on it", &image.tree(), &[("/only", "- 0644 0:0 3 \"sub\"")]);
    assert_eq!(image.setting("/Env/1"), "A=1");
    let ended = build("2").flag("--dryrun").run().succeeded();
    assert!(ended.log.contains("     3  COPY . /  [layer]"), "{}", ended.log);
}
