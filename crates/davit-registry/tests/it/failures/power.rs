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
    let tools = ["unshare", "mkfs.ext4", "losetup", "mount", "truncate"];
    if !need_root() || tools.iter().any(|tool| need_tool(tool).is_none()) {
        return;
    }
    if !Path::new("/dev/loop-control").exists() {
        davit_test::skip("needs loop devices");
        return;
    }
    let folder = TempDir::new();
    let child = start("power", folder.path(), &["unshare", "--mount"]);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

fn run(program: &str, words: &[&str]) {
    let output = Command::new(program).args(words).output().unwrap();
    assert!(output.status.success(), "{program} {words:?}: {output:?}");
}

/// Cuts the power some times, in a mount namespace of its own.
pub(super) fn cuts(folder: &Path) {
    let path = |name: &str| folder.join(name).display().to_string();
    let (medium, copy, mounted, after) =
        (path("medium"), path("copy"), path("mounted"), path("after"));
    run("truncate", &["-s", MEDIUM, &medium]);
    run("mkfs.ext4", &["-q", "-F", &medium]);
    for place in [&mounted, &after] {
        fs_err::create_dir(place).unwrap();
    }
    // The journal is committed when somebody asks for it, and so is what ext4 would write by itself.
    run("mount", &["-o", "loop,commit=3600", &medium, &mounted]);
    let mut expected = BTreeMap::<String, Expected>::new();
    for round in 0..kills(3) {
        let mut child = start("push", Path::new(&mounted), &[]);
        // Kept open until it is killed, so that it does not end by itself.
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = 8 + 9 * round;
        for line in lines.by_ref().map_while(Result::ok).take(enough) {
            note(&mut expected, &line);
        }
        freeze(&child);
        fs_err::copy(&medium, &copy).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // What it wrote between the last line that was read and its end is as true.
        for line in lines.map_while(Result::ok) {
            note(&mut expected, &line);
        }
        run("mount", &["-o", "loop", &copy, &after]);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(recovers(Path::new(&after), &expected));
        drop(runtime);
        run("umount", &[&after]);
        // It goes on where the kill left it, which is later than the copy.
        for of_tag in expected.values_mut() {
            of_tag.must_be = false;
            of_tag.may_be.clear();
        }
        fs_err::remove_dir_all(Path::new(&mounted).join("blobs")).unwrap();
        for file in ["registry.db", "registry.db-wal", "registry.db-shm"] {
            fs_err::remove_file(Path::new(&mounted).join(file)).unwrap();
        }
    }
    run("umount", &[&mounted]);
}

/// Stops a process, and waits until none of its threads is in the kernel any more.
fn freeze(child: &Child) {
    let id = child.id();
    run("kill", &["-STOP", &id.to_string()]);
    let begun = Instant::now();
    let is_stopped = |thread: &Path| {
        let stat = fs_err::read_to_string(thread.join("stat")).unwrap();
        stat.rsplit_once(')').unwrap().1.trim().starts_with('T')
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
