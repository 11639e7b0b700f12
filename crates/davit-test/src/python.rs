//! Python packages that judge or are clients.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use crate::cache_dir;

/// An interpreter that can import `module`, with packages as `pip install` names them: kept from an
/// earlier run under the name `folder`, or made. `None` where that cannot be had.
#[must_use]
pub fn python_with(folder: &str, packages: &[&str], module: &str) -> Option<PathBuf> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = cache_dir().join(folder);
    let python = folder.join("bin/python");
    let works = || is_done(Command::new(&python).arg("-c").arg(format!("import {module}")));
    (works() || (is_installed(&folder, packages) && works())).then_some(python)
}

fn is_installed(folder: &Path, packages: &[&str]) -> bool {
    is_done(Command::new("python3").args(["-m", "venv"]).arg(folder))
        && is_done(Command::new(folder.join("bin/pip")).arg("install").args(packages))
}

fn is_done(command: &mut Command) -> bool {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
