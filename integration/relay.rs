//! A place between a client and a server, where a test decides what passes.

use std::net::{TcpListener, TcpStream};
use std::thread;

/// Passes answers on, and gives each connection, the client's end and the server's, to `carry` in a thread of its own;
/// tells the address to speak to instead of `target`.
pub(crate) fn start(
    target: &str,
    carry: impl FnMut(TcpStream, TcpStream) + Clone + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let target = target.to_owned();
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(&target).unwrap();
            let (mut answers, mut back) =
                (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut answers, &mut back));
            let mut carry = carry.clone();
            thread::spawn(move || carry(client, server));
        }
    });
    address
}
