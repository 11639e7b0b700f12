//! `davit builder history VERB`: the builds that are remembered.

mod attachment;
mod filter;
mod inspect;
mod ls;
mod pretty;
mod trace;

use davit_engine::{
    Engine,
    build::{HistoryError, PastBuild, find_build},
};

use super::Named;
use crate::{
    cli::Context,
    commands::build::display::{self, BuildProgress},
    error::{CliError, io_error},
    plugin, printer,
};

/// Verbs of `davit builder history`.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
REF is a build's id or its beginning, its full name BUILDER/NODE/ID, or ^N for the build that is N
before the newest; without one, the newest is meant.")]
pub(crate) enum HistoryCommand {
    /// List builds
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    /// Show what a build was asked and what came of it
    Inspect(Box<inspect::InspectArgs>),
    /// Print the log of a build
    Logs(LogsArgs),
    /// Forget builds
    Rm(RmArgs),
    /// Print the steps of a build as a trace, in Jaeger's JSON
    Trace(trace::TraceArgs),
    /// Is refused: records stay on this machine
    #[command(hide = true)]
    Export(RefusedArgs),
    /// Is refused: records stay on this machine
    #[command(hide = true)]
    Import(RefusedArgs),
    /// Is refused: there is no Docker Desktop
    #[command(hide = true)]
    Open(RefusedArgs),
}

// Arguments of `davit builder history logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// The build
    #[arg(value_name = "REF")]
    reference: Option<String>,
    /// How it is shown
    #[arg(long, value_enum, default_value = "plain")]
    progress: BuildProgress,
    #[command(flatten)]
    named: Named,
}

// Arguments of `davit builder history rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct RmArgs {
    /// The builds
    #[arg(value_name = "REF", required_unless_present = "all", conflicts_with = "all")]
    references: Vec<String>,
    /// Forget all builds
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    named: Named,
}

// Whatever a refused verb is given.
#[derive(Debug, clap::Args)]
pub(crate) struct RefusedArgs {
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<std::ffi::OsString>,
}

/// Runs `davit builder history VERB`.
///
/// # Errors
/// What the verb says.
pub(super) fn run(command: HistoryCommand, context: &Context) -> Result<u8, CliError> {
    match command {
        HistoryCommand::Ls(args) => ls::run(&args, context),
        HistoryCommand::Inspect(args) => inspect::run(&args, context),
        HistoryCommand::Logs(args) => logs(&args, context),
        HistoryCommand::Rm(args) => rm(&args, context),
        HistoryCommand::Trace(args) => trace::run(&args, context),
        HistoryCommand::Export(_) => Err(refused("export")),
        HistoryCommand::Import(_) => Err(refused("import")),
        HistoryCommand::Open(_) => Err(refused("open")),
    }
}

fn refused(verb: &str) -> CliError {
    let text = format!("`history {verb}` is for Docker Desktop, which davit does not speak to");
    let shown = plugin::words();
    CliError::user(text)
        .hint(format!("{shown} history inspect --format json; {shown} history logs"))
}

/// The build that is meant.
fn find(engine: &Engine, reference: Option<&str>) -> Result<PastBuild, CliError> {
    let builds = engine.past_builds()?;
    find_build(&builds, reference).cloned().map_err(unknown)
}

fn unknown(error: HistoryError) -> CliError {
    let is_known = matches!(error, HistoryError::None);
    let error = CliError::user(error.to_string());
    if is_known { error } else { error.hint(format!("{} history ls", plugin::words())) }
}

fn logs(args: &LogsArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let build = find(&engine, args.reference.as_deref())?;
    let progress = match args.progress {
        BuildProgress::Auto => BuildProgress::Plain,
        progress => progress,
    };
    let display = display::open(progress);
    let shown = engine.replay_build(&build, &mut |at, event| display.show_at(at, event));
    display.end();
    shown.map_err(io_error)?;
    Ok(0)
}

fn rm(args: &RmArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let builds = engine.past_builds()?;
    let ids: Vec<String> = if args.all {
        builds.iter().map(|build| build.id.clone()).collect()
    } else {
        // All are known, or none goes.
        let found = args.references.iter().map(|text| find_build(&builds, Some(text)));
        found
            .map(|build| build.map(|it| it.id.clone()).map_err(unknown))
            .collect::<Result<_, _>>()?
    };
    let forgotten = engine.forget_builds(&ids)?;
    let running = ids.iter().find(|id| !forgotten.contains(id));
    match running.filter(|_| !args.all) {
        Some(id) => Err(CliError::user(format!("the build `{id}` runs"))),
        None => Ok(0),
    }
}

/// Writes text that is for people: what a Dockerfile said must not steer a terminal.
fn show(text: &str) -> Result<(), CliError> {
    printer::line(&printer::neutral(text))
}
