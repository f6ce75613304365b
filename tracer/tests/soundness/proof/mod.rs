//! The trace of small programs held against a walk.
//!
//! Shared by the tests of this crate and by those that start containers: the
//! same program runs the same guests wherever it is put.

mod answers;
mod guests;
mod oracle;
mod scene;

use std::path::{Path, PathBuf};

pub(crate) use answers::{SETTINGS, Setting, TABLES, compare, write};
pub(crate) use guests::{BUILT, Guests, HAS_I386};
pub(crate) use scene::{Place, Scene, cstring, mount};

/// Where guests and answers lie, in the sources.
fn tests() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_own = env!("CARGO_PKG_NAME") == "tracer"; // and not that of `integration`
    if is_own { package.join("tests") } else { package.join("tracer/tests") }
}
