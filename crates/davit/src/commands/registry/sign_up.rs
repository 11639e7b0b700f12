//! `davit registry signup`, `davit registry user invite` and `davit registry key`

use std::time::Duration;

use davit_registry::{
    auth::{
        AddToken, OpaqueKind, OpaqueToken,
        accounts::{SetSignUp, SignUpMode},
        audit::Actor,
        rotate_keys,
    },
    config::Places,
};

use super::{token::life, with_database};
use crate::{error::CliError, printer};

// Arguments of `davit registry signup`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Until it is set, sign-up is open where the server listens on loopback, else closed.
`invite` needs an invitation: davit registry user invite ADMIN")]
pub(crate) struct SignUpArgs {
    /// open, invite or closed; without: show what is set
    mode: Option<SignUpMode>,
}

// Arguments of `davit registry user invite`.
#[derive(Debug, clap::Args)]
pub(crate) struct InviteArgs {
    /// Administrator who invites: while this one is none, nobody is invited
    #[arg(value_name = "ADMIN")]
    inviter: String,
    /// For whom
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Let it end after this time: 90d, 12h, 30m
    #[arg(long, value_name = "TIME", value_parser = life, default_value = "7d")]
    expires: Duration,
}

/// Verbs of `davit registry key`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum KeyCommand {
    /// Sign bearer tokens with a new key: running servers take it within seconds, and believe what the
    /// old one signed for ten minutes more
    Rotate,
}

/// Runs `davit registry signup`.
pub(super) fn run(args: &SignUpArgs, places: &Places) -> Result<u8, CliError> {
    let mode = with_database(places, async |database| {
        if let Some(mode) = args.mode {
            database.write(SetSignUp { by: Actor::operator(), mode }).await?;
        }
        Ok::<_, davit_registry::auth::AccountError>(SignUpMode::of(database).await?)
    })?;
    let text = mode.map_or("not set: open on loopback, else closed", SignUpMode::as_str);
    printer::line(text)?;
    Ok(0)
}

/// Runs `davit registry user invite`: prints the invitation, which is shown once.
pub(super) fn invite(args: InviteArgs, places: &Places) -> Result<(), CliError> {
    let token = OpaqueToken::new(OpaqueKind::Invite);
    let add = AddToken {
        by: Actor::operator(),
        account: args.inviter,
        kind: OpaqueKind::Invite,
        name: args.name,
        hash: token.hash(),
        scopes: Vec::new(),
        life_ms: Some(i64::try_from(args.expires.as_millis()).unwrap_or(i64::MAX)),
    };
    with_database(places, async |database| database.write(add).await)?;
    printer::line(token.secret().expose())
}

/// Runs `davit registry key`.
pub(super) fn run_key(command: &KeyCommand, places: &Places) -> Result<u8, CliError> {
    let KeyCommand::Rotate = command;
    let file = places.token_keys();
    let id = with_database(places, async |database| rotate_keys(database, &file).await)?;
    printer::line(&id)?;
    Ok(0)
}
