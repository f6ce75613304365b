//! A registry in memory that counts: what clients ask of it, and the bytes that go either way.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use kaniko::image::Digest;

/// What was asked.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counts {
    /// Requests by kind: method, and what it was about.
    pub(crate) requests: HashMap<String, u64>,
    /// Bytes of bodies that clients sent.
    pub(crate) received: u64,
    /// Bytes of bodies that clients were sent.
    pub(crate) sent: u64,
}

#[derive(Default)]
struct State {
    /// Type and bytes, by what ends the path.
    content: HashMap<String, (String, Arc<Vec<u8>>)>,
    uploads: HashMap<u64, Vec<u8>>,
    next: u64,
    counts: Counts,
}

/// The registry; its threads end with the process.
pub(crate) struct Store {
    pub(crate) host: String,
    state: Arc<Mutex<State>>,
}

struct Request {
    method: String,
    path: String,
    query: String,
    media_type: String,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Arc<Vec<u8>>,
}

impl Answer {
    fn of(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Arc::default() }
    }

    fn with(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl Store {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let host = listener.local_addr().expect("it is bound").to_string();
        let state: Arc<Mutex<State>> = Arc::default();
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { host, state }
    }

    pub(crate) fn counts(&self) -> Counts {
        lock(&self.state).counts.clone()
    }

    /// How many bytes it keeps.
    pub(crate) fn kept(&self) -> u64 {
        let state = lock(&self.state);
        let blobs = state.content.iter().filter(|(name, _)| name.contains("/blobs/"));
        blobs.map(|(_, (_, bytes))| bytes.len() as u64).sum()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(stream: &TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let answer = answer(&mut lock(state), &request);
        if write(stream, &request, &answer).is_none() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let (path, query) = (path.to_owned(), query.to_owned());
    let (mut length, mut media_type) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "content-type" => value.trim().clone_into(&mut media_type),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, query, media_type, body })
}

fn write(mut stream: &TcpStream, request: &Request, answer: &Answer) -> Option<()> {
    let mut head =
        format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    if request.method == "HEAD" { Some(()) } else { stream.write_all(&answer.body).ok() }
}

fn answer(state: &mut State, request: &Request) -> Answer {
    let kind = ["manifests", "blobs/uploads", "blobs"].into_iter();
    let kind =
        kind.clone().find(|it| request.path.contains(&format!("/{it}/"))).unwrap_or("version");
    *state.counts.requests.entry(format!("{} {kind}", request.method)).or_default() += 1;
    state.counts.received += request.body.len() as u64;
    let answer = properly(state, request, kind);
    if request.method != "HEAD" {
        state.counts.sent += answer.body.len() as u64;
    }
    answer
}

fn properly(state: &mut State, request: &Request, kind: &str) -> Answer {
    let body = || request.body.clone();
    match (request.method.as_str(), kind) {
        (_, "version") => Answer::of(200),
        ("GET" | "HEAD", _) => match state.content.get(&request.path) {
            Some((media_type, bytes)) => Answer {
                status: 200,
                headers: vec![("Content-Type", media_type.clone())],
                body: Arc::clone(bytes),
            },
            None => Answer::of(404),
        },
        ("PUT", "manifests") => {
            let kept = (request.media_type.clone(), Arc::new(body()));
            let repository = request.path.rsplit_once('/').map_or("", |(start, _)| start);
            let by_digest = format!("{repository}/{}", Digest::of(&request.body));
            state.content.insert(by_digest, kept.clone());
            state.content.insert(request.path.clone(), kept);
            Answer::of(201)
        }
        ("POST", _) => {
            state.next += 1;
            let upload = state.next;
            state.uploads.insert(upload, Vec::new());
            let repository = request.path.trim_end_matches('/');
            Answer::of(202).with("Location", format!("{repository}/{upload}"))
        }
        ("PATCH", _) => {
            let upload = number(&request.path);
            state.uploads.entry(upload).or_default().extend(body());
            Answer::of(202).with("Location", request.path.clone())
        }
        ("PUT", _) => {
            let mut bytes = state.uploads.remove(&number(&request.path)).unwrap_or_default();
            bytes.extend(body());
            let digest = Digest::of(&bytes).to_string();
            let promised = request.query.rsplit("digest=").next().unwrap_or("").replace("%3A", ":");
            assert_eq!(digest, promised, "what arrived is what was promised");
            let blobs = request.path.split("/uploads/").next().unwrap_or("");
            let octets = "application/octet-stream".to_owned();
            state.content.insert(format!("{blobs}/{digest}"), (octets, Arc::new(bytes)));
            Answer::of(201)
        }
        _ => Answer::of(405),
    }
}

fn number(path: &str) -> u64 {
    path.rsplit('/').next().and_then(|it| it.parse().ok()).unwrap_or_default()
}
