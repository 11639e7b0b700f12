//! `davit image inspect`

use davit_engine::{ImageInspect, image::Platform};

use super::container::show;
use crate::{
    cli::Context,
    error::CliError,
    format::{Kind, Object},
};

// Arguments of `davit image inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageInspectArgs {
    /// Images to describe
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Format output using a Go template, or 'json'
    #[arg(short, long)]
    format: Option<String>,
    /// Platform to show of an image that is here for several, as os/architecture[/variant]
    #[arg(long)]
    platform: Option<Platform>,
    /// Print JSON, as without a format
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

/// Runs `davit image inspect`: what is found is printed, what is not makes the exit code 1.
///
/// # Errors
/// A store that cannot be opened.
pub(crate) fn run(args: &ImageInspectArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    show::objects(&args.images, args.format.as_deref().filter(|_| !args.json), |name| {
        object(&engine.inspect_image(name, args.platform.as_ref())?)
    })
}

/// A described image.
///
/// # Errors
/// Never for davit's own types.
pub(crate) fn object(image: &ImageInspect) -> Result<Object, CliError> {
    let fields = serde_json::to_value(image).map_err(|error| CliError::user(error.to_string()))?;
    Ok(Object { kind: Kind::Image, fields })
}
