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
mod sandbox;
pub(super) mod variables;
mod vcs;
mod warnings;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use davit_engine::{
    Engine,
    build::{
        At, BuildCommand, BuildErrorKind, BuildEvent, BuildFailure, BuildRequest, CachePolicy,
        Network, PullPolicy, Reach, Repeat,
    },
    image::{Platform, Reference},
};

use self::{
    call::{Call, Method},
    display::BuildProgress,
    explain::{Explain, Explainer},
    outputs::{OutputArgs, Outputs},
};
use crate::{
    cli::Context,
    error::{CliError, io_error},
    plugin, printer,
    progress::ProgressMode,
    reference,
};

/// The argument, and the variable, that bounds the times of a result.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

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
        value_name = "default|none|host|container:NAME",
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

/// What a build's commands can be in.
const NETWORKS: &str = "--network takes default, none, host, and container:NAME for the network of a \
                        running container; networks that are made, as by `docker network create`, \
                        do not exist yet";

/// Reads the network of `RUN` steps.
fn network(text: &str) -> Result<Network, CliError> {
    Ok(match text {
        "" | "default" | "bridge" => Network::Default,
        "none" => Network::None,
        "host" => Network::Host,
        other => match other.strip_prefix("container:") {
            Some(name) if !name.is_empty() => Network::Container(name.to_owned()),
            _ => {
                let message = format!("network {other} not found");
                return Err(CliError::usage(message).hint(NETWORKS));
            }
        },
    })
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

/// What is to be built or asked about, where it goes, and its names.
fn request(args: &BuildArgs) -> Result<(BuildRequest, Outputs, Vec<Reference>), CliError> {
    let place = contexts::Place::of(args)?;
    let named_contexts = args.build_contexts.iter().map(|text| contexts::named(text));
    let named_contexts = named_contexts.collect::<Result<_, _>>()?;
    let mut build_args = pairs(&args.build_args, crate::environment::variable_text)?;
    let epoch = match build_args.get(EPOCH).filter(|value| !value.is_empty()) {
        Some(value) => Some(value.clone()),
        None => crate::environment::variable_text(EPOCH).filter(|value| !value.is_empty()),
    };
    let source_date_epoch = epoch.as_ref().and_then(|value| value.parse().ok());
    if let (None, Some(name)) = (source_date_epoch, epoch) {
        // What is no number may name what has a time.
        build_args.insert(EPOCH.to_owned(), name);
    }
    let labels = pairs(&args.labels, |_| Some(String::new()))?;
    let tags: Vec<Reference> =
        args.tags.iter().map(|name| parse_tag(name)).collect::<Result<_, _>>()?;
    let add_hosts = args.add_hosts.iter().map(|host| parse_host(host));
    let add_hosts = add_hosts.collect::<Result<_, _>>()?;
    let (sandbox, network) = (args.sandbox.read(place.is_over_ssh())?, network(&args.network)?);
    let result = args.outputs.plan(&tags, args.sandbox.allowed())?;
    // What is typed is right; from here on it is a build, which may fail.
    args.outputs.remove_stale()?;
    let (dockerfile, context) = contexts::sources(args, place)?;
    let host = Platform::host();
    let mut platforms = args.outputs.platforms().into_iter();
    let request = BuildRequest {
        dockerfile,
        context,
        named_contexts,
        target: args.target.clone().filter(|target| !target.is_empty()),
        build_args,
        labels,
        platform: platforms.next().unwrap_or_else(|| host.clone()),
        more_platforms: platforms.collect(),
        build_platform: host,
        network,
        cache: if args.no_cache { CachePolicy::Ignore } else { CachePolicy::Use },
        no_cache_stages: args.caches.no_cache_filter.clone(),
        no_cache_from: args.caches.no_cache_from.clone(),
        cache_mounts: args.caches.mount_policy(),
        context_modes: args.caches.context_modes(),
        cache_ttl: args.caches.cache_ttl,
        source_date_epoch: result.epoch.or(source_date_epoch),
        rewrite_timestamp: result.rewrite_timestamp,
        squash: result.squash,
        repeat: if args.repro { Repeat::Compared } else { Repeat::Never },
        add_hosts,
        sandbox,
        // By what is attested.
        attest: davit_engine::build::Attest::default(),
        explain: args.caches.explain != Explain::Never,
        jobs: args.jobs,
    };
    Ok((request, result, tags))
}

/// `NAME=VALUE` pairs; a name alone has the value that `missing` gives, or is left out.
fn pairs(
    words: &[String],
    missing: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>, CliError> {
    let mut pairs = BTreeMap::new();
    for word in words {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), missing(word)),
        };
        if name.is_empty() {
            let message = format!("invalid key-value pair {word:?}: empty key");
            return Err(CliError::user(message));
        }
        pairs.extend(value.map(|value| (name.to_owned(), value)));
    }
    Ok(pairs)
}

fn parse_tag(name: &str) -> Result<Reference, CliError> {
    if let Err(error) = name.parse::<Reference>() {
        let flag = format!("invalid argument {name:?} for \"-t, --tag\" flag");
        return Err(CliError::user(format!("{flag}: {error}")));
    }
    reference::new_name(name)
}

fn parse_host(text: &str) -> Result<(String, String), CliError> {
    let split = text.split_once('=').or_else(|| text.split_once(':'));
    let parsed = split.and_then(|(name, address)| {
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address = match address {
            "host-gateway" => address.to_owned(),
            _ => address.parse::<std::net::IpAddr>().ok()?.to_string(),
        };
        (!name.is_empty()).then(|| (name.to_owned(), address))
    });
    parsed.ok_or_else(|| CliError::usage(format!("`{text}` is not of the form HOST:IP")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pairs_and_hosts() {
        let words = ["A=1=2".to_owned(), "HOME_".to_owned(), "GONE".to_owned()];
        let found = pairs(&words, |name| (name == "HOME_").then(|| "x".to_owned()));
        assert_eq!(
            found.unwrap().into_iter().collect::<Vec<_>>(),
            [("A".to_owned(), "1=2".to_owned()), ("HOME_".to_owned(), "x".to_owned()),]
        );
        let host = |text: &str| parse_host(text).ok();
        assert_eq!(host("a:1.2.3.4"), Some(("a".to_owned(), "1.2.3.4".to_owned())));
        assert_eq!(host("a:[::1]"), Some(("a".to_owned(), "::1".to_owned())));
        assert_eq!(host("a=::1"), Some(("a".to_owned(), "::1".to_owned())));
        assert_eq!(host("a:host-gateway"), Some(("a".to_owned(), "host-gateway".to_owned())));
        assert_eq!(host("a"), None);
        assert_eq!(host(":1.2.3.4"), None);
    }
}
