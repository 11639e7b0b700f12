//! `davit completion` and `davit man`, generated from the command line's own tree.

use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _, ValueEnum as _};
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
    let mut script = String::from_utf8_lossy(&script).into_owned();
    if args.shell == Shell::Fish {
        script += &shells_for_fish();
    }
    printer::data(&script)?;
    Ok(0)
}

/// The generator offers fish no values of arguments; there is but one that has some.
fn shells_for_fish() -> String {
    let shells: Vec<_> = Shell::value_variants().iter().map(Shell::to_string).collect();
    let verb = "__fish_davit_using_subcommand completion";
    format!("complete -c davit -n \"{verb}\" -f -a \"{}\"\n", shells.join(" "))
}

/// Runs `davit man`.
///
/// # Errors
/// A folder that cannot be written.
pub(crate) fn man(args: &ManArgs) -> Result<u8, CliError> {
    fs_err::create_dir_all(&args.folder).map_err(io_error)?;
    let mut program = Cli::command();
    program.build();
    pages(program, &args.folder).map_err(io_error)?;
    Ok(0)
}

/// Writes the page of a verb and of all below it.
fn pages(mut verb: Command, folder: &Path) -> std::io::Result<()> {
    for below in verb.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below.clone(), folder)?;
    }
    // The generator's own synopsis has every option, without its value.
    let usage = verb.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    clap_mangen::Man::new(verb.override_usage(usage))
        // An empty field would not be written, and those behind it would take its place.
        .date(" ")
        .source(concat!("davit ", env!("CARGO_PKG_VERSION")))
        .manual("davit manual")
        .generate_to(folder)
        .map(drop)
}
