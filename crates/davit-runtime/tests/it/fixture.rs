//! A root file system and the shortest way to run something in it.

use std::{
    fs::File,
    io::Read as _,
    os::fd::{AsFd as _, OwnedFd},
    os::unix::fs::symlink,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use davit_runtime::{
    Cgroups, Launch, LaunchError, Launched, Plan, Running, StdioPlan, Streams, launch,
    launch::StdinPlan, process::ExitStatus,
};
use davit_sys::mount::{Extent, clone_tree};
use davit_test::{TempDir, need_root, need_tool, skip};

static NEXT: AtomicU32 = AtomicU32::new(0);
/// The copy of the fixtures that live; it goes with the last of them.
static BUSYBOX: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());

/// A directory that is a container's root, and the cgroup of the test.
pub(crate) struct Fixture {
    pub(crate) directory: TempDir,
    pub(crate) cgroups: Cgroups,
    parent: String,
    _busybox: Arc<TempDir>,
}

/// What a container did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Standard output of a success.
    pub(crate) fn text(self) -> String {
        assert_eq!(self.status, ExitStatus::Exited(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

impl Fixture {
    /// `None`, recorded as skipped, without root or busybox.
    pub(crate) fn new() -> Option<Self> {
        if !need_root() {
            return None;
        }
        let busybox = need_tool("busybox")?;
        crate::allocator::forbid_in_children();
        let cgroups = match Cgroups::discover() {
            Ok(cgroups) => cgroups,
            Err(error) => {
                skip(&format!("needs cgroups: {error}"));
                return None;
            }
        };
        let directory = TempDir::new();
        for name in ["bin", "etc", "tmp", "proc", "dev", "sys", "root"] {
            fs_err::create_dir(directory.join(name)).unwrap();
        }
        // One copy for all, made before any clone: a child that holds it open for writing would make
        // it busy.
        let mut known = BUSYBOX.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = known.upgrade().unwrap_or_else(|| {
            let shared = Arc::new(TempDir::new());
            fs_err::copy(busybox, shared.join("busybox")).unwrap();
            *known = Arc::downgrade(&shared);
            shared
        });
        drop(known);
        fs_err::hard_link(shared.join("busybox"), directory.join("bin/busybox")).unwrap();
        for name in [
            "sh", "true", "cat", "ls", "id", "sleep", "mount", "umount", "mknod", "stat", "touch",
            "echo", "hostname", "tty", "stty", "kill", "env", "pwd", "head", "grep", "readlink",
            "ps", "chroot", "seq", "dd", "mkdir", "ln", "rm", "unshare", "test", "wc", "tr",
        ] {
            symlink("busybox", directory.join("bin").join(name)).unwrap();
        }
        let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n";
        fs_err::write(directory.join("etc/passwd"), passwd).unwrap();
        fs_err::write(directory.join("etc/group"), "root:x:0:\napp:x:1000:\nwheel:x:10:app\n")
            .unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let parent = format!("davit-test-{}-{number}", std::process::id());
        Some(Self { directory, cgroups, parent, _busybox: shared })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Path of a cgroup of this test.
    pub(crate) fn cgroup(&self, name: &str) -> String {
        format!("{}/{name}", self.parent)
    }

    /// Docker's defaults for a command.
    pub(crate) fn plan(&self, args: &[&str]) -> Plan {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        Plan::container(args, self.cgroup(&format!("c{number}")))
    }

    /// Docker's defaults for a line of shell.
    pub(crate) fn shell(&self, script: &str) -> Plan {
        self.plan(&["sh", "-c", script])
    }

    /// A detached mount of the directory.
    pub(crate) fn root(&self) -> OwnedFd {
        clone_tree(self.directory.path(), Extent::Single).unwrap()
    }

    pub(crate) fn launch(&self, plan: &Plan) -> Result<Launched, LaunchError> {
        self.launch_with(plan, StdioPlan::Pipes { stdin: StdinPlan::Null })
    }

    pub(crate) fn launch_with(
        &self,
        plan: &Plan,
        stdio: StdioPlan,
    ) -> Result<Launched, LaunchError> {
        let root = self.root();
        launch(Launch {
            plan,
            root: root.as_fd(),
            descriptors: &[],
            stdio,
            cgroups: &self.cgroups,
            network: None,
            sharing: None,
        })
    }

    pub(crate) fn start(&self, plan: &Plan) -> Result<Running, LaunchError> {
        self.launch(plan)?.start()
    }

    /// Runs to the end.
    pub(crate) fn run(&self, plan: &Plan) -> Result<Outcome, LaunchError> {
        self.start(plan).map(finish)
    }

    /// Runs a line of shell to its success, and returns what it wrote.
    pub(crate) fn output(&self, script: &str) -> String {
        self.run(&self.shell(script)).unwrap().text()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Ok(cgroup) = self.cgroups.open(&self.parent) {
            cgroup.kill().unwrap();
        }
        let removed = self.cgroups.remove(&self.parent);
        if !std::thread::panicking() {
            removed.unwrap();
        }
    }
}

/// Reads the streams to their end, waits, and removes the cgroup.
pub(crate) fn finish(running: Running) -> Outcome {
    let Streams::Pipes { stdin, stdout, stderr } = running.streams else {
        panic!("the container has no pipes");
    };
    drop(stdin);
    let errors = std::thread::spawn(move || read_all(stderr));
    let stdout = read_all(stdout);
    let status = running.process.wait().unwrap();
    running.cgroup.remove().unwrap();
    Outcome { status, stdout, stderr: errors.join().unwrap() }
}

pub(crate) fn read_all(pipe: OwnedFd) -> String {
    let mut bytes = Vec::new();
    File::from(pipe).read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
