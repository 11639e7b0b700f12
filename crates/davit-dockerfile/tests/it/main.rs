//! Integration tests of the Dockerfile parser: its judge, its corpus and its properties.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod book;
mod generate;
mod judge;
mod mend;
mod project;
mod properties;
