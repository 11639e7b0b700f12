//! Running other programs.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

/// Runs a command that must succeed, its output on the terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// Runs a command that must succeed; returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {stderr}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command that runs as root: itself if we are, else through sudo with this environment.
pub(crate) fn as_root(program: impl AsRef<OsStr>) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut path = OsString::from("PATH=");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    // A user's own PATH may lack them, and sudo would set one without the user's tools.
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    let mut command = Command::new("sudo");
    command.args(["--preserve-env", "--", "env"]).arg(path).arg(program);
    command
}

/// The folder that keeps peers and corpora between runs; made so that this user can write to it.
pub(crate) fn cache_folder() -> Result<PathBuf> {
    let path = davit_test::cache_path();
    let user = rustix::process::geteuid();
    if !user.is_root() && rustix::fs::access(&path, rustix::fs::Access::WRITE_OK).is_err() {
        let owner = user.as_raw().to_string();
        run(as_root("install").args(["--directory", "--owner", &owner]).arg(&path))?;
    }
    Ok(davit_test::cache_dir())
}

/// The cargo that runs this task.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
