//! Images made by hand, entry by entry.
//!
//! The tests need layers that no polite tool writes: whiteouts, opaque
//! directories, names with `..`, links through planted links. A [`Layer`] is a
//! tar whose headers are filled in as the test says; [`Craft`] puts layers
//! and a config into an OCI layout.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Time of every entry that does not say another: 2001-09-09.
pub(crate) const MTIME: u64 = 1_000_000_000;

/// One layer while it is written.
pub(crate) struct Layer {
    tar: tar::Builder<Vec<u8>>,
    next: Next,
}

/// What the next entry has beside its name and type.
struct Next {
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Default for Next {
    fn default() -> Self {
        Self { mode: 0o644, owner: (0, 0), mtime: MTIME, xattrs: Vec::new() }
    }
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self { tar: tar::Builder::new(Vec::new()), next: Next::default() }
    }

    /// The next entry's mode; otherwise 0644, directories 0755, links 0777.
    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.next.mode = mode;
        self
    }

    /// The next entry's owner; otherwise 0:0.
    pub(crate) fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.next.owner = (uid, gid);
        self
    }

    /// The next entry's time in seconds.
    pub(crate) fn mtime(mut self, seconds: u64) -> Self {
        self.next.mtime = seconds;
        self
    }

    /// An extended attribute of the next entry, in a PAX header.
    pub(crate) fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.next.xattrs.push((format!("SCHILY.xattr.{name}"), value.to_vec()));
        self
    }

    pub(crate) fn directory(mut self, path: &str) -> Self {
        if self.next.mode == 0o644 {
            self.next.mode = 0o755;
        }
        self.entry(tar::EntryType::Directory, path, "", &[], (0, 0))
    }

    pub(crate) fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.entry(tar::EntryType::Regular, path, "", content.as_ref(), (0, 0))
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.mode(0o777).entry(tar::EntryType::Symlink, path, target, &[], (0, 0))
    }

    /// A hard link to an entry written before, by its name in the archive.
    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(tar::EntryType::Link, path, target, &[], (0, 0))
    }

    pub(crate) fn fifo(self, path: &str) -> Self {
        self.entry(tar::EntryType::Fifo, path, "", &[], (0, 0))
    }

    pub(crate) fn character_device(self, path: &str, major: u32, minor: u32) -> Self {
        self.entry(tar::EntryType::Char, path, "", &[], (major, minor))
    }

    /// Removes `path` of the layers below (image-spec, layer, "Whiteouts").
    pub(crate) fn whiteout(self, path: &str) -> Self {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let separator = if parent.is_empty() { "" } else { "/" };
        self.file(&format!("{parent}{separator}.wh.{name}"), "")
    }

    /// Hides what the layers below have in `directory`.
    pub(crate) fn opaque(self, directory: &str) -> Self {
        self.file(&format!("{directory}/.wh..wh..opq"), "")
    }

    /// The finished tar.
    pub(crate) fn tar(self) -> Vec<u8> {
        self.tar.into_inner().expect("a tar in memory")
    }

    fn entry(
        mut self,
        kind: tar::EntryType,
        path: &str,
        link: &str,
        content: &[u8],
        device: (u32, u32),
    ) -> Self {
        let next = std::mem::take(&mut self.next);
        let xattrs = next.xattrs.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        if !next.xattrs.is_empty() {
            self.tar.append_pax_extensions(xattrs).expect("a tar in memory");
        }
        let header = next.header(kind, path, link, content.len() as u64, device);
        self.tar.append(&header, content).expect("a tar in memory");
        self
    }
}

impl Next {
    /// A ustar header with the names as they are: the `tar` crate's own setters refuse `..`.
    fn header(
        &self,
        kind: tar::EntryType,
        path: &str,
        link: &str,
        size: u64,
        device: (u32, u32),
    ) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        let fields = header.as_ustar_mut().expect("it was made as ustar");
        fields.name[..path.len()].copy_from_slice(path.as_bytes());
        fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(self.mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(self.mtime);
        header.set_size(size);
        header.set_device_major(device.0).expect("ustar has devices");
        header.set_device_minor(device.1).expect("ustar has devices");
        header.set_cksum();
        header
    }
}

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn media_type(self) -> &'static str {
        match self {
            Self::None => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    fn compress(self, tar: &[u8]) -> Vec<u8> {
        match self {
            Self::None => tar.to_vec(),
            Self::Gzip => {
                let mut gzip =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(tar).expect("gzip in memory");
                gzip.finish().expect("gzip in memory")
            }
            Self::Zstd => zstd::encode_all(tar, 1).expect("zstd in memory"),
        }
    }
}

/// An image while it is put together.
pub(crate) struct Craft {
    layers: Vec<(Vec<u8>, Compression)>,
    config: Value,
    architecture: String,
}

impl Craft {
    pub(crate) fn new() -> Self {
        let config = json!({"Env": [crate::base::PATH_VARIABLE]});
        Self { layers: Vec::new(), config, architecture: machine().to_owned() }
    }

    /// Adds a gzip layer.
    pub(crate) fn layer(self, layer: Layer) -> Self {
        self.tar(layer.tar(), Compression::Gzip)
    }

    /// Adds a layer of any bytes.
    pub(crate) fn tar(mut self, tar: Vec<u8>, compression: Compression) -> Self {
        self.layers.push((tar, compression));
        self
    }

    /// Sets a field of the image config's `config`.
    pub(crate) fn config(mut self, field: &str, value: Value) -> Self {
        self.config[field] = value;
        self
    }

    /// Says that the image is for this architecture (Go's name).
    pub(crate) fn architecture(mut self, name: &str) -> Self {
        name.clone_into(&mut self.architecture);
        self
    }

    /// Writes the image into the layout at `layout`, under `tag`.
    pub(crate) fn write(&self, layout: &Path, tag: &str) {
        let manifest = self.write_manifest(layout);
        write_index(layout, tag, manifest);
    }

    /// Writes blobs and manifest, and gives the manifest's descriptor.
    fn write_manifest(&self, layout: &Path) -> Value {
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|(tar, how)| write_blob(layout, how.media_type(), &how.compress(tar)))
            .collect();
        let diff_ids: Vec<String> = self.layers.iter().map(|(tar, _)| digest(tar)).collect();
        let history: Vec<Value> =
            diff_ids.iter().map(|_| json!({"created_by": "made by hand"})).collect();
        let config = json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        });
        let config = config.to_string();
        let config =
            write_blob(layout, "application/vnd.oci.image.config.v1+json", config.as_bytes());
        write_json(layout, "application/vnd.oci.image.manifest.v1+json", |manifest| {
            manifest["config"] = config;
            manifest["layers"] = Value::Array(layers);
        })
    }
}

/// Writes one index with an image for each architecture, under `tag`.
pub(crate) fn write_multi_platform(layout: &Path, tag: &str, images: &[Craft]) {
    let manifests: Vec<Value> = images
        .iter()
        .map(|image| {
            let mut descriptor = image.write_manifest(layout);
            descriptor["platform"] = json!({"os": "linux", "architecture": image.architecture});
            descriptor
        })
        .collect();
    let index = write_json(layout, "application/vnd.oci.image.index.v1+json", |index| {
        index["manifests"] = Value::Array(manifests);
    });
    write_index(layout, tag, index);
}

fn write_index(layout: &Path, tag: &str, mut descriptor: Value) {
    descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "manifests": [descriptor]});
    fs::write(layout.join("index.json"), index.to_string()).expect("index.json is written");
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
        .expect("oci-layout is written");
}

fn write_json(layout: &Path, media_type: &str, fill: impl FnOnce(&mut Value)) -> Value {
    let mut document = json!({"schemaVersion": 2, "mediaType": media_type});
    fill(&mut document);
    write_blob(layout, media_type, document.to_string().as_bytes())
}

fn write_blob(layout: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let digest = digest(bytes);
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory for the blobs");
    fs::write(blobs.join(&digest["sha256:".len()..]), bytes).expect("the blob is written");
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}

/// `sha256:` and the hash of these bytes in hex.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// Go's name of this machine's architecture.
pub(crate) fn machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
