//! What is in a layer is the same to readers in three languages: Rust, Python, and C (GNU tar). That
//! umoci and skopeo, in Go, make the same tree of it is shown in `registry_io`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::build_basic::on_busybox;
use crate::executor::{Ended, Place};
use crate::image::{Image, Kind};

/// Names, links, owners and sizes that plain headers have no room for.
const STEP: &str = r#"mkdir /d; cd /d; long=$(printf 'x%.0s' $(seq 200)); mkdir -p $long/$long; \
    echo 1 > $long/$long/file; ln $long/$long/file hard; ln -s /d/$long/$long/file soft; \
    echo 2 > "$(printf 'not-utf8-\377')"; echo 3 > 'a "quoted" name'; mkfifo fifo; mknod null c 1 3; \
    echo 4 > owned; chown 3000000:4000000 owned; echo 5 > set-id; chmod 4755 set-id; \
    truncate -s 3000000 hole; touch -d @-5 old; rm /etc/group"#;

/// One line for each entry: name, type, mode, owner, group, size, link target; names escaped as in Rust.
const PYTHON: &str = r#"
import subprocess, sys, tarfile
def escaped(name):
    named = {9: r'\t', 10: r'\n', 13: r'\r', 34: r'\"', 39: r"\'", 92: r'\\'}
    name = name.encode('utf-8', 'surrogateescape')
    return ''.join(named.get(b) or (chr(b) if 32 <= b < 127 else r'\x%02x' % b) for b in name)
members = tarfile.open(sys.argv[1]).getmembers()
for m in members:
    kind = {b'0': '-', b'5': 'd', b'2': 'l', b'1': 'h', b'6': 'p', b'3': 'c'}[m.type]
    print(escaped(m.name), kind, '%04o' % m.mode, m.uid, m.gid, m.size, escaped(m.linkname))
listed = subprocess.run(['tar', '-tzf', sys.argv[1], '--quoting-style=literal'],
                        check=True, stdout=subprocess.PIPE).stdout
listed = [line.rstrip(b'/') for line in listed.splitlines()]
assert listed == [m.name.encode('utf-8', 'surrogateescape') for m in members], listed
"#;

fn by_python(ended: &Ended, image: &Image) -> Vec<String> {
    let blob = image.top().digest.replace(':', "/");
    let mut python = Command::new("/usr/bin/python3")
        .arg("-")
        .arg(ended.out("image/blobs").join(blob))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(PYTHON.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn by_rust(image: &Image) -> Vec<String> {
    let line = |(path, it): &(String, crate::image::Entry)| {
        let (parent, name) = path.rsplit_once('/').unwrap();
        let (letter, mark) = match it.kind {
            Kind::File => ('-', ""),
            Kind::Directory => ('d', ""),
            Kind::Symlink => ('l', ""),
            Kind::HardLink => ('h', ""),
            Kind::Fifo => ('p', ""),
            Kind::Character => ('c', ""),
            Kind::Block => ('b', ""),
            Kind::Whiteout => ('-', ".wh."),
        };
        let name = format!("{parent}/{mark}{name}");
        let (mode, uid, gid, size, target) = (it.mode, it.uid, it.gid, it.size, &it.target);
        format!("{} {letter} {mode:04o} {uid} {gid} {size} {target}", &name[1..])
    };
    image.top().entries.iter().map(line).collect()
}

#[test]
fn readers_list_the_same_entries() {
    let ended = on_busybox(Place::Host, &format!("FROM busybox\nRUN {STEP}\n")).run().succeeded();
    let image = ended.image();
    let listed = by_rust(&image);
    assert_eq!(by_python(&ended, &image), listed);
    let count = |kind| image.top().entries.iter().filter(|(_, it)| it.kind == kind).count();
    let found = [Kind::Whiteout, Kind::HardLink, Kind::Fifo, Kind::Character].map(count);
    assert_eq!(found, [1, 1, 1, 1], "{listed:#?}");
}
