//! `davit registry worker`: runs automated builds.

use std::{io, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use davit_engine::process::Interrupts;
use davit_registry::{
    autobuild::{
        Program,
        worker::{self, Limits, WorkerSettings},
    },
    config::Places,
    db::Database,
};

use super::Fault;
use crate::{
    environment,
    error::{CliError, io_error},
    printer,
};

/// How long to wait before a worker that failed is started again.
const AGAIN: Duration = Duration::from_secs(2);

// Arguments of `davit registry worker`.
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    /// The registry that images are pushed to, as this machine reaches it
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:5000")]
    server: String,
    /// Builds at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
    #[command(flatten)]
    options: BuildOptions,
    /// Seconds after which the builds of a worker that was killed are taken by another one
    #[arg(long, value_name = "SECONDS", default_value_t = worker::LEASE.as_secs(), hide = true)]
    lease_seconds: u64,
    /// End when standard input does
    #[arg(long, hide = true)]
    attached: bool,
}

// What builds may take and do; of `serve` and `worker`.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Automated builds")]
pub(crate) struct BuildOptions {
    /// Builds of one owner at a time, on all workers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    builds_per_owner: u32,
    /// Minutes that a build may take
    #[arg(long, value_name = "MINUTES", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=1440))]
    build_minutes: u32,
    /// Memory of one step of a build
    #[arg(long, value_name = "BYTES", default_value = "4g")]
    build_memory: String,
    /// Processors of one step of a build
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    build_cpus: u32,
    /// Network of the steps of a build
    #[arg(long, value_name = "NETWORK", default_value = "default", value_parser = ["default", "none"])]
    build_network: String,
    /// Image in which hooks of git repositories run
    #[arg(
        long,
        value_name = "IMAGE",
        default_value = "docker.io/library/buildpack-deps:stable-scm"
    )]
    hook_image: String,
    /// Take git repositories at addresses of this machine and of private networks
    #[arg(long)]
    build_from_private: bool,
}

impl BuildOptions {
    /// As another worker is given them.
    fn words(&self) -> Vec<String> {
        let mut words = vec![
            format!("--builds-per-owner={}", self.builds_per_owner),
            format!("--build-minutes={}", self.build_minutes),
            format!("--build-memory={}", self.build_memory),
            format!("--build-cpus={}", self.build_cpus),
            format!("--build-network={}", self.build_network),
            format!("--hook-image={}", self.hook_image),
        ];
        if self.build_from_private {
            words.push("--build-from-private".to_owned());
        }
        words
    }
}

/// Runs `davit registry worker`: until a signal asks it to stop.
///
/// # Errors
/// The database cannot be opened, or the directory not made.
pub(super) fn run(args: WorkerArgs, places: &Places) -> Result<u8, CliError> {
    davit_engine::Engine::check_privilege()?;
    let interrupts = Interrupts::block().map_err(io_error)?;
    let server = args.server.trim_end_matches('/');
    let host = server.split_once("://").map_or(server, |(_, host)| host);
    let mut environment = environment::proxies();
    environment.extend(environment::certificates());
    let options = args.options;
    let settings = WorkerSettings {
        root: std::path::absolute(&places.root).map_err(io_error)?,
        registry: host.to_owned(),
        public_url: server.to_owned(),
        program: Program { executable: std::env::current_exe().map_err(io_error)?, environment },
        jobs: args.jobs,
        per_account: options.builds_per_owner,
        lease: Duration::from_secs(args.lease_seconds),
        time: Duration::from_secs(60) * options.build_minutes,
        limits: Limits {
            memory: options.build_memory,
            cpus: options.build_cpus,
            network: options.build_network,
        },
        hook_image: options.hook_image,
        allow_private: options.build_from_private,
    };
    super::make_root(&places.root)?;
    let (stop, stopped) = worker::stop_channel();
    let stop = Arc::new(stop);
    let by_signal = Arc::clone(&stop);
    std::thread::spawn(move || {
        while interrupts.wait().is_err() {
            std::thread::sleep(Duration::from_millis(100));
        }
        by_signal.send_replace(true);
    });
    if args.attached {
        std::thread::spawn(move || {
            // Nobody writes to it: whatever ends the reading, the server is not there.
            let _ended = io::copy(&mut io::stdin(), &mut io::sink());
            stop.send_replace(true);
        });
    }
    let location = places.database();
    let ran = davit_registry::server::block_on(async {
        let database = Database::open(&location).await.map_err(Fault::from)?;
        let ran = worker::run(database.clone(), settings, stopped).await;
        database.close().await;
        ran.map_err(|error| Fault::Text(error.to_string()))
    });
    ran.map_err(io_error)??;
    Ok(0)
}

/// Workers of a server: a process of their own, started again when it fails.
#[derive(Debug)]
pub(super) struct Workers {
    /// How many builds run at a time.
    pub(super) jobs: u32,
    pub(super) options: BuildOptions,
    pub(super) places: Places,
}

impl Workers {
    /// Keeps the process until this one ends; its standard input ends then, too.
    pub(super) fn keep(self, server: String) {
        std::thread::spawn(move || {
            loop {
                match self.run(&server) {
                    Ok(status) => printer::note(&format!("the worker ended ({status})")),
                    Err(error) => printer::note(&format!("the worker cannot be started: {error}")),
                }
                std::thread::sleep(AGAIN);
            }
        });
    }

    fn run(&self, server: &str) -> io::Result<std::process::ExitStatus> {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.args(["registry", "worker", "--attached", "--server", server]);
        command.arg(format!("--jobs={}", self.jobs)).args(self.options.words());
        command.arg("--root").arg(&self.places.root);
        if let Some(davit_registry::db::Location::Postgres(_)) = &self.places.database {
            // The URL may hold a password, which arguments would show.
            command.env(super::DATABASE, self.database_url());
        }
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        // It is kept open until the process ends, which it tells of the end of this one.
        let _stdin: Option<std::process::ChildStdin> = child.stdin.take();
        child.wait()
    }

    fn database_url(&self) -> PathBuf {
        match &self.places.database {
            Some(davit_registry::db::Location::Postgres(url)) => url.expose().into(),
            _ => PathBuf::new(),
        }
    }
}
