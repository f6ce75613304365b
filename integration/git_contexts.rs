//! Git repositories as build contexts.

use std::path::Path;

use tempfile::TempDir;

use crate::base;
use crate::build_basic::assert_facts;
use crate::executor::{Build, PLACES, Place};
use crate::git::{Login, Repository, Server, TOKEN};
use crate::image::Tree;
use crate::registry::{PASSWORD, USER};
use crate::ssh_agent::Agent;
use crate::tools;

const DOCKERFILE: &str = "FROM busybox\nCOPY . /got/\n";

/// A build on busybox whose context the test names.
fn build(place: Place) -> Build {
    Build::bare()
        .flag("--no-push")
        .flag("--oci-layout-path={out}/image")
        .base("busybox", base::busybox())
        .place(place)
}

/// A repository with a branch, tags, a directory; and the commits: first, main, branch.
struct Project {
    home: TempDir,
    repository: Repository,
    first: String,
    side: String,
}

impl Project {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let repository = Repository::new(home.path(), "app");
        let dockerfile = ("Dockerfile", DOCKERFILE);
        let first =
            repository.commit(&[dockerfile, ("version", "1"), ("sub/Dockerfile", DOCKERFILE)]);
        repository.git(&["tag", "light"]);
        repository.git(&["tag", "--annotate", "--message=x", "heavy"]);
        repository.git(&["checkout", "--quiet", "-b", "side"]);
        let side = repository.commit(&[("version", "side"), ("sub/only", "x")]);
        repository.git(&["checkout", "--quiet", "main"]);
        repository.commit(&[("version", "2")]);
        repository.git_bare(&["update-ref", "refs/pull/7/head", &side]);
        Self { home, repository, first, side }
    }

    fn dir(&self) -> &Path {
        self.home.path()
    }
}

fn version(tree: &Tree) -> String {
    let entry = tree.get("/got/version").map(ToString::to_string).unwrap_or_default();
    entry.split('"').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn references_in_every_form() {
    let project = Project::new();
    let server = Server::web(project.dir(), Login::Open);
    let (url, first, side) = (server.address(), &project.first, &project.side);
    for (context, want) in [
        (format!("git://{url}/app.git"), "2"),
        (format!("git://{url}/app.git#refs/heads/side"), "side"),
        (format!("git://{url}/app.git#side"), "side"),
        (format!("git://{url}/app.git#refs/tags/light"), "1"),
        (format!("git://{url}/app.git#refs/heads/main#{first}"), "1"),
        (format!("git://{url}/app.git#{first}"), "1"),
        (format!("git://{url}/app.git#refs/pull/7/head"), "side"),
        (format!("http://{url}/app.git"), "2"),
        (format!("http://{url}/app.git#light"), "1"),
        (format!("http://{url}/app.git#heavy"), "1"),
        (format!("http://{url}/app.git#{side}"), "side"),
        (format!("http://{url}/app.git?branch=side"), "side"),
        (format!("http://{url}/app.git?ref=heavy&checksum={first}"), "1"),
    ] {
        let image = build(Place::Host)
            .variable("GIT_PULL_METHOD", "http")
            .flag(format!("--context={context}"))
            .image();
        assert_eq!(version(&image.tree()), want, "{context}");
        let keeps = image.tree().contains_key("/got/.git");
        assert_eq!(keeps, context.starts_with("git://"), "{context}");
    }
}

#[test]
fn options_and_directories() {
    let project = Project::new();
    let server = Server::web(project.dir(), Login::Open);
    let url = server.address();
    for (context, flags, want) in [
        (format!("git://{url}/app.git"), &["--git=branch=side"][..], "side"),
        (format!("git://{url}/app.git"), &["--git=branch=heavy,single-branch=true"], "1"),
        (format!("git://{url}/app.git"), &["--git=depth=1", "--git=branch=side"], "side"),
    ] {
        let build = flags.iter().fold(build(Place::Host), |build, flag| build.flag(*flag));
        let image =
            build.variable("GIT_PULL_METHOD", "http").flag(format!("--context={context}")).image();
        assert_eq!(version(&image.tree()), want, "{context} {flags:?}");
    }
    for (context, sub_path) in [
        (format!("http://{url}/app.git#side:sub"), ""),
        (format!("git://{url}/app.git#side"), "sub"),
        (format!("http://{url}/app.git?ref=side&subdir=/sub/"), ""),
    ] {
        let tree = build(Place::Host)
            .variable("GIT_PULL_METHOD", "http")
            .flag(format!("--context={context}"))
            .flag(format!("--context-sub-path={sub_path}"))
            .image()
            .tree();
        assert_facts(&context, &tree, &[("/got/only", "- 0644 0:0 1 \"x\""), ("/got/version", "")]);
    }
}

#[test]
fn a_build_argument_says_whether_the_git_directory_is_kept() {
    let project = Project::new();
    let server = Server::web(project.dir(), Login::Open);
    let url = server.address();
    for (context, argument, kept) in [
        (format!("http://{url}/app.git"), "", false),
        (format!("http://{url}/app.git"), "1", true),
        (format!("git://{url}/app.git"), "", true),
        (format!("git://{url}/app.git"), "false", false),
    ] {
        let ended = build(Place::Host)
            .variable("GIT_PULL_METHOD", "http")
            .flag(format!("--context={context}"))
            .flag(format!("--build-arg=BUILDKIT_CONTEXT_KEEP_GIT_DIR={argument}"))
            .run()
            .succeeded();
        let tree = ended.image().tree();
        assert_eq!(tree.contains_key("/got/.git/HEAD"), kept, "{context} {argument}");
        assert!(!ended.log.contains("nothing declares"), "{}", ended.log);
    }
}

/// What stays in the context is a repository that git itself can use.
#[test]
fn the_git_directory_is_whole() {
    let project = Project::new();
    let server = Server::web(project.dir(), Login::Open);
    let out = tempfile::tempdir().unwrap();
    for (flags, count, branches) in [(&[][..], "2", true), (&["--git=depth=1"][..], "1", false)] {
        let dir = tempfile::tempdir_in(out.path()).unwrap();
        let build = flags.iter().fold(build(Place::Host), |build, flag| build.flag(*flag));
        let ended = build
            .variable("GIT_PULL_METHOD", "http")
            .flag(format!("--context=git://{USER}:{PASSWORD}@{}/app.git", server.address()))
            .run()
            .succeeded();
        let blob = ended.image().top().digest.replace("sha256:", "image/blobs/sha256/");
        let (blob, root) = (ended.out(&blob), dir.path().to_str().unwrap());
        tools::run("tar", ["-C", root, "-xf", blob.to_str().unwrap()]);
        let work = dir.path().join("got");
        let git = |arguments: &[&str]| {
            let mut git = tools::command("git");
            git.current_dir(&work).env("HOME", "/nonexistent").args(["-c", "safe.directory=*"]);
            tools::output(git.args(arguments)).trim().to_owned()
        };
        assert_eq!(git(&["status", "--porcelain"]), "", "{flags:?}");
        assert_eq!(git(&["rev-parse", "--abbrev-ref", "HEAD"]), "main");
        assert_eq!(git(&["rev-list", "--count", "HEAD"]), count);
        assert_eq!(git(&["branch", "--remotes"]).contains("origin/side"), branches);
        assert_eq!(git(&["tag"]).contains("heavy"), branches);
        git(&["fsck"]);
        let config = std::fs::read_to_string(work.join(".git/config")).unwrap();
        assert!(config.contains(server.address()) && !config.contains(PASSWORD), "{config}");
        assert!(!ended.log.contains(PASSWORD), "{}", ended.log);
    }
}

#[test]
fn in_a_pod_and_by_every_transport() {
    let project = Project::new();
    let web = Server::web(project.dir(), Login::Open);
    let daemon = Server::daemon(project.dir());
    for place in PLACES {
        for (context, method) in [
            (format!("git://{}/app.git#side", web.address()), "http"),
            (format!("git://{}/app.git#side", daemon.address()), "git"),
        ] {
            let image = build(place)
                .variable("GIT_PULL_METHOD", method)
                .flag(format!("--context={context}"))
                .image();
            assert_eq!(version(&image.tree()), "side", "{place:?} {context}");
        }
    }
}

#[test]
fn by_ssh() {
    let project = Project::new();
    let server = Server::ssh();
    let url = format!("ssh://root@{}{}/app.git", server.address(), project.dir().display());
    let config = format!("ssh -F {}", server.ssh_config().display());
    let image = build(Place::Host)
        .variable("GIT_SSH_COMMAND", config)
        .flag(format!("--context={url}#side"))
        .image();
    assert_eq!(version(&image.tree()), "side");
    // The key is the agent's alone.
    let agent = Agent::with(&server.key());
    let known = format!("UserKnownHostsFile={}", server.known_hosts().display());
    let image = build(Place::Host)
        .variable("GIT_SSH_COMMAND", format!("ssh -F /dev/null -o BatchMode=yes -o {known}"))
        .variable("SSH_AUTH_SOCK", agent.socket().display().to_string())
        .flag(format!("--context={url}#side"))
        .image();
    assert_eq!(version(&image.tree()), "side");
    build(Place::Host)
        .variable("GIT_SSH_COMMAND", "ssh -F /dev/null -o BatchMode=yes")
        .flag(format!("--context={url}#side"))
        .run()
        .refused(1, &["ssh://127.0.0.1", "Host key verification failed"]);
    build(Place::Host)
        .variable("PATH", "/nowhere")
        .flag(format!("--context={url}#side"))
        .run()
        .refused(1, &["there is no ssh program", "GIT_TOKEN"]);
}

#[test]
fn logins_go_to_their_host_only() {
    let project = Project::new();
    let closed = Server::web(project.dir(), Login::Basic);
    let plain = format!("git://{}/app.git", closed.address());
    let told = |build: Build, context: &str| {
        build
            .variable("GIT_PULL_METHOD", "http")
            .flag("--verbosity=trace")
            .flag(format!("--context={context}"))
            .run()
    };
    for ended in [
        told(
            build(Place::Host).variable("GIT_USERNAME", USER).variable("GIT_PASSWORD", PASSWORD),
            &plain,
        ),
        told(build(Place::Host), &plain.replace("git://", &format!("git://{USER}:{PASSWORD}@"))),
    ] {
        let ended = ended.succeeded();
        assert_eq!(version(&ended.image().tree()), "2");
        assert!(!ended.log.contains(PASSWORD), "{}", ended.log);
    }
    let right = told(build(Place::Host).variable("GIT_TOKEN", TOKEN), &plain).succeeded();
    assert_eq!(version(&right.image().tree()), "2");
    assert!(!right.log.contains(TOKEN), "{}", right.log);
    let wrong = build(Place::Host).variable("GIT_TOKEN", format!("{PASSWORD}-wrong"));
    for ended in [told(build(Place::Host), &plain), told(wrong, &plain)] {
        ended.refused(1, &[closed.address(), "401", "GIT_TOKEN"]);
        assert!(!ended.log.contains(PASSWORD), "{}", ended.log);
    }
}

#[test]
fn submodules_are_fetched_without_the_login_of_their_parent() {
    let home = tempfile::tempdir().unwrap();
    let inner = Repository::new(home.path(), "inner");
    inner.commit(&[("deep", "x")]);
    let app = Repository::new(home.path(), "app");
    app.commit(&[("Dockerfile", DOCKERFILE)]);
    let path = home.path().join("inner.git");
    app.git(&["submodule", "--quiet", "add", "../inner.git", "lib/inner"]);
    app.commit(&[]);
    let closed = Server::web(home.path(), Login::Basic);
    let elsewhere = Server::web(home.path(), Login::Open);
    let url = format!("http://{USER}:{PASSWORD}@{}/app.git", closed.address());
    let tree = build(Place::Host).flag(format!("--context={url}")).image().tree();
    assert_facts("relative", &tree, &[("/got/lib/inner/deep", "- 0644 0:0 1 \"x\"")]);
    let tree = build(Place::Host).flag(format!("--context={url}?submodules=0")).image().tree();
    assert_facts("none", &tree, &[("/got/lib/inner/deep", "")]);

    let other = format!("url = http://{}/inner.git", elsewhere.address());
    let set = |url: &str| {
        let modules = format!("[submodule \"x\"]\n\tpath = lib/inner\n\t{url}\n");
        app.commit(&[(".gitmodules", &modules)]);
    };
    let daemon = Server::daemon(home.path());
    let by_daemon = format!("git://{}/app.git", daemon.address());
    for (flag, want) in
        [("recurse-submodules=true", "- 0644 0:0 1 \"x\""), ("recurse-submodules=false", "")]
    {
        let tree = build(Place::Host)
            .variable("GIT_PULL_METHOD", "git")
            .flag(format!("--git={flag}"))
            .flag(format!("--context={by_daemon}"))
            .image()
            .tree();
        assert_facts(flag, &tree, &[("/got/lib/inner/deep", want)]);
    }

    set(&other);
    build(Place::Host).flag(format!("--context={url}")).run().succeeded();
    let requests = elsewhere.requests();
    assert!(requests.contains("/inner.git/info/refs") && !requests.contains(USER), "{requests}");
    for bad in [
        format!("url = {}", path.display()),
        format!("url = file://{}", path.display()),
        "url = ext::sh -c true".to_owned(),
        "url = --upload-pack=touch".to_owned(),
    ] {
        set(&bad);
        build(Place::Host)
            .flag(format!("--context={url}"))
            .run()
            .refused(1, &["submodule lib/inner"]);
    }
}

#[test]
fn what_is_not_there_is_told() {
    let project = Project::new();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    project.repository.git(&["checkout", "--quiet", "-b", "large"]);
    project.repository.commit(&[("big.bin", pointer)]);
    let server = Server::web(project.dir(), Login::Open);
    let url = format!("http://{}/app.git", server.address());
    let absent = "0123456789012345678901234567890123456789";
    for (context, words) in [
        (format!("{url}#nope"), &["branch or tag \"nope\"", "#nope"][..]),
        (format!("{url}#{absent}"), &[absent]),
        (format!("{url}#--upload-pack=x"), &["--upload-pack=x"]),
        (format!("{url}#light:nope"), &["nope"]),
        (format!("{url}#light:../../etc"), &["etc"]),
        (format!("{url}?ref=light&checksum=abc123"), &["abc123", &project.first]),
        (format!("{url}?colour=red"), &["colour"]),
        (format!("{url}#large"), &["big.bin", "LFS"]),
        (url.replace("app", "absent"), &["404", "absent.git", "GIT_TOKEN"]),
        ("http://127.0.0.1:1/x.git".to_owned(), &["127.0.0.1:1", "onnection refused"]),
    ] {
        build(Place::Host).flag(format!("--context={context}")).run().refused(1, words);
    }
    for (flag, words) in
        [("--git=colour=red", ["colour", "branch"]), ("--git=x", ["--git=x", "KEY"])]
    {
        build(Place::Host).flag(flag).run().refused(1, &words);
    }
}

#[test]
fn add_of_repositories() {
    let project = Project::new();
    let server = Server::web(project.dir(), Login::Open);
    let (url, first) = (format!("http://{}/app.git", server.address()), &project.first);
    for (add, facts) in [
        (format!("ADD {url} /got"), &[("/got/version", "2"), ("/got/.git", "")][..]),
        (format!("ADD {url}#side:sub /got/"), &[("/got/only", "x"), ("/got/version", "")]),
        (
            format!("ADD --keep-git-dir=true {url}#light /got"),
            &[("/got/version", "1"), ("/got/.git/HEAD", first)],
        ),
        (format!("ADD --checksum={first} {url}?tag=heavy /got"), &[("/got/version", "1")]),
        (
            format!("ADD --chown=7:8 --exclude=sub {url} f /got/"),
            &[("/got/version", "2"), ("/got/f", "local"), ("/got/sub", "")],
        ),
    ] {
        let dockerfile = format!("FROM busybox\n{add}\n");
        let image =
            Build::of(&dockerfile).file("f", "local").base("busybox", base::busybox()).image();
        let tree = image.tree();
        for (path, want) in facts {
            let entry = tree.get(*path).map(ToString::to_string).unwrap_or_default();
            assert_eq!(entry.is_empty(), want.is_empty(), "{add}: {path}");
            assert!(entry.contains(want), "{add}: {path}: {entry}");
            assert!(
                !add.contains("chown") || entry.is_empty() || entry.contains(" 7:8 "),
                "{entry}"
            );
        }
        let history = image.history();
        let line = history.last().unwrap();
        assert!(
            line.contains(&add.split(' ').find(|it| it.contains("http")).unwrap().to_owned()),
            "{line}"
        );
    }
    for (add, words) in [
        (format!("ADD --checksum=abc123 {url} /got"), &["abc123", "2"][..]),
        (format!("ADD --checksum=sha256:0 {url} /got"), &["commit"]),
        (format!("ADD {url}#nope /got"), &["nope", "Dockerfile:2"]),
        (format!("ADD {url}?colour=red /got"), &["colour"]),
        (format!("COPY {url} /got"), &["ADD"]),
        (format!("ADD --keep-git-dir=false {url}?keep-git-dir=1 /got"), &["--keep-git-dir"]),
    ] {
        Build::of(&format!("FROM busybox\n{add}\n"))
            .base("busybox", base::busybox())
            .run()
            .refused(1, words);
    }
}

/// The login of the context's host is not for what a Dockerfile names.
#[test]
fn add_logs_in_at_the_context_s_host_only() {
    let home = tempfile::tempdir().unwrap();
    let (app, other) = (Repository::new(home.path(), "app"), Repository::new(home.path(), "other"));
    other.commit(&[("x", "1")]);
    let (own, foreign) =
        (Server::web(home.path(), Login::Basic), Server::web(home.path(), Login::Basic));
    for (server, works) in [(&own, true), (&foreign, false)] {
        let dockerfile = format!("FROM busybox\nADD http://{}/other.git /got\n", server.address());
        app.commit(&[("Dockerfile", &dockerfile)]);
        let ended = build(Place::Host)
            .variable("GIT_USERNAME", USER)
            .variable("GIT_PASSWORD", PASSWORD)
            .flag(format!("--context=http://{}/app.git", own.address()))
            .run();
        match works {
            true => drop(ended.succeeded()),
            false => ended.refused(1, &["401", foreign.address()]),
        }
    }
    assert!(!foreign.requests().contains(USER), "{}", foreign.requests());
}

/// Secrets of the build log in where a Dockerfile adds a repository, each at its host.
#[test]
fn add_logs_in_with_secrets_of_the_build() {
    let home = tempfile::tempdir().unwrap();
    Repository::new(home.path(), "app").commit(&[("x", "1")]);
    let server = Server::web(home.path(), Login::Basic);
    let address = server.address().to_owned();
    let encoded = crate::registry::base64(format!("{USER}:{PASSWORD}").as_bytes());
    let header = format!("Basic {encoded}");
    for (id, value, works) in [
        (format!("GIT_AUTH_HEADER.{address}"), header.as_str(), true),
        ("GIT_AUTH_HEADER".to_owned(), &header, true),
        ("GIT_AUTH_TOKEN".to_owned(), PASSWORD, false),
        ("GIT_AUTH_HEADER.elsewhere.example".to_owned(), &header, false),
    ] {
        let ended = Build::of(&format!("FROM busybox\nADD http://{address}/app.git /got\n"))
            .base("busybox", base::busybox())
            .variable("LOGIN", value)
            .flag(format!("--secret=id={id},env=LOGIN"))
            .canary(value)
            .run();
        match works {
            true => assert!(ended.succeeded().image().tree().contains_key("/got/x"), "{id}"),
            false => ended.refused(1, &["401", &address]),
        }
    }
    // A token is the password of a user that hosts of repositories know by this name.
    assert!(server.requests().contains("x-access-token"), "{}", server.requests());
}

#[test]
fn by_https_the_certificate_is_checked() {
    let project = Project::new();
    let server = Server::tls(project.dir(), Login::Basic);
    let url = format!("git://{}/app.git", server.address());
    let told = |build: Build| {
        let build = build.variable("GIT_USERNAME", USER).variable("GIT_PASSWORD", PASSWORD);
        build.flags(["--verbosity=trace"]).flag(format!("--context={url}")).run()
    };
    for trusted in [
        build(Place::Host)
            .bring("roots", server.authority())
            .variable("SSL_CERT_FILE", "{roots}")
            .flag("--git=single-branch=true"),
        build(Place::Host).flag("--git=insecure-skip-tls=true"),
    ] {
        let ended = told(trusted).succeeded();
        assert_eq!(version(&ended.image().tree()), "2");
        assert!(!ended.log.contains(PASSWORD), "{}", ended.log);
    }
    let before = server.requests();
    let refused = told(build(Place::Host));
    refused.refused(1, &[server.address(), "certificate"]);
    assert_eq!(server.requests(), before, "nothing was asked of a server that nobody vouches for");
}
