//! What the `prune` verbs share, and `davit container prune`.

use std::io::{self, BufRead as _};

use davit_engine::container::Container;

use crate::{
    cli::Context,
    error::{CliError, io_error},
    filter::Filters,
    printer, units,
};

/// Asks on standard error; only `y` and `yes` go on.
///
/// # Errors
/// Standard input cannot be read.
pub(crate) fn confirm(warning: &str) -> Result<bool, CliError> {
    printer::note(&format!("{warning}\nAre you sure you want to continue? [y/N]"));
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(io_error)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Prints what was removed, in Docker's words.
///
/// # Errors
/// The reader has gone.
pub(crate) fn report(kind: &str, removed: &[String], size: &str) -> Result<(), CliError> {
    if !removed.is_empty() {
        printer::line(&format!("Deleted {kind}:\n{}\n", removed.join("\n")))?;
    }
    printer::line(&format!("Total reclaimed space: {size}"))
}

// Arguments of `davit container prune`.
#[derive(Debug, clap::Args)]
pub(crate) struct ContainerPruneArgs {
    /// Provide filter values (until=TIME, label=KEY[=VALUE])
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// Do not prompt for confirmation
    #[arg(short, long)]
    force: bool,
}

/// Runs `davit container prune`.
///
/// # Errors
/// An unknown filter.
pub(crate) fn containers(args: &ContainerPruneArgs, context: &Context) -> Result<u8, CliError> {
    let filters = Filters::parse(&args.filter, &["label", "label!", "until"])?;
    let until = filters.until()?;
    if !args.force && !confirm("WARNING! This will remove all stopped containers.")? {
        return Ok(0);
    }
    let fits = |container: &Container| {
        let own = container.spec.config.labels.clone().unwrap_or_default();
        until.is_none_or(|until| container.created < until) && filters.fit_labels(&own)
    };
    let (removed, bytes) = context.engine()?.prune_containers(fits)?;
    report("Containers", &removed, &units::exact_size(bytes))?;
    Ok(0)
}
