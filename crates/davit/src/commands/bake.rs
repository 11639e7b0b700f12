//! `davit bake`

mod files;
mod grants;
mod schedule;
mod show;
mod words;

use std::{collections::BTreeMap, path::PathBuf};

use davit_bake::{BakeError, Definitions, Plan, Surroundings};
use davit_engine::{Engine, Hint, image::Platform};
use serde_json::{Map, Value};

use super::build::{self, display::BuildProgress};
use crate::{
    cli::Context,
    error::{CliError, io_error},
    printer,
};

// Arguments of `davit bake`.
#[derive(Debug, clap::Args)]
pub(crate) struct BakeArgs {
    /// Targets and groups to build (default: the group or target `default`)
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Definition file, or - for standard input; later ones win (default docker-bake.json,
    /// docker-bake.hcl, docker-bake.override.json, docker-bake.override.hcl)
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Override an attribute of the targets that a pattern means; += appends to a list
    #[arg(long, value_name = "TARGET.KEY[.NAME]=VALUE")]
    set: Vec<String>,
    /// Set a variable of the definition
    #[arg(long = "var", value_name = "NAME=VALUE")]
    variables: Vec<String>,
    /// Show what would be built, as JSON
    #[arg(long)]
    print: bool,
    /// List targets or variables
    #[arg(long, value_name = "targets|variables", conflicts_with = "print")]
    list: Option<show::Listing>,
    /// As --set *.no-cache=true
    #[arg(long)]
    no_cache: bool,
    /// As --set *.pull=true
    #[arg(long)]
    pull: bool,
    /// As --set *.output=type=registry, where the targets say nothing else
    #[arg(long)]
    push: bool,
    /// As --set *.output=type=docker, where the targets say nothing else
    #[arg(long)]
    load: bool,
    /// Let targets have network.host, security.insecure, ssh, or files outside of the working
    /// directory: fs=PATH, fs.read=PATH, fs.write=PATH (* for all)
    #[arg(long, value_name = "ENTITLEMENT")]
    allow: Vec<String>,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t, env = "BUILDKIT_PROGRESS", hide_env = true)]
    progress: BuildProgress,
    /// Write digests and names of the images to a file, as JSON by target
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Steps that run at a time (default: one per core)
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    jobs: usize,
    /// davit is the builder
    #[arg(long, hide = true)]
    builder: Vec<String>,
    #[arg(long, hide = true, value_parser = build::ignored::no_attestation)]
    sbom: Vec<bool>,
    #[arg(long, hide = true, value_parser = build::ignored::no_attestation)]
    provenance: Vec<bool>,
}

/// A definition that cannot be used, as the user sees it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Failed(#[from] BakeError);

impl Hint for Failed {
    fn hints(&self) -> Vec<String> {
        match &self.0 {
            BakeError::NoTarget(_) => vec!["`davit bake --list targets` shows them".to_owned()],
            _ => Vec::new(),
        }
    }
}

/// Runs `davit bake`.
///
/// # Errors
/// What is wrong with the definition, or keeps a target from being built.
pub(crate) fn run(args: &BakeArgs, context: &Context) -> Result<u8, CliError> {
    if let Some(text) = args.targets.iter().find(|it| it.contains("://") || it.contains('#')) {
        let message = format!("`{text}`: remote definitions are not supported");
        return Err(CliError::user(message));
    }
    let files = files::read(&args.files)?;
    let definitions = Definitions::read(&files, surroundings(args)?).map_err(Failed)?;
    if let Some(listing) = args.list {
        return show::list(listing, &definitions).map(|()| 0);
    }
    let default = ["default".to_owned()];
    let asked = if args.targets.is_empty() { &default[..] } else { &args.targets };
    let environment = |name: &str| crate::environment::variable_text(name);
    let plan = definitions.resolve(asked, &overrides(args), &environment).map_err(Failed)?;
    if args.print {
        return printer::line(&format!("{:#}", plan.to_json())).map(|()| 0);
    }
    build(args, &plan, context)
}

fn build(args: &BakeArgs, plan: &Plan, context: &Context) -> Result<u8, CliError> {
    Engine::check_privilege()?;
    grants::check(plan, &args.allow)?;
    let scratch = files::Scratch::new()?;
    let mut commands = BTreeMap::new();
    for (name, target) in &plan.targets {
        let typed = words::Typed { plan, name, allowed: &args.allow, scratch: &scratch };
        let command = typed.command(target, context).map_err(|error| error.of_target(name))?;
        commands.insert(name.clone(), command);
    }
    // Before any thread: all of them leave the signals to one.
    let interrupt = build::cancel_on_interrupt()?;
    let engine = context.engine()?;
    let run = schedule::Run { plan, engine: &engine, context, interrupt, progress: args.progress };
    let reports = run.all(commands, args.jobs)?;
    if let Some(path) = &args.metadata_file {
        let facts = reports
            .iter()
            .map(|(name, report)| (name.clone(), Value::Object(build::metadata::facts(report))));
        let text = format!("{:#}\n", Value::Object(facts.collect::<Map<_, _>>()));
        fs_err::write(path, text).map_err(io_error)?;
    }
    Ok(0)
}

/// What the definition may know.
fn surroundings(args: &BakeArgs) -> Result<Surroundings, CliError> {
    let mut variables = BTreeMap::new();
    for text in &args.variables {
        let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let wrong = || CliError::usage(format!("--var `{text}` is not NAME=VALUE"));
        let (name, value) = pair.ok_or_else(wrong)?;
        variables.insert(name.to_owned(), value.to_owned());
    }
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let builtin = [
        ("BAKE_CMD_CONTEXT".to_owned(), "cwd://".to_owned()),
        ("BAKE_LOCAL_PLATFORM".to_owned(), Platform::host().to_string()),
    ];
    Ok(Surroundings { variables, environment: environment.collect(), builtin: builtin.into() })
}

/// What is set, with what flags stand for.
fn overrides(args: &BakeArgs) -> Vec<String> {
    let flags = [
        (args.push, "push"),
        (args.load, "load"),
        (args.no_cache, "no-cache"),
        (args.pull, "pull"),
    ];
    let flags = flags.into_iter().filter(|(is_set, _)| *is_set);
    let flags = flags.map(|(_, name)| format!("*.{name}=true"));
    args.set.iter().cloned().chain(flags).collect()
}
