//! End-to-end tests: the real binary, each test with roots of its own.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test may end at any surprise")]
#![allow(clippy::disallowed_methods, reason = "tests prepare files and read the environment")]

mod boot;
mod build;
mod build_judge;
mod build_network;
mod cli;
mod containers;
mod containers_more;
mod copy;
mod crash;
mod distribution;
mod eio;
mod flags;
mod formats;
mod forms;
mod full_disk;
mod image_words;
mod images;
mod kill;
mod lifecycle;
mod machine;
mod network;
mod options;
mod output;
mod peer_defaults;
mod refused;
mod registry_accounts;
mod registry_builds;
mod registry_clients;
mod registry_events;
mod registry_serve;
mod repair;
mod reset;
mod security;
mod slow_clients;
mod space;
mod terminal;
mod tty;
mod verbs;

use davit_test::Davit;

/// The binary of this build on empty roots.
fn davit() -> Davit {
    Davit::new(env!("CARGO_BIN_EXE_davit"))
}
