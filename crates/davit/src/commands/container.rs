//! `davit container VERB`; each verb is also one of its own, as Docker has it.

pub(crate) mod changes;
pub(crate) mod cp;
pub(crate) mod exec;
pub(crate) mod flags;
pub(crate) mod lifecycle;
pub(crate) mod logs;
pub(crate) mod mounts;
pub(crate) mod ps;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod stream;
pub(crate) mod top;
pub(crate) mod values;

use clap::Subcommand;

use crate::{cli::Context, error::CliError};

/// Verbs on containers.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Verb {
    /// Create and run a new container from an image
    #[command(disable_help_flag = true, arg = flags::help())]
    #[command(override_usage = "davit run [OPTIONS] IMAGE [COMMAND] [ARG...]")]
    Run(run::RunArgs),
    /// Create a new container
    #[command(disable_help_flag = true, arg = flags::help())]
    #[command(override_usage = "davit create [OPTIONS] IMAGE [COMMAND] [ARG...]")]
    Create(run::CreateArgs),
    /// Start one or more stopped containers
    Start(lifecycle::StartArgs),
    /// Stop one or more running containers
    Stop(lifecycle::StopArgs),
    /// Restart one or more containers
    Restart(lifecycle::StopArgs),
    /// Kill one or more running containers
    Kill(lifecycle::KillArgs),
    /// Remove one or more containers
    Rm(lifecycle::RemoveArgs),
    /// Execute a command in a running container
    #[command(override_usage = "davit exec [OPTIONS] CONTAINER COMMAND [ARG...]")]
    Exec(exec::ExecArgs),
    /// Copy files/folders between a container and the local filesystem
    Cp(cp::CopyArgs),
    /// Attach local standard input, output, and error streams to a running container
    Attach(lifecycle::AttachArgs),
    /// Fetch the logs of a container
    Logs(logs::LogsArgs),
    /// Block until one or more containers stop, then print their exit codes
    Wait(lifecycle::NamesArgs),
    /// List port mappings or a specific mapping for the container
    Port(show::PortArgs),
    /// Display the running processes of a container
    Top(top::TopArgs),
    /// Inspect changes to files or directories on a container's filesystem
    Diff(changes::DiffArgs),
    /// Export a container's filesystem as a tar archive
    Export(changes::ExportArgs),
    /// Create a new image from a container's changes
    Commit(changes::CommitArgs),
    /// Rename a container
    Rename(lifecycle::RenameArgs),
    /// Pause all processes within one or more containers
    Pause(lifecycle::NamesArgs),
    /// Unpause all processes within one or more containers
    Unpause(lifecycle::NamesArgs),
}

/// Verbs that exist only below `davit container`, and those of [`Verb`].
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum NounVerb {
    #[command(flatten)]
    Verb(Verb),
    /// List containers
    #[command(visible_aliases = ["ps", "list"])]
    Ls(ps::PsArgs),
    /// Display detailed information on one or more containers
    Inspect(show::InspectArgs),
    /// Remove all stopped containers
    Prune(super::prune::ContainerPruneArgs),
}

/// Runs a verb.
///
/// # Errors
/// What the verb could not do.
pub(crate) fn run(verb: &Verb, context: &Context) -> Result<u8, CliError> {
    match verb {
        Verb::Run(args) => run::run(args, context),
        Verb::Create(args) => run::create(args, context),
        Verb::Start(args) => lifecycle::start(args, context),
        Verb::Stop(args) => lifecycle::stop(args, context),
        Verb::Restart(args) => lifecycle::restart(args, context),
        Verb::Kill(args) => lifecycle::kill(args, context),
        Verb::Rm(args) => lifecycle::remove(args, context),
        Verb::Exec(args) => exec::run(args, context),
        Verb::Cp(args) => cp::run(args, context),
        Verb::Attach(args) => lifecycle::attach(args, context),
        Verb::Logs(args) => logs::run(args, context),
        Verb::Wait(args) => lifecycle::wait(args, context),
        Verb::Port(args) => show::port(args, context),
        Verb::Top(args) => top::run(args, context),
        Verb::Diff(args) => changes::diff(args, context),
        Verb::Export(args) => changes::export(args, context),
        Verb::Commit(args) => changes::commit(args, context),
        Verb::Rename(args) => lifecycle::rename(args, context),
        Verb::Pause(args) => lifecycle::pause(args, context),
        Verb::Unpause(args) => lifecycle::unpause(args, context),
    }
}

/// Runs a verb below `davit container`.
///
/// # Errors
/// What the verb could not do.
pub(crate) fn run_noun(verb: &NounVerb, context: &Context) -> Result<u8, CliError> {
    match verb {
        NounVerb::Verb(verb) => run(verb, context),
        NounVerb::Ls(args) => ps::run(args, context),
        NounVerb::Inspect(args) => show::inspect(args, context),
        NounVerb::Prune(args) => super::prune::containers(args, context),
    }
}
