//! What the `prune` verbs share, and `davit container prune`.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _},
};

use davit_engine::container::Container;

use super::container::{logs::point_in_time, ps::terms};
use crate::{
    cli::Context,
    error::{CliError, io_error},
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

/// `label=KEY[=VALUE]` or `label!=KEY[=VALUE]`.
#[derive(Debug)]
pub(crate) struct LabelTerm {
    key: String,
    value: Option<String>,
    wanted: bool,
}

impl LabelTerm {
    /// Whether the labels are as the term asks.
    pub(crate) fn fits(&self, labels: &BTreeMap<String, String>) -> bool {
        let found = labels.get(&self.key);
        let has = found.is_some_and(|found| self.value.as_ref().is_none_or(|value| value == found));
        has == self.wanted
    }
}

/// The label filters among `--filter`s.
///
/// # Errors
/// Another filter.
pub(crate) fn label_terms(filters: &[String]) -> Result<Vec<LabelTerm>, CliError> {
    let mut labels = Vec::new();
    for (key, value) in terms(filters)? {
        let wanted = match key.as_str() {
            "label" => true,
            "label!" => false,
            _ => return Err(CliError::user(format!("invalid filter '{key}'"))),
        };
        let (key, value) = match value.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (value, None),
        };
        labels.push(LabelTerm { key, value, wanted });
    }
    Ok(labels)
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
    let (until, labels): (Vec<String>, Vec<String>) =
        args.filter.iter().cloned().partition(|filter| filter.starts_with("until="));
    let until = until.iter().map(|text| point_in_time(&text["until=".len()..]));
    let until = until.collect::<Result<Vec<_>, _>>()?;
    let labels = label_terms(&labels)?;
    if !args.force && !confirm("WARNING! This will remove all stopped containers.")? {
        return Ok(0);
    }
    let fits = |container: &Container| {
        let own = container.spec.config.labels.clone().unwrap_or_default();
        until.iter().all(|until| container.created < *until)
            && labels.iter().all(|term| term.fits(&own))
    };
    let (removed, bytes) = context.engine()?.prune_containers(fits)?;
    report("Containers", &removed, &units::size(bytes))?;
    Ok(0)
}
