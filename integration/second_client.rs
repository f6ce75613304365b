//! A second client at the same registries, `oci-client`: what it pushes is a base here, and what is pushed here
//! it reads. Skopeo shares its protocol code with the tools that kaniko's users have; this one shares none.

use std::fs;
use std::path::Path;

use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::base;
use crate::craft::{Compression, Craft, Layer, digest, machine, write_multi_platform};
use crate::executor::{Build, PLACES};
use crate::image::Image;
use crate::registry::{Access, PASSWORD, Registry, USER};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What layers may be. `oci-client` refuses every other one.
const LAYERS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];

/// The other client, logged in to one registry.
struct Second<'a> {
    registry: &'a Registry,
    runtime: Runtime,
    client: Client,
    login: RegistryAuth,
}

impl<'a> Second<'a> {
    fn new(registry: &'a Registry, access: Access, whole: bool) -> Self {
        let (mut config, mut login) = (ClientConfig::default(), RegistryAuth::Anonymous);
        config.use_monolithic_push = whole;
        config.protocol = ClientProtocol::Http;
        if matches!(access, Access::Tls | Access::TlsBasic) {
            config.protocol = ClientProtocol::Https;
            let data = fs::read(registry.authority()).unwrap();
            config.tls_certs_only = vec![Certificate { encoding: CertificateEncoding::Pem, data }];
        }
        if matches!(access, Access::PlainBasic | Access::TlsBasic) {
            login = RegistryAuth::Basic(USER.to_owned(), PASSWORD.to_owned());
        }
        Self { registry, runtime: Runtime::new().unwrap(), client: Client::new(config), login }
    }

    fn reference(&self, name: &str) -> Reference {
        self.registry.reference(name).parse().unwrap()
    }

    /// Pushes what a layout has under its first tag, manifests after their blobs.
    fn push(&self, layout: &Path, name: &str) {
        let to = self.reference(name);
        let index = read(&layout.join("index.json"));
        self.runtime.block_on(self.client.store_auth_if_needed(to.resolve_registry(), &self.login));
        self.push_described(layout, &index["manifests"][0], &to);
    }

    fn push_described(&self, layout: &Path, descriptor: &Value, to: &Reference) {
        let path = blob(layout, descriptor);
        let manifest = read(&path);
        for below in manifest["manifests"].as_array().into_iter().flatten() {
            let digest = below["digest"].as_str().unwrap();
            self.push_described(layout, below, &to.clone_with_digest(digest.to_owned()));
        }
        let layers = manifest["layers"].as_array().into_iter().flatten();
        for below in layers.chain(manifest.get("config")) {
            let bytes = fs::read(blob(layout, below)).unwrap();
            let digest = below["digest"].as_str().unwrap();
            self.runtime.block_on(self.client.push_blob(to, bytes, digest)).unwrap();
        }
        let media_type = manifest["mediaType"].as_str().unwrap().parse().unwrap();
        let bytes = fs::read(path).unwrap();
        self.runtime.block_on(self.client.push_manifest_raw(to, bytes, media_type)).unwrap();
    }
}

/// The file of a blob in a layout.
fn blob(layout: &Path, descriptor: &Value) -> std::path::PathBuf {
    let digest = descriptor["digest"].as_str().unwrap();
    layout.join("blobs").join(digest.replacen(':', "/", 1))
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A build `FROM` a name of the registry that pushes to another one there.
fn build(registry: &Registry, access: Access, from: &str, flags: &[&str]) -> Build {
    let dockerfile = format!("FROM {}\nRUN echo second > /made\n", registry.reference(from));
    let build = Build::bare()
        .file("Dockerfile", dockerfile)
        .flag("--digest-file={out}/digest")
        .flag(format!("--destination={}", registry.reference("made:1")))
        .bring("login", registry.docker_config())
        .variable("DOCKER_CONFIG", "{login}");
    let build = flags.iter().fold(build, |build, flag| build.flag(*flag));
    match access {
        Access::Plain | Access::PlainBasic => build.flags(["--insecure", "--insecure-pull"]),
        _ => build.bring("ca", registry.authority()).variable("SSL_CERT_FILE", "{ca}"),
    }
}

#[test]
fn each_reads_what_the_other_pushed() {
    let flags: [&[&str]; 3] = [&[], &["--image-format=docker"], &["--compression=zstd"]];
    for access in [Access::Plain, Access::PlainBasic, Access::Tls, Access::TlsBasic] {
        let registry = Registry::start(access);
        for whole in [false, true] {
            let second = Second::new(&registry, access, whole);
            second.push(&base::busybox(), &format!("base:{whole}"));
        }
        let second = Second::new(&registry, access, true);
        for (at, flags) in flags.iter().enumerate() {
            let from = format!("base:{}", at % 2 == 0);
            let ended = build(&registry, access, &from, flags)
                .place(PLACES[at % PLACES.len()])
                .run()
                .succeeded();
            let name = second.reference("made:1");
            let pull = second.client.pull(&name, &second.login, LAYERS.to_vec());
            let got = second.runtime.block_on(pull).unwrap();
            let digest_file = fs::read_to_string(ended.out("digest")).unwrap();
            assert_eq!(got.digest.as_deref(), Some(digest_file.as_str()), "{access:?} {flags:?}");
            let manifest = got.manifest.unwrap();
            let pulled: Vec<String> = manifest.layers.iter().map(|it| it.digest.clone()).collect();
            let mut bytes: Vec<String> = got.layers.iter().map(|it| digest(&it.data)).collect();
            bytes.sort_by_key(|digest| pulled.iter().position(|it| it == digest));
            assert_eq!(bytes, pulled, "{access:?} {flags:?}");
            let image = Image::pull(&registry, "made:1");
            assert_eq!(image.top().names(), ["/made"], "{access:?} {flags:?}");
        }
    }
}

#[test]
fn an_index_that_it_pushed_gives_this_machine_s_image() {
    let registry = Registry::start(Access::Plain);
    let layout = tempfile::tempdir().unwrap();
    let image = |architecture: &str| {
        Craft::new()
            .layer(Layer::new().file("which", architecture))
            .tar(Layer::new().file("second", "2").tar(), Compression::Zstd)
            .architecture(architecture)
    };
    write_multi_platform(layout.path(), "x", &[image("riscv64"), image(machine())]);
    let second = Second::new(&registry, Access::Plain, false);
    second.push(layout.path(), "many:1");
    let index = second.runtime.block_on(second.client.pull_manifest_raw(
        &second.reference("many:1"),
        &second.login,
        &[INDEX],
    ));
    assert!(String::from_utf8_lossy(&index.unwrap().0).contains("riscv64"));
    let dockerfile = format!("FROM {}\nCOPY Dockerfile /\n", registry.reference("many:1"));
    Build::bare()
        .file("Dockerfile", dockerfile)
        .flags(["--insecure", "--insecure-pull"])
        .flag(format!("--destination={}", registry.reference("one:1")))
        .run()
        .succeeded();
    let tree = Image::pull(&registry, "one:1").tree();
    assert_eq!(tree["/which"].content, Some(format!("{:?}", machine())));
}

#[test]
fn it_finds_what_refers_to_an_image() {
    let registry = Registry::start(Access::Plain);
    let layout = tempfile::tempdir().unwrap();
    Craft::new().layer(Layer::new().file("f", "1")).write(layout.path(), "x");
    let mut index = read(&layout.path().join("index.json"));
    let mut subject = index["manifests"][0].clone();
    subject.as_object_mut().unwrap().remove("annotations");
    let put = |bytes: &[u8], media_type: &str| {
        let digest = digest(bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        fs::write(blob(layout.path(), &descriptor), bytes).unwrap();
        descriptor
    };
    let signature = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "a/signature",
        "config": put(b"{}", "application/vnd.oci.empty.v1+json"),
        "layers": [put(b"signed", "text/plain")], "subject": subject,
    });
    let signature = put(signature.to_string().as_bytes(), MANIFEST);
    index["manifests"].as_array_mut().unwrap().push(signature.clone());
    fs::write(layout.path().join("index.json"), index.to_string()).unwrap();
    let pushed = std::process::Command::new(crate::executor::static_executor())
        .arg("push")
        .arg(layout.path())
        .args(["--insecure", "-d", &registry.reference("app:1")])
        .env("TMPDIR", layout.path())
        .env("HOME", layout.path())
        .current_dir(layout.path())
        .output()
        .unwrap();
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    // Whoever writes the list of referrers looks whether somebody else has written over it.
    let tag = subject["digest"].as_str().unwrap().replace(':', "-");
    let count =
        |method: &str| registry.paths(method).iter().filter(|it| it.ends_with(&tag)).count();
    assert_eq!((count("PUT"), count("GET")), (1, 2));
    let second = Second::new(&registry, Access::Plain, false);
    let app = second.reference("app:1");
    let app = app.clone_with_digest(subject["digest"].as_str().unwrap().to_owned());
    for (kind, found) in [(None, 1), (Some("a/signature"), 1), (Some("a/other"), 0)] {
        let referrers = second.runtime.block_on(second.client.pull_referrers(&app, kind)).unwrap();
        let digests: Vec<&str> = referrers.manifests.iter().map(|it| it.digest.as_str()).collect();
        assert_eq!(digests, vec![signature["digest"].as_str().unwrap(); found], "{kind:?}");
    }
}
