//! `davit inspect`

use clap::ValueEnum;
use davit_engine::{ContainerError, Engine, ImageError, image::Reference};

use super::{container::show, image_inspect};
use crate::{
    cli::Context,
    error::CliError,
    format::{Kind, Object},
    printer,
};

// Arguments of `davit inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Format output using a custom template: 'json', or a Go template
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
    /// Print JSON, as without a format
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Display total file sizes if the type is container
    #[arg(short, long)]
    size: bool,
    /// Only inspect objects of the given type
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    /// Names or ids
    #[arg(required = true, value_name = "NAME|ID")]
    names: Vec<String>,
}

/// Runs `davit inspect`.
///
/// # Errors
/// A malformed template.
pub(crate) fn run(args: &InspectArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    show::objects(&args.names, args.format.as_deref().filter(|_| !args.json), |name| {
        let object = find(&engine, name, args)?;
        if args.size && object.kind != Kind::Container {
            let kind = format!("{:?}", object.kind).to_lowercase();
            printer::note(&format!("WARNING: --size ignored for {kind}"));
        }
        Ok(object)
    })
}

fn find(engine: &Engine, name: &str, args: &InspectArgs) -> Result<Object, CliError> {
    if let Some(kind) = args.kind {
        return look_up(engine, kind, name, args.size)?.ok_or_else(|| missing(kind, name));
    }
    for kind in Kind::value_variants() {
        if let Some(value) = look_up(engine, *kind, name, args.size)? {
            return Ok(value);
        }
    }
    Err(CliError::user(format!("no such object: {name}")))
}

/// The object of one kind; `None` when there is none of this name.
fn look_up(
    engine: &Engine,
    kind: Kind,
    name: &str,
    size: bool,
) -> Result<Option<Object>, CliError> {
    let found: Result<_, ContainerError> = match kind {
        Kind::Image => {
            return match engine.inspect_image(name, None) {
                Ok(image) => image_inspect::object(&image).map(Some),
                Err(ImageError::NotFound { .. }) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
        Kind::Container => engine.inspect_container(name, size),
        Kind::Network => engine.inspect_network(name),
        Kind::Volume => engine.volume(name).map(|volume| volume.inspect()),
    };
    match found {
        Ok(fields) => Ok(Some(Object { kind, fields })),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn missing(kind: Kind, name: &str) -> CliError {
    CliError::user(match kind {
        Kind::Container => format!("No such container: {name}"),
        Kind::Image => {
            let full = name.parse::<Reference>().map(|full| full.familiar());
            format!("No such image: {}", full.as_deref().unwrap_or(name))
        }
        Kind::Network => format!("network {name} not found"),
        Kind::Volume => format!("get {name}: no such volume"),
    })
}
