//! `davit start`, `stop`, `restart`, `kill`, `pause`, `unpause`, `wait`, `rename`, `rm`

use davit_engine::{
    ContainerError, Engine,
    container::{
        Container, Phase, Process, RemoveRequest, Request, StartMode, Started, StdinMode,
        StopRequest, StreamSet,
    },
};

use super::{
    run::finish,
    stream::{self, DETACH_KEYS, DetachFilter, RawTerminal, Relay, Signals},
};
use crate::{cli::Context, error::CliError, printer};

/// Does something with each name; goes on after failures, which make the exit code 1.
pub(crate) fn each(
    names: &[String],
    mut action: impl FnMut(&str) -> Result<(), CliError>,
) -> Result<u8, CliError> {
    let mut failed = 0;
    for name in names {
        if let Err(error) = action(name) {
            printer::error(&error.to_string());
            failed = 1;
        }
    }
    Ok(failed)
}

// Arguments of `davit start`.
#[derive(Debug, clap::Args)]
pub(crate) struct StartArgs {
    /// Attach STDOUT/STDERR and forward signals
    #[arg(short, long)]
    attach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    detach_keys: String,
    /// Attach container's STDIN
    #[arg(short, long)]
    interactive: bool,
    /// Containers to start
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Runs `davit start`.
///
/// # Errors
/// What the engine refuses.
pub(crate) fn start(args: &StartArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    if args.attach || args.interactive {
        let [name] = &args.containers[..] else {
            return Err(CliError::user("you cannot start and attach multiple containers at once"));
        };
        return start_attached(args, &engine, name);
    }
    let mut failed = Vec::new();
    let code = each(&args.containers, |name| {
        let started = engine.start_container(name, StartMode::Detached);
        started.inspect_err(|_| failed.push(name.to_owned()))?;
        printer::line(name)
    })?;
    if !failed.is_empty() {
        let names = failed.join(", ");
        printer::labelled(&format!("error: failed to start containers: {names}"));
    }
    Ok(code)
}

fn start_attached(args: &StartArgs, engine: &Engine, name: &str) -> Result<u8, CliError> {
    let container = engine.container(name)?;
    let tty = container.spec.tty.is_on();
    let mut streams = StreamSet::STDOUT.with(StreamSet::STDERR);
    if args.interactive && container.spec.stdin != StdinMode::Closed {
        streams = streams.with(StreamSet::STDIN);
    }
    let size = if tty { stream::size() } else { None };
    let signals = stream::catch_signals((!tty).into())?;
    let mode = StartMode::Attached { streams, size };
    let Some(started) = engine.start_container(name, mode)? else {
        let container = engine.container(name)?;
        return join(engine, &container, streams, Signals::Proxied, &args.detach_keys);
    };
    let Started { container, process, mut connection, .. } = started;
    let keys = stream::detach_keys(&args.detach_keys)?;
    let stdin = streams.contains(StreamSet::STDIN);
    let raw = (tty && stdin).then(RawTerminal::enter).flatten();
    let end = Relay {
        connection: &mut connection,
        stdin,
        detach: tty.then(|| DetachFilter::new(keys)),
        process: if tty { None } else { Process::open(process).ok() },
        signals: Some(signals),
    }
    .run()?;
    drop(raw);
    drop(connection);
    finish(engine, &container.id, end)
}

// Arguments of `davit attach`.
#[derive(Debug, clap::Args)]
pub(crate) struct AttachArgs {
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    detach_keys: String,
    /// Do not attach STDIN
    #[arg(long)]
    no_stdin: bool,
    /// Proxy all received signals to the process
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true)]
    sig_proxy: bool,
    /// Container to attach to
    container: String,
}

/// Runs `davit attach`.
///
/// # Errors
/// The container does not run.
pub(crate) fn attach(args: &AttachArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let container = engine.container(&args.container)?;
    if !container.status.phase.is_alive() {
        return Err(CliError::user("You cannot attach to a stopped container, start it first")
            .hint(format!("davit start -a {}", args.container)));
    }
    if container.status.phase == Phase::Paused {
        return Err(CliError::user("You cannot attach to a paused container, unpause it first")
            .hint(format!("davit unpause {}", args.container)));
    }
    let stdin = !args.no_stdin && container.spec.stdin != StdinMode::Closed;
    let output = StreamSet::STDOUT.with(StreamSet::STDERR);
    let streams = if stdin { output.with(StreamSet::STDIN) } else { output };
    let proxied = Signals::from(args.sig_proxy);
    join(&engine, &container, streams, proxied, &args.detach_keys)
}

/// Attaches to a container that runs.
fn join(
    engine: &Engine,
    container: &Container,
    streams: StreamSet,
    signals: Signals,
    detach_keys: &str,
) -> Result<u8, CliError> {
    let keys = stream::detach_keys(detach_keys)?;
    let tty = container.spec.tty.is_on();
    let stdin = streams.contains(StreamSet::STDIN);
    let mut wishes = vec![Request::Attach(streams)];
    if let Some((rows, columns)) = stream::size().filter(|_| tty) {
        wishes.push(Request::Resize(rows, columns));
    }
    let proxy = signals == Signals::Proxied && !tty;
    let signals = stream::catch_signals(proxy.into())?;
    let mut connection = engine.connect(&container.id, &wishes)?;
    let raw = (tty && stdin).then(RawTerminal::enter).flatten();
    let process = container.status.process.filter(|_| proxy);
    let end = Relay {
        connection: &mut connection,
        stdin,
        detach: tty.then(|| DetachFilter::new(keys)),
        process: process.and_then(|process| Process::open(process).ok()),
        signals: Some(signals),
    }
    .run()?;
    drop(raw);
    drop(connection);
    finish(engine, &container.id, end)
}

// Arguments of `davit stop` and `davit restart`.
#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    /// Signal to send to the container
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Seconds to wait before killing the container
    #[arg(short, long, alias = "time", value_name = "SECONDS", allow_hyphen_values = true)]
    timeout: Option<i64>,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl StopArgs {
    fn request(&self) -> StopRequest {
        StopRequest { signal: self.signal.clone(), timeout_seconds: self.timeout }
    }
}

/// Runs `davit stop`.
///
/// # Errors
/// What the engine refuses.
pub(crate) fn stop(args: &StopArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    each(&args.containers, |name| {
        engine.stop_container(name, &args.request())?;
        printer::line(name)
    })
}

/// Runs `davit restart`.
///
/// # Errors
/// What the engine refuses.
pub(crate) fn restart(args: &StopArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    each(&args.containers, |name| {
        engine.restart_container(name, &args.request())?;
        printer::line(name)
    })
}

// Arguments of `davit kill`.
#[derive(Debug, clap::Args)]
pub(crate) struct KillArgs {
    /// Signal to send to the container
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Runs `davit kill`.
///
/// # Errors
/// What the engine refuses.
pub(crate) fn kill(args: &KillArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    each(&args.containers, |name| {
        engine.kill_container(name, &args.signal)?;
        printer::line(name)
    })
}

// Arguments of verbs that take containers only.
#[derive(Debug, clap::Args)]
pub(crate) struct NamesArgs {
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Runs `davit pause`.
///
/// # Errors
/// What the engine refuses.
pub(crate) fn pause(args: &NamesArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    each(&args.containers, |name| {
        engine.pause_container(name)?;
        printer::line(name)
    })
}

/// Runs `davit unpause`.
///
/// # Errors
/// What the engine refuses.
pub(crate) fn unpause(args: &NamesArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    each(&args.containers, |name| {
        engine.unpause_container(name)?;
        printer::line(name)
    })
}

/// Runs `davit wait`: prints exit codes.
///
/// # Errors
/// What the engine refuses.
pub(crate) fn wait(args: &NamesArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    each(&args.containers, |name| printer::line(&engine.wait_container(name)?.to_string()))
}

// Arguments of `davit rename`.
#[derive(Debug, clap::Args)]
pub(crate) struct RenameArgs {
    /// Container
    container: String,
    /// Its new name
    new_name: String,
}

/// Runs `davit rename`.
///
/// # Errors
/// What the engine refuses.
pub(crate) fn rename(args: &RenameArgs, context: &Context) -> Result<u8, CliError> {
    context.engine()?.rename_container(&args.container, &args.new_name)?;
    Ok(0)
}

// Arguments of `davit rm`.
#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Force the removal of a running container (uses SIGKILL)
    #[arg(short, long)]
    force: bool,
    /// Remove anonymous volumes associated with the container
    #[arg(short, long)]
    volumes: bool,
    /// Containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Runs `davit rm`.
///
/// # Errors
/// What the engine refuses.
pub(crate) fn remove(args: &RemoveArgs, context: &Context) -> Result<u8, CliError> {
    let engine = context.engine()?;
    let request = RemoveRequest { force: args.force, volumes: args.volumes };
    each(&args.containers, |name| {
        match engine.remove_container(name, request) {
            // Docker's `rm -f` of nothing is no failure.
            Err(error @ ContainerError::NotFound { .. }) if args.force => {
                printer::error(&CliError::from(error).to_string());
                return Ok(());
            }
            result => result?,
        }
        printer::line(name)
    })
}
