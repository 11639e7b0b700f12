//! The Dockerfile language: parser with spans, variable expansion and ignore patterns.
//!
//! ```text
//! bytes -> logical lines -> nodes (keyword, flags, words) -> Dockerfile { global ARGs, stages }
//! ```
//!
//! The language is that of the Dockerfile frontend 1.26. Everything is kept with its [`Span`], so
//! that a message can point at the text it speaks of.
//!
//! **Invariant:** this crate does no IO, and no input makes it panic.

#![forbid(unsafe_code)]

mod ast;
mod error;
mod expand;
mod glob;
pub mod history;
mod ignore;
pub mod lint;
pub mod outline;
mod parse;
mod port;
mod scope;
mod signal;
mod size;
mod span;
mod text;

pub use ast::{
    Add, ArgDefinition, CommandForm, CommandLine, Comment, Copy, Device, Directive, Directives,
    Dockerfile, EmptyContinuation, Escape, HealthTest, Healthcheck, Heredoc, InlineFile,
    Instruction, KeyValue, Kind, Mount, MountKind, Network, Onbuild, Run, Security, Sharing,
    Sources, Stage, Word,
};
pub use error::{ParseError, ParseErrorKind, in_short, nearest};
pub use expand::{
    ExpandError, ExpandErrorKind, Expanded, Lexer, NoVariables, Quotes, Unset, VariableList,
    Variables,
};
pub use glob::{Glob, GlobError};
pub use ignore::{Above, IgnoreError, Pattern, Patterns, Verdict, clean};
pub use parse::{
    KEYWORDS, MountError, Node, Syntax, detect_syntax, format_duration, parse_duration,
};
pub use port::{ExposedPorts, PortError};
pub use scope::{
    Argument, BuildArguments, GlobalScope, StageScope, is_predefined, proxy_variables,
};
pub use signal::parse_signal;
pub use size::parse_size;
pub use span::Span;
