//! Layers with a table of contents: the table is where the annotations and the footer say, and each
//! chunk it names is what a reader finds who fetches that range and nothing else.

use std::fs;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::Digest as _;
use snapshot::{Compression, Contents, Difference, Index, Layer, Options, Table, Timestamp, pack};

use crate::sandbox::{PLAIN, Sandbox, set_mtime};

const CHUNK: usize = 1024 * 1024;
/// More than go to a worker at a time.
const SMALL: usize = 300;

/// A tree with files about the size of a chunk and many small ones, and all kinds of entries.
fn sandbox() -> (Sandbox, Difference) {
    let sandbox = Sandbox::new("/ /gone=1 /d/");
    let index = sandbox.index();
    sandbox.build("/ /d/ /d/x=1 /d/y==/d/x /l->b /p| /empty=");
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0] & 0x1f
    };
    for (name, size) in [("/one", CHUNK), ("/more", 2 * CHUNK + 700)] {
        fs::write(sandbox.at(name), (0..size).map(|_| next()).collect::<Vec<_>>()).unwrap();
    }
    for number in 0..SMALL {
        let name = format!("/d/small-{number}-é");
        fs::write(sandbox.at(&name), format!("{number}").repeat(3 * number)).unwrap();
        set_mtime(&sandbox.at(&name), 1_600_000_000, number.try_into().unwrap());
    }
    xattr::set(sandbox.at("/one"), "user.k", b"\xff\x00").unwrap();
    let difference = sandbox.walk(&index);
    (sandbox, difference)
}

fn packed(sandbox: &Sandbox, difference: &Difference, options: Options) -> Layer {
    pack(sandbox.root(), &mut difference.clone(), &sandbox.layers(), options).unwrap()
}

fn options(compression: Compression) -> Options {
    Options { compression, threads: 2, latest: None }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = sha2::Sha256::digest(bytes);
    digest.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn table(layer: &Layer) -> Table {
    match &layer.contents {
        Contents::Table(table) => table.clone(),
        other => panic!("{other:?}"),
    }
}

/// The first gzip member, and nothing after it.
fn member(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::bufread::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

fn all_members(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::bufread::MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

/// Follows footer and annotation to the table of eStargz; gives it with where it begins.
fn estargz_table(layer: &Layer, blob: &[u8]) -> (Value, usize) {
    let Table::Estargz { toc, uncompressed_size } = table(layer) else { panic!() };
    let footer = &blob[blob.len() - 51..];
    assert_eq!(&footer[12..16], b"SG\x16\0");
    let field = std::str::from_utf8(&footer[16..38]).unwrap();
    let at = usize::from_str_radix(field.strip_suffix("STARGZ").unwrap(), 16).unwrap();
    let archive = member(&blob[at..blob.len() - 51]);
    let mut archive = tar::Archive::new(&archive[..]);
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(&*entry.path_bytes(), b"stargz.index.json");
    let mut text = Vec::new();
    entry.read_to_end(&mut text).unwrap();
    assert_eq!(sha256(&text), toc.to_string());
    assert_eq!(uncompressed_size, layer.uncompressed_size);
    (serde_json::from_slice(&text).unwrap(), at)
}

/// Follows the annotations, and the footer, to the table of zstd:chunked.
fn zstd_table(layer: &Layer, blob: &[u8]) -> (Value, Vec<u8>) {
    let Table::ZstdChunked { toc, position, tar_split } = table(layer) else { panic!() };
    let annotations = table(layer).annotations();
    let (at, stored, raw) = position;
    assert_eq!(annotations[1].1, format!("{at}:{stored}:{raw}:1"));
    let footer = &blob[blob.len() - 64..];
    let numbers: Vec<u64> =
        footer.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap())).collect();
    assert_eq!(numbers[..7], [at, stored, raw, 1, tar_split.0, tar_split.1, tar_split.2]);
    assert_eq!(&footer[56..], b"GNUlInUx");
    let range = |(at, stored, raw): (u64, u64, u64)| {
        let (at, stored) = (usize::try_from(at).unwrap(), usize::try_from(stored).unwrap());
        assert_eq!(blob[at - 8..at - 4], [0x50, 0x2a, 0x4d, 0x18]);
        let bytes = &blob[at..at + stored];
        let text = zstd::decode_all(bytes).unwrap();
        assert_eq!(text.len() as u64, raw);
        (sha256(bytes), text)
    };
    let ((digest, text), (split_digest, split)) = (range(position), range(tar_split));
    assert_eq!(digest, toc.to_string());
    let value: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(value["tarSplitDigest"], split_digest.as_str());
    (value, split)
}

/// What the archive says of an entry, as the table should.
fn said(entry: &mut tar::Entry<'_, impl std::io::Read>) -> String {
    let header = entry.header().clone();
    let kind = match header.entry_type() {
        tar::EntryType::Regular => "reg",
        tar::EntryType::Directory => "dir",
        tar::EntryType::Link => "hardlink",
        tar::EntryType::Symlink => "symlink",
        tar::EntryType::Fifo => "fifo",
        other => panic!("{other:?}"),
    };
    let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
    let link = entry.link_name_bytes().map(|link| String::from_utf8(link.into_owned()).unwrap());
    let xattrs: Vec<String> = entry
        .pax_extensions()
        .unwrap()
        .into_iter()
        .flatten()
        .map(Result::unwrap)
        .filter_map(|record| {
            let key = record.key().unwrap().strip_prefix("SCHILY.xattr.")?;
            Some(format!("{key}={}", STANDARD.encode(record.value_bytes())))
        })
        .collect();
    let mut content = Vec::new();
    entry.read_to_end(&mut content).unwrap();
    let digest = if content.is_empty() { String::new() } else { sha256(&content) };
    let (mode, uid, gid) = (header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap());
    format!("{kind} {name} {mode} {uid} {gid} {} {link:?} {xattrs:?} {digest}", content.len())
}

fn said_by_table(entry: &Value) -> String {
    let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| entry[name].as_u64().unwrap_or_default();
    let (kind, name, link) = (text("type"), text("name"), entry["linkName"].as_str());
    let xattrs: Vec<String> = entry["xattrs"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap()))
        .collect();
    let (mode, uid, gid) = (number("mode"), number("uid"), number("gid"));
    format!(
        "{kind} {name} {mode} {uid} {gid} {} {link:?} {xattrs:?} {}",
        number("size"),
        text("digest")
    )
}

/// The table and the archive say the same of the same entries.
fn check_entries(entries: &[Value], archive: &[u8]) {
    let mut archive = tar::Archive::new(archive);
    let mut told: Vec<String> =
        archive.entries().unwrap().map(|entry| said(&mut entry.unwrap())).collect();
    told.retain(|line| !line.starts_with("reg stargz.index.json "));
    let files = entries.iter().filter(|entry| entry["type"] != "chunk");
    assert_eq!(files.map(said_by_table).collect::<Vec<_>>(), told);
    assert!(told.len() > SMALL);
}

/// Each chunk, from its range alone; gives how many there are of each file that has any.
fn check_chunks(
    entries: &[Value],
    blob: &[u8],
    read: impl Fn(&[u8], &Value) -> Vec<u8>,
) -> Vec<usize> {
    let mut counts = Vec::new();
    let mut file = (0, 0);
    for entry in entries {
        let number = |name: &str| usize::try_from(entry[name].as_u64().unwrap_or(0)).unwrap();
        if entry["type"] == "reg" {
            file = (number("size"), 0);
        }
        if number("offset") == 0 {
            continue;
        }
        assert_eq!(number("chunkOffset"), file.1, "{entry}");
        let mut content = read(&blob[number("offset")..], entry);
        let size = if number("chunkSize") == 0 { file.0 - file.1 } else { number("chunkSize") };
        assert!(content.len() >= size, "{entry}");
        content.truncate(size);
        let digest = entry["chunkDigest"].as_str().or(entry["digest"].as_str()).unwrap();
        assert_eq!(sha256(&content), digest, "{entry}");
        file.1 += size;
        match entry["type"].as_str() {
            Some("reg") => counts.push(1),
            _ => *counts.last_mut().unwrap() += 1,
        }
    }
    counts
}

#[test]
fn estargz_is_what_its_table_says() {
    let (sandbox, difference) = sandbox();
    let layer = packed(&sandbox, &difference, options(Compression::Estargz { level: 6 }));
    let blob = fs::read(layer.path()).unwrap();
    let archive = all_members(&blob);
    assert_eq!(sha256(&archive), layer.diff_id.to_string());
    assert_eq!(archive.len() as u64, layer.uncompressed_size);
    let (table, at) = estargz_table(&layer, &blob);
    assert_eq!(table["version"], 1);
    let entries = table["entries"].as_array().unwrap();
    check_entries(entries, &archive);
    assert_eq!(entries[0]["name"], ".no.prefetch.landmark");
    let counts = check_chunks(entries, &blob[..at], |bytes, _| member(bytes));
    // The landmark, the small ones of which the first is empty, one with two names, one of a chunk.
    assert_eq!(counts.iter().filter(|count| **count == 1).count(), 1 + SMALL - 1 + 1 + 1);
    assert_eq!(counts.iter().filter(|count| **count == 3).count(), 1);
}

#[test]
fn zstd_chunked_is_what_its_table_says() {
    let (sandbox, difference) = sandbox();
    let plain = packed(&sandbox, &difference, PLAIN);
    let layer = packed(&sandbox, &difference, options(Compression::ZstdChunked { level: 3 }));
    let blob = fs::read(layer.path()).unwrap();
    assert_eq!(layer.diff_id, plain.diff_id);
    let archive = zstd::decode_all(&blob[..]).unwrap();
    assert!(archive == fs::read(plain.path()).unwrap());
    let (table, split) = zstd_table(&layer, &blob);
    let entries = table["entries"].as_array().unwrap();
    check_entries(entries, &archive);
    let counts = check_chunks(entries, &blob, |bytes, entry| {
        let length = entry["endOffset"].as_u64().unwrap() - entry["offset"].as_u64().unwrap();
        // The first of several chunks says where the whole file ends.
        let bytes = &bytes[..usize::try_from(length).unwrap()];
        let mut decoder = zstd::Decoder::new(bytes).unwrap().single_frame();
        let mut content = Vec::new();
        decoder.read_to_end(&mut content).unwrap();
        content
    });
    assert_eq!(counts.iter().filter(|count| **count == 3).count(), 1);
    check_split(&split, &archive, entries);
}

/// Segments and contents, one after the other, are the archive.
fn check_split(split: &[u8], archive: &[u8], entries: &[Value]) {
    let mut rest = archive;
    let mut names = Vec::new();
    for (position, line) in std::str::from_utf8(split).unwrap().lines().enumerate() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["position"], position);
        let payload = line["payload"].as_str().map(|text| STANDARD.decode(text).unwrap());
        if line["type"] == 2 {
            rest = rest.strip_prefix(&payload.unwrap()[..]).expect("the segment");
            continue;
        }
        let size = usize::try_from(line["size"].as_u64().unwrap_or(0)).unwrap();
        let (content, next) = rest.split_at(size);
        let checksum = (size > 0).then(|| crc64(content).to_be_bytes().to_vec());
        assert_eq!(payload, checksum, "{line}");
        names.push(line["name"].clone());
        rest = next;
    }
    assert!(rest.is_empty());
    let files = entries.iter().filter(|entry| entry["type"] != "chunk");
    assert_eq!(names, files.map(|entry| entry["name"].clone()).collect::<Vec<_>>());
}

/// CRC-64 of ISO 3309, bit by bit, as Go's `hash/crc64` has it.
fn crc64(bytes: &[u8]) -> u64 {
    !bytes.iter().fold(!0_u64, |sum, byte| {
        (0..8).fold(sum ^ u64::from(*byte), |sum, _| {
            if sum & 1 == 1 { (sum >> 1) ^ 0xd800_0000_0000_0000 } else { sum >> 1 }
        })
    })
}

#[test]
fn the_bytes_do_not_depend_on_the_threads() {
    let (sandbox, difference) = sandbox();
    for (compression, latest) in [
        (Compression::Estargz { level: 1 }, None),
        (Compression::Estargz { level: 6 }, Some(Timestamp::new(0, 0))),
        (Compression::ZstdChunked { level: 1 }, Some(Timestamp::new(0, 0))),
        (Compression::ZstdChunked { level: 7 }, None),
    ] {
        let [first, rest @ ..] = [1, 2, 5].map(|threads| {
            let layer = packed(&sandbox, &difference, Options { compression, threads, latest });
            (layer.digest, layer.diff_id, table(&layer))
        });
        assert!(rest.iter().all(|it| *it == first), "{compression:?}");
    }
}

/// A digest that changes here changes that of every such layer, and the caches of all users miss once.
#[test]
fn golden_digests() {
    let (sandbox, difference) = sandbox();
    for (compression, want) in [
        (
            Compression::Estargz { level: 1 },
            "sha256:07a6d474e8d211c535dab7a9c6a04355a85011277f5cb79314d3b3cd7956e7c4",
        ),
        (
            Compression::ZstdChunked { level: 1 },
            "sha256:059f9876522d03095749eaf0594728d8738395b5fbf94dfb41916c61e42504b6",
        ),
    ] {
        let options = Options { compression, threads: 2, latest: Some(Timestamp::new(1_000, 0)) };
        let layer = packed(&sandbox, &difference, options);
        assert_eq!(layer.digest.to_string(), want, "{compression:?}");
    }
}

#[test]
fn a_layer_without_entries_has_a_table() {
    let sandbox = Sandbox::new("/");
    let nothing = Difference::default();
    let estargz = packed(&sandbox, &nothing, options(Compression::Estargz { level: 1 }));
    let (table, _) = estargz_table(&estargz, &fs::read(estargz.path()).unwrap());
    assert_eq!(table["entries"].as_array().unwrap().len(), 1);
    let chunked = packed(&sandbox, &nothing, options(Compression::ZstdChunked { level: 1 }));
    let (table, split) = zstd_table(&chunked, &fs::read(chunked.path()).unwrap());
    assert_eq!((table["entries"].as_array().unwrap().len(), split.is_empty()), (0, false));
}

#[test]
fn what_a_table_has_no_words_for_is_packed_without_one() {
    let sandbox = Sandbox::new("/");
    let index: Index = sandbox.index();
    fs::write(sandbox.at("/stargz.index.json"), "mine").unwrap();
    let difference = sandbox.walk(&index);
    let level = 1;
    let layer = packed(&sandbox, &difference, options(Compression::Estargz { level }));
    let Contents::Unfit { path, .. } = &layer.contents else { panic!("{:?}", layer.contents) };
    assert_eq!(path.to_string(), "/stargz.index.json");
    let gzip = packed(&sandbox, &difference, options(Compression::Gzip { level }));
    assert_eq!((layer.digest, &gzip.contents), (gzip.digest, &Contents::NotAsked));
    table(&packed(&sandbox, &difference, options(Compression::ZstdChunked { level: 1 })));
}
