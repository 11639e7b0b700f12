//! `davit cp`

use std::io::IsTerminal as _;

use davit_engine::container::{FollowLink, Ownership};

use crate::{
    cli::Context,
    error::{CliError, io_error},
    printer, units,
};

// Arguments of `davit cp`.
#[derive(Debug, clap::Args)]
pub(crate) struct CopyArgs {
    /// Archive mode (copy all uid/gid information)
    #[arg(short, long)]
    archive: bool,
    /// Always follow symbol link in SRC_PATH
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Suppress the line that tells what was copied (default: unless on a terminal)
    #[arg(short, long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    quiet: Option<bool>,
    /// CONTAINER:PATH, PATH, or - for a tar archive on standard input
    #[arg(value_name = "SRC_PATH")]
    source: String,
    /// CONTAINER:PATH, PATH, or - for a tar archive on standard output
    #[arg(value_name = "DEST_PATH")]
    destination: String,
}

/// Runs `davit cp`.
///
/// # Errors
/// No such container or file, or a destination that does not fit.
pub(crate) fn run(args: &CopyArgs, context: &Context) -> Result<u8, CliError> {
    let (source, destination) = (split(&args.source), split(&args.destination));
    if source.1.is_empty() {
        return Err(CliError::user("source can not be empty"));
    }
    if destination.1.is_empty() {
        return Err(CliError::user("destination can not be empty"));
    }
    let follow = if args.follow_link { FollowLink::Source } else { FollowLink::Never };
    let (copied, shown) = match (source, destination) {
        ((Some(_), _), (Some(_), _)) => {
            return Err(CliError::user("copying between containers is not supported"));
        }
        ((None, _), (None, _)) => {
            return Err(CliError::user("must specify at least one container source"));
        }
        ((Some(name), path), (None, "-")) => {
            let files = context.engine()?.container_files(name)?;
            files.export_tar(path, follow, std::io::stdout().lock())?;
            return Ok(0);
        }
        ((Some(name), path), (None, local)) => {
            let ownership = if args.archive { Ownership::Keep } else { Ownership::Caller };
            let (local, files) = (absolute(local)?, context.engine()?.container_files(name)?);
            (files.copy_out(path, &local, follow, ownership)?, local)
        }
        ((None, "-"), (Some(name), path)) => {
            let files = context.engine()?.container_files(name)?;
            (files.import_tar(path, std::io::stdin())?, format!("{name}:{path}"))
        }
        ((None, local), (Some(name), path)) => {
            let files = context.engine()?.container_files(name)?;
            (files.copy_in(&absolute(local)?, path, follow)?, format!("{name}:{path}"))
        }
    };
    if !args.quiet.unwrap_or_else(|| !std::io::stdout().is_terminal()) {
        let size = units::size(copied.bytes);
        printer::note(&format!("Successfully copied {size} to {shown}"));
    }
    Ok(0)
}

/// The container and the path of an argument; a path that begins with `/` or `.` is local.
fn split(argument: &str) -> (Option<&str>, &str) {
    match argument.split_once(':') {
        Some((name, path)) if !argument.starts_with(['/', '.']) => (Some(name), path),
        _ => (None, argument),
    }
}

/// A local path from the root on; a `/` or `/.` at its end means something and stays.
fn absolute(path: &str) -> Result<String, CliError> {
    if path.starts_with('/') {
        return Ok(path.to_owned());
    }
    let current = std::env::current_dir().map_err(io_error)?;
    let path = if path == "." { "./." } else { path };
    Ok(format!("{}/{path}", current.display()))
}
