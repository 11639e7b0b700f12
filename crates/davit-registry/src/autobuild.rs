//! Automated builds: a push to a git repository becomes an image of a repository here.
//!
//! ```text
//! webhook (incoming) ─┐                                    ┌─ checkout, hooks, build, test
//! poll, base (watch) ─┼─► queue ─► build row ─► worker ─► task (a process, killed with its worker)
//! command, page      ─┘   rules    (lease)       │          └─ push, with a token for one repository
//!                                                └─► log, state, digest
//! ```
//!
//! The server only writes rows. Everything that touches a foreign repository happens in the processes
//! of a [`worker`], on this machine or another one: they take a build from the database with a lease,
//! renew it while they write the log, and whoever finds a lease that has ended takes the build again.
//! A worker that lost its lease changes nothing any more, and its token is revoked.

pub mod claim;
pub mod hook;
pub mod incoming;
pub mod queue;
pub mod records;
pub mod rules;
pub mod source;
pub mod task;
pub mod worker;

mod child;
mod mask;
mod watch;

pub use child::{Program, VERB as TASK_VERB};
pub use mask::SHORTEST as SHORTEST_SECRET;

use crate::{
    auth::{AccountError, GlobError},
    db::DbError,
    name::NameError,
};

/// Why something about builds is refused.
#[derive(Debug, thiserror::Error)]
pub enum AutobuildError {
    /// There is no such source, rule, variable or build.
    #[error("there is no {0} `{1}`")]
    Unknown(&'static str, String),
    /// A repository has one source.
    #[error("`{0}` has a source already")]
    Exists(String),
    /// Builds act for the account that owns the repository.
    #[error("`{0}` belongs to no account, for which a build could push")]
    NoOwner(String),
    /// The address of a source cannot be used; accounts in it are not shown.
    #[error("the address of the source cannot be used: {0}")]
    Url(&'static str),
    /// What is kept for one git repository is not told to another.
    #[error("another address needs its credential: what is kept is not told to it")]
    Elsewhere,
    /// A variable cannot be used.
    #[error("the variable `{0}` cannot be used: {1}")]
    Variable(String, &'static str),
    /// No rule speaks of what is to be built.
    #[error("no rule of `{0}` speaks of {1}")]
    NoRule(String, String),
    /// Too many builds wait.
    #[error("{0} builds of `{1}` wait already")]
    Full(u64, String),
    /// The build has ended.
    #[error("build {0} is {1}")]
    Ended(i64, String),
    /// A rule.
    #[error(transparent)]
    Rule(#[from] rules::RuleError),
    /// The name of a repository.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A pattern of repositories.
    #[error(transparent)]
    Glob(#[from] GlobError),
    /// The account that builds push as.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// The database's.
    #[error(transparent)]
    Database(#[from] DbError),
    /// A row is not what this program wrote.
    #[error("build {0} cannot be read")]
    Row(i64, #[source] serde_json::Error),
}
