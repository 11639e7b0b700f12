//! `davit run` and `davit create`

use davit_engine::{
    ContainerError, Engine, PullRequest,
    container::{CreateRequest, Created, Process, StartMode, Started, StreamSet},
};

use super::{
    flags::{Attachment, ContainerFlags},
    stream::{self, DETACH_KEYS, DetachFilter, RawTerminal, Relay, SessionEnd},
    values,
};
use crate::{
    cli::Context,
    environment,
    error::{CliError, io_error},
    printer,
    progress::ProgressMode,
    reference::{self, TagNote},
};

// Arguments of `davit run`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    flags: Box<ContainerFlags>,
    /// Run container in background and print container ID
    #[arg(short, long)]
    detach: bool,
    /// Override the key sequence for detaching a container
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    detach_keys: String,
    /// Proxy received signals to the process
    #[arg(long, num_args = 0..=1, default_value_t = true, default_missing_value = "true", require_equals = true)]
    sig_proxy: bool,
    /// Image to run, then command and arguments
    #[arg(value_name = "IMAGE", required = true, trailing_var_arg = true)]
    image_and_command: Vec<String>,
}

// Arguments of `davit create`.
#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    flags: Box<ContainerFlags>,
    /// Image to use, then command and arguments
    #[arg(value_name = "IMAGE", required = true, trailing_var_arg = true)]
    image_and_command: Vec<String>,
}

/// Runs `davit create`.
///
/// # Errors
/// What the engine refuses.
pub(crate) fn create(args: &CreateArgs, context: &Context) -> Result<u8, CliError> {
    let (image, command) = args.image_and_command.split_first().expect("clap requires one");
    let request = args.flags.request(image, command, Attachment::Foreground)?;
    let engine = context.engine()?;
    let created = prepared(&args.flags, context, &engine, request, |request| {
        engine.create_container(request)
    })?;
    printer::line(&created.container.id)?;
    Ok(0)
}

/// Runs `davit run`; the container's exit code is the command's.
///
/// # Errors
/// 125 when the engine refuses, 126 and 127 when the command cannot be run.
pub(crate) fn run(args: &RunArgs, context: &Context) -> Result<u8, CliError> {
    let (image, command) = args.image_and_command.split_first().expect("clap requires one");
    let attachment = if args.detach { Attachment::Detached } else { Attachment::Foreground };
    let request = args.flags.request(image, command, attachment);
    let request = request.map_err(|error| error.with_code(125))?;
    if args.flags.tty && args.flags.interactive && !args.detach && !stream::stdin_is_terminal() {
        return Err(CliError::user("the input device is not a TTY"));
    }
    if args.detach && !args.flags.attach.is_empty() {
        return Err(CliError::user("Conflicting options: -a and -d"));
    }
    let engine = context.engine().map_err(|error| error.with_code(125))?;
    let created =
        prepared(&args.flags, context, &engine, request, |request| engine.create_to_run(request))
            .map_err(|error| error.with_code(125))?;
    if args.detach {
        let started = engine.begin(created, StartMode::Detached).map_err(coded)?;
        printer::line(&started.container.id)?;
        return Ok(0);
    }
    foreground(args, &engine, created)
}

/// Makes sure of the image, looks up `--volumes-from`, and creates.
fn prepared(
    flags: &ContainerFlags,
    context: &Context,
    engine: &Engine,
    mut request: CreateRequest,
    create: impl Fn(&CreateRequest) -> Result<Created, ContainerError>,
) -> Result<Created, CliError> {
    if !matches!(flags.pull.as_str(), "always" | "missing" | "never") {
        return Err(CliError::usage(format!(
            "invalid pull option: '{}': must be one of \"always\", \"missing\" or \"never\"",
            flags.pull
        )));
    }
    add_proxies(engine, &mut request);
    let cidfile = flags.cidfile.as_deref().map(IdFile::create).transpose()?;
    for text in &flags.volumes_from {
        add_volumes_from(engine, &mut request, text)?;
    }
    if flags.pull == "always" {
        pull(flags, context, engine, &request.spec.image)?;
    }
    let created = match create(&request) {
        Err(ContainerError::NoImage(name) | ContainerError::NoPlatform { image: name, .. })
            if flags.pull == "missing" =>
        {
            if !flags.quiet {
                let reference = reference::parse(&name, TagNote::Silent);
                let shown = reference.map_or_else(|_| name.clone(), |name| name.familiar());
                printer::note(&format!("Unable to find image '{shown}' locally"));
            }
            pull(flags, context, engine, &name)?;
            create(&request)?
        }
        result => result?,
    };
    for warning in &created.warnings {
        printer::note(&format!("WARNING: {warning}"));
    }
    if let Some(cidfile) = cidfile {
        cidfile.fill(&created.container.id)?;
    }
    Ok(created)
}

/// What `config.json` says of proxies, unless the command line says otherwise.
fn add_proxies(engine: &Engine, request: &mut CreateRequest) {
    let proxies = environment::container_proxies(engine.config());
    let env = request.spec.config.env.get_or_insert_default();
    for (name, value) in proxies {
        if !env.iter().any(|own| own.split('=').next() == Some(&name)) {
            env.push(format!("{name}={value}"));
        }
    }
}

/// The file of `--cidfile`: made before the container, removed if that is not created.
struct IdFile<'a> {
    path: &'a std::path::Path,
    file: Option<fs_err::File>,
}

impl<'a> IdFile<'a> {
    fn create(path: &'a std::path::Path) -> Result<Self, CliError> {
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        let opened = fs_err::OpenOptions::from_options(options).open(path);
        let file = opened.map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => CliError::user(format!(
                "container ID file found, make sure the other container isn't running or delete {}",
                path.display()
            )),
            _ => CliError::user(format!("failed to create the container ID file: {error}")),
        })?;
        Ok(Self { path, file: Some(file) })
    }

    fn fill(mut self, id: &str) -> Result<(), CliError> {
        let Some(mut file) = self.file.take() else { return Ok(()) };
        std::io::Write::write_all(&mut file, id.as_bytes()).map_err(io_error)
    }
}

impl Drop for IdFile<'_> {
    fn drop(&mut self) {
        if self.file.is_some() {
            // An empty file is in nobody's way but the next run's, which names it.
            drop(fs_err::remove_file(self.path));
        }
    }
}

fn pull(
    flags: &ContainerFlags,
    context: &Context,
    engine: &Engine,
    name: &str,
) -> Result<(), CliError> {
    let reference = reference::parse(name, TagNote::unless(true))?;
    let mode = if flags.quiet { ProgressMode::Quiet } else { ProgressMode::default() };
    let progress = context.progress(mode);
    let platform = flags.platform.clone();
    let request = PullRequest { reference, platform, parallel: 3, cancelled: None };
    engine.pull(&request, &*progress)?;
    Ok(())
}

/// Adds the mounts of another container (`NAME[:ro]`), except on targets that are taken.
fn add_volumes_from(
    engine: &Engine,
    request: &mut CreateRequest,
    text: &str,
) -> Result<(), ContainerError> {
    let (name, read_only) = match text.rsplit_once(':') {
        Some((name, "ro")) => (name, true),
        Some((name, "rw")) => (name, false),
        _ => (text, false),
    };
    for mut mount in engine.container(name)?.spec.mounts {
        if request.spec.mounts.iter().any(|known| known.target == mount.target) {
            continue;
        }
        if let davit_engine::container::MountSource::Volume { anonymous, .. } = &mut mount.source {
            // It belongs to the other container.
            *anonymous = false;
        }
        if read_only {
            mount.access = true.into();
        }
        request.spec.mounts.push(mount);
    }
    Ok(())
}

fn coded(error: ContainerError) -> CliError {
    let code = error.run_code();
    CliError::from(error).with_code(code)
}

/// The streams that `-a` names; standard output and error, and input with `-i`, by default.
fn streams(args: &RunArgs) -> Result<StreamSet, CliError> {
    let names = args.flags.attached(Attachment::Foreground);
    names.iter().try_fold(StreamSet::default(), |all, name| Ok(all.with(values::stream(name)?)))
}

fn foreground(args: &RunArgs, engine: &Engine, created: Created) -> Result<u8, CliError> {
    let streams = streams(args)?;
    let keys = stream::detach_keys(&args.detach_keys)?;
    let size = if args.flags.tty { stream::size() } else { None };
    // On a terminal the keys are the container's, and signals of others this command's.
    let proxy = args.sig_proxy && !args.flags.tty;
    let signals = stream::catch_signals(proxy.into())?;
    let mode = StartMode::Attached { streams, size };
    let started = engine.begin(created, mode).map_err(coded)?;
    let Started { container, process, mut connection, .. } = started;
    if !streams.contains(StreamSet::STDOUT) && !streams.contains(StreamSet::STDERR) {
        printer::line(&container.id)?;
    }
    let raw =
        (args.flags.tty && streams.contains(StreamSet::STDIN)).then(RawTerminal::enter).flatten();
    let end = Relay {
        connection: &mut connection,
        stdin: streams.contains(StreamSet::STDIN),
        detach: args.flags.tty.then(|| DetachFilter::new(keys)),
        process: if proxy { Process::open(process).ok() } else { None },
        signals: Some(signals),
    }
    .run()?;
    drop(raw);
    drop(connection);
    finish(engine, &container.id, end)
}

/// Brings the row up to date and tells the exit code.
pub(crate) fn finish(engine: &Engine, id: &str, end: SessionEnd) -> Result<u8, CliError> {
    let code = match end {
        SessionEnd::Detached => return Ok(0),
        SessionEnd::Interrupted(signal) => 128 + signal,
        SessionEnd::Exited(status) => {
            engine.settle(id)?;
            status.code()
        }
        SessionEnd::Lost => match engine.container(id) {
            Ok(container) => container.status.exit_code,
            Err(_) => 137,
        },
    };
    Ok(u8::try_from(code).unwrap_or(255))
}
