//! Builds container images from a Dockerfile without a daemon.

pub mod build;
pub mod cache;
pub mod check;
pub mod cli;
pub mod context;
pub mod dockerfile;
pub mod image;
pub mod plan;
pub mod registry;
pub mod report;
pub mod rootfs;
pub mod ship;
pub mod sink;
pub mod step;
pub mod warm;
