//! `davit boot`

use super::container::lifecycle::each;
use crate::{cli::Context, error::CliError, printer};

// Arguments of `davit boot`.
#[derive(Debug, clap::Args)]
pub(crate) struct BootArgs {}

/// Runs `davit boot`: once after the machine's start, by its init system. Prints the names of the
/// containers that it starts.
///
/// # Errors
/// The store cannot be read; a container that does not start makes the exit code 1.
pub(crate) fn run(_args: &BootArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    each(&engine.containers_to_boot()?, |name| {
        engine.boot_container(name)?;
        printer::line(name)
    })
}
