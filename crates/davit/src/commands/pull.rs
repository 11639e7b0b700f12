//! `davit pull`

use davit_engine::{Event, MOST_PARALLEL, PullRequest, image::Platform};

use crate::{
    cli::Context,
    commands::ContentTrust,
    error::CliError,
    printer,
    progress::ProgressMode,
    reference::{self, TagNote},
};

// Arguments of `davit pull`.
#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    /// Image to pull
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
    /// Pull all tags of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Platform to choose from a multi-platform image, as os/architecture[/variant]
    #[arg(long, env = "DOCKER_DEFAULT_PLATFORM", hide_env = true)]
    platform: Option<Platform>,
    /// Print the image's name alone
    #[arg(short, long)]
    quiet: bool,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t, conflicts_with = "quiet")]
    progress: ProgressMode,
    /// Layers to download at a time
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u8).range(1..=MOST_PARALLEL as i64))]
    parallel: u8,
    #[command(flatten)]
    content_trust: ContentTrust,
}

/// Runs `davit pull`.
///
/// # Errors
/// No such image, no way to the registry, or no space.
pub(crate) fn run(args: &PullArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let mode = if args.quiet { ProgressMode::Quiet } else { args.progress };
    let progress = context.progress(mode);
    let references = if args.all_tags {
        engine.remote_tags(&reference::repository(&args.name)?)?
    } else {
        vec![reference::parse(&args.name, TagNote::of(mode))?]
    };
    for reference in references {
        let request = PullRequest {
            reference,
            platform: args.platform.clone(),
            parallel: usize::from(args.parallel),
            cancelled: None,
        };
        let pulled = engine.pull(&request, &*progress)?;
        if !args.quiet {
            let status = if pulled.is_new {
                "Downloaded newer image for"
            } else {
                "Image is up to date for"
            };
            let familiar = pulled.reference.familiar();
            progress.report(Event::Message(&format!("Digest: {}", pulled.digest)));
            progress.report(Event::Message(&format!("Status: {status} {familiar}")));
        }
        printer::line(&pulled.reference.to_string())?;
    }
    Ok(0)
}
