//! `davit completion` and `davit man`, generated from the command line's own tree.

use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::{
    cli::Cli,
    error::{CliError, io_error},
    printer,
};

// Arguments of `davit completion`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionArgs {
    /// Shell to complete for
    shell: Shell,
}

// Arguments of `davit man`.
#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Folder for the pages, made if it is missing
    folder: PathBuf,
}

/// Runs `davit completion`.
///
/// # Errors
/// A reader that has gone.
pub(crate) fn run(args: &CompletionArgs) -> Result<u8, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "davit", &mut script);
    printer::data(&String::from_utf8_lossy(&script))?;
    Ok(0)
}

/// Runs `davit man`.
///
/// # Errors
/// A folder that cannot be written.
pub(crate) fn man(args: &ManArgs) -> Result<u8, CliError> {
    fs_err::create_dir_all(&args.folder).map_err(io_error)?;
    clap_mangen::generate_to(Cli::command(), &args.folder).map_err(io_error)?;
    Ok(0)
}
