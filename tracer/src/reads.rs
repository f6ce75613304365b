//! What a command may have known of the tree when it ran.
//!
//! # The promise
//!
//! If every path in [`Reads::Known`] was, before the command, what it was
//! before another run of the same command, as far as its [`Access`] goes and
//! all directories above it included, then the command found the same in both.
//! It may name too much, never too little; what cannot be followed is
//! [`Reads::Unknown`].
//!
//! Mounts are left out: what is below a mount point is no part of the tree.

use std::collections::BTreeMap;

/// How much a command may have known of a path, each including those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// What is there: its type, mode, owner and attributes, and where it leads
    /// if it is a link. Also where it is that nothing is there.
    Look,
    /// It may have been changed: of a file its content too, which is part of
    /// what was made of it.
    Change,
    /// All of it: the content of a file, the names in a directory.
    Read,
    /// All of it and of everything below.
    Tree,
}

/// What a command may have known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Nobody wanted to know.
    NotAsked,
    /// It cannot be told, and why.
    Unknown(String),
    /// Nothing but this, by path; directories above a path are not named again.
    Known(BTreeMap<Vec<u8>, Access>),
}
