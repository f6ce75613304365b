//! Build contexts in object stores: one served by an emulator, the others by made-up answers.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use crate::base;
use crate::build_basic::assert_facts;
use crate::craft::Layer;
use crate::executor::Build;
use crate::tools;
use crate::web::{Answer, Web};

/// A key that may be looked for in logs.
const KEY: &str = "canary-9c1e7a30";

/// A running emulator; ends with its value.
struct Emulator {
    process: Child,
    address: String,
}

impl Emulator {
    /// Amazon S3, with a bucket `builds`.
    fn s3() -> Self {
        let mut command = tools::command("moto_server");
        command.args(["-H", "127.0.0.1", "-p", "0"]);
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("Running on http://")?.1.trim().to_owned()))
            .expect("moto_server says where it listens");
        // Nobody reads on; a full pipe would stop it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let server = Self { process, address };
        server.ask("PUT", "/builds", b"");
        server
    }

    /// One request, which has to succeed.
    fn ask(&self, method: &str, path: &str, body: &[u8]) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: application/octet-stream\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.split(' ').nth(1).is_some_and(|it| it.starts_with('2')), "{path}: {answer}");
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An archive with a Dockerfile that copies a file.
fn archive() -> Vec<u8> {
    Layer::new()
        .file("Dockerfile", "FROM busybox\nCOPY sub/file /got\n")
        .file("Other/Dockerfile", "FROM busybox\nCOPY x /got\n")
        .file("Other/x", "other")
        .directory("sub")
        .file("sub/file", "text")
        .tar()
}

fn build(flags: &[&str]) -> Build {
    let build = Build::bare()
        .flags(["--no-push", "--oci-layout-path={out}/image", "--verbosity=debug"])
        .base("busybox", base::busybox());
    flags.iter().fold(build, |build, flag| build.flag(*flag))
}

#[test]
fn amazon() {
    let server = Emulator::s3();
    server.ask("PUT", "/builds/context.tar.gz", &archive());
    server.ask("PUT", "/builds/a/b%20c.tar", &archive());
    let at = |build: Build| {
        build
            .variable("S3_ENDPOINT", format!("http://{}", server.address))
            .variable("AWS_REGION", "us-east-1")
            .variable("AWS_ACCESS_KEY_ID", "someone")
            .variable("AWS_SECRET_ACCESS_KEY", KEY)
    };
    for (flags, text) in [
        (&["--context=s3://builds"][..], "text"),
        (&["--context=s3://builds/a/b c.tar"], "text"),
        (&["--context=s3://builds/", "--context-sub-path=Other"], "other"),
    ] {
        let ended = at(build(flags)).variable("S3_FORCE_PATH_STYLE", "true").run().succeeded();
        let got = format!("- 0644 0:0 {} \"{text}\"", text.len());
        assert_facts(&format!("{flags:?}"), &ended.image().tree(), &[("/got", &got)]);
        assert!(!ended.log.contains(KEY), "{}", ended.log);
    }
    for (context, words) in [
        ("s3://builds/absent.tar", ["no such object", "s3://builds/absent.tar"]),
        ("s3://nowhere/x", ["s3://nowhere/x", "bucket"]),
    ] {
        at(build(&[&format!("--context={context}")])).run().refused(1, &words);
    }
}

/// What kaniko's users mount: a profile in their home directory.
#[test]
fn amazon_signs_by_the_profile() {
    let web = made_up();
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".aws")).unwrap();
    let profile =
        format!("[default]\naws_access_key_id = someone\naws_secret_access_key = {KEY}\n");
    fs::write(home.path().join(".aws/credentials"), profile).unwrap();
    let ended = build(&["--context=s3://builds/x.tar"])
        .bring("aws", home.path())
        .variable("AWS_SHARED_CREDENTIALS_FILE", "{aws}/.aws/credentials")
        .variable("AWS_REGION", "eu-west-1")
        .variable("S3_ENDPOINT", web.address())
        .run()
        .succeeded();
    let request = &web.seen()[0];
    assert_eq!(request.path, "/builds/x.tar");
    let signed = &request.headers["authorization"];
    assert!(
        signed.contains("Credential=someone/") && signed.contains("/eu-west-1/s3/"),
        "{signed}"
    );
    assert!(!ended.log.contains(KEY), "{}", ended.log);
}

/// A store whose objects are all the same archive, but for those called `absent`.
fn made_up() -> Web {
    let bytes = archive();
    Web::start(move |request| match request.path.contains("absent") {
        true => Answer::of(404, "").header("x-ms-error-code", "BlobNotFound"),
        false => Answer::of(200, bytes.clone())
            .header("ETag", "\"x\"")
            .header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
    })
}

/// The server's answers are made up here: what counts is what is asked.
#[test]
fn google() {
    let web = made_up();
    for (flags, path) in [
        (&["--context=gs://builds"][..], "/builds/context.tar.gz"),
        (&["--context=gs://builds/dir/x.tar"], "/builds/dir/x.tar"),
        (&["--context=", "--bucket=builds"], "/builds/context.tar.gz"),
        (&["--context=", "-b=gs://builds/dir/x.tar"], "/builds/dir/x.tar"),
    ] {
        let build = build(flags).variable("STORAGE_EMULATOR_HOST", web.address());
        let tree = build.image().tree();
        assert_facts(&format!("{flags:?}"), &tree, &[("/got", "- 0644 0:0 4 \"text\"")]);
        let request = web.seen().pop().unwrap();
        assert_eq!(request.path.replace("%2F", "/").replace("%2E", "."), path);
        assert!(!request.headers.contains_key("authorization"), "{request:?}");
    }
    build(&["--context=gs://builds/absent"])
        .variable("STORAGE_EMULATOR_HOST", web.url(""))
        .run()
        .refused(1, &["gs://builds/absent", "no such object"]);
    build(&["--bucket=builds"]).run().refused(1, &["--context", "--bucket"]);
}

/// Made up, too.
#[test]
fn azure() {
    let web = made_up();
    let url = "https://acc.blob.core.windows.net/builds/dir/x.tar.gz";
    let at = |build: Build| {
        build
            .variable("AZURE_STORAGE_ENDPOINT", format!("http://{}", web.address()))
            .variable("AZURE_STORAGE_ACCESS_KEY", "Y2FuYXJ5LTljMWU3YTMw")
    };
    let ended = at(build(&[&format!("--context={url}")])).run().succeeded();
    assert!(!ended.log.contains("Y2FuYXJ5"), "{}", ended.log);
    let request = &web.seen()[0];
    assert_eq!(request.path, "/builds/dir/x.tar.gz");
    assert!(request.headers["authorization"].starts_with("SharedKey acc:"), "{request:?}");
    at(build(&[&format!("--context={}", url.replace("dir/x", "absent"))]))
        .run()
        .refused(1, &["absent.tar.gz", "no such object"]);
}
