//! Reading tar archives: a parser that is fed the archive's bytes in pieces of any size and keeps
//! none of the content.
//!
//! Understood: V7, ustar (POSIX), star, old and new GNU, PAX 2001 with local and global headers,
//! sparse files in the old GNU and the PAX 0.0, 0.1 and 1.0 forms. Where implementations differ, the
//! rule is that of Go's `archive/tar`, which the other engines use, so that one archive is one tree
//! everywhere; an exception is that global PAX headers are applied, as POSIX says.

mod header;
mod numbers;
mod parser;
mod pax;
mod sparse;

pub(crate) use header::BLOCK_SIZE;
pub use parser::ArchiveError;
pub(crate) use parser::{Parsed, Parser, ParserOptions};
