//! `davit registry grant`

use davit_registry::{
    auth::{
        RepositoryGlob, Role,
        accounts::{GrantRow, SetGrant, Subject, grants},
        audit::Actor,
    },
    config::Places,
};
use serde::Serialize;

use super::{Fault, organisation::org_and_team, with_database};
use crate::{
    error::CliError,
    format::{List, ListFormat},
};

/// Verbs of `davit registry grant`.
#[derive(Debug, clap::Subcommand)]
#[command(
    defer = true,
    after_help = "\
WHO is a user, a robot (OWNER+NAME), a team (ORG/TEAM), members:ORG, or everyone.
REPOSITORIES is a name or pattern: acme/web, acme/web-* (within a component), acme/** (all below).
ROLE is pull; push (also writes tags); maintain (also removes); or admin (also gives roles)."
)]
pub(crate) enum GrantCommand {
    /// Give a role on repositories, in the place of an earlier one on the same pattern
    Add(AddArgs),
    /// List grants
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Take a role back
    Rm(RmArgs),
}

// Arguments of `davit registry grant add`.
#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    grant: RmArgs,
    /// pull, push, maintain or admin
    role: String,
    /// Let tags be made but never moved to another image
    #[arg(long)]
    create_only: bool,
}

// Arguments of `davit registry grant rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// Who gets it
    #[arg(value_name = "WHO", value_parser = subject)]
    subject: Subject,
    /// On which repositories
    #[arg(value_name = "REPOSITORIES")]
    glob: String,
}

// Arguments of `davit registry grant ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Only those on patterns that begin with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,
    #[command(flatten)]
    format: ListFormat,
}

fn subject(text: &str) -> Result<Subject, String> {
    if text == "everyone" {
        return Ok(Subject::Everyone);
    }
    if let Some(org) = text.strip_prefix("members:") {
        return Ok(Subject::Members(org.to_owned()));
    }
    match org_and_team(text) {
        Ok((org, team)) => Ok(Subject::Team(org, team)),
        Err(_) => Ok(Subject::Account(text.to_owned())),
    }
}

/// Runs `davit registry grant`.
pub(super) fn run(command: GrantCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        GrantCommand::Add(args) => {
            let role: Role = args.role.parse().map_err(Fault::from)?;
            set(args.grant, Some(role), args.create_only, places)?;
        }
        GrantCommand::Rm(args) => set(args, None, false, places)?,
        GrantCommand::Ls(args) => list(&args, places)?,
    }
    Ok(0)
}

fn set(
    args: RmArgs,
    role: Option<Role>,
    is_adding_only: bool,
    places: &Places,
) -> Result<(), CliError> {
    let glob: RepositoryGlob = args.glob.parse().map_err(Fault::from)?;
    let set = SetGrant { by: Actor::operator(), subject: args.subject, glob, role, is_adding_only };
    with_database(places, async |database| database.write(set).await)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    repositories: String,
    role: String,
    who: String,
}

fn list(args: &LsArgs, places: &Places) -> Result<(), CliError> {
    let found = with_database(places, async |database| grants(database, &args.prefix).await)?;
    let row = |grant: GrantRow| Row {
        repositories: grant.glob,
        role: if grant.is_adding_only {
            format!("{} (create only)", grant.role)
        } else {
            grant.role
        },
        who: grant.subject,
    };
    let rows: Vec<Row> = found.into_iter().map(row).collect();
    let table = "table {{.Repositories}}\t{{.Role}}\t{{.Who}}";
    List { table, heads: &[] }.print(&args.format, &rows, &rows)
}
