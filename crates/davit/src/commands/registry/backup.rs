//! `davit registry backup` and `restore`

use std::path::PathBuf;

use davit_registry::{
    backup::{self, BackupReport},
    config::Places,
};

use super::Fault;
use crate::{error::CliError, printer};

// Arguments of `davit registry backup` and `restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct BackupArgs {
    /// Folder of the backup
    folder: PathBuf,
}

/// Runs `davit registry backup`: exit code 1 when blobs are lost.
///
/// # Errors
/// See [`backup::BackupError`].
pub(super) fn run(args: &BackupArgs, places: &Places) -> Result<u8, CliError> {
    tell(backup::backup(places, &args.folder), "copied")
}

/// Runs `davit registry restore`: exit code 1 when blobs are lost.
///
/// # Errors
/// See [`backup::BackupError`].
pub(super) fn run_restore(args: &BackupArgs, places: &Places) -> Result<u8, CliError> {
    tell(backup::restore(&args.folder, places), "restored")
}

fn tell(
    work: impl Future<Output = Result<BackupReport, backup::BackupError>>,
    done: &str,
) -> Result<u8, CliError> {
    let outcome = davit_registry::server::block_on(work).map_err(crate::error::io_error)?;
    let report = outcome.map_err(Fault::from)?;
    for digest in &report.lost {
        printer::line(&format!("blob {digest}: its bytes are lost"))?;
    }
    let BackupReport { blobs, in_place, .. } = report;
    printer::line(&format!("{blobs} blobs {done}, {in_place} of them in place"))?;
    Ok(u8::from(!report.lost.is_empty()))
}
