//! `cargo xtask bench`: davit and its peers, alternately in one run; medians, ratios, memory.
//!
//! Each repetition gets a folder of its own that is removed only at the very end: after a mass
//! delete ext4 creates files several times slower for minutes.

mod bases;
mod build;
mod builders;
mod containers;
mod contexts;
mod images;
mod measure;
mod peers;
mod registry;
mod report;
mod stages;

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
    /// Workloads to run (all where none is named); `build` means all of the builder
    names: Vec<String>,
    /// One repetition of the development binary with small input: shows that the bench works,
    /// measures nothing
    #[arg(long)]
    quick: bool,
    /// Measure this program instead of building it
    #[arg(long, value_name = "PATH")]
    davit: Option<PathBuf>,
    /// Repeat each workload so often, instead of as often as it asks for
    #[arg(long, value_name = "NUMBER")]
    repetitions: Option<usize>,
    /// Measure davit against these peers alone (may be repeated)
    #[arg(long, value_name = "PEER")]
    against: Vec<String>,
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
    /// What becomes of a repetition's files.
    pub(crate) leftovers: Leftovers,
}

impl Workload {
    /// A workload of three repetitions, whose files stay to the end.
    pub(crate) const fn new(
        name: &'static str,
        promise: &'static str,
        contenders: Vec<Contender>,
    ) -> Self {
        Self { name, promise, repetitions: 3, contenders, leftovers: Leftovers::Kept }
    }

    /// With another number of repetitions.
    pub(crate) fn repeated(self, repetitions: usize) -> Self {
        Self { repetitions, ..self }
    }

    /// Removes the files of each repetition before the next.
    pub(crate) fn sweeping(self) -> Self {
        Self { leftovers: Leftovers::Removed, ..self }
    }
}

/// What becomes of the files of a repetition before the next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leftovers {
    /// They stay to the end of the bench, so that a mass delete slows down nothing.
    Kept,
    /// They go at once, since they are big, and the kernel forgets their inodes.
    Removed,
}

/// Makes what was removed be as if it had never been: an ext4 without a journal steps over each inode
/// that was freed in the last minutes and is still in memory, whenever a file is made (half of the time
/// that a push takes, after some thousand).
fn forget_inodes() -> Result<()> {
    rustix::fs::sync();
    fs_err::write("/proc/sys/vm/drop_caches", "1").context("cannot drop the kernel's caches")
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
    /// How often, if not as often as each workload asks for.
    pub(crate) repetitions: Option<usize>,
    /// The only peers, if any are named.
    pub(crate) against: Vec<String>,
}

impl Setting {
    /// The image to move: big, or small for a smoke run.
    pub(crate) const fn image(&self) -> &'static str {
        if self.is_quick() { "base" } else { "app" }
    }

    /// Whether a program takes part.
    fn measures(&self, name: &str) -> bool {
        let is_named = || self.against.iter().any(|peer| peer.eq_ignore_ascii_case(name));
        self.against.is_empty() || name == "davit" || is_named()
    }

    /// Whether to use small input.
    pub(crate) const fn is_quick(&self) -> bool {
        matches!(self.extent, Extent::Smoke)
    }
}

/// The workloads, by what they measure; a group's name stands for all of it.
const GROUPS: [(&str, &[&str]); 4] = [
    ("images", &["pull", "load", "remove"]),
    (
        "build",
        &[
            "copy-first",
            "copy-unchanged",
            "copy-changed",
            "copy-big",
            "copy-ignored",
            "noop",
            "noop-stages",
            "step",
            "steps",
            "parallel",
            "stages",
            "application",
            "export-gzip",
            "export-zstd",
            "cache-import",
        ],
    ),
    ("containers", &["start", "run", "exec", "list", "rate", "memory"]),
    ("registry", registry::NAMES),
];

/// The workloads that `wanted` names, alone or by their group; all for none.
fn chosen(wanted: &[String]) -> Result<Vec<&'static str>> {
    let is_known =
        |name: &str| GROUPS.iter().any(|(group, names)| *group == name || names.contains(&name));
    for name in wanted {
        ensure!(is_known(name), "no workload `{name}`; `bench --list` shows them");
    }
    let is_wanted = |group: &str, name: &str| {
        wanted.is_empty() || wanted.iter().any(|wanted| wanted == group || wanted == name)
    };
    let all =
        GROUPS.iter().flat_map(|(group, names)| names.iter().map(move |name| (*group, *name)));
    Ok(all.filter(|(group, name)| is_wanted(group, name)).map(|(_, name)| name).collect())
}

/// Runs the bench and writes its report to bench/results.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    if args.list {
        for (group, names) in GROUPS {
            println!("{group}: {}", names.join(" "));
        }
        return Ok(());
    }
    let names = chosen(&args.names)?;
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
    let repetitions = if args.quick { Some(1) } else { args.repetitions };
    let against = args.against.clone();
    let setting =
        Setting { davit, corpus: Corpus::open(extent)?, folder, extent, repetitions, against };
    let mut rows = Vec::new();
    let outcome = run_all(&setting, &names, &mut rows);
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

fn run_all(setting: &Setting, names: &[&'static str], rows: &mut Vec<report::Row>) -> Result<()> {
    for name in names {
        let workload = workload(name, setting)?;
        let row = run_one(workload, setting).with_context(|| format!("workload {name}"))?;
        println!("{row}");
        rows.push(row);
    }
    Ok(())
}

fn workload(name: &'static str, setting: &Setting) -> Result<Workload> {
    match name {
        name if name.starts_with("registry-") => registry::workload(name, setting),
        "pull" => images::pull(setting),
        "load" => Ok(images::load(setting)),
        "remove" => Ok(images::remove(setting)),
        "copy-first" => Ok(build::copy_first(setting)),
        "copy-unchanged" => Ok(build::copy_unchanged(setting)),
        "copy-changed" => Ok(build::copy_changed(setting)),
        "copy-big" => Ok(build::copy_big(setting)),
        "copy-ignored" => Ok(build::copy_ignored(setting)),
        "noop" => Ok(build::noop(setting)),
        "noop-stages" => stages::noop_stages(setting),
        "step" => Ok(build::step(setting)),
        "steps" => stages::steps(setting),
        "parallel" => stages::parallel(setting),
        "stages" => stages::three_stages(setting),
        "application" => stages::application(setting),
        "export-gzip" => Ok(build::export_gzip(setting)),
        "export-zstd" => Ok(build::export_zstd(setting)),
        "cache-import" => stages::cache_import(setting),
        "start" => Ok(containers::start(setting)),
        "run" => Ok(containers::run(setting)),
        "exec" => Ok(containers::exec(setting)),
        "list" => Ok(containers::list(setting)),
        "rate" => Ok(containers::rate(setting)),
        _ => Ok(containers::memory(setting)),
    }
}

fn run_one(mut workload: Workload, setting: &Setting) -> Result<report::Row> {
    let repetitions = setting.repetitions.unwrap_or(workload.repetitions);
    workload.contenders.retain(|contender| setting.measures(&contender.name));
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
            if matches!(workload.leftovers, Leftovers::Removed) {
                process::run(Command::new("rm").arg("-rf").arg(&folder))?;
                forget_inodes()?;
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
