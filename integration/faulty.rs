//! A proxy in front of a real registry that does to chosen answers what networks and proxies do to them.
//!
//! Each connection carries one request. Requests are chosen by how their line begins, each rule a given
//! number of times; all others pass unchanged.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// What happens to an answer.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The registry is not asked: a status, headers, and a body.
    Answer(u16, Vec<(&'static str, String)>, &'static str),
    /// The registry is not asked, and nobody answers until the client ends the connection.
    Stall,
    /// The server has done what it was asked, nothing of its answer comes, and the connection is reset.
    Silence,
    /// So many bytes of the body come, then the connection is reset.
    Reset(usize),
    /// So many bytes of the body come, then the connection is closed in order.
    Cut(usize),
    /// A bit of the body's byte at this place is another one.
    Flip(usize),
    /// So many bytes at a time.
    Drip(usize),
}

impl Fault {
    /// An answer of a status and nothing else.
    pub(crate) fn status(status: u16) -> Self {
        Self::Answer(status, Vec::new(), "")
    }
}

/// One rule: requests that begin so, how many of them, and what happens.
pub(crate) type Rule = (String, usize, Fault);

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    heads: Vec<String>,
}

/// The proxy. Its threads end with the test's process.
pub(crate) struct Faulty {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Faulty {
    /// Stands in front of the server at `target`.
    pub(crate) fn before(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::<Mutex<State>>::default();
        let (shared, target) = (Arc::clone(&state), target.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (state, target) = (Arc::clone(&shared), target.clone());
                // What goes wrong with one side's end is the other side's to notice.
                thread::spawn(move || serve(client, &target, &state));
            }
        });
        Self { address, state }
    }

    /// `127.0.0.1:PORT`
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Forgets what was asked, and does these things from now on.
    pub(crate) fn rules(&self, rules: Vec<Rule>) {
        *self.state.lock().unwrap() = State { rules, heads: Vec::new() };
    }

    /// Rules that met no request as often as they were to.
    pub(crate) fn unmet(&self) -> Vec<Rule> {
        let state = self.state.lock().unwrap();
        state.rules.iter().filter(|(_, times, _)| *times > 0).cloned().collect()
    }

    /// The heads of requests whose line begins so.
    pub(crate) fn seen(&self, request: &str) -> Vec<String> {
        let state = self.state.lock().unwrap();
        state.heads.iter().filter(|head| head.starts_with(request)).cloned().collect()
    }
}

impl State {
    fn fault(&mut self, head: &str) -> Option<Fault> {
        let rule =
            self.rules.iter_mut().find(|(line, times, _)| *times > 0 && head.starts_with(line))?;
        rule.1 -= 1;
        Some(rule.2.clone())
    }
}

/// The lines up to the empty one, which is included. [`None`] if it is no request, as a TLS handshake.
fn head(from: &mut impl BufRead) -> Option<String> {
    if !from.fill_buf().ok()?.first()?.is_ascii_alphabetic() {
        return None;
    }
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if from.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

fn serve(mut client: TcpStream, target: &str, state: &Mutex<State>) -> Option<()> {
    let mut requests = BufReader::new(client.try_clone().ok()?);
    let Some(head) = head(&mut requests) else {
        // As servers of plain HTTP answer a handshake.
        return answer(&mut client, 400, &[], "").ok();
    };
    let fault = {
        let mut state = state.lock().unwrap();
        state.heads.push(head.clone());
        state.fault(&head)
    };
    if let Some(Fault::Answer(status, headers, body)) = fault {
        answer(&mut client, status, &headers, body).ok()?;
        // Whoever still sends has to be listened to, or the answer would be lost with the connection.
        std::io::copy(&mut requests, &mut std::io::sink()).ok()?;
        return Some(());
    }
    if matches!(fault, Some(Fault::Stall)) {
        std::io::copy(&mut requests, &mut std::io::sink()).ok()?;
        return Some(());
    }
    let mut server = TcpStream::connect(target).ok()?;
    let kept: Vec<&str> = head
        .trim_end()
        .lines()
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
        .collect();
    write!(server, "{}\r\nConnection: close\r\n\r\n", kept.join("\r\n")).ok()?;
    let mut sending = server.try_clone().ok()?;
    let sender = thread::spawn(move || drop(std::io::copy(&mut requests, &mut sending)));
    let resets = matches!(fault, Some(Fault::Reset(_) | Fault::Silence));
    pass(&server, &mut client, fault.as_ref());
    let _ = server.shutdown(Shutdown::Both);
    if resets {
        // Closed without waiting, a connection is reset (tcp(7)).
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).ok()?;
        let _ = client.shutdown(Shutdown::Read);
    } else {
        let _ = client.shutdown(Shutdown::Both);
    }
    sender.join().ok()
}

fn answer(
    client: &mut TcpStream,
    status: u16,
    headers: &[(&'static str, String)],
    body: &str,
) -> std::io::Result<()> {
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(
        client,
        "HTTP/1.1 {status} Faulty\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    )?;
    client.shutdown(Shutdown::Write)
}

/// Passes an answer on, its head as it is.
fn pass(server: &TcpStream, client: &mut TcpStream, fault: Option<&Fault>) -> Option<()> {
    let mut answers = BufReader::new(server);
    let head = head(&mut answers)?;
    if matches!(fault, Some(Fault::Silence)) {
        return None;
    }
    client.write_all(head.as_bytes()).ok()?;
    match fault {
        None | Some(Fault::Answer(..) | Fault::Stall | Fault::Silence) => {
            std::io::copy(&mut answers, client).ok()?;
        }
        Some(Fault::Reset(end) | Fault::Cut(end)) => {
            std::io::copy(&mut answers.take(*end as u64), client).ok()?;
        }
        Some(Fault::Flip(place)) => {
            std::io::copy(&mut (&mut answers).take(*place as u64), client).ok()?;
            let mut byte = [0];
            answers.read_exact(&mut byte).ok()?;
            client.write_all(&[byte[0] ^ 1]).ok()?;
            std::io::copy(&mut answers, client).ok()?;
        }
        Some(Fault::Drip(size)) => {
            let mut piece = vec![0; *size];
            while let Ok(length @ 1..) = answers.read(&mut piece) {
                client.write_all(&piece[..length]).ok()?;
                client.flush().ok()?;
                thread::yield_now();
            }
        }
    }
    Some(())
}
