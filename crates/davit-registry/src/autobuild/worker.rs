//! Runs builds: takes them from the database, starts their tasks, writes their logs.
//!
//! ```text
//! ROOT/build/NAMESPACE/store, run   davit's own store, for the builds of one account
//! ROOT/build/tasks/WORKER/          its lock, and a folder for each task while it runs
//! ROOT/build/known_hosts            keys of git hosts
//! ```
//!
//! A worker that ends gives its builds back; one that is killed loses them when their leases end, and
//! its tasks with their processes end with it.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

pub use super::task::Limits;
use super::{
    AutobuildError,
    child::{self, Program, Running, Scratch},
    claim::{Claim, Claimed, Finish, Hold, Outcome, Progress, Report, Standing, is_due},
    mask::{Bounded, Mask},
    source::Credential,
    task::{self, BuildTask, Davit, GitAccess, Task, TaskVariable, Work},
};
use crate::{
    auth::{OpaqueKind, OpaqueToken},
    db::{Database, DbError},
};

/// How long a hold lasts without being renewed.
pub const LEASE: Duration = Duration::from_secs(30);
/// How often a hold is renewed before it would end.
const RENEWALS: u32 = 15;
/// How long to wait where the database cannot be reached.
const AGAIN: Duration = Duration::from_secs(5);
/// How often new words of a log are written, and the end of a task is looked for.
const WRITE: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(100);
/// How often the queue is looked at.
const QUEUE: Duration = Duration::from_millis(500);
/// How long a task may take to end when it is asked to.
const GRACE: Duration = Duration::from_secs(10);
/// Bytes of a log, and of its end where it is longer.
const LOG_BYTES: usize = 4 << 20;
const LOG_END: usize = 128 << 10;

/// How builds are run.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The registry's directory: what workers keep is in `build` there.
    pub root: PathBuf,
    /// How images of the registry are called on this machine: `HOST:PORT`.
    pub registry: String,
    /// How people reach it, for provenance.
    pub public_url: String,
    /// How tasks are started.
    pub program: Program,
    /// Builds at a time.
    pub jobs: u32,
    /// Builds of one owner at a time, on all workers.
    pub per_account: u32,
    /// How long a hold on a build lasts without being renewed.
    pub lease: Duration,
    /// How long a build may take.
    pub time: Duration,
    /// What one step may take.
    pub limits: Limits,
    /// The image in which hooks run.
    pub hook_image: String,
    /// Whether git repositories of private networks, and of this machine, may be asked.
    pub allow_private: bool,
}

impl WorkerSettings {
    pub(super) fn directory(&self) -> PathBuf {
        self.root.join("build")
    }

    /// Where the tasks of one worker are.
    pub(super) fn tasks(&self, worker: &str) -> PathBuf {
        self.directory().join("tasks").join(worker)
    }

    /// How davit is called for builds of a namespace.
    pub(super) fn davit(&self, namespace: &str) -> Davit {
        let directory = self.directory().join(namespace);
        Davit {
            executable: self.program.executable.clone(),
            root: directory.join("store"),
            run_root: directory.join("run"),
        }
    }

    /// What a task needs to reach a git repository.
    pub(super) fn git(&self, url: &str, credential: Option<&Credential>) -> GitAccess {
        let (token, key) = match credential {
            None => (None, None),
            Some(Credential::Token(token)) => (Some(token.clone()), None),
            Some(Credential::Key(key)) => (None, Some(key.clone())),
        };
        let is_proxy = |(name, _): &(String, String)| {
            matches!(&*name.to_ascii_lowercase(), "http_proxy" | "https_proxy" | "all_proxy")
        };
        GitAccess {
            url: url.to_owned(),
            token,
            key,
            allow_private: self.allow_private,
            has_proxy: self.program.environment.iter().any(is_proxy),
            known_hosts: self.directory().join("known_hosts"),
        }
    }
}

/// What tells a worker to stop, and what it listens to.
#[must_use]
pub fn stop_channel() -> (watch::Sender<bool>, watch::Receiver<bool>) {
    watch::channel(false)
}

/// Runs builds until it is told to stop.
///
/// # Errors
/// The directory cannot be made.
pub async fn run(
    database: Database,
    settings: WorkerSettings,
    stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let settings = Arc::new(settings);
    let name = uuid::Uuid::now_v7().to_string();
    // What killed workers left may hold secrets.
    child::sweep(&settings.directory().join("tasks"))?;
    let folder = child::Folder::new(settings.tasks(&name))?;
    let jobs = (0..settings.jobs).map(|number| Worker {
        database: database.clone(),
        settings: Arc::clone(&settings),
        name: format!("{name}-{number}"),
        tasks: settings.tasks(&name),
        stopped: stopped.clone(),
    });
    let jobs: Vec<_> = jobs.map(|worker| tokio::spawn(worker.work())).collect();
    super::watch::run(database, Arc::clone(&settings), settings.tasks(&name), stopped).await;
    for job in jobs {
        if let Err(error) = job.await {
            tracing::error!(%error, "a worker panicked");
        }
    }
    drop(folder);
    Ok(())
}

/// One build at a time.
struct Worker {
    database: Database,
    settings: Arc<WorkerSettings>,
    name: String,
    tasks: PathBuf,
    stopped: watch::Receiver<bool>,
}

/// What a task's end means.
enum End {
    /// The task's own result.
    Result,
    Outcome(Outcome, Option<String>),
    /// Another worker has the build.
    Lost,
}

impl Worker {
    async fn work(mut self) {
        while !*self.stopped.borrow() {
            match self.next().await {
                Ok(Some(claimed)) => self.build(claimed).await,
                Ok(None) => self.pause(QUEUE).await,
                Err(error) => {
                    tell(&error, "the queue of builds cannot be read");
                    self.pause(AGAIN).await;
                }
            }
        }
    }

    async fn pause(&mut self, time: Duration) {
        // Either way the caller looks again.
        let _stopped = tokio::time::timeout(time, self.stopped.changed()).await;
    }

    async fn next(&self) -> Result<Option<Claimed>, AutobuildError> {
        if !is_due(&self.database).await? {
            return Ok(None);
        }
        let claim = Claim {
            worker: self.name.clone(),
            lease: self.settings.lease,
            per_account: u64::from(self.settings.per_account),
            token: OpaqueToken::new(OpaqueKind::Robot),
            token_life: self.settings.time + self.settings.lease,
        };
        self.database.write(claim).await
    }

    async fn build(&mut self, claimed: Claimed) {
        tracing::info!(build = claimed.hold.build, path = claimed.path, "a build begins");
        let secrets = secrets(&claimed);
        let mask = Mask::new(secrets.iter().map(String::as_str));
        let mut log = Log::new(&self.database, &claimed, mask, self.settings.lease);
        let (outcome, mut report) = match self.carry_out(&claimed, &mut log).await {
            Ok(Some(ended)) => ended,
            Ok(None) => return tracing::warn!(build = claimed.hold.build, "a build was lost"),
            Err(error) => {
                let reason = Some(format!("the worker cannot run it: {error}"));
                (Outcome::Failed, Report { reason, ..Report::default() })
            }
        };
        report.reason = report.reason.map(|reason| log.mask.text(&reason));
        let own = format!("{}/", self.settings.registry);
        let finish = Finish { hold: claimed.hold.clone(), outcome, report, own };
        // Who waits for the end of the build waits for the end of its log.
        let ended = match log.end().await {
            Ok(()) => self.database.write(finish).await,
            Err(error) => Err(error.into()),
        };
        match ended {
            Ok(_) => tracing::info!(build = claimed.hold.build, ?outcome, "a build ended"),
            Err(error) => tell(&error, "the end of a build cannot be written"),
        }
    }

    /// Runs the task; `None` if the build is another worker's now.
    async fn carry_out(
        &mut self,
        claimed: &Claimed,
        log: &mut Log,
    ) -> io::Result<Option<(Outcome, Report)>> {
        let Hold { build, attempt, .. } = claimed.hold;
        let scratch = Scratch::new(self.tasks.join(format!("{build}-{attempt}")))?;
        let task = self.task(claimed, scratch.path());
        let davit = self.settings.davit(namespace(&claimed.path));
        // What an earlier attempt left here.
        self.remove_containers(&davit, build, attempt, scratch.path()).await;
        let end = {
            let mut running = Running::start(&self.settings.program, &task)?;
            let end = self.follow(&mut running, log).await?;
            if !matches!(end, End::Result) {
                stop(&mut running).await?;
            }
            drain(&running, log);
            end
        };
        self.remove_containers(&davit, build, attempt + 1, scratch.path()).await;
        let ended = match end {
            End::Lost => return Ok(None),
            End::Outcome(outcome, reason) => (outcome, Report { reason, ..Report::default() }),
            End::Result => match task::result(scratch.path()) {
                Ok(ended) => ended,
                Err(_) => {
                    let reason = Some("the process of the build was killed".to_owned());
                    (Outcome::Failed, Report { reason, ..Report::default() })
                }
            },
        };
        Ok(Some(ended))
    }

    /// Writes the log until the task ends, or must.
    async fn follow(&mut self, running: &mut Running, log: &mut Log) -> io::Result<End> {
        let (until, lease) = (Instant::now() + self.settings.time, self.settings.lease);
        let (mut written, mut renewed) = (Instant::now(), Instant::now());
        loop {
            running.wait(LOOK).await;
            let piece = running.read();
            let is_quiet = piece.is_empty();
            log.push(&piece);
            if is_quiet {
                if running.has_ended()? {
                    return Ok(End::Result);
                }
                // A pipe whose writers are gone is always readable.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if *self.stopped.borrow() {
                return Ok(End::Outcome(Outcome::Released, None));
            }
            if Instant::now() > until {
                let minutes = self.settings.time.as_secs() / 60;
                let reason = format!("it took more than {minutes} minutes");
                return Ok(End::Outcome(Outcome::Failed, Some(reason)));
            }
            let is_due = log.has_news() && written.elapsed() > WRITE;
            if !is_due && renewed.elapsed() < lease / RENEWALS {
                continue;
            }
            written = Instant::now();
            match log.write().await {
                Ok(Standing::Go) => renewed = Instant::now(),
                Ok(Standing::Cancelled) => return Ok(End::Outcome(Outcome::Cancelled, None)),
                Ok(Standing::Lost) => return Ok(End::Lost),
                // Later, while the lease lasts.
                Err(error) if renewed.elapsed() < lease * 2 / 3 => {
                    tracing::warn!(%error, "the log of a build cannot be written now");
                }
                Err(_) => return Ok(End::Lost),
            }
        }
    }

    fn task(&self, claimed: &Claimed, directory: &Path) -> Task {
        let settings = &self.settings;
        let variable = |it: &super::source::Variable| TaskVariable {
            name: it.name.clone(),
            value: it.value.clone(),
            is_secret: it.is_secret,
        };
        let Hold { build, attempt, .. } = claimed.hold;
        let (url, path) = (settings.public_url.trim_end_matches('/'), &claimed.path);
        let work = BuildTask {
            davit: settings.davit(namespace(&claimed.path)),
            git: settings.git(&claimed.url, claimed.credential.as_ref()),
            reference: claimed.reference.clone(),
            commit: claimed.commit.clone(),
            plan: claimed.plan.clone(),
            registry: settings.registry.clone(),
            login: (claimed.login.0.clone(), claimed.login.1.expose().to_owned()),
            path: path.clone(),
            variables: claimed.variables.iter().map(variable).collect(),
            test: claimed.settings.test.clone(),
            name: container(build, attempt),
            builder: format!("{url}/r/{path}/-/builds/{build}"),
            hook_image: settings.hook_image.clone(),
            limits: settings.limits.clone(),
        };
        Task { directory: directory.to_owned(), work: Work::Build(Box::new(work)) }
    }

    /// Removes containers of attempts before this one.
    async fn remove_containers(&self, davit: &Davit, build: i64, before: i64, config: &Path) {
        if !davit.root.exists() {
            return;
        }
        let mut names = Vec::new();
        for attempt in 1..before {
            let name = container(build, attempt);
            names.extend(CONTAINERS.iter().map(|part| format!("{name}-{part}")));
        }
        if names.is_empty() {
            return;
        }
        let mut command = davit.command(config);
        command.args(["rm", "--force", "--volumes"]).args(names);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = tokio::task::spawn_blocking(move || command.status()).await;
        tracing::debug!(?status, "containers of the build were removed");
    }
}

/// Containers of a build, by the end of their names.
const CONTAINERS: [&str; 10] = [
    "post_checkout",
    "pre_build",
    "post_build",
    "pre_test",
    "test",
    "sut",
    "post_test",
    "pre_push",
    "post_push",
    "hook",
];

fn container(build: i64, attempt: i64) -> String {
    let mut name = "autobuild-".to_owned();
    let _infallible = write!(name, "{build}-{attempt}");
    name
}

pub(super) fn namespace(path: &str) -> &str {
    path.split_once('/').map_or(path, |(namespace, _)| namespace)
}

pub(super) fn tell(error: &AutobuildError, words: &'static str) {
    tracing::error!(error = error as &dyn std::error::Error, "{words}");
}

/// Everything that no log may show.
fn secrets(claimed: &Claimed) -> Vec<String> {
    let mut secrets = vec![claimed.login.1.expose().to_owned()];
    let login = format!("{}:{}", claimed.login.0, claimed.login.1.expose());
    secrets.push(login);
    match &claimed.credential {
        Some(Credential::Token(token)) => {
            secrets.push(token.expose().to_owned());
            secrets.push(format!("x-access-token:{}", token.expose()));
        }
        Some(Credential::Key(key)) => secrets.push(key.expose().to_owned()),
        None => {}
    }
    let own = claimed.variables.iter().filter(|variable| variable.is_secret);
    secrets.extend(own.map(|variable| variable.value.expose().to_owned()));
    secrets
}

/// Ends a task: first it is asked to.
async fn stop(running: &mut Running) -> io::Result<()> {
    running.ask();
    let until = Instant::now() + GRACE;
    while !running.has_ended()? && Instant::now() < until {
        tokio::time::sleep(LOOK).await;
    }
    running.kill();
    Ok(())
}

fn drain(running: &Running, log: &mut Log) {
    loop {
        let piece = running.read();
        if piece.is_empty() {
            return;
        }
        log.push(&piece);
    }
}

/// A build's log on its way into the database.
struct Log {
    database: Database,
    hold: Hold,
    mask: Mask,
    bounds: Bounded,
    position: i64,
    news: Vec<u8>,
    lease: Duration,
}

impl Log {
    fn new(database: &Database, claimed: &Claimed, mask: Mask, lease: Duration) -> Self {
        let mut log = Self {
            database: database.clone(),
            hold: claimed.hold.clone(),
            mask,
            bounds: Bounded::new(LOG_BYTES, LOG_END),
            position: claimed.log_bytes,
            news: Vec::new(),
            lease,
        };
        // Also where the one before was killed before it had told of anything.
        let attempt = claimed.hold.attempt;
        if attempt > 1 {
            log.push(format!("\n==> begun again: attempt {attempt}\n").as_bytes());
        }
        log
    }

    fn push(&mut self, piece: &[u8]) {
        let shown = self.mask.push(piece);
        self.news.extend(self.bounds.push(shown));
    }

    const fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// Writes what is new, and renews the lease.
    async fn write(&mut self) -> Result<Standing, DbError> {
        let progress = Progress {
            hold: self.hold.clone(),
            position: self.position,
            content: self.news.clone(),
            lease: self.lease,
        };
        let standing = self.database.write(progress).await?;
        self.position += i64::try_from(self.news.len()).unwrap_or(0);
        self.news.clear();
        Ok(standing)
    }

    async fn end(&mut self) -> Result<(), DbError> {
        let rest = self.mask.end();
        self.news.extend(self.bounds.push(rest));
        self.news.extend(self.bounds.end());
        self.write().await.map(drop)
    }
}
