//! `davit image VERB`

use crate::{cli::Context, commands, error::CliError};

/// Verbs of `davit image`.
#[derive(Debug, clap::Subcommand)]
#[command(defer = true)]
pub(crate) enum ImageCommand {
    /// Build an image from a Dockerfile
    Build(Box<commands::build::BuildArgs>),
    /// List images
    #[command(visible_alias = "list")]
    Ls(commands::images::ImagesArgs),
    /// Show how an image was made
    History(commands::history::HistoryArgs),
    /// Make an image of a root file system
    Import(commands::save::ImportArgs),
    /// Describe images
    Inspect(commands::image_inspect::ImageInspectArgs),
    /// Load images from an archive
    Load(commands::save::LoadArgs),
    /// Remove unused images
    Prune(commands::rmi::ImagePruneArgs),
    /// Download an image from a registry
    Pull(commands::pull::PullArgs),
    /// Upload an image to a registry
    Push(commands::push::PushArgs),
    /// Remove images
    #[command(visible_alias = "remove")]
    Rm(commands::rmi::RmiArgs),
    /// Save images to an archive
    Save(commands::save::SaveArgs),
    /// Give an image one more name
    Tag(commands::tag::TagArgs),
}

/// Runs `davit image VERB`.
///
/// # Errors
/// What the verb says.
pub(crate) fn run(command: ImageCommand, context: &Context) -> Result<u8, CliError> {
    match command {
        ImageCommand::Build(args) => commands::build::run(*args, context),
        ImageCommand::Ls(args) => commands::images::run(&args, context),
        ImageCommand::History(args) => commands::history::run(&args, context),
        ImageCommand::Import(args) => commands::save::import(&args, context),
        ImageCommand::Inspect(args) => commands::image_inspect::run(&args, context),
        ImageCommand::Load(args) => commands::save::load(&args, context),
        ImageCommand::Prune(args) => commands::rmi::prune(&args, context),
        ImageCommand::Pull(args) => commands::pull::run(&args, context),
        ImageCommand::Push(args) => commands::push::run(&args, context),
        ImageCommand::Rm(args) => commands::rmi::run(&args, context),
        ImageCommand::Save(args) => commands::save::save(&args, context),
        ImageCommand::Tag(args) => commands::tag::run(&args, context),
    }
}
