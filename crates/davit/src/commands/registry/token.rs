//! `davit registry token` and `davit registry robot`

use std::time::Duration;

use davit_registry::{
    auth::{
        AccountError, AccountName, AddToken, OpaqueKind, OpaqueToken, Scope,
        accounts::{AddAccount, Kind, RevokeToken, TokenRow, tokens},
        audit::Actor,
    },
    config::Places,
    db::Database,
};
use serde::Serialize;

use super::{
    Fault, date,
    user::{self, LsArgs, Names},
    with_database,
};
use crate::{
    error::CliError,
    format::{List, ListFormat},
    printer,
};

/// Verbs of `davit registry token`.
#[derive(Debug, clap::Subcommand)]
#[command(
    defer = true,
    after_help = "\
A token is used as the account's password. It is shown once; the registry keeps its hash only.
A scope is repository:NAME:ACTIONS or registry:catalog:*; NAME may be a pattern (acme/*), ACTIONS
are pull, push, create (push that moves no tag), delete, admin, or *, joined by commas."
)]
pub(crate) enum TokenCommand {
    /// Make an access token and print it
    Add(AddArgs),
    /// List an account's tokens
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// End tokens at once
    Rm(RmArgs),
}

// Arguments of `davit registry token add`.
#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    /// Name of the user or robot
    account: String,
    #[command(flatten)]
    token: TokenArgs,
}

// What a token is.
#[derive(Debug, clap::Args)]
pub(crate) struct TokenArgs {
    /// What to call it
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Limit it; may be given more than once (without: all that the account may do)
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// Let it end after this time: 90d, 12h, 30m (without: it does not end)
    #[arg(long, value_name = "TIME", value_parser = life)]
    expires: Option<Duration>,
}

// Arguments of `davit registry token ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Name of the user or robot
    account: String,
    #[command(flatten)]
    format: ListFormat,
}

// Arguments of `davit registry token rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// Name of the user or robot
    account: String,
    /// Numbers, as `token ls` shows them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<i64>,
}

/// Verbs of `davit registry robot`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum RobotCommand {
    /// Add a robot and print a token for it; what it may do is granted to it
    Add(RobotAddArgs),
    /// List robots
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove robots, with their tokens and grants
    Rm(Names),
}

// Arguments of `davit registry robot add`.
#[derive(Debug, clap::Args)]
pub(crate) struct RobotAddArgs {
    /// Name: that of the user or organisation to which it belongs, +, and its own
    #[arg(value_name = "OWNER+NAME")]
    robot: String,
    #[command(flatten)]
    token: TokenArgs,
}

/// Reads a number of days, hours or minutes.
pub(super) fn life(text: &str) -> Result<Duration, String> {
    let unit = text.chars().next_back().unwrap_or_default();
    let minutes: u64 = match unit {
        'd' => 24 * 60,
        'h' => 60,
        'm' => 1,
        _ => return Err("a time is a number and d, h or m".to_owned()),
    };
    let number: u32 =
        text[..text.len() - 1].parse().map_err(|_| "a time is a number and d, h or m")?;
    if number == 0 {
        return Err("it would have ended already".to_owned());
    }
    Ok(Duration::from_secs(60 * minutes * u64::from(number)))
}

/// Runs `davit registry token`.
pub(super) fn run(command: TokenCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        TokenCommand::Add(args) => {
            let text = with_database(places, async |database| {
                add(database, &args.account, &args.token).await
            })?;
            printer::line(&text)?;
        }
        TokenCommand::Ls(args) => list(&args, places)?,
        TokenCommand::Rm(args) => with_database(places, async |database| {
            for id in args.ids {
                let (by, account) = (Actor::operator(), args.account.clone());
                database.write(RevokeToken { by, account, id }).await?;
            }
            Ok::<_, AccountError>(())
        })?,
    }
    Ok(0)
}

/// Runs `davit registry robot`.
pub(super) fn run_robot(command: RobotCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        RobotCommand::Add(args) => {
            let account = AddAccount {
                by: Actor::operator(),
                name: args.robot.clone(),
                kind: Kind::Robot,
                password: None,
                is_admin: false,
            };
            let text = with_database(places, async |database| {
                scopes(&args.token)?;
                database.write(account).await?;
                add(database, &args.robot, &args.token).await
            })?;
            printer::line(&text)?;
        }
        RobotCommand::Ls(args) => user::list(&args, "robot", places)?,
        RobotCommand::Rm(args) => user::remove(args, places)?,
    }
    Ok(0)
}

fn scopes(args: &TokenArgs) -> Result<Vec<Scope>, Fault> {
    let scopes = args.scope.iter().map(|scope| scope.parse::<Scope>());
    let scopes: Vec<Scope> = scopes.collect::<Result<_, _>>()?;
    match scopes
        .iter()
        .find(|scope| davit_registry::auth::Limit::of(&[(*scope).clone()]).is_empty())
    {
        Some(scope) => Err(Fault::Text(format!("the scope `{scope}` allows nothing"))),
        None => Ok(scopes),
    }
}

/// Makes a token of the account; tells its text.
async fn add(database: &Database, account: &str, args: &TokenArgs) -> Result<String, Fault> {
    let is_robot = account.parse::<AccountName>()?.robot_owner().is_some();
    let kind = if is_robot { OpaqueKind::Robot } else { OpaqueKind::Personal };
    let token = OpaqueToken::new(kind);
    let life_ms = args.expires.map(|life| i64::try_from(life.as_millis()).unwrap_or(i64::MAX));
    let add = AddToken {
        by: Actor::operator(),
        account: account.to_owned(),
        kind,
        name: args.name.clone(),
        hash: token.hash(),
        scopes: scopes(args)?,
        life_ms,
    };
    database.write(add).await?;
    Ok(token.secret().expose().to_owned())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    id: i64,
    kind: String,
    name: String,
    scopes: String,
    created_at: String,
    expires_at: String,
    last_used_at: String,
}

fn list(args: &ListArgs, places: &Places) -> Result<(), CliError> {
    let found = with_database(places, async |database| tokens(database, &args.account).await)?;
    let time = |time: Option<i64>| time.map(date).unwrap_or_default();
    let row = |token: TokenRow| Row {
        id: token.id,
        kind: token.kind,
        name: token.name,
        scopes: serde_json::from_str::<Vec<String>>(&token.scopes).unwrap_or_default().join(" "),
        created_at: date(token.created_at),
        expires_at: time(token.expires_at),
        last_used_at: time(token.last_used_at),
    };
    let rows: Vec<Row> = found.into_iter().map(row).collect();
    let table = "table {{.Id}}\t{{.Kind}}\t{{.Name}}\t{{.Scopes}}\t{{.ExpiresAt}}\t{{.LastUsedAt}}";
    let heads = &[("ExpiresAt", "EXPIRES"), ("LastUsedAt", "LAST USED")];
    List { table, heads }.print(&args.format, &rows, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lives_have_units() {
        let hours = |hours: u64| Ok(Duration::from_secs(3600 * hours));
        assert_eq!(life("90d"), hours(90 * 24));
        assert_eq!(life("12h"), hours(12));
        assert_eq!(life("60m"), hours(1));
        for text in ["", "d", "90", "-1d", "0h", "1.5d", "1w", "é"] {
            assert!(life(text).is_err(), "{text}");
        }
    }
}
