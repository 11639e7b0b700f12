//! The programs that davit is measured against, as they can be had on this machine.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{corpus::Extent, packages, process};

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

/// Installs the peers; one that cannot be had is left out of the workloads, and so is, in a smoke
/// run, one that would have to be compiled.
pub(crate) fn install(extent: Extent) -> Result<()> {
    packages::install(&packages::missing(PACKAGES))?;
    if matches!(extent, Extent::Smoke) {
        return Ok(());
    }
    if davit_test::find_tool("go").is_none() {
        eprintln!("note: no Go toolchain here; containerd 2.4 and runc 1.5 are left out");
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

/// What of the machine's network a podman may use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Network {
    /// All of it, to reach a registry on the loopback.
    Host,
    /// A namespace of its own, so that its bridge and its address translation end with it.
    Own,
}

/// A podman with a store, /run and processes of its own; dropping it ends them.
pub(crate) struct Podman {
    holder: Child,
    /// The first process of the namespaces.
    inside: u32,
    folder: PathBuf,
}

/// Debian's crun refuses hybrid cgroups, so the unified part is taken out of its sight.
const PODMAN_INIT: &str = "umount /sys/fs/cgroup/unified 2>/dev/null; mount -t tmpfs tmpfs /run; \
    [ ! -d /var/lib/cni ] || mount -t tmpfs tmpfs /var/lib/cni; ip link set lo up; \
    echo ready; exec sleep infinity";

impl Podman {
    /// Makes the namespaces; the store is in `folder`.
    pub(crate) fn start(folder: &Path, network: Network) -> Result<Self> {
        // Its default limits cannot be raised everywhere, so they are set low.
        fs_err::write(
            folder.join("containers.conf"),
            "[containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=1024:4096\"]\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n",
        )?;
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc"]);
        unshare.arg("--kill-child");
        if matches!(network, Network::Own) {
            unshare.arg("--net");
        }
        unshare.args(["sh", "-c", PODMAN_INIT]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut holder = unshare.spawn().context("cannot start unshare")?;
        let mut line = String::new();
        let stdout = holder.stdout.take().context("stdout is piped")?;
        let mut podman = Self { holder, inside: 0, folder: folder.to_owned() };
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "cannot make namespaces for podman");
        let outside = podman.holder.id();
        let children = fs_err::read_to_string(format!("/proc/{outside}/task/{outside}/children"))?;
        podman.inside = children.trim().parse().context("unshare has one child")?;
        Ok(podman)
    }

    /// A podman command.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--net", "--pid", "--target", &self.inside.to_string()]);
        // podman refuses run roots of more than 50 characters.
        command.args(["podman", "--runroot", "/run/podman-bench", "--root"]);
        command.arg(self.folder.join("podman")).args(arguments.split(' '));
        command.env("CONTAINERS_CONF", self.folder.join("containers.conf"));
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // The kernel ends what else runs in the namespace of processes.
        drop(self.holder.kill());
        drop(self.holder.wait());
        // Its parents of cgroups stay; one that is in use cannot be removed.
        let mut find = Command::new("find");
        find.args(["/sys/fs/cgroup", "-depth", "-path", "*/libpod_parent*", "-type", "d"]);
        find.args(["-exec", "rmdir", "{}", ";"]);
        drop(find.stderr(Stdio::null()).status());
    }
}
