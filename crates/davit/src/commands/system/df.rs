//! `davit system df`

use std::collections::BTreeMap;

use davit_engine::{
    BuildCacheUsage, DiskUsage, Engine, ImageUsage, VolumeUsage,
    container::{ContainerSummary, ListRequest, VolumeSummary},
};
use serde::Serialize;

use crate::{
    cli::Context,
    commands::{container::ps, images, volume},
    error::CliError,
    format::{self, List, ListFormat, Width},
    printer, units,
};

// Arguments of `davit system df`.
#[derive(Debug, clap::Args)]
pub(crate) struct DfArgs {
    /// Show each image, container, volume and build record
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    format: ListFormat,
}

const IMAGES: &str = "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}";
const CONTAINERS: &str = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
const VOLUMES: &str = "table {{.Name}}\t{{.Links}}\t{{.Size}}";
const CACHE: &str = "table {{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}";
const CACHE_WITH_NAMES: &str = "table {{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Description}}";
const CACHE_HEADS: &[(&str, &str)] = &[
    ("ID", "CACHE ID"),
    ("CacheType", "CACHE TYPE"),
    ("CreatedSince", "CREATED"),
    ("LastUsedSince", "LAST USED"),
    ("UsageCount", "USAGE"),
];

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

/// Runs `davit system df`.
///
/// # Errors
/// A malformed template, or what the store says.
pub(super) fn run(args: &DfArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let usage = engine.disk_usage()?;
    if args.verbose {
        verbose(&args.format, &usage, &engine)?;
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
    let reclaimable = units::exact_size(raw.reclaimable);
    UsageRow {
        r#type: raw.r#type,
        total_count: raw.total_count.to_string(),
        active: raw.active.to_string(),
        size: units::exact_size(raw.size),
        reclaimable: match share {
            Some(share) => format!("{reclaimable} ({share}%)"),
            None => reclaimable,
        },
    }
}

/// Prints build records and cache mounts.
///
/// # Errors
/// A malformed template; when standard output cannot be written.
pub(crate) fn print_cache(asked: &ListFormat, records: &[BuildCacheUsage]) -> Result<(), CliError> {
    let width = if asked.is_table() { Width::Cut } else { Width::Whole };
    let rows: Vec<CacheRow> = records.iter().map(|record| cache_row(record, width)).collect();
    List { table: CACHE_WITH_NAMES, heads: CACHE_HEADS }.print(asked, &rows, records)
}

/// A build record as Docker's templates see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct CacheRow {
    cache_type: String,
    created_at: String,
    created_since: String,
    description: String,
    #[serde(rename = "ID")]
    id: String,
    in_use: &'static str,
    last_used_at: String,
    last_used_since: String,
    parent: &'static str,
    shared: &'static str,
    size: String,
    usage_count: String,
}

/// What `-v` shows, as Docker's templates see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Verbose {
    images: Vec<images::Row>,
    containers: Vec<ps::Row>,
    volumes: Vec<volume::Row>,
    build_cache: Vec<CacheRow>,
}

fn verbose(asked: &ListFormat, usage: &DiskUsage, engine: &Engine) -> Result<(), CliError> {
    if asked.json {
        return printer::line(&format::to_json(usage, true)?);
    }
    let width = if asked.is_table() { Width::Cut } else { Width::Whole };
    let rows = rows(usage, engine, width)?;
    match asked.template() {
        Some(template) => printer::line(&format::render_fields(template, &rows)?),
        None => print_tables(&rows, usage.build_cache_size),
    }
}

fn print_tables(rows: &Verbose, cache_size: u64) -> Result<(), CliError> {
    let images = List { table: IMAGES, heads: images::HEADS }.render("table", &rows.images)?;
    let containers = List { table: CONTAINERS, heads: ps::HEADS };
    let containers = containers.render("table", &rows.containers)?;
    let volumes = List { table: VOLUMES, heads: volume::HEADS }.render("table", &rows.volumes)?;
    let cache = List { table: CACHE, heads: CACHE_HEADS }.render("table", &rows.build_cache)?;
    let size = units::exact_size(cache_size);
    printer::data(&format!(
        "Images space usage:\n\n{images}\nContainers space usage:\n\n{containers}\n\
         Local Volumes space usage:\n\n{volumes}\nBuild cache usage: {size}\n\n{cache}"
    ))
}

/// The rows, with whole ids for programs.
fn rows(usage: &DiskUsage, engine: &Engine, width: Width) -> Result<Verbose, CliError> {
    let sizes: BTreeMap<&str, u64> =
        usage.containers.iter().map(|container| (container.id.as_str(), container.size)).collect();
    let listed = engine.list_containers(&ListRequest { all: true, ..ListRequest::default() })?;
    let container = |container: &ContainerSummary| {
        let mut row = ps::row(container, width);
        row.size = units::exact_size(sizes.get(container.id.as_str()).copied().unwrap_or(0));
        row
    };
    let known: BTreeMap<&str, &VolumeUsage> =
        usage.volumes.iter().map(|volume| (volume.name.as_str(), volume)).collect();
    let volume = |volume: &VolumeSummary| {
        let mut row = volume::row(volume);
        if let Some(found) = known.get(volume.name.as_str()) {
            row.links = found.links.to_string();
            row.size = units::exact_size(found.size);
        }
        row
    };
    Ok(Verbose {
        images: usage.images.iter().map(|image| image_row(image, width)).collect(),
        containers: listed.iter().map(container).collect(),
        volumes: engine.volumes()?.iter().map(volume).collect(),
        build_cache: usage.build_cache.iter().map(|record| cache_row(record, width)).collect(),
    })
}

fn image_row(image: &ImageUsage, width: Width) -> images::Row {
    let name = image.references.first();
    let none = || "<none>".to_owned();
    let size = units::exact_size(image.size);
    images::Row {
        id: width.id(&image.id.to_string()),
        repository: name.map_or_else(none, |name| name.repository().familiar()),
        tag: name.and_then(|name| name.tag()).map_or_else(none, ToString::to_string),
        digest: String::new(),
        created_since: units::ago(image.created),
        created_at: units::date(image.created),
        size: units::size(image.size),
        virtual_size: size,
        shared_size: units::exact_size(image.shared_size),
        unique_size: units::exact_size(image.size - image.shared_size),
        containers: image.containers.to_string(),
    }
}

fn cache_row(record: &BuildCacheUsage, width: Width) -> CacheRow {
    CacheRow {
        cache_type: record.kind.clone(),
        created_at: units::date(Some(record.created)),
        created_since: units::ago(Some(record.created)),
        description: record.description.clone(),
        id: match width {
            // Keys begin with what they are keys of.
            Width::Cut => width.id(record.key.rsplit([':', '/']).next().unwrap_or_default()),
            Width::Whole => record.key.clone(),
        },
        in_use: "false",
        last_used_at: units::date(Some(record.last_used)),
        last_used_since: units::ago(Some(record.last_used)),
        parent: "",
        shared: "false",
        size: units::exact_size(record.size),
        usage_count: record.uses.to_string(),
    }
}
