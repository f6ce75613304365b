//! The build context: the files that a Dockerfile may copy from.

pub mod glob;
pub mod ignore;
