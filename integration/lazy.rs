//! Layers of which runtimes fetch single files: `--compression=estargz` and `zstd:chunked`.
//!
//! That each chunk is where the table says is shown by Python, which knows no more than the two
//! specifications; that a lazy puller takes them, by containers/storage, which buildah has inside: it fetches
//! tables and chunks by ranges and makes the tree from them, as podman does. To everybody
//! else they are gzip and zstd.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::base;
use crate::build_basic::on_busybox;
use crate::executor::{Build, Ended, PLACES, Place};
use crate::image::{Image, compare, unpack};
use crate::registry::{Access, Registry};
use crate::tools;

/// Names of an archive of eStargz that are no files of the image.
const OWN: [&str; 2] = ["/.no.prefetch.landmark", "/stargz.index.json"];

const FORMATS: [&str; 2] = ["estargz", "zstd:chunked"];

/// Files of no, one and more chunks, of all owners and modes, links, and what is gone from below.
const MANY: &str = "FROM busybox AS tools
RUN mkdir /t && seq 1 400000 > /t/big && ln /t/big /t/second && ln -s big /t/link && seq 99 > /t/x \\
 && chown 3000000:4 /t/x && chmod 4755 /t/x && touch /t/empty
FROM busybox
RUN rm -r /etc/group /var && mkdir /var && for i in $(seq 60); do echo $i > /var/f$i; done && echo é > /é
COPY --from=tools /t /t
";

fn many(place: Place, format: &str) -> Build {
    let build = on_busybox(place, MANY).variable("SOURCE_DATE_EPOCH", "1600000000");
    build.flag(format!("--compression={format}"))
}

/// The annotations of the layers that have a table, lowest first.
fn annotations(image: &Image) -> Vec<&Value> {
    let layers = image.manifest["layers"].as_array().unwrap();
    layers.iter().map(|layer| &layer["annotations"]).filter(|it| !it.is_null()).collect()
}

#[test]
fn they_are_ordinary_layers_too() {
    for place in PLACES {
        let gzip = many(place, "gzip").image();
        for format in FORMATS {
            let image = many(place, format).image();
            image.validate();
            let mut tree = image.tree();
            let own = OWN.map(|name| tree.remove(name).is_some());
            assert_eq!(own, [format == "estargz"; 2], "{place:?} {format}");
            assert_eq!(compare(&tree, &gzip.tree()), Vec::<String>::new(), "{place:?} {format}");
            assert_eq!(annotations(&image).len(), 2, "{place:?} {format}");
            let suffix = if format == "estargz" { "tar+gzip" } else { "tar+zstd" };
            let media_type = image.manifest["layers"].as_array().unwrap().last().unwrap();
            assert!(media_type["mediaType"].as_str().unwrap().ends_with(suffix), "{format}");
        }
    }
}

#[test]
fn a_table_of_contents_is_no_file_of_the_next_build() {
    let layout = many(Place::Host, "estargz").run().succeeded();
    for place in PLACES {
        let dockerfile = "FROM below AS one
RUN test ! -e /stargz.index.json && test ! -e /.no.prefetch.landmark && echo 1 > /one
FROM one
COPY --from=below / /copied
";
        let built = Build::of(dockerfile).base("below", layout.out("image")).place(place).run();
        let image = built.succeeded().image();
        assert_eq!(image.layers[image.layers.len() - 2].names(), ["/one"], "{place:?}");
        let copied = image.top().names();
        assert!(copied.contains(&"/copied/t/big".to_owned()), "{place:?} {copied:?}");
        let own = copied.iter().filter(|name| OWN.iter().any(|own| name.ends_with(own)));
        assert_eq!(own.count(), 0, "{place:?} {copied:?}");
    }
}

#[test]
fn cached_layers_keep_their_tables() {
    for format in FORMATS {
        let cache = tempfile::tempdir().unwrap();
        let build = || {
            let build = many(Place::Host, format).share("cache", cache.path());
            build.flags(["--cache", "--cache-copy-layers", "--cache-repo=dir:{cache}"]).run()
        };
        let (cold, warm) = (build().succeeded(), build().succeeded());
        assert!(warm.log.contains("Cached: "), "{format}: {}", warm.log);
        let (cold, warm) = (cold.image(), warm.image());
        assert_eq!(cold.digest, warm.digest, "{format}");
        assert_eq!(annotations(&warm).len(), 2, "{format}");
    }
}

#[test]
fn what_a_table_has_no_words_for_is_told() {
    let dockerfile =
        "FROM busybox\nRUN echo 1 > \"$(printf '/not-utf8-\\377')\"\nRUN echo 2 > /two\n";
    for format in FORMATS {
        let flag = format!("--compression={format}");
        let ended = on_busybox(Place::Host, dockerfile).flag(flag).run().succeeded();
        for words in ["has no table of contents", "not-utf8-", "its name is not UTF-8"] {
            assert!(ended.log.contains(words), "{format} {words}: {}", ended.log);
        }
        assert_eq!(annotations(&ended.image()).len(), 1, "{format}");
    }
}

/// Checks each layer with a table: prints, for each file, its name and the digest of what its chunks are.
const PYTHON: &str = r#"
import base64, hashlib, io, json, os, struct, subprocess, sys, tarfile, zlib
layout = sys.argv[1] + '/blobs/'
def blob(digest):
    return open(layout + digest.replace(':', '/'), 'rb').read()
def digest(data):
    return 'sha256:' + hashlib.sha256(data).hexdigest()
def inflate(data):
    return zlib.decompressobj(wbits=31).decompress(data)
def unzstd(data):
    return subprocess.run(['zstd', '-dcq'], input=data, check=True, stdout=subprocess.PIPE).stdout
def table(layer, data):
    notes = layer['annotations']
    if 'containerd.io/snapshot/stargz/toc.digest' in notes:
        footer = data[-51:]
        assert footer[:16] == b'\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0' and footer[32:38] == b'STARGZ'
        assert footer[38:] == b'\x01\0\0\xff\xff' + bytes(8)
        toc = tarfile.open(fileobj=io.BytesIO(inflate(data[int(footer[16:32], 16):])))
        toc = toc.extractfile('stargz.index.json').read()
        assert digest(toc) == notes['containerd.io/snapshot/stargz/toc.digest']
        tar = b''
        rest = data
        while rest:
            member = zlib.decompressobj(wbits=31)
            tar += member.decompress(rest)
            rest = member.unused_data
        assert int(notes['io.containers.estargz.uncompressed-size']) == len(tar)
        return json.loads(toc), lambda at, end, size: inflate(data[at:])[:size], tar
    notes = {key.rsplit('.', 1)[1]: value for key, value in notes.items()}
    at, stored, size, kind = map(int, notes['manifest-position'].split(':'))
    assert kind == 1 and digest(data[at:at + stored]) == notes['manifest-checksum']
    split_at, split_stored, split_size = map(int, notes['tarsplit-position'].split(':'))
    want = (at, stored, size, 1, split_at, split_stored, split_size, b'GNUlInUx')
    assert struct.unpack('<7Q8s', data[-64:]) == want
    toc = unzstd(data[at:at + stored])
    toc_json = json.loads(toc)
    assert len(toc) == size and toc_json['tarSplitDigest'] == digest(data[split_at:split_at + split_stored])
    return toc_json, lambda at, end, size: unzstd(data[at:end]), unzstd(data)
manifest = json.loads(blob(sys.argv[2]))
for layer, diff_id in zip(manifest['layers'], json.loads(blob(manifest['config']['digest']))['rootfs']['diff_ids']):
    if 'annotations' not in layer:
        continue
    toc, chunk, tar = table(layer, blob(layer['digest']))
    assert toc['version'] == 1 and digest(tar) == diff_id
    archive = tarfile.open(fileobj=io.BytesIO(tar))
    members = {m.name: m for m in archive.getmembers()}
    members.pop('stargz.index.json', None)
    files = [e for e in toc['entries'] if e['type'] != 'chunk']
    assert [e['name'].rstrip('/') for e in files] == list(members)
    for entry in files:
        member = members[entry['name'].rstrip('/')]
        assert (entry['mode'], entry['uid'], entry['gid']) == (member.mode, member.uid, member.gid), entry
        if entry['type'] != 'reg' or not entry.get('size'):
            continue
        parts = [entry] + [e for e in toc['entries'] if e['type'] == 'chunk' and e['name'] == entry['name']]
        ends = [p['offset'] for p in parts[1:]] + [entry.get('endOffset')]
        content = b''
        for part, end in zip(parts, ends):
            assert part.get('chunkOffset', 0) == len(content)
            size = part.get('chunkSize') or entry['size'] - len(content)
            data = chunk(part['offset'], end, size)
            assert len(data) == size and digest(data) == part.get('chunkDigest', entry['digest']), part
            content += data
        assert content == archive.extractfile(member).read() and digest(content) == entry['digest']
        print(len(parts), entry['name'])
"#;

#[test]
fn each_chunk_is_where_the_table_says() {
    for format in FORMATS {
        for level in ["1", "9"] {
            let build = many(Place::Host, format).flag(format!("--compression-level={level}"));
            let ended = build.run().succeeded();
            let mut python = Command::new("/usr/bin/python3");
            python.arg("-c").arg(PYTHON).arg(ended.out("image")).arg(ended.image().digest);
            let told = tools::output(&mut python);
            let several: Vec<&str> = told.lines().filter(|line| !line.starts_with("1 ")).collect();
            assert_eq!(several, ["3 t/big"], "{format} {level}");
            // The files of the two layers, and two landmarks.
            let files = 61 + 2 + if format == "estargz" { 2 } else { 0 };
            assert_eq!(told.lines().count(), files, "{format} {level}: {told}");
        }
    }
}

/// Pulls the image named $2 into storage in the directory $1, and compares its tree with $3: but for owners and
/// times, which containers/storage 1.43 does not find in a table, because it looks for them as `UID` and
/// `ModTime`, and writes `uid` and `modtime` itself.
const PULL: &str = r#"
mount -t tmpfs tmpfs "$1"
mkdir "$1/tmp"
export TMPDIR="$1/tmp" CONTAINERS_STORAGE_CONF="$1/storage.conf"
cat > "$CONTAINERS_STORAGE_CONF" <<END
[storage]
driver = "overlay"
graphroot = "$1/graph"
runroot = "$1/run"
[storage.options]
pull_options = {enable_partial_images = "true"}
END
buildah --log-level=debug pull --tls-verify=false "$2" 2>&1
container=$(buildah from --pull-never "$2")
root=$(buildah mount "$container")
diff -r --no-dereference "$root" "$3" >&2
list() { cd "$1" && find . -mindepth 1 -type d -printf '%p %m\n' -o -printf '%p %y %m %s %l %n\n' | LC_ALL=C sort; }
(list "$root") > "$1/theirs"
(list "$3") > "$1/ours"
diff "$1/ours" "$1/theirs" >&2
buildah umount "$container"
"#;

/// What buildah tells of a pull, once the tree has been compared.
fn pulled(name: &str, tree: &Path) -> String {
    let storage = tempfile::tempdir().unwrap();
    let mut shell = tools::command("unshare");
    shell.args(["--mount", "/bin/sh", "-ec", PULL, "sh"]);
    shell.arg(storage.path()).arg(name).arg(tree);
    tools::find("buildah");
    tools::output(&mut shell)
}

/// The same image, but for what the annotations of zstd:chunked were called before 2024, which is what
/// Debian's buildah knows.
fn with_old_names(ended: &Ended) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let from = format!("oci:{}", ended.out("image").display());
    tools::run("skopeo", ["copy", "-q", &from, &format!("dir:{}", home.path().display())]);
    let manifest = home.path().join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("io.github.containers.zstd", "io.containers.zstd")).unwrap();
    home
}

#[test]
fn a_lazy_puller_fetches_them_by_ranges() {
    let registry = Registry::start(Access::Plain);
    let gzip = many(Place::Host, "gzip").run().succeeded();
    let home = tempfile::tempdir().unwrap();
    let tree = unpack(&gzip.out("image"), home.path());
    for format in FORMATS {
        let ended = many(Place::Host, format).run().succeeded();
        let name = registry.reference("lazy:1");
        let layout = with_old_names(&ended);
        let (from, to) = (format!("dir:{}", layout.path().display()), format!("docker://{name}"));
        tools::run("skopeo", ["copy", "-q", "--dest-tls-verify=false", &from, &to]);
        let told = pulled(&name, &tree);
        let partial = told.lines().filter(|line| line.contains("Retrieved partial blob"));
        assert_eq!(partial.count(), 2, "{format}: {told}");
    }
}

#[test]
fn registries_and_other_tools_take_them() {
    let registry = Registry::start(Access::Plain);
    for format in FORMATS {
        let name = registry.reference("lazy:1");
        let build = Build::bare().file("Dockerfile", MANY).base("busybox", base::busybox());
        let ended = build
            .flag(format!("--compression={format}"))
            .flag(format!("--destination={name}"))
            .flags(["--insecure", "--oci-layout-path={out}/image", "--tar-path={out}/image.tar"])
            .run()
            .succeeded();
        assert_eq!(Image::pull(&registry, "lazy:1").digest, ended.image().digest, "{format}");
        let archive = format!("docker-archive:{}", ended.out("image.tar").display());
        assert!(tools::run("skopeo", ["inspect", "--config", &archive]).contains("diff_ids"));
        // skopeo writes archives as it decompressed them; umoci unpacks those that are gzip.
        let plain = tempfile::tempdir().unwrap();
        let from = format!("oci:{}", ended.out("image").display());
        let to = format!("dir:{}", plain.path().display());
        tools::run("skopeo", ["copy", "-q", "--dest-decompress", &from, &to]);
        for diff_id in ended.image().config["rootfs"]["diff_ids"].as_array().unwrap() {
            let name = diff_id.as_str().unwrap().trim_start_matches("sha256:");
            assert!(plain.path().join(name).exists(), "{format} {diff_id}");
        }
        if format == "estargz" {
            let root = unpack(&ended.out("image"), plain.path());
            let numbers = (1..=400_000).flat_map(|number| format!("{number}\n").into_bytes());
            assert!(fs::read(root.join("t/big")).unwrap() == numbers.collect::<Vec<u8>>());
        }
    }
}
