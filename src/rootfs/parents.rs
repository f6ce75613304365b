//! The directory that something was written into last, kept open.
//!
//! Archives list what is in a directory together, so the next entry mostly
//! has the same parent: opening it again would be a third of all system calls.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::io::Errno;
use snapshot::ImagePath;

use super::place::Place;
use super::tree::Tree;

/// Opens parents through a tree, and remembers the last.
#[derive(Debug)]
pub(crate) struct Parents<'a> {
    tree: &'a Tree,
    last: Option<(ImagePath, Rc<OwnedFd>)>,
}

impl<'a> Parents<'a> {
    /// Nothing is open yet.
    pub(crate) fn new(tree: &'a Tree) -> Self {
        Self { tree, last: None }
    }

    /// The tree.
    pub(crate) fn tree(&self) -> &'a Tree {
        self.tree
    }

    /// Where `path` is: its parent opened, no component of which may be a link. The root is `.` in
    /// itself.
    ///
    /// # Errors
    /// As [`Tree::dir`].
    pub(crate) fn place(&mut self, path: &ImagePath) -> io::Result<Place> {
        let name = path.file_name().unwrap_or(b".");
        let parent = path.parent().unwrap_or_else(ImagePath::root);
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let dir = match &self.last {
            Some((last, dir)) if *last == parent => Rc::clone(dir),
            _ => {
                let dir = Rc::new(self.tree.dir(&parent)?);
                self.last = Some((parent, Rc::clone(&dir)));
                dir
            }
        };
        Ok(Place::new(dir, name))
    }

    /// Whether `path` is the directory that is open: then it is one, and so is everything above it.
    pub(crate) fn is_open(&self, path: &ImagePath) -> bool {
        self.last.as_ref().is_some_and(|(last, _)| last == path)
    }

    /// Has to be called before `path` is removed or replaced.
    pub(crate) fn forget(&mut self, path: &ImagePath) {
        if self.last.as_ref().is_some_and(|(last, _)| last.starts_with(path)) {
            self.last = None;
        }
    }
}
