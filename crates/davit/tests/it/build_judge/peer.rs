//! The peers: Docker 26 with buildx 0.13 from a Debian trixie root made by mmdebstrap.
//!
//! The root is kept in the cache folder between runs. The engine runs in mount, network and process
//! namespaces of its own, on a data folder of the test; when they end, all of it is gone.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::Case;

/// A root with the peers' programs.
#[derive(Debug)]
pub(crate) struct Peer {
    root: PathBuf,
    busybox: PathBuf,
}

impl Peer {
    /// The root from the cache, or made now (half a minute); a skip where it cannot be had.
    pub(crate) fn new() -> Option<Self> {
        let root = davit_test::need_peer_root()?;
        let busybox = root.join("usr/bin/busybox");
        Some(Self { root, busybox })
    }

    /// The busybox that the record was made with.
    pub(super) fn busybox(&self) -> &Path {
        &self.busybox
    }

    /// Builds all cases with Docker; `docker.tar` beside each Dockerfile is the result.
    pub(super) fn docker(&self, work: &Path, cases: &[Case]) {
        let mut script = DOCKER.to_owned();
        for case in cases {
            let folder = format!("/mnt/cases/{}", case.name);
            script.push_str(&format!(
                "cd {folder}; docker buildx build --quiet --network none --tag case-{name}:made {options} \
                 --file {folder}/Dockerfile {folder}/context >{folder}/docker.log 2>&1 && \
                 docker save --output {folder}/docker.tar case-{name}:made\n",
                name = case.name,
                options = case.options.join(" "),
            ));
        }
        script.push_str("kill $engine; wait $engine; true\n");
        self.run(work, &script);
        assert!(work.join("loaded").exists(), "the engine did not start; see dockerd.log");
    }

    /// Runs commands beside an engine that has loaded `work/base.tar`; `work` is /mnt for them.
    pub(crate) fn beside_engine(&self, work: &Path, commands: &str) {
        self.run(work, &format!("{DOCKER}{commands}\nkill $engine; wait $engine; true\n"));
        assert!(work.join("loaded").exists(), "the engine did not start; see dockerd.log");
    }

    /// Runs a script in the root, with `work` at /mnt, in namespaces that end with it.
    fn run(&self, work: &Path, script: &str) {
        let outer =
            format!("set -e\nroot='{}'\nwork='{}'\n{ENTER}", self.root.display(), work.display());
        fs_err::write(work.join("script"), script).unwrap();
        let output = Command::new("unshare")
            .args([
                "--mount",
                "--net",
                "--pid",
                "--fork",
                "--kill-child",
                "--propagation",
                "private",
            ])
            .args(["sh", "-c", &outer])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    }
}

/// Mounts what the engine needs and goes into the root. Cgroups v2 are hidden where they are only
/// a part of a hybrid hierarchy, which containers' tools cannot handle.
const ENTER: &str = r#"
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
if [ -d "$root/sys/fs/cgroup/unified" ]; then umount "$root/sys/fs/cgroup/unified" || true; fi
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$work" "$root/mnt"
mkdir -p "$work/docker" "$root/var/lib/docker"
mount --bind "$work/docker" "$root/var/lib/docker"
ip link set lo up
chroot "$root" sh /mnt/script
for folder in "$root"/sys/fs/cgroup/*/docker; do
    if [ -d "$folder" ]; then find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true; fi
done
"#;

const DOCKER: &str = r"
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
dockerd --bridge=none --iptables=false --ip6tables=false \
    --exec-opt native.cgroupdriver=cgroupfs >/mnt/dockerd.log 2>&1 &
engine=$!
tries=0
until docker load --quiet --input /mnt/base.tar; do
    tries=$((tries + 1))
    if [ $tries -gt 3000 ]; then kill $engine; exit 1; fi
    sleep 0.1
done >/dev/null 2>&1
touch /mnt/loaded
";
