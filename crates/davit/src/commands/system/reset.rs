//! `davit system reset`

use crate::{cli::Context, error::CliError, printer};

// Arguments of `davit system reset`.
#[derive(Debug, clap::Args)]
pub(crate) struct ResetArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Runs `davit system reset`: nothing of the root is left, neither files nor kernel objects.
///
/// # Errors
/// What cannot be removed.
pub(super) fn run(args: &ResetArgs, context: &Context) -> Result<u8, CliError> {
    let config = context.config()?;
    let root = config.root.display();
    let warning = format!(
        "WARNING! This will remove:\n  \
         - all containers, running ones too\n  \
         - all images\n  \
         - all volumes with their data\n  \
         - all networks, with their interfaces and firewall rules\n  \
         - all build cache\n  \
         - the store at {root}\n"
    );
    if !args.force && !printer::confirm(&warning)? {
        return Ok(0);
    }
    context.engine()?.reset()?;
    Ok(0)
}
