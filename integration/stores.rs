//! Build contexts in object stores, served by emulators; made-up answers where it counts what is asked.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

use crate::base;
use crate::build_basic::assert_facts;
use crate::craft::Layer;
use crate::executor::Build;
use crate::registry::write_certificates_for;
use crate::relay::Tunnels;
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
    /// Runs it until it says on standard output or error where it listens.
    fn start(command: &mut Command, says: &str) -> Self {
        let (output, said) = std::io::pipe().unwrap();
        let process = command.stdout(said.try_clone().unwrap()).stderr(said).spawn().unwrap();
        let mut lines = BufReader::new(output).lines();
        // The parent's ends of the pipe went with the command.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let told = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let rest = line.split_once(says)?.1;
            Some(rest.split('"').next().unwrap_or_default().trim().to_owned())
        });
        let address = told.unwrap_or_else(|| panic!("{command:?} does not say where it listens"));
        // Nobody reads on; a full pipe would stop it.
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        Self { process, address }
    }

    /// Amazon S3, with a bucket `builds`. After so many requests it asks who somebody is.
    fn s3(open: u32) -> Self {
        let mut command = tools::command("moto_server");
        command.args(["-H", "127.0.0.1", "-p", "0"]);
        command.env("INITIAL_NO_AUTH_ACTION_COUNT", open.to_string());
        let server = Self::start(&mut command, "Running on http://");
        server.ask("PUT", "/builds", "", b"");
        server
    }

    /// Amazon S3 by other people.
    fn s3rver(directory: &Path) -> Self {
        let mut command = tools::command("s3rver");
        command.args(["-a", "127.0.0.1", "-p", "0", "--service-endpoint", "example.test"]);
        command.args(["--configure-bucket", "builds", "-d"]);
        Self::start(command.arg(directory), "S3rver listening on ")
    }

    /// Google's storage, with a bucket `builds`.
    fn google() -> Self {
        // It answers for the name it is known by, so that has to be told before.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = tools::command("fake-gcs-server");
        command.args(["-scheme=http", "-host=127.0.0.1", "-backend=memory"]);
        command.args([format!("-port={port}"), format!("-public-host=127.0.0.1:{port}")]);
        let server = Self::start(&mut command, "server started at http://");
        server.ask("POST", "/storage/v1/b", "", br#"{"name":"builds"}"#);
        server
    }

    /// Azure's blobs, with a container `builds`.
    fn azure() -> Self {
        let mut command = tools::command("azurite-blob");
        command.args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence"]);
        command.args(["--disableTelemetry", "--skipApiVersionCheck"]);
        let server = Self::start(&mut command, "successfully listens on http://");
        let container = format!("/{AZURITE}/builds?restype=container&{}", signature("rwdlc"));
        server.ask("PUT", &container, "", b"");
        server
    }

    /// One request, which has to succeed.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &[u8]) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\
             Content-Type: application/octet-stream\r\n{headers}\r\n",
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
    let server = Emulator::s3(1000);
    server.ask("PUT", "/builds/context.tar.gz", "", &archive());
    server.ask("PUT", "/builds/a/b%20c.tar", "", &archive());
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

#[test]
fn amazon_refuses_who_it_does_not_know() {
    // The bucket and the object are made by anybody, what follows is checked.
    let server = Emulator::s3(2);
    server.ask("PUT", "/builds/context.tar.gz", "", &archive());
    let ended = build(&["--context=s3://builds"])
        .variable("S3_ENDPOINT", format!("http://{}", server.address))
        .variable("AWS_REGION", "us-east-1")
        .variable("AWS_ACCESS_KEY_ID", "nobody")
        .variable("AWS_SECRET_ACCESS_KEY", KEY)
        .run();
    ended.refused(1, &["s3://builds/context.tar.gz", "403", "AWS_ACCESS_KEY_ID"]);
    assert!(!ended.log.contains(KEY), "{}", ended.log);
}

/// A bucket is a part of the host's name or of the path. This server is asked as a proxy, so that its name
/// need not resolve; it knows one account, and does not look at secrets.
#[test]
fn amazon_by_path_and_by_host() {
    let directory = tempfile::tempdir().unwrap();
    let server = Emulator::s3rver(directory.path());
    let names = [("plain.tar", "plain.tar"), ("a/b c+d=e.tar", "a/b%20c%2Bd%3De.tar")];
    for (_, escaped) in names {
        server.ask("PUT", &format!("/builds/{escaped}"), "", &archive());
    }
    let proxy = format!("http://{}", server.address);
    for (by_path, name) in [("true", names[0].0), ("false", names[0].0), ("false", names[1].0)] {
        let at = |account: &str, name: &str| {
            build(&[&format!("--context=s3://builds/{name}")])
                .variable("HTTP_PROXY", &proxy)
                .variable("S3_ENDPOINT", "http://s3.example.test")
                .variable("S3_FORCE_PATH_STYLE", by_path)
                .variable("AWS_REGION", "us-east-1")
                .variable("AWS_ACCESS_KEY_ID", account)
                .variable("AWS_SECRET_ACCESS_KEY", KEY)
        };
        let facts = &[("/got", "- 0644 0:0 4 \"text\"")];
        assert_facts(name, &at("S3RVER", name).image().tree(), facts);
        let refused = at("nobody", name).run();
        refused.refused(1, &[name, "403", "AWS_SECRET_ACCESS_KEY"]);
        assert!(!refused.log.contains(KEY), "{}", refused.log);
        at("S3RVER", "absent.tar").run().refused(1, &["absent.tar", "no such object"]);
    }
}

#[test]
fn google_s_own_protocol() {
    let server = Emulator::google();
    for name in ["context.tar.gz", "dir%2Fx%20y.tar"] {
        let path = format!("/upload/storage/v1/b/builds/o?uploadType=media&name={name}");
        server.ask("POST", &path, "", &archive());
    }
    let at = |build: Build| build.variable("STORAGE_EMULATOR_HOST", &server.address);
    for context in ["gs://builds", "gs://builds/dir/x y.tar"] {
        let tree = at(build(&[&format!("--context={context}")])).image().tree();
        assert_facts(context, &tree, &[("/got", "- 0644 0:0 4 \"text\"")]);
    }
    for context in ["gs://builds/absent", "gs://nowhere/x"] {
        at(build(&[&format!("--context={context}")]))
            .run()
            .refused(1, &[context, "no such object"]);
    }
}

/// The account that azurite has, and its key, which its documentation tells.
const AZURITE: &str = "devstoreaccount1";
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A shared access signature for all of the account: what is allowed, and until when.
fn signature(allowed: &str) -> String {
    let (version, end) = ("2019-12-12", "2099-01-01T00:00:00Z");
    let text = format!("{AZURITE}\n{allowed}\nb\nsco\n\n{end}\n\n\n{version}\n");
    let signed = BASE64_STANDARD.encode(hmac(&BASE64_STANDARD.decode(AZURITE_KEY).unwrap(), &text));
    let escaped = signed.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("sv={version}&ss=b&srt=sco&sp={allowed}&se={end}&sig={escaped}")
}

/// HMAC-SHA-256 (RFC 2104) with a key of up to 64 bytes.
fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let pad = |byte: u8| -> Vec<u8> {
        (0..64).map(|at| key.get(at).copied().unwrap_or(0) ^ byte).collect()
    };
    let inner = Sha256::digest([&pad(0x36), text.as_bytes()].concat());
    Sha256::digest([&pad(0x5c)[..], &inner[..]].concat()).to_vec()
}

#[test]
fn azure_by_key_and_by_signature() {
    let server = Emulator::azure();
    let blob = format!("/{AZURITE}/builds/dir/x.tar?{}", signature("rwc"));
    server.ask("PUT", &blob, "x-ms-blob-type: BlockBlob\r\n", &archive());
    let url = |name: &str| format!("https://{AZURITE}.blob.core.windows.net/builds/{name}");
    let at = |context: &str, key: &str| {
        build(&[&format!("--context={context}")])
            .variable("AZURE_STORAGE_ENDPOINT", format!("http://{}/{AZURITE}", server.address))
            .variable("AZURE_STORAGE_ACCESS_KEY", key)
    };
    let facts = &[("/got", "- 0644 0:0 4 \"text\"")];
    assert_facts("key", &at(&url("dir/x.tar"), AZURITE_KEY).image().tree(), facts);
    let wrong = BASE64_STANDARD.encode([7; 64]);
    for (name, key, words) in [
        ("absent.tar", AZURITE_KEY, ["no such object", "absent.tar"]),
        ("dir/x.tar", &wrong, ["403", "AZURE_STORAGE_ACCESS_KEY"]),
    ] {
        let ended = at(&url(name), key).run();
        ended.refused(1, &words);
        assert!(!ended.log.contains(key), "{}", ended.log);
    }
    let place = format!("http://{}/{AZURITE}/builds/dir/x.tar", server.address);
    let signed = signature("r");
    let ended = build(&[&format!("--context={place}?{signed}")]).run().succeeded();
    assert_facts("signature", &ended.image().tree(), facts);
    let secret = signed.split("sig=").nth(1).unwrap();
    assert!(!ended.log.contains(secret), "{}", ended.log);
    let ended = build(&[&format!("--context={place}?{}", signed.replace("sp=r", "sp=rw"))]).run();
    ended.refused(1, &[&place, "403"]);
    assert!(!ended.log.contains(secret), "{}", ended.log);
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

/// Every answer breaks off, more often than one object is tried for: what arrived earns new tries.
#[test]
fn a_transfer_from_a_store_goes_on_as_long_as_there_is_progress() {
    let bytes = Layer::new()
        .file("Dockerfile", "FROM busybox\nCOPY big /got\n")
        .file("big", "x".repeat(60_000))
        .tar();
    let total = bytes.len();
    let web = Web::start(move |request| {
        let range = request.headers.get("range").and_then(|it| it.strip_prefix("bytes="));
        let from: usize = range.map_or(0, |it| it.split('-').next().unwrap().parse().unwrap());
        let rest = bytes[from..].to_vec();
        let cut = rest.len().min(total.div_ceil(8));
        let range = format!("bytes {from}-{}/{total}", total - 1);
        Answer::of(if from == 0 { 200 } else { 206 }, rest)
            .header("Content-Range", &range)
            .header("ETag", "\"x\"")
            .header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
            .cut(cut)
    });
    let ended = build(&["--context=s3://builds"])
        .variable("S3_ENDPOINT", format!("http://{}", web.address()))
        .variable("S3_FORCE_PATH_STYLE", "true")
        .variable("AWS_EC2_METADATA_DISABLED", "true")
        .run()
        .succeeded();
    assert_eq!(ended.image().tree()["/got"].size, 60_000);
    assert_eq!(web.seen().len(), 8, "{}", ended.log);
    assert!(ended.log.contains("going on"), "{}", ended.log);
    let last = web.seen().pop().unwrap();
    assert_eq!(last.headers["if-match"], "\"x\"", "the rest is of the same object");
}

/// Nothing is said about who asks: nobody comes first, and the identity of the machine after that.
#[test]
fn azure_by_the_identity_of_the_machine() {
    let bytes = archive();
    let web = Web::start(move |request| {
        if request.path.starts_with("/metadata/identity/oauth2/token?") {
            let token = format!(r#"{{"access_token":"{KEY}","expires_on":"4102444800"}}"#);
            return Answer::of(200, token);
        }
        if request.headers.get("authorization").is_none_or(|it| *it != format!("Bearer {KEY}")) {
            return Answer::of(404, "").header("x-ms-error-code", "ResourceNotFound");
        }
        Answer::of(200, bytes.clone())
            .header("ETag", "\"x\"")
            .header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
    });
    let context = "--context=https://acc.blob.core.windows.net/builds/x.tar";
    let at = |endpoint: String| {
        build(&[context])
            .variable("AZURE_STORAGE_ENDPOINT", web.url(""))
            .variable("AZURE_POD_IDENTITY_AUTHORITY_HOST", endpoint)
    };
    let ended = at(web.url("")).run().succeeded();
    assert!(ended.log.contains("as the identity of this machine"), "{}", ended.log);
    assert!(!ended.log.contains(KEY), "{}", ended.log);
    let asked: Vec<String> = web.seen().into_iter().map(|it| it.path).collect();
    assert_eq!((asked.len(), &asked[0], &asked[2]), (3, &asked[2], &"/builds/x.tar".to_owned()));
    assert!(asked[1].contains("resource=https") && !asked[1].contains("client_id"), "{asked:?}");
    // Where nobody gives out identities, the store's own answer is what is told.
    at("http://127.0.0.1:1".to_owned()).run().refused(1, &["x.tar", "no such object"]);
    let named = at(web.url("")).variable("AZURE_CLIENT_ID", "canary-client").run().succeeded();
    let last = web.seen().into_iter().rfind(|it| it.path.starts_with("/metadata")).unwrap();
    assert!(last.path.contains("client_id=canary-client"), "{}\n{}", last.path, named.log);
}

/// The store itself, by the names it has in the world, behind a proxy for HTTPS; and the metadata server of a machine
/// there. Without one the object has to be public.
#[test]
fn google_by_the_metadata_server_and_as_nobody() {
    let home = tempfile::tempdir().unwrap();
    let certificate = write_certificates_for(home.path(), &["storage.googleapis.com"], 4000);
    let bytes = archive();
    let store = Web::start_tls(&certificate, move |request| {
        let user = request.headers.get("authorization").map_or("nobody", String::as_str);
        let allowed = user == format!("Bearer {KEY}") || request.path.contains("public");
        match allowed {
            true => Answer::of(200, bytes.clone())
                .header("ETag", "\"x\"")
                .header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
            false => Answer::of(403, ""),
        }
    });
    let metadata = Web::start(|request| match request.path.contains("/service-accounts/") {
        true => Answer::of(200, format!(r#"{{"access_token":"{KEY}","expires_in":3600}}"#)),
        false => Answer::of(404, ""),
    });
    let tunnels = Tunnels::to(store.address());
    let at = |object: &str, metadata: &str| {
        build(&[&format!("--context=gs://builds/{object}.tar")])
            .bring("roots", home.path().join("trust/ca.crt"))
            .variable("SSL_CERT_FILE", "{roots}")
            .variable("HTTPS_PROXY", format!("http://{}", tunnels.address))
            .variable("GCE_METADATA_HOST", metadata)
            .run()
    };
    let ended = at("private", metadata.address()).succeeded();
    assert!(!ended.log.contains(KEY), "{}", ended.log);
    assert_facts("private", &ended.image().tree(), &[("/got", "- 0644 0:0 4 \"text\"")]);
    assert_eq!(metadata.seen()[0].headers["metadata-flavor"], "Google");
    let ended = at("public", "127.0.0.1:1").succeeded();
    assert!(ended.log.contains("No login for gs://builds/public.tar"), "{}", ended.log);
    at("private", "127.0.0.1:1").refused(1, &["gs://builds/private.tar"]);
    let asked = tunnels.asked();
    assert!(
        asked.iter().all(|it| it == "CONNECT storage.googleapis.com:443 HTTP/1.1"),
        "{asked:?}"
    );
}
