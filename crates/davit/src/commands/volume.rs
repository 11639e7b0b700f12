//! `davit volume`

use clap::Subcommand;
use davit_engine::container::{VolumeRequest, VolumeSummary};
use serde::Serialize;

use super::container::{lifecycle::each, show, values};
use crate::{
    cli::Context,
    error::CliError,
    filter::Filters,
    format::{Kind, List, ListFormat, Object},
    printer, units,
};

/// Heads of the columns.
pub(super) const HEADS: &[(&str, &str)] = &[("Name", "VOLUME NAME")];

/// Verbs on volumes.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Verb {
    /// Create a volume
    Create(CreateArgs),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Display detailed information on one or more volumes
    Inspect(InspectArgs),
    /// Remove one or more volumes
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
    /// Remove unused local volumes
    Prune(PruneArgs),
}

// Arguments of `davit volume create`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Specify volume driver name
    #[arg(short, long, default_value = "local", value_name = "DRIVER")]
    driver: String,
    /// Set metadata for a volume
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Set driver specific options
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
    // Older than the argument.
    #[arg(long, hide = true, conflicts_with = "volume")]
    name: Option<String>,
    /// Name; a random one by default
    volume: Option<String>,
}

// Arguments of `davit volume ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Provide filter values (dangling, driver, label, name)
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    #[command(flatten)]
    format: ListFormat,
    /// Only display volume names
    #[arg(short, long)]
    quiet: bool,
}

// Arguments of `davit volume inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print JSON, as without a format
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

// Arguments of `davit volume rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Volumes that do not exist are no failure
    #[arg(short, long)]
    force: bool,
    /// Volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

// Arguments of `davit volume prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Remove all unused volumes, not just anonymous ones
    #[arg(short, long)]
    all: bool,
    /// Provide filter values (label=KEY[=VALUE])
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Row {
    availability: &'static str,
    driver: String,
    group: &'static str,
    labels: String,
    /// Number of containers.
    pub(super) links: String,
    mountpoint: String,
    name: String,
    scope: &'static str,
    /// Bytes in words.
    pub(super) size: String,
    status: &'static str,
}

/// Runs a verb.
///
/// # Errors
/// What the verb could not do.
pub(crate) fn run(verb: &Verb, context: &Context) -> Result<u8, CliError> {
    match verb {
        Verb::Create(args) => create(args, context),
        Verb::Ls(args) => list(args, context),
        Verb::Inspect(args) => {
            let engine = context.engine()?;
            show::objects(&args.volumes, args.format.as_deref().filter(|_| !args.json), |name| {
                Ok(Object { kind: Kind::Volume, fields: engine.volume(name)?.inspect() })
            })
        }
        Verb::Rm(args) => remove(args, context),
        Verb::Prune(args) => prune(args, context),
    }
}

fn create(args: &CreateArgs, context: &Context) -> Result<u8, CliError> {
    let request = VolumeRequest {
        name: args.volume.clone().or_else(|| args.name.clone()),
        driver: args.driver.clone(),
        labels: values::labels(&[], &args.label)?,
        options: values::pairs("opt", &args.opt)?,
    };
    printer::line(&context.engine()?.create_volume(&request)?)?;
    Ok(0)
}

fn list(args: &ListArgs, context: &Context) -> Result<u8, CliError> {
    let filters = Filters::parse(&args.filter, &["dangling", "driver", "label", "name"])?;
    let dangling = filters.flag("dangling")?;
    let mut volumes = context.engine()?.volumes()?;
    volumes.retain(|volume| {
        dangling.is_none_or(|dangling| dangling == volume.containers.is_empty())
            && filters.any("driver", |driver| volume.driver == *driver)
            && filters.any("name", |name| volume.name.contains(name))
            && filters.fit_labels(&volume.labels)
    });
    if args.quiet && args.format.is_table() {
        let names: String = volumes.iter().map(|volume| format!("{}\n", volume.name)).collect();
        printer::data(&names)?;
        return Ok(0);
    }
    let rows: Vec<Row> = volumes.iter().map(row).collect();
    let raw: Vec<_> = volumes.iter().map(VolumeSummary::inspect).collect();
    let format = context.list_format(&args.format, "volumesFormat")?;
    let table = "table {{.Driver}}\t{{.Name}}";
    List { table, heads: HEADS }.print(&format, &rows, &raw)?;
    Ok(0)
}

/// A volume's row; nothing is measured.
pub(super) fn row(volume: &VolumeSummary) -> Row {
    let labels: Vec<String> =
        volume.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Row {
        availability: "N/A",
        driver: volume.driver.clone(),
        group: "N/A",
        labels: labels.join(","),
        links: "N/A".to_owned(),
        mountpoint: volume.mountpoint.clone(),
        name: volume.name.clone(),
        scope: "local",
        size: "N/A".to_owned(),
        status: "N/A",
    }
}

fn remove(args: &RemoveArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    each(&args.volumes, |name| {
        match engine.remove_volume(name) {
            Err(error) if args.force && error.is_not_found() => {}
            result => result?,
        }
        printer::line(name)
    })
}

fn prune(args: &PruneArgs, context: &Context) -> Result<u8, CliError> {
    let filters = Filters::parse(&args.filter, &["label", "label!"])?;
    let scope = if args.all { "all local volumes" } else { "anonymous local volumes" };
    let warning = format!("WARNING! This will remove {scope} not used by at least one container.");
    if !args.force && !super::prune::confirm(&warning)? {
        return Ok(0);
    }
    let wanted = |volume: &VolumeSummary| {
        (args.all || volume.anonymous) && filters.fit_labels(&volume.labels)
    };
    let (removed, bytes) = context.engine()?.prune_volumes(wanted)?;
    super::prune::report("Volumes", &removed, &units::exact_size(bytes))?;
    Ok(0)
}
