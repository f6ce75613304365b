//! Differences and layers of real trees.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod changes;
mod laws;
mod packing;
mod sandbox;
mod seekable;
mod traps;
mod unpack;
