//! `davit registry audit`

use davit_registry::{
    auth::{
        accounts::{AuditRow, audit_entries},
        audit::{Verdict, verify},
    },
    config::Places,
};
use serde::Serialize;

use super::{date, with_database};
use crate::{
    error::CliError,
    format::{List, ListFormat},
    printer,
};

/// Verbs of `davit registry audit`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum AuditCommand {
    /// List the newest entries, newest first
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Compute the log's hashes again: no entry was changed or removed
    Check,
}

// Arguments of `davit registry audit ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// How many
    #[arg(short = 'n', long, default_value_t = 50)]
    last: u16,
    #[command(flatten)]
    format: ListFormat,
}

/// Runs `davit registry audit`.
pub(super) fn run(command: AuditCommand, places: &Places) -> Result<u8, CliError> {
    match command {
        AuditCommand::Ls(args) => list(&args, places),
        AuditCommand::Check => check(places),
    }
}

fn check(places: &Places) -> Result<u8, CliError> {
    match with_database(places, async |database| verify(database).await)? {
        Verdict::Whole(count) => {
            printer::line(&format!("{count} entries, none changed or missing"))?;
            Ok(0)
        }
        Verdict::Broken(id) => Err(CliError::user(format!(
            "entry {id} of the audit log was changed, or one before it was removed"
        ))),
        Verdict::Cut => Err(CliError::user("the newest entries of the audit log were removed")),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    at: String,
    actor: String,
    address: String,
    action: String,
    object: String,
    detail: String,
}

fn list(args: &LsArgs, places: &Places) -> Result<u8, CliError> {
    let most = i64::from(args.last);
    let found = with_database(places, async |database| audit_entries(database, most).await)?;
    let row = |entry: AuditRow| Row {
        at: date(entry.at),
        actor: entry.actor,
        address: entry.address.unwrap_or_default(),
        action: entry.action,
        object: entry.object,
        detail: entry.detail,
    };
    let rows: Vec<Row> = found.into_iter().map(row).collect();
    let table = "table {{.At}}\t{{.Actor}}\t{{.Address}}\t{{.Action}}\t{{.Object}}\t{{.Detail}}";
    List { table, heads: &[] }.print(&args.format, &rows, &rows)?;
    Ok(0)
}
