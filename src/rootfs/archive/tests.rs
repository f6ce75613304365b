use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;
use crate::rootfs::crafted::{Crafted, record};

/// What is found: `TYPE NAME[ -> TARGET] SIZE` for each entry, or the error.
fn listed(bytes: &[u8]) -> Result<Vec<String>, String> {
    let mut archive = Archive::new(bytes);
    let mut lines = Vec::new();
    while let Some(member) = archive.next_member().map_err(|error| error.to_string())? {
        let name = String::from_utf8_lossy(&member.name).into_owned();
        let text = |target: &[u8]| String::from_utf8_lossy(target).into_owned();
        lines.push(match &member.kind {
            MemberKind::File { size } => format!("- {name} {size}"),
            MemberKind::Dir => format!("d {} 0", name.trim_end_matches('/')),
            MemberKind::Symlink(target) => format!("l {name} -> {} 0", text(target)),
            MemberKind::HardLink(target) => format!("h {name} -> {} 0", text(target)),
            MemberKind::Fifo => format!("p {name} 0"),
            MemberKind::CharDevice { major, minor } => format!("c {name} {major},{minor}"),
            MemberKind::BlockDevice { major, minor } => format!("b {name} {major},{minor}"),
        });
    }
    Ok(lines)
}

fn piped(program: &str, arguments: &[&str], input: &[u8]) -> (bool, String) {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    // A reader that has seen enough closes its end.
    let _ = child.stdin.take().expect("piped").write_all(input);
    let output = child.wait_with_output().expect("the program ends");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The same listing by GNU tar, `None` where it complains.
fn by_gnu(bytes: &[u8]) -> Option<Vec<String>> {
    let arguments = ["--numeric-owner", "--quoting-style=literal", "-tvf", "-"];
    let (good, text) = piped("tar", &arguments, bytes);
    good.then(|| text.lines().map(of_gnu).collect())
}

/// `hrw-r--r-- 0/0 0 1970-01-01 00:16 name link to target` in our words.
fn of_gnu(line: &str) -> String {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (kind, size) = (&line[..1], fields[2]);
    let name = fields[5..].join(" ").replace(" link to ", " -> ");
    match kind {
        "d" => format!("d {} 0", name.trim_end_matches('/')),
        "c" | "b" => format!("{kind} {name} {size}"),
        _ => format!("{kind} {name} {size}"),
    }
}

const PYTHON: &str = r"
import sys, io, tarfile
for m in tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()), mode='r:', errorlevel=2):
    size = m.size if m.isreg() else 0
    if m.isdir(): print('d', m.name.rstrip('/'), 0)
    elif m.issym(): print('l', m.name, '->', m.linkname, 0)
    elif m.islnk(): print('h', m.name, '->', m.linkname, 0)
    elif m.isfifo(): print('p', m.name, 0)
    elif m.ischr(): print('c', m.name, f'{m.devmajor},{m.devminor}')
    elif m.isblk(): print('b', m.name, f'{m.devmajor},{m.devminor}')
    else: print('-', m.name, size)
";

fn by_python(bytes: &[u8]) -> Option<Vec<String>> {
    let (good, text) = piped("python3", &["-c", PYTHON], bytes);
    good.then(|| text.lines().map(str::to_owned).collect())
}

#[test]
fn odd_archives_read_as_elsewhere() {
    let long = format!("{}/{}", "d".repeat(90), "f".repeat(120));
    let gnu_long = [long.as_bytes(), b"\0"].concat();
    let big_owner = |header: &mut [u8; 512]| {
        header[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0, 0x2d, 0xc6, 0xc0]);
    };
    for (what, bytes, want) in [
        ("plain", Crafted::new().dir("d/").file("d/f", b"abc").end(), vec!["d d 0", "- d/f 3"]),
        ("no end", Crafted::new().file("f", b"abc").cut(), vec!["- f 3"]),
        (
            "one zero block",
            Crafted::new().file("f", b"abc").content(&[0; 512]).cut(),
            vec!["- f 3"],
        ),
        (
            "rubbish behind the end",
            [Crafted::new().file("f", b"").end(), vec![b'x'; 700]].concat(),
            vec!["- f 0"],
        ),
        (
            "kinds",
            Crafted::new()
                .file("f", b"")
                .link(b'1', "h", "f")
                .link(b'2', "l", "../x")
                .bare(b'6', "p")
                .end(),
            vec!["- f 0", "h h -> f 0", "l l -> ../x 0", "p p 0"],
        ),
        (
            "devices",
            Crafted::new()
                .header(b'3', "c", 0, |h| h[329..344].copy_from_slice(b"0000001\x000000003"))
                .end(),
            vec!["c c 1,3"],
        ),
        (
            "gnu long name",
            Crafted::new().extension(b'L', &gnu_long).file("short", b"1").end(),
            vec!["LONG"],
        ),
        (
            "pax path",
            Crafted::new().pax(&[("path", long.as_bytes())]).file("short", b"1").end(),
            vec!["LONG"],
        ),
        (
            "pax size over header's",
            Crafted::new()
                .pax(&[("size", b"600")])
                .header(b'0', "f", 0, |_| {})
                .content(&[7; 600])
                .file("g", b"")
                .end(),
            vec!["- f 600", "- g 0"],
        ),
        (
            "pax size under header's",
            Crafted::new()
                .pax(&[("size", b"0")])
                .header(b'0', "f", 512, |_| {})
                .file("g", b"")
                .end(),
            vec!["- f 0", "- g 0"],
        ),
        (
            "x then L",
            Crafted::new()
                .pax(&[("uid", b"7"), ("size", b"3")])
                .extension(b'L', &gnu_long)
                .header(b'0', "s", 3, |_| {})
                .content(b"abc")
                .end(),
            vec!["LONG3"],
        ),
        (
            "global comment",
            Crafted::new().extension(b'g', &record("comment", b"0123abcd")).file("f", b"").end(),
            vec!["- f 0"],
        ),
        ("base 256", Crafted::new().header(b'0', "f", 0, big_owner).end(), vec!["- f 0"]),
        (
            "negative time",
            Crafted::new()
                .header(b'0', "f", 0, |h| {
                    h[136..148].copy_from_slice(&[
                        255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 254,
                    ]);
                })
                .end(),
            vec!["- f 0"],
        ),
        ("old directory", Crafted::new().header(0, "d/", 0, |_| {}).end(), vec!["d d 0"]),
        (
            "prefix",
            Crafted::new().header(b'0', "f", 0, |h| h[345..348].copy_from_slice(b"a/b")).end(),
            vec!["- a/b/f 0"],
        ),
        (
            "a name of 100 bytes",
            Crafted::new().header(b'0', &"n".repeat(100), 0, |_| {}).end(),
            vec!["N100"],
        ),
        (
            "size of a hard link",
            Crafted::new().file("f", b"abc").header(b'1', "h", 3, |h| h[157] = b'f').end(),
            vec!["- f 3", "h h -> f 0"],
        ),
        (
            "spaces in numbers",
            Crafted::new()
                .header(b'0', "f", 0, |h| h[124..136].copy_from_slice(b"          3 "))
                .content(b"abc")
                .end(),
            vec!["- f 3"],
        ),
    ] {
        let want: Vec<String> = want
            .iter()
            .map(|line| match *line {
                "LONG" => format!("- {long} 1"),
                "LONG3" => format!("- {long} 3"),
                "N100" => format!("- {} 0", "n".repeat(100)),
                line => line.to_owned(),
            })
            .collect();
        assert_eq!(listed(&bytes), Ok(want.clone()), "{what}");
        assert_eq!(by_gnu(&bytes), Some(want.clone()), "GNU tar: {what}");
        assert_eq!(by_python(&bytes), Some(want), "Python: {what}");
    }
}

#[test]
fn what_cannot_be_trusted_is_refused() {
    let file = || Crafted::new().file("f", b"abc");
    let big = vec![b'a'; (1 << 20) + 1];
    for (what, bytes, why) in [
        ("cut in a header", file().cut()[..700].to_vec(), "cut short"),
        ("cut in the content", file().cut()[..514].to_vec(), "cut short"),
        ("cut in the padding", file().cut()[..1000].to_vec(), "cut short"),
        (
            "a flipped bit",
            {
                let mut b = file().end();
                b[2] ^= 1;
                b
            },
            "checksum",
        ),
        (
            "one zero block inside",
            [file().content(&[0; 512]).cut(), file().end()].concat(),
            "zeros",
        ),
        (
            "negative size",
            Crafted::new().header(b'0', "f", 0, |h| h[124..136].copy_from_slice(&[255; 12])).end(),
            "size",
        ),
        (
            "size of 2^63",
            Crafted::new()
                .header(b'0', "f", 0, |h| {
                    h[124..136].copy_from_slice(&[0x80, 0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 0]);
                })
                .end(),
            "size",
        ),
        (
            "no octal size",
            Crafted::new()
                .header(b'0', "f", 0, |h| h[124..136].copy_from_slice(b"00000000008\0"))
                .end(),
            "size",
        ),
        (
            "a size behind a NUL",
            Crafted::new()
                .header(b'0', "f", 0, |h| h[124..136].copy_from_slice(b"\x0000000000003"))
                .end(),
            "size",
        ),
        (
            "pax size of 2^63",
            Crafted::new().pax(&[("size", b"9223372036854775808")]).file("f", b"").end(),
            "size",
        ),
        ("negative pax size", Crafted::new().pax(&[("size", b"-1")]).file("f", b"").end(), "size"),
        (
            "NUL in a pax name",
            Crafted::new().pax(&[("path", b"a\0b")]).file("f", b"").end(),
            "path",
        ),
        (
            "a malformed record",
            Crafted::new().extension(b'x', b"12 path=a\n").file("f", b"").end(),
            "malformed",
        ),
        (
            "a record without end",
            Crafted::new().extension(b'x', b"9 path=ab").file("f", b"").end(),
            "malformed",
        ),
        (
            "x and x",
            Crafted::new().pax(&[("path", b"a")]).pax(&[("path", b"b")]).file("f", b"").end(),
            "two extended headers",
        ),
        (
            "L and L",
            Crafted::new().extension(b'L', b"a\0").extension(b'L', b"b\0").file("f", b"").end(),
            "two long names",
        ),
        (
            "x and L at odds",
            Crafted::new().pax(&[("path", b"a")]).extension(b'L', b"b\0").file("f", b"").end(),
            "different name",
        ),
        (
            "x and K at odds",
            Crafted::new()
                .pax(&[("linkpath", b"a")])
                .extension(b'K', b"b\0")
                .link(b'2', "l", "c")
                .end(),
            "different link target",
        ),
        ("x at the end", Crafted::new().pax(&[("path", b"a")]).end(), "without an entry"),
        ("a long extension", Crafted::new().extension(b'L', &big).file("f", b"").end(), "1 MiB"),
        ("an endless extension", Crafted::new().header(b'x', "x", 1 << 40, |_| {}).end(), "1 MiB"),
        (
            "a global name",
            Crafted::new().extension(b'g', &record("path", b"a")).file("f", b"").end(),
            "global",
        ),
        (
            "a global size",
            Crafted::new().extension(b'g', &record("size", b"1")).file("f", b"").end(),
            "global",
        ),
        (
            "sparse without a map",
            Crafted::new().header(b'S', "f", 5, |_| {}).content(b"abcde").end(),
            "5 are stored",
        ),
        (
            "sparse in two forms",
            Crafted::new().pax(&[("GNU.sparse.size", b"1")]).bare(b'S', "f").end(),
            "two forms",
        ),
        (
            "a sparse directory",
            Crafted::new().pax(&[("GNU.sparse.size", b"1")]).dir("d/").end(),
            "no file",
        ),
        (
            "pax sparse",
            Crafted::new().pax(&[("GNU.sparse.major", b"1")]).file("f", b"").end(),
            "without a size",
        ),
        ("an unknown type", Crafted::new().bare(b'V', "label").end(), "unknown entry type"),
        (
            "a directory with content",
            Crafted::new().header(b'5', "d", 3, |_| {}).content(b"abc").end(),
            "cannot have content",
        ),
        (
            "a link with content",
            Crafted::new().header(b'2', "l", 3, |h| h[157] = b'x').content(b"abc").end(),
            "cannot have content",
        ),
        ("no name", Crafted::new().file("", b"").end(), "no name"),
        ("no target", Crafted::new().bare(b'2', "l").end(), "no link target"),
        (
            "an owner that means unchanged",
            Crafted::new().pax(&[("uid", b"4294967295")]).file("f", b"").end(),
            "out of range",
        ),
        (
            "a negative owner",
            Crafted::new().header(b'0', "f", 0, |h| h[108..116].copy_from_slice(&[255; 8])).end(),
            "out of range",
        ),
        ("no archive", vec![b'x'; 2048], "checksum"),
    ] {
        let told = listed(&bytes).expect_err(what);
        assert!(told.contains(why), "{what}: {told}");
    }
}

#[test]
fn an_empty_archive_is_one() {
    for bytes in [vec![], vec![0; 512], vec![0; 1024], vec![0; 10240]] {
        assert_eq!(listed(&bytes), Ok(Vec::new()), "{} bytes", bytes.len());
    }
}

#[test]
fn extensions_reach_their_entry_and_no_other() {
    let capability = b"\x01\0\0\x02\n\n=\0 9 a=b\n";
    let bytes = Crafted::new()
        .extension(b'g', &[record("uid", b"5"), record("SCHILY.xattr.user.g", b"g")].concat())
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.g", b"own"),
            ("mtime", b"-1.5"),
            ("gid", b"70000"),
        ])
        .header(b'0', "a", 0, |header| header[100..107].copy_from_slice(b"0104755"))
        .file("b", b"")
        .end();
    let mut archive = Archive::new(&bytes[..]);
    let first = archive.next_member().expect("good").expect("two entries");
    assert_eq!((first.mode, first.uid, first.gid), (0o4755, 5, 70000));
    assert_eq!(first.mtime, Timestamp::new(-2, 500_000_000));
    let attribute = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
    let own = [attribute(b"security.capability", capability), attribute(b"user.g", b"own")];
    assert_eq!(first.xattrs, own);
    let second = archive.next_member().expect("good").expect("two entries");
    assert_eq!((second.uid, second.gid), (5, 0));
    assert_eq!(second.mtime, Timestamp::new(1000, 0));
    assert_eq!(second.xattrs, [attribute(b"user.g", b"g")]);
}

#[test]
fn content_that_is_not_wanted_is_passed_over() {
    let bytes = Crafted::new().file("a", &[1; 1000]).file("b", b"two").end();
    let mut archive = Archive::new(&bytes[..]);
    for (part, want) in [(10, "- a 1000"), (0, "- b 3")] {
        let member = archive.next_member().expect("good").expect("two entries");
        assert!(want.contains(&*String::from_utf8_lossy(&member.name)));
        let mut some = vec![0; part];
        archive.read_exact(&mut some).expect("there is more");
    }
    let mut rest = String::new();
    archive.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "two");
}

#[test]
fn the_source_is_read_to_its_end() {
    struct Checked<'a>(&'a [u8]);
    impl Read for Checked<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::other("the checksum is wrong")),
                got => Ok(got),
            }
        }
    }
    let bytes = Crafted::new().file("a", b"1").end();
    let mut archive = Archive::new(Checked(&bytes));
    assert!(archive.next_member().expect("the entry is fine").is_some());
    let told = archive.next_member().expect_err("the end is not").to_string();
    assert!(told.contains("checksum"), "{told}");
}

/// What GNU tar makes of sparse files, in each of its forms, has the content of the files.
#[test]
fn sparse_files_are_read_with_their_holes() {
    use std::io::{Seek as _, SeekFrom};
    let home = tempfile::tempdir().expect("a directory");
    let parts: [(&str, u64, Vec<u64>); 4] = [
        ("holes", 5_000_001, vec![0, 1_000_000, 3_000_000, 4_999_990]),
        ("empty", 2_000_000, vec![]),
        ("many", 20_000_000, (0..200).map(|part| part * 100_000).collect()),
        (&"long/".repeat(30), 1_000_000, vec![500_000]),
    ];
    let mut want = Vec::new();
    for (name, size, starts) in &parts {
        let path = home.path().join(format!("{name}f"));
        std::fs::create_dir_all(path.parent().expect("below")).expect("its directory");
        let mut file = std::fs::File::create(&path).expect("a file");
        file.set_len(*size).expect("room");
        for start in starts {
            file.seek(SeekFrom::Start(*start)).expect("within");
            file.write_all(b"some text").expect("room");
        }
        want.push((format!("{name}f").into_bytes(), std::fs::read(&path).expect("readable")));
    }
    want.sort();
    for form in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let packed = Command::new("tar")
            .args(["-cS", "--hole-detection=seek", "-C"])
            .arg(home.path())
            .args(form)
            .args(want.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()))
            .output()
            .expect("tar");
        assert!(packed.status.success(), "{form:?}");
        assert!(packed.stdout.len() < 3_000_000, "{form:?}: tar found no holes");
        let mut archive = Archive::new(&packed.stdout[..]);
        let mut found = Vec::new();
        while let Some(member) = archive.next_member().expect("well formed") {
            let mut content = Vec::new();
            archive.read_to_end(&mut content).expect("well formed");
            assert_eq!(member.kind, MemberKind::File { size: content.len() as u64 }, "{form:?}");
            found.push((member.name, content));
        }
        found.sort();
        let names =
            |all: &[(Vec<u8>, Vec<u8>)]| all.iter().map(|it| it.0.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found), names(&want), "{form:?}");
        assert!(found == want, "{form:?}");
    }
}
