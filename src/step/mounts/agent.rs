//! An SSH agent, passed on to a step: it may list keys and have things signed, and nothing else.
//!
//! A step gets a socket of its own, with the owner and mode that it asks for. What it may not do,
//! such as to remove keys or to lock the agent, is answered with a failure and never sent on.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, Uid};

use super::keys::KeyRing;

/// Messages of draft-miller-ssh-agent, section 5.1, that reach the agent.
const ALLOWED: [u8; 2] = [REQUEST_IDENTITIES, SIGN_REQUEST];
pub(super) const REQUEST_IDENTITIES: u8 = 11;
pub(super) const SIGN_REQUEST: u8 = 13;

/// `SSH_AGENT_FAILURE`, with its length.
pub(super) const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];

/// The longest message that OpenSSH's agent takes.
const LONGEST: u32 = 256 << 10;

/// Who answers a step.
#[derive(Debug, Clone)]
pub enum AgentSource {
    /// An agent, by its socket.
    Socket(PathBuf),
    /// The executor itself.
    Keys(Arc<KeyRing>),
}

/// A socket that is listened on until this is dropped. The file stays.
#[derive(Debug)]
pub(super) struct Forwarder {
    listener: UnixListener,
}

impl Forwarder {
    /// Makes the socket `name` in `dir`, and passes on to `agent` what comes through it.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub(super) fn start(
        dir: BorrowedFd<'_>,
        name: &str,
        agent: &AgentSource,
        mode: u32,
        (uid, gid): (u32, u32),
    ) -> io::Result<Self> {
        // The name of a socket is short; a path through the directory's handle always is.
        let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
        let listener = UnixListener::bind(path)?;
        let started = Self { listener: listener.try_clone()? };
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode & 0o777), AtFlags::empty())?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        let agent = agent.clone();
        std::thread::Builder::new()
            .name("ssh-agent".to_owned())
            .spawn(move || accept(&listener, &agent))?;
        Ok(started)
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let Ok(listener) = self.listener.try_clone() else { return };
        // On a listening socket this ends accept(2) in the other thread.
        let ended = UnixStream::from(OwnedFd::from(listener)).shutdown(Shutdown::Both);
        if let Err(error) = ended {
            tracing::debug!("the socket of an agent stays open: {error}");
        }
    }
}

fn accept(listener: &UnixListener, agent: &AgentSource) {
    while let Ok((step, _)) = listener.accept() {
        let agent = agent.clone();
        let pass_on = move || {
            let ended = match &agent {
                AgentSource::Socket(path) => UnixStream::connect(path)
                    .and_then(|mut agent| converse(step, |request| ask(&mut agent, request))),
                AgentSource::Keys(keys) => converse(step, |request| Ok(Some(keys.answer(request)))),
            };
            if let Err(error) = ended {
                tracing::debug!("a step's connection to an agent: {error}");
            }
        };
        let started = std::thread::Builder::new().name("ssh-agent".to_owned()).spawn(pass_on);
        if let Err(error) = started {
            tracing::debug!("a connection to the agent: {error}");
        }
    }
}

/// Request by request, until either side ends.
fn converse(
    mut step: impl Read + Write,
    mut answer: impl FnMut(&[u8]) -> io::Result<Option<Vec<u8>>>,
) -> io::Result<()> {
    while let Some(request) = message(&mut step)? {
        if !request.get(4).is_some_and(|kind| ALLOWED.contains(kind)) {
            step.write_all(&FAILURE)?;
            continue;
        }
        let Some(answer) = answer(&request)? else { break };
        step.write_all(&answer)?;
    }
    Ok(())
}

/// The answer of an agent; nothing where it has gone.
fn ask(mut agent: impl Read + Write, request: &[u8]) -> io::Result<Option<Vec<u8>>> {
    agent.write_all(request)?;
    message(&mut agent)
}

/// The next message, with its length before it; nothing at the end.
fn message(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let count = u32::from_be_bytes(length);
    if count == 0 || count > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{count} bytes at once")));
    }
    let mut message = length.to_vec();
    from.take(u64::from(count)).read_to_end(&mut message)?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent is kept, what is received was put there before.
    struct Peer {
        sends: io::Cursor<Vec<u8>>,
        received: Vec<u8>,
    }

    impl Peer {
        fn new(sends: &[&[u8]]) -> Self {
            Self { sends: io::Cursor::new(sends.concat()), received: Vec::new() }
        }
    }

    impl Read for &mut Peer {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.sends.read(into)
        }
    }

    impl Write for &mut Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.received.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn only_listing_and_signing_reach_the_agent() {
        let (list, sign): (&[u8], &[u8]) = (&[0, 0, 0, 1, 11], &[0, 0, 0, 2, 13, 7]);
        let (remove_all, extension): (&[u8], &[u8]) = (&[0, 0, 0, 1, 19], &[0, 0, 0, 1, 27]);
        let mut step = Peer::new(&[list, remove_all, sign, extension]);
        let answers: [&[u8]; 2] = [&[0, 0, 0, 1, 12], &[0, 0, 0, 1, 14]];
        let mut agent = Peer::new(&answers);
        converse(&mut step, |request| ask(&mut agent, request)).expect("both end in good order");
        assert_eq!(agent.received, [list, sign].concat());
        assert_eq!(step.received, [answers[0], &FAILURE, answers[1], &FAILURE].concat());
    }

    #[test]
    fn a_message_that_is_too_long_ends_the_conversation() {
        let mut step = Peer::new(&[&[0xff, 0xff, 0xff, 0xff, 11]]);
        let mut agent = Peer::new(&[]);
        assert!(converse(&mut step, |request| ask(&mut agent, request)).is_err());
        assert!(agent.received.is_empty());
    }
}
