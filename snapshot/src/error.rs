//! What can go wrong between a touched path and its layer.

use std::io;
use std::path::PathBuf;

use crate::{ImagePath, PathError};

/// Why there is no difference or no layer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on the tree failed.
    #[error("{call}({path})")]
    Tree {
        /// The call, by its name.
        call: &'static str,
        /// What it was about.
        path: ImagePath,
        /// What the kernel said.
        source: io::Error,
    },
    /// The layer's own file could not be written.
    #[error("could not write the layer in {}", dir.display())]
    Output {
        /// The directory of the temporary file.
        dir: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A path below the root cannot be named in an image.
    #[error("{path}: {source}")]
    Path {
        /// The path, or the directory it is in.
        path: ImagePath,
        /// The rule it breaks.
        source: PathError,
    },
    /// The tree holds a name that means a deletion in a layer.
    #[error("{0}: names that start with `.wh.` mean deletions in a layer and cannot be packed")]
    ReservedName(ImagePath),
    /// A file was not the same before, while and after it was packed.
    #[error("{path}: {what} while it was packed")]
    Moved {
        /// The file.
        path: ImagePath,
        /// What happened to it.
        what: &'static str,
    },
    /// An attribute whose name a PAX record cannot hold.
    #[error("{path}: extended attribute {name:?} cannot be packed, its name holds `=`")]
    XattrName {
        /// The file.
        path: ImagePath,
        /// The attribute's name.
        name: String,
    },
    /// More than 40 symbolic links on the way.
    #[error("{0}: too many levels of symbolic links")]
    TooManyLinks(ImagePath),
    /// A hard link to something that cannot have one.
    #[error("{name}: hard link to {target}, which is no file of the image")]
    NoLinkTarget {
        /// The missing file.
        target: ImagePath,
        /// The name that asked for it.
        name: ImagePath,
    },
}

impl Error {
    pub(crate) fn tree(call: &'static str, path: &ImagePath, source: impl Into<io::Error>) -> Self {
        Self::Tree { call, path: path.clone(), source: source.into() }
    }

    pub(crate) fn path(path: &ImagePath, source: PathError) -> Self {
        Self::Path { path: path.clone(), source }
    }
}
