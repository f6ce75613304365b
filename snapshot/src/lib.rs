//! From "these paths were touched" to "this is the layer".
//!
//! # The promise
//!
//! An [`Index`] is what the tree was after the last step. [`diff`] looks at
//! the suspects only, or at everything, and gives the same [`Difference`]
//! either way as long as the suspects name all that changed. [`pack`] writes
//! that difference as one layer: the same bytes for any number of threads,
//! never the whole layer in memory, and an error instead of a broken archive
//! when a file changes under it.
//!
//! Everything happens below a directory handle. No symbolic link of the tree
//! is followed, and no path leaves the root. Extended attributes are read
//! through `/proc/self/fd`, so `/proc` has to be mounted where this runs.

mod compress;
mod diff;
mod entry;
mod error;
mod exclusions;
mod hashing;
mod index;
mod layer;
pub mod listing;
mod observe;
mod path;
mod path_map;
mod seekable;
mod tar;
mod walk;

pub use compress::Compression;
pub use diff::{Change, Difference, Put, Suspects, diff};
pub use entry::{Entry, Fingerprint, Fingerprinter, Kind, Seen, Target, Timestamp, Xattrs};
pub use error::Error;
pub use exclusions::Exclusions;
pub use index::Index;
pub use layer::{Contents, Layer, Options, Sha256, pack};
pub use observe::{Inode, Observed, belongs_to_image, observe};
pub use path::{ImagePath, PathError};
pub use seekable::Table;
