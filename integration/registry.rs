//! A real registry on loopback, alive as long as its value.
//!
//! Debian's `docker-registry` on a port that the kernel chose, its blobs in a
//! directory of its own. It is ready when it says that it listens, and it is
//! killed by its own process id when the value is dropped.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::json;
use tempfile::TempDir;

use crate::tools;

/// The account of a registry with basic authentication.
pub(crate) const USER: &str = "builder";
/// The password of [`USER`]; written so that it can be looked for in logs.
pub(crate) const PASSWORD: &str = "canary-5f1d0c9e";

/// How clients reach the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// HTTP, open to everyone.
    Plain,
    /// HTTPS under a certificate authority made for this registry.
    Tls,
    /// HTTPS, and clients show a certificate of the same authority: `client.cert` and `client.key` in the directory of
    /// [`Registry::authority`].
    TlsClient,
    /// HTTPS by a certificate that is no longer valid.
    TlsExpired,
    /// HTTPS by a certificate for another name.
    TlsOfAnother,
    /// HTTPS, and [`USER`] has to log in with [`PASSWORD`].
    TlsBasic,
    /// HTTP, and [`USER`] has to log in.
    PlainBasic,
}

impl Access {
    fn has_tls(self) -> bool {
        !matches!(self, Self::Plain | Self::PlainBasic)
    }

    fn has_login(self) -> bool {
        matches!(self, Self::TlsBasic | Self::PlainBasic)
    }
}

/// A running registry.
pub(crate) struct Registry {
    process: Child,
    readers: Vec<JoinHandle<()>>,
    log: Arc<Mutex<String>>,
    home: TempDir,
    address: String,
    access: Access,
}

impl Registry {
    /// Starts a registry and waits until it listens.
    pub(crate) fn start(access: Access) -> Self {
        let home = tempfile::tempdir().expect("a directory for the registry");
        let config = write_config(home.path(), access);
        let mut process = Command::new(tools::find("docker-registry"))
            .arg("serve")
            .arg(config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry starts");
        let requests = process.stdout.take().expect("stdout is piped");
        let mut messages = BufReader::new(process.stderr.take().expect("stderr is piped"));
        let address = listening_on(&mut messages);
        let log = Arc::new(Mutex::new(String::new()));
        let readers = vec![
            keep_reading(messages, Arc::clone(&log)),
            keep_reading(requests, Arc::clone(&log)),
        ];
        Self { process, readers, log, home, address, access }
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A reference to `name` (`repository:tag` or `repository@digest`) here.
    pub(crate) fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// The certificate of the authority that signed the registry's own.
    pub(crate) fn authority(&self) -> PathBuf {
        self.home.path().join("trust/ca.crt")
    }

    /// A directory to be `DOCKER_CONFIG`; it logs in with the right password.
    pub(crate) fn docker_config(&self) -> PathBuf {
        self.docker_config_with("right", PASSWORD)
    }

    /// A directory to be `DOCKER_CONFIG`, with a password of the test's choice.
    pub(crate) fn docker_config_with(&self, name: &str, password: &str) -> PathBuf {
        let directory = self.home.path().join(name);
        fs::create_dir_all(&directory).expect("a directory for config.json");
        let auth = base64(format!("{USER}:{password}").as_bytes());
        let config = json!({"auths": {&self.address: {"auth": auth}}});
        fs::write(directory.join("config.json"), config.to_string()).expect("config.json");
        directory
    }

    /// Copies an image of an OCI layout into the registry. `format` is skopeo's
    /// `oci` or `v2s2`; [`None`] keeps the manifest's bytes.
    pub(crate) fn push(&self, layout: &Path, tag: &str, name: &str, format: Option<&str>) {
        let mut skopeo = tools::command("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet"]);
        match format {
            Some(format) => skopeo.args(["--format", format]),
            None => skopeo.args(["--all", "--preserve-digests"]),
        };
        skopeo.args(self.skopeo_access("dest"));
        skopeo.arg(format!("oci:{}:{tag}", layout.display()));
        tools::output(skopeo.arg(format!("docker://{}", self.reference(name))));
    }

    /// Copies an image of the registry to an OCI layout, tag `read`.
    pub(crate) fn pull(&self, name: &str, layout: &Path) {
        let mut skopeo = tools::command("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet"]);
        skopeo.args(self.skopeo_access("src"));
        skopeo.arg(format!("docker://{}", self.reference(name)));
        tools::output(skopeo.arg(format!("oci:{}:read", layout.display())));
    }

    /// The manifest's bytes as the registry serves them.
    pub(crate) fn manifest(&self, name: &str) -> Option<Vec<u8>> {
        let mut skopeo = tools::command("skopeo");
        skopeo.args(["--insecure-policy", "inspect", "--raw"]);
        skopeo.args(self.skopeo_access(""));
        skopeo.arg(format!("docker://{}", self.reference(name)));
        let output = skopeo.output().expect("skopeo runs");
        output.status.success().then_some(output.stdout)
    }

    /// Paths of the requests with this method, in the order of their answers.
    pub(crate) fn paths(&self, method: &str) -> Vec<String> {
        let log = self.log.lock().expect("the reader does not panic");
        log.lines()
            .filter_map(|line| line.split_once(&format!("\"{method} ")))
            .filter_map(|(_, rest)| rest.split(['?', ' ']).next().map(str::to_owned))
            .collect()
    }

    /// Whether the executor used this version of HTTP.
    pub(crate) fn was_asked_by(&self, version: &str) -> bool {
        let log = self.log.lock().expect("the reader does not panic");
        let wanted = format!(" {version}\" ");
        log.lines().any(|line| line.contains(&wanted) && line.contains("kaniko-rs/"))
    }

    /// The file in which the registry keeps a blob.
    pub(crate) fn blob_file(&self, digest: &str) -> PathBuf {
        let hash = digest.strip_prefix("sha256:").expect("a sha256 digest");
        let blobs = self.home.path().join("blobs/docker/registry/v2/blobs/sha256");
        blobs.join(&hash[..2]).join(hash).join("data")
    }

    /// Takes a blob out of one repository; others keep it.
    pub(crate) fn forget_blob(&self, repository: &str, digest: &str) {
        let hash = digest.strip_prefix("sha256:").expect("a sha256 digest");
        let repositories = self.home.path().join("blobs/docker/registry/v2/repositories");
        let link = repositories.join(repository).join("_layers/sha256").join(hash).join("link");
        fs::remove_file(link).expect("the repository has the blob");
    }

    fn skopeo_access(&self, side: &str) -> Vec<String> {
        let flag = |name: &str| match side {
            "" => format!("--{name}"),
            side => format!("--{side}-{name}"),
        };
        let mut flags = if self.access.has_tls() {
            let trust = self.home.path().join("trust");
            vec![format!("{}={}", flag("cert-dir"), trust.display())]
        } else {
            vec![format!("{}=false", flag("tls-verify"))]
        };
        if self.access.has_login() {
            flags.push(format!("{}={USER}:{PASSWORD}", flag("creds")));
        }
        flags
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Both may only say that it ended by itself already.
        let _ = self.process.kill();
        let _ = self.process.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

fn write_config(home: &Path, access: Access) -> PathBuf {
    let mut http = json!({"addr": "127.0.0.1:0", "secret": "loopback only"});
    if access.has_tls() {
        let names: &[&str] = match access {
            Access::TlsOfAnother => &["registry.example.test"],
            _ => &LOOPBACK,
        };
        let last_year = if access == Access::TlsExpired { 2020 } else { 4000 };
        let (certificate, key) = write_certificates_for(home, names, last_year);
        http["tls"] = json!({"certificate": certificate, "key": key});
        if access == Access::TlsClient {
            http["tls"]["clientcas"] = json!([home.join("trust/ca.crt")]);
        }
    }
    let mut config = json!({
        "version": "0.1",
        "log": {"level": "info", "formatter": "text", "accesslog": {"disabled": false}},
        "storage": {
            "filesystem": {"rootdirectory": home.join("blobs")},
            "delete": {"enabled": true},
        },
        "http": http,
    });
    if access.has_login() {
        config["auth"] = json!({"htpasswd": {"realm": "test", "path": write_accounts(home)}});
    }
    let path = home.join("config.yml");
    // JSON is YAML too.
    fs::write(&path, config.to_string()).expect("the registry's config is written");
    path
}

fn write_accounts(home: &Path) -> PathBuf {
    let path = home.join("accounts");
    let line = tools::run("htpasswd", ["-nbB", USER, PASSWORD]);
    fs::write(&path, line).expect("the accounts are written");
    path
}

/// An authority (`trust/ca.crt`), and certificates and keys signed by it: a client's, and a server's on loopback, which
/// are given.
pub(crate) fn write_certificates(home: &Path) -> (PathBuf, PathBuf) {
    write_certificates_for(home, &LOOPBACK, 4000)
}

/// The names that a server has here.
const LOOPBACK: [&str; 2] = ["127.0.0.1", "localhost"];

/// The same for a server of these names, valid until the end of the year before the last one.
pub(crate) fn write_certificates_for(
    home: &Path,
    names: &[&str],
    last_year: i32,
) -> (PathBuf, PathBuf) {
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("no names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_certificate = authority.self_signed(&authority_key).expect("an authority");
    let issuer = Issuer::new(authority, authority_key);

    let sign = |names: &[&str], certificate: &Path, at: &Path| {
        let key = KeyPair::generate().expect("a key");
        let names: Vec<String> = names.iter().copied().map(str::to_owned).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.not_after = date_time_ymd(last_year, 1, 1);
        let signed = params.signed_by(&key, &issuer).expect("a certificate");
        fs::write(certificate, signed.pem()).expect("the certificate is written");
        fs::write(at, key.serialize_pem()).expect("its key is written");
    };
    fs::create_dir(home.join("trust")).expect("a directory for the authority");
    fs::write(home.join("trust/ca.crt"), authority_certificate.pem()).expect("ca.crt");
    sign(&["builder"], &home.join("trust/client.cert"), &home.join("trust/client.key"));
    let server = (home.join("server.crt"), home.join("server.key"));
    sign(names, &server.0, &server.1);
    server
}

/// Reads the log up to the line that tells the address.
fn listening_on(log: &mut impl BufRead) -> String {
    let mut seen = String::new();
    for line in log.lines() {
        let line = line.expect("the registry's log is text");
        if let Some((_, rest)) = line.split_once("listening on ") {
            let end = rest.find(['"', ',', ' ']).unwrap_or(rest.len());
            return rest[..end].to_owned();
        }
        seen.push_str(&line);
        seen.push('\n');
    }
    panic!("docker-registry ended before it listened:\n{seen}");
}

/// Drains the log, so that the registry never waits for a reader.
fn keep_reading(lines: impl Read + Send + 'static, log: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(lines).lines().map_while(Result::ok) {
            let mut log = log.lock().expect("nobody panics with the log in hand");
            log.push_str(&line);
            log.push('\n');
        }
    })
}

/// Base 64 as `config.json` wants it (RFC 4648, section 4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[test]
fn base64_agrees_with_the_rfc() {
    for (plain, coded) in
        [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
    {
        assert_eq!(base64(plain.as_bytes()), coded, "{plain}");
    }
}
