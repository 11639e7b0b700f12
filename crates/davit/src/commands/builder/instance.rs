//! The one builder: what it is, and the verbs that manage several where there are several.
//!
//! Scripts create a builder, choose it, build and remove it; all of that may be said, and changes
//! nothing. What would make a build run elsewhere is refused.

use davit_engine::build::runnable;
use serde::Serialize;

use super::Named;
use crate::{
    cli::Context,
    environment,
    error::CliError,
    format::{self, List, ListFormat},
    plugin, printer, units,
};

const NAME: &str = "default";
const DRIVER: &str = "davit";
const STATUS: &str = "running";
const VERSION: &str = concat!("davit-", env!("CARGO_PKG_VERSION"));
/// Drivers whose builder is a process or container of this machine.
const LOCAL_DRIVERS: [&str; 3] = ["docker", "docker-container", DRIVER];

// Arguments of `davit builder ls`.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {
    /// Nothing is cut off
    #[arg(long, hide = true)]
    no_trunc: bool,
    #[command(flatten)]
    format: ListFormat,
    #[command(flatten)]
    named: Named,
}

// Arguments of `davit builder inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// There is one builder
    #[arg(hide = true)]
    name: Option<String>,
    /// There is nothing to boot
    #[arg(long, hide = true)]
    bootstrap: bool,
    #[arg(long, hide = true)]
    timeout: Option<String>,
    /// Format output using a Go template, or 'json'
    #[arg(short, long)]
    format: Option<String>,
    #[command(flatten)]
    named: Named,
}

// Arguments of `davit builder create`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Context of Docker on this machine
    #[arg(hide = true, value_name = "CONTEXT")]
    endpoint: Option<String>,
    /// The name that is printed
    #[arg(long)]
    name: Option<String>,
    /// docker, docker-container or davit; others build elsewhere
    #[arg(long)]
    driver: Option<String>,
    /// The one builder is in use in any case
    #[arg(long = "use")]
    is_used: bool,
    /// Nothing has to boot
    #[arg(long, hide = true)]
    bootstrap: bool,
    #[arg(long, hide = true)]
    timeout: Option<String>,
    /// The builder has one node
    #[arg(long, hide = true)]
    append: bool,
    #[arg(long, hide = true)]
    leave: bool,
    #[arg(long, hide = true)]
    node: Option<String>,
    /// There is no daemon to configure
    #[arg(long, hide = true, alias = "config")]
    buildkitd_config: Option<String>,
    #[arg(long, hide = true)]
    buildkitd_flags: Option<String>,
    #[arg(long, hide = true)]
    driver_opt: Vec<String>,
    /// Platforms are those that can run here
    #[arg(long, hide = true)]
    platform: Vec<String>,
    #[command(flatten)]
    named: Named,
}

// Arguments of `davit builder use`.
#[derive(Debug, clap::Args)]
pub(crate) struct UseArgs {
    /// Any name
    name: String,
    #[arg(long, hide = true)]
    default: bool,
    #[arg(long, hide = true)]
    global: bool,
    #[command(flatten)]
    named: Named,
}

// Arguments of `davit builder rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// Any names but `default`
    names: Vec<String>,
    #[arg(long, hide = true)]
    all_inactive: bool,
    #[arg(short, long, hide = true)]
    force: bool,
    #[arg(long, hide = true)]
    keep_daemon: bool,
    #[arg(long, hide = true)]
    keep_state: bool,
    #[arg(long, hide = true)]
    timeout: Option<String>,
    #[command(flatten)]
    named: Named,
}

// Arguments of `davit builder stop`.
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    /// Any name
    name: Option<String>,
    #[command(flatten)]
    named: Named,
}

// Arguments of `davit builder version`.
#[derive(Debug, clap::Args)]
pub(crate) struct VersionArgs {
    #[command(flatten)]
    named: Named,
}

/// The builder as buildx describes one.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Builder {
    name: &'static str,
    driver: &'static str,
    last_activity: &'static str,
    dynamic: bool,
    nodes: [Node; 1],
    current: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    name: &'static str,
    endpoint: &'static str,
    status: &'static str,
    version: &'static str,
    platforms: Vec<String>,
}

/// A line of the table: the builder, or its node.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    name: String,
    driver_endpoint: &'static str,
    last_activity: &'static str,
    status: &'static str,
    buildkit: &'static str,
    platforms: String,
    error: &'static str,
}

const LIST: List<'static> = List {
    table: "table {{.Name}}\t{{.DriverEndpoint}}\t{{.Status}}\t{{.Buildkit}}\t{{.Platforms}}",
    heads: &[
        ("Name", "NAME/NODE"),
        ("DriverEndpoint", "DRIVER/ENDPOINT"),
        ("LastActivity", "LAST ACTIVITY"),
    ],
};

fn builder() -> Builder {
    let platforms = runnable(&environment::programs()).iter().map(ToString::to_string).collect();
    let (name, endpoint) = (NAME, NAME);
    Builder {
        name,
        driver: DRIVER,
        // Go's zero time: it is not kept.
        last_activity: "0001-01-01T00:00:00Z",
        dynamic: false,
        nodes: [Node { name, endpoint, status: STATUS, version: VERSION, platforms }],
        current: true,
    }
}

/// Runs `davit builder ls`.
///
/// # Errors
/// A malformed template.
pub(super) fn ls(args: &LsArgs) -> Result<u8, CliError> {
    let builder = builder();
    let format = args.format.template().map(str::trim);
    if matches!(format, Some("json" | "{{json .}}")) {
        printer::line(&format::to_json(&builder, false)?)?;
        return Ok(0);
    }
    // Docker marks the builder in use, and nodes, for the eye alone.
    let is_table = format.is_none_or(|format| format.starts_with("table"));
    let (mark, indent) = if is_table { ("*", " \\_ ") } else { ("", "") };
    let row = Row {
        name: format!("{NAME}{mark}"),
        driver_endpoint: DRIVER,
        last_activity: "",
        status: "",
        buildkit: "",
        platforms: String::new(),
        error: "",
    };
    let node = Row {
        name: format!("{indent}{NAME}"),
        driver_endpoint: NAME,
        last_activity: "",
        status: STATUS,
        buildkit: VERSION,
        platforms: builder.nodes[0].platforms.join(", "),
        error: "",
    };
    LIST.print(&args.format, &[row, node], &[builder])?;
    Ok(0)
}

/// Runs `davit builder inspect`.
///
/// # Errors
/// A malformed template.
pub(super) fn inspect(args: &InspectArgs, context: &Context) -> Result<u8, CliError> {
    let builder = builder();
    if let Some(format) = args.format.as_deref().filter(|format| !format.is_empty()) {
        printer::line(&format::render_fields(format, &builder)?)?;
        return Ok(0);
    }
    let [node] = &builder.nodes;
    printer::data(&format!(
        "Name:   {}\nDriver: {}\n\nNodes:\nName:             {}\nEndpoint:         {}\n\
         Status:           {}\nBuildKit version: {}\nPlatforms:        {}\n",
        builder.name,
        builder.driver,
        node.name,
        node.endpoint,
        node.status,
        node.version,
        node.platforms.join(", ")
    ))?;
    printer::data(&policy(context)?)?;
    Ok(0)
}

/// What is removed after a build, as buildx shows it.
fn policy(context: &Context) -> Result<String, CliError> {
    let engine = context.engine()?;
    let budget = units::exact_size(engine.build_cache_budget()?);
    let mut text = format!("GC Policy rule#0:\n All:            true\n Max Used Space: {budget}\n");
    let gc = &engine.config().settings.gc;
    if let Some(bytes) = gc.keep_cache_mounts {
        let budget = units::exact_size(bytes);
        text += "GC Policy rule#1:\n Filters:        type==exec.cachemount\n";
        text += &format!(" Max Used Space: {budget}\n");
    }
    Ok(text)
}

/// Runs `davit builder create`: prints the name, as if there were one more builder.
///
/// # Errors
/// What was asked for is not this machine's builder.
pub(super) fn create(args: &CreateArgs) -> Result<u8, CliError> {
    let refused = |what: String| {
        let hint = "there is one builder, this davit; to build elsewhere, run davit there";
        Err(CliError::user(what).hint(hint))
    };
    if let Some(driver) = &args.driver
        && !LOCAL_DRIVERS.contains(&driver.as_str())
    {
        return refused(format!("driver `{driver}` is not supported"));
    }
    if let Some(endpoint) = &args.endpoint
        && plugin::is_elsewhere(endpoint)
    {
        return refused(format!("davit builds on this machine, not at `{endpoint}`"));
    }
    if args.append || args.leave {
        return refused("a builder of several nodes is not supported".to_owned());
    }
    if args.name.as_deref() == Some(NAME) {
        let text = "`default` is a reserved name: it is the builder that there is";
        return Err(CliError::user(text));
    }
    let unused = [
        (args.buildkitd_config.is_some(), "--buildkitd-config"),
        (args.buildkitd_flags.is_some(), "--buildkitd-flags"),
        (!args.driver_opt.is_empty(), "--driver-opt"),
        (!args.platform.is_empty(), "--platform"),
    ];
    for (_, flag) in unused.iter().filter(|(is_set, _)| *is_set) {
        printer::note(&format!("warning: {flag} changes nothing: davit is the builder"));
    }
    printer::line(&format::visible(args.name.as_deref().unwrap_or(NAME)))?;
    Ok(0)
}

/// Runs `davit builder rm`.
///
/// # Errors
/// No name, or that of the builder that stays.
pub(super) fn rm(args: &RmArgs) -> Result<u8, CliError> {
    if args.names.iter().any(|name| name == NAME) || args.names.is_empty() && !args.all_inactive {
        let text = "the builder `default` cannot be removed: it is davit itself";
        return Err(CliError::user(text).hint("davit builder prune --all"));
    }
    let names = args.names.iter().map(|name| format!("{} removed\n", format::visible(name)));
    printer::data(&names.collect::<String>())?;
    Ok(0)
}

/// Runs `davit builder version`: as buildx, whose version programs look for after the first word.
///
/// # Errors
/// When standard output cannot be written.
pub(super) fn version() -> Result<u8, CliError> {
    printer::line(&format!("davit/buildx {} {VERSION}", plugin::BUILDX))?;
    Ok(0)
}
