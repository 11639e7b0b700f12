//! One file per verb: arguments, a call of the engine, output.

pub(crate) mod build;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod login;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod search;
pub(crate) mod version;
