//! Builds container images from a Dockerfile without a daemon.

pub mod context;
pub mod dockerfile;
pub mod image;
pub mod registry;
pub mod sink;
