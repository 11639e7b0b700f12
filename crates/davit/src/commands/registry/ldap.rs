//! `davit registry ldap`

use std::path::PathBuf;

use davit_engine::Secret;
use davit_registry::{
    auth::{
        audit::Actor,
        ldap::{
            AddGroupMap, LdapRow, LdapSource, RemoveGroupMap, SetLdap, SyncMode, group_maps,
            ldap_sources, sync,
        },
        oidc::{ProviderKind, RemoveProvider},
    },
    config::Places,
};
use serde::Serialize;

use super::{Fault, date, user::Names, with_database};
use crate::{
    commands::login,
    error::CliError,
    format::{List, ListFormat},
    printer,
};

/// Verbs of `davit registry ldap`.
#[derive(Debug, clap::Subcommand)]
#[command(
    defer = true,
    after_help = "\
A directory is asked for names that have no password here. Its groups become teams where `map` says
so; who leaves a group leaves the team with the next login or comparison. Who is gone from the
directory loses tokens and sessions with the next comparison, each hour (--sync-every) or by `sync`."
)]
pub(crate) enum LdapCommand {
    /// Add a directory whose passwords count, or change it
    Add(AddArgs),
    /// List directories
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Remove directories; accounts stay
    Rm(Names),
    /// Make the members of a group members of a team
    Map(MapArgs),
    /// List groups that are teams
    Maps(ListArgs),
    /// End that
    Unmap(UnmapArgs),
    /// Compare accounts with the directory that they came from, as the server does by itself
    Sync(SyncArgs),
}

// Arguments of `davit registry ldap add`.
#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    /// Name
    name: String,
    /// ldaps://HOST[:PORT], or ldap://HOST[:PORT] with StartTLS
    #[arg(long, value_name = "URL")]
    url: String,
    /// Speak without TLS, to a directory on this machine
    #[arg(long)]
    no_start_tls: bool,
    /// Certificates in PEM to trust instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Who searches
    #[arg(long, value_name = "DN")]
    bind_dn: String,
    /// Read the searcher's password from standard input; without, the one that is known stays
    #[arg(long)]
    bind_password_stdin: bool,
    /// Below which people are
    #[arg(long, value_name = "DN")]
    users: String,
    /// Class of people
    #[arg(long, value_name = "CLASS", default_value = "person")]
    user_class: String,
    /// Attribute that is the name here (sAMAccountName in Active Directory)
    #[arg(long, value_name = "NAME", default_value = "uid")]
    user_attribute: String,
    /// Attribute that never changes (objectGUID in Active Directory)
    #[arg(long, value_name = "NAME", default_value = "entryUUID")]
    id_attribute: String,
    /// Below which groups are
    #[arg(long, value_name = "DN")]
    groups: Option<String>,
    /// Attribute that is a group's name
    #[arg(long, value_name = "NAME", default_value = "cn")]
    group_attribute: String,
    /// Attribute with the DN of each member
    #[arg(long, value_name = "NAME", default_value = "member")]
    member_attribute: String,
    /// Take newcomers only as far as sign-up allows
    #[arg(long)]
    no_sign_up: bool,
    /// Compare accounts with the directory so often; 0: never
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    sync_every: u32,
}

// Arguments of lists.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    format: ListFormat,
}

// Arguments of `davit registry ldap map`.
#[derive(Debug, clap::Args)]
pub(crate) struct MapArgs {
    /// The directory
    name: String,
    /// The group
    group: String,
    /// The team
    #[arg(value_name = "ORG/TEAM")]
    team: String,
}

// Arguments of `davit registry ldap unmap`.
#[derive(Debug, clap::Args)]
pub(crate) struct UnmapArgs {
    /// The directory
    name: String,
    /// The group
    group: String,
}

// Arguments of `davit registry ldap sync`.
#[derive(Debug, clap::Args)]
pub(crate) struct SyncArgs {
    /// The directory
    name: String,
    /// Only tell what would change
    #[arg(long)]
    dry_run: bool,
    /// Also where more than half of the people are gone at once
    #[arg(long)]
    force: bool,
}

/// Runs `davit registry ldap`.
pub(super) fn run(command: LdapCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        LdapCommand::Add(args) => add(args, places)?,
        LdapCommand::Ls(args) => list(&args, places)?,
        LdapCommand::Rm(args) => with_database(places, async |database| {
            for name in args.names {
                let (by, kind) = (Actor::operator(), ProviderKind::Ldap);
                database.write(RemoveProvider { by, name, kind }).await?;
            }
            Ok::<_, Fault>(())
        })?,
        LdapCommand::Map(args) => map(args, places)?,
        LdapCommand::Maps(args) => list_maps(&args, places)?,
        LdapCommand::Unmap(UnmapArgs { name: source, group }) => {
            let remove = RemoveGroupMap { by: Actor::operator(), source, group };
            with_database(places, async |database| database.write(remove).await)?;
        }
        LdapCommand::Sync(args) => compare(&args, places)?,
    }
    Ok(0)
}

fn compare(args: &SyncArgs, places: &Places) -> Result<(), CliError> {
    let mode = SyncMode { dry_run: args.dry_run, force: args.force };
    let found = with_database(places, async |database| sync(database, &args.name, mode).await)?;
    for name in &found.gone {
        printer::line(&format!("{name}: gone"))?;
    }
    for name in &found.moved {
        printer::line(&format!("{name}: in other groups"))?;
    }
    printer::line(&found.to_string())
}

fn add(args: AddArgs, places: &Places) -> Result<(), CliError> {
    let password = args.bind_password_stdin.then(login::read_password).transpose()?;
    let certificates = args.ca.map(fs_err::read_to_string).transpose();
    let source = LdapSource {
        url: args.url,
        start_tls: !args.no_start_tls,
        certificates: certificates.map_err(crate::error::io_error)?,
        bind_dn: args.bind_dn,
        bind_password: password.map(Secret::new).unwrap_or_default(),
        users: args.users,
        user_class: args.user_class,
        user_attribute: args.user_attribute,
        id_attribute: args.id_attribute,
        groups: args.groups,
        group_attribute: args.group_attribute,
        member_attribute: args.member_attribute,
        signs_up: !args.no_sign_up,
        sync_minutes: args.sync_every,
    };
    let set = SetLdap { by: Actor::operator(), name: args.name.clone(), source };
    with_database(places, async |database| database.write(set).await)?;
    printer::line(&args.name)
}

fn list(args: &ListArgs, places: &Places) -> Result<(), CliError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Row {
        name: String,
        url: String,
        synced: String,
        result: String,
    }
    let found = with_database(places, async |database| ldap_sources(database).await)?;
    let row = |row: LdapRow| Row {
        name: row.name,
        url: row.source.url,
        synced: row.synced_at.map(date).unwrap_or_default(),
        result: row.sync_result.unwrap_or_default(),
    };
    let rows: Vec<Row> = found.into_iter().map(row).collect();
    let table = "table {{.Name}}\t{{.Url}}\t{{.Synced}}\t{{.Result}}";
    List { table, heads: &[] }.print(&args.format, &rows, &rows)
}

fn map(args: MapArgs, places: &Places) -> Result<(), CliError> {
    let team = args.team.split_once('/').ok_or_else(|| CliError::usage("a team is ORG/TEAM"))?;
    let add = AddGroupMap {
        by: Actor::operator(),
        source: args.name,
        group: args.group,
        team: (team.0.to_owned(), team.1.to_owned()),
    };
    with_database(places, async |database| database.write(add).await)
}

fn list_maps(args: &ListArgs, places: &Places) -> Result<(), CliError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Row {
        directory: String,
        group: String,
        team: String,
    }
    let found = with_database(places, async |database| group_maps(database).await)?;
    let row = |(directory, group, team)| Row { directory, group, team };
    let rows: Vec<Row> = found.into_iter().map(row).collect();
    let table = "table {{.Directory}}\t{{.Group}}\t{{.Team}}";
    List { table, heads: &[] }.print(&args.format, &rows, &rows)
}
