//! `davit builder VERB`, which is `docker buildx VERB` too.

mod history;
mod imagetools;
mod instance;

use davit_engine::{BuildCachePrune, BuildCacheUsage, CacheBounds, GcReport};

use super::{bake, build, container::values, system::df};
use crate::{
    cli::Context,
    error::CliError,
    filter::{Filters, help, point_in_time},
    format::{ListFormat, visible},
    printer, units,
};

const DU_FILTERS: [&str; 2] = ["id", "type"];
const FILTERS: [&str; 4] = ["id", "type", "until", "unused-for"];

// The name of a builder, of which there is one.
#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// There is one builder
    #[arg(long, hide = true, value_name = "NAME")]
    builder: Vec<String>,
}

/// Verbs of `davit builder`.
#[derive(Debug, clap::Subcommand)]
#[command(
    defer = true,
    after_help = "\
There is one builder, `default`: this davit. Whatever name `--builder` and the verbs take for one
means it; to build elsewhere, run davit there.
Linked as docker-buildx into a folder of Docker's plugins (~/.docker/cli-plugins), davit answers
`docker build` and `docker buildx VERB`."
)]
pub(crate) enum BuilderCommand {
    /// Build an image from a Dockerfile
    #[command(visible_alias = "b")]
    Build(Box<build::BuildArgs>),
    /// Build the targets of a definition file
    Bake(Box<bake::BakeArgs>),
    /// Show build cache and cache mounts
    Du(DuArgs),
    /// Remove build cache
    Prune(PruneArgs),
    /// List builders, with the platforms that can be built for
    #[command(visible_alias = "list")]
    Ls(instance::LsArgs),
    /// Show the builder
    Inspect(instance::InspectArgs),
    /// Accept the name of a builder; there is one
    Create(instance::CreateArgs),
    /// Accept the choice of a builder; there is one
    Use(instance::UseArgs),
    /// Accept the end of a builder; the one stays
    Rm(instance::RmArgs),
    /// Accept the halt of a builder; none runs between builds
    Stop(instance::StopArgs),
    /// Work with the builds that are remembered
    #[command(subcommand)]
    History(history::HistoryCommand),
    /// Look at images in registries, and make indexes of them there
    #[command(subcommand)]
    Imagetools(imagetools::ImagetoolsCommand),
    /// Show the version of davit and that of buildx whose options it takes
    Version(instance::VersionArgs),
}

// Arguments of `davit builder du`.
#[derive(Debug, clap::Args)]
pub(crate) struct DuArgs {
    #[arg(long, value_name = "KEY=VALUE", help = help(&DU_FILTERS))]
    filter: Vec<String>,
    /// Show every fact of each record
    #[arg(long)]
    verbose: bool,
    #[command(flatten)]
    format: ListFormat,
    #[command(flatten)]
    named: Named,
}

// Arguments of `davit builder prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Remove all build cache, that of existing images and cache mounts, too
    #[arg(short, long)]
    all: bool,
    #[arg(long, value_name = "KEY=VALUE", help = help(&FILTERS))]
    filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Leave this much in any case (`10GB`); what was not used for longest goes first
    #[arg(long, value_name = "BYTES", alias = "keep-storage")]
    reserved_space: Option<String>,
    /// Leave no more than this
    #[arg(long, value_name = "BYTES")]
    max_used_space: Option<String>,
    /// Leave no more than lets this much of the file system be free
    #[arg(long, value_name = "BYTES")]
    min_free_space: Option<String>,
    #[arg(long, hide = true)]
    timeout: Option<String>,
    /// Each record is named in any case
    #[arg(long, hide = true)]
    verbose: bool,
    #[command(flatten)]
    named: Named,
}

/// Runs `davit builder VERB`.
///
/// # Errors
/// What the verb says.
pub(crate) fn run(command: BuilderCommand, context: &Context) -> Result<u8, CliError> {
    match command {
        BuilderCommand::Build(args) => build::run(*args, context),
        BuilderCommand::Bake(args) => bake::run(&args, context),
        BuilderCommand::Du(args) => du(&args, context),
        BuilderCommand::Prune(args) => prune(&args, context),
        BuilderCommand::Ls(args) => instance::ls(&args),
        BuilderCommand::Inspect(args) => instance::inspect(&args, context),
        BuilderCommand::Create(args) => instance::create(&args),
        // Whatever is chosen or halted, it is the one builder.
        BuilderCommand::Use(_) | BuilderCommand::Stop(_) => Ok(0),
        BuilderCommand::Rm(args) => instance::rm(&args),
        BuilderCommand::History(command) => history::run(command, context),
        BuilderCommand::Imagetools(command) => imagetools::run(&command, context),
        BuilderCommand::Version(_) => instance::version(),
    }
}

fn du(args: &DuArgs, context: &Context) -> Result<u8, CliError> {
    let filters = Filters::parse(&args.filter, &DU_FILTERS)?;
    let (ids, kinds) = (filters.values("id"), filters.values("type"));
    let engine = context.engine()?;
    let mut records = engine.build_cache_usage()?;
    let all = records.len();
    let total = engine.build_cache_total(&records)?;
    records.retain(|record| {
        let named = |id: &String| record.key.starts_with(id) || record.description.starts_with(id);
        (ids.is_empty() || ids.iter().any(named))
            && (kinds.is_empty() || kinds.contains(&record.kind))
    });
    let is_plain = args.format.template().is_none() && !args.format.json;
    match args.verbose && is_plain {
        true => facts(&records)?,
        false => df::print_cache(&args.format, &records)?,
    }
    // A part of them shares with the rest what it names.
    if is_plain && !records.is_empty() && records.len() == all {
        let (freed, total) = (units::exact_size(total.reclaimable), units::exact_size(total.total));
        printer::line(&format!("\nReclaimable:\t{freed}\nTotal:\t\t{total}"))?;
    }
    Ok(0)
}

fn prune(args: &PruneArgs, context: &Context) -> Result<u8, CliError> {
    let warning = if args.all {
        "WARNING! This will remove all build cache."
    } else {
        "WARNING! This will remove all unused build cache."
    };
    let request = asked(args)?;
    if !args.force && !printer::confirm(warning)? {
        return Ok(0);
    }
    let report = context.engine()?.prune_build_cache(&request)?;
    print_deleted(&report)?;
    printer::line(&format!("Total reclaimed space: {}", units::exact_size(report.freed_bytes)))?;
    Ok(0)
}

/// Names the build records that are gone.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn print_deleted(report: &GcReport) -> Result<(), CliError> {
    if report.build_records.is_empty() {
        return Ok(());
    }
    printer::line("Deleted build cache objects:")?;
    report.build_records.iter().try_for_each(|key| printer::line(&visible(key)))?;
    printer::line("")
}

/// Shows records as lists of their facts, as buildx does.
fn facts(records: &[BuildCacheUsage]) -> Result<(), CliError> {
    for record in records {
        let description = if record.description.is_empty() {
            String::new()
        } else {
            format!("Description:\t{}\n", visible(&record.description))
        };
        printer::line(&format!(
            "ID:\t\t{}\nCreated at:\t{}\nSize:\t\t{}\n{description}Usage count:\t{}\n\
             Last used:\t{}\nType:\t\t{}\n",
            visible(&record.key),
            record.created,
            units::exact_size(record.size),
            record.uses,
            record.last_used,
            visible(&record.kind),
        ))?;
    }
    Ok(())
}

/// What goes.
fn asked(args: &PruneArgs) -> Result<BuildCachePrune, CliError> {
    let bytes = |text: &Option<String>| match text {
        None => Ok(0),
        Some(text) => values::bytes(text),
    };
    let bounds = CacheBounds {
        reserved_space: bytes(&args.reserved_space)?,
        max_used_space: bytes(&args.max_used_space)?,
        min_free_space: bytes(&args.min_free_space)?,
    };
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    let until = match filters.values("unused-for").last() {
        Some(text) => Some(point_in_time(text)?),
        None => filters.until()?,
    };
    let (ids, kinds) = (filters.values("id").to_vec(), filters.values("type").to_vec());
    Ok(BuildCachePrune { all: args.all, until, ids, kinds, bounds })
}
