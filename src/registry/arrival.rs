//! The bytes of a blob while they come in, for whoever reads along.
//!
//! A layer is inflated while it downloads, so its bytes are used before their digest is known.
//! Whoever reads along has to wait for the download afterwards, and may not use what it made
//! of the bytes before that succeeded. A download that begins anew gives an error here.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// A blob that is under way; clones read it independently.
#[derive(Debug, Clone, Default)]
pub struct Arrival(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
enum State {
    /// No byte has come.
    #[default]
    Ahead,
    /// This many bytes are in the file.
    Coming(Arc<File>, u64),
    /// All of them are.
    Whole(Arc<File>, u64),
    /// What came was wrong, or no more will come.
    Forsaken,
}

impl Arrival {
    /// Its bytes from the first on. Reading blocks until there are some.
    #[must_use]
    pub fn reader(&self) -> Arriving {
        Arriving { arrival: self.clone(), at: 0 }
    }

    /// Whether what was read along has to be forgotten.
    #[must_use]
    pub fn is_forsaken(&self) -> bool {
        matches!(*self.state(), State::Forsaken)
    }

    /// The side of the download, which writes to `file` from now on.
    pub(super) fn begin(&self, file: File) -> Arrived<'_> {
        let next = match &*self.state() {
            State::Ahead => State::Coming(Arc::new(file), 0),
            // The second attempt: readers may have bytes of the first.
            State::Coming(..) | State::Whole(..) | State::Forsaken => State::Forsaken,
        };
        self.become_(next);
        Arrived(self)
    }

    /// This arrival for the task that makes it happen: readers do not wait for one that is cancelled.
    pub(super) fn ending(&self) -> Ending {
        Ending(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock panics; the state is whole in any case.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn become_(&self, state: State) {
        *self.state() = state;
        self.0.changed.notify_all();
    }
}

/// What a download tells.
#[derive(Debug)]
pub(super) struct Arrived<'a>(&'a Arrival);

impl Arrived<'_> {
    /// So many bytes are in the file now.
    pub(super) fn grow(&self, length: u64) {
        let next = match &*self.0.state() {
            State::Coming(file, _) => State::Coming(Arc::clone(file), length),
            State::Ahead | State::Whole(..) | State::Forsaken => return,
        };
        self.0.become_(next);
    }

    /// The bytes in the file count no longer.
    pub(super) fn forsake(&self) {
        self.0.become_(State::Forsaken);
    }

    /// They are all there, and what they should be.
    pub(super) fn finish(self) {
        let next = match &*self.0.state() {
            State::Coming(file, length) => State::Whole(Arc::clone(file), *length),
            State::Ahead | State::Whole(..) | State::Forsaken => return,
        };
        self.0.become_(next);
    }
}

/// Fails the readers of what did not arrive when it goes.
#[derive(Debug)]
pub(super) struct Ending(Arrival);

impl Deref for Ending {
    type Target = Arrival;

    fn deref(&self) -> &Arrival {
        &self.0
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !matches!(*self.0.state(), State::Whole(..)) {
            self.0.become_(State::Forsaken);
        }
    }
}

/// Reads a blob along with its download.
#[derive(Debug)]
pub struct Arriving {
    arrival: Arrival,
    at: u64,
}

impl Arriving {
    /// Waits for bytes behind those that were read; nothing at the end.
    fn wait(&self) -> io::Result<Option<(Arc<File>, u64)>> {
        let mut state = self.arrival.state();
        loop {
            match &*state {
                State::Coming(file, length) | State::Whole(file, length) if *length > self.at => {
                    return Ok(Some((Arc::clone(file), *length)));
                }
                State::Whole(..) => return Ok(None),
                State::Forsaken => return Err(io::Error::other("the download begins anew")),
                State::Ahead | State::Coming(..) => {}
            }
            let waiting = self.arrival.0.changed.wait(state);
            state = waiting.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Read for Arriving {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((file, length)) = self.wait()? else { return Ok(0) };
        let most = usize::try_from(length - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let got = file.read_at(&mut buffer[..most], self.at)?;
        if got == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::sync::mpsc::channel;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn bytes_are_read_as_far_as_they_are_told() {
        let arrival = Arrival::default();
        let mut reader = arrival.reader();
        let (sender, read) = channel();
        let reading = std::thread::spawn(move || {
            let mut piece = [0; 16];
            loop {
                let got = reader.read(&mut piece).unwrap();
                sender.send(String::from_utf8_lossy(&piece[..got]).into_owned()).unwrap();
                if got == 0 {
                    return;
                }
            }
        });
        let arrived = arrival.begin(file(b"one two"));
        arrived.grow(4);
        assert_eq!(read.recv().unwrap(), "one ");
        arrived.grow(7);
        assert_eq!(read.recv().unwrap(), "two");
        arrived.finish();
        assert_eq!(read.recv().unwrap(), "");
        reading.join().unwrap();
        let mut again = String::new();
        arrival.reader().read_to_string(&mut again).unwrap();
        assert_eq!(again, "one two");
        assert!(!arrival.is_forsaken());
    }

    #[test]
    fn a_download_that_ends_or_begins_anew_is_an_error() {
        let dropped: fn(&Arrival) = |arrival| arrival.ending().begin(file(b"x")).grow(1);
        let never_begun: fn(&Arrival) = |arrival| drop(arrival.ending());
        let wrong: fn(&Arrival) = |arrival| arrival.begin(file(b"x")).forsake();
        let twice: fn(&Arrival) = |arrival| {
            let first = arrival.begin(file(b"x"));
            first.grow(1);
            let second = arrival.begin(file(b"y"));
            second.grow(1);
            second.finish();
        };
        for (what, happen) in
            [("dropped", dropped), ("never begun", never_begun), ("wrong", wrong), ("twice", twice)]
        {
            let arrival = Arrival::default();
            happen(&arrival);
            assert!(arrival.is_forsaken(), "{what}");
            assert!(arrival.reader().read(&mut [0]).is_err(), "{what}");
        }
    }
}
