//! `davit rmi`, `davit image rm`, `davit image prune`

use davit_engine::{ImageError, ImagePrune, Removal, RemoveRequest, image::Platform};

use crate::{
    cli::Context,
    error::CliError,
    filter::{Filters, help},
    printer, units,
};

/// Filters of `image prune` and `system prune`.
pub(crate) const PRUNE_FILTERS: [&str; 4] = ["dangling", "label", "label!", "until"];

// Arguments of `davit rmi`.
#[derive(Debug, clap::Args)]
pub(crate) struct RmiArgs {
    /// Images to remove
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Remove although stopped containers use it, or several names lead to it
    #[arg(short, long)]
    force: bool,
    /// Accepted for Docker's sake; there are no untagged parents
    #[arg(long)]
    no_prune: bool,
    /// Remove only the image for this platform, of an index whose others stay
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    platform: Vec<Platform>,
}

// Arguments of `davit image prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct ImagePruneArgs {
    /// Remove all images without a container, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    #[arg(long, value_name = "KEY=VALUE", help = help(&PRUNE_FILTERS))]
    filter: Vec<String>,
}

/// Runs `davit rmi`: every image that can be removed is.
///
/// # Errors
/// A store that cannot be opened; what cannot be removed is reported and makes the exit code 1.
pub(crate) fn run(args: &RmiArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let request = RemoveRequest { force: args.force, platforms: args.platform.clone() };
    let mut code = 0;
    for name in &args.images {
        match engine.remove_image(name, &request) {
            Ok(removals) => print(&removals)?,
            Err(error) => {
                // Forced, the wish that it be gone is already fulfilled; that may be a slip, still.
                let fulfilled = args.force && matches!(error, ImageError::NotFound { .. });
                CliError::from(error).report();
                code = if fulfilled { code } else { 1 };
            }
        }
    }
    Ok(code)
}

/// Runs `davit image prune`.
///
/// # Errors
/// A malformed filter, or what the store says.
pub(crate) fn prune(args: &ImagePruneArgs, context: &Context) -> Result<u8, CliError> {
    let request = prune_request(args.all, &args.filter)?;
    let warning = if args.all {
        "WARNING! This will remove all images without at least one container associated to them."
    } else {
        "WARNING! This will remove all dangling images."
    };
    if !args.force && !printer::confirm(warning)? {
        return Ok(0);
    }
    let pruned = context.engine()?.prune_images(&request)?;
    if !pruned.removals.is_empty() {
        printer::line("Deleted Images:")?;
        print_pruned(&pruned.removals)?;
        printer::line("")?;
    }
    printer::line(&format!("Total reclaimed space: {}", units::exact_size(pruned.freed_bytes)))?;
    Ok(0)
}

/// What a prune of images is asked for.
///
/// # Errors
/// A malformed filter.
pub(crate) fn prune_request(all: bool, filter: &[String]) -> Result<ImagePrune, CliError> {
    let filters = Filters::parse(filter, &PRUNE_FILTERS)?;
    Ok(ImagePrune {
        all: filters.flag("dangling")?.map_or(all, |dangling| !dangling),
        until: filters.until()?,
        labels: filters.labels("label"),
        without_labels: filters.labels("label!"),
    })
}

/// Prints what `rmi` removed, one line each.
fn print(removals: &[Removal]) -> Result<(), CliError> {
    print_as(removals, "Untagged", "Deleted")
}

/// Prints what a prune removed, which Docker writes in small letters.
///
/// # Errors
/// A reader that has gone.
pub(crate) fn print_pruned(removals: &[Removal]) -> Result<(), CliError> {
    print_as(removals, "untagged", "deleted")
}

fn print_as(removals: &[Removal], untagged: &str, deleted: &str) -> Result<(), CliError> {
    let lines: String = removals
        .iter()
        .map(|removal| match removal {
            Removal::Untagged(name) => format!("{untagged}: {name}\n"),
            Removal::Deleted(id) => format!("{deleted}: {id}\n"),
        })
        .collect();
    printer::data(&lines)
}
