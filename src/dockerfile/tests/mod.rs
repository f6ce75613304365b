//! Tests that need more than one module of the front end.

mod errors;
mod meaning;
mod printing;
mod reference;
mod words;
