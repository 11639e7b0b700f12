//! `davit bake`

mod ask;
mod files;
mod grants;
mod remote;
mod schedule;
mod show;
mod words;

use std::{collections::BTreeMap, path::PathBuf};

use davit_bake::{BakeError, Definitions, Paths, Plan, ReadFile, Surroundings};
use davit_engine::{Engine, Hint, image::Platform};
use serde_json::{Map, Value};

use self::remote::Remote;
use super::build::{
    self,
    call::{Call, Method, Session},
    display::BuildProgress,
};
use crate::{
    cli::Context,
    environment,
    error::{CliError, io_error},
    printer,
};

/// The variable that lets contexts go out from their files.
const RELATIVE: &str = "BUILDX_BAKE_FILE_RELATIVE_PATHS";
/// The variable that keeps variables of the environment out.
const NO_ENVIRONMENT: &str = "BUILDX_BAKE_DISABLE_VARS_ENV_LOOKUP";

// Arguments of `davit bake`.
#[derive(Debug, clap::Args)]
pub(crate) struct BakeArgs {
    /// Targets and groups to build (default: the group or target `default`); a git repository or
    /// a URL before them has the definition, a second one is their context
    #[arg(value_name = "[URL] TARGET")]
    targets: Vec<String>,
    /// Definition file: HCL, JSON or Compose; - for standard input, cwd://FILE for one of this
    /// machine beside a remote definition; later ones win (default compose.yaml, docker-bake.json,
    /// docker-bake.hcl and their kin)
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
    /// The older forms of --list
    #[arg(long, hide = true)]
    list_targets: bool,
    #[arg(long, hide = true)]
    list_variables: bool,
    /// As --set *.no-cache=true
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    no_cache: Option<bool>,
    /// As --set *.pull=true
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pull: Option<bool>,
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
    /// davit's own stands before the verb
    #[arg(long, short = 'D', hide = true, overrides_with = "debug")]
    debug: bool,
    /// Let no policy of a target count, which davit does not evaluate: disabled=true
    #[arg(long, value_name = "OPTION=VALUE", value_parser = build::ignored::no_policy)]
    policy: Vec<bool>,
    /// As --set *.attest=type=sbom
    #[arg(long, value_name = "BOOL|FIELDS", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    sbom: Option<String>,
    /// As --set *.attest=type=provenance
    #[arg(long, value_name = "BOOL|FIELDS", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    provenance: Option<String>,
    /// Ask about the targets' Dockerfiles instead of building: check, outline or targets, with
    /// ,format=json
    #[arg(long, value_name = "METHOD[,OPTION=VALUE]")]
    call: Option<Call>,
    /// As --call=check
    #[arg(long, conflicts_with = "call")]
    check: bool,
}

impl BakeArgs {
    fn listing(&self) -> Option<show::Listing> {
        let older = [(self.list_targets, show::TARGETS), (self.list_variables, show::VARIABLES)];
        self.list.or_else(|| older.into_iter().find(|(is_asked, _)| *is_asked).map(|it| it.1))
    }

    /// What is asked of all targets.
    fn asked(&self) -> Option<Call> {
        if self.check { Some(Call { method: Method::Check, ..Call::default() }) } else { self.call }
    }
}

/// A definition that cannot be used, as the user sees it.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Failed(#[from] BakeError);

impl Hint for Failed {
    fn hints(&self) -> Vec<String> {
        match &self.0 {
            BakeError::NoTarget { near: Some(near), .. } => {
                vec![format!("did you mean `{near}`?")]
            }
            BakeError::NoTarget { .. } => vec!["`davit bake --list targets` shows them".to_owned()],
            _ => Vec::new(),
        }
    }
}

/// Runs `davit bake`.
///
/// # Errors
/// What is wrong with the definition, or keeps a target from being built.
pub(crate) fn run(args: &BakeArgs, context: &Context) -> Result<u8, CliError> {
    let (remote, targets) = Remote::of(&args.targets)?;
    let named = files::named(&args.files);
    let mut session = None;
    let files = match &remote {
        None => files::read(&named)?,
        Some(remote) => {
            Engine::check_privilege()?;
            remote.read(&named, (session.insert(Session::open(context)?), context))?
        }
    };
    let surroundings = surroundings(args, remote.as_ref())?;
    let definitions = Definitions::read(&files, surroundings).map_err(Failed)?;
    if let Some(listing) = args.listing() {
        return show::list(listing, &definitions).map(|()| 0);
    }
    let default = ["default".to_owned()];
    let asked = if targets.is_empty() { &default[..] } else { targets };
    let environment = |name: &str| environment::variable_text(name);
    let resolved = definitions.resolve(asked, &overrides(args), &environment);
    let mut plan = resolved.map_err(Failed)?;
    if let Some(remote) = &remote {
        remote.rebase(&mut plan)?;
    }
    if args.print {
        return printer::line(&format!("{:#}", plan.to_json())).map(|()| 0);
    }
    Engine::check_privilege()?;
    let origin = if remote.is_some() { grants::Origin::Elsewhere } else { grants::Origin::Here };
    grants::check(&plan, &args.allow, origin)?;
    let session = match session {
        Some(session) => session,
        None => Session::open(context)?,
    };
    build(args, (&plan, remote.as_ref()), (&session, context))
}

fn build(
    args: &BakeArgs,
    (plan, remote): (&Plan, Option<&Remote>),
    (session, context): (&Session, &Context),
) -> Result<u8, CliError> {
    let scratch = files::Scratch::new()?;
    let (mut commands, mut questions) = (BTreeMap::new(), Vec::new());
    for (name, target) in &plan.targets {
        let typed = words::Typed { plan, name, allowed: &args.allow, scratch: &scratch, remote };
        if let Some(call) = ask::call_of(target, args.asked())? {
            questions.push((typed, call));
            continue;
        }
        if args.asked().is_some_and(|call| call.method != Method::Build) {
            continue;
        }
        let mut command = typed.command(target, context).map_err(|error| error.of_target(name))?;
        if args.metadata_file.is_some() {
            command.attestations.reported = build::attest::reported()?;
        }
        commands.insert(name.clone(), command);
    }
    let mut facts = Map::new();
    if !commands.is_empty() {
        let run = schedule::Run { plan, session, context, progress: args.progress };
        let reports = run.all(commands, args.jobs)?;
        let built = reports.iter().map(|(name, report)| (name, build::metadata::facts(report)));
        facts.extend(built.map(|(name, facts)| (name.clone(), Value::Object(facts))));
    }
    if let Some(path) = &args.metadata_file {
        // Compose reads it, also where nothing is built.
        let asked = questions.iter().map(|(typed, _)| (typed.name.to_owned(), Map::new().into()));
        facts.extend(asked);
        fs_err::write(path, format!("{:#}\n", Value::Object(facts))).map_err(io_error)?;
    }
    ask::Asking { plan, context, session }.all(&questions, args.asked())
}

/// What the definition may know.
fn surroundings(args: &BakeArgs, remote: Option<&Remote>) -> Result<Surroundings, CliError> {
    let mut variables = BTreeMap::new();
    for text in args.variables.iter().filter(|text| !text.is_empty()) {
        let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let wrong = || CliError::usage(format!("--var `{text}` is not NAME=VALUE"));
        let (name, value) = pair.ok_or_else(wrong)?;
        variables.insert(name.to_owned(), value.to_owned());
    }
    let is_set = |name| environment::variable_text(name).is_some_and(|it| is_true(&it));
    let environment = std::env::vars_os()
        .filter(|_| !is_set(NO_ENVIRONMENT))
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let command_context = remote.map_or("cwd://", |remote| &remote.context);
    let builtin = [
        ("BAKE_CMD_CONTEXT".to_owned(), command_context.to_owned()),
        ("BAKE_LOCAL_PLATFORM".to_owned(), Platform::host().to_string()),
    ];
    let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
    Ok(Surroundings {
        variables,
        environment: environment.collect(),
        builtin: builtin.into(),
        dotenv: files::dotenv()?,
        // Another's definition names no files of this machine.
        paths: if is_set(RELATIVE) { Paths::OfFiles } else { Paths::OfCaller },
        read_file: remote.is_none().then(|| ReadFile(Box::new(files::text))),
        home: environment::variable_text("HOME").unwrap_or_default(),
        now_seconds: i64::try_from(now).unwrap_or(0),
        seed: seed()?,
    })
}

/// As variables of buildx say it.
fn is_true(text: &str) -> bool {
    matches!(text, "1" | "t" | "T" | "true" | "True" | "TRUE")
}

/// What is set, with what flags stand for.
fn overrides(args: &BakeArgs) -> Vec<String> {
    let flags = [
        (args.push, "push=true"),
        (args.load, "load=true"),
        (args.no_cache == Some(true), "no-cache=true"),
        (args.no_cache == Some(false), "no-cache=false"),
        (args.pull == Some(true), "pull=true"),
        (args.pull == Some(false), "pull=false"),
    ];
    let flags = flags.into_iter().filter(|(is_set, _)| *is_set);
    let flags = flags.map(|(_, setting)| format!("*.{setting}"));
    let call = args.asked().map(|call| format!("*.call={}", call.method.name()));
    let attests = [("sbom", &args.sbom), ("provenance", &args.provenance)];
    let attests = attests.into_iter().filter_map(|(kind, value)| {
        let setting = match value.as_deref()? {
            "" => return None,
            "true" | "1" => String::new(),
            "false" | "0" => ",disabled=true".to_owned(),
            fields => format!(",{fields}"),
        };
        Some(format!("*.attest=type={kind}{setting}"))
    });
    // It takes one value, which says that no target's policy counts.
    let policies = args.policy.iter().map(|_| "*.policy=disabled=true".to_owned());
    let set = args.set.iter().cloned().chain(flags).chain(call);
    set.chain(attests).chain(policies).collect()
}

/// Random bytes of the kernel.
fn seed() -> Result<[u8; 32], CliError> {
    let mut seed = [0; 32];
    rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| io_error(error.into()))?;
    Ok(seed)
}
