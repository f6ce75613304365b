//! Builds container images from a Dockerfile without a daemon.

pub mod dockerfile;
pub mod image;
