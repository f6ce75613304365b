//! A tar archive becomes the directory of a build context, while it arrives.
//!
//! # The promise
//!
//! Nothing is written outside the directory. When [`unpack`] is done, the
//! archive was whole: read to its end, all checksums right, and with the mark
//! that ends a tar archive. A context that was cut short is never built from.

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use snapshot::ImagePath;
use tracer::Interrupt;

use super::progress::{Progress, megabytes};
use crate::report::{Explain as _, Failure};
use crate::rootfs::{Exclusions, ExtractError, Extraction, Tree, sniffed};

/// Unpacks the archive `source`, which people know as `name`, into the empty directory `into`; answers when
/// the newest file of it was changed, in seconds since 1970.
pub(super) fn unpack(
    source: impl Read + Send + 'static,
    total: Option<u64>,
    name: &str,
    into: &Path,
    interrupt: &Interrupt,
) -> Result<Option<i64>, Failure> {
    let started = Instant::now();
    let (watched, read) = Watched::new(source, total, interrupt.clone());
    let doing = || format!("unpack the build context {name}");
    let archive = sniffed(watched).could_not(doing)?;
    let Some((packing, archive)) = archive else {
        return Err(no_archive(name, read.load(Ordering::Relaxed)));
    };
    tracing::debug!("{name} is a tar archive ({packing:?})");
    let tree = Tree::open(into).could_not(doing)?;
    let exclusions = Exclusions::default();
    // Whose the files of a context are means nothing: COPY gives them to root.
    let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let extraction = Extraction::new(&tree, &exclusions, ImagePath::root()).owned_by(own);
    let extracted = extraction.unlisted().run(archive).map_err(|error| explained(error, name))?;
    if !extracted.has_end {
        return Err(cut_short(name, "it has no end mark"));
    }
    let bytes = read.load(Ordering::Relaxed);
    tracing::info!(
        "Unpacked the build context {name}: {} entries, {} in {:.1}s",
        extracted.entries,
        megabytes(bytes),
        started.elapsed().as_secs_f64()
    );
    Ok(extracted.newest)
}

fn no_archive(name: &str, read: u64) -> Failure {
    let hint = "a context is a tar archive, plain or packed with gzip, zstd, xz or bzip2";
    let what = if read == 0 { "is empty" } else { "is no tar archive" };
    Failure::new(format!("the build context {name} {what}")).hint(hint)
}

fn cut_short(name: &str, why: &str) -> Failure {
    Failure::new(format!("the build context {name} was cut short: {why}"))
        .hint("nothing was built; make or send the archive again")
}

fn explained(error: ExtractError, name: &str) -> Failure {
    use crate::rootfs::ArchiveError;
    match &error {
        ExtractError::Archive(ArchiveError::Read(source))
            if source.kind() == io::ErrorKind::UnexpectedEof =>
        {
            cut_short(name, &source.to_string())
        }
        ExtractError::Archive(_)
        | ExtractError::Refused { .. }
        | ExtractError::Io { .. }
        | ExtractError::Write { .. } => {
            Failure::new(format!("could not unpack the build context {name}")).because(error)
        }
    }
}

/// A reader that says how far it is, and ends when the build is interrupted.
struct Watched<R> {
    source: R,
    read: Arc<AtomicU64>,
    progress: Progress,
    interrupt: Interrupt,
}

impl<R> Watched<R> {
    fn new(source: R, total: Option<u64>, interrupt: Interrupt) -> (Self, Arc<AtomicU64>) {
        let read = Arc::new(AtomicU64::new(0));
        let progress = Progress::new("Build context", total);
        (Self { source, read: read.clone(), progress, interrupt }, read)
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.interrupt.is_triggered() {
            return Err(io::Error::other("interrupted"));
        }
        let got = self.source.read(buffer)?;
        self.read.fetch_add(got as u64, Ordering::Relaxed);
        self.progress.add(got);
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::crafted::Crafted;

    fn into_new(bytes: Vec<u8>) -> (tempfile::TempDir, Result<Option<i64>, Failure>) {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("context")).expect("made");
        let done = unpack(
            io::Cursor::new(bytes),
            None,
            "tar://x",
            &dir.path().join("context"),
            &Interrupt::new(),
        );
        (dir, done)
    }

    #[test]
    fn an_archive_that_was_cut_anywhere_is_refused() {
        let whole = Crafted::new().file("a", &[7; 700]).file("d/b", b"two").end();
        let (_dir, done) = into_new(whole.clone());
        done.expect("whole");
        let content = whole.len() - 1024;
        for cut in (0..=content).step_by(37).chain([512, 1024, 2048, content]) {
            let (_dir, done) = into_new(whole[..cut].to_vec());
            assert!(done.is_err(), "cut at {cut} of {}", whole.len());
        }
    }

    #[test]
    fn nothing_lands_outside() {
        let outside = "/proc/self/cwd/..";
        for (what, archive, want) in [
            ("up", Crafted::new().file("../evil", b"x"), "is refused"),
            ("up from inside", Crafted::new().file("a/../../evil", b"x"), "is refused"),
            ("hard link up", Crafted::new().link(b'1', "l", "../secret"), "is refused"),
            ("hard link away", Crafted::new().link(b'1', "l", "/etc/passwd"), "is not there"),
            ("through a link up", Crafted::new().link(b'2', "l", "..").file("l/evil", b"x"), ""),
            ("through a link", Crafted::new().link(b'2', "l", outside).file("l/evil", b"x"), ""),
        ] {
            let (dir, done) = into_new(archive.end());
            let told = done.err().map(|failure| failure.to_string()).unwrap_or_default();
            assert!(told.contains(want) && told.is_empty() == want.is_empty(), "{what}: {told}");
            let names = std::fs::read_dir(dir.path()).expect("readable").count();
            assert_eq!(names, 1, "{what}");
        }
    }

    #[test]
    fn what_is_no_archive_is_told() {
        for (bytes, want) in [(&b""[..], "is empty"), (b"#!/bin/sh", "is no tar archive")] {
            let (_dir, done) = into_new(bytes.to_vec());
            let told = done.expect_err(want).to_string();
            assert!(told.contains(want), "{told}");
        }
    }
}
