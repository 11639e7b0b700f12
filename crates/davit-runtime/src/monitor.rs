//! The monitor: one single-threaded process per running container.
//!
//! It owns the container's standard streams, log, exit, restarts and health checks, and never opens
//! the database. What it knows leaves by two doors whose bytes are frozen from version 1:
//! [`state`], records appended to `containers/ID/state`, and [`protocol`], the socket for those who
//! attach.

pub mod log;
pub mod protocol;
pub mod state;
