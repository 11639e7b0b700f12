//! `cargo xtask dist`: the release binary.

use std::path::PathBuf;

use anyhow::Result;

use crate::process;

/// Triple that `.cargo/config.toml` names.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A position-independent program relocates 27,000 pointers at each start, and every process of it
/// has the 430 kB that they lie in for itself.
const FLAGS: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// Builds the release binary; returns its path.
pub(crate) fn build() -> Result<PathBuf> {
    let mut build = process::cargo();
    build.args(["build", "--release", "--package", "davit"]).env("RUSTFLAGS", FLAGS);
    process::run(&mut build)?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let dist = target.join("dist");
    fs_err::create_dir_all(&dist)?;
    let path = dist.join("davit");
    // A running davit keeps its file: replace the name, not the content.
    let fresh = dist.join("davit.new");
    fs_err::copy(target.join(TARGET).join("release/davit"), &fresh)?;
    fs_err::rename(&fresh, &path)?;
    Ok(std::path::absolute(path)?)
}
