//! `davit network`

use std::net::IpAddr;

use clap::Subcommand;
use davit_engine::{
    Engine,
    container::{NetworkRequest, NetworkRow, NetworkSpec, is_built_in},
    image::Timestamp,
};
use serde::Serialize;
use serde_json::json;

use super::container::{lifecycle::each, show, values};
use crate::{
    cli::Context,
    error::CliError,
    filter::Filters,
    format::{Kind, List, ListFormat, Object, Width},
    printer, units,
};

const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];
/// Values of the filter `type`.
const KINDS: [&str; 2] = ["builtin", "custom"];

/// Verbs on networks.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Verb {
    /// Create a network
    Create(CreateArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Display detailed information on one or more networks
    Inspect(InspectArgs),
    /// Remove one or more networks
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
    /// Remove all unused networks
    Prune(PruneArgs),
}

// Arguments of `davit network create`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Enable manual container attachment; always so on one machine
    #[arg(long)]
    attachable: bool,
    /// Driver to manage the network
    #[arg(short, long, default_value = "bridge", value_name = "DRIVER")]
    driver: String,
    /// IPv4 or IPv6 gateway for the subnet
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,
    /// Restrict external access to the network
    #[arg(long)]
    internal: bool,
    /// Allocate container addresses from a sub-range
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    ip_range: Vec<String>,
    /// Enable IPv6 addresses
    #[arg(long)]
    ipv6: bool,
    /// Set metadata on a network
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Set driver specific options (com.docker.network.driver.mtu)
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Subnet that represents a network segment
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    subnet: Vec<String>,
    /// Name
    network: String,
}

// Arguments of `davit network rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Networks that do not exist are no failure
    #[arg(short, long)]
    force: bool,
    /// Networks
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

// Arguments of `davit network prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Provide filter values (until=TIME, label=KEY[=VALUE])
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

// Arguments of `davit network ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Provide filter values (dangling, driver, id, label, name, scope, type)
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    #[command(flatten)]
    format: ListFormat,
    /// Do not truncate the output
    #[arg(long)]
    no_trunc: bool,
    /// Only display network IDs
    #[arg(short, long)]
    quiet: bool,
}

// Arguments of `davit network inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print JSON, as without a format
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Verbose output for diagnostics
    #[arg(short, long, hide = true)]
    verbose: bool,
    /// Networks
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    driver: String,
    scope: &'static str,
    created_at: String,
    #[serde(rename = "IPv4")]
    ipv4: &'static str,
    #[serde(rename = "IPv6")]
    ipv6: String,
    internal: String,
    labels: String,
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
            show::objects(&args.networks, args.format.as_deref().filter(|_| !args.json), |name| {
                Ok(Object { kind: Kind::Network, fields: engine.inspect_network(name)? })
            })
        }
        Verb::Rm(args) => remove(args, context),
        Verb::Prune(args) => prune(args, context),
    }
}

fn create(args: &CreateArgs, context: &Context) -> Result<u8, CliError> {
    let request = NetworkRequest {
        name: args.network.clone(),
        driver: args.driver.clone(),
        labels: values::labels(&[], &args.label)?,
        options: values::pairs("opt", &args.opt)?,
        subnets: args.subnet.clone(),
        gateways: args.gateway.clone(),
        ip_ranges: args.ip_range.clone(),
        internal: args.internal,
        ipv6: args.ipv6,
        attachable: args.attachable,
    };
    printer::line(&context.engine()?.create_network(&request)?)?;
    Ok(0)
}

fn remove(args: &RemoveArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    each(&args.networks, |name| {
        match engine.remove_network(name) {
            Err(error) if args.force && error.is_not_found() => {}
            result => result?,
        }
        printer::line(name)
    })
}

fn prune(args: &PruneArgs, context: &Context) -> Result<u8, CliError> {
    let filters = Filters::parse(&args.filter, &["label", "label!", "until"])?;
    let until = filters.until()?;
    let warning =
        "WARNING! This will remove all custom networks not used by at least one container.";
    if !args.force && !super::prune::confirm(warning)? {
        return Ok(0);
    }
    prune_those(&context.engine()?, |row| {
        until.is_none_or(|until| created(row) < Some(until))
            && filters.fit_labels(&row.network.labels)
    })?;
    Ok(0)
}

/// Removes networks that fit and no container is in, and tells which.
///
/// # Errors
/// What the store or the kernel says.
pub(super) fn prune_those(
    engine: &Engine,
    fits: impl Fn(&NetworkRow) -> bool,
) -> Result<(), CliError> {
    let names = engine.prune_networks(fits)?;
    if !names.is_empty() {
        printer::line(&format!("Deleted Networks:\n{}\n", names.join("\n")))?;
    }
    Ok(())
}

/// When a network was made.
pub(super) fn created(row: &NetworkRow) -> Option<Timestamp> {
    Timestamp::from_unix_seconds(row.created / 1_000_000_000).ok()
}

fn list(args: &ListArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let mut networks = engine.networks()?;
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    if let Some(kind) = filters.values("type").iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        return Err(CliError::user(format!("invalid filter 'type={kind}'")));
    }
    if let Some(dangling) = filters.flag("dangling")? {
        let idle = engine.idle_networks()?;
        networks.retain(|row| idle.contains(row) == dangling);
    }
    networks.retain(|row| fits(row, &filters));
    let id = |row: &NetworkRow| Width::of(args.no_trunc).id(&row.network.id);
    if args.quiet && args.format.is_table() {
        let ids: String = networks.iter().map(|row| id(row) + "\n").collect();
        printer::data(&ids)?;
        return Ok(0);
    }
    let rows = networks.iter().map(|row| self::row(row, id(row)));
    let rows = rows.collect::<Result<Vec<Row>, CliError>>()?;
    let raw: Vec<_> = networks
        .iter()
        .map(|row| json!({"id": row.network.id, "name": row.network.name, "driver": row.network.driver}))
        .collect();
    let format = context.list_format(&args.format, "networksFormat")?;
    let table = "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}";
    List { table, heads: &[("ID", "NETWORK ID")] }.print(&format, &rows, &raw)?;
    Ok(0)
}

fn fits(row: &NetworkRow, filters: &Filters) -> bool {
    let network = &row.network;
    filters.any("driver", |driver| network.driver == *driver)
        && filters.any("id", |id| network.id.starts_with(id))
        && filters.any("name", |name| network.name.contains(name))
        && filters.any("scope", |scope| scope == "local")
        && filters.any("type", |kind| (kind == "builtin") == is_built_in(&network.name))
        && filters.fit_labels(&network.labels)
}

fn row(row: &NetworkRow, id: String) -> Result<Row, CliError> {
    let network = &row.network;
    let spec = NetworkSpec::of(network)?;
    let labels: Vec<String> =
        network.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Ok(Row {
        id,
        name: network.name.clone(),
        driver: network.driver.clone(),
        scope: "local",
        created_at: units::date(created(row)),
        ipv4: "true",
        ipv6: network.pools.iter().any(|pool| pool.subnet.is_ipv6()).to_string(),
        internal: spec.internal.to_string(),
        labels: labels.join(","),
    })
}
