//! A server on loopback that takes a PUT over HTTPS, as an object store behind a signed URL does.
//!
//! Its first answers are the test's, so that a hiccup can be had; it answers 200 from then on.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use tempfile::TempDir;

use crate::registry::write_certificates;
use crate::web::server_config;

/// The server; its thread ends with the test process.
pub(crate) struct HttpsSink {
    address: String,
    home: TempDir,
    seen: Arc<Mutex<Vec<(String, String)>>>,
}

impl HttpsSink {
    /// Starts to listen; the first requests are answered with these statuses.
    pub(crate) fn start(statuses: &[u16]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (certificate, key) = write_certificates(home.path());
        let config = server_config(&certificate, &key);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::default();
        let (shared, statuses) = (Arc::clone(&seen), statuses.to_vec());
        thread::spawn(move || {
            let mut statuses = statuses.into_iter();
            for stream in listener.incoming().flatten() {
                answer(stream, &config, &shared, &mut statuses);
            }
        });
        Self { address, home, seen }
    }

    /// A URL of this server.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}/{path}", self.address)
    }

    /// What signed its certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.home.path().join("trust/ca.crt")
    }

    /// Request lines and bodies of what came.
    pub(crate) fn seen(&self) -> Vec<(String, String)> {
        self.seen.lock().unwrap().clone()
    }
}

/// One request on one connection; a client that does not trust us goes away before it.
fn answer(
    stream: TcpStream,
    config: &Arc<ServerConfig>,
    seen: &Mutex<Vec<(String, String)>>,
    statuses: &mut impl Iterator<Item = u16>,
) {
    let connection = ServerConnection::new(Arc::clone(config)).unwrap();
    let mut reader = BufReader::new(StreamOwned::new(connection, stream));
    let (mut line, mut length) = (String::new(), 0);
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    seen.lock().unwrap().push((line.trim_end().to_owned(), String::from_utf8(body).unwrap()));
    let status = statuses.next().unwrap_or(200);
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    reader.get_mut().write_all(head.as_bytes()).unwrap();
    reader.get_mut().conn.send_close_notify();
    reader.get_mut().flush().unwrap();
}
