//! Moving part of a tree out of the way and back, as it is.

use std::io;
use std::os::fd::AsFd as _;

use rustix::io::Errno;
use snapshot::ImagePath;

use super::tree::{Metadata, Tree, names_in};

/// Moves `from` to `to`, which must not exist, on the same file system.
///
/// An overlay refuses to rename a directory that a lower layer of its has, too; such a directory is
/// made anew with what is in it moved one by one. No content is copied, so hard links stay what they
/// are.
///
/// # Errors
/// A call fails; what was moved until then stays where it went.
pub(crate) fn relocate(tree: &Tree, from: &ImagePath, to: &ImagePath) -> io::Result<()> {
    match tree.rename(from, to) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::XDEV) => {}
        done => return done,
    }
    let observed = snapshot::observe(tree.as_fd(), from).map_err(io::Error::other)?;
    let Some(entry) = observed.map(|seen| seen.entry).filter(snapshot::Entry::is_dir) else {
        return Err(Errno::XDEV.into());
    };
    tree.make_dir(to, 0o700)?;
    for name in names_in(tree.list(from)?.as_fd())? {
        let join = |dir: &ImagePath| dir.join(name.as_bytes()).map_err(io::Error::other);
        relocate(tree, &join(from)?, &join(to)?)?;
    }
    tree.remove_empty(from)?;
    let xattrs: Vec<_> =
        entry.xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    let metadata = Metadata {
        mode: Some(entry.mode),
        owner: (entry.uid, entry.gid),
        xattrs: &xattrs,
        mtime: Some(entry.mtime),
    };
    tree.set_metadata(to, &metadata)
}
