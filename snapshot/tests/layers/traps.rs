//! What other builders were measured wrong on, and what else a file system
//! can hold: each found by suspects and by a walk, and exact after unpacking.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use snapshot::{Error, Exclusions, ImagePath, PathError, Suspects, diff, listing};

use crate::laws::portrait;
use crate::sandbox::{Sandbox, make_fifo, path, set_mtime};
use crate::unpack::unpack;

/// Lets `act` change a tree; checks both ways of looking and the unpacked
/// layer; gives the listing of the changes.
fn exact(before: &str, touched: Vec<ImagePath>, act: impl FnOnce(&Sandbox)) -> String {
    let sandbox = Sandbox::new(before);
    let index = sandbox.index();
    let copy = Sandbox::new("/");
    let mut copying = Command::new("cp");
    copying.arg("-aT").arg(sandbox.at("/")).arg(copy.at("/"));
    assert!(copying.status().unwrap().success());
    act(&sandbox);
    let mut walked = sandbox.walk(&index);
    let traced = sandbox.diff(&index, &Suspects::Only { paths: touched, trees: vec![] });
    assert_eq!(traced.changes, walked.changes);
    unpack(&sandbox.archive(&mut walked), &copy.at("/"));
    assert_eq!(portrait(&copy.index()), portrait(&sandbox.index()));
    listing::changes(&walked.changes)
}

const BEFORE: &str = "/ /a=1 /b=1 /d/ /d/x=1";

fn restoring_times(sandbox: &Sandbox, name: &str, act: impl FnOnce(&Path)) {
    act(&sandbox.at(name));
    set_mtime(&sandbox.at(name), 1_000_000, 0);
    set_mtime(&sandbox.at("/"), 1_000_000, 0);
}

type Act = fn(&Sandbox);

#[test]
fn changes_that_others_miss() {
    let table: [(&str, &str, &str, Act); 14] = [
        ("xattr only", "/a", "+ /a\n", |s| xattr::set(s.at("/a"), "user.k", b"\0v\n=").unwrap()),
        ("xattr of a directory", "/d", "+ /d\n", |s| {
            xattr::set(s.at("/d"), "user.k", b"v").unwrap();
        }),
        ("capability", "/a", "+ /a\n", |s| {
            let all = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            xattr::set(s.at("/a"), "security.capability", &all).unwrap();
        }),
        ("same size, time put back", "/a", "+ /a\n", |s| {
            restoring_times(s, "/a", |at| fs::write(at, "2").unwrap());
        }),
        ("written in place, time put back", "/a", "+ /a\n", |s| {
            restoring_times(s, "/a", |at| {
                let file = fs::File::options().write(true).open(at).unwrap();
                file.write_all_at(b"2", 0).unwrap();
            });
        }),
        ("replaced by rename, same size and time", "/a", "+ /a\n", |s| {
            restoring_times(s, "/a", |at| {
                fs::write(at.with_file_name("new"), "2").unwrap();
                fs::rename(at.with_file_name("new"), at).unwrap();
            });
        }),
        ("replaced by the same", "/a", "", |s| {
            restoring_times(s, "/a", |at| {
                fs::remove_file(at).unwrap();
                fs::write(at, "1").unwrap();
            });
        }),
        ("a directory's time only", "/d", "+ /d\n", |s| set_mtime(&s.at("/d"), 7, 0)),
        ("the root's time only", "/", "+ /\n", |s| set_mtime(&s.at("/"), 7, 0)),
        ("mode 000", "/a", "+ /a\n", |s| {
            fs::set_permissions(s.at("/a"), fs::Permissions::from_mode(0o000)).unwrap();
        }),
        ("set-id", "/a", "+ /a\n", |s| {
            fs::set_permissions(s.at("/a"), fs::Permissions::from_mode(0o6755)).unwrap();
        }),
        ("before 1970", "/a", "+ /a\n", |s| set_mtime(&s.at("/a"), -7, 5)),
        ("far future", "/a", "+ /a\n", |s| set_mtime(&s.at("/a"), 9_999_999_999, 999_999_999)),
        ("large owner", "/a", "+ /a\n", |s| {
            std::os::unix::fs::lchown(s.at("/a"), Some(3_000_000), Some(4_000_000_000)).unwrap();
        }),
    ];
    for (case, touched, want, act) in table {
        assert_eq!(exact(BEFORE, vec![path(touched)], act), want, "{case}");
    }
}

#[test]
fn new_things_of_every_kind() {
    let table: [(&str, Act); 6] = [
        ("/loop", |s| symlink("loop", s.at("/loop")).unwrap()),
        ("/fifo", |s| make_fifo(&s.at("/fifo"))),
        ("/device", |s| {
            let number = rustix::fs::makedev(259, 1_048_575);
            mknodat(
                CWD,
                s.at("/device"),
                FileType::CharacterDevice,
                Mode::from_raw_mode(0o600),
                number,
            )
            .unwrap();
        }),
        ("/sparse", |s| {
            let file = fs::File::create(s.at("/sparse")).unwrap();
            file.set_len(3_000_000).unwrap();
            file.write_all_at(b"x", 2_000_000).unwrap();
        }),
        ("/empty", |s| fs::write(s.at("/empty"), "").unwrap()),
        ("/a_directory", |s| fs::create_dir(s.at("/a_directory")).unwrap()),
    ];
    for (name, act) in table {
        assert_eq!(exact(BEFORE, vec![path(name)], act), format!("+ /\n+ {name}\n"), "{name}");
    }
}

#[test]
fn names_of_any_bytes() {
    let longest = [b'n'; 255];
    for name in [&longest[..], b"\xff\xfe", b"new\nline", b" ", b"caf\xc3\xa9", b"\\x", b"-", b"*"]
    {
        let at = ImagePath::root().join(name).unwrap();
        let listed = exact("/", vec![at.clone()], |sandbox| {
            fs::write(sandbox.host(&at), "1").unwrap();
        });
        assert_eq!(listed, format!("+ /\n+ {at}\n"));
    }
    for target in [&longest[..], b"\xff", b"/../..//."] {
        exact("/", vec![path("/l")], |sandbox| {
            symlink(OsStr::from_bytes(target), sandbox.at("/l")).unwrap();
        });
    }
}

#[test]
fn deep_and_long_paths() {
    for (name, depth) in [("d".to_owned(), 300), ("n".repeat(99), 39), ("m".repeat(101), 2)] {
        let mut here = ImagePath::root();
        let chain: Vec<ImagePath> = (0..depth)
            .map(|_| {
                here = here.join(name.as_bytes()).unwrap();
                here.clone()
            })
            .collect();
        let sandbox = Sandbox::new("/");
        let index = sandbox.index();
        // Too long for an absolute path of the host.
        for directory in &chain {
            let at = OsStr::from_bytes(directory.relative());
            rustix::fs::mkdirat(sandbox.root(), at, Mode::from_raw_mode(0o755)).unwrap();
        }
        let mut walked = sandbox.walk(&index);
        let touched = Suspects::Only { paths: chain.clone(), trees: vec![] };
        assert_eq!(sandbox.diff(&index, &touched).changes, walked.changes);
        let archive = sandbox.archive(&mut walked);
        let mut packed = tar::Archive::new(&*archive);
        let last = packed.entries().unwrap().last().unwrap().unwrap();
        assert_eq!(&*last.path_bytes(), &[here.relative(), b"/"].concat(), "{depth} of {name}");
    }
}

#[test]
fn a_path_too_long_to_be_named_is_refused() {
    let sandbox = Sandbox::new("/");
    let index = sandbox.index();
    let name = "n".repeat(200);
    let mut here = rustix::fs::openat(sandbox.root(), ".", OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..21 {
        rustix::fs::mkdirat(&here, &name, Mode::from_raw_mode(0o755)).unwrap();
        here = rustix::fs::openat(&here, &name, OFlags::PATH, Mode::empty()).unwrap();
    }
    let refused = diff(sandbox.root(), &index, &Suspects::Everything, &Exclusions::none());
    assert!(matches!(refused, Err(Error::Path { source: PathError::LongPath, .. })), "{refused:?}");
}

#[test]
fn sockets_are_left_out_by_name() {
    let sandbox = Sandbox::new("/ /a=1");
    let index = sandbox.index();
    let _listening = UnixListener::bind(sandbox.at("/s")).unwrap();
    let walked = sandbox.walk(&index);
    assert_eq!(walked.sockets, [path("/s")]);
    assert_eq!(listing::changes(&walked.changes), "+ /\n");
}

#[test]
fn a_young_ctime_proves_nothing() {
    let sandbox = Sandbox::new("/ /a=1");
    let mut index = sandbox.index();
    let ctime = index.get(&path("/a")).unwrap().seen.unwrap().ctime();
    // Without a fingerprint, who has to compare contents has to say "changed".
    index.get_mut(&path("/a")).unwrap().fingerprint = None;
    for (later, want) in [(0, "+ /a\n"), (10_000_000, "+ /a\n"), (30_000_000, "")] {
        index.settle(snapshot::Timestamp::new(ctime.secs(), ctime.nanos() + later));
        assert_eq!(listing::changes(&sandbox.walk(&index).changes), want, "{later} ns later");
    }
}

#[test]
fn a_name_linked_from_an_unnamed_file_is_found_by_its_inode() {
    let sandbox = Sandbox::new("/ /d/ /d/x=1 /z=1");
    let index = sandbox.index();
    fs::hard_link(sandbox.at("/z"), sandbox.at("/d/new")).unwrap();
    let traced = Suspects::Only { paths: vec![path("/d/new")], trees: vec![] };
    let want = "+ /d\n+ /d/new\n+ /z => /d/new\n";
    assert_eq!(listing::changes(&sandbox.diff(&index, &traced).changes), want);
    assert_eq!(listing::changes(&sandbox.walk(&index).changes), want);
}
