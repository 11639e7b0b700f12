//! `cargo xtask fuzz NAME`: one fuzz target with the address sanitizer.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::process;

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzArgs {
    /// Target: a file of fuzz/fuzz_targets without its suffix
    name: String,
    /// Seconds to run
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs a fuzz target; installs cargo-fuzz if it is missing.
pub(crate) fn run(args: &FuzzArgs) -> Result<()> {
    let target = Path::new("fuzz/fuzz_targets").join(format!("{}.rs", args.name));
    ensure!(target.exists(), "{} does not exist", target.display());
    if davit_test::find_tool("cargo-fuzz").is_none()
        && process::output(process::cargo().args(["fuzz", "--version"])).is_err()
    {
        process::run(process::cargo().args(["install", "cargo-fuzz", "--locked"]))?;
    }
    process::run(
        process::cargo()
            .args(["fuzz", "run", &args.name, "--target", crate::dist::TARGET, "--"])
            .arg(format!("-max_total_time={}", args.seconds))
            // The sanitizer works on the stable compiler once its gate is open; a static binary
            // cannot load it, so the repository's own flags are replaced.
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "")
            // SQLite's tables are in two objects of the sanitized program; nothing uses both.
            .env("ASAN_OPTIONS", "detect_odr_violation=0"),
    )
}
