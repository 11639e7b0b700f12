//! Build, test and bench tasks of the davit repository (`cargo xtask TASK`).

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tasks speak to a person")]
#![allow(clippy::disallowed_methods, reason = "tasks are configured by the environment")]

mod bench;
mod corpus;
mod demo;
mod deny;
mod deps;
mod dist;
mod fuzz;
mod packages;
mod process;
mod suite;
mod vm;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Tasks of the davit repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Build davit and do its main job in front of you
    Demo,
    /// Build the release binary at target/dist/davit
    Dist,
    /// Check the layers of the crates, and licences and sources of what they depend on
    CheckDeps,
    /// Measure davit and its peers, alternately in one run
    Bench(bench::BenchArgs),
    /// Make the bench's images and folders, which are kept outside the repository
    Corpus,
    /// Fuzz one parser
    Fuzz(fuzz::FuzzArgs),
    /// Run the container, limit and snapshot suites on Debian's kernels under QEMU
    Vm(vm::VmArgs),
    /// Install what the suite needs, run every test, and count
    Test(suite::TestArgs),
}

fn main() -> ExitCode {
    let result = run();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let cli = Cli::parse();
    std::env::set_current_dir(repository()?).context("cannot enter the repository")?;
    match cli.task {
        Task::Demo => demo::run(),
        Task::Dist => dist::build().map(|path| println!("{}", path.display())),
        Task::CheckDeps => deps::check().and_then(|()| deny::check()),
        Task::Bench(args) => bench::run(&args),
        Task::Corpus => {
            corpus::Corpus::open(corpus::Extent::Full).map(|corpus| println!("{}", corpus.folder()))
        }
        Task::Vm(args) => vm::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Test(args) => suite::run(&args),
    }
}

/// Root folder of the repository: the parent of this crate.
fn repository() -> Result<PathBuf> {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask lies inside the repository")?.to_owned())
}
