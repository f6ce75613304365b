//! Builds container images from a Dockerfile without a daemon.

pub mod image;
pub mod registry;
pub mod sink;
