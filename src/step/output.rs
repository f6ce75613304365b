//! The output of a step, passed on line by line while it runs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

/// A line longer than this is passed on in pieces, so that memory stays bounded.
const LONGEST_LINE: u64 = 64 << 10;

/// Where the lines of a step go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Passes on what is written to the returned handle, until all copies of it are closed.
pub(super) fn pass_on(stream: Stream) -> io::Result<(OwnedFd, JoinHandle<()>)> {
    let (reader, writer) = io::pipe()?;
    let thread = std::thread::Builder::new().name("output".to_owned()).spawn(move || {
        let copied = match stream {
            Stream::Out => copy_lines(reader, || io::stdout().lock()),
            Stream::Err => copy_lines(reader, || io::stderr().lock()),
        };
        if let Err(error) = copied {
            tracing::debug!("the output of the step could not be passed on: {error}");
        }
    })?;
    Ok((writer.into(), thread))
}

/// Copies whole lines, each in one write, so that lines of two streams do not mix. Goes on reading
/// when nobody takes the lines any more: the step must not hang.
fn copy_lines<W: Write>(from: impl Read, to: impl Fn() -> W) -> io::Result<()> {
    let mut from = BufReader::with_capacity(64 << 10, from);
    let mut line = Vec::new();
    let mut result = Ok(());
    loop {
        line.clear();
        if (&mut from).take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            return result;
        }
        if result.is_ok() {
            let mut to = to();
            result = to.write_all(&line).and_then(|()| to.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    struct Writes<'a>(&'a RefCell<Vec<Vec<u8>>>);

    impl Write for Writes<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_line_is_one_write_and_the_last_needs_no_newline() {
        let writes = RefCell::new(Vec::new());
        copy_lines(&b"one\ntwo\n\nrest"[..], || Writes(&writes)).expect("no read fails");
        let want: [&[u8]; 4] = [b"one\n", b"two\n", b"\n", b"rest"];
        assert_eq!(*writes.borrow(), want);
    }
}
