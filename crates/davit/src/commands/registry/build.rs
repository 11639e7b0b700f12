//! `davit registry build`: automated builds.

mod rule;
mod run;
mod source;

use davit_registry::{autobuild::AutobuildError, config::Places, db::Database};

use super::{Fault, with_database};
use crate::error::CliError;

/// Verbs of `davit registry build`.
#[derive(Debug, clap::Subcommand)]
#[command(
    defer = true,
    after_help = "\
A source connects a repository to a git repository; rules say what of it is built and how it is
tagged.
Builds are run by `davit registry serve --workers N` or `davit registry worker`."
)]
pub(crate) enum BuildCommand {
    /// Manage the git repositories that are built
    #[command(subcommand)]
    Source(source::SourceCommand),
    /// Manage what of them is built
    #[command(subcommand)]
    Rule(rule::RuleCommand),
    /// Build now
    Run(run::RunArgs),
    /// List builds
    #[command(visible_alias = "list")]
    Ls(run::LsArgs),
    /// Show a build
    Show(run::ShowArgs),
    /// Print the log of a build
    Logs(run::LogsArgs),
    /// End builds that wait or run
    Cancel(run::IdArgs),
    /// Build again what builds that have ended did
    Retry(run::IdArgs),
}

/// Runs `davit registry build`.
pub(super) fn run(command: BuildCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        BuildCommand::Source(command) => source::run(command, places),
        BuildCommand::Rule(command) => rule::run(command, places),
        BuildCommand::Run(args) => run::run(&args, places),
        BuildCommand::Ls(args) => run::list(&args, places),
        BuildCommand::Show(args) => run::show(&args, places),
        BuildCommand::Logs(args) => run::logs(&args, places),
        BuildCommand::Cancel(args) => run::cancel(args, places),
        BuildCommand::Retry(args) => run::retry(args, places),
    }
}

/// Does something about builds with the database.
fn with_builds<T>(
    places: &Places,
    work: impl AsyncFnOnce(&Database) -> Result<T, AutobuildError>,
) -> Result<T, CliError> {
    with_database(places, async |database| work(database).await.map_err(Fault::from))
}
