//! `cargo xtask bench`: davit and its peers, alternately in one run; medians, ratios, memory.
//!
//! Each repetition gets a folder of its own that is removed only at the very end: after a mass
//! delete ext4 creates files several times slower for minutes.

mod build;
mod containers;
mod images;
mod measure;
mod peers;
mod report;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use self::measure::Measured;
use crate::{
    corpus::{Corpus, Extent},
    dist, process, suite,
};

/// Arguments of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Workloads to run (all where none is named)
    names: Vec<String>,
    /// One repetition of the development binary with small input: shows that the bench works,
    /// measures nothing
    #[arg(long)]
    quick: bool,
    /// Measure this program instead of building it
    #[arg(long, value_name = "PATH")]
    davit: Option<PathBuf>,
    /// List the workloads
    #[arg(long)]
    list: bool,
}

/// One job, done by davit and by peers.
pub(crate) struct Workload {
    /// Name on the command line.
    pub(crate) name: &'static str,
    /// The promise of SPECIFICATION.md.
    pub(crate) promise: &'static str,
    /// Repetitions.
    pub(crate) repetitions: usize,
    /// davit first.
    pub(crate) contenders: Vec<Contender>,
}

/// Work of one repetition: gets a fresh folder, returns what was measured.
type Job = Box<dyn FnMut(&Path) -> Result<Measured>>;

/// One program that does the job.
pub(crate) struct Contender {
    /// Program and version.
    pub(crate) name: String,
    /// Prepares outside the clock, runs, and measures.
    pub(crate) job: Job,
}

impl Contender {
    pub(crate) fn new(
        name: impl Into<String>,
        job: impl FnMut(&Path) -> Result<Measured> + 'static,
    ) -> Self {
        Self { name: name.into(), job: Box::new(job) }
    }
}

/// What every workload is made from.
pub(crate) struct Setting {
    /// Binary of davit: the release, in a smoke run the development's.
    pub(crate) davit: PathBuf,
    /// Images and folders.
    pub(crate) corpus: Corpus,
    /// Folder for roots, on the file system that is measured.
    pub(crate) folder: PathBuf,
    /// How much is done.
    pub(crate) extent: Extent,
}

impl Setting {
    /// The image to move: big, or small for a smoke run.
    pub(crate) const fn image(&self) -> &'static str {
        if self.is_quick() { "base" } else { "app" }
    }

    /// Whether to use small input.
    pub(crate) const fn is_quick(&self) -> bool {
        matches!(self.extent, Extent::Smoke)
    }
}

const NAMES: [&str; 14] = [
    "pull",
    "load",
    "remove",
    "copy-first",
    "copy-unchanged",
    "copy-changed",
    "noop",
    "step",
    "start",
    "run",
    "exec",
    "list",
    "rate",
    "memory",
];

/// Runs the bench and writes its report to bench/results.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    if args.list {
        println!("{}", NAMES.join("\n"));
        return Ok(());
    }
    for name in &args.names {
        ensure!(
            NAMES.contains(&name.as_str()),
            "no workload `{name}`; there are {}",
            NAMES.join(", ")
        );
    }
    let extent = if args.quick { Extent::Smoke } else { Extent::Full };
    peers::install(extent)?;
    let davit = match &args.davit {
        Some(path) => path.clone(),
        None => build(extent)?,
    };
    if !rustix::process::geteuid().is_root() {
        let mut again = process::as_root(std::env::current_exe()?);
        again.args(std::env::args_os().skip(1)).arg("--davit").arg(davit);
        return process::run(&mut again);
    }
    let folder = process::cache_folder()?.join(format!("bench-{}", std::process::id()));
    fs_err::create_dir_all(&folder)?;
    let setting = Setting { davit, corpus: Corpus::open(extent)?, folder, extent };
    let mut rows = Vec::new();
    let outcome = run_all(&setting, &args.names, &mut rows);
    // What was measured counts, also when a later workload fails.
    report::write(&rows, args.quick)?;
    // The daemons of the workloads have ended with them; only files are left.
    process::run(process::as_root("rm").arg("-rf").arg(&setting.folder))?;
    outcome
}

fn build(extent: Extent) -> Result<PathBuf> {
    match extent {
        Extent::Full => dist::build(),
        Extent::Smoke => {
            println!("smoke run: the development binary and small input; the figures mean nothing");
            // Built with the tests, so that nothing is compiled for a second time.
            let mut programs = suite::binaries::<&str>(&[])?.programs.into_iter();
            programs.find(|path| path.ends_with("davit")).context("the tests have built davit")
        }
    }
}

fn run_all(setting: &Setting, names: &[String], rows: &mut Vec<report::Row>) -> Result<()> {
    for name in NAMES {
        if names.is_empty() || names.iter().any(|wanted| wanted == name) {
            let workload = workload(name, setting)?;
            let row = run_one(workload, setting).with_context(|| format!("workload {name}"))?;
            println!("{row}");
            rows.push(row);
        }
    }
    Ok(())
}

fn workload(name: &str, setting: &Setting) -> Result<Workload> {
    match name {
        "pull" => images::pull(setting),
        "load" => Ok(images::load(setting)),
        "remove" => Ok(images::remove(setting)),
        "copy-first" => build::copy_first(setting),
        "copy-unchanged" => build::copy_unchanged(setting),
        "copy-changed" => build::copy_changed(setting),
        "noop" => build::noop(setting),
        "step" => build::step(setting),
        "start" => Ok(containers::start(setting)),
        "run" => containers::run(setting),
        "exec" => containers::exec(setting),
        "list" => containers::list(setting),
        "rate" => containers::rate(setting),
        _ => containers::memory(setting),
    }
}

fn run_one(mut workload: Workload, setting: &Setting) -> Result<report::Row> {
    let repetitions = if setting.is_quick() { 1 } else { workload.repetitions };
    let mut results = vec![Vec::new(); workload.contenders.len()];
    for repetition in 0..repetitions {
        for (contender, results) in workload.contenders.iter_mut().zip(&mut results) {
            let folder = setting.folder.join(format!(
                "{}-{repetition}-{}",
                workload.name,
                contender.name.replace([' ', '/'], "_")
            ));
            fs_err::create_dir_all(&folder)?;
            rustix::fs::sync();
            let measured = (contender.job)(&folder).with_context(|| contender.name.clone());
            if folder.join("root/format").exists() {
                // A bridge that is left behind slows down what is measured next.
                let reset = ["system", "reset", "--force"];
                process::run(&mut images::davit(&setting.davit, &folder, &reset))?;
                process::run(Command::new("rm").arg("-rf").arg(images::run_folder(&folder)))?;
            }
            let measured = measured?;
            eprintln!("{} {repetition} {}: {measured}", workload.name, contender.name);
            results.push(measured);
        }
    }
    let names = workload.contenders.into_iter().map(|contender| contender.name);
    Ok(report::Row {
        name: workload.name,
        promise: workload.promise,
        results: names.zip(results).collect(),
    })
}
