//! Against docker-registry, with skopeo as the second opinion.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::{image, impatient, noise};
use crate::image::{Flavor, Platform, Reference};
use crate::registry::{Credentials, Registry, RegistryError, Settings};

/// A docker-registry on a free loopback port, ended by its process id.
struct Real {
    host: String,
    child: Child,
    log: Option<JoinHandle<Vec<String>>>,
}

impl Real {
    /// `extra` is indented below `http:` or stands at the top level of the config file.
    fn start(dir: &Path, http: &str, top: &str) -> Self {
        let config = dir.join("config.yml");
        let storage = dir.join("storage").display().to_string();
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {storage}}}}}\n\
             http:\n  addr: 127.0.0.1:0\n{http}{top}"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("docker-registry is installed");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let host = lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| {
                let rest = line.split("listening on ").nth(1)?;
                Some(rest.split(['"', ',']).next()?.to_owned())
            })
            .expect("it says where it listens");
        let log = Some(thread::spawn(move || lines.map_while(Result::ok).collect()));
        Self { host, child, log }
    }

    fn name(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }

    /// Ends it and tells how many requests of this method it answered.
    fn stop_and_count(mut self, method: &str) -> usize {
        self.end();
        let log = self.log.take().unwrap().join().unwrap();
        let wanted = format!("http.request.method={method} ");
        log.iter().filter(|l| l.contains("response completed") && l.contains(&wanted)).count()
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.end();
    }
}

fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo").args(arguments).output().expect("skopeo is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn push_pull_and_push_again() {
    for flavor in [Flavor::Docker, Flavor::Oci] {
        let dir = tempfile::tempdir().unwrap();
        let real = Real::start(dir.path(), "", "");
        let layers = [noise(1, 3 << 20), noise(2, 5000)];
        let image = image(dir.path(), flavor, &layers);
        let names = [real.name("a/b:1"), real.name("a/b:2")];
        let registry = Registry::new(impatient()).unwrap();
        registry.check_push(&names[0]).unwrap();
        let early =
            registry.start_upload(&image.layers()[0], &[names[0].repository().clone()], dir.path());
        let pushed = registry.push(&image, &names, vec![early], dir.path()).unwrap();
        assert_eq!(pushed.len(), 2);
        let seen = skopeo(&[
            "inspect",
            "--tls-verify=false",
            &format!("docker://{}", pushed[1].reference),
        ]);
        assert!(seen.contains(&image.digest().to_string()), "{seen}");
        let again = Registry::new(impatient()).unwrap();
        let pulled = again.pull(&names[1], &Platform::host()).unwrap();
        assert_eq!(pulled.digest(), image.digest());
        for (layer, bytes) in pulled.layers().iter().zip(&layers) {
            let file = again.fetch(layer, dir.path()).wait().unwrap();
            assert_eq!(&fs::read(file.path()).unwrap(), bytes);
        }
        again.push(&image, &names, Vec::new(), dir.path()).unwrap();
        // One for the permission, one for each layer, one for the config.
        assert_eq!(real.stop_and_count("POST"), 4);
    }
}

#[test]
fn mounts_within_a_registry_and_streams_to_another() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (Real::start(dir.path(), "", ""), Real::start(other.path(), "", ""));
    let image = image(dir.path(), Flavor::Oci, &[noise(4, 3 << 20)]);
    let registry = Registry::new(impatient()).unwrap();
    registry.push(&image, &[first.name("a:1")], Vec::new(), dir.path()).unwrap();
    let base = registry.pull(&first.name("a:1"), &Platform::host()).unwrap();
    let names = [first.name("b:1"), second.name("c:1")];
    registry.push(&base, &names, Vec::new(), dir.path()).unwrap();
    for name in &names {
        let pulled = registry.pull(name, &Platform::host()).unwrap();
        assert_eq!(pulled.digest(), image.digest());
        registry.fetch(&pulled.layers()[0], dir.path()).wait().unwrap();
    }
    assert_eq!(first.stop_and_count("PATCH"), 1, "the layer, once: the second was mounted");
    assert_eq!(second.stop_and_count("PATCH"), 1);
}

/// Root, certificate and key of a server on the loopback address, as PEM files.
fn certificates(dir: &Path) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let signed = server.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).unwrap();
    let client_key = KeyPair::generate().unwrap();
    let client = CertificateParams::new(Vec::new()).unwrap();
    let client = client.signed_by(&client_key, &Issuer::from_params(&ca, &ca_key)).unwrap();
    fs::write(dir.join("client.pem"), client.pem()).unwrap();
    fs::write(dir.join("client.key"), client_key.serialize_pem()).unwrap();
    fs::write(dir.join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    fs::write(dir.join("cert.pem"), signed.pem()).unwrap();
    fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
}

fn registry_with_tls_and_passwords(dir: &Path) -> Real {
    certificates(dir);
    let output = Command::new("htpasswd").args(["-Bbn", "user", "canary"]).output();
    fs::write(dir.join("htpasswd"), output.expect("htpasswd is installed").stdout).unwrap();
    let path = |name: &str| dir.join(name).display().to_string();
    let tls = format!("  tls: {{certificate: {}, key: {}}}\n", path("cert.pem"), path("key.pem"));
    let auth = format!("auth: {{htpasswd: {{realm: r, path: {}}}}}\n", path("htpasswd"));
    Real::start(dir, &tls, &auth)
}

#[test]
fn tls_and_basic_authentication() {
    let dir = tempfile::tempdir().unwrap();
    let real = registry_with_tls_and_passwords(dir.path());
    let image = image(dir.path(), Flavor::Oci, &[noise(5, 2 << 20)]);
    let push = |settings: Settings| {
        let registry = Registry::new(settings).unwrap();
        let names = [real.name("a:1")];
        registry.push(&image, &names, Vec::new(), dir.path())?;
        registry.pull(&names[0], &Platform::host()).map(|image| image.digest())
    };
    let login = |password: &str| {
        let config = format!(
            r#"{{"auths":{{"{}":{{"username":"user","password":"{password}"}}}}}}"#,
            real.host
        );
        Credentials::anonymous().with_docker_config(config.as_bytes(), "/c.json").unwrap()
    };
    let trusting = || Settings {
        certificates: [(real.host.clone(), dir.path().join("ca.pem"))].into(),
        ..impatient()
    };
    let right = login("canary");
    let error = push(Settings { credentials: right.clone(), ..impatient() }).unwrap_err();
    assert!(matches!(error, RegistryError::Network { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--registry-certificate"), "{error}");
    for credentials in [Credentials::anonymous(), login("wrong")] {
        let error = push(Settings { credentials, ..trusting() }).unwrap_err();
        assert!(matches!(error, RegistryError::Denied { status: 401, .. }), "{error}");
    }
    for settings in [trusting(), Settings { skip_tls_verify: true, ..impatient() }] {
        let settings = Settings { credentials: right.clone(), ..settings };
        assert_eq!(push(settings).unwrap(), image.digest());
    }
}

#[test]
fn a_client_certificate_where_one_is_wanted() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let path = |name: &str| dir.path().join(name);
    let tls = format!(
        "  tls: {{certificate: {}, key: {}, clientcas: [{}]}}\n",
        path("cert.pem").display(),
        path("key.pem").display(),
        path("ca.pem").display()
    );
    let real = Real::start(dir.path(), &tls, "");
    let trusting =
        || Settings { certificates: [(real.host.clone(), path("ca.pem"))].into(), ..impatient() };
    let check = |settings| Registry::new(settings).unwrap().check_push(&real.name("a:1"));
    let error = check(trusting()).unwrap_err();
    // In TLS 1.3 the refusal comes after the handshake, and the connection's end may overtake it.
    assert!(matches!(error, RegistryError::Network { .. }), "{error}");
    let identity = (path("client.pem"), path("client.key"));
    let client_certificates = [(real.host.clone(), identity)].into();
    check(Settings { client_certificates, ..trusting() }).unwrap();
}

/// Passes connections on to `target` and breaks each after `limit` bytes from the client.
fn breaking_proxy(target: String, limit: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(&target).unwrap();
            let (mut answers, mut back) =
                (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut answers, &mut back));
            thread::spawn(move || forward(&client, &server, limit));
        }
    });
    host
}

fn forward(client: &TcpStream, mut server: &TcpStream, limit: u64) {
    let (mut limited, mut buffer) = (client.take(limit), vec![0; 64 << 10]);
    while let Ok(n @ 1..) = limited.read(&mut buffer) {
        if server.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
}

#[test]
fn an_upload_through_a_breaking_proxy_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let real = Real::start(dir.path(), "", "");
    let image = image(dir.path(), Flavor::Oci, &[noise(6, 40 << 20)]);
    let proxy = breaking_proxy(real.host.clone(), 5 << 20);
    let registry = Registry::new(impatient()).unwrap();
    let name: Reference = format!("{proxy}/a:1").parse().unwrap();
    registry.push(&image, &[name], Vec::new(), dir.path()).unwrap();
    let pulled = registry.pull(&real.name("a:1"), &Platform::host()).unwrap();
    assert_eq!(pulled.digest(), image.digest());
}
