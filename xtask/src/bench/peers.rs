//! The programs that davit is measured against, as they can be had on this machine.

use std::{
    hash::{Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{packages, process};

const PACKAGES: &[(&str, &str)] = &[
    ("buildah", "/usr/bin/buildah"),
    ("crun", "/usr/bin/crun"),
    ("docker-registry", "/usr/bin/docker-registry"),
    ("libseccomp-dev", "/usr/include/seccomp.h"),
    ("podman", "/usr/bin/podman"),
    ("busybox-static", "/bin/busybox"),
    ("skopeo", "/usr/bin/skopeo"),
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
];

/// Installs the peers; one that cannot be had is left out of the workloads.
pub(crate) fn install() -> Result<()> {
    packages::install(&packages::missing(PACKAGES))?;
    if davit_test::find_tool("go").is_none() {
        eprintln!("note: no Go toolchain here; containerd 2.4 and runc 1.5 are left out");
        return Ok(());
    }
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
    davit_test::cache_dir().join("go")
}

/// A peer's program: the one that Go built, else the one on PATH.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    Some(go_folder().join(name))
        .filter(|path| path.exists())
        .or_else(|| davit_test::find_tool(name))
}

/// A containerd with a store of its own; dropping it ends it.
pub(crate) struct Containerd {
    child: Child,
    socket: PathBuf,
}

impl Containerd {
    /// Starts containerd with an empty store in `folder`.
    pub(crate) fn start(program: &Path, folder: &Path) -> Result<Self> {
        let socket = folder.join("containerd.sock");
        let config = folder.join("config.toml");
        fs_err::write(
            &config,
            format!(
                "version = 3\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.cri.v1.images\", \"io.containerd.cri.v1.runtime\", \"io.containerd.grpc.v1.cri\", \"io.containerd.nri.v1.nri\"]\n[grpc]\naddress = \"{1}\"\n",
                folder.display(),
                socket.display()
            ),
        )?;
        let log = fs_err::File::create(folder.join("containerd.log"))?.into_file();
        let child = Command::new(program)
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("cannot start containerd")?;
        let daemon = Self { child, socket };
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::os::unix::net::UnixStream::connect(&daemon.socket).is_err() {
            ensure!(Instant::now() < deadline, "containerd does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    /// Process ID of the daemon.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A `ctr` command on this daemon.
    pub(crate) fn ctr(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg("--address").arg(&self.socket);
        command
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // SIGTERM lets it close its database; it has no state that is needed afterwards.
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        drop(self.child.wait());
    }
}

/// A podman command with a store of its own.
///
/// Debian's crun refuses hybrid cgroups, so the unified part is taken out of its sight; its default
/// limits cannot be raised everywhere, so they are set low.
pub(crate) fn podman(folder: &Path, arguments: &str) -> Result<Command> {
    let config = folder.join("containers.conf");
    fs_err::write(
        &config,
        "[containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=1024:4096\"]\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n",
    )?;
    // podman refuses run roots of more than 50 characters.
    let mut hasher = std::hash::DefaultHasher::new();
    folder.hash(&mut hasher);
    let line = format!(
        "umount /sys/fs/cgroup/unified 2>/dev/null; exec podman --root {}/podman --runroot /tmp/podman-{:x} {arguments}",
        folder.display(),
        hasher.finish()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &line]);
    command.env("CONTAINERS_CONF", config);
    Ok(command)
}
