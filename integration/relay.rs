//! A place between a client and a server, where a test decides what passes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
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

/// A proxy for HTTPS (RFC 9110, section 9.3.6) that leads every name to one place. Its threads end with the test's
/// process.
pub(crate) struct Tunnels {
    pub(crate) address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Tunnels {
    /// Whatever is asked for is at `target`.
    pub(crate) fn to(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (target, asked) = (target.to_owned(), Arc::<Mutex<Vec<String>>>::default());
        let shared = Arc::clone(&asked);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (target, asked) = (target.clone(), Arc::clone(&shared));
                thread::spawn(move || tunnel(client, &target, &asked));
            }
        });
        Self { address, asked }
    }

    /// The first line of each request.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn tunnel(mut client: TcpStream, target: &str, asked: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    asked.lock().unwrap().push(line.trim_end().to_owned());
    while line.trim_end() != "" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    let server = TcpStream::connect(target).unwrap();
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").unwrap();
    let (mut answers, mut requests) = (server.try_clone().unwrap(), server);
    let back = thread::spawn(move || {
        // Either side may go away first.
        let _ = std::io::copy(&mut answers, &mut client);
        let _ = client.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut reader, &mut requests);
    let _ = requests.shutdown(Shutdown::Write);
    back.join().unwrap();
}
