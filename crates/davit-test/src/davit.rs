//! Runs the real `davit` with a root of its own.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::TempDir;

/// A `davit` binary with its own `--root` and `--run-root`.
///
/// Dropping it ends its containers and removes all that davit has made for the root: files, bridge,
/// firewall table, cgroups.
#[derive(Debug)]
pub struct Davit {
    binary: PathBuf,
    dir: TempDir,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code; 128+n where signal n ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Davit {
    /// Prepares an empty root for `binary` (pass `env!("CARGO_BIN_EXE_davit")`).
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self { binary: binary.into(), dir: TempDir::new() }
    }

    /// The folder that holds both roots; tests may keep files there.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The `--root`.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// The `--run-root`.
    #[must_use]
    pub fn run_root(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// A command on this root, without standard input and with a clean `HOME` and `DOCKER_CONFIG`.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .env("DAVIT_ROOT", self.root())
            .env("DAVIT_RUN_ROOT", self.run_root())
            .env("HOME", self.dir.path())
            .env("DOCKER_CONFIG", self.dir.join(".docker"))
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::null())
            .args(args);
        command
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Outcome {
        Outcome::from(self.command(args).output().expect("davit starts"))
    }

    /// Runs a command that must succeed; returns its standard output without the last line end.
    ///
    /// # Panics
    /// If it fails.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let mut command = self.command(args);
        let outcome = Outcome::from(command.output().expect("davit starts"));
        assert_eq!(outcome.code, 0, "{command:?}\n{}{}", outcome.stdout, outcome.stderr);
        outcome.stdout.trim_end_matches('\n').to_owned()
    }
}

impl Drop for Davit {
    fn drop(&mut self) {
        if !self.root().join("format").exists() {
            return;
        }
        let outcome = self.run(["system", "reset", "--force"]);
        // A failing test must show its own failure, not that of the cleaning up.
        let told = outcome.code == 0 || std::thread::panicking();
        assert!(told, "davit system reset: {}", outcome.stderr);
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        let status = output.status;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}
