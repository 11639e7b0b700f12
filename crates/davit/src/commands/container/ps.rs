//! `davit ps`

mod ports;

use davit_engine::{
    container::{ContainerSummary, Health, ListFilter, ListRequest, Phase, PortMapping},
    image::Timestamp,
};
use serde::Serialize;

use crate::{
    cli::Context,
    error::CliError,
    format::{List, ListFormat, Width, quote},
    printer, units,
};

// Arguments of `davit ps`.
#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    /// Show all containers (default shows just running)
    #[arg(short, long)]
    all: bool,
    /// Filter output based on conditions provided
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    #[command(flatten)]
    format: ListFormat,
    /// Show N last created containers (includes all states)
    #[arg(short = 'n', long, value_name = "N", default_value_t = -1, allow_hyphen_values = true)]
    last: i64,
    /// Show the latest created container (includes all states)
    #[arg(short, long)]
    latest: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display container IDs
    #[arg(short, long)]
    quiet: bool,
    /// Display total file sizes
    #[arg(short, long)]
    size: bool,
}

/// Heads of the columns.
pub(crate) const HEADS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("RunningFor", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("LocalVolumes", "LOCAL VOLUMES"),
];
const TABLE: &str = "table {{.ID}}\\t{{.Image}}\\t{{.Command}}\\t{{.RunningFor}}\\t{{.Status}}\\t{{.Ports}}\\t{{.Names}}";

/// A row as Docker's templates see it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Row {
    command: String,
    created_at: String,
    health_status: &'static str,
    #[serde(rename = "ID")]
    id: String,
    image: String,
    labels: String,
    local_volumes: String,
    mounts: String,
    names: String,
    networks: String,
    ports: String,
    running_for: String,
    /// Bytes in words.
    pub(crate) size: String,
    state: &'static str,
    status: String,
}

/// A row with raw values, for `--json`.
#[derive(Debug, Serialize)]
struct Raw {
    id: String,
    name: String,
    image: String,
    command: Vec<String>,
    created: Timestamp,
    state: &'static str,
    exit_code: i32,
    started: Option<Timestamp>,
    finished: Option<Timestamp>,
    ports: Vec<PortMapping>,
    labels: std::collections::BTreeMap<String, String>,
    size_bytes: Option<u64>,
}

/// Splits `KEY=VALUE` filters.
///
/// # Errors
/// One without `=`.
pub(crate) fn terms(filters: &[String]) -> Result<Vec<(String, String)>, CliError> {
    let term = |text: &String| match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_ascii_lowercase(), value.trim().to_owned())),
        None => Err(CliError::usage(format!(
            "invalid argument \"{text}\" for \"-f, --filter\" flag: invalid filter"
        ))),
    };
    filters.iter().map(term).collect()
}

/// Runs `davit ps`.
///
/// # Errors
/// An unknown filter or a malformed template.
pub(crate) fn run(args: &PsArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let format = context.list_format(&args.format, "psFormat")?;
    let wants_size = args.size || format.template().is_some_and(|format| format.contains(".Size"));
    let request = ListRequest {
        all: args.all,
        last: if args.latest {
            Some(1)
        } else {
            usize::try_from(args.last).ok().filter(|last| *last > 0)
        },
        filter: ListFilter { terms: terms(&args.filter)? },
        size: wants_size,
    };
    let containers = engine.list_containers(&request)?;
    let width = Width::of(args.no_trunc);
    if args.quiet && !args.format.json {
        if args.format.template().is_some() {
            printer::note("warning: --format is ignored beside --quiet");
        }
        let ids: String =
            containers.iter().map(|container| width.id(&container.id) + "\n").collect();
        printer::data(&ids)?;
        return Ok(0);
    }
    let rows: Vec<Row> = containers.iter().map(|container| row(container, width)).collect();
    let raw: Vec<Raw> = containers.into_iter().map(raw).collect();
    let table = if args.size { format!("{TABLE}\\t{{{{.Size}}}}") } else { TABLE.to_owned() };
    List { table: &table.replace("\\t", "\t"), heads: HEADS }.print(&format, &rows, &raw)?;
    Ok(0)
}

/// A container's row.
pub(crate) fn row(container: &ContainerSummary, width: Width) -> Row {
    let labels: Vec<String> =
        container.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let volumes = container.mounts.iter().filter(|mount| !mount.starts_with('/')).count();
    let mounts: Vec<String> = container.mounts.iter().map(|mount| width.text(mount, 15)).collect();
    Row {
        command: quote(&width.text(&command(&container.command), 20)),
        created_at: units::date(Some(container.created)),
        health_status: container.health.map_or("", health),
        id: width.id(&container.id),
        image: image(&container.image, width),
        labels: labels.join(","),
        local_volumes: volumes.to_string(),
        mounts: mounts.join(","),
        names: container.name.clone(),
        networks: container.networks.join(","),
        ports: ports(container),
        running_for: units::ago(Some(container.created)),
        size: container.size.map_or_else(
            || "0B".to_owned(),
            |(own, all)| format!("{} (virtual {})", units::size(own), units::size(all)),
        ),
        state: container.status.phase.word(),
        status: status(container),
    }
}

/// A name, or an id.
fn image(image: &str, width: Width) -> String {
    let is_id = image.starts_with("sha256:");
    if is_id { width.id(image) } else { image.to_owned() }
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Starting => "starting",
        Health::Healthy => "healthy",
        Health::Unhealthy => "unhealthy",
    }
}

/// Docker's sentence: `Up 5 minutes (healthy)`, `Exited (0) 2 hours ago`.
fn status(container: &ContainerSummary) -> String {
    let status = &container.status;
    let since = |time: Option<Timestamp>| {
        let ago = units::ago(time);
        ago.strip_suffix(" ago").map_or(ago.clone(), str::to_owned)
    };
    match status.phase {
        Phase::Created => "Created".to_owned(),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Paused => format!("Up {} (Paused)", since(status.started)),
        Phase::Restarting => {
            format!("Restarting ({}) {}", status.exit_code, units::ago(status.finished))
        }
        Phase::Exited => format!("Exited ({}) {}", status.exit_code, units::ago(status.finished)),
        Phase::Running => {
            let health = match container.health {
                Some(Health::Starting) => " (health: starting)",
                Some(Health::Healthy) => " (healthy)",
                Some(Health::Unhealthy) => " (unhealthy)",
                None => "",
            };
            format!("Up {}{health}", since(status.started))
        }
    }
}

fn ports(container: &ContainerSummary) -> String {
    if !container.status.phase.is_alive() {
        return String::new();
    }
    ports::text(&container.ports, &container.exposed)
}

/// Docker's line: arguments with a space stand in single quotes, whatever else is in them.
fn command(words: &[String]) -> String {
    let quoted = |(index, word): (usize, &String)| match index > 0 && word.contains(' ') {
        true => format!("'{word}'"),
        false => word.clone(),
    };
    words.iter().enumerate().map(quoted).collect::<Vec<_>>().join(" ")
}

fn raw(container: ContainerSummary) -> Raw {
    Raw {
        state: container.status.phase.word(),
        exit_code: container.status.exit_code,
        started: container.status.started,
        finished: container.status.finished,
        id: container.id,
        name: container.name,
        image: container.image,
        command: container.command,
        created: container.created,
        ports: container.ports,
        labels: container.labels,
        size_bytes: container.size.map(|(own, _)| own),
    }
}
