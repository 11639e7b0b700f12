//! `davit tag`

use crate::{cli::Context, error::CliError, reference};

// Arguments of `davit tag`.
#[derive(Debug, clap::Args)]
pub(crate) struct TagArgs {
    /// Image to name
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    source: String,
    /// Its new name
    #[arg(value_name = "TARGET_IMAGE[:TAG]")]
    target: String,
}

/// Runs `davit tag`.
///
/// # Errors
/// No such image, or a malformed name.
pub(crate) fn run(args: &TagArgs, context: &Context) -> Result<u8, CliError> {
    let target = reference::new_name(&args.target)?;
    context.engine()?.tag_image(&args.source, &target)?;
    Ok(0)
}
