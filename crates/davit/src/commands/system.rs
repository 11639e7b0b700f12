//! `davit system df|check|info|prune|reset`

mod reset;

use davit_engine::{BuildCache, CheckMode, CheckReport, DiskUsage, Engine, ImagePrune, Repair};
use serde::Serialize;

use crate::{
    cli::Context,
    commands::{builder, rmi},
    error::CliError,
    filter::has_labels,
    format::{List, ListFormat},
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
    Df(DfArgs),
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

// Arguments of `davit system df`.
#[derive(Debug, clap::Args)]
pub(crate) struct DfArgs {
    /// Show each image, container, volume and build record
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    format: ListFormat,
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
    /// Only what fits: until, label, label!
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Runs `davit system VERB`.
///
/// # Errors
/// What the verb says.
pub(crate) fn run(command: &SystemCommand, context: &Context) -> Result<u8, CliError> {
    match command {
        SystemCommand::Check(args) => check(args, context),
        SystemCommand::Df(args) => df(args, context),
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

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct UsageRow {
    r#type: &'static str,
    total_count: String,
    active: String,
    size: String,
    reclaimable: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RawUsage {
    r#type: &'static str,
    total_count: usize,
    active: usize,
    size: u64,
    reclaimable: u64,
}

const USAGE: List<'static> = List {
    table: "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
    heads: &[("TotalCount", "TOTAL")],
};

fn df(args: &DfArgs, context: &Context) -> Result<u8, CliError> {
    let usage = context.engine()?.disk_usage()?;
    if args.verbose {
        print_verbose(&usage)?;
        return Ok(0);
    }
    let raw = totals(&usage);
    let rows: Vec<UsageRow> = raw.iter().map(usage_row).collect();
    USAGE.print(&args.format, &rows, &raw)?;
    Ok(0)
}

fn totals(usage: &DiskUsage) -> [RawUsage; 4] {
    let running = |status: &str| matches!(status, "running" | "paused" | "restarting");
    let containers = &usage.containers;
    let idle = containers.iter().filter(|container| !running(&container.status));
    let unused = usage.volumes.iter().filter(|volume| volume.links == 0);
    [
        RawUsage {
            r#type: "Images",
            total_count: usage.images.len(),
            active: usage.images.iter().filter(|image| image.containers > 0).count(),
            size: usage.layers_size + usage.unfinished_size,
            reclaimable: usage.reclaimable_images(),
        },
        RawUsage {
            r#type: "Containers",
            total_count: containers.len(),
            active: containers.iter().filter(|c| running(&c.status)).count(),
            size: containers.iter().map(|container| container.size).sum(),
            reclaimable: idle.map(|container| container.size).sum(),
        },
        RawUsage {
            r#type: "Local Volumes",
            total_count: usage.volumes.len(),
            active: usage.volumes.iter().filter(|volume| volume.links > 0).count(),
            size: usage.volumes.iter().map(|volume| volume.size).sum(),
            reclaimable: unused.map(|volume| volume.size).sum(),
        },
        RawUsage {
            r#type: "Build Cache",
            total_count: usage.build_cache.len(),
            active: 0,
            size: usage.build_cache_size,
            reclaimable: usage.build_cache_size,
        },
    ]
}

fn usage_row(raw: &RawUsage) -> UsageRow {
    let share = (raw.reclaimable * 100).checked_div(raw.size);
    let reclaimable = units::size(raw.reclaimable);
    UsageRow {
        r#type: raw.r#type,
        total_count: raw.total_count.to_string(),
        active: raw.active.to_string(),
        size: units::size(raw.size),
        reclaimable: match share {
            Some(share) => format!("{reclaimable} ({share}%)"),
            None => reclaimable,
        },
    }
}

fn print_verbose(usage: &DiskUsage) -> Result<(), CliError> {
    let cells = |cells: &[String]| serde_json::json!({ "Row": cells.join("\t") });
    let print = |title: &str, heads: &str, rows: Vec<serde_json::Value>| {
        let list = List { table: "table {{.Row}}", heads: &[("Row", heads)] };
        printer::line(&format!("{title}\n"))?;
        printer::line(&list.render("table", &rows)?)
    };
    let images = usage.images.iter().map(|image| {
        let name = image.references.first();
        let repository = name.map(|name| name.repository().familiar());
        let tag = name.and_then(|name| name.tag()).map(ToString::to_string);
        cells(&[
            repository.unwrap_or_else(|| "<none>".to_owned()),
            tag.unwrap_or_else(|| "<none>".to_owned()),
            image.id.digest().short_hex(),
            units::ago(image.created),
            units::size(image.size),
            units::size(image.shared_size),
            units::size(image.size - image.shared_size),
            image.containers.to_string(),
        ])
    });
    let heads = "REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE\tSHARED SIZE\tUNIQUE SIZE\tCONTAINERS";
    print("Images space usage:", heads, images.collect())?;
    let containers = usage.containers.iter().map(|container| {
        let id = container.id.chars().take(12).collect();
        cells(&[id, units::size(container.size), container.status.clone(), container.name.clone()])
    });
    print("Containers space usage:", "CONTAINER ID\tSIZE\tSTATUS\tNAMES", containers.collect())?;
    let volumes = usage.volumes.iter().map(|volume| {
        cells(&[volume.name.clone(), volume.links.to_string(), units::size(volume.size)])
    });
    print("Local Volumes space usage:", "VOLUME NAME\tLINKS\tSIZE", volumes.collect())?;
    let records = usage.build_cache.iter().map(|record| {
        let key = record.key.chars().take(12).collect();
        let kind = record.kind.clone();
        cells(&[key, kind, units::size(record.size), record.uses.to_string()])
    });
    let total = units::size(usage.build_cache_size);
    print(
        &format!("Build cache usage: {total}"),
        "CACHE ID\tCACHE TYPE\tSIZE\tUSAGE",
        records.collect(),
    )
}

fn prune(args: &PruneArgs, context: &Context) -> Result<u8, CliError> {
    let request = rmi::prune_request(args.all, &args.filter)?;
    if !args.force && !printer::confirm(&warning(args))? {
        return Ok(0);
    }
    let engine = context.engine()?;
    let mut freed = prune_containers(&engine, &request)?;
    prune_networks(&engine)?;
    if args.volumes {
        freed += prune_volumes(&engine)?;
    }
    let images = engine.prune_images(&request)?;
    if !images.removals.is_empty() {
        printer::line("Deleted Images:")?;
        rmi::print(&images.removals)?;
        printer::line("")?;
    }
    let unused = if args.all { BuildCache::Drop } else { BuildCache::Budget(0) };
    let cache = engine.prune_store(unused)?;
    builder::print_deleted(&cache)?;
    freed += images.freed_bytes + cache.freed_bytes;
    printer::line(&format!("Total reclaimed space: {}", units::size(freed)))?;
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
        has_labels(&labels, &request.labels)
            && (request.without_labels.is_empty() || !has_labels(&labels, &request.without_labels))
            && request.until.is_none_or(|until| container.created < until)
    })?;
    if !ids.is_empty() {
        printer::line("Deleted Containers:")?;
        ids.iter().try_for_each(|id| printer::line(id))?;
        printer::line("")?;
    }
    Ok(freed)
}

fn prune_networks(engine: &Engine) -> Result<(), CliError> {
    let names = engine.prune_networks()?;
    if !names.is_empty() {
        printer::line(&format!("Deleted Networks:\n{}\n", names.join("\n")))?;
    }
    // The interface and the rules of the built-in network are made again when they are needed.
    Ok(engine.withdraw_idle()?)
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
