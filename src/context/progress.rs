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
        let of = self.total.map(|total| format!(" of {}", megabytes(total))).unwrap_or_default();
        tracing::info!("{}: {}{of} so far", self.what, megabytes(self.read));
    }
}

/// As people read it.
pub(super) fn megabytes(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "it is shown with one decimal")]
    let shown = bytes as f64 / 1e6;
    format!("{shown:.1} MB")
}
