//! A large layer through a proxy that resets each connection after so many bytes.
//!
//! 80 MB, reset after 2; `KANIKO_UPLOAD_MEGABYTES=2000` makes it 2 GB, reset after 50 MB.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::craft::{Compression, Craft, Layer};
use crate::executor::static_executor;
use crate::registry::{Access, Registry};
use crate::relay;

/// The size of the layer in bytes.
fn size() -> usize {
    let given = std::env::var("KANIKO_UPLOAD_MEGABYTES").ok();
    given.map_or(80, |text| text.parse::<usize>().expect("a number")) << 20
}

/// Passes connections on, and resets each that has carried more than `most` bytes to the server; tells
/// its address, and how many it has reset.
fn proxy(target: &str, most: usize) -> (String, Arc<AtomicUsize>) {
    let resets = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&resets);
    let address = relay::start(target, move |client, server| carry(client, server, most, &counted));
    (address, resets)
}

fn carry(mut client: TcpStream, mut server: TcpStream, most: usize, resets: &AtomicUsize) {
    let (mut piece, mut carried) = (vec![0; 64 << 10], 0);
    while let Ok(length @ 1..) = client.read(&mut piece) {
        carried += length;
        if carried > most {
            resets.fetch_add(1, Ordering::Relaxed);
            break;
        }
        if server.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    // That ends the other direction, too. A connection that is closed with bytes unread is reset.
    let _ = server.shutdown(Shutdown::Both);
}

#[test]
fn an_upload_arrives_through_a_proxy_that_resets_every_connection() {
    let home = tempfile::tempdir().unwrap();
    let mut random = fastrand::Rng::with_seed(3);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(size()).collect();
    let layer = Layer::new().file("noise", noise).tar();
    Craft::new().tar(layer, Compression::None).write(home.path(), "x");
    let registry = Registry::start(Access::Plain);
    let (address, resets) = proxy(registry.address(), size() / 40);
    let pushed = std::process::Command::new(static_executor())
        .env_clear()
        .env("HOME", home.path())
        .env("TMPDIR", home.path())
        .arg("push")
        .arg(home.path())
        .args(["-d", &format!("{address}/a:1"), "--verbosity=debug"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&pushed.stderr);
    assert!(pushed.status.success(), "{log}");
    let count = resets.load(Ordering::Relaxed);
    assert!(count > 0, "{count} resets: {log}");
    // The registry says itself that what it has is whole.
    let pulled = tempfile::tempdir().unwrap();
    registry.pull("a:1", &pulled.path().join("pulled"));
}
