//! `davit copy`

use davit_engine::{CopyRequest, Place, image::Platform};

use crate::{cli::Context, error::CliError, printer, progress::ProgressMode};

// Arguments of `davit copy`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Places:
  docker://REFERENCE             a registry
  store:REFERENCE, REFERENCE     this machine's images
  oci:PATH[:NAME]                an OCI layout directory
  docker-archive:PATH[:REFERENCE]  an archive as of `docker save`
  dir:PATH                       a folder as of `skopeo copy`")]
pub(crate) struct CopyArgs {
    /// Where the image is
    source: Place,
    /// Where it goes
    destination: Place,
    /// Copy the image for this platform alone, without its index
    #[arg(long)]
    platform: Option<Platform>,
    /// Print nothing but the digest
    #[arg(short, long)]
    quiet: bool,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t, conflicts_with = "quiet")]
    progress: ProgressMode,
}

/// Runs `davit copy`.
///
/// # Errors
/// The source does not give the image, or the destination does not take it.
pub(crate) fn run(args: &CopyArgs, context: &Context) -> Result<u8, CliError> {
    let request = CopyRequest {
        source: args.source.clone(),
        destination: args.destination.clone(),
        platform: args.platform.clone(),
    };
    let mode = if args.quiet { ProgressMode::Quiet } else { args.progress };
    let copied = context.engine()?.copy(&request, &*context.progress(mode))?;
    printer::line(&copied.digest.to_string())?;
    Ok(0)
}
