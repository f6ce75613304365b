//! The laws of the crate, over random trees and random steps.

use std::fs;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use snapshot::{
    Compression, ImagePath, Index, Options, Sha256, Suspects, Timestamp, listing, pack,
};

use crate::sandbox::{Sandbox, make_fifo, path, set_mtime};
use crate::unpack::unpack;

const NAMES: [&str; 12] =
    ["/a", "/b", "/d", "/d/a", "/d/b", "/d/e", "/d/e/a", "/d/e/b", "/f", "/f/a", "/f/g", "/f/g/a"];

#[derive(Debug, Clone, Copy)]
enum Op {
    Write(u8),
    Overwrite(u8),
    Replace(u8),
    Mkdir,
    Remove,
    RemoveTree,
    Rename(usize),
    Link(usize),
    Symlink(u8),
    Fifo,
    Chmod(u32),
    Chown(u32),
    Touch(i64),
    Xattr(u8),
    Nothing,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..4_u8).prop_map(Op::Write),
        2 => (0..4_u8).prop_map(Op::Overwrite),
        2 => (0..4_u8).prop_map(Op::Replace),
        5 => Just(Op::Mkdir),
        2 => Just(Op::Remove),
        1 => Just(Op::RemoveTree),
        3 => (0..NAMES.len()).prop_map(Op::Rename),
        4 => (0..NAMES.len()).prop_map(Op::Link),
        1 => (0..2_u8).prop_map(Op::Symlink),
        1 => Just(Op::Fifo),
        1 => prop::sample::select(vec![0o000, 0o644, 0o4755, 0o1777]).prop_map(Op::Chmod),
        1 => (0..3_u32).prop_map(Op::Chown),
        1 => (-2..2_i64).prop_map(Op::Touch),
        1 => (0..2_u8).prop_map(Op::Xattr),
        1 => Just(Op::Nothing),
    ]
}

type Program = [(usize, Op)];

fn program(length: usize) -> impl Strategy<Value = Vec<(usize, Op)>> {
    prop::collection::vec((0..NAMES.len(), op()), 0..length)
}

/// What a tracer would have named.
#[derive(Default)]
struct Touched {
    paths: Vec<ImagePath>,
    trees: Vec<ImagePath>,
}

impl Touched {
    fn suspects(self) -> Suspects {
        Suspects::Only { paths: self.paths, trees: self.trees }
    }
}

/// Does one operation, as far as the tree permits it.
fn perform(sandbox: &Sandbox, name: &str, op: Op, touched: &mut Touched) {
    let at = sandbox.at(name);
    touched.paths.push(path(name));
    // What the tree does not permit changes nothing, like a failing call.
    let _ = match op {
        Op::Write(byte) => regular(&at, |at| fs::write(at, [byte])),
        Op::Overwrite(byte) => regular(&at, |at| {
            let old = at.symlink_metadata()?;
            fs::write(at, [byte])?;
            fs::File::options().write(true).open(at)?.set_modified(old.modified()?)
        }),
        Op::Replace(byte) => {
            let new = sandbox.at("/new");
            touched.paths.push(path("/new"));
            fs::write(&new, [byte]).unwrap();
            set_mtime(&new, 5, 0);
            fs::rename(&new, &at).or_else(|_| fs::remove_file(&new))
        }
        Op::Mkdir => fs::create_dir(&at),
        Op::Remove => fs::remove_file(&at).or_else(|_| fs::remove_dir(&at)),
        Op::RemoveTree => {
            touched.trees.push(path(name));
            fs::remove_dir_all(&at)
        }
        Op::Rename(to) => {
            touched.trees.extend([path(name), path(NAMES[to])]);
            fs::rename(&at, sandbox.at(NAMES[to]))
        }
        Op::Link(to) => {
            touched.paths.push(path(NAMES[to]));
            fs::hard_link(&at, sandbox.at(NAMES[to]))
        }
        Op::Symlink(target) => symlink(NAMES[usize::from(target)], &at),
        Op::Fifo => {
            if at.symlink_metadata().is_err() && at.parent().is_some_and(is_real_dir) {
                make_fifo(&at);
            }
            Ok(())
        }
        Op::Chmod(mode) => {
            no_link(&at, |at| fs::set_permissions(at, fs::Permissions::from_mode(mode)))
        }
        Op::Chown(id) => lchown(&at, Some(id), Some(id + 1)),
        Op::Touch(secs) => no_link(&at, |at| {
            set_mtime(at, secs, 500_000_000);
            Ok(())
        }),
        Op::Xattr(value) => regular(&at, |at| xattr::set(at, "user.k", &[value])),
        Op::Nothing => Ok(()),
    };
}

fn is_real_dir(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_dir())
}

fn regular(at: &Path, act: impl FnOnce(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
    match at.symlink_metadata() {
        Ok(meta) if !meta.is_file() => Ok(()),
        Ok(_) | Err(_) => act(at),
    }
}

fn no_link(at: &Path, act: impl FnOnce(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
    if at.symlink_metadata()?.is_symlink() { Ok(()) } else { act(at) }
}

/// All there is to know about a tree, contents and link groups included.
pub(crate) fn portrait(index: &Index) -> String {
    let contents: Vec<String> = index
        .iter()
        .map(|(path, entry)| {
            let linked: Vec<_> = index.names_linked_with(path).collect();
            format!("{path} {:?} {linked:?}", entry.fingerprint)
        })
        .collect();
    format!("{}{}", listing::tree(index), contents.join("\n"))
}

/// Digests of the layer, in each format, of a step after a base, where other files were made before them.
fn digests(
    (base, step): (&Program, &Program),
    others: usize,
    threads: usize,
) -> Vec<(Sha256, Sha256)> {
    let sandbox = Sandbox::new("/");
    for other in 0..others {
        fs::write(sandbox.layers().join(other.to_string()), "").unwrap();
    }
    for (name, op) in base {
        perform(&sandbox, NAMES[*name], *op, &mut Touched::default());
    }
    // What the step writes is then later than this, however coarse the clock is.
    for name in
        NAMES.iter().chain(&["/"]).filter(|name| sandbox.at(name).symlink_metadata().is_ok())
    {
        set_mtime(&sandbox.at(name), 1_000, 0);
    }
    let index = sandbox.index();
    for (name, op) in step {
        perform(&sandbox, NAMES[*name], *op, &mut Touched::default());
    }
    let difference = sandbox.walk(&index);
    let formats = [
        Compression::None,
        Compression::Gzip { level: 1 },
        Compression::Zstd { level: 1 },
        Compression::Estargz { level: 1 },
        Compression::ZstdChunked { level: 1 },
    ];
    let packed = formats.map(|compression| {
        let options = Options { compression, threads, latest: Some(Timestamp::new(2_000, 0)) };
        pack(sandbox.root(), &mut difference.clone(), &sandbox.layers(), options).unwrap()
    });
    packed.iter().map(|layer| (layer.digest, layer.diff_id)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Of the third law, what is about bytes: nothing of the place, the time or the machine is in them.
    #[test]
    fn the_same_step_gives_the_same_bytes_anywhere(base in program(20), step in program(12), others in 1_usize..40) {
        let here = digests((&base, &step), 0, 1);
        prop_assert_eq!(digests((&base, &step), others, 2), here);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn traced_is_walked_and_unpacking_gives_after(base in program(30), step in program(12)) {
        let sandbox = Sandbox::new("/");
        for (name, op) in base {
            perform(&sandbox, NAMES[name], op, &mut Touched::default());
        }
        let index = sandbox.index();
        let copy = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").arg("-a").arg(sandbox.at("/")).arg(copy.path()).status();
        assert!(copied.unwrap().success());

        let mut touched = Touched::default();
        for (name, op) in step {
            perform(&sandbox, NAMES[name], op, &mut touched);
        }
        let mut walked = sandbox.walk(&index);
        let mut traced = sandbox.diff(&index, &touched.suspects());
        prop_assert_eq!(listing::changes(&traced.changes), listing::changes(&walked.changes));
        prop_assert_eq!(&traced.changes, &walked.changes);
        prop_assert!(walked.changes.is_sorted());

        let archive = sandbox.archive(&mut walked);
        prop_assert_eq!(&sandbox.archive(&mut traced), &archive);

        let after = portrait(&sandbox.index());
        let mut applied = index.clone();
        applied.apply(&walked);
        prop_assert_eq!(portrait(&applied), after.clone());

        unpack(&archive, &copy.path().join("root"));
        fs::rename(sandbox.at("/"), copy.path().join("was")).unwrap();
        fs::rename(copy.path().join("root"), sandbox.at("/")).unwrap();
        let unpacked = Sandbox::adopt(sandbox);
        prop_assert_eq!(portrait(&unpacked.index()), after);
    }
}
