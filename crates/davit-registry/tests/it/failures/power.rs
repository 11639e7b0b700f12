//! Case 3: the power goes. What the medium holds at one instant is copied, without what only memory
//! holds, and the file system on the copy is mounted as after a crash.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use davit_test::{TempDir, kills, need_root, need_tool};

use super::{Expected, note, recovers, start};

/// Bytes of the medium: room for ext4's journal and a few hundred images.
const MEDIUM: &str = "64m";

#[test]
fn what_was_acknowledged_outlives_a_power_cut() {
    with_loop_devices("power");
}

/// The test above sees what a registry loses that does not flush.
#[test]
fn flushes_that_are_left_out_are_noticed() {
    if need_tool("strace").is_some() {
        with_loop_devices("lying medium");
    }
}

fn with_loop_devices(part: &str) {
    let tools = ["unshare", "mkfs.ext4", "losetup", "mount", "truncate"];
    if !need_root() || tools.iter().any(|tool| need_tool(tool).is_none()) {
        return;
    }
    if !Path::new("/dev/loop-control").exists() {
        davit_test::skip("needs loop devices");
        return;
    }
    let folder = TempDir::new();
    let child = start(part, folder.path(), &["unshare", "--mount"]);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
}

/// Cuts the power some times, in a mount namespace of its own.
pub(super) fn cuts(folder: &Path) {
    let medium = Medium::make(folder);
    for round in 0..kills(3) {
        let expected = medium.cut(&[], 8 + 9 * round);
        medium.recovers(&expected);
        medium.clear();
    }
}

/// The same while calls that flush do nothing and say that they did.
pub(super) fn lies(folder: &Path) {
    let medium = Medium::make(folder);
    for call in ["fsync", "fdatasync"] {
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:retval=0"));
        // The one who traces is no parent: the process that is stopped is the one that was started.
        let lie = ["strace", "-D", "-f", "-qqq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
        let expected = medium.cut(&lie, 16);
        let check = std::panic::AssertUnwindSafe(|| medium.recovers(&expected));
        assert!(std::panic::catch_unwind(check).is_err(), "nobody misses {call}");
        // What was being checked may still be open.
        run("umount", &["-l", &medium.after]);
        medium.clear();
    }
}

/// A file with a file system, which is mounted, and a copy of it as of a power cut.
struct Medium {
    file: String,
    copy: String,
    mounted: String,
    after: String,
}

impl Medium {
    fn make(folder: &Path) -> Self {
        let path = |name: &str| folder.join(name).display().to_string();
        let [file, copy, mounted, after] = ["medium", "copy", "mounted", "after"].map(path);
        run("truncate", &["-s", MEDIUM, &file]);
        run("mkfs.ext4", &["-q", "-F", &file]);
        for place in [&mounted, &after] {
            fs_err::create_dir(place).unwrap();
        }
        // The journal is committed when somebody asks for it, and so is what ext4 would write by itself.
        run("mount", &["-o", "loop,commit=3600", &file, &mounted]);
        Self { file, copy, mounted, after }
    }

    /// Pushes until so many lines were said, and copies the medium; what must be on the copy.
    fn cut(&self, before: &[&str], enough: usize) -> BTreeMap<String, Expected> {
        let mut expected = BTreeMap::new();
        let mut child = start("push", Path::new(&self.mounted), before);
        // Kept open until it is killed, so that it does not end by itself.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines.by_ref().map_while(Result::ok).take(enough) {
            note(&mut expected, &line);
        }
        freeze(&child);
        fs_err::copy(&self.file, &self.copy).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // What it wrote between the last line that was read and its end is as true.
        for line in lines.map_while(Result::ok) {
            note(&mut expected, &line);
        }
        expected
    }

    /// Checks the copy.
    fn recovers(&self, expected: &BTreeMap<String, Expected>) {
        run("mount", &["-o", "loop", &self.copy, &self.after]);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(recovers(Path::new(&self.after), expected));
        drop(runtime);
        run("umount", &[&self.after]);
    }

    /// Removes the registry: the kill left it later than the copy is.
    fn clear(&self) {
        let mounted = Path::new(&self.mounted);
        fs_err::remove_dir_all(mounted.join("blobs")).unwrap();
        for file in ["registry.db", "registry.db-wal", "registry.db-shm"] {
            fs_err::remove_file(mounted.join(file)).unwrap();
        }
    }
}

impl Drop for Medium {
    fn drop(&mut self) {
        // The namespace ends with its mounts in any case.
        let _unmounted = Command::new("umount").arg(&self.mounted).status();
    }
}

/// Stops a process, and waits until none of its threads is in the kernel any more.
fn freeze(child: &Child) {
    let id = child.id();
    run("kill", &["-STOP", &id.to_string()]);
    let begun = Instant::now();
    let is_stopped = |thread: &Path| {
        let stat = fs_err::read_to_string(thread.join("stat")).unwrap();
        // Also by whoever traces it.
        stat.rsplit_once(')').unwrap().1.trim().starts_with(['T', 't'])
    };
    loop {
        let threads = fs_err::read_dir(format!("/proc/{id}/task")).unwrap();
        if threads.map(Result::unwrap).all(|thread| is_stopped(&thread.path())) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "it stops");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}
