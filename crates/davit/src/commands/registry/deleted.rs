//! `davit registry repo rm|restore`, and what can be had back

use davit_engine::image::{Digest, Tag};
use davit_registry::{
    auth::audit::Actor,
    config::{Limits, Places},
    db::Database,
    fault, manifests,
    name::{NameError, RepositoryName},
    registry::Registry,
    store::StoreError,
    trash::{self, DeleteRepository, Deleted, Keep, RestoreRepository},
};
use serde::Serialize;

use super::{date, open_store, with_database};
use crate::{
    error::CliError,
    format::{List, ListFormat},
    printer,
};

// Arguments of `davit registry repo rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// Names
    #[arg(required = true, value_name = "REPOSITORY")]
    repositories: Vec<String>,
    /// Let the next garbage collection remove them, and do not keep them for 14 days
    #[arg(long)]
    now: bool,
}

// Arguments of `davit registry repo restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// A deleted repository, a tag whose last move or deletion is taken back, or a deleted manifest
    #[arg(value_name = "REPOSITORY[:TAG|@DIGEST]")]
    what: String,
    /// Name of the repository from now on, where its own is taken
    #[arg(long = "as", value_name = "REPOSITORY")]
    name: Option<String>,
}

/// Why nothing was deleted or restored.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrashFault {
    #[error("`{0}`: {1}")]
    Name(String, #[source] NameError),
    #[error("there is no repository `{0}`")]
    NoRepository(String),
    #[error("nothing of `{0}` can be had back")]
    Nothing(String),
    #[error(transparent)]
    Fault(#[from] fault::Fault),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs `davit registry repo rm`.
pub(super) fn remove(args: &RmArgs, places: &Places) -> Result<(), CliError> {
    let keep = if args.now { Keep::Nothing } else { Keep::Usual };
    with_database(places, async |database| {
        for text in &args.repositories {
            let delete = DeleteRepository { by: Actor::operator(), name: parse(text)?, keep };
            known(database.write(delete).await, || TrashFault::NoRepository(text.clone()))?;
        }
        Ok::<_, TrashFault>(())
    })
}

/// Runs `davit registry repo restore`.
pub(super) fn restore(args: &RestoreArgs, places: &Places) -> Result<(), CliError> {
    let what = Restored::parse(&args.what)?;
    if args.name.is_some() && !matches!(what, Restored::Repository(_)) {
        return Err(CliError::usage("--as is for whole repositories"));
    }
    with_database(places, async |database| {
        let nothing = || TrashFault::Nothing(args.what.clone());
        match what {
            Restored::Repository(name) => {
                let to = args.name.as_deref().map_or_else(|| Ok(name.clone()), parse)?;
                let restore = RestoreRepository { by: Actor::operator(), name, to };
                known(database.write(restore).await, nothing)
            }
            Restored::Tag(name, tag) => {
                let registry = registry(database, places)?;
                let last = manifests::history(&registry, &name, &tag, 1).await?;
                // To take back that it was made is to delete it.
                if last.first().is_none_or(|last| last.old.is_none()) {
                    return Err(nothing());
                }
                let undone = manifests::undo(&registry, &name, &tag, None).await;
                known(undone.map(drop), nothing)
            }
            Restored::Manifest(name, digest) => {
                let registry = registry(database, places)?;
                let back = trash::restore_manifest(&registry, &name, &digest, None).await;
                known(back.map(drop), nothing)
            }
        }
    })
}

enum Restored {
    Repository(RepositoryName),
    Tag(RepositoryName, Tag),
    Manifest(RepositoryName, Digest),
}

impl Restored {
    fn parse(text: &str) -> Result<Self, CliError> {
        let malformed = |what: &str| CliError::usage(format!("`{text}` has no well-formed {what}"));
        let name = |text: &str| text.parse().map_err(|_error| malformed("repository"));
        if let Some((repository, digest)) = text.split_once('@') {
            let digest = digest.parse().map_err(|_error| malformed("digest"))?;
            return Ok(Self::Manifest(name(repository)?, digest));
        }
        if let Some((repository, tag)) = text.rsplit_once(':') {
            let tag = tag.parse().map_err(|_error| malformed("tag"))?;
            return Ok(Self::Tag(name(repository)?, tag));
        }
        Ok(Self::Repository(name(text)?))
    }
}

/// Reads the name of a repository.
pub(super) fn parse(text: &str) -> Result<RepositoryName, TrashFault> {
    text.parse().map_err(|error| TrashFault::Name(text.to_owned(), error))
}

fn registry(database: &Database, places: &Places) -> Result<Registry, TrashFault> {
    Ok(Registry::new(database.clone(), open_store(places)?, Limits::default()))
}

/// Says in the caller's words that a thing is not known.
fn known(
    outcome: Result<(), fault::Fault>,
    unknown: impl FnOnce() -> TrashFault,
) -> Result<(), TrashFault> {
    match outcome {
        Err(fault::Fault::Unknown(_)) => Err(unknown()),
        outcome => Ok(outcome?),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    name: String,
    deleted_at: String,
}

/// Lists what can be had back, as `restore` takes it.
pub(super) fn list(prefix: &str, format: &ListFormat, places: &Places) -> Result<(), CliError> {
    let found = with_database(places, async |database| trash::deleted(database).await)?;
    let rows: Vec<Row> =
        found.into_iter().map(row).filter(|row| row.name.starts_with(prefix)).collect();
    let table = "table {{.Name}}\t{{.DeletedAt}}";
    List { table, heads: &[("DeletedAt", "DELETED")] }.print(format, &rows, &rows)?;
    if rows.is_empty() {
        printer::note("nothing is deleted that can be had back");
    }
    Ok(())
}

fn row(deleted: Deleted) -> Row {
    let Deleted { repository, digest, at_ms } = deleted;
    let name = digest.map_or_else(|| repository.clone(), |digest| format!("{repository}@{digest}"));
    Row { name, deleted_at: date(at_ms) }
}
