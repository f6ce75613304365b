//! The output of a step, passed on line by line while it runs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

/// A line longer than this is passed on in pieces, so that memory stays bounded.
const LONGEST_LINE: u64 = 64 << 10;

/// Who of several stages writes a line now. The log does not wait for this: a signal is told, and ends the build,
/// also where nobody reads what steps write.
static TURN: Mutex<()> = Mutex::new(());

/// Where the lines of a step go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// Passes on what is written to the returned handle, until all copies of it are closed. With a label,
/// every line begins with that, and is a line of its own.
pub(super) fn pass_on(
    stream: Stream,
    label: Option<String>,
) -> io::Result<(OwnedFd, JoinHandle<()>)> {
    let (reader, writer) = io::pipe()?;
    let thread = std::thread::Builder::new().name("output".to_owned()).spawn(move || {
        let label = label.map(|label| format!("[{label}] "));
        let is_alone = label.is_none();
        let copied = copy_lines(reader, label.as_deref(), |line| {
            // Both streams may lead to one pipe, which takes a long line in pieces.
            let _turn = (!is_alone).then(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
            match stream {
                Stream::Out => write(io::stdout().lock(), line),
                Stream::Err => write(io::stderr().lock(), line),
            }
        });
        if let Err(error) = copied {
            tracing::debug!("the output of the step could not be passed on: {error}");
        }
    })?;
    Ok((writer.into(), thread))
}

fn write(mut to: impl Write, line: &[u8]) -> io::Result<()> {
    to.write_all(line).and_then(|()| to.flush())
}

/// Copies whole lines, each in one write, so that lines of two streams do not mix. Goes on reading
/// when nobody takes the lines any more: the step must not hang.
fn copy_lines(
    from: impl Read,
    label: Option<&str>,
    write: impl Fn(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut from = BufReader::with_capacity(64 << 10, from);
    let mut line = Vec::new();
    let mut result = Ok(());
    loop {
        line.clear();
        line.extend_from_slice(label.unwrap_or_default().as_bytes());
        if (&mut from).take(LONGEST_LINE).read_until(b'\n', &mut line)? == 0 {
            return result;
        }
        if label.is_some() && !line.ends_with(b"\n") {
            line.push(b'\n');
        }
        if result.is_ok() {
            result = write(&line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn each_line_is_one_write() {
        for (label, want) in [
            (None, ["one\n", "two\n", "\n", "rest"]),
            (Some("[a] "), ["[a] one\n", "[a] two\n", "[a] \n", "[a] rest\n"]),
        ] {
            let writes = RefCell::new(Vec::new());
            let write = |line: &[u8]| {
                writes.borrow_mut().push(String::from_utf8_lossy(line).into_owned());
                Ok(())
            };
            copy_lines(&b"one\ntwo\n\nrest"[..], label, write).expect("no read fails");
            assert_eq!(*writes.borrow(), want, "{label:?}");
        }
    }
}
