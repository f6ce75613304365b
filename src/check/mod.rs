//! Checks: what is allowed in a Dockerfile and yet probably not meant.
//!
//! The rules are those of `docker build --check`, by the same names; `docs/checks.md` explains each. They
//! look at the text alone ([`text`]) or at the variables of a stage that was planned ([`stages`]), so the
//! first can be told although a base image cannot be had. Nothing here changes what is built.

mod options;
mod report;
mod rule;
mod stages;
mod text;
mod words;

#[cfg(test)]
mod tests;

pub use options::{BadOptions, Options};
pub use report::{Finding, Findings};
pub use rule::Rule;
pub use stages::{Surroundings, stages};
pub use text::text;
