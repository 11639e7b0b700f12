//! One file per verb: arguments, a call of the engine, output.

pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod version;
