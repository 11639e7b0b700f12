//! `davit diff`, `davit export`, `davit commit`

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use davit_engine::{
    Engine,
    container::{CommitRequest, PathChange, Pause},
};
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt as _;

use crate::{
    cli::Context,
    error::{CliError, io_error},
    printer, reference,
};

// Arguments of `davit diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// Container
    container: String,
}

// Arguments of `davit export`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// Write to a file, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Container
    container: String,
}

// Arguments of `davit commit`.
#[derive(Debug, clap::Args)]
pub(crate) struct CommitArgs {
    /// Author (e.g., "John Hannibal Smith <hannibal@a-team.com>")
    #[arg(short, long)]
    author: Option<String>,
    /// Apply Dockerfile instruction to the created image
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// Commit message
    #[arg(short, long)]
    message: Option<String>,
    /// Pause container during commit
    #[arg(
        short,
        long,
        default_value_t = true,
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = clap::ArgAction::Set
    )]
    pause: bool,
    /// Do not pause container during commit
    #[arg(long, conflicts_with = "pause")]
    no_pause: bool,
    /// Container
    container: String,
    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    name: Option<String>,
}

/// Runs `davit diff`.
///
/// # Errors
/// No such container, or its files cannot be compared.
pub(crate) fn diff(args: &DiffArgs, context: &Context) -> Result<u8, CliError> {
    let changes = context.engine()?.diff_container(&args.container)?;
    let line = |change: davit_engine::container::ChangedPath| {
        let letter = match change.change {
            PathChange::Changed => 'C',
            PathChange::Added => 'A',
            PathChange::Deleted => 'D',
        };
        format!("{letter} {}\n", change.path)
    };
    printer::data(&changes.into_iter().map(line).collect::<String>())?;
    Ok(0)
}

/// Runs `davit export`.
///
/// # Errors
/// No such container, or the tar cannot be written.
pub(crate) fn export(args: &ExportArgs, context: &Context) -> Result<u8, CliError> {
    if args.output.is_none() && io::stdout().is_terminal() {
        return Err(CliError::user("cowardly refusing to save to a terminal")
            .hint("use the -o flag or redirect"));
    }
    let engine = context.engine()?;
    match &args.output {
        Some(path) => export_file(&engine, &args.container, path)?,
        None => {
            let mut stdout = io::BufWriter::with_capacity(1 << 20, io::stdout().lock());
            engine.export_container(&args.container, &mut stdout)?;
            stdout.flush().map_err(io_error)?;
        }
    }
    Ok(0)
}

/// Writes beside the target and renames in the end: a file with the name is a whole archive.
fn export_file(engine: &Engine, container: &str, path: &Path) -> Result<(), CliError> {
    let is_special = path.metadata().is_ok_and(|facts| !facts.is_file());
    if is_special {
        let mut file = fs::OpenOptions::new().write(true).open(path).map_err(io_error)?;
        return Ok(engine.export_container(container, &mut file)?);
    }
    let name = format!(".davit-export-{}", std::process::id());
    let temp = path.parent().unwrap_or(Path::new("")).join(name);
    let mut options = fs::OpenOptions::new();
    let opened = options.write(true).create(true).truncate(true).mode(0o600).open(&temp);
    let mut file = opened.map_err(io_error)?;
    let exported = engine
        .export_container(container, &mut file)
        .map_err(CliError::from)
        .and_then(|()| fs::rename(&temp, path).map_err(io_error));
    if exported.is_err() {
        // The first error is the one to report.
        drop(fs::remove_file(&temp));
    }
    exported
}

/// Runs `davit commit`.
///
/// # Errors
/// No such container, a malformed name or change, or its files cannot be read.
pub(crate) fn commit(args: &CommitArgs, context: &Context) -> Result<u8, CliError> {
    let request = CommitRequest {
        reference: args.name.as_deref().map(reference::new_name).transpose()?,
        author: args.author.clone(),
        message: args.message.clone(),
        changes: args.change.clone(),
        pause: if args.pause && !args.no_pause { Pause::Yes } else { Pause::No },
    };
    let id = context.engine()?.commit_container(&args.container, &request)?;
    printer::line(&id.to_string())?;
    Ok(0)
}
