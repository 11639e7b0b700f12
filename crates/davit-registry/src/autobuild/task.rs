//! What a worker does in a process of its own: a build, or a look at what lies elsewhere.
//!
//! ```text
//! worker ── standard input: the task, then nothing until the worker ends ──► task
//!   ▲                                                                         ├─ git
//!   ├── standard output: the log ◄────────────────────────────────────────────┤
//!   └── result.json                                                           └─ davit build, run, push
//! ```
//!
//! The task leads a process group. When its standard input ends, because the worker is gone, it kills
//! the group. Secrets come by standard input, and go on in files that only their owner may read, never
//! in arguments or the environment.

mod build;
mod files;
mod git;
mod hooks;

use std::{
    io::{self, BufRead as _, Read as _},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::{Signal, kill_current_process_group};
use serde::{Deserialize, Serialize};

pub use build::Limits;
pub(super) use build::{BuildTask, TaskVariable};
pub(super) use git::{GitAccess, References};

/// Bytes of a task: variables are the most of it.
const TASK_BYTES: u64 = 16 << 20;
/// Where the result is, in the task's directory.
const RESULT: &str = "result.json";

/// One task.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    /// A directory of its own, which the worker removes.
    pub(super) directory: PathBuf,
    pub(super) work: Work,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Work {
    /// Checkout, hooks, build, test, push.
    Build(Box<BuildTask>),
    /// What the branches and tags of a git repository name.
    References(GitAccess),
    /// What a name names in another registry.
    Digest(Davit, String),
}

/// How this program is called for a build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Davit {
    pub(super) executable: PathBuf,
    /// Store of the builds of one account.
    pub(super) root: PathBuf,
    pub(super) run_root: PathBuf,
}

impl Davit {
    /// A command with this configuration for credentials.
    pub(super) fn command(&self, config: &Path) -> Command {
        let mut command = Command::new(&self.executable);
        command.arg("--config").arg(config);
        command.arg("--root").arg(&self.root).arg("--run-root").arg(&self.run_root);
        command
    }
}

/// Carries out the task on standard input; the exit code.
#[must_use]
pub fn run() -> u8 {
    let mut line = String::new();
    let mut input = io::BufReader::new(io::stdin()).take(TASK_BYTES);
    let task: Option<Task> = match input.read_line(&mut line) {
        Ok(_) => serde_json::from_str(&line).ok(),
        Err(_) => None,
    };
    let Some(task) = task else { return 2 };
    std::thread::spawn(|| {
        // Nothing more is written: whatever ends the reading, the worker is not there.
        let _ended = io::copy(&mut io::stdin(), &mut io::sink());
        let _ended = kill_current_process_group(Signal::KILL);
    });
    let result = match task.work {
        Work::Build(build) => serde_json::to_vec(&build.run(&task.directory)),
        Work::References(access) => serde_json::to_vec(&git::references(&access, &task.directory)),
        Work::Digest(davit, name) => serde_json::to_vec(&digest(&davit, &name, &task.directory)),
    };
    let written = result
        .map_err(io::Error::other)
        .and_then(|text| fs_err::write(task.directory.join(RESULT), text));
    u8::from(written.is_err())
}

/// Reads what a task left.
pub(super) fn result<T: serde::de::DeserializeOwned>(directory: &Path) -> io::Result<T> {
    serde_json::from_slice(&fs_err::read(directory.join(RESULT))?).map_err(io::Error::other)
}

/// Asks a registry what a name names, as nobody.
fn digest(davit: &Davit, name: &str, directory: &Path) -> Result<String, String> {
    let mut command = davit.command(directory);
    command.args([
        "builder",
        "imagetools",
        "inspect",
        "--format",
        "{{.Manifest.Digest}}",
        "--",
        name,
    ]);
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).chars().take(500).collect())
}
