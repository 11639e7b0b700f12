//! Namespaces that keep a peer's mounts, processes and network from the machine.

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// What of the machine's network a peer may use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Network {
    /// All of it, to reach a registry on the loopback.
    Host,
    /// A namespace of its own, so that its bridge and its address translation end with it.
    Own,
}

/// Namespaces of mounts, processes and, where asked, of the network; dropping them ends what runs
/// in them.
pub(super) struct Namespaces {
    holder: Child,
    /// The first process of the namespaces.
    inside: u32,
    /// Name pattern of the cgroups that the peer leaves.
    cgroups: &'static str,
}

/// Debian's crun refuses hybrid cgroups, so the unified part is taken out of its sight.
const INIT: &str = "umount /sys/fs/cgroup/unified 2>/dev/null; mount -t tmpfs tmpfs /run; \
    [ ! -d /var/lib/cni ] || mount -t tmpfs tmpfs /var/lib/cni; ip link set lo up; \
    echo ready; exec sleep infinity";

impl Namespaces {
    pub(super) fn make(network: Network, cgroups: &'static str) -> Result<Self> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "--pid", "--fork", "--mount-proc"]);
        unshare.arg("--kill-child");
        if matches!(network, Network::Own) {
            unshare.arg("--net");
        }
        unshare.args(["sh", "-c", INIT]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut holder = unshare.spawn().context("cannot start unshare")?;
        let mut line = String::new();
        let stdout = holder.stdout.take().context("stdout is piped")?;
        let mut namespaces = Self { holder, inside: 0, cgroups };
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "cannot make namespaces for a peer");
        let outside = namespaces.holder.id();
        let children = fs_err::read_to_string(format!("/proc/{outside}/task/{outside}/children"))?;
        namespaces.inside = children.trim().parse().context("unshare has one child")?;
        Ok(namespaces)
    }

    /// A command in them.
    pub(super) fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--net", "--pid", "--target", &self.inside.to_string()]);
        command.arg(program.as_ref());
        command
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // The kernel ends what else runs in the namespace of processes.
        drop(self.holder.kill());
        drop(self.holder.wait());
        // The peer's parents of cgroups stay; one that is in use cannot be removed.
        let mut find = Command::new("find");
        find.args(["/sys/fs/cgroup", "-depth", "-path", self.cgroups, "-type", "d"]);
        find.args(["-exec", "rmdir", "{}", ";"]);
        drop(find.stderr(Stdio::null()).status());
    }
}

/// A podman with a store, /run and processes of its own; dropping it ends them.
pub(crate) struct Podman {
    namespaces: Namespaces,
    folder: PathBuf,
}

impl Podman {
    /// Makes the namespaces; the store is in `folder`.
    pub(crate) fn start(folder: &Path, network: Network) -> Result<Self> {
        // Its default limits cannot be raised everywhere, so they are set low.
        fs_err::write(
            folder.join("containers.conf"),
            "[containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=1024:4096\"]\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n",
        )?;
        let namespaces = Namespaces::make(network, "*/libpod_parent*")?;
        Ok(Self { namespaces, folder: folder.to_owned() })
    }

    /// A podman command.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = self.namespaces.command("podman");
        // podman refuses run roots of more than 50 characters.
        command.args(["--runroot", "/run/podman-bench", "--root"]);
        command.arg(self.folder.join("podman")).args(arguments.split(' '));
        command.env("CONTAINERS_CONF", self.folder.join("containers.conf"));
        command
    }
}
