//! `davit registry user`

use std::path::PathBuf;

use davit_engine::Secret;
use davit_registry::{
    auth::{
        PasswordHash,
        accounts::{
            AccountRow, AddAccount, Kind, RemoveAccount, SetPassword, SetStanding, SetState,
            Standing, accounts,
        },
        audit::Actor,
        htpasswd,
    },
    config::Places,
    db::Transaction,
};
use serde::Serialize;

use super::{
    Fault, date,
    sign_up::{self, InviteArgs},
    with_database,
};
use crate::{
    commands::{container::values, login},
    error::CliError,
    format::{List, ListFormat},
    printer,
    units::size,
};

/// Verbs of `davit registry user`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum UserCommand {
    /// Add a user, who owns the repositories NAME/*
    Add(AddArgs),
    /// List users
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove users, with their tokens and memberships
    Rm(Names),
    /// Set a user's password; sessions and tokens that came by the old one end
    Passwd(PasswdArgs),
    /// Set whether users manage the registry, and how many bytes their repositories may hold
    Set(SetArgs),
    /// Keep users and their robots out at once
    Disable(Names),
    /// Let users in again
    Enable(Names),
    /// Print an invitation, by which one person may sign up
    Invite(InviteArgs),
    /// Add the users of an Apache password file (bcrypt only)
    Import(ImportArgs),
}

// Arguments of `davit registry user add`.
#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    /// Name: 2 to 64 lower-case letters, digits, and - _ between them
    name: String,
    /// Let the user manage the whole registry
    #[arg(long)]
    admin: bool,
    /// Read the password from standard input
    #[arg(long, required = true)]
    password_stdin: bool,
}

// Arguments of `davit registry user passwd`.
#[derive(Debug, clap::Args)]
pub(crate) struct PasswdArgs {
    /// Name of the user
    name: String,
    /// Read the password from standard input
    #[arg(long, required = true)]
    password_stdin: bool,
}

// Arguments of `davit registry user ls`, and of the lists of its sisters.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    format: ListFormat,
    /// Only display names
    #[arg(short, long)]
    quiet: bool,
}

// Names of accounts.
#[derive(Debug, clap::Args)]
pub(crate) struct Names {
    /// Names
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<String>,
}

// Arguments of `davit registry user set`.
#[derive(Debug, clap::Args)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    names: Names,
    /// Whether they manage the whole registry
    #[arg(long, value_name = "BOOL")]
    admin: Option<bool>,
    #[command(flatten)]
    quota: QuotaArgs,
}

// How much an account may hold.
#[derive(Debug, clap::Args)]
pub(crate) struct QuotaArgs {
    /// Bytes that all their repositories may hold, each blob once (10g), or none for no bound
    #[arg(long, value_name = "BYTES")]
    quota: Option<String>,
}

impl QuotaArgs {
    /// As [`Standing`] has it.
    pub(super) fn bytes(&self) -> Result<Option<u64>, CliError> {
        let read = |text: &String| match text.as_str() {
            "none" => Ok(0),
            text => match values::size("--quota", text)? {
                0 => Err(CliError::usage("--quota: 0 would be no bound; say none")),
                bytes => Ok(bytes),
            },
        };
        self.quota.as_ref().map(read).transpose()
    }
}

// Arguments of `davit registry user import`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// File of lines NAME:HASH, as htpasswd -B writes them
    file: PathBuf,
}

/// Runs `davit registry user`.
pub(super) fn run(command: UserCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        UserCommand::Add(args) => add(args, places)?,
        UserCommand::Ls(args) => list(&args, "user", places)?,
        UserCommand::Rm(args) => remove(args, places)?,
        UserCommand::Passwd(args) => set_password(args, places)?,
        UserCommand::Set(args) => {
            let quota_bytes = args.quota.bytes()?;
            set(args.names, Standing { is_admin: args.admin, quota_bytes }, places)?;
        }
        UserCommand::Disable(args) => set_state(args, false, places)?,
        UserCommand::Enable(args) => set_state(args, true, places)?,
        UserCommand::Invite(args) => sign_up::invite(args, places)?,
        UserCommand::Import(args) => return import(&args, places),
    }
    Ok(0)
}

/// The password on standard input, hashed.
fn password() -> Result<PasswordHash, CliError> {
    let password = Secret::new(login::read_password()?);
    Ok(PasswordHash::new(&password).map_err(Fault::from)?)
}

fn add(args: AddArgs, places: &Places) -> Result<(), CliError> {
    let account = AddAccount {
        by: Actor::operator(),
        name: args.name.clone(),
        kind: Kind::User,
        password: Some(password()?),
        is_admin: args.admin,
    };
    with_database(places, async |database| database.write(account).await)?;
    printer::line(&args.name)
}

fn set_password(args: PasswdArgs, places: &Places) -> Result<(), CliError> {
    let set = SetPassword { by: Actor::operator(), name: args.name.clone(), password: password()? };
    with_database(places, async |database| database.write(set).await)?;
    printer::line(&args.name)
}

/// Removes accounts, one after the other.
pub(super) fn remove(args: Names, places: &Places) -> Result<(), CliError> {
    change_each(args, places, |name| RemoveAccount { by: Actor::operator(), name })
}

fn set_state(args: Names, is_active: bool, places: &Places) -> Result<(), CliError> {
    change_each(args, places, |name| SetState { by: Actor::operator(), name, is_active })
}

/// Sets the standing of accounts.
pub(super) fn set(args: Names, standing: Standing, places: &Places) -> Result<(), CliError> {
    if standing == Standing::default() {
        return Err(CliError::usage("nothing is to be set"));
    }
    change_each(args, places, |name| SetStanding { by: Actor::operator(), name, standing })
}

/// Changes accounts, one after the other; prints the names of those that are changed.
fn change_each<T>(
    args: Names,
    places: &Places,
    change: impl Fn(String) -> T,
) -> Result<(), CliError>
where
    T: Transaction,
    Fault: From<T::Error>,
{
    with_database(places, async |database| {
        for name in args.names {
            database.write(change(name.clone())).await?;
            printer::line(&name).map_err(|error| Fault::Text(error.to_string()))?;
        }
        Ok::<_, Fault>(())
    })
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    name: String,
    state: String,
    admin: bool,
    created_at: String,
    used: String,
    quota: String,
}

/// Lists accounts of one kind.
pub(super) fn list(args: &LsArgs, kind: &str, places: &Places) -> Result<(), CliError> {
    let found = with_database(places, async |database| accounts(database, kind).await)?;
    if args.quiet {
        return found.iter().try_for_each(|account| printer::line(&account.name));
    }
    let row = |account: &AccountRow| Row {
        name: account.name.clone(),
        state: account.state.clone(),
        admin: account.is_admin,
        created_at: date(account.created_at),
        used: size(account.used_bytes),
        quota: account.quota_bytes.map_or_else(|| "none".to_owned(), size),
    };
    let rows: Vec<Row> = found.iter().map(row).collect();
    let table = if kind == "user" {
        "table {{.Name}}\t{{.State}}\t{{.Admin}}\t{{.Used}}\t{{.Quota}}\t{{.CreatedAt}}"
    } else {
        "table {{.Name}}\t{{.State}}\t{{.Used}}\t{{.Quota}}\t{{.CreatedAt}}"
    };
    List { table, heads: &[("CreatedAt", "CREATED")] }.print(&args.format, &rows, &rows)
}

fn import(args: &ImportArgs, places: &Places) -> Result<u8, CliError> {
    let text = fs_err::read_to_string(&args.file).map_err(crate::error::io_error)?;
    let file = htpasswd::parse(&text);
    let (added, mut refused) = with_database(places, async |database| {
        let (mut added, mut refused) = (Vec::new(), Vec::new());
        for entry in file.entries {
            let (line, name) = (entry.line, entry.name.clone());
            match database.write(entry.account(Actor::operator())).await {
                Ok(_) => added.push(name),
                Err(error @ davit_registry::auth::AccountError::Database(_)) => return Err(error),
                Err(error) => refused.push((line, error.to_string())),
            }
        }
        Ok((added, refused))
    })?;
    added.iter().try_for_each(|name| printer::line(name))?;
    refused.extend(file.refused.into_iter().map(|(line, reason)| (line, reason.to_string())));
    refused.sort();
    for (line, reason) in &refused {
        printer::error(&format!("{}:{line}: {reason}", args.file.display()));
    }
    Ok(u8::from(!refused.is_empty()))
}
