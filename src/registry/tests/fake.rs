//! A registry in memory that answers as it is told, once, and properly otherwise.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use crate::image::{Digest, Image};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(super) fn line(&self) -> String {
        let path = self.path.split('?').next().unwrap();
        format!("{} {path}", self.method)
    }
}

/// An answer, and how much of its body is sent before the connection breaks.
#[derive(Clone, Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) cut: Option<usize>,
    /// The body comes in so many pieces, each after this pause.
    pub(super) slow: Option<(usize, Duration)>,
    /// The connection is left open and silent.
    pub(super) stall: bool,
}

impl Answer {
    pub(super) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(super) fn body(mut self, body: &[u8]) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn slow(mut self, pieces: usize, pause: Duration) -> Self {
        self.slow = Some((pieces, pause));
        self
    }

    pub(super) fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    /// The connection ends without a word.
    pub(super) fn silence() -> Self {
        Self::default()
    }

    pub(super) fn stall() -> Self {
        Self { status: 200, stall: true, ..Self::default() }
    }
}

#[derive(Default)]
pub(super) struct State {
    /// Blobs and manifests by what ends their path.
    pub(super) content: HashMap<String, (String, Vec<u8>)>,
    /// What requests that begin so are answered with, in order, each once.
    pub(super) faults: Vec<(String, Answer)>,
    /// The token that is wanted with each request.
    pub(super) token: Option<String>,
    /// The user and password, in base64, that the token server wants.
    pub(super) login: Option<String>,
    /// Where tokens are had.
    pub(super) realm: String,
    pub(super) seen: Vec<Seen>,
    /// What came so far, by session: uploads go on beside each other.
    uploads: HashMap<String, Vec<u8>>,
    held: Vec<TcpStream>,
}

/// A fake registry on a free loopback port. Its threads end with the test process.
pub(super) struct Fake {
    pub(super) host: String,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let realm = format!("http://{host}/token");
        let state = Arc::new(Mutex::new(State { realm, ..State::default() }));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &state));
            }
        });
        Self { host, state }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Holds this image under `a:1`.
    pub(super) fn holding(self, image: &Image) -> Self {
        let mut state = self.state();
        let manifest = (image.flavor().manifest().to_owned(), image.manifest_bytes().to_vec());
        state.content.insert("manifests/1".to_owned(), manifest.clone());
        state.content.insert(format!("manifests/{}", image.digest()), manifest);
        let octets = || "application/octet-stream".to_owned();
        for layer in image.layers() {
            let mut bytes = Vec::new();
            let digest = layer.descriptor.digest;
            layer.blob.open(digest).unwrap().read_to_end(&mut bytes).unwrap();
            state.content.insert(format!("blobs/{digest}"), (octets(), bytes));
        }
        let config = image.config_bytes().to_vec();
        state.content.insert(format!("blobs/{}", Digest::of(&config)), (octets(), config));
        drop(state);
        self
    }

    /// The next request that begins so is answered so.
    pub(super) fn fault(&self, request: &str, answer: Answer) {
        self.state().faults.push((request.to_owned(), answer));
    }

    /// Lines of the requests that came, without the probe for HTTPS, which is no HTTP.
    pub(super) fn lines(&self) -> Vec<String> {
        self.state().seen.iter().map(Seen::line).collect()
    }

    pub(super) fn count(&self, start: &str) -> usize {
        self.lines().iter().filter(|line| line.starts_with(start)).count()
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(seen) = read_request(&mut reader) {
        let mut state = state.lock().unwrap();
        state.seen.push(seen.clone());
        let answer = answer(&mut state, &seen);
        if answer.stall {
            state.held.push(stream);
            return;
        }
        drop(state);
        if answer.status == 0 || !write_answer(&stream, &seen, &answer) {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next()?, words.next()?);
    // Through a proxy, which is this server then, the whole URL comes.
    let path = match target.strip_prefix("http://").and_then(|rest| rest.split_once('/')) {
        Some((_, path)) => format!("/{path}"),
        None => target,
    };
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |it| it.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Seen { method, path, headers, body })
}

/// Whether the connection goes on.
fn write_answer(mut stream: &TcpStream, seen: &Seen, answer: &Answer) -> bool {
    let mut head =
        format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let body = if seen.method == "HEAD" { &[][..] } else { &answer.body[..] };
    let sent = answer.cut.unwrap_or(body.len()).min(body.len());
    let body = &body[..sent];
    let written = match answer.slow {
        None => stream.write_all(&[head.as_bytes(), b"\r\n", body].concat()),
        Some((pieces, pause)) => {
            let start = stream.write_all(&[head.as_bytes(), b"\r\n"].concat());
            body.chunks(body.len().div_ceil(pieces)).fold(start, |written, piece| {
                thread::sleep(pause);
                written.and_then(|()| stream.write_all(piece))
            })
        }
    };
    if answer.cut.is_some() {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
    written.is_ok() && answer.cut.is_none()
}

fn answer(state: &mut State, seen: &Seen) -> Answer {
    // The space tells a path from one that goes on.
    let line = format!("{} {} ", seen.method, seen.path);
    if let Some(at) = state.faults.iter().position(|(start, _)| line.starts_with(start)) {
        return state.faults.remove(at).1;
    }
    if seen.path.starts_with("/token") {
        return token(state, seen);
    }
    let wanted = state.token.as_ref().map(|token| format!("Bearer {token}"));
    if wanted.is_some_and(|wanted| seen.header("authorization") != wanted) {
        let challenge = format!("Bearer realm=\"{}\",service=\"s\"", state.realm);
        return Answer::status(401).with("WWW-Authenticate", &challenge);
    }
    properly(state, seen)
}

fn token(state: &State, seen: &Seen) -> Answer {
    if seen.method == "POST" && seen.body.ends_with(b"&refresh_token=canary") {
        let token = state.token.clone().unwrap_or_default();
        return Answer::status(200).body(format!("{{\"access_token\":\"{token}\"}}").as_bytes());
    }
    let wanted = state.login.as_ref().map(|login| format!("Basic {login}"));
    let token = state.token.clone().unwrap_or_default();
    match wanted {
        Some(wanted) if seen.header("authorization") != wanted => Answer::status(401),
        _ => Answer::status(200).body(format!("{{\"token\":\"{token}\"}}").as_bytes()),
    }
}

fn properly(state: &mut State, seen: &Seen) -> Answer {
    let path = seen.path.split('?').next().unwrap();
    let key = path.splitn(4, '/').nth(3).unwrap_or_default().to_owned();
    match seen.method.as_str() {
        "GET" | "HEAD" => match state.content.get(&key) {
            Some((media_type, bytes)) => ranged(seen, media_type, bytes),
            None => Answer::status(404).body(br#"{"errors":[{"code":"UNKNOWN"}]}"#),
        },
        "POST" => {
            let session = format!("x{}", state.uploads.len());
            let location = format!("/v2/a/blobs/uploads/1?_state={session}");
            state.uploads.insert(session, Vec::new());
            Answer::status(202).with("Location", &location)
        }
        "PATCH" => {
            let session = session(seen);
            let location = format!("/v2/a/blobs/uploads/1?_state={session}");
            state.uploads.entry(session).or_default().extend(&seen.body);
            Answer::status(202).with("Location", &location)
        }
        "PUT" if key.starts_with("blobs/uploads/") => {
            let blob = state.uploads.entry(session(seen)).or_default();
            blob.extend(&seen.body);
            let blob = std::mem::take(blob);
            let digest = Digest::of(&blob);
            let promised = seen.path.rsplit("digest=").next().unwrap().replace("%3A", ":");
            assert_eq!(digest.to_string(), promised);
            state.content.insert(format!("blobs/{digest}"), (String::new(), blob));
            Answer::status(201)
        }
        "PUT" => {
            let media_type = seen.header("content-type").to_owned();
            state.content.insert(key, (media_type, seen.body.clone()));
            Answer::status(201)
        }
        _ => Answer::status(204),
    }
}

/// Which upload a request goes on with.
fn session(seen: &Seen) -> String {
    let state = seen.path.split("_state=").nth(1).unwrap_or_default();
    state.split('&').next().unwrap_or_default().to_owned()
}

fn ranged(seen: &Seen, media_type: &str, bytes: &[u8]) -> Answer {
    let range = seen.header("range").strip_prefix("bytes=").map(|it| it.trim_end_matches('-'));
    match range.map(|it| it.parse::<usize>().unwrap()) {
        Some(from) => Answer::status(206)
            .with("Content-Range", &format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()))
            .body(&bytes[from..]),
        None => Answer::status(200).with("Content-Type", media_type).body(bytes),
    }
}
