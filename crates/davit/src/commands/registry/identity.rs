//! `davit registry oidc` and `davit registry trust`

use std::collections::BTreeMap;

use davit_engine::Secret;
use davit_registry::{
    auth::{
        audit::Actor,
        oidc::{
            AddTrust, Provider, ProviderKind, ProviderRow, RemoveProvider, RemoveTrust,
            SetProvider, TrustRow, providers, trust_rules,
        },
    },
    config::Places,
};
use serde::Serialize;

use super::{Fault, user::Names, with_database};
use crate::{
    commands::login,
    error::CliError,
    format::{List, ListFormat},
    printer,
};

/// Verbs of `davit registry oidc`.
#[derive(Debug, clap::Subcommand)]
#[command(
    defer = true,
    after_help = "\
The provider sends browsers back to URL/oidc/NAME/callback, URL being that of the registry.
An account has the identities that it was made with or that its owner has added: an e-mail
address or a name at the provider makes nobody the owner of an account that is there."
)]
pub(crate) enum OidcCommand {
    /// Add an OpenID provider by which people log in, or change it
    Add(OidcArgs),
    /// List providers
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Remove providers; accounts stay
    Rm(Names),
}

// Arguments of `davit registry oidc add`.
#[derive(Debug, clap::Args)]
pub(crate) struct OidcArgs {
    /// Name, for addresses and buttons
    name: String,
    /// Address of the provider, exactly as it writes it in tokens
    #[arg(long, value_name = "URL")]
    issuer: String,
    /// What the provider calls this registry
    #[arg(long, value_name = "ID")]
    client_id: String,
    /// Read the client's secret from standard input; without, the one that is known stays
    #[arg(long)]
    client_secret_stdin: bool,
    /// Give everyone whom the provider knows an account, whatever sign-up is set to
    #[arg(long)]
    signs_up: bool,
}

// Arguments of lists.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    format: ListFormat,
}

/// Verbs of `davit registry trust`.
#[derive(Debug, clap::Subcommand)]
#[command(
    defer = true,
    after_help = "\
A build posts its own token to /token as RFC 8693 has it and gets one for the robot:
  grant_type=urn:ietf:params:oauth:grant-type:token-exchange  subject_token=TOKEN
  subject_token_type=urn:ietf:params:oauth:token-type:jwt     scope=repository:acme/web:pull,push"
)]
pub(crate) enum TrustCommand {
    /// Let tokens of a build system stand for a robot
    Add(TrustArgs),
    /// List rules
    #[command(visible_alias = "list")]
    Ls(TrustListArgs),
    /// Remove rules of a robot
    Rm(TrustRmArgs),
}

// Arguments of `davit registry trust add`.
#[derive(Debug, clap::Args)]
pub(crate) struct TrustArgs {
    /// The robot
    #[arg(value_name = "OWNER+NAME")]
    robot: String,
    /// Who signs the tokens, exactly as it writes itself in them
    #[arg(long, value_name = "URL")]
    issuer: String,
    /// For whom the tokens must be
    #[arg(long, value_name = "AUDIENCE")]
    audience: String,
    /// A claim and its pattern, in which * is any text; all must match
    #[arg(long, value_name = "NAME=PATTERN", required = true, value_parser = claim)]
    claim: Vec<(String, String)>,
}

// Arguments of `davit registry trust ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct TrustListArgs {
    /// Only those of this robot
    #[arg(value_name = "OWNER+NAME", default_value = "", hide_default_value = true)]
    robot: String,
    #[command(flatten)]
    format: ListFormat,
}

// Arguments of `davit registry trust rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct TrustRmArgs {
    /// The robot
    #[arg(value_name = "OWNER+NAME")]
    robot: String,
    /// Numbers, as `trust ls` shows them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<i64>,
}

fn claim(text: &str) -> Result<(String, String), String> {
    let (name, pattern) = text.split_once('=').ok_or("a claim is NAME=PATTERN")?;
    Ok((name.to_owned(), pattern.to_owned()))
}

/// Runs `davit registry oidc`.
pub(super) fn run_oidc(command: OidcCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        OidcCommand::Add(args) => add_provider(args, places)?,
        OidcCommand::Ls(args) => {
            #[derive(Serialize)]
            #[serde(rename_all = "PascalCase")]
            struct Row {
                name: String,
                issuer: String,
                client_id: String,
                signs_up: bool,
            }
            let found = with_database(places, async |database| providers(database).await)?;
            let row = |ProviderRow { name, issuer, client_id, signs_up, .. }| Row {
                name,
                issuer,
                client_id,
                signs_up,
            };
            let rows: Vec<Row> = found.into_iter().map(row).collect();
            let table = "table {{.Name}}\t{{.Issuer}}\t{{.ClientId}}\t{{.SignsUp}}";
            let heads = &[("ClientId", "CLIENT ID"), ("SignsUp", "SIGNS UP")];
            List { table, heads }.print(&args.format, &rows, &rows)?;
        }
        OidcCommand::Rm(args) => with_database(places, async |database| {
            for name in args.names {
                let (by, kind) = (Actor::operator(), ProviderKind::Oidc);
                database.write(RemoveProvider { by, name, kind }).await?;
            }
            Ok::<_, Fault>(())
        })?,
    }
    Ok(0)
}

fn add_provider(args: OidcArgs, places: &Places) -> Result<(), CliError> {
    let client_secret = args.client_secret_stdin.then(login::read_password).transpose()?;
    let provider = Provider {
        issuer: args.issuer,
        client_id: args.client_id,
        client_secret: client_secret.map(Secret::new),
        signs_up: args.signs_up,
    };
    let set = SetProvider { by: Actor::operator(), name: args.name.clone(), provider };
    with_database(places, async |database| database.write(set).await)?;
    printer::line(&args.name)
}

/// Runs `davit registry trust`.
pub(super) fn run_trust(command: TrustCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        TrustCommand::Add(args) => {
            let add = AddTrust {
                by: Actor::operator(),
                robot: args.robot,
                issuer: args.issuer,
                audience: args.audience,
                claims: args.claim.into_iter().collect::<BTreeMap<_, _>>(),
            };
            let id = with_database(places, async |database| database.write(add).await)?;
            printer::line(&id.to_string())?;
        }
        TrustCommand::Ls(args) => list_rules(&args, places)?,
        TrustCommand::Rm(args) => with_database(places, async |database| {
            for id in args.ids {
                let (by, robot) = (Actor::operator(), args.robot.clone());
                database.write(RemoveTrust { by, robot, id }).await?;
            }
            Ok::<_, Fault>(())
        })?,
    }
    Ok(0)
}

fn list_rules(args: &TrustListArgs, places: &Places) -> Result<(), CliError> {
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Row {
        id: i64,
        robot: String,
        issuer: String,
        audience: String,
        claims: String,
    }
    let found = with_database(places, async |database| trust_rules(database, &args.robot).await)?;
    let row = |rule: TrustRow| {
        let claims = rule.claims.iter().map(|(name, pattern)| format!("{name}={pattern}"));
        Row {
            id: rule.id,
            robot: rule.robot.1,
            issuer: rule.issuer,
            audience: rule.audience,
            claims: claims.collect::<Vec<_>>().join(" "),
        }
    };
    let rows: Vec<Row> = found.into_iter().map(row).collect();
    let table = "table {{.Id}}\t{{.Robot}}\t{{.Issuer}}\t{{.Audience}}\t{{.Claims}}";
    List { table, heads: &[] }.print(&args.format, &rows, &rows)
}
