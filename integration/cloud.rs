//! Logins of Amazon's registries, by every way in which a machine there may be known.
//!
//! A real registry has the name of one of Amazon's: it is the proxy for plain HTTP, and answers
//! itself. Amazon's services are a double, which variables of the SDK lead to.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::base;
use crate::executor::{Build, Place};
use crate::registry::{Access, PASSWORD, Registry, USER, base64};

const HOST: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

/// A service that answers requests by what their line begins with; its thread ends with the test.
struct Double {
    host: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Double {
    fn start(answers: &[(&str, u16, String)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let answers: VecDeque<(String, u16, String)> = answers
            .iter()
            .map(|(line, status, body)| ((*line).to_owned(), *status, body.clone()))
            .collect();
        let (answers, seen) = (Arc::new(Mutex::new(answers)), Arc::<Mutex<Vec<String>>>::default());
        let shared = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, seen) = (Arc::clone(&answers), Arc::clone(&shared));
                thread::spawn(move || serve(&stream, &answers, &seen));
            }
        });
        Self { host, seen }
    }

    /// Everything that was asked: lines, headers and bodies.
    fn seen(&self) -> String {
        self.seen.lock().unwrap().join("\n\n")
    }
}

fn serve(
    stream: &TcpStream,
    answers: &Mutex<VecDeque<(String, u16, String)>>,
    seen: &Mutex<Vec<String>>,
) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let start = head.len();
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
            let line = head[start..].trim_end().to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let mut waiting = answers.lock().unwrap();
        let place = waiting.iter().position(|(line, ..)| head.starts_with(line));
        let (_, status, answer) = place.and_then(|place| waiting.remove(place)).unwrap_or((
            String::new(),
            404,
            String::new(),
        ));
        drop(waiting);
        seen.lock().unwrap().push(head + &String::from_utf8_lossy(&body));
        let ttl = "x-aws-ec2-metadata-token-ttl-seconds: 21600\r\n";
        let text =
            format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{ttl}\r\n{answer}", answer.len());
        if (&mut &*stream).write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

/// What ECR says: the account of the real registry.
fn password() -> String {
    let token = base64(format!("{USER}:{PASSWORD}").as_bytes());
    format!(r#"{{"authorizationData":[{{"authorizationToken":"{token}","expiresAt":1.9E9}}]}}"#)
}

/// Keys as metadata servers write them.
fn keys(id: &str) -> String {
    format!(
        r#"{{"Code":"Success","AccessKeyId":"{id}","SecretAccessKey":"canary-secret","Token":"t","Expiration":"2099-01-01T00:00:00Z"}}"#
    )
}

fn sts(id: &str) -> String {
    format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{id}</AccessKeyId>\
         <SecretAccessKey>canary-secret</SecretAccessKey><SessionToken>t</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
    )
}

/// A build that pushes to the registry under Amazon's name, with the double for everything else.
fn build(registry: &Registry, double: &Double) -> Build {
    Build::bare()
        .file("Dockerfile", "FROM busybox\nRUN true\n")
        .base("busybox", base::busybox())
        .flag(format!("--destination={HOST}/app:1"))
        .flag(format!("--insecure-registry={HOST}"))
        .flags(["-v", "trace"])
        .variable("HTTP_PROXY", format!("http://{}", registry.address()))
        .variable("HTTPS_PROXY", "http://127.0.0.1:1")
        // Profiles and tokens are files of this machine.
        .place(Place::Host)
        .variable("AWS_ENDPOINT_URL_ECR", format!("http://{}", double.host))
        .variable("AWS_ENDPOINT_URL_STS", format!("http://{}", double.host))
        .variable("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{}", double.host))
}

#[test]
fn every_way_to_be_known_to_amazon_ends_in_a_push() {
    let registry = Registry::start(Access::PlainBasic);
    let dir = tempfile::tempdir().unwrap();
    let written = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let web_token = written("web-token", "canary-web-token");
    let profiles =
        "[other]\naws_access_key_id = AKID-PROFILE\naws_secret_access_key = canary-secret\n";
    let profiles = written("profiles", profiles);
    let ecr = || ("POST / ", 200, password());
    let of_machine = vec![
        ("PUT /latest/api/token", 200, "session".to_owned()),
        ("GET /latest/meta-data/iam/security-credentials/role", 200, keys("AKID-MACHINE")),
        ("GET /latest/meta-data/iam/security-credentials/", 200, "role".to_owned()),
        ecr(),
    ];
    for (variables, answers, id) in [
        (
            vec![
                ("AWS_ACCESS_KEY_ID", "AKID-VARIABLE".to_owned()),
                ("AWS_SECRET_ACCESS_KEY", "canary-secret".to_owned()),
            ],
            vec![("POST / ", 500, String::new()), ecr()],
            "AKID-VARIABLE",
        ),
        (
            vec![("AWS_SHARED_CREDENTIALS_FILE", profiles), ("AWS_PROFILE", "other".to_owned())],
            vec![ecr()],
            "AKID-PROFILE",
        ),
        (
            vec![
                ("AWS_WEB_IDENTITY_TOKEN_FILE", web_token.clone()),
                ("AWS_ROLE_ARN", "arn:aws:iam::1:role/x".to_owned()),
            ],
            vec![("POST / ", 200, sts("AKID-WEB")), ecr()],
            "AKID-WEB",
        ),
        (
            vec![
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://DOUBLE/pod".to_owned()),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", web_token),
            ],
            vec![("GET /pod", 200, keys("AKID-POD")), ecr()],
            "AKID-POD",
        ),
        (vec![], of_machine, "AKID-MACHINE"),
    ] {
        let double = Double::start(&answers);
        let build = variables.iter().fold(build(&registry, &double), |it, (name, value)| {
            it.variable(name, value.replace("DOUBLE", &double.host))
        });
        let ended = build.run().succeeded();
        assert!(ended.log.contains(&format!("Pushed {HOST}/app")), "{}", ended.log);
        for canary in ["canary", PASSWORD] {
            assert!(!ended.log.contains(canary), "{id}: {}", ended.log);
        }
        let signed = format!("Credential={id}/");
        let seen = double.seen();
        assert!(seen.contains(&signed) && seen.contains("/eu-west-1/ecr/aws4_request"), "{seen}");
    }
}

#[test]
fn without_credentials_the_refusal_says_so() {
    let registry = Registry::start(Access::PlainBasic);
    let double = Double::start(&[]);
    build(&registry, &double)
        .variable("AWS_EC2_METADATA_DISABLED", "true")
        .run()
        .refused(1, &["401", "there is no login for", "no AWS credentials"]);
    assert_eq!(double.seen(), "");
    build(&registry, &double)
        .flag("--credential-helpers=")
        .variable("AWS_ACCESS_KEY_ID", "a")
        .variable("AWS_SECRET_ACCESS_KEY", "b")
        .run()
        .refused(1, &["401", "no Docker config was given"]);
    assert_eq!(double.seen(), "");
}

#[test]
fn a_helper_that_a_base_image_brings_is_never_run() {
    use crate::craft::{Compression, Craft, Layer};
    use crate::pod::Privileges;
    let registry = Registry::start(Access::PlainBasic);
    let layout = tempfile::tempdir().unwrap();
    let script = "#!/bin/sh\necho the helper ran >&2\n";
    let layer = ["usr/", "usr/local/", "usr/local/bin/"]
        .iter()
        .fold(Layer::new(), |layer, dir| layer.directory(dir.trim_end_matches('/')))
        .mode(0o755)
        .file("usr/local/bin/docker-credential-late", script);
    Craft::new().tar(layer.tar(), Compression::Gzip).write(layout.path(), "x");
    let login = tempfile::tempdir().unwrap();
    std::fs::write(login.path().join("config.json"), r#"{"credsStore":"late"}"#).unwrap();
    let ended = Build::bare()
        .file("Dockerfile", "FROM evil\nCOPY Dockerfile /\n")
        .base("evil", layout.path())
        .flag(format!("--destination={}", registry.reference("app:1")))
        .flag("--skip-push-permission-check")
        .bring("login", login.path())
        .variable("DOCKER_CONFIG", "{login}")
        .variable("PATH", "/usr/local/bin:/usr/bin:/bin")
        .place(Place::Pod(Privileges::DEFAULT))
        .run();
    ended.refused(1, &["docker-credential-late was not found"]);
    assert!(!ended.log.contains("the helper ran"), "{}", ended.log);
}
