//! Bake definitions: HCL, JSON and Compose files to resolved build targets.
//!
//! [`Definitions::read`] takes the texts of files and what they may know of the world;
//! [`Definitions::resolve`] gives the targets. Nothing here reads a file, the environment or the
//! clock. Files come from anywhere: their size, depth, steps and targets are bounded.
//!
//! ```text
//! files -> source (blocks, not evaluated) -> definitions (names) -> resolve (plan) -> print, build
//! ```
//!
//! Format: buildx `docs/bake-reference.md`.

#![forbid(unsafe_code)]

mod compose;
mod definitions;
mod error;
mod eval;
mod functions;
mod resolve;
mod source;
mod target;
mod value;
mod words;

pub use self::{
    definitions::{Definitions, Paths, ReadFile, ReadFn, Surroundings, Variable},
    error::{BakeError, Place, ValueError},
    resolve::{Group, Listed, Plan},
    source::BakeFile,
    target::Target,
};
