//! A web server that answers what the test says, faults among it, and remembers what it was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// One request: its first line's parts, and its headers by lower-case name.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
    /// As long as `Content-Length` says.
    pub(crate) body: Vec<u8>,
}

/// One answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Where the connection breaks off.
    cut: Option<usize>,
}

impl Answer {
    pub(crate) fn of(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Breaks the connection off after so many bytes of the body.
    pub(crate) fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }
}

/// A running server; ends with its value.
pub(crate) struct Web {
    address: String,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Request>>>,
    thread: Option<JoinHandle<()>>,
}

impl Web {
    /// Answers each request by `answer`, one after the other.
    pub(crate) fn start(answer: impl Fn(&Request) -> Answer + Send + 'static) -> Self {
        Self::serve(None, answer)
    }

    /// The same over TLS, with this certificate and key.
    pub(crate) fn start_tls(
        (certificate, key): &(PathBuf, PathBuf),
        answer: impl Fn(&Request) -> Answer + Send + 'static,
    ) -> Self {
        Self::serve(Some(server_config(certificate, key)), answer)
    }

    fn serve(
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&Request) -> Answer + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stopped, seen_by_us): (_, Arc<Mutex<Vec<Request>>>) =
            (stop.clone(), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let answer = |request: &Request| {
                    seen_by_us.lock().expect("nobody panics").push(request.clone());
                    answer(request)
                };
                match &tls {
                    None => exchange(&mut stream, answer),
                    Some(config) => {
                        let connection = ServerConnection::new(Arc::clone(config));
                        let connection = connection.expect("a valid configuration");
                        let mut stream = StreamOwned::new(connection, stream);
                        exchange(&mut stream, answer);
                        stream.conn.send_close_notify();
                        // The other side may be gone already.
                        let _ = stream.flush();
                    }
                }
            }
        });
        Self { address, stop, seen, thread: Some(thread) }
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What was asked so far.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().expect("nobody panics").clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a server with this certificate and key speaks TLS by.
pub(crate) fn server_config(certificate: &Path, key: &Path) -> Arc<ServerConfig> {
    let certificate = CertificateDer::from_pem_file(certificate).unwrap();
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    Arc::new(config)
}

/// One request and its answer; nothing where the other side goes away before.
fn exchange(stream: &mut (impl Read + Write), answer: impl FnOnce(&Request) -> Answer) {
    if let Some(request) = read(stream) {
        write(stream, &answer(&request));
    }
}

fn read(stream: &mut impl Read) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut lines = reader.by_ref().lines();
    let first = lines.next()?.ok()?;
    let path = first.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|it| it.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { path, headers, body })
}

/// The other side may be gone, with an error of its own.
fn write(stream: &mut impl Write, answer: &Answer) {
    let mut head = format!("HTTP/1.1 {} Answer\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", answer.body.len());
    let end = answer.cut.unwrap_or(answer.body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&answer.body[..end]));
}
