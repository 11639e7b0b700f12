//! Peers that are daemons, each with a store of its own.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    find, go_folder,
    namespaces::{Namespaces, Network},
};
use crate::process;

/// A running daemon; dropping it ends it.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    /// Starts `command`, which shall listen on `socket`; what it says goes to a file beside that.
    fn start(command: &mut Command, socket: PathBuf) -> Result<Self> {
        let log = fs_err::File::create(socket.with_extension("log"))?.into_file();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let daemon = Self { child, socket };
        let deadline = Instant::now() + Duration::from_secs(30);
        while std::os::unix::net::UnixStream::connect(&daemon.socket).is_err() {
            ensure!(Instant::now() < deadline, "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }
}

impl Drop for Daemon {
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

/// A containerd with an empty store.
pub(crate) struct Containerd(Daemon);

impl Containerd {
    /// Starts `program` with its store in `folder`.
    pub(crate) fn start(program: &Path, folder: &Path) -> Result<Self> {
        Self::launch(&mut Command::new(program), folder)
    }

    fn launch(command: &mut Command, folder: &Path) -> Result<Self> {
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
        Ok(Self(Daemon::start(command.arg("--config").arg(config), socket)?))
    }

    /// Process ID of the daemon.
    pub(crate) fn pid(&self) -> u32 {
        self.0.child.id()
    }

    /// A `ctr` command on this daemon.
    pub(crate) fn ctr(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg("--address").arg(&self.0.socket);
        command
    }
}

/// A nerdctl with its containerd, in namespaces of their own.
pub(crate) struct Nerdctl {
    program: PathBuf,
    folder: PathBuf,
    containerd: Containerd,
    // After the daemon: dropping it ends what the daemon left.
    namespaces: Namespaces,
}

impl Nerdctl {
    /// Whether all that it needs is here.
    pub(crate) fn is_here() -> bool {
        ["nerdctl", "containerd", "runc"].into_iter().all(|name| find(name).is_some())
    }

    /// Starts its containerd with an empty store in `folder`.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let namespaces = Namespaces::make(Network::Own, "*/davit-bench*")?;
        let mut command = namespaces.command(find("containerd").context("no containerd")?);
        // The shim and runc of the same version are beside it.
        let containerd = Containerd::launch(command.env("PATH", path()?), folder)?;
        let program = find("nerdctl").context("no nerdctl")?;
        Ok(Self { program, folder: folder.to_owned(), containerd, namespaces })
    }

    /// A nerdctl command.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = self.namespaces.command(&self.program);
        command.arg("--address").arg(&self.containerd.0.socket);
        command.arg("--data-root").arg(self.folder.join("nerdctl"));
        command.arg("--cni-netconfpath").arg(self.folder.join("cni"));
        command.args(["--cni-path", "/usr/lib/cni", "--cgroup-manager", "cgroupfs"]);
        command.args(["--namespace", "davit-bench"]).args(arguments.split(' '));
        command
    }
}

/// A BuildKit with an empty store.
pub(crate) struct Buildkit {
    client: PathBuf,
    daemon: Daemon,
}

impl Buildkit {
    /// Starts it with its store in `folder`.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let program = find("buildkitd").context("no buildkitd")?;
        let client = find("buildctl").context("no buildctl")?;
        let socket = folder.join("buildkit.sock");
        let mut command = Command::new(program);
        command.arg("--root").arg(folder.join("buildkit"));
        command.arg("--addr").arg(format!("unix://{}", socket.display()));
        Ok(Self { client, daemon: Daemon::start(command.env("PATH", path()?), socket)? })
    }

    /// Process ID of the daemon.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.child.id()
    }

    /// A `buildctl` command on this daemon.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.client);
        command.arg("--addr").arg(format!("unix://{}", self.daemon.socket.display()));
        command
    }
}

/// A Docker with an empty store, in namespaces of mounts and processes of its own; it leaves the
/// machine's network alone. Its root shows the folder of the bench at /mnt.
pub(crate) struct Docker {
    root: PathBuf,
    daemon: Daemon,
    // After the daemon: dropping it ends what the daemon left.
    namespaces: Namespaces,
}

/// Makes the root of the peers complete: $1 is the root, $2 the folder.
const FURNISH: &str = r#"set -e
mount --bind "$1" "$1"
mount -t proc proc "$1/proc"
mount --rbind /sys "$1/sys"
mount --rbind /dev "$1/dev"
mount -t tmpfs tmpfs "$1/run"
mount -t tmpfs tmpfs "$1/tmp"
mount --bind "$2" "$1/mnt""#;

const DOCKERD: &str = "dockerd --host unix:///mnt/docker.sock --data-root /mnt/docker \
    --bridge=none --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
    --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent=/davit-bench";

impl Docker {
    /// Whether all that it needs is here.
    pub(crate) fn is_here() -> bool {
        davit_test::need_peer_root().is_some()
    }

    /// Starts it with its store in `folder`.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let root = davit_test::need_peer_root().context("no root with Docker")?;
        let namespaces = Namespaces::make(Network::Host, "*/davit-bench*")?;
        let mut furnish = namespaces.command("sh");
        furnish.args(["-c", FURNISH, "sh"]).arg(&root).arg(folder);
        process::run(&mut furnish)?;
        let mut command = entered(&namespaces, &root);
        let socket = folder.join("docker.sock");
        let daemon = Daemon::start(command.args(DOCKERD.split_whitespace()), socket)?;
        Ok(Self { root, daemon, namespaces })
    }

    /// Process ID above the daemon.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.child.id()
    }

    /// A `docker` command on this daemon; of the machine's files it sees the bench's folder alone.
    pub(crate) fn command(&self) -> Command {
        let mut command = entered(&self.namespaces, &self.root);
        command.args(["docker", "--host", "unix:///mnt/docker.sock"]);
        command
    }
}

fn entered(namespaces: &Namespaces, root: &Path) -> Command {
    let mut command = namespaces.command("chroot");
    command.arg(root).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/tmp");
    command
}

/// PATH with the peers that Go built in front.
fn path() -> Result<std::ffi::OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(go_folder()).chain(std::env::split_paths(&path));
    Ok(std::env::join_paths(folders)?)
}
