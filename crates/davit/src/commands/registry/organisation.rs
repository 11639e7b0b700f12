//! `davit registry org` and `davit registry team`

use davit_registry::{
    auth::{
        accounts::{
            AddAccount, AddTeam, Kind, MemberRow, OrgRole, RemoveTeam, SetMember, SetTeamMember,
            Standing, TeamRow, members, teams,
        },
        audit::Actor,
    },
    config::Places,
};
use serde::Serialize;

use super::{
    Fault,
    user::{self, LsArgs, Names, QuotaArgs},
    with_database,
};
use crate::{
    error::CliError,
    format::{List, ListFormat},
    printer,
};

/// Verbs of `davit registry org`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum OrgCommand {
    /// Add an organisation, which owns the repositories NAME/*
    Add(AddArgs),
    /// List organisations
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Set how many bytes the repositories of organisations may hold
    Set(SetArgs),
    /// Remove organisations, with their teams and robots
    Rm(Names),
    /// Manage members
    #[command(subcommand)]
    Member(MemberCommand),
}

// Arguments of `davit registry org add`.
#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    /// Name: 2 to 64 lower-case letters, digits, and - _ between them
    name: String,
    /// User who owns it; may be given more than once
    #[arg(long, value_name = "USER", required = true)]
    owner: Vec<String>,
}

// Arguments of `davit registry org set`.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    quota: QuotaArgs,
}

/// Verbs of `davit registry org member`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum MemberCommand {
    /// Add a user to an organisation, or change what it is there
    Add(MemberAddArgs),
    /// List members
    #[command(visible_alias = "list")]
    Ls(OfOrganisation),
    /// Remove a user from an organisation and its teams
    Rm(MemberArgs),
}

// Arguments of `davit registry org member add`.
#[derive(Debug, clap::Args)]
pub(crate) struct MemberAddArgs {
    #[command(flatten)]
    member: MemberArgs,
    /// Let the user manage the organisation and all its repositories
    #[arg(long)]
    owner: bool,
}

// A user of an organisation.
#[derive(Debug, clap::Args)]
pub(crate) struct MemberArgs {
    /// Name of the organisation
    org: String,
    /// Name of the user
    user: String,
}

// A list that an organisation has.
#[derive(Debug, clap::Args)]
pub(crate) struct OfOrganisation {
    /// Name of the organisation
    org: String,
    #[command(flatten)]
    format: ListFormat,
}

/// Verbs of `davit registry team`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum TeamCommand {
    /// Add a team
    Add(TeamArgs),
    /// List teams with their members
    #[command(visible_alias = "list")]
    Ls(OfOrganisation),
    /// Remove a team and what was granted to it
    Rm(TeamArgs),
    /// Manage members
    #[command(subcommand)]
    Member(TeamMemberCommand),
}

// A team.
#[derive(Debug, clap::Args)]
pub(crate) struct TeamArgs {
    /// The team
    #[arg(value_name = "ORG/TEAM", value_parser = org_and_team)]
    team: (String, String),
}

/// Verbs of `davit registry team member`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum TeamMemberCommand {
    /// Add a member of the organisation to a team
    Add(TeamMemberArgs),
    /// Remove a user from a team
    Rm(TeamMemberArgs),
}

// A user of a team.
#[derive(Debug, clap::Args)]
pub(crate) struct TeamMemberArgs {
    #[command(flatten)]
    team: TeamArgs,
    /// Name of the user
    user: String,
}

/// Reads `ORG/TEAM`.
pub(super) fn org_and_team(text: &str) -> Result<(String, String), String> {
    let (org, team) = text.split_once('/').ok_or("a team is written ORG/TEAM")?;
    Ok((org.to_owned(), team.to_owned()))
}

/// Runs `davit registry org`.
pub(super) fn run(command: OrgCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        OrgCommand::Add(args) => add(args, places)?,
        OrgCommand::Ls(args) => user::list(&args, "org", places)?,
        OrgCommand::Set(args) => {
            let quota_bytes = args.quota.bytes()?;
            user::set(args.names, Standing { quota_bytes, ..Standing::default() }, places)?;
        }
        OrgCommand::Rm(args) => user::remove(args, places)?,
        OrgCommand::Member(MemberCommand::Add(args)) => {
            let role = if args.owner { OrgRole::Owner } else { OrgRole::Member };
            set_member(args.member, Some(role), places)?;
        }
        OrgCommand::Member(MemberCommand::Rm(args)) => set_member(args, None, places)?,
        OrgCommand::Member(MemberCommand::Ls(args)) => list_members(&args, places)?,
    }
    Ok(0)
}

fn add(args: AddArgs, places: &Places) -> Result<(), CliError> {
    let name = args.name.clone();
    let account = AddAccount {
        by: Actor::operator(),
        name: args.name,
        kind: Kind::Organisation,
        password: None,
        is_admin: false,
    };
    with_database(places, async |database| {
        // Whoever is no user must not leave an organisation that nobody owns.
        for owner in &args.owner {
            davit_registry::auth::accounts::need_user(database, owner).await?;
        }
        let org = account.name.clone();
        database.write(account).await?;
        for account in args.owner {
            let role = Some(OrgRole::Owner);
            let by = Actor::operator();
            database.write(SetMember { by, org: org.clone(), account, role }).await?;
        }
        Ok::<_, davit_registry::auth::AccountError>(())
    })?;
    printer::line(&name)
}

fn set_member(args: MemberArgs, role: Option<OrgRole>, places: &Places) -> Result<(), CliError> {
    let set = SetMember { by: Actor::operator(), org: args.org, account: args.user, role };
    with_database(places, async |database| database.write(set).await)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Member {
    name: String,
    role: String,
}

fn list_members(args: &OfOrganisation, places: &Places) -> Result<(), CliError> {
    let found = with_database(places, async |database| members(database, &args.org).await)?;
    let row = |MemberRow { name, role }| Member { name, role };
    let rows: Vec<Member> = found.into_iter().map(row).collect();
    List { table: "table {{.Name}}\t{{.Role}}", heads: &[] }.print(&args.format, &rows, &rows)
}

/// Runs `davit registry team`.
pub(super) fn run_team(command: TeamCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        TeamCommand::Add(args) => {
            let (org, team) = args.team;
            let add = AddTeam { by: Actor::operator(), org, team };
            with_database(places, async |database| database.write(add).await)?;
        }
        TeamCommand::Rm(args) => {
            let (org, team) = args.team;
            let remove = RemoveTeam { by: Actor::operator(), org, team };
            with_database(places, async |database| database.write(remove).await)?;
        }
        TeamCommand::Ls(args) => list_teams(&args, places)?,
        TeamCommand::Member(TeamMemberCommand::Add(args)) => set_team_member(args, true, places)?,
        TeamCommand::Member(TeamMemberCommand::Rm(args)) => set_team_member(args, false, places)?,
    }
    Ok(0)
}

fn set_team_member(args: TeamMemberArgs, is_member: bool, places: &Places) -> Result<(), CliError> {
    let (org, team) = args.team.team;
    let set = SetTeamMember { by: Actor::operator(), org, team, account: args.user, is_member };
    with_database(places, async |database| database.write(set).await)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Team {
    name: String,
    members: String,
}

fn list_teams(args: &OfOrganisation, places: &Places) -> Result<(), CliError> {
    let found = with_database(places, async |database| {
        teams(database, &args.org).await.map_err(Fault::from)
    })?;
    let row = |TeamRow { name, members }| Team { name, members: members.join(", ") };
    let rows: Vec<Team> = found.into_iter().map(row).collect();
    List { table: "table {{.Name}}\t{{.Members}}", heads: &[] }.print(&args.format, &rows, &rows)
}
