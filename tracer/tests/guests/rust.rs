//! What Rust's library does when it is asked for files: one behaviour for each argument.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{self as unix, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

type Behaviour = fn() -> io::Result<()>;

const ALL: &[(&str, Behaviour)] = &[
    ("copies", copies),
    ("a_tree", a_tree),
    ("times_and_modes", times_and_modes),
    ("scoped_threads", scoped_threads),
    ("channels", channels),
    ("child_processes", child_processes),
    ("listens", listens),
    ("all_kinds_of_links", all_kinds_of_links),
    ("put_in_place", put_in_place),
    ("grows_and_shrinks", grows_and_shrinks),
    ("panics_in_a_thread", panics_in_a_thread),
];

fn copies() -> io::Result<()> {
    fs::copy("a", "copy")?;
    fs::copy("dir/sub/file", "b")?;
    io::copy(&mut File::open("a")?, &mut File::create("dir/copy")?).map(drop)
}

fn a_tree() -> io::Result<()> {
    fs::create_dir_all("x/y/z")?;
    fs::write("x/y/z/file", "1")?;
    fs::rename("x", "dir/x")?;
    fs::create_dir_all("dir/x/y/w")?;
    fs::remove_dir_all("dir/sub")?;
    fs::remove_dir_all("dir/x/y")
}

fn times_and_modes() -> io::Result<()> {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(7);
    File::open("a")?.set_modified(then)?;
    fs::set_permissions("b", Permissions::from_mode(0o600))?;
    File::open("dir")?.set_permissions(Permissions::from_mode(0o700))?;
    let mut permissions = fs::metadata("dir/sub/file")?.permissions();
    permissions.set_readonly(true);
    fs::set_permissions("dir/sub/file", permissions)
}

fn scoped_threads() -> io::Result<()> {
    thread::scope(|scope| {
        for n in 0..8 {
            scope.spawn(move || fs::write(format!("dir/thread{n}"), "x").expect("a file"));
        }
    });
    Ok(())
}

fn channels() -> io::Result<()> {
    let (send, receive) = mpsc::channel::<File>();
    let writer = thread::spawn(move || receive.iter().try_for_each(|mut f| f.write_all(b"sent")));
    for name in ["a", "b", "c"] {
        let file = OpenOptions::new().append(true).create(true).open(name)?;
        send.send(file).expect("the writer lives");
    }
    drop(send);
    writer.join().expect("the writer ends")
}

fn child_processes() -> io::Result<()> {
    let program = std::env::current_exe()?;
    let child = Command::new(&program).arg("copies").current_dir(".").spawn()?;
    let said = Command::new(&program).arg("--list").stdout(File::create("said")?).status()?;
    let mut child = child;
    assert!(said.success() && child.wait()?.success());
    Ok(())
}

fn listens() -> io::Result<()> {
    let listener = UnixListener::bind("dir/socket")?;
    drop(listener);
    fs::set_permissions("dir/socket", Permissions::from_mode(0o700))
}

fn all_kinds_of_links() -> io::Result<()> {
    unix::symlink("a", "soft")?;
    fs::write("soft", "through")?;
    fs::hard_link("b", "dir/hard")?;
    fs::write("dir/hard", "through")?;
    unix::lchown("soft", None, None)?;
    fs::remove_file("b")
}

fn put_in_place() -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(".a.tmp")?;
    file.write_all(b"whole")?;
    file.sync_all()?;
    fs::rename(".a.tmp", "a")
}

fn grows_and_shrinks() -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open("a")?;
    file.set_len(100)?;
    file.rewind()?;
    file.write_all(b"x")?;
    OpenOptions::new().write(true).open("b")?.set_len(0)
}

fn panics_in_a_thread() -> io::Result<()> {
    let thread = thread::spawn(|| {
        fs::write("c", "before").expect("a file");
        panic!("as wanted");
    });
    assert!(thread.join().is_err());
    fs::write("d", "after")
}

fn main() {
    let wanted = std::env::args().nth(1).unwrap_or_default();
    if wanted == "--list" {
        ALL.iter().for_each(|(name, _)| println!("rust.rs {name}"));
        return;
    }
    let (_, behaviour) = ALL.iter().find(|(name, _)| *name == wanted).expect("a behaviour");
    behaviour().expect("it goes well");
}
