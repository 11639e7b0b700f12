//! `davit inspect`, `davit port`

use davit_engine::Engine;
use serde_json::Value;

use crate::{
    cli::Context,
    error::CliError,
    format::{self, Kind, Object},
    printer,
};

// Arguments of `davit container inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    pub(crate) format: Option<String>,
    /// Print JSON, as without a format
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
    /// Display total file sizes
    #[arg(short, long)]
    pub(crate) size: bool,
    /// Names or ids
    #[arg(required = true, value_name = "CONTAINER")]
    pub(crate) names: Vec<String>,
}

/// Runs `davit container inspect`.
///
/// # Errors
/// No such container, or a malformed template.
pub(crate) fn inspect(args: &InspectArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    objects(&args.names, args.format.as_deref().filter(|_| !args.json), |name| {
        let fields = engine.inspect_container(name, args.size)?;
        Ok(Object { kind: Kind::Container, fields })
    })
}

/// Prints objects as a JSON array or by a template; what failed makes the exit code 1.
///
/// # Errors
/// A malformed template, or a reader that has gone.
pub(crate) fn objects(
    names: &[String],
    template: Option<&str>,
    look_up: impl Fn(&str) -> Result<Object, CliError>,
) -> Result<u8, CliError> {
    let template = template.filter(|template| !template.is_empty());
    // Docker has a code of its own for a malformed template.
    template.map_or(Ok(()), format::check).map_err(|error| error.with_code(64))?;
    let (mut found, mut failed) = (Vec::new(), Vec::new());
    for name in names {
        match look_up(name) {
            Ok(object) => found.push(object),
            Err(error) => failed.push(error),
        }
    }
    let fields = found.iter().map(|object| &object.fields).collect::<Vec<&Value>>();
    match template {
        None => printer::line(&format::to_json(&fields, true)?)?,
        Some("json") => printer::line(&format::to_json(&fields, false)?)?,
        Some(template) => {
            for object in &found {
                match format::render_object(template, object) {
                    Ok(text) => printer::line(&text)?,
                    Err(error) => failed.push(error),
                }
            }
        }
    }
    for error in &failed {
        error.report();
    }
    Ok(u8::from(!failed.is_empty()))
}

// Arguments of `davit port`.
#[derive(Debug, clap::Args)]
pub(crate) struct PortArgs {
    /// Container
    container: String,
    /// Port in the container
    #[arg(value_name = "PRIVATE_PORT[/PROTOCOL]")]
    port: Option<String>,
}

/// Runs `davit port`.
///
/// # Errors
/// No such container, or the port is not published.
pub(crate) fn port(args: &PortArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let ports = published(&engine, &args.container)?;
    let wanted = args
        .port
        .as_ref()
        .map(|port| if port.contains('/') { port.clone() } else { format!("{port}/tcp") });
    if let Some(wanted) = &wanted
        && wanted.split('/').next().is_none_or(|port| port.parse::<u16>().is_err())
    {
        return Err(CliError::user(format!("invalid port ({wanted})")));
    }
    let mut ports: Vec<_> = ports.iter().flatten().collect();
    ports.sort_by_key(|(port, _)| port.split('/').next().and_then(|it| it.parse::<u16>().ok()));
    let mut lines = Vec::new();
    for (port, bindings) in ports {
        for binding in bindings.as_array().into_iter().flatten() {
            let host = binding["HostIp"].as_str().unwrap_or_default();
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            let address = format!("{host}:{}", binding["HostPort"].as_str().unwrap_or_default());
            match &wanted {
                Some(wanted) if wanted == port => lines.push(address),
                Some(_) => {}
                None => lines.push(format!("{port} -> {address}")),
            }
        }
    }
    if let (Some(wanted), true) = (&wanted, lines.is_empty()) {
        return Err(CliError::user(format!(
            "no public port '{wanted}' published for {}",
            args.container
        )));
    }
    lines.iter().try_for_each(|line| printer::line(line))?;
    Ok(0)
}

fn published(
    engine: &Engine,
    name: &str,
) -> Result<Option<serde_json::Map<String, Value>>, CliError> {
    let mut value = engine.inspect_container(name, false)?;
    Ok(value["NetworkSettings"]["Ports"].as_object_mut().map(std::mem::take))
}
