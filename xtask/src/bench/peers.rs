//! The programs that davit is measured against, as they can be had on this machine.

mod daemon;
mod namespaces;

use std::{path::PathBuf, process::Command};

use anyhow::Result;

pub(super) use self::{
    daemon::{Buildkit, Containerd, Docker, Nerdctl},
    namespaces::{Network, Podman},
};
use crate::{corpus::Extent, packages, process};

const PACKAGES: &[(&str, &str)] = &[
    ("buildah", "/usr/bin/buildah"),
    ("crun", "/usr/bin/crun"),
    ("docker-registry", "/usr/bin/docker-registry"),
    ("libseccomp-dev", "/usr/include/seccomp.h"),
    ("podman", "/usr/bin/podman"),
    ("busybox-static", "/bin/busybox"),
    ("skopeo", "/usr/bin/skopeo"),
    ("wrk", "/usr/bin/wrk"),
];

/// Go modules with the commands that they give, and the build tags that keep them small.
const GO_MODULES: &[(&str, &str, &str)] = &[
    (
        "containerd",
        "github.com/containerd/containerd/v2/cmd/containerd@v2.4.2",
        "no_btrfs no_devmapper no_zfs",
    ),
    ("ctr", "github.com/containerd/containerd/v2/cmd/ctr@v2.4.2", "no_btrfs no_devmapper no_zfs"),
    ("runc", "github.com/opencontainers/runc@v1.5.2", "seccomp"),
    ("registry", "github.com/distribution/distribution/v3/cmd/registry@v3.1.2", ""),
];

/// Peers that cannot be installed by their name: measured where they are found.
const ON_PATH: [&str; 4] = ["buildkitd", "buildctl", "nerdctl", "zot"];

/// Installs the peers; one that cannot be had is left out of the workloads, and so is, in a smoke
/// run, one that would have to be compiled.
pub(crate) fn install(extent: Extent) -> Result<()> {
    packages::install(&packages::missing(PACKAGES))?;
    for name in ON_PATH {
        if find(name).is_none() {
            eprintln!("note: {name} is not on PATH; it is left out");
        }
    }
    if matches!(extent, Extent::Smoke) {
        return Ok(());
    }
    if davit_test::find_tool("go").is_none() {
        eprintln!(
            "note: no Go toolchain here; containerd 2.4, runc 1.5 and distribution 3.1 are left out"
        );
        return Ok(());
    }
    process::cache_folder()?;
    fs_err::create_dir_all(go_folder())?;
    for (name, module, tags) in GO_MODULES {
        if go_folder().join(name).exists() {
            continue;
        }
        eprintln!("peers: building {module}");
        let mut command = Command::new("go");
        command.args(["install", "-tags", tags, module]).env("GOBIN", go_folder());
        if let Err(error) = process::run(command.env("CGO_ENABLED", "1")) {
            eprintln!("note: {name} is left out: {error:#}");
        }
    }
    Ok(())
}

fn go_folder() -> PathBuf {
    davit_test::cache_path().join("go")
}

/// A peer's program: the one that Go built, else the one on PATH.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    Some(go_folder().join(name))
        .filter(|path| path.exists())
        .or_else(|| davit_test::find_tool(name))
}
