//! The layer as a file: whole, the same on any number of cores, or not there.

use std::fs;
use std::io::Read;
use std::process::Command;

use snapshot::{Compression, Error, Layer, Options, Suspects, pack};

use crate::sandbox::{PLAIN, Sandbox, path};

/// Several blocks of content that compresses by about half.
fn content() -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0] & 0x1f
    };
    (0..1_700_000).map(|_| next()).collect()
}

fn sandbox() -> (Sandbox, snapshot::Difference) {
    let sandbox = Sandbox::new("/ /gone=1 /l->a /d/");
    let index = sandbox.index();
    sandbox.build("/ /d/ /d/x=1 /d/y==/d/x /l->b");
    fs::write(sandbox.at("/big"), content()).unwrap();
    for name in ["/big", "/"] {
        crate::sandbox::set_mtime(&sandbox.at(name), 1_000_000, 0);
    }
    let difference = sandbox.diff(&index, &Suspects::Everything);
    (sandbox, difference)
}

fn packed(sandbox: &Sandbox, difference: &snapshot::Difference, options: Options) -> Layer {
    pack(sandbox.root(), &mut difference.clone(), &sandbox.layers(), options).unwrap()
}

fn unzipped(layer: &Layer) -> Vec<u8> {
    let file = fs::read(layer.path()).unwrap();
    let mut plain = Vec::new();
    match layer.compression {
        Compression::Gzip { .. } | Compression::Estargz { .. } => {
            flate2::bufread::GzDecoder::new(&*file).read_to_end(&mut plain).unwrap();
        }
        Compression::Zstd { .. } | Compression::ZstdChunked { .. } => {
            plain = zstd::decode_all(&*file).unwrap();
        }
        Compression::None => plain = file,
    }
    plain
}

#[test]
fn the_bytes_do_not_depend_on_the_threads() {
    let (sandbox, difference) = sandbox();
    let plain = packed(&sandbox, &difference, PLAIN);
    let archive = unzipped(&plain);
    assert_eq!(plain.diff_id, plain.digest);
    for compression in [
        Compression::Gzip { level: 0 },
        Compression::Gzip { level: 1 },
        Compression::Gzip { level: 6 },
        Compression::Gzip { level: 9 },
        Compression::Zstd { level: 3 },
    ] {
        let layers = [1, 2, 5].map(|threads| {
            packed(&sandbox, &difference, Options { compression, threads, latest: None })
        });
        for layer in &layers {
            assert_eq!(layer.digest, layers[0].digest, "{compression:?}");
            assert_eq!(layer.diff_id, plain.diff_id, "{compression:?}");
            assert_eq!(layer.uncompressed_size, archive.len() as u64, "{compression:?}");
            assert_eq!(layer.size, fs::metadata(layer.path()).unwrap().len(), "{compression:?}");
            assert!(unzipped(layer) == archive, "{compression:?}");
        }
    }
}

#[test]
fn other_programs_read_it() {
    let (sandbox, difference) = sandbox();
    let layer = packed(
        &sandbox,
        &difference,
        Options { compression: Compression::Gzip { level: 6 }, threads: 2, latest: None },
    );
    let tested =
        Command::new("gzip").arg("-t").stdin(fs::File::open(layer.path()).unwrap()).status();
    assert!(tested.unwrap().success());
    let listed = Command::new("tar")
        .args(["--utc", "--numeric-owner", "-tvzf"])
        .arg(layer.path())
        .output()
        .unwrap();
    assert!(listed.stderr.is_empty(), "{}", String::from_utf8_lossy(&listed.stderr));
    let text = String::from_utf8(listed.stdout).unwrap();
    let names: Vec<&str> = text
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .map(|words| {
            let from = words.iter().position(|word| word.contains(':')).unwrap() + 1;
            words[from]
        })
        .collect();
    assert_eq!(names, [".wh.gone", "big", "d/x", "d/y", "l"], "{text}");
    assert!(text.contains("d/y link to d/x") && text.contains("l -> b"), "{text}");
}

#[test]
fn fingerprints_are_noted() {
    let (sandbox, mut difference) = sandbox();
    sandbox.pack(&mut difference).unwrap();
    let fingerprints: Vec<_> = difference
        .changes
        .iter()
        .filter_map(|change| match change {
            snapshot::Change::Put(put) => put.entry.fingerprint,
            snapshot::Change::Whiteout(_) => None,
        })
        .collect();
    let of = snapshot::Fingerprint::of;
    assert_eq!(fingerprints, [of(&content()), of(b"1"), of(b"1")]);
}

#[test]
fn a_file_that_moves_under_the_packer_is_an_error() {
    type Act = fn(&Sandbox);
    let table: [(&str, Act); 6] = [
        ("grown", |s| fs::write(s.at("/f"), "123").unwrap()),
        ("shrunk", |s| fs::write(s.at("/f"), "").unwrap()),
        ("other content", |s| fs::write(s.at("/f"), "2").unwrap()),
        ("gone", |s| fs::remove_file(s.at("/f")).unwrap()),
        ("a FIFO now", |s| {
            fs::remove_file(s.at("/f")).unwrap();
            crate::sandbox::make_fifo(&s.at("/f"));
        }),
        ("a link now", |s| {
            fs::remove_file(s.at("/f")).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", s.at("/f")).unwrap();
        }),
    ];
    for (case, act) in table {
        for compression in [
            Compression::Gzip { level: 1 },
            Compression::Zstd { level: 1 },
            Compression::Estargz { level: 1 },
            Compression::ZstdChunked { level: 1 },
            Compression::None,
        ] {
            let sandbox = Sandbox::new("/");
            let index = sandbox.index();
            fs::write(sandbox.at("/f"), "1").unwrap();
            let mut difference = sandbox.walk(&index);
            act(&sandbox);
            let options = Options { compression, threads: 2, latest: None };
            let refused = pack(sandbox.root(), &mut difference, &sandbox.layers(), options);
            let named = match refused {
                Err(Error::Moved { path, .. } | Error::Tree { path, .. }) => path,
                other => panic!("{case}: {other:?}"),
            };
            assert_eq!(named, path("/f"), "{case}");
            assert_eq!(fs::read_dir(sandbox.layers()).unwrap().count(), 0, "{case}");
        }
    }
}

#[test]
fn a_layer_goes_with_its_value_unless_kept() {
    let (sandbox, mut difference) = sandbox();
    let layer = sandbox.pack(&mut difference).unwrap();
    let dropped = layer.path().to_owned();
    drop(layer);
    assert!(!dropped.exists());
    let kept = sandbox.pack(&mut difference).unwrap().keep().unwrap();
    assert!(kept.exists());
}
