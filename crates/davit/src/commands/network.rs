//! `davit network`

use clap::Subcommand;
use davit_engine::{container::NetworkRow, image::Timestamp};
use serde::Serialize;
use serde_json::json;

use super::container::show;
use crate::{
    cli::Context,
    error::CliError,
    filter::Filters,
    format::{Kind, List, ListFormat, Object, Width},
    printer, units,
};

const FILTERS: [&str; 6] = ["driver", "id", "label", "name", "scope", "type"];
/// Values of the filter `type`.
const KINDS: [&str; 2] = ["builtin", "custom"];

/// Verbs on networks.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Verb {
    /// List networks
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Display detailed information on one or more networks
    Inspect(InspectArgs),
}

// Arguments of `davit network ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Provide filter values (driver, id, label, name, scope, type)
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
    internal: &'static str,
    labels: String,
}

/// Runs a verb.
///
/// # Errors
/// What the verb could not do.
pub(crate) fn run(verb: &Verb, context: &Context) -> Result<u8, CliError> {
    match verb {
        Verb::Ls(args) => list(args, context),
        Verb::Inspect(args) => {
            let engine = context.engine()?;
            show::objects(&args.networks, args.format.as_deref().filter(|_| !args.json), |name| {
                Ok(Object { kind: Kind::Network, fields: engine.inspect_network(name)? })
            })
        }
    }
}

fn list(args: &ListArgs, context: &Context) -> Result<u8, CliError> {
    let mut networks = context.engine()?.networks()?;
    let filters = Filters::parse(&args.filter, &FILTERS)?;
    if let Some(kind) = filters.values("type").iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        return Err(CliError::user(format!("invalid filter 'type={kind}'")));
    }
    networks.retain(|row| fits(row, &filters));
    let id = |row: &NetworkRow| Width::of(args.no_trunc).id(&row.network.id);
    if args.quiet && args.format.is_table() {
        let ids: String = networks.iter().map(|row| id(row) + "\n").collect();
        printer::data(&ids)?;
        return Ok(0);
    }
    let rows: Vec<Row> = networks.iter().map(|row| self::row(row, id(row))).collect();
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
        // The three that every root has are Docker's built-in ones.
        && filters.any("type", |kind| kind == "builtin")
        && filters.fit_labels(&network.labels)
}

fn row(row: &NetworkRow, id: String) -> Row {
    let network = &row.network;
    let labels: Vec<String> =
        network.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    Row {
        id,
        name: network.name.clone(),
        driver: network.driver.clone(),
        scope: "local",
        created_at: units::date(Timestamp::from_unix_seconds(row.created / 1_000_000_000).ok()),
        ipv4: "true",
        ipv6: network.pools.iter().any(|pool| pool.subnet.is_ipv6()).to_string(),
        internal: "false",
        labels: labels.join(","),
    }
}
