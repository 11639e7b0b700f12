//! `davit registry mirror`

use davit_registry::{
    auth::{Secret, audit::Actor},
    bandwidth::SLOWEST,
    config::Places,
    mirror::{self, MirrorError, MirrorRow, MirrorSettings, mirrors},
};
use serde::Serialize;

use super::{user::Names, with_database};
use crate::{
    commands::login,
    error::CliError,
    format::{List, ListFormat},
    printer,
};

/// Verbs of `davit registry mirror`.
#[derive(Debug, clap::Subcommand)]
#[command(
    defer = true,
    after_help = "\
A mirror's repositories are NAME/… here; clients may also ask for …?ns=NAME, as containerd does.
WHO is everyone, accounts (of this registry), or granted (who has a role on NAME/…: pull to pull,
push to have something fetched). What is kept goes when nobody has pulled it for --keep-days."
)]
pub(crate) enum MirrorCommand {
    /// Fetch from another registry what clients pull, and keep it
    Add(AddArgs),
    /// List mirrors
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove mirrors; what they kept stays until nobody pulls it
    Rm(Names),
}

// Arguments of `davit registry mirror add`.
#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    /// What names of its repositories begin with here, with a dot in it (docker.io)
    name: String,
    /// The registry, if it is not called so
    #[arg(long, value_name = "HOST[:PORT]")]
    upstream: Option<String>,
    /// Ask it for names that are not hosted here
    #[arg(long)]
    default: bool,
    /// Account there
    #[arg(long, value_name = "USER", requires = "password_stdin")]
    username: Option<String>,
    /// Read the account's password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Take plain HTTP and certificates that do not verify
    #[arg(long)]
    insecure: bool,
    /// Who may pull what is kept
    #[arg(long, value_name = "WHO", default_value = "accounts")]
    pull: String,
    /// Who of them may have something fetched
    #[arg(long, value_name = "WHO", default_value = "accounts")]
    fill: String,
    /// Seconds for which a tag is believed
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    ttl: u32,
    /// Days for which something stays after its last pull
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    keep_days: u32,
    /// Bytes of blobs that a server fetches in a second at most, from 65536
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(SLOWEST..))]
    bytes_per_second: Option<u64>,
}

// Arguments of `davit registry mirror ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    format: ListFormat,
}

/// Runs `davit registry mirror`.
///
/// # Errors
/// The database's, or what is wrong with the arguments.
pub(super) fn run(command: MirrorCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        MirrorCommand::Add(args) => add(args, places)?,
        MirrorCommand::Ls(args) => list(&args, places)?,
        MirrorCommand::Rm(args) => {
            let names = args.names.clone();
            with_database(places, async |database| {
                for name in names {
                    mirror::remove(database, Actor::operator(), name).await?;
                }
                Ok::<_, MirrorError>(())
            })?;
            args.names.iter().try_for_each(|name| printer::line(name))?;
        }
    }
    Ok(0)
}

/// The account of a mirror or rule, its password from standard input.
pub(super) fn account(username: Option<String>) -> Result<Option<(String, Secret)>, CliError> {
    let Some(username) = username else { return Ok(None) };
    Ok(Some((username, Secret::new(login::read_password()?))))
}

fn add(args: AddArgs, places: &Places) -> Result<(), CliError> {
    let account = account(args.username)?;
    let name = args.name.clone();
    with_database(places, async |database| {
        let settings = MirrorSettings {
            pull: args.pull.parse()?,
            fill: args.fill.parse()?,
            ttl_seconds: args.ttl,
            keep_days: args.keep_days,
            insecure: args.insecure,
            account,
            bytes_per_second: args.bytes_per_second,
        };
        let upstream = args.upstream.unwrap_or_else(|| args.name.clone());
        let row = MirrorRow { name: args.name, upstream, is_default: args.default, settings };
        mirror::add(database, Actor::operator(), row).await
    })?;
    printer::line(&name)
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    name: String,
    upstream: String,
    default: bool,
    username: String,
    pull: String,
    fill: String,
    ttl: String,
    keep: String,
}

fn list(args: &LsArgs, places: &Places) -> Result<(), CliError> {
    let found = with_database(places, async |database| mirrors(database).await)?;
    let row = |mirror: MirrorRow| Row {
        name: mirror.name,
        upstream: mirror.upstream,
        default: mirror.is_default,
        username: mirror.settings.account.map(|(name, _)| name).unwrap_or_default(),
        pull: mirror.settings.pull.to_string(),
        fill: mirror.settings.fill.to_string(),
        ttl: format!("{} s", mirror.settings.ttl_seconds),
        keep: format!("{} days", mirror.settings.keep_days),
    };
    let rows: Vec<Row> = found.into_iter().map(row).collect();
    let table = "table {{.Name}}\t{{.Upstream}}\t{{.Default}}\t{{.Username}}\t{{.Pull}}\t{{.Fill}}\t{{.Ttl}}\t{{.Keep}}";
    List { table, heads: &[("Ttl", "TTL")] }.print(&args.format, &rows, &rows)
}
