//! `davit image inspect`

use serde_json::Value;

use crate::{cli::Context, error::CliError, format, printer};

// Arguments of `davit image inspect`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageInspectArgs {
    /// Images to describe
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Format output using a Go template, or 'json'
    #[arg(short, long)]
    format: Option<String>,
    /// Print JSON, as without a format
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

/// Runs `davit image inspect`: what is found is printed, what is not makes the exit code 1.
///
/// # Errors
/// A malformed template, or a store that cannot be opened.
pub(crate) fn run(args: &ImageInspectArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for name in &args.images {
        match engine.inspect_image(name) {
            Ok(image) => found.push(to_value(&image)?),
            Err(error) => errors.push(CliError::from(error)),
        }
    }
    print(&found, args.format.as_deref().filter(|_| !args.json))?;
    for error in &errors {
        error.report();
    }
    Ok(u8::from(!errors.is_empty()))
}

/// An object's fields, as templates and JSON show them.
///
/// # Errors
/// Never for davit's own types.
pub(crate) fn to_value(object: &impl serde::Serialize) -> Result<Value, CliError> {
    serde_json::to_value(object).map_err(|error| CliError::user(error.to_string()))
}

/// Prints described objects as Docker's `inspect` does: a JSON array, or one line each.
///
/// # Errors
/// A malformed template.
pub(crate) fn print(found: &[Value], template: Option<&str>) -> Result<(), CliError> {
    let Some(template) = template else {
        return printer::line(&format::to_json(&found, true)?);
    };
    found.iter().try_for_each(|object| printer::line(&format::render_object(template, object)?))
}
