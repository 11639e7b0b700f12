//! Packages of npm that judge or are servers.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use crate::{cache_dir, find_tool, skip};

/// The `node` program, and a `node_modules` folder with this package (`name@version`): kept from an
/// earlier run, or made. Records a skip where that cannot be had.
#[must_use]
pub fn need_node_package(package: &str) -> Option<(PathBuf, PathBuf)> {
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (Some(node), Some(npm)) = (find_tool("node"), find_tool("npm")) else {
        skip("needs the programs `node` and `npm`");
        return None;
    };
    let folder = cache_dir().join(format!("npm-{}", package.replace('/', "-")));
    let modules = folder.join("node_modules");
    let name = package.rsplit_once('@').map_or(package, |(name, _)| name);
    if !modules.join(name).join("package.json").exists() {
        let mut command = Command::new(npm);
        command.args(["install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]);
        command.arg(&folder).arg(package);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if !command.status().is_ok_and(|status| status.success()) {
            skip(&format!("npm cannot install {package} here"));
            return None;
        }
    }
    Some((node, modules))
}
