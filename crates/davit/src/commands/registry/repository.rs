//! `davit registry repo`

use davit_registry::{
    auth::{
        AccountError,
        accounts::{RepositoryRow, SetVisibility, repositories},
        audit::Actor,
    },
    config::Places,
};
use serde::Serialize;

use super::{
    date,
    deleted::{self, RestoreArgs, RmArgs},
    with_database,
};
use crate::{
    error::CliError,
    format::{List, ListFormat},
};

/// Verbs of `davit registry repo`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum RepoCommand {
    /// List repositories
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show repositories to everyone, or only to those who were given a role
    Set(SetArgs),
    /// Delete repositories; for 14 days they can be restored
    Rm(RmArgs),
    /// Have back a deleted repository, tag or manifest
    Restore(RestoreArgs),
}

// Arguments of `davit registry repo ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Only those whose names begin with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    /// Those that were deleted and can be restored, and such manifests
    #[arg(long)]
    deleted: bool,
    #[command(flatten)]
    format: ListFormat,
}

// Arguments of `davit registry repo set`.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// Names
    #[arg(required = true, value_name = "REPOSITORY")]
    repositories: Vec<String>,
    /// Who may pull
    #[arg(long, value_name = "WHO", value_parser = ["public", "private"])]
    visibility: String,
}

/// Runs `davit registry repo`.
pub(super) fn run(command: RepoCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        RepoCommand::Ls(args) if args.deleted => deleted::list(&args.prefix, &args.format, places)?,
        RepoCommand::Ls(args) => list(&args, places)?,
        RepoCommand::Rm(args) => deleted::remove(&args, places)?,
        RepoCommand::Restore(args) => deleted::restore(&args, places)?,
        RepoCommand::Set(args) => with_database(places, async |database| {
            for path in args.repositories {
                let is_public = args.visibility == "public";
                let by = Actor::operator();
                database.write(SetVisibility { by, path, is_public }).await?;
            }
            Ok::<_, AccountError>(())
        })?,
    }
    Ok(0)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    name: String,
    visibility: String,
    created_at: String,
}

fn list(args: &LsArgs, places: &Places) -> Result<(), CliError> {
    let found = with_database(places, async |database| repositories(database, &args.prefix).await)?;
    let row = |repository: RepositoryRow| Row {
        name: repository.path,
        visibility: repository.visibility,
        created_at: date(repository.created_at),
    };
    let rows: Vec<Row> = found.into_iter().map(row).collect();
    let table = "table {{.Name}}\t{{.Visibility}}\t{{.CreatedAt}}";
    List { table, heads: &[("CreatedAt", "CREATED")] }.print(&args.format, &rows, &rows)
}
