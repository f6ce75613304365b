//! Says from time to time how far a long transfer is.

use std::time::{Duration, Instant};

/// How often.
const EVERY: Duration = Duration::from_secs(5);

/// Counts the bytes of a transfer.
#[derive(Debug)]
pub(super) struct Progress {
    what: String,
    total: Option<u64>,
    read: u64,
    told: Instant,
}

impl Progress {
    pub(super) fn new(what: impl Into<String>, total: Option<u64>) -> Self {
        Self { what: what.into(), total, read: 0, told: Instant::now() }
    }

    pub(super) fn add(&mut self, bytes: usize) {
        self.read += bytes as u64;
        if self.told.elapsed() < EVERY {
            return;
        }
        self.told = Instant::now();
        tracing::info!("{}", self.line());
    }

    fn line(&self) -> String {
        let of = self.total.map(|total| format!(" of {}", megabytes(total))).unwrap_or_default();
        format!("{}: {}{of} so far", self.what, megabytes(self.read))
    }
}

/// As people read it.
pub(super) fn megabytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "it is shown with one decimal")]
    let shown = bytes as f64 / 1e6;
    format!("{shown:.1} MB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_how_much_and_of_how_much() {
        for (total, want) in [
            (Some(2_500_000), "the build context: 1.2 MB of 2.5 MB so far"),
            (None, "the build context: 1.2 MB so far"),
        ] {
            let mut progress = Progress::new("the build context", total);
            progress.add(1_000_000);
            progress.add(200_000);
            assert_eq!(progress.line(), want);
        }
    }

    #[test]
    fn it_is_said_from_time_to_time() {
        let mut progress = Progress::new("it", None);
        let begun = progress.told;
        progress.add(1);
        assert_eq!(progress.told, begun, "it is too early");
        let long_ago = begun.checked_sub(EVERY).expect("the clock runs for longer than that");
        progress.told = long_ago;
        progress.add(1);
        assert_ne!(progress.told, long_ago);
    }
}
