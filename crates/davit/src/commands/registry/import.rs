//! `davit registry import`

use std::path::PathBuf;

use davit_registry::{
    config::{Limits, Places},
    db::Database,
    import::{self, ImportError, ImportReport, Layout, LayoutError, Naming},
    registry::Registry,
    store::StoreError,
};

use super::{open_store, with_database};
use crate::{error::CliError, printer};

// Arguments of `davit registry import`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// Folder of a distribution registry, an OCI image layout, or a folder of such layouts
    folder: PathBuf,
    /// Name for the repository, where the folder is one image layout
    #[arg(long, value_name = "NAME")]
    repository: Option<String>,
    /// Put this and a slash before all names
    #[arg(long, value_name = "NAME")]
    under: Option<String>,
    /// Take manifests that name blobs which are not there
    #[arg(long)]
    sparse: bool,
}

/// Why nothing could be imported.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImportFault {
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Layout(#[from] LayoutError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs `davit registry import`: exit code 1 when something was left out.
///
/// # Errors
/// The layout's, the database's or the store's.
pub(super) fn run(args: &ImportArgs, places: &Places) -> Result<u8, CliError> {
    let report = with_database(places, async |database| work(database, args, places).await)?;
    for digest in &report.unreadable {
        printer::note(&format!("cannot be read: {digest}"));
    }
    for line in &report.skipped {
        printer::note(&format!("left out: {line}"));
    }
    let ImportReport { repositories, manifests, tags, linked, copied, .. } = report;
    printer::line(&format!(
        "{repositories} repositories, {manifests} manifests, {tags} tags; \
         {linked} blobs linked, {copied} copied"
    ))?;
    Ok(u8::from(!report.skipped.is_empty()))
}

async fn work(
    database: &Database,
    args: &ImportArgs,
    places: &Places,
) -> Result<ImportReport, ImportFault> {
    let layout = Layout::open(&args.folder)?;
    let limits = Limits { sparse: args.sparse, ..Limits::default() };
    let registry = Registry::new(database.clone(), open_store(places)?, limits);
    let naming = Naming { repository: args.repository.clone(), under: args.under.clone() };
    Ok(import::import(&registry, &layout, &naming).await?)
}
