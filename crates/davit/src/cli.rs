//! The command line: global options and the tree of verbs.

use std::{ffi::OsString, path::PathBuf, sync::Arc};

use clap::{Parser, Subcommand, error::ErrorKind as ClapKind};
use davit_engine::{Config, Engine, Progress};

use crate::{
    arguments, commands, environment,
    error::CliError,
    format::ListFormat,
    printer,
    progress::{self, ProgressMode},
    usage,
    warnings::Warnings,
};

/// The whole life of a container image in one program
#[derive(Debug, Parser)]
#[command(
    name = "davit",
    bin_name = "davit",
    version,
    disable_version_flag = true,
    arg = version_flag(),
    disable_help_subcommand = true,
    max_term_width = 100,
    args_override_self = true,
    after_help = "\
Exit status:
  0    done
  1    refused or failed; wrong number of arguments, unknown verb, malformed template
  125  unknown option or malformed value; `run`: there is no container
  126  `run`, `exec`: the command cannot be executed (127: not found), else its own status"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Docker's letter for the version is small.
fn version_flag() -> clap::Arg {
    let flag = clap::Arg::new("version").short('v').short_alias('V').long("version");
    flag.action(clap::ArgAction::Version).help("Print version").help_heading(None)
}

// Options of every verb.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Global Options")]
pub(crate) struct Global {
    /// Folder of durable state (default /var/lib/davit)
    #[arg(long, global = true, env = "DAVIT_ROOT", hide_env_values = true, value_name = "DIR")]
    pub(crate) root: Option<PathBuf>,
    /// Folder of this boot's state (default /run/davit)
    #[arg(long, global = true, env = "DAVIT_RUN_ROOT", hide_env_values = true, value_name = "DIR")]
    pub(crate) run_root: Option<PathBuf>,
    /// Folder of Docker's client configuration
    #[arg(long, value_name = "DIR")]
    pub(crate) config: Option<PathBuf>,
    /// Tell what happens inside, on standard error
    #[arg(short = 'D', long)]
    pub(crate) debug: bool,
}

/// The verbs, in the order of `davit --help`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
#[allow(clippy::large_enum_variant, reason = "one is held, once")]
pub(crate) enum Command {
    /// List images
    Images(commands::images::ImagesArgs),
    /// Manage images
    #[command(subcommand)]
    Image(commands::image::ImageCommand),
    /// Give an image one more name
    Tag(commands::tag::TagArgs),
    /// Remove images
    Rmi(commands::rmi::RmiArgs),
    /// Show how an image was made
    History(commands::history::HistoryArgs),
    /// Save images to an archive
    Save(commands::save::SaveArgs),
    /// Load images from an archive
    Load(commands::save::LoadArgs),
    /// Make an image of a root file system
    Import(commands::save::ImportArgs),
    /// Manage the store
    #[command(subcommand)]
    System(commands::system::SystemCommand),
    /// Build an image from a Dockerfile
    Build(Box<commands::build::BuildArgs>),
    /// Build the targets of a definition file
    Bake(Box<commands::bake::BakeArgs>),
    /// Manage builds and their cache
    #[command(subcommand, alias = "buildx")]
    Builder(commands::builder::BuilderCommand),
    #[command(flatten)]
    Container(commands::container::Verb),
    /// List containers
    Ps(commands::container::ps::PsArgs),
    /// Manage containers
    #[command(subcommand, name = "container")]
    ContainerNoun(commands::container::NounVerb),
    /// Manage volumes
    #[command(subcommand)]
    Volume(commands::volume::Verb),
    /// Manage networks
    #[command(subcommand)]
    Network(commands::network::Verb),
    /// Download an image from a registry
    Pull(commands::pull::PullArgs),
    /// Upload an image to a registry
    Push(commands::push::PushArgs),
    /// Copy an image between registries, this machine, archives and folders
    Copy(commands::copy::CopyArgs),
    /// Authenticate to a registry
    Login(commands::login::LoginArgs),
    /// Log out from a registry
    Logout(commands::login::LogoutArgs),
    /// Run a registry: its server, accounts, rights and cleaning
    Registry(Box<commands::registry::RegistryArgs>),
    /// Search a registry for images
    Search(commands::search::SearchArgs),
    /// Return low-level information on containers, images, networks and volumes
    Inspect(commands::inspect::InspectArgs),
    /// Display system-wide information
    Info(commands::info::InfoArgs),
    /// Show the version
    Version(commands::version::VersionArgs),
    /// Start the containers that the machine's last boot ended, by their restart policy
    Boot(commands::boot::BootArgs),
    /// Show the roots and the configuration file, or explain its keys
    Config(commands::config::ConfigArgs),
    /// Write completions for a shell to standard output
    Completion(commands::completion::CompletionArgs),
    /// Write the manual pages into a folder
    Man(commands::completion::ManArgs),
}

/// What a verb needs beside its own arguments.
#[derive(Debug)]
pub(crate) struct Context {
    global: Global,
}

impl Context {
    /// The engine's configuration.
    ///
    /// # Errors
    /// A configuration file that cannot be read.
    pub(crate) fn config(&self) -> Result<Config, CliError> {
        environment::config(&self.global)
    }

    /// The folder that `--root` names, or the variable where the verb reads it.
    pub(crate) fn given_root(&self) -> Option<&std::path::Path> {
        self.global.root.as_deref()
    }

    /// The engine on the roots that the user named.
    ///
    /// # Errors
    /// No root privilege, or a store that this davit must not use.
    pub(crate) fn engine(&self) -> Result<Engine, CliError> {
        Ok(Engine::open(self.config()?)?)
    }

    /// How a list is shown: as asked, else by this key of Docker's `config.json`, else as a table.
    ///
    /// # Errors
    /// A configuration of davit's own that cannot be read.
    pub(crate) fn list_format(
        &self,
        asked: &ListFormat,
        key: &str,
    ) -> Result<ListFormat, CliError> {
        if asked.json || asked.format.as_ref().is_some_and(|format| !format.is_empty()) {
            return Ok(asked.clone());
        }
        let format = environment::docker_setting(&self.config()?, key);
        Ok(ListFormat { format, json: false })
    }

    /// Progress on standard error: bars on a terminal, else plain lines.
    #[must_use]
    pub(crate) fn progress(&self, mode: ProgressMode) -> Arc<dyn Progress> {
        progress::open(mode, printer::can_draw())
    }
}

/// Parses the arguments and runs the verb that they name; returns its exit code.
///
/// # Errors
/// What the verb could not do; the caller reports it.
pub(crate) fn run(arguments: &[OsString]) -> Result<u8, CliError> {
    let cli = match arguments::parse(arguments) {
        Ok(cli) => cli,
        Err(error) => return refused(&error, arguments),
    };
    if let Command::Registry(args) = &cli.command
        && let Some(server) = args.server()
    {
        server.start_log(cli.global.debug);
    } else if cli.global.debug {
        tracing_subscriber::fmt()
            .with_writer(std::io::stderr)
            .with_max_level(tracing::Level::DEBUG)
            .init();
    } else if let Err(error) = tracing::subscriber::set_global_default(Warnings) {
        tracing::debug!(%error, "somebody listens already");
    }
    let context = Context { global: cli.global };
    match cli.command {
        Command::Build(args) => commands::build::run(*args, &context),
        Command::Bake(args) => commands::bake::run(&args, &context),
        Command::Builder(command) => commands::builder::run(command, &context),
        Command::Container(verb) => commands::container::run(&verb, &context),
        Command::Ps(args) => commands::container::ps::run(&args, &context),
        Command::ContainerNoun(verb) => commands::container::run_noun(&verb, &context),
        Command::Volume(verb) => commands::volume::run(&verb, &context),
        Command::Network(verb) => commands::network::run(&verb, &context),
        Command::Pull(args) => commands::pull::run(&args, &context),
        Command::Push(args) => commands::push::run(&args, &context),
        Command::Copy(args) => commands::copy::run(&args, &context),
        Command::Login(args) => commands::login::run(args, &context),
        Command::Logout(args) => commands::login::logout(&args, &context),
        Command::Registry(args) => commands::registry::run(*args, &context),
        Command::Search(args) => commands::search::run(&args, &context),
        Command::Images(args) => commands::images::run(&args, &context),
        Command::Image(command) => commands::image::run(command, &context),
        Command::Tag(args) => commands::tag::run(&args, &context),
        Command::Rmi(args) => commands::rmi::run(&args, &context),
        Command::History(args) => commands::history::run(&args, &context),
        Command::Save(args) => commands::save::save(&args, &context),
        Command::Load(args) => commands::save::load(&args, &context),
        Command::Import(args) => commands::save::import(&args, &context),
        Command::System(command) => commands::system::run(&command, &context),
        Command::Inspect(args) => commands::inspect::run(&args, &context),
        Command::Info(args) => commands::info::run(&args, &context),
        Command::Version(args) => commands::version::run(&args),
        Command::Boot(args) => commands::boot::run(&args, &context),
        Command::Config(args) => commands::config::run(&context, &args),
        Command::Completion(args) => commands::completion::run(&args),
        Command::Man(args) => commands::completion::man(&args),
    }
    .inspect(|_| drop(context))
}

fn refused(error: &clap::Error, arguments: &[OsString]) -> Result<u8, CliError> {
    match error.kind() {
        ClapKind::DisplayHelp | ClapKind::DisplayVersion => {
            printer::data(&error.render().to_string())?;
            Ok(0)
        }
        ClapKind::MissingSubcommand | ClapKind::DisplayHelpOnMissingArgumentOrSubcommand
            if let Some(help) = arguments::noun_help(arguments) =>
        {
            // Not what was asked for, hence no output.
            printer::note(help.trim_end());
            Ok(0)
        }
        _ => Err(usage::explain(error, arguments)),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    /// Paths of all verbs below `command`, without aliases.
    fn verbs(command: &clap::Command, path: &[String], all: &mut Vec<Vec<String>>) {
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            let path = [path, &[verb.get_name().to_owned()]].concat();
            all.push(path.clone());
            // Verbs below a noun are made when they are asked for.
            let mut verb = verb.clone();
            verb.build();
            verbs(&verb, &path, all);
        }
    }

    fn all_verbs() -> Vec<Vec<String>> {
        let mut all = vec![Vec::new()];
        let mut cli = Cli::command();
        cli.build();
        verbs(&cli, &[], &mut all);
        all
    }

    /// What `davit PATH --help` prints in 100 columns.
    fn help(path: &[String]) -> String {
        let line = ["davit".to_owned()].into_iter().chain(path.iter().cloned());
        let matches =
            Cli::command().term_width(100).try_get_matches_from(line.chain(["--help".to_owned()]));
        matches.expect_err("help is no match").render().to_string()
    }

    /// The help without the line that names the verb.
    fn options(path: &[&str]) -> String {
        let path: Vec<String> = path.iter().map(|word| (*word).to_owned()).collect();
        let help = help(&path);
        help.lines().filter(|line| !line.starts_with("Usage: ")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn help_of_every_verb() {
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.set_snapshot_path("../tests/help");
        settings.add_filter(&regex_of(env!("CARGO_PKG_VERSION")), "[VERSION]");
        settings.bind(|| {
            for path in all_verbs() {
                // A doc comment on a deferred verb's arguments would replace its description.
                assert!(!help(&path).starts_with("Arguments of"), "{path:?}");
                let name = [&["davit".to_owned()], &path[..]].concat().join("-");
                insta::assert_snapshot!(name, help(&path));
            }
        });
    }

    fn regex_of(version: &str) -> String {
        version.replace('.', "\\.")
    }

    #[test]
    fn every_verb_of_a_noun_is_the_short_one() {
        const OTHERS: [(&[&str], &[&str]); 5] = [
            (&["container", "ls"], &["ps"]),
            (&["image", "ls"], &["images"]),
            (&["image", "rm"], &["rmi"]),
            (&["container", "rm"], &["rm"]),
            (&["system", "info"], &["info"]),
        ];
        for (long, short) in OTHERS {
            assert_eq!(options(long), options(short), "{long:?}");
        }
        let all = all_verbs();
        let mut compared = 0;
        for path in all.iter().filter(|path| path.len() == 2) {
            let (noun, verb) = (path[0].as_str(), path[1].as_str());
            let short = all.contains(&vec![verb.to_owned()]);
            // `inspect` alone looks at objects of every kind.
            if short && matches!(noun, "container" | "image") && !matches!(verb, "inspect" | "rm") {
                assert_eq!(options(&[noun, verb]), options(&[verb]), "{noun} {verb}");
                compared += 1;
            }
        }
        assert!(compared >= 27, "{compared}");
        let needed = [
            (
                "container",
                "attach commit cp create diff exec export inspect kill logs ls pause port \
              prune rename restart rm run start stop top unpause wait",
            ),
            ("image", "build history import inspect load ls prune pull push rm save tag"),
            ("volume", "create inspect ls prune rm"),
            ("network", "inspect ls"),
            ("system", "check df info prune reset"),
        ];
        for (noun, verbs) in needed {
            for verb in verbs.split_whitespace() {
                assert!(all.contains(&vec![noun.to_owned(), verb.to_owned()]), "{noun} {verb}");
            }
        }
    }
}
