//! `davit system df|check|info|prune|reset`

pub(crate) mod df;
mod reset;

use std::collections::BTreeMap;

use davit_engine::{
    BuildCache, CheckMode, CheckReport, Engine, ImagePrune, Repair, image::Timestamp,
};
use serde::Serialize;

use crate::{
    cli::Context,
    commands::{builder, network, rmi},
    error::CliError,
    filter::{has_labels, help},
    printer,
    progress::ProgressMode,
    units,
};

/// Verbs of `davit system`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum SystemCommand {
    /// Read everything in the store again, and name what is wrong
    Check(CheckArgs),
    /// Show disk usage
    Df(df::DfArgs),
    /// Display system-wide information
    Info(super::info::InfoArgs),
    /// Remove stopped containers, unused networks, images and build cache
    Prune(PruneArgs),
    /// Remove everything: containers, images, volumes, networks, build cache and the store itself
    Reset(reset::ResetArgs),
}

// Arguments of `davit system check`.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// Mend what is broken, or fetch it again; drop what nobody has
    #[arg(long)]
    repair: bool,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t, conflicts_with = "json")]
    progress: ProgressMode,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

// Arguments of `davit system prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Remove all unused images, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove anonymous volumes, too
    #[arg(long)]
    volumes: bool,
    #[arg(long, value_name = "KEY=VALUE", help = help(&rmi::PRUNE_FILTERS))]
    filter: Vec<String>,
}

/// Runs `davit system VERB`.
///
/// # Errors
/// What the verb says.
pub(crate) fn run(command: &SystemCommand, context: &Context) -> Result<u8, CliError> {
    match command {
        SystemCommand::Check(args) => check(args, context),
        SystemCommand::Df(args) => df::run(args, context),
        SystemCommand::Info(args) => super::info::run(args, context),
        SystemCommand::Prune(args) => prune(args, context),
        SystemCommand::Reset(args) => reset::run(args, context),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RawFault<'a> {
    kind: String,
    subject: &'a str,
    detail: &'a str,
    repair: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RawReport<'a> {
    blobs: u64,
    layers: u64,
    trees: u64,
    images: u64,
    bytes: u64,
    leftovers: u64,
    faults: Vec<RawFault<'a>>,
    dropped_names: Vec<String>,
    unrestored: Vec<RawUnrestored<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RawUnrestored<'a> {
    image: &'a str,
    problem: &'a str,
}

/// Runs `davit system check`: exit code 0 when nothing is wrong any more, else 1.
///
/// # Errors
/// When the check itself cannot be done.
fn check(args: &CheckArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let mode = if args.repair { CheckMode::Repair } else { CheckMode::Report };
    let progress = context.progress(if args.json { ProgressMode::Quiet } else { args.progress });
    let report = engine.check(mode, &*progress)?;
    drop(progress);
    if args.json {
        printer::line(&crate::format::to_json(&raw_report(&report), true)?)?;
    } else {
        print_report(&report)?;
    }
    if report.remaining() > 0 && !args.repair {
        printer::note("\nhint: davit system check --repair");
    }
    Ok(u8::from(report.remaining() > 0))
}

fn raw_report(report: &CheckReport) -> RawReport<'_> {
    let faults = report.faults.iter().map(|fault| RawFault {
        kind: format!("{:?}", fault.kind),
        subject: &fault.subject,
        detail: &fault.detail,
        repair: format!("{:?}", fault.repair),
    });
    RawReport {
        blobs: report.blobs,
        layers: report.layers,
        trees: report.trees,
        images: report.images,
        bytes: report.bytes,
        leftovers: report.leftovers,
        faults: faults.collect(),
        dropped_names: report.dropped_names.iter().map(|name| name.reference.to_string()).collect(),
        unrestored: report
            .unrestored
            .iter()
            .map(|one| RawUnrestored { image: &one.image, problem: &one.problem })
            .collect(),
    }
}

fn print_report(report: &CheckReport) -> Result<(), CliError> {
    for fault in &report.faults {
        let repair = match fault.repair {
            Repair::Nothing => "",
            Repair::Dropped => " [dropped]",
            Repair::Rebuilt => " [made again]",
            Repair::Restored => " [restored]",
        };
        printer::line(&format!("{} {}: {}{repair}", fault.kind, fault.subject, fault.detail))?;
    }
    for image in &report.unrestored {
        printer::note(&format!("warning: {} is not whole: {}", image.image, image.problem));
    }
    for dropped in &report.dropped_names {
        let name = dropped.reference.familiar();
        printer::line(&format!("Untagged: {name}"))?;
        printer::note(&if dropped.in_registry {
            format!("hint: davit pull {name}")
        } else {
            format!("hint: build or load {name} again")
        });
    }
    printer::line(&format!(
        "Checked {} images, {} layers, {} blobs, {} trees ({}): {}",
        report.images,
        report.layers,
        report.blobs,
        report.trees,
        units::size(report.bytes),
        match (report.faults.len(), report.remaining()) {
            (0, _) => "no faults".to_owned(),
            (1, 0) => "1 fault, mended".to_owned(),
            (found, 0) => format!("{found} faults, all mended"),
            (1, _) => "1 fault".to_owned(),
            (found, left) if found == left => format!("{found} faults"),
            (found, left) => format!("{found} faults, {left} left"),
        }
    ))
}

fn prune(args: &PruneArgs, context: &Context) -> Result<u8, CliError> {
    let request = rmi::prune_request(args.all, &args.filter)?;
    if args.volumes && request.until.is_some() {
        let text = "The \"until\" filter is not supported with \"--volumes\"";
        return Err(CliError::user(text));
    }
    if !args.force && !printer::confirm(&warning(args))? {
        return Ok(0);
    }
    let engine = context.engine()?;
    let mut freed = prune_containers(&engine, &request)?;
    prune_networks(&engine, &request)?;
    if args.volumes {
        freed += prune_volumes(&engine)?;
    }
    let images = engine.prune_images(&request)?;
    if !images.removals.is_empty() {
        printer::line("Deleted Images:")?;
        rmi::print_pruned(&images.removals)?;
        printer::line("")?;
    }
    let unused = if args.all { BuildCache::Drop } else { BuildCache::Budget(0) };
    let cache = engine.prune_store(unused)?;
    builder::print_deleted(&cache)?;
    freed += images.freed_bytes + cache.freed_bytes;
    printer::line(&format!("Total reclaimed space: {}", units::exact_size(freed)))?;
    Ok(0)
}

fn warning(args: &PruneArgs) -> String {
    let mut lines = vec![
        "WARNING! This will remove:",
        "  - all stopped containers",
        "  - all networks not used by at least one container",
    ];
    if args.volumes {
        lines.push("  - all anonymous volumes not used by at least one container");
    }
    lines.push(if args.all {
        "  - all images without at least one container associated to them"
    } else {
        "  - all dangling images"
    });
    lines.push(if args.all { "  - all build cache" } else { "  - unused build cache" });
    lines.join("\n") + "\n"
}

fn prune_containers(engine: &Engine, request: &ImagePrune) -> Result<u64, CliError> {
    let (ids, freed) = engine.prune_containers(|container| {
        let labels = container.spec.config.labels.clone().unwrap_or_default();
        fits(&labels, Some(container.created), request)
    })?;
    if !ids.is_empty() {
        printer::line("Deleted Containers:")?;
        ids.iter().try_for_each(|id| printer::line(id))?;
        printer::line("")?;
    }
    Ok(freed)
}

fn prune_networks(engine: &Engine, request: &ImagePrune) -> Result<(), CliError> {
    network::prune_those(engine, |row| fits(&row.network.labels, network::created(row), request))?;
    // The interface and the rules of the built-in network are made again when they are needed.
    Ok(engine.withdraw_idle()?)
}

/// Whether labels and age are such as are to be removed.
fn fits(
    labels: &BTreeMap<String, String>,
    created: Option<Timestamp>,
    request: &ImagePrune,
) -> bool {
    has_labels(labels, &request.labels)
        && (request.without_labels.is_empty() || !has_labels(labels, &request.without_labels))
        && request.until.is_none_or(|until| created < Some(until))
}

fn prune_volumes(engine: &Engine) -> Result<u64, CliError> {
    let pruned = engine.prune_anonymous_volumes()?;
    if !pruned.names.is_empty() {
        printer::line("Deleted Volumes:")?;
        for name in &pruned.names {
            printer::line(name)?;
        }
        printer::line("")?;
    }
    Ok(pruned.freed_bytes)
}
