//! One file per verb: arguments, a call of the engine, output.

pub mod completion;
pub mod version;
