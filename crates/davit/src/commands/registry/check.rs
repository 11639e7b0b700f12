//! `davit registry check`

use davit_registry::{
    check::{self, CheckError, Depth, Finding, Repair},
    config::Places,
    db::Database,
    store::StoreError,
};

use super::{open_store, with_database};
use crate::{error::CliError, printer};

// Arguments of `davit registry check`.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Read all bytes and compare them with their digests
    #[arg(long)]
    read: bool,
    /// Mark blobs without sound bytes, so that the next push heals them, and correct sums
    #[arg(long)]
    repair: bool,
}

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckFault {
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs `davit registry check`: exit code 1 when something is wrong.
///
/// # Errors
/// The database's or the store's.
pub(super) fn run(args: &CheckArgs, places: &Places) -> Result<u8, CliError> {
    let depth = if args.read { Depth::Bytes } else { Depth::Sizes };
    let repair = if args.repair { Repair::Yes } else { Repair::No };
    let findings =
        with_database(places, async |database| compare(database, places, depth, repair).await)?;
    for finding in &findings {
        printer::line(&finding.to_string())?;
    }
    if findings.is_empty() {
        printer::line("nothing is wrong")?;
    }
    Ok(u8::from(!findings.is_empty()))
}

async fn compare(
    database: &Database,
    places: &Places,
    depth: Depth,
    repair: Repair,
) -> Result<Vec<Finding>, CheckFault> {
    let store = open_store(places)?;
    Ok(check::check(database, &store, depth, repair).await?)
}
