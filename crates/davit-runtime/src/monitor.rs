//! The monitor: one single-threaded process per running container.
//!
//! It owns the container's standard streams, log, exit, restarts and health checks, and never opens
//! the database. What it knows leaves by two doors whose bytes are frozen from version 1:
//! [`state`], records appended to `containers/ID/state`, and [`protocol`], the socket for those who
//! attach.
//!
//! ```text
//! command -- Spec, lock, socket pair --> run() -- launch --> container
//!    ^                                    |  \__ log, state, RUN_ROOT/ROOTID/c/ID/sock
//!    '------- Started, output, Exited ----'  \__ settle(): executes the installed davit
//! ```

mod client;
mod health;
pub mod log;
pub mod probe;
pub mod protocol;
mod run;
mod socket;
pub mod spec;
pub mod state;
mod streams;

pub use run::{Beginning, Settlement, run, settle};
pub use socket::dial;
pub use spec::{Root, Spec};
