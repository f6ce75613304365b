//! Reads an image back and says everything about it.
//!
//! The reader shares no code with the executor: it has its own tar walk, its
//! own rules for whiteouts, its own hashes. What it reports can therefore be held
//! against what was built.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::craft::digest;
use crate::registry::Registry;
use crate::tools;

/// What kind of file an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    /// A second name of a file; its target is another path of the image.
    HardLink,
    Fifo,
    Character,
    Block,
    /// A removal, or the mark of an opaque directory.
    Whiteout,
}

impl Kind {
    fn letter(self) -> char {
        match self {
            Self::File => '-',
            Self::Directory => 'd',
            Self::Symlink => 'l',
            Self::HardLink => 'h',
            Self::Fifo => 'p',
            Self::Character => 'c',
            Self::Block => 'b',
            Self::Whiteout => 'w',
        }
    }
}

/// One file of a layer or of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    /// Seconds and, where the archive has it, their fraction, as written.
    pub(crate) mtime: String,
    pub(crate) target: String,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// A regular file's bytes: short text as it is, in quotes; anything else by digest.
    pub(crate) content: Option<String>,
}

/// A line without the time: `- 0644 0:0 5 "bytes"`, `l 0777 0:0 0 -> target`.
impl fmt::Display for Entry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = self.kind.letter();
        write!(out, "{letter} {:04o} {}:{} {}", self.mode, self.uid, self.gid, self.size)?;
        if !self.target.is_empty() {
            write!(out, " -> {}", self.target)?;
        }
        if matches!(self.kind, Kind::Character | Kind::Block) {
            write!(out, " {},{}", self.device.0, self.device.1)?;
        }
        if let Some(content) = &self.content {
            write!(out, " {content}")?;
        }
        for (name, value) in &self.xattrs {
            write!(out, " {name}={}", value.escape_ascii())?;
        }
        Ok(())
    }
}

/// One layer, its entries in the order of the archive.
pub(crate) struct Layer {
    pub(crate) digest: String,
    pub(crate) entries: Vec<(String, Entry)>,
    diff_id: String,
    problems: Vec<String>,
}

impl Layer {
    /// The names of everything but directories; whiteouts as `-/path`.
    pub(crate) fn names(&self) -> Vec<String> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.kind != Kind::Directory)
            .map(|(path, entry)| match entry.kind {
                Kind::Whiteout => format!("-{path}"),
                _ => path.clone(),
            })
            .collect()
    }
}

/// An image that was read in full.
pub(crate) struct Image {
    pub(crate) manifest: Value,
    pub(crate) config: Value,
    pub(crate) layers: Vec<Layer>,
    pub(crate) digest: String,
    problems: Vec<String>,
}

/// Lets umoci unpack the only image of an OCI layout below `home`, and answers where its root is.
pub(crate) fn unpack(layout: &Path, home: &Path) -> PathBuf {
    let (copy, rootfs) = (home.join("copy"), home.join("rootfs"));
    // The copy gets a tag, which umoci wants; the digests stay.
    let from = format!("oci:{}", layout.display());
    let to = format!("oci:{}:x", copy.display());
    tools::run("skopeo", ["--insecure-policy", "copy", "--quiet", &from, &to]);
    let image = format!("{}:x", copy.display());
    // Not into a bundle: for its configuration umoci reads accounts, which an image need not have.
    tools::run("umoci", ["raw", "unpack", "--image", &image, &rootfs.display().to_string()]);
    rootfs
}

/// What the image's files are, once every layer is laid over the ones below.
pub(crate) type Tree = BTreeMap<String, Entry>;

impl Image {
    /// Reads the only image of an OCI layout.
    pub(crate) fn open(layout: &Path) -> Self {
        let index = read_json(&layout.join("index.json"));
        let manifests = index["manifests"].as_array().expect("an index has manifests");
        assert_eq!(manifests.len(), 1, "one image in {}: {index}", layout.display());
        Self::read(layout, &manifests[0])
    }

    /// Reads an image of a registry through skopeo.
    pub(crate) fn pull(registry: &Registry, name: &str) -> Self {
        let layout = tempfile::tempdir().expect("a directory for the image");
        registry.pull(name, layout.path());
        Self::open(layout.path())
    }

    fn read(layout: &Path, descriptor: &Value) -> Self {
        let mut problems = Vec::new();
        let manifest_bytes = read_blob(layout, descriptor, &mut problems);
        let manifest: Value = serde_json::from_slice(&manifest_bytes).expect("manifest is JSON");
        if let Some(own) = manifest.get("mediaType")
            && *own != descriptor["mediaType"]
        {
            problems.push(format!("manifest says {own}, its descriptor {descriptor}"));
        }
        problems.extend(mixed_types(&manifest, &descriptor["mediaType"]));
        let config_bytes = read_blob(layout, &manifest["config"], &mut problems);
        let config: Value = serde_json::from_slice(&config_bytes).expect("config is JSON");
        let layers = manifest["layers"].as_array().expect("a manifest has layers");
        let layers = layers.iter().map(|layer| read_layer(layout, layer)).collect();
        Self { manifest, config, layers, digest: digest(&manifest_bytes), problems }
    }

    /// The value at a JSON pointer below the config's `config`.
    pub(crate) fn setting(&self, pointer: &str) -> &Value {
        self.config["config"].pointer(pointer).unwrap_or(&Value::Null)
    }

    /// `created_by` of every history entry; those without a layer begin with `# `.
    pub(crate) fn history(&self) -> Vec<String> {
        let history = self.config["history"].as_array().cloned().unwrap_or_default();
        history
            .iter()
            .map(|entry| {
                let empty = entry["empty_layer"].as_bool().unwrap_or(false);
                let by = entry["created_by"].as_str().unwrap_or_default();
                format!("{}{by}", if empty { "# " } else { "" })
            })
            .collect()
    }

    /// The layer that was added last.
    pub(crate) fn top(&self) -> &Layer {
        self.layers.last().expect("the image has a layer")
    }

    /// All layers laid over each other.
    pub(crate) fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        for layer in &self.layers {
            lay_over(&mut tree, layer);
        }
        tree
    }

    /// Everything that the image specification would object to.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = self.problems.clone();
        problems.extend(self.layers.iter().flat_map(|layer| layer.problems.iter().cloned()));
        let diff_ids: Vec<&str> = self.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let said = &self.config["rootfs"]["diff_ids"];
        if *said != serde_json::json!(diff_ids) {
            problems.push(format!("diff IDs are {diff_ids:?}, the config says {said}"));
        }
        let with_layer = self.history().iter().filter(|by| !by.starts_with("# ")).count();
        if with_layer != self.layers.len() {
            problems.push(format!(
                "{with_layer} history entries with a layer, {} layers",
                self.layers.len()
            ));
        }
        problems
    }

    /// Fails where the image breaks the specification.
    pub(crate) fn validate(&self) {
        assert_eq!(self.problems(), Vec::<String>::new());
    }
}

/// Parts that are OCI's in an image of Docker's kind, or the other way round.
fn mixed_types(manifest: &Value, of: &Value) -> Vec<String> {
    let is_docker = |kind: &Value| kind.as_str().is_some_and(|kind| kind.contains(".docker."));
    let layers = manifest["layers"].as_array().into_iter().flatten();
    layers
        .chain([&manifest["config"]])
        .filter(|part| is_docker(&part["mediaType"]) != is_docker(of))
        .map(|part| format!("{} in an image of type {of}", part["mediaType"]))
        .collect()
}

/// What differs between two trees, one line for each path; times left out.
pub(crate) fn compare(left: &Tree, right: &Tree) -> Vec<String> {
    let paths: BTreeSet<&String> = left.keys().chain(right.keys()).collect();
    let line = |tree: &Tree, path: &str| {
        tree.get(path).map_or_else(|| "absent".to_owned(), Entry::to_string)
    };
    paths
        .into_iter()
        .map(|path| (path, line(left, path), line(right, path)))
        .filter(|(_, left, right)| left != right)
        .map(|(path, left, right)| format!("{path}: {left} | {right}"))
        .collect()
}

/// Applies a layer by the rules of the image specification.
fn lay_over(tree: &mut Tree, layer: &Layer) {
    for (path, entry) in layer.entries.iter().filter(|(_, entry)| entry.kind == Kind::Whiteout) {
        remove_below(tree, path);
        if entry.target != "opaque" {
            tree.remove(path);
        }
    }
    for (path, entry) in layer.entries.iter().filter(|(_, entry)| entry.kind != Kind::Whiteout) {
        if entry.kind != Kind::Directory {
            remove_below(tree, path);
        }
        let entry = match entry.kind {
            // Both names are the same file; which is the first is of no account.
            Kind::HardLink => tree.get(&normal(&entry.target)).unwrap_or(entry).clone(),
            _ => entry.clone(),
        };
        tree.insert(path.clone(), entry);
    }
}

fn remove_below(tree: &mut Tree, path: &str) {
    let below = format!("{}/", path.trim_end_matches('/'));
    let names = tree.range(below.clone()..).map(|(name, _)| name);
    let names: Vec<String> = names.take_while(|name| name.starts_with(&below)).cloned().collect();
    for name in names {
        tree.remove(&name);
    }
}

fn read_json(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn blob_path(layout: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().expect("a descriptor has a digest");
    layout.join("blobs").join(digest.replace(':', "/"))
}

fn read_blob(layout: &Path, descriptor: &Value, problems: &mut Vec<String>) -> Vec<u8> {
    let path = blob_path(layout, descriptor);
    let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if descriptor["size"] != bytes.len() {
        problems.push(format!("{descriptor} has {} bytes", bytes.len()));
    }
    if descriptor["digest"] != digest(&bytes).as_str() {
        problems.push(format!("{descriptor} hashes to {}", digest(&bytes)));
    }
    bytes
}

fn read_layer(layout: &Path, descriptor: &Value) -> Layer {
    let path = blob_path(layout, descriptor);
    let media_type = descriptor["mediaType"].as_str().expect("a layer has a media type");
    let mut problems = blob_problems(&path, descriptor);
    let blob = BufReader::new(File::open(&path).expect("the blob is there"));
    let mut tar = Hashing::new(inflate(media_type, blob));
    let entries = read_entries(&mut tar, &mut problems);
    std::io::copy(&mut tar, &mut std::io::sink()).expect("the layer is read to its end");
    Layer {
        digest: descriptor["digest"].as_str().unwrap_or_default().to_owned(),
        entries,
        diff_id: tar.digest(),
        problems,
    }
}

fn blob_problems(path: &Path, descriptor: &Value) -> Vec<String> {
    let mut blob = Hashing::new(File::open(path).expect("the blob is there"));
    let size = std::io::copy(&mut blob, &mut std::io::sink()).expect("the blob is read");
    let digest = blob.digest();
    if descriptor["size"] == size && descriptor["digest"] == digest.as_str() {
        return Vec::new();
    }
    vec![format!("{descriptor} has {size} bytes that hash to {digest}")]
}

fn inflate(media_type: &str, blob: impl Read + 'static) -> Box<dyn Read> {
    if media_type.ends_with("gzip") {
        Box::new(flate2::read::MultiGzDecoder::new(blob))
    } else if media_type.ends_with("zstd") {
        Box::new(zstd::Decoder::new(blob).expect("zstd starts"))
    } else {
        assert!(media_type.ends_with(".tar"), "a layer of type {media_type}");
        Box::new(blob)
    }
}

fn read_entries(tar: &mut impl Read, problems: &mut Vec<String>) -> Vec<(String, Entry)> {
    let mut archive = tar::Archive::new(tar);
    let mut seen = BTreeSet::new();
    let mut entries = Vec::new();
    for entry in archive.entries().expect("a tar") {
        let mut entry = entry.expect("the tar's next header");
        let name = entry.path_bytes().escape_ascii().to_string();
        let read = read_entry(&mut entry);
        problems.extend(name_problems(&name, &read, &mut seen));
        entries.push(place(&name, read));
    }
    entries
}

fn name_problems(name: &str, entry: &Entry, seen: &mut BTreeSet<String>) -> Vec<String> {
    let mut problems = Vec::new();
    if !seen.insert(normal(name)) {
        problems.push(format!("{name} is twice in one layer"));
    }
    if name.starts_with('/') || name.split('/').any(|part| part == "..") {
        problems.push(format!("{name} leaves the root"));
    }
    if entry.kind == Kind::HardLink && !seen.contains(&normal(&entry.target)) {
        problems.push(format!("{name} links to {}, not in this layer before it", entry.target));
    }
    if entry.kind == Kind::HardLink && entry.target.starts_with('/') {
        problems.push(format!("{name} links to {}: not relative", entry.target));
    }
    problems
}

/// Absolute, without `.` and the slash at the end.
fn normal(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    format!("/{}", parts.join("/"))
}

/// Turns the names of whiteouts into what they remove.
fn place(name: &str, mut entry: Entry) -> (String, Entry) {
    let path = normal(name);
    let (parent, last) = path.rsplit_once('/').expect("it is absolute");
    let removed = match last.strip_prefix(".wh.") {
        Some(".wh..opq") => {
            "opaque".clone_into(&mut entry.target);
            normal(parent)
        }
        Some(removed) => format!("{parent}/{removed}"),
        None => return (path, entry),
    };
    entry.kind = Kind::Whiteout;
    (removed, entry)
}

fn read_entry(entry: &mut tar::Entry<'_, impl Read>) -> Entry {
    let mut xattrs = BTreeMap::new();
    let mut mtime = entry.header().mtime().expect("an mtime").to_string();
    for extension in entry.pax_extensions().expect("PAX headers").into_iter().flatten() {
        let extension = extension.expect("a PAX record");
        let key = extension.key().expect("a PAX key is text");
        if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
            xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
        } else if key == "mtime" {
            extension.value().expect("a time is text").clone_into(&mut mtime);
        }
    }
    let kind = kind_of(entry.header().entry_type());
    let target = entry.link_name_bytes().map(|name| name.escape_ascii().to_string());
    let header = entry.header();
    let device = |field: std::io::Result<Option<u32>>| field.ok().flatten().unwrap_or(0);
    let mut read = Entry {
        kind,
        mode: header.mode().expect("a mode") & 0o7777,
        uid: header.uid().expect("an owner"),
        gid: header.gid().expect("a group"),
        size: entry.size(),
        mtime,
        target: target.unwrap_or_default(),
        device: (device(header.device_major()), device(header.device_minor())),
        xattrs,
        content: None,
    };
    if kind == Kind::File {
        read.content = Some(read_content(entry, read.size));
    }
    read
}

fn read_content(mut file: impl Read, size: u64) -> String {
    /// Up to this size a failure shows the text.
    const SHORT: u64 = 200;
    if size <= SHORT {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).expect("the file's bytes");
        return format!("\"{}\"", bytes.escape_ascii());
    }
    let mut content = Hashing::new(file);
    std::io::copy(&mut content, &mut std::io::sink()).expect("the file's bytes");
    content.digest()
}

fn kind_of(kind: tar::EntryType) -> Kind {
    match kind {
        tar::EntryType::Regular | tar::EntryType::Continuous => Kind::File,
        tar::EntryType::Directory => Kind::Directory,
        tar::EntryType::Symlink => Kind::Symlink,
        tar::EntryType::Link => Kind::HardLink,
        tar::EntryType::Fifo => Kind::Fifo,
        tar::EntryType::Char => Kind::Character,
        tar::EntryType::Block => Kind::Block,
        other => panic!("an entry of type {other:?}"),
    }
}

/// A reader that hashes what goes through it.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    fn digest(self) -> String {
        let hex: String = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
