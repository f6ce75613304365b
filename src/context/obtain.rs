//! From where a build context is to a directory with its files.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracer::Interrupt;

use super::archive::unpack;
use super::git::{self, GitAccess, GitSource};
use super::http::{Arriving, FetchSettings};
use super::objects::{Object, StoreAccess};
use super::{ContextSource, inside};
use crate::report::{Explain as _, Failure};

/// How to reach what is not on this machine.
#[derive(Debug, Clone)]
pub struct Access {
    /// For everything that is fetched by HTTP.
    pub fetch: FetchSettings,
    /// For Git repositories.
    pub git: GitAccess,
    /// For object stores.
    pub stores: StoreAccess,
}

/// A directory with the files of a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obtained {
    /// The directory.
    pub dir: PathBuf,
    /// Whether it is this machine's own; else links in it mean nothing outside it.
    pub is_local: bool,
    /// What is known of its time, in seconds since 1970: that of the commit, or when the server says that it was
    /// changed, or else when the newest file of the archive was.
    pub time: Option<i64>,
}

/// Brings a context to this machine; what has to be stored goes into the new directory `into`.
///
/// # Errors
/// It cannot be reached, is damaged or hostile, or the disk does not take it.
pub fn obtain(
    source: &ContextSource,
    into: &Path,
    access: &Access,
    interrupt: &Interrupt,
) -> Result<Obtained, Failure> {
    let name = source.to_string();
    if let ContextSource::Dir(dir) = source {
        return Ok(Obtained { dir: dir.clone(), is_local: true, time: None });
    }
    std::fs::create_dir_all(into).could_not(|| format!("make {}", into.display()))?;
    let time = match source {
        ContextSource::Dir(_) => None,
        ContextSource::Tar(path) => {
            let doing = || format!("open the build context {name}");
            let file = File::open(path).could_not(doing)?;
            let about = file.metadata().could_not(doing)?;
            if about.is_dir() {
                return Err(Failure::new(format!("the build context {name} is a directory"))
                    .hint(format!("write --context=dir://{}", path.display())));
            }
            unpack(file, Some(about.len()), &name, into, interrupt)?
        }
        ContextSource::Stdin => unpack(standard_input(interrupt)?, None, &name, into, interrupt)?,
        ContextSource::Web(url) => {
            let arriving = Arriving::begin(url.expose(), &access.fetch, interrupt)
                .map_err(|error| error.while_doing("fetch the build context"))?;
            let (total, modified) = (arriving.total(), arriving.modified());
            let newest = unpack(arriving, total, &name, into, interrupt)?;
            modified.or(newest)
        }
        ContextSource::Object(source) => {
            let object = Object::begin(source, &access.stores, &access.fetch, interrupt)?;
            let total = object.total();
            unpack(object, Some(total), &name, into, interrupt)?
        }
        ContextSource::Git(git) => return repository(git, into, access, interrupt),
    };
    Ok(Obtained { dir: into.to_owned(), is_local: false, time })
}

/// Checks a repository out into the new directory `into`.
///
/// # Errors
/// As [`obtain`].
pub fn repository(
    source: &GitSource,
    into: &Path,
    access: &Access,
    interrupt: &Interrupt,
) -> Result<Obtained, Failure> {
    std::fs::create_dir_all(into).could_not(|| format!("make {}", into.display()))?;
    let time = Some(git::clone(source, into, &access.git, &access.fetch, interrupt)?);
    let whole = Obtained { dir: into.to_owned(), is_local: false, time };
    whole.below(source.sub_dir(), &format!("the directory of {source}"))
}

impl Obtained {
    /// A directory of it; `what` says whose wish that is.
    ///
    /// # Errors
    /// There is no such directory.
    pub fn below(self, sub_path: &str, what: &str) -> Result<Self, Failure> {
        if sub_path.is_empty() {
            return Ok(self);
        }
        let dir = inside(&self.dir, Path::new(sub_path)).and_then(|dir| {
            if dir.is_dir() { Ok(dir) } else { Err(io::ErrorKind::NotADirectory.into()) }
        });
        let dir = dir.could_not(|| format!("use {what}, {sub_path}")).map_err(|failure| {
            failure.hint("it names a directory, from the root of the context")
        })?;
        Ok(Self { dir, ..self })
    }
}

/// Standard input, which has to be a pipe or a file.
fn standard_input(interrupt: &Interrupt) -> Result<Polled, Failure> {
    let doing = || "read the build context from standard input".to_owned();
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(Failure::new("--context=tar://stdin, but standard input is a terminal").hint(
            "pipe a tar archive in, and keep standard input open (docker run -i, kubectl run -i)",
        ));
    }
    let handle = stdin.as_fd().try_clone_to_owned().could_not(doing)?;
    tracing::info!("Reading the build context from standard input, to its end");
    Ok(Polled { file: File::from(handle), interrupt: interrupt.clone() })
}

/// A pipe that may stay silent for ever, while the build can be interrupted.
struct Polled {
    file: File,
    interrupt: Interrupt,
}

impl Read for Polled {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wait = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        loop {
            if self.interrupt.is_triggered() {
                return Err(io::Error::other("interrupted"));
            }
            let mut wanted = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut wanted, Some(&wait)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return self.file.read(buffer),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}
