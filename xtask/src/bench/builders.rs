//! The builders that are measured, each with a store of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    Contender, Setting,
    images::davit,
    measure::Measured,
    peers::{self, Buildkit, Docker},
};

/// How long the removal of what a build left may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// What to build.
#[derive(Debug)]
pub(super) struct Job<'a> {
    /// Folder of the context, with its Dockerfile.
    pub(super) context: &'a Path,
    /// Value of the argument `N`; another one makes the steps behind `ARG N` run again.
    pub(super) number: Option<String>,
    /// OCI archive to write: its path and compression.
    pub(super) archive: Option<(PathBuf, &'static str)>,
    /// Where a cache in a registry is read from.
    pub(super) cache_from: Option<String>,
    /// Where one is written to, with all steps.
    pub(super) cache_to: Option<String>,
}

impl<'a> Job<'a> {
    /// A build of a folder whose image stays in the store.
    pub(super) const fn of(context: &'a Path) -> Self {
        Self { context, number: None, archive: None, cache_from: None, cache_to: None }
    }

    fn caches(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        let from = self.cache_from.iter().map(|from| ("from", format!("type=registry,ref={from}")));
        let to = self.cache_to.iter();
        from.chain(to.map(|to| ("to", format!("type=registry,ref={to},mode=max"))))
    }

    fn output(&self) -> Option<String> {
        let (path, compression) = self.archive.as_ref()?;
        // Layers that came compressed stay as they are in none of the programs.
        let forced = format!("compression={compression},force-compression=true");
        Some(format!("type=oci,dest={},{forced}", path.display()))
    }
}

/// One of the builders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Davit,
    Buildkit,
    Buildah,
    Docker,
}

impl Kind {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [Self::Davit, Self::Buildkit, Self::Buildah, Self::Docker];

    /// Those that write compressed archives and caches in registries.
    pub(super) const EXPORTING: [Self; 2] = [Self::Davit, Self::Buildkit];

    fn is_here(self) -> bool {
        match self {
            Self::Davit => true,
            Self::Buildkit => {
                ["buildkitd", "buildctl"].into_iter().all(|name| peers::find(name).is_some())
            }
            Self::Buildah => peers::find("buildah").is_some(),
            Self::Docker => Docker::is_here(),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Davit => "davit",
            Self::Buildkit => "BuildKit",
            Self::Buildah => "buildah",
            Self::Docker => "Docker",
        }
    }

    /// Makes a builder with an empty store in `folder`.
    pub(super) fn start(self, program: &Path, folder: &Path) -> Result<Box<dyn Builder>> {
        let folder = folder.to_owned();
        Ok(match self {
            Self::Davit => Box::new(Davit { program: program.to_owned(), folder }),
            Self::Buildkit => Box::new(Buildkit::start(&folder)?),
            Self::Buildah => Box::new(Buildah { folder }),
            Self::Docker => Box::new(Docker::start(&folder)?),
        })
    }
}

/// Something that builds.
pub(super) trait Builder {
    /// The command that builds; its output is of no interest.
    fn build(&self, job: &Job<'_>) -> Command;

    /// Processes that work for the command.
    fn daemons(&self) -> Vec<u32> {
        Vec::new()
    }
}

/// One contender for each of the `kinds` that is here; `job` gets a fresh builder and its folder.
pub(super) fn contenders(
    setting: &Setting,
    kinds: &[Kind],
    job: impl Fn(&dyn Builder, &Path) -> Result<Measured> + 'static,
) -> Vec<Contender> {
    contenders_of_kind(setting, kinds, move |kind, program, folder| {
        job(kind.start(program, folder)?.as_ref(), folder)
    })
}

/// The same for a job that starts its builders itself.
pub(super) fn contenders_of_kind(
    setting: &Setting,
    kinds: &[Kind],
    job: impl Fn(Kind, &Path, &Path) -> Result<Measured> + 'static,
) -> Vec<Contender> {
    let job = Rc::new(job);
    let here = kinds.iter().copied().filter(|kind| kind.is_here());
    here.map(|kind| {
        let (job, program) = (Rc::clone(&job), setting.davit.clone());
        Contender::new(kind.name(), move |folder| job(kind, &program, folder))
    })
    .collect()
}

struct Davit {
    program: PathBuf,
    folder: PathBuf,
}

impl Builder for Davit {
    fn build(&self, job: &Job<'_>) -> Command {
        let words = ["build", "--progress", "quiet", "--tag", "bench"];
        let mut command = davit(&self.program, &self.folder, &words);
        if let Some(number) = &job.number {
            command.args(["--build-arg", &format!("N={number}")]);
        }
        if let Some(output) = job.output() {
            command.args(["--output", &output]);
        }
        for (way, cache) in job.caches() {
            command.arg(format!("--cache-{way}")).arg(cache);
        }
        command.arg(job.context);
        command
    }
}

/// What commands wrote is removed behind a build: whoever is measured next has no part in it.
impl Drop for Davit {
    fn drop(&mut self) {
        let unfinished = self.folder.join("root/tmp");
        let is_left = || fs_err::read_dir(&unfinished).is_ok_and(|left| left.count() > 0);
        let deadline = Instant::now() + PATIENCE;
        while is_left() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

struct Buildah {
    folder: PathBuf,
}

impl Builder for Buildah {
    fn build(&self, job: &Job<'_>) -> Command {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(self.folder.join("buildah"));
        command.arg("--runroot").arg(self.folder.join("buildah-run"));
        command.args(["bud", "--layers", "--quiet", "--isolation", "chroot", "--tag", "bench"]);
        command.arg("--tls-verify=false");
        if let Some(number) = &job.number {
            command.args(["--build-arg", &format!("N={number}")]);
        }
        command.arg(job.context);
        command
    }
}

impl Builder for Buildkit {
    fn build(&self, job: &Job<'_>) -> Command {
        let mut command = self.command();
        command.args(["build", "--frontend", "dockerfile.v0", "--progress", "plain"]);
        for name in ["context", "dockerfile"] {
            command.arg("--local").arg(format!("{name}={}", job.context.display()));
        }
        if let Some(number) = &job.number {
            command.args(["--opt", &format!("build-arg:N={number}")]);
        }
        if let Some(output) = job.output() {
            command.args(["--output", &output]);
        }
        for (way, cache) in job.caches() {
            command.arg(if way == "from" { "--import-cache" } else { "--export-cache" }).arg(cache);
        }
        command
    }

    fn daemons(&self) -> Vec<u32> {
        vec![self.pid()]
    }
}

impl Builder for Docker {
    fn build(&self, job: &Job<'_>) -> Command {
        let mut command = self.command();
        command.args(["buildx", "build", "--quiet", "--network", "none", "--tag", "bench"]);
        if let Some(number) = &job.number {
            command.args(["--build-arg", &format!("N={number}")]);
        }
        // All contexts lie right in the folder of the repetition.
        command.arg(Path::new("/mnt").join(job.context.file_name().unwrap_or_default()));
        command
    }

    fn daemons(&self) -> Vec<u32> {
        vec![self.pid()]
    }
}
