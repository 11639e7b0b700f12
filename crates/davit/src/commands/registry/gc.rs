//! `davit registry gc`

use davit_engine::image::Digest;
use davit_registry::{
    config::{Limits, Places},
    db::{Database, DbError},
    gc::{self, GcError, GcReport, GcSettings, Mode, RetentionVerdict, Scan},
    store::StoreError,
};

use super::{open_store, with_database};
use crate::{error::CliError, printer, units};

// Arguments of `davit registry gc`.
#[derive(Debug, clap::Args)]
pub(crate) struct GcArgs {
    /// Only tell what would be removed, and which rule keeps a tag
    #[arg(long)]
    dry_run: bool,
    /// Tell why a blob or manifest stays, or when it goes
    #[arg(long, value_name = "DIGEST", conflicts_with = "dry_run")]
    explain: Option<Digest>,
    /// List the whole store too: find what no row names, and lost objects
    #[arg(long, conflicts_with_all = ["dry_run", "explain"])]
    scan: bool,
}

/// Why nothing could be collected.
#[derive(Debug, thiserror::Error)]
pub(super) enum GcFault {
    #[error(transparent)]
    Gc(#[from] GcError),
    #[error(transparent)]
    Database(#[from] DbError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs `davit registry gc`.
///
/// # Errors
/// The database's or the store's.
pub(super) fn run(args: &GcArgs, places: &Places) -> Result<u8, CliError> {
    let mut settings = GcSettings::of(&Limits::default());
    settings.scan = if args.scan { Scan::Always } else { Scan::Never };
    if let Some(digest) = &args.explain {
        return explain(places, &settings, digest);
    }
    let mode = if args.dry_run { Mode::DryRun } else { Mode::Collect };
    let (report, verdicts) =
        with_database(places, async |database| collect(database, places, &settings, mode).await)?;
    for verdict in verdicts {
        printer::line(&words(&verdict))?;
    }
    print(&report, mode)?;
    Ok(0)
}

async fn collect(
    database: &Database,
    places: &Places,
    settings: &GcSettings,
    mode: Mode,
) -> Result<(GcReport, Vec<RetentionVerdict>), GcFault> {
    let store = open_store(places)?;
    let verdicts = match mode {
        Mode::DryRun => gc::retention_verdicts(database).await?,
        Mode::Collect => Vec::new(),
    };
    Ok((gc::run_once(database, &store, settings, mode).await?, verdicts))
}

fn words(verdict: &RetentionVerdict) -> String {
    let RetentionVerdict { repository, verdict } = verdict;
    let tag = &verdict.tag;
    match &verdict.kept {
        Some(why) => format!("{repository}:{tag} stays: {why}"),
        None => format!("{repository}:{tag} goes: no rule keeps it"),
    }
}

fn print(report: &GcReport, mode: Mode) -> Result<(), CliError> {
    let done = if mode == Mode::DryRun { "would be removed" } else { "removed" };
    let counts = [
        (report.repositories, "deleted repositories"),
        (report.tags, "tags"),
        (report.manifests, "manifests"),
        (report.links, "links of blobs to repositories"),
        (report.blobs, "blobs"),
        (report.uploads, "expired uploads"),
        (report.objects, "objects of the trash"),
        (report.orphans, "objects that nothing named"),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        printer::line(&format!("{count} {what} {done}"))?;
    }
    if report.blob_bytes > 0 {
        printer::line(&format!("{} go with the trash", units::size(report.blob_bytes)))?;
    }
    if report.lost > 0 {
        printer::line(&format!("{} blobs lost their bytes: push them again", report.lost))?;
    }
    if *report == GcReport::default() {
        printer::line("nothing to remove")?;
    }
    Ok(())
}

fn explain(places: &Places, settings: &GcSettings, digest: &Digest) -> Result<u8, CliError> {
    let lines = with_database(places, async |database| {
        gc::explain(database, settings, digest).await.map_err(GcFault::from)
    })?;
    if lines.is_empty() {
        return Err(CliError::user(format!("{digest} is not known here")));
    }
    for line in lines {
        printer::line(&line)?;
    }
    Ok(0)
}
