//! `davit builder build|prune`

use davit_engine::BuildCache;

use super::{build, container::values};
use crate::{cli::Context, error::CliError, printer, units};

/// Verbs of `davit builder`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum BuilderCommand {
    /// Build an image from a Dockerfile
    Build(Box<build::BuildArgs>),
    /// Remove build cache
    Prune(PruneArgs),
}

// Arguments of `davit builder prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Remove all build cache, that of existing images, too
    #[arg(short, long, conflicts_with = "keep_storage")]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Leave this much of what only the cache keeps (`10GB`)
    #[arg(long, value_name = "BYTES", alias = "reserved-space")]
    keep_storage: Option<String>,
}

/// Runs `davit builder VERB`.
///
/// # Errors
/// What the verb says.
pub(crate) fn run(command: BuilderCommand, context: &Context) -> Result<u8, CliError> {
    match command {
        BuilderCommand::Build(args) => build::run(*args, context),
        BuilderCommand::Prune(args) => prune(&args, context),
    }
}

fn prune(args: &PruneArgs, context: &Context) -> Result<u8, CliError> {
    let keep = args.keep_storage.as_deref().map(values::bytes).transpose()?;
    let (what, warning) = if args.all {
        (BuildCache::Drop, "WARNING! This will remove all build cache.")
    } else {
        let what = BuildCache::Budget(keep.unwrap_or(0));
        (what, "WARNING! This will remove all unused build cache.")
    };
    if !args.force && !printer::confirm(warning)? {
        return Ok(0);
    }
    let report = context.engine()?.prune_store(what)?;
    if report.build_records > 0 {
        printer::line(&format!("Deleted build cache records: {}\n", report.build_records))?;
    }
    printer::line(&format!("Total reclaimed space: {}", units::size(report.freed_bytes)))?;
    Ok(0)
}
