//! `davit build`

pub(super) mod attest;
mod cache;
pub(super) mod call;
mod console;
pub(super) mod contexts;
pub(super) mod display;
mod excerpt;
mod explain;
pub(super) mod ignored;
pub(super) mod metadata;
pub(super) mod output;
mod outputs;
mod request;
mod sandbox;
pub(super) mod variables;
mod vcs;
mod warnings;

use std::{
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use davit_engine::{
    Engine,
    build::{
        At, BuildCommand, BuildErrorKind, BuildEvent, BuildFailure, BuildRequest, PullPolicy, Reach,
    },
};

use self::{
    call::{Call, Method},
    display::BuildProgress,
    explain::{Explain, Explainer},
    outputs::OutputArgs,
    request::request,
};
use crate::{
    cli::Context,
    error::{CliError, io_error},
    plugin, printer,
    progress::ProgressMode,
};

/// `SIGTERM`, for a build that ends with Docker's command.
const TERMINATED: u8 = 15;

// Arguments of `davit build`.
#[derive(Debug, clap::Args)]
pub(crate) struct BuildArgs {
    /// The context: a directory, a git repository or the URL of a Dockerfile or tar; - for a
    /// Dockerfile or tar on standard input
    #[arg(value_name = "PATH|URL|-")]
    path: PathBuf,
    /// Name the image
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<String>,
    /// Dockerfile (default PATH/Dockerfile), its URL, or - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Stage to build
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Set a build argument; without a value, that of the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    build_args: Vec<String>,
    /// Name a further context, for FROM, --from and mounts: a directory, docker-image://IMAGE,
    /// oci-layout://DIRECTORY[:TAG|@DIGEST], a git repository or a URL
    #[arg(long = "build-context", value_name = "NAME=VALUE")]
    build_contexts: Vec<String>,
    /// Label the image
    #[arg(long = "label", value_name = "NAME[=VALUE]")]
    labels: Vec<String>,
    /// Run every step again
    #[arg(long)]
    no_cache: bool,
    #[command(flatten)]
    caches: cache::CacheArgs,
    /// Look for newer base images: always (also for a bare --pull), missing or never
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true,
          default_value = "missing", default_missing_value = "always", hide_default_value = true)]
    pull: Pull,
    /// Ask nobody for images and remote sources: take what the store has
    #[arg(long, conflicts_with = "pull")]
    offline: bool,
    /// Network of RUN steps
    #[arg(
        long,
        value_name = "default|none|host|container:NAME|NETWORK",
        default_value = "default",
        hide_default_value = true
    )]
    network: String,
    #[command(flatten)]
    outputs: OutputArgs,
    /// Let RUN steps know a host
    #[arg(long = "add-host", value_name = "HOST:IP,...", value_delimiter = ',')]
    add_hosts: Vec<String>,
    /// How progress is shown
    #[arg(long, value_enum, default_value_t, env = "BUILDKIT_PROGRESS", hide_env = true)]
    progress: BuildProgress,
    /// Print the image's id alone
    #[arg(short, long)]
    quiet: bool,
    /// Build a second time, without the cache, and fail where the two images differ; as JSON with
    /// --progress rawjson
    #[arg(long)]
    repro: bool,
    /// Open a shell in the file system of a step that fails, with its environment and mounts; what it
    /// changes is thrown away
    #[arg(long, value_enum, value_name = "WHAT")]
    on_error: Option<OnError>,
    /// Run a command in what is built behind a line of the Dockerfile, or by a stage, instead of
    /// making an image: a shell, or what follows --; what it changes is thrown away
    #[arg(long, value_name = "STAGE|LINE", conflicts_with_all = RESULTS)]
    at: Option<String>,
    /// The command of --at, behind a --
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
    /// Commands that run at a time, and files that are copied meanwhile (default: one per core)
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    jobs: usize,
    /// Ask about the Dockerfile instead of building: check, outline, targets or subrequests.describe,
    /// with ,format=json (check: or sarif), ,ignorestatus=true
    #[arg(
        long,
        value_name = "METHOD[,OPTION=VALUE]",
        default_value = "build",
        hide_default_value = true
    )]
    call: Call,
    /// Say what the build checks find, as --call=check
    #[arg(long)]
    check: bool,
    /// With --check, mend the Dockerfile where no decision is needed
    #[arg(long)]
    fix: bool,
    #[command(flatten)]
    sandbox: sandbox::SandboxArgs,
    #[command(flatten)]
    attest: attest::AttestArgs,
    #[command(flatten)]
    ignored: ignored::Ignored,
    /// The Dockerfile itself, where a bake definition has it.
    #[arg(skip)]
    pub(super) inline: Option<String>,
}

/// Options for an image, of which `--at` makes none.
const RESULTS: [&str; 17] = [
    "tags",
    "labels",
    "target",
    "outputs",
    "load",
    "push",
    "annotations",
    "squash",
    "attest",
    "provenance",
    "sbom",
    "iidfile",
    "metadata_file",
    "cache_to",
    "repro",
    "call",
    "check",
];

/// What follows the failure of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OnError {
    /// A shell in its file system
    Shell,
}

/// When base images are looked for in a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Pull {
    #[value(alias = "true")]
    Always,
    #[value(alias = "false")]
    Missing,
    Never,
}

impl BuildArgs {
    /// Lets a name mean nothing, where what it means is not there yet.
    pub(super) fn forget(&mut self, name: &str) {
        self.build_contexts.push(format!("{name}=docker-image://scratch"));
    }

    const fn reach(&self) -> Reach {
        if self.offline { Reach::Offline } else { Reach::Network }
    }
}

impl Pull {
    const fn policy(self) -> PullPolicy {
        match self {
            Self::Always => PullPolicy::Always,
            Self::Missing => PullPolicy::Missing,
            Self::Never => PullPolicy::Never,
        }
    }
}

/// Runs `davit build`.
///
/// # Errors
/// Whatever keeps the image from being built, with the place in the Dockerfile.
pub(crate) fn run(args: BuildArgs, context: &Context) -> Result<u8, CliError> {
    if let (None, Some(word)) = (&args.at, args.command.first()) {
        let error = CliError::usage(format!("unexpected argument '{word}' found"));
        return Err(error.with_code(1).hint("davit build --help"));
    }
    Engine::check_privilege()?;
    let asked = if args.check { Call { method: Method::Check, ..args.call } } else { args.call };
    if asked.method != Method::Build || args.fix {
        return call::run(asked, &args, context);
    }
    // Reads what is typed, which Ctrl-C ends as it ends any program.
    let mut command = command(&args)?;
    explain::check(args.caches.explain, &command.outputs)?;
    add_proxies(&mut command.request, context)?;
    // Before any thread: all of them leave the signals to one.
    let (cancelled, signal) = cancel_on_interrupt()?;
    let engine = context.engine()?;
    let quiet = args.quiet || args.progress == BuildProgress::Quiet;
    let display = display::open(if quiet { BuildProgress::Quiet } else { args.progress });
    let pulls = context.progress(match args.progress {
        _ if quiet => ProgressMode::Quiet,
        BuildProgress::None => ProgressMode::Quiet,
        BuildProgress::Rawjson => ProgressMode::Json,
        _ => ProgressMode::Plain,
    });
    let (record, explainer) = (OnceLock::new(), Explainer::default());
    let warnings = metadata::Warnings::default();
    let show = |event| match event {
        BuildEvent::Checked(checks) => {
            warnings.add(&checks);
            display.show(BuildEvent::Checked(checks));
        }
        BuildEvent::Begun(id) => record.set(id).unwrap_or_default(),
        event => {
            match (args.caches.explain, &event) {
                (Explain::Json, event) => explainer.show(event),
                (Explain::Never, BuildEvent::Missed(..)) => return,
                _ => {}
            }
            display.show(event);
        }
    };
    let outcome = engine.build(command, &show, &*pulls, &cancelled);
    display.end();
    let signal = signal.load(Ordering::Relaxed);
    let report = outcome.map_err(|error| failed(error, signal, record.get()))?;
    if let Some(code) = report.exit_code {
        return Ok(u8::try_from(code).unwrap_or(255));
    }
    args.outputs.report(&report, &warnings)?;
    let id = outputs::id(&report);
    if quiet {
        printer::line(&id)?;
    } else if !matches!(args.progress, BuildProgress::Rawjson | BuildProgress::None) {
        let (cached, steps) =
            report.images.first().map_or((0, 0), |it| (it.cached_steps, it.steps));
        printer::note(&format!("Built {id} ({cached} of {steps} steps cached)"));
    }
    Ok(0)
}

/// The id of what was built.
pub(super) fn id(report: &davit_engine::build::BuildReport) -> String {
    outputs::id(report)
}

/// Build arguments that the configuration gives.
pub(super) fn add_proxies(request: &mut BuildRequest, context: &Context) -> Result<(), CliError> {
    for (name, value) in crate::environment::container_proxies(&context.config()?) {
        request.build_args.entry(name).or_insert(value);
    }
    Ok(())
}

/// What is told of a build that failed; `record` is its name in the history.
pub(super) fn failed(error: BuildFailure, signal: u8, record: Option<&String>) -> CliError {
    let has_log = error.build_error().is_some_and(|error| {
        matches!(error.kind, BuildErrorKind::Command { .. } | BuildErrorKind::Step { .. })
    });
    let cancelled = error.is_cancelled();
    let excerpt =
        error.build_error().and_then(|error| error.excerpt.as_deref()).map(excerpt::of_error);
    let tail = error.build_error().map(excerpt::tail).unwrap_or_default();
    let mut failed = CliError::from(error);
    if let Some(excerpt) = excerpt {
        failed = failed.excerpt(format!("{excerpt}{tail}"));
    }
    if let Some(record) = record.filter(|_| has_log) {
        failed =
            failed.hint(format!("{} history logs {record} shows its whole log", plugin::words()));
    }
    if cancelled { failed.with_code(128 + signal) } else { failed }
}

/// Sets a flag at the first Ctrl-C or its kin and notes the signal; the second one ends the process.
pub(super) fn cancel_on_interrupt() -> Result<(Arc<AtomicBool>, Arc<AtomicU8>), CliError> {
    let shared = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU8::new(0)));
    let interrupts = davit_engine::process::Interrupts::block().map_err(io_error)?;
    let (flag, number) = shared.clone();
    plugin::at_end({
        let (flag, number) = shared.clone();
        move || {
            // The signal may have come to davit itself, too.
            let _known =
                number.compare_exchange(0, TERMINATED, Ordering::Relaxed, Ordering::Relaxed);
            flag.store(true, Ordering::Relaxed);
        }
    });
    std::thread::spawn(move || {
        let mut is_asked = false;
        while let Ok(signal) = interrupts.wait() {
            number.store(u8::try_from(signal).unwrap_or(0), Ordering::Relaxed);
            flag.store(true, Ordering::Relaxed);
            if std::mem::replace(&mut is_asked, true) {
                #[allow(clippy::exit, reason = "whoever asks twice does not want to wait")]
                std::process::exit(128 + signal);
            }
        }
    });
    Ok(shared)
}

pub(super) fn command(args: &BuildArgs) -> Result<BuildCommand, CliError> {
    ignored::refuse_policy(args)?;
    let (mut request, outputs, tags) = request(args)?;
    let repository = vcs::repository(&mut request)?;
    let (pull, reach, outputs) = (args.pull.policy(), args.reach(), outputs.open(&tags)?);
    let at = args.at.clone().map(|place| At { place, command: args.command.clone() });
    let (at, on_error) = console::choose(at, args.on_error.is_some())?;
    if at.is_some() && !request.more_platforms.is_empty() {
        return Err(CliError::usage("--at is for one platform"));
    }
    let cache_from = args.caches.imports();
    let (cache_to, inline_cache) = args.caches.exports();
    let attestations = args.attest.read(args.outputs.reports())?;
    Ok(BuildCommand {
        request,
        pull,
        reach,
        outputs,
        cache_from,
        cache_to,
        inline_cache,
        on_error,
        at,
        attestations,
        repository,
    })
}
