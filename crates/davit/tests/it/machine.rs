//! A machine for container tests: the binary in network and mount namespaces of the test's own,
//! and what is left on it.

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use davit_test::{Davit, Outcome, need_image, need_root, need_tool, until};

/// davit on roots of its own in a network namespace of its own, with the image `busybox`.
#[derive(Debug)]
pub(crate) struct Machine {
    davit: Davit,
    holder: Child,
}

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks; looking without a break would take a core from what is waited for.
const LOOK: Duration = Duration::from_millis(2);

/// What davit could leave behind on a machine.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Traces {
    pub(crate) links: BTreeSet<String>,
    rules: String,
    pub(crate) cgroups: BTreeSet<String>,
    mounts: usize,
    pub(crate) processes: BTreeSet<String>,
}

impl Machine {
    /// Makes one; `None` (recorded as skipped) without root, `unshare` or the image.
    pub(crate) fn new() -> Option<Self> {
        if !need_root() {
            return None;
        }
        let (mut unshare, _nsenter) = (Command::new(need_tool("unshare")?), need_tool("nsenter")?);
        unshare.args(["--net", "--kill-child", "sh", "-c"]);
        Self::held_by(unshare.arg("ip link set lo up; exec sleep 900"))
    }

    /// Other roots in the same network namespace.
    pub(crate) fn beside(&self) -> Option<Self> {
        let mut enter = Command::new("nsenter");
        Self::held_by(
            enter.arg(format!("--net={}", self.namespace().display())).args(["sleep", "900"]),
        )
    }

    fn held_by(command: &mut Command) -> Option<Self> {
        let image = need_image("busybox-musl-amd64")?;
        let holder = command.stdin(Stdio::null()).spawn().expect("the holder starts");
        let machine = Self { davit: crate::davit(), holder };
        machine.wait_for_namespace();
        machine.load(&image);
        Some(machine)
    }

    fn wait_for_namespace(&self) {
        let own = std::fs::read_link("/proc/self/ns/net").expect("own namespace");
        let path = format!("/proc/{}/ns/net", self.holder.id());
        until("the holder is in its namespace", || {
            std::fs::read_link(&path).is_ok_and(|link| link != own)
        });
    }

    fn load(&self, image: &Path) {
        let archive = self.davit.dir().join("busybox.tar");
        let status = Command::new("tar")
            .arg("-C")
            .arg(image)
            .arg("-cf")
            .arg(&archive)
            .arg(".")
            .status()
            .expect("tar starts");
        assert!(status.success());
        self.ok(&["load", "-q", "-i", archive.to_str().expect("UTF-8")]);
        if self.run(&["image", "inspect", "busybox"]).code != 0 {
            let ids = self.ok(&["images", "-q"]);
            self.ok(&["tag", ids.lines().next().expect("an image"), "busybox"]);
        }
    }

    /// The roots.
    pub(crate) fn davit(&self) -> &Davit {
        &self.davit
    }

    /// Its network namespace.
    pub(crate) fn namespace(&self) -> std::path::PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }

    /// A command inside the machine's network, with signals as a shell at a terminal leaves them.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let inner = self.davit.command(arguments);
        // Whoever runs the tests in the background ignores Ctrl-C, which every program inherits.
        let mut command = Command::new("env");
        command.args(["--default-signal", "nsenter"]);
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id()));
        command.arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs davit to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::from(self.command(arguments).output().expect("davit starts"))
    }

    /// Runs davit, which must succeed; its output without the last line end.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!(outcome.code, 0, "{arguments:?}: {}{}", outcome.stdout, outcome.stderr);
        outcome.stdout.trim_end_matches('\n').to_owned()
    }

    /// Runs another program in the machine's network; its output.
    pub(crate) fn tool(&self, line: &str) -> String {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id()));
        let output = command.args(line.split_whitespace()).output().expect("nsenter starts");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What is on the machine now.
    pub(crate) fn traces(&self) -> Traces {
        let links = self.tool("ip -o link");
        let name = |line: &str| {
            line.split(": ").nth(1).map(|name| name.split('@').next().unwrap_or(name).to_owned())
        };
        let veths = links.lines().filter_map(name).filter(|name| name.starts_with("veth"));
        let root = self.davit.root().display().to_string();
        Traces {
            links: veths.collect(),
            rules: self.elements(),
            cgroups: self.cgroups(),
            mounts: std::fs::read_to_string("/proc/self/mountinfo")
                .expect("readable")
                .matches(&root)
                .count(),
            processes: processes(&root),
        }
    }

    fn elements(&self) -> String {
        let rules = self.tool("nft list ruleset");
        let lines = rules.lines().filter(|line| line.contains(" : ") && line.contains("elements"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Cgroups of this root's containers and build steps.
    fn cgroups(&self) -> BTreeSet<String> {
        let format = std::fs::read_to_string(self.davit.root().join("format")).unwrap_or_default();
        let mut found = BTreeSet::new();
        for hierarchy in ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"] {
            let parents = std::fs::read_dir(hierarchy).into_iter().flatten().flatten();
            let ours = parents.filter(|entry| {
                let name = entry.file_name().to_string_lossy().into_owned();
                name.strip_prefix("davit-").is_some_and(|id| format.contains(id))
            });
            for parent in ours {
                let children = std::fs::read_dir(parent.path()).into_iter().flatten().flatten();
                let ours = children.filter(|child| {
                    let name = child.file_name();
                    name.len() == 64 || name.to_string_lossy().starts_with("build-")
                });
                found.extend(ours.map(|child| child.path().display().to_string()));
            }
        }
        found
    }

    /// What is on the machine after a first container came and went: bridge and table are there.
    pub(crate) fn settled(&self) -> Traces {
        self.ok(&["run", "--rm", "busybox", "true"]);
        until("the first container is gone", || {
            let traces = self.traces();
            traces.links.is_empty() && traces.cgroups.is_empty() && traces.processes.is_empty()
        });
        self.traces()
    }

    /// Waits until the machine is as it was.
    pub(crate) fn await_traces(&self, before: &Traces) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.traces();
            if now == *before {
                return;
            }
            assert!(Instant::now() < deadline, "left: {now:#?}\nbefore: {before:#?}");
            std::thread::sleep(LOOK);
        }
    }
}

/// Command lines of monitors and helpers of a root.
fn processes(root: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| {
        let maps = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let mounts = std::fs::read_to_string(entry.path().join("mountinfo")).unwrap_or_default();
        let helper = maps.contains("__monitor") || maps.contains("__build-supervisor");
        let ours = helper && mounts.contains(&root.replace("/root", "/run"));
        ours.then(|| maps.replace('\0', " "))
    });
    lines.collect()
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Here, not in [`Davit`]: bridge and rules are in this network namespace.
        let outcome = self.run(&["system", "reset", "--force"]);
        drop(self.holder.kill());
        drop(self.holder.wait());
        // A failing test must show its own failure, not that of the cleaning up.
        let told = outcome.code == 0 || std::thread::panicking();
        assert!(told, "davit system reset: {}", outcome.stderr);
    }
}
