//! From a commit to files.

use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use gix::bstr::ByteSlice as _;
use gix::progress::Discard;
use gix::{ObjectId, Repository};

use super::fetch::{FetchError, Found, other};
use super::source::GitSource;

/// What the content of a file begins with that is stored elsewhere.
const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";
/// No pointer is longer.
const LONGEST_POINTER: u32 = 1024;

/// A place of the index where another repository goes.
pub(super) struct Link {
    pub(super) path: String,
    pub(super) commit: ObjectId,
}

/// Writes the files of a commit into the working directory of the repository; answers where
/// submodules belong, and the commit's time.
pub(super) fn check_out(
    repository: &Repository,
    source: &GitSource,
    found: &Found,
    stop: &AtomicBool,
) -> Result<(Vec<Link>, i64), FetchError> {
    let dir = repository.workdir().unwrap_or(repository.path()).to_owned();
    let commit = repository.find_commit(found.commit).map_err(|error| other(&error))?;
    let tree = commit.tree_id().map_err(|error| other(&error))?;
    let mut index = repository.index_from_tree(&tree).map_err(|error| other(&error))?;
    let attributes = gix::worktree::stack::state::attributes::Source::IdMapping;
    let mut options = repository.checkout_options(attributes).map_err(|error| other(&error))?;
    options.destination_is_initially_empty = true;
    let objects = repository.objects.clone().into_arc()?;
    let done = gix::worktree::state::checkout(
        &mut index, &dir, objects, &Discard, &Discard, stop, options,
    )
    .map_err(|error| other(&error))?;
    if stop.load(std::sync::atomic::Ordering::SeqCst) {
        return Err(FetchError::Other("interrupted".to_owned()));
    }
    if let Some(error) = done.errors.first() {
        return Err(FetchError::Other(format!("{}: {}", error.path, error.error)));
    }
    if let Some(collision) = done.collisions.first() {
        let why = format!("{} is there twice: {}", collision.path, collision.error_kind);
        return Err(FetchError::Refused(why));
    }
    let time = commit.time().map_err(|error| other(&error))?.seconds;
    let links = look_over(&index, source, &dir, source.commit_times.then_some(time))?;
    if source.keep_git_dir {
        index.write(gix::index::write::Options::default()).map_err(|error| other(&error))?;
        finish_git_dir(repository.path(), source, found)?;
    }
    Ok((links, time))
}

/// Goes through what was checked out: no file may have its content elsewhere, each gets its time.
/// Answers the places of submodules.
fn look_over(
    index: &gix::index::State,
    source: &GitSource,
    dir: &Path,
    time: Option<i64>,
) -> Result<Vec<Link>, FetchError> {
    use gix::index::entry::Mode;
    let mut links = Vec::new();
    for entry in index.entries() {
        let path = entry.path(index);
        if entry.mode == Mode::COMMIT {
            links.push(Link { path: path.to_string(), commit: entry.id });
            continue;
        }
        let file = dir.join(path.to_path().map_err(|error| FetchError::Other(error.to_string()))?);
        let is_file = entry.mode == Mode::FILE || entry.mode == Mode::FILE_EXECUTABLE;
        let is_wanted = source.sub_dir.is_empty()
            || path.strip_prefix(source.sub_dir.as_bytes()).is_some_and(|it| it.starts_with(b"/"));
        if is_wanted && is_file && is_pointer(&file, entry.stat.size)? {
            return Err(FetchError::Lfs(path.to_string()));
        }
        if let Some(time) = time {
            set_time(&file, time)?;
        }
    }
    Ok(links)
}

/// Whether a file only says where its content is.
fn is_pointer(path: &Path, size: u32) -> Result<bool, FetchError> {
    if size > LONGEST_POINTER || (size as usize) < LFS.len() {
        return Ok(false);
    }
    let mut start = Vec::new();
    std::fs::File::open(path)?.take(LFS.len() as u64).read_to_end(&mut start)?;
    Ok(start == LFS)
}

fn set_time(path: &Path, seconds: i64) -> Result<(), FetchError> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| FetchError::Store(errno.into()))
}

/// What programs in the image look for in `.git`: where HEAD is, and where it came from.
fn finish_git_dir(git_dir: &Path, source: &GitSource, found: &Found) -> Result<(), FetchError> {
    let branch = found
        .branch
        .as_deref()
        .filter(|name| gix::validate::reference::name(name.as_bytes().as_bstr()).is_ok());
    let head = match branch {
        Some(branch) => {
            let file = git_dir.join(branch);
            std::fs::create_dir_all(file.parent().unwrap_or(git_dir))?;
            std::fs::write(file, format!("{}\n", found.commit))?;
            format!("ref: {branch}\n")
        }
        None => format!("{}\n", found.commit),
    };
    std::fs::write(git_dir.join("HEAD"), head)?;
    let url = source.remote.to_string().replace('\\', "\\\\").replace('"', "\\\"");
    let section = format!(
        "[remote \"origin\"]\n\turl = \"{url}\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
    );
    let mut config = std::fs::read(git_dir.join("config"))?;
    config.extend_from_slice(section.as_bytes());
    Ok(std::fs::write(git_dir.join("config"), config)?)
}
