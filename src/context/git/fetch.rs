//! From a repository elsewhere to its objects here, and to the commit that is meant.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gix::bstr::ByteSlice as _;
use gix::progress::Discard;
use gix::protocol::fetch::refmap::Source;
use gix::protocol::transport::Protocol;
use gix::protocol::transport::client::blocking_io::http::Transport as HttpTransport;
use gix::protocol::transport::client::blocking_io::{Transport, ssh};
use gix::protocol::transport::client::git::ConnectMode;
use gix::protocol::transport::client::git::blocking_io::Connection as Daemon;
use gix::remote::fetch::{RefMap, Shallow, Tags};
use gix::{ObjectId, Repository};
use thiserror::Error;

use super::Session;
use super::source::{GitSource, History, Scheme};
use super::web::{Problem, Problems, Web};
use crate::dockerfile::is_commit;
use crate::registry::causes;

/// The port of `git://`.
const DAEMON_PORT: u16 = 9418;

/// Why a repository cannot be used.
#[derive(Debug, Error)]
pub(super) enum FetchError {
    /// 401 or 403, or 404 where that may mean the same.
    #[error("the server answers {0}")]
    Login(reqwest::StatusCode),
    /// What is asked for does not exist.
    #[error("the repository has no {0}")]
    NoReference(String),
    /// The commit is another one than was said.
    #[error("the commit is {found}, not {expected}")]
    Checksum { found: ObjectId, expected: String },
    /// The sub-directory, or a submodule, cannot be.
    #[error("{0}")]
    Refused(String),
    /// A file whose content is elsewhere.
    #[error("{0} is stored in Git LFS, whose content cannot be fetched")]
    Lfs(String),
    /// There is no program for `ssh://`.
    #[error("there is no ssh program")]
    NoSsh,
    /// A failure that may pass.
    #[error("{0}")]
    Passing(String),
    /// The connection broke off.
    #[error("{0}")]
    Broken(String),
    /// Everything else.
    #[error("{0}")]
    Other(String),
    /// The disk does not take it.
    #[error("could not store it: {0}")]
    Store(#[from] io::Error),
    /// A submodule cannot be had.
    #[error("submodule {path}: {why}")]
    Submodule { path: String, why: Box<FetchError> },
}

impl FetchError {
    /// What the reader can do about it.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Login(_) => Some(
                "is the URL right? for a repository that takes a login set GIT_TOKEN, or GIT_USERNAME and \
                 GIT_PASSWORD; they go to the host of --context only",
            ),
            Self::NoReference(_) => Some("name a branch, a tag, refs/… or a whole commit"),
            Self::Checksum { .. } => {
                Some("the reference has moved since this was written, or somebody has moved it")
            }
            Self::Lfs(_) => {
                Some("give the files to the build another way, as a tar archive for instance")
            }
            Self::NoSsh => Some("use https:// with GIT_TOKEN, or install ssh beside the executor"),
            Self::Submodule { why, .. } => why.hint(),
            Self::Refused(_)
            | Self::Passing(_)
            | Self::Broken(_)
            | Self::Other(_)
            | Self::Store(_) => None,
        }
    }
}

pub(super) fn other(error: &gix::Error) -> FetchError {
    FetchError::Other(causes(error))
}

/// A commit, and the branch that led to it.
pub(super) struct Found {
    pub(super) commit: ObjectId,
    /// `refs/heads/…`, where it is one.
    pub(super) branch: Option<String>,
}

impl Session<'_> {
    /// Fetches into a new repository; again from the start where it broke off.
    pub(super) fn fetch(
        &self,
        source: &GitSource,
        into: &Path,
    ) -> Result<(Repository, Found), FetchError> {
        let mut pause = self.settings.pause;
        for left in (0..self.settings.tries.max(1)).rev() {
            match self.fetch_once(source, into) {
                Err(FetchError::Passing(why)) if left > 0 && !self.is_interrupted() => {
                    tracing::warn!("{source}: {why}; trying again in {:.1}s", pause.as_secs_f64());
                    std::thread::sleep(pause);
                    pause *= 2;
                    empty(into)?;
                }
                done => return done,
            }
        }
        Err(FetchError::Other("interrupted".to_owned()))
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn fetch_once(
        &self,
        source: &GitSource,
        into: &Path,
    ) -> Result<(Repository, Found), FetchError> {
        let problems = Problems::default();
        let repository = gix::ThreadSafeRepository::init_opts(
            into,
            gix::create::Kind::WithWorktree,
            gix::create::Options::default(),
            // Neither configuration nor environment of this machine has a say.
            gix::open::Options::isolated().config_overrides(["core.logAllRefUpdates=false"]),
        )
        .map_err(|error| other(&error))?
        .to_thread_local();
        let remote = &source.remote;
        let map = match remote.scheme {
            Scheme::Http => {
                let web =
                    Web::new(remote, source.insecure, self.settings, self.interrupt, &problems);
                let url = parsed(&remote.url)?;
                let web = web.map_err(FetchError::Other)?;
                let transport = HttpTransport::new_http(web, url, Protocol::V2, false);
                self.receive(&repository, source, transport)
            }
            Scheme::Git => self.receive(&repository, source, self.daemon(&remote.url)?),
            Scheme::Ssh => {
                let program = self.access.ssh.as_ref().ok_or(FetchError::NoSsh)?;
                let options = ssh::connect::Options {
                    command: Some(program.clone()),
                    ..ssh::connect::Options::default()
                };
                let url = parsed(&remote.url)?;
                let transport = ssh::connect(url, Protocol::V2, options, false)
                    .map_err(|error| FetchError::Other(error.to_string()))?;
                self.receive(&repository, source, transport)
            }
        };
        let problem = problems.lock().ok().and_then(|mut problem| problem.take());
        let map = map.map_err(|error| match problem {
            Some(Problem::Login(status)) => FetchError::Login(status),
            Some(Problem::Status(status)) if status.as_u16() == 404 => FetchError::Login(status),
            Some(Problem::Status(status)) => {
                FetchError::Other(format!("the server answers {status}"))
            }
            Some(Problem::Passing(why)) => FetchError::Passing(why),
            None => match error {
                // Over HTTP what passes has been noted; here nobody stands between.
                FetchError::Broken(why) if matches!(remote.scheme, Scheme::Git) => {
                    FetchError::Passing(why)
                }
                FetchError::Broken(why) => FetchError::Other(why),
                error => error,
            },
        })?;
        let found = find(&repository, source, &map)?;
        Ok((repository, found))
    }

    /// `git://`, with limits in time.
    fn daemon(&self, url: &str) -> Result<Daemon<TcpStream, TcpStream>, FetchError> {
        let passing = |error: io::Error| FetchError::Passing(error.to_string());
        let url = reqwest::Url::parse(url).map_err(|error| FetchError::Other(error.to_string()))?;
        let host = url.host_str().unwrap_or_default();
        let port = url.port().unwrap_or(DAEMON_PORT);
        let stream = connected(host.trim_matches(['[', ']']), port, self.settings.connect)
            .map_err(passing)?;
        stream.set_read_timeout(Some(self.settings.idle)).map_err(passing)?;
        let read = stream.try_clone().map_err(passing)?;
        // A thread that waits for bytes is woken by closing the connection under it.
        let closing = stream.try_clone().map_err(passing)?;
        self.interrupt.also(move || drop(closing.shutdown(std::net::Shutdown::Both)));
        let path = url.path().to_owned();
        let host = Some((host.to_owned(), url.port()));
        Ok(Daemon::new(read, stream, Protocol::V2, path, host, ConnectMode::Daemon, false))
    }

    /// Asks what there is, and fetches what is wanted of it.
    fn receive<T: Transport>(
        &self,
        repository: &Repository,
        source: &GitSource,
        transport: T,
    ) -> Result<RefMap, FetchError> {
        let specs = specs(source);
        let specs = specs.iter().map(String::as_str);
        let tags = if source.history == History::All { Tags::All } else { Tags::None };
        let remote = repository
            .remote_at(source.remote.url.as_str())
            .and_then(|remote| remote.with_refspecs(specs, gix::remote::Direction::Fetch))
            .map_err(|error| match is_named(source) {
                true => {
                    FetchError::NoReference(format!("{:?}: {}", source.reference, causes(&error)))
                }
                false => other(&error),
            })?
            .with_fetch_tags(tags);
        let connection = remote.to_connection_with_transport(transport);
        // Logging in is done below gix.
        let connection = connection.with_credentials(|_| Ok(None));
        let prepared = connection
            .prepare_fetch(Discard, gix::remote::ref_map::Options::default())
            .map_err(|error| self.failed(&error))?;
        if is_named(source) && targets(source, prepared.ref_map()).next().is_none() {
            return Err(FetchError::NoReference(wanted(source)));
        }
        let shallow = match source.history {
            History::Depth(depth) => Shallow::DepthAtRemote(depth),
            History::All | History::Branch => Shallow::NoChange,
        };
        let outcome = prepared
            .with_shallow(shallow)
            .receive(Discard, &self.stop)
            .map_err(|error| self.failed(&error))?;
        Ok(outcome.ref_map)
    }

    fn failed(&self, error: &gix::Error) -> FetchError {
        if self.is_interrupted() {
            FetchError::Other("interrupted".to_owned())
        } else if broke_off(error) {
            FetchError::Broken(causes(error))
        } else {
            other(error)
        }
    }
}

/// Whether a connection is at the bottom of it, and neither the disk nor what was said.
fn broke_off(error: &gix::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock,
    };
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| {
            let passing = [
                BrokenPipe,
                ConnectionAborted,
                ConnectionReset,
                TimedOut,
                UnexpectedEof,
                WouldBlock,
            ];
            passing.contains(&error.kind())
        })
}

/// A connection to the first address of a host that takes one.
fn connected(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn parsed(url: &str) -> Result<gix::Url, FetchError> {
    gix::url::parse(url).map_err(|error| FetchError::Other(error.to_string()))
}

fn is_named(source: &GitSource) -> bool {
    !source.reference.is_empty()
}

fn wanted(source: &GitSource) -> String {
    match source.reference.as_str() {
        "" => "default branch".to_owned(),
        commit if is_commit(commit) => format!("commit {commit}"),
        name if name.starts_with("refs/") => name.to_owned(),
        name => format!("branch or tag {name:?}"),
    }
}

/// What the reference may be called by the server, best first: branches go before tags.
fn candidates(reference: &str) -> Vec<String> {
    if reference.is_empty() {
        vec!["HEAD".to_owned()]
    } else if is_commit(reference) || reference.starts_with("refs/") {
        vec![reference.to_owned()]
    } else {
        let kinds = ["refs/", "refs/heads/", "refs/tags/"];
        kinds.iter().map(|kind| format!("{kind}{reference}")).collect()
    }
}

/// What is fetched.
fn specs(source: &GitSource) -> Vec<String> {
    let mut specs = candidates(&source.reference);
    if source.history == History::All {
        specs.push("+refs/heads/*:refs/remotes/origin/*".to_owned());
    }
    if let (Some(commit), History::Depth(_)) = (&source.commit, source.history) {
        specs.push(commit.clone());
    }
    specs
}

/// What the server has of the candidates, best first.
fn targets<'a>(
    source: &'a GitSource,
    map: &'a RefMap,
) -> impl Iterator<Item = (ObjectId, Option<String>)> + 'a {
    candidates(&source.reference).into_iter().filter_map(|name| {
        map.mappings.iter().find_map(|mapping| match &mapping.remote {
            Source::ObjectId(id) => {
                let same = ObjectId::from_hex(name.as_bytes()).ok()? == *id;
                same.then_some((*id, None))
            }
            Source::Ref(found) => {
                let (full, id, _) = found.unpack();
                let id = id.filter(|_| full == name.as_bytes().as_bstr())?;
                let branch = mapping.remote.as_target().unwrap_or(full);
                let branch = Some(branch.to_string()).filter(|it| it.starts_with("refs/heads/"));
                Some((id.to_owned(), branch))
            }
        })
    })
}

/// The commit that is meant, and that it is the one that was expected.
fn find(repository: &Repository, source: &GitSource, map: &RefMap) -> Result<Found, FetchError> {
    let none = || FetchError::NoReference(wanted(source));
    let (id, branch) = targets(source, map).next().ok_or_else(none)?;
    let id = match &source.commit {
        Some(commit) => ObjectId::from_hex(commit.as_bytes()).map_err(|_| none())?,
        None => id,
    };
    let object = repository.find_object(id);
    let object = object.map_err(|_| FetchError::NoReference(format!("commit {id}")))?;
    let commit = object.peel_to_kind(gix::object::Kind::Commit);
    let commit = commit.map_err(|_| FetchError::NoReference(format!("commit at {id}")))?.id;
    if let Some(expected) = &source.checksum {
        let fits = |id: ObjectId| id.to_string().starts_with(&expected.to_lowercase());
        if !fits(id) && !fits(commit) {
            return Err(FetchError::Checksum { found: commit, expected: expected.clone() });
        }
    }
    Ok(Found { commit, branch: branch.filter(|_| source.commit.is_none()) })
}

/// Removes everything in a directory that was begun.
fn empty(dir: &Path) -> io::Result<()> {
    std::fs::remove_dir_all(dir)?;
    std::fs::create_dir(dir)
}
