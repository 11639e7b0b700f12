//! `davit registry repo`

use std::path::{Path, PathBuf};

use davit_registry::{
    auth::{
        accounts::{RepositoryRow, SetVisibility, repositories},
        audit::Actor,
    },
    config::Places,
    settings::{SetSettings, SettingsChange, repository_settings},
};
use serde::Serialize;

use super::{
    Fault, date,
    deleted::{self, RestoreArgs, RmArgs},
    with_database,
};
use crate::{
    error::{CliError, io_error},
    format::{List, ListFormat},
    printer,
};

/// Verbs of `davit registry repo`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum RepoCommand {
    /// List repositories
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show a repository's settings
    Show(ShowArgs),
    /// Set who may pull from repositories, which of their tags never move, and which stay how long
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

// Arguments of `davit registry repo show`.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// Name
    repository: String,
}

// Arguments of `davit registry repo set`.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    /// Names
    #[arg(required = true, value_name = "REPOSITORY")]
    repositories: Vec<String>,
    /// Who may pull
    #[arg(long, value_name = "WHO", value_parser = ["public", "private"])]
    visibility: Option<String>,
    /// File with immutable_tags, retention and keep_untagged as JSON, - for standard input; what is
    /// absent there stays
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

/// Runs `davit registry repo`.
pub(super) fn run(command: RepoCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        RepoCommand::Ls(args) if args.deleted => deleted::list(&args.prefix, &args.format, places)?,
        RepoCommand::Ls(args) => list(&args, places)?,
        RepoCommand::Rm(args) => deleted::remove(&args, places)?,
        RepoCommand::Restore(args) => deleted::restore(&args, places)?,
        RepoCommand::Show(args) => show(&args, places)?,
        RepoCommand::Set(args) => set(args, places)?,
    }
    Ok(0)
}

fn show(args: &ShowArgs, places: &Places) -> Result<(), CliError> {
    let name = deleted::parse(&args.repository).map_err(Fault::from)?;
    let settings =
        with_database(places, async |database| repository_settings(database, &name).await)?;
    let text = serde_json::to_string_pretty(&settings);
    printer::line(&text.map_err(|error| CliError::user(error.to_string()))?)
}

fn set(args: SetArgs, places: &Places) -> Result<(), CliError> {
    let change = args.settings.as_deref().map(read_change).transpose()?;
    if change.is_none() && args.visibility.is_none() {
        return Err(CliError::usage("nothing is to be set"));
    }
    with_database(places, async |database| {
        for path in args.repositories {
            let repository = deleted::parse(&path)?;
            if let Some(change) = change.clone() {
                let by = Actor::operator();
                database.write(SetSettings { by, repository, change }).await?;
            }
            if let Some(visibility) = &args.visibility {
                let (by, is_public) = (Actor::operator(), visibility == "public");
                database.write(SetVisibility { by, path, is_public }).await?;
            }
        }
        Ok::<_, Fault>(())
    })
}

fn read_change(file: &Path) -> Result<SettingsChange, CliError> {
    let text = match file.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin().lock()),
        _ => fs_err::read_to_string(file),
    };
    let text = text.map_err(io_error)?;
    serde_json::from_str(&text)
        .map_err(|error| CliError::user(format!("{}: {error}", file.display())))
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
