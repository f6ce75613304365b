//! The executor is killed at each request of a push, in turn.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use crate::craft::{Craft, Layer};
use crate::executor::static_executor;
use crate::registry::{Access, Registry};
use crate::relay;

/// What happens while a push goes on.
enum Event {
    /// A piece of a request came; it goes on when this is answered.
    Piece(Sender<()>),
    /// The executor ended.
    Ended,
}

/// Passes connections on, and asks before each piece that a client sends.
fn forwarder(target: &str, tell: Sender<Event>) -> String {
    relay::start(target, move |client, server| forward(&client, &server, &tell))
}

fn forward(mut client: &TcpStream, mut server: &TcpStream, tell: &Sender<Event>) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = client.read(&mut piece) {
        let (go_on, wait) = channel();
        let asked = tell.send(Event::Piece(go_on)).is_ok() && wait.recv().is_ok();
        if !asked || server.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    let _ = client.shutdown(Shutdown::Both);
}

/// Lets so many pieces pass and kills the executor with the next one in the air; whether it came to that.
fn kill_after(
    pieces: usize,
    mut child: Child,
    tell: Sender<Event>,
    told: &Receiver<Event>,
) -> bool {
    let mut output = child.stdout.take().unwrap();
    thread::spawn(move || {
        // Its end of the pipe closes when it ends.
        let _ = output.read_to_end(&mut Vec::new());
        let _ = tell.send(Event::Ended);
    });
    let mut passed = 0;
    let held = loop {
        match told.recv().unwrap() {
            Event::Piece(go_on) if passed < pieces => {
                passed += 1;
                let _ = go_on.send(());
            }
            Event::Piece(held) => break Some(held),
            Event::Ended => break None,
        }
    };
    child.kill().unwrap();
    child.wait().unwrap();
    held.is_some()
}

#[test]
fn a_tag_is_the_old_image_or_the_new_one_wherever_the_push_is_killed() {
    let registry = Registry::start(Access::Plain);
    let layouts: Vec<tempfile::TempDir> = ["old", "new"]
        .iter()
        .map(|name| {
            let layout = tempfile::tempdir().unwrap();
            let layer = |file: &str| Layer::new().file(file, *name);
            Craft::new().layer(layer("a")).layer(layer("b")).write(layout.path(), "x");
            layout
        })
        .collect();
    let home = tempfile::tempdir().unwrap();
    let push = |host: &str, layout: &std::path::Path| {
        let mut command = Command::new(static_executor());
        command.env_clear().env("HOME", home.path()).env("TMPDIR", home.path());
        command.arg("push").arg(layout).arg("-d").arg(format!("{host}/app:1"));
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let whole = |host: &str, layout| push(host, layout).wait().unwrap().success();
    assert!(whole(registry.address(), layouts[0].path()));
    let old = registry.manifest("app:1").unwrap();
    let mut killed = 0;
    loop {
        let (tell, told) = channel();
        let host = forwarder(registry.address(), tell.clone());
        let was_killed = kill_after(killed, push(&host, layouts[1].path()), tell, &told);
        let moved = registry.manifest("app:1").unwrap() != old;
        assert!(was_killed || moved, "it ended by itself and did nothing");
        if moved {
            break;
        }
        killed += 1;
    }
    assert!(killed > 6, "only {killed} requests were seen");
    assert!(whole(registry.address(), layouts[1].path()));
    let image = crate::image::Image::pull(&registry, "app:1");
    image.validate();
    assert_eq!(image.digest, crate::image::Image::open(layouts[1].path()).digest);
}
