//! What davit leaves on a machine: nothing after `system reset`, nothing idle after `system prune`.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use davit_test::{need_tool, until};

use crate::machine::Machine;

/// All that a root could leave behind, by its id and its folders.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    links: BTreeSet<String>,
    tables: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    mounts: BTreeSet<String>,
    processes: BTreeSet<String>,
    files: BTreeSet<String>,
}

fn root_id(machine: &Machine) -> String {
    let format = std::fs::read(machine.davit().root().join("format")).unwrap();
    let format: serde_json::Value = serde_json::from_slice(&format).unwrap();
    format["root_id"].as_str().unwrap()[..8].to_owned()
}

/// Cgroups of a root in every hierarchy.
fn cgroups(id: &str) -> BTreeSet<String> {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let hierarchies = hierarchies.map(|entry| entry.path()).chain(["/sys/fs/cgroup".into()]);
    let places = hierarchies.map(|hierarchy| hierarchy.join(format!("davit-{id}")));
    places.filter(|place| place.is_dir()).map(|place| place.display().to_string()).collect()
}

fn processes(needle: &str) -> BTreeSet<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = std::process::id().to_string();
    let ours = entries.filter(|entry| {
        let read =
            |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        entry.file_name().to_str() != Some(own.as_str())
            // One that has ended, and only waits for its parent to notice, has no executable.
            && std::fs::read_link(entry.path().join("exe")).is_ok()
            && (read("mountinfo").contains(needle) || read("cgroup").contains(needle))
    });
    ours.map(|entry| entry.path().display().to_string()).collect()
}

fn left(machine: &Machine, id: &str) -> Left {
    let words = |text: String, field: usize| {
        let names = text.lines().filter_map(|line| line.split_whitespace().nth(field));
        names.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let davit = machine.davit();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let folder = davit.dir().display().to_string();
    let files = [davit.root(), davit.run_root()].into_iter().filter(|path| path.exists());
    Left {
        links: words(machine.tool("ip -o link"), 1),
        tables: words(machine.tool("nft list tables"), 2),
        cgroups: cgroups(id),
        mounts: mounts.lines().filter(|line| line.contains(&folder)).map(str::to_owned).collect(),
        processes: processes(&format!("davit-{id}")),
        files: files.map(|path| path.display().to_string()).collect(),
    }
}

/// Containers of every kind: with limits, published ports and volumes, running, paused and ended.
fn populate(machine: &Machine) {
    let limits = ["--memory", "64m", "--pids-limit", "50", "--cpus", "0.5", "--cpuset-cpus", "0"];
    let run = |arguments: &[&str]| machine.ok(&[&["run", "-d"], arguments].concat());
    run(&[&limits[..], &["--name", "limited", "busybox", "sleep", "600"]].concat());
    run(&["-p", "8080:80", "-p", "127.0.0.1:53:53/udp", "busybox", "sleep", "600"]);
    for name in ["mine", "idle"] {
        machine.ok(&["network", "create", name]);
    }
    run(&["--network", "mine", "--name", "apart", "-p", "8081:80", "busybox", "sleep", "600"]);
    run(&["-v", "kept:/data", "-v", "/anonymous", "--rm", "busybox", "sleep", "600"]);
    run(&["--name", "frozen", "busybox", "sleep", "600"]);
    machine.ok(&["pause", "frozen"]);
    run(&["--restart", "always", "busybox", "false"]);
    machine.ok(&["run", "busybox", "true"]);
    machine.ok(&["create", "busybox", "true"]);
    let context = machine.davit().dir().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM busybox\nRUN echo built > /file\n").unwrap();
    machine.ok(&["build", "-q", "-t", "built", context.to_str().unwrap()]);
}

#[test]
fn a_reset_leaves_nothing() {
    let Some(machine) = Machine::new() else { return };
    let id = root_id(&machine);
    let before = Left { files: BTreeSet::new(), ..left(&machine, &id) };
    assert_eq!(before, Left { links: ["lo:".to_owned()].into(), ..Left::default() });
    populate(&machine);
    let busy = left(&machine, &id);
    assert!(busy.links.len() > 4 && busy.tables.len() == 1, "{busy:?}");
    assert!(!busy.cgroups.is_empty() && busy.processes.len() > 4, "{busy:?}");
    // Something of the user's in the folder stays.
    std::fs::write(machine.davit().root().join("mine"), "").unwrap();
    machine.ok(&["system", "reset", "--force"]);
    std::fs::remove_file(machine.davit().root().join("mine")).unwrap();
    std::fs::remove_dir(machine.davit().root()).unwrap();
    assert_eq!(left(&machine, &id), before);
    // The same folder is a new store afterwards.
    assert_eq!(machine.ok(&["images", "-q"]), "");
    assert_ne!(root_id(&machine), id);
}

/// A disk that answers late holds a process that was killed for longer than its tree would.
#[test]
fn a_reset_waits_for_what_ends_late() {
    let Some(machine) = Machine::new() else { return };
    let (Some(_), Some(_)) = (need_tool("mkfs.ext4"), need_tool("fsfreeze")) else { return };
    machine.ok(&["run", "-d", "busybox", "sleep", "600"]);
    let groups = cgroups(&root_id(&machine)).into_iter();
    let Some(members) = groups
        .map(|group| Path::new(&group).join("monitors/cgroup.procs"))
        .find(|members| members.with_file_name("cgroup.events").exists())
    else {
        return;
    };
    let disk = machine.davit().dir().join("disk");
    let disk = disk.to_str().unwrap();
    machine.tool(&format!("truncate -s 1M {disk}"));
    machine.tool(&format!("mkfs.ext4 -q {disk}"));
    machine.tool(&format!("mkdir {disk}-mounted"));
    machine.tool(&format!("mount -o loop {disk} {disk}-mounted"));
    machine.tool(&format!("fsfreeze -f {disk}-mounted"));
    let script = "echo $$ >$0; exec mkdir $1-mounted/new";
    let mut late = Command::new("sh");
    let mut late = late.args(["-c", script, members.to_str().unwrap(), disk]).spawn().unwrap();
    let status = format!("/proc/{}/stat", late.id());
    until("it waits for the disk", || {
        std::fs::read_to_string(&status).is_ok_and(|status| status.contains("(mkdir) D "))
    });
    let mut reset = machine.command(&["system", "reset", "--force"]);
    let reset = reset.stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    until("an impatient reset would have failed", || start.elapsed() > Duration::from_secs(3));
    machine.tool(&format!("fsfreeze -u {disk}-mounted"));
    late.wait().unwrap();
    machine.tool(&format!("umount {disk}-mounted"));
    let output = reset.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_reset_asks_first() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["run", "-d", "--name", "kept", "busybox", "sleep", "600"]);
    for answer in ["n\n", "", "no\n"] {
        let mut command = machine.command(&["system", "reset"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && output.stdout.is_empty(), "{told}");
        assert!(told.contains("all containers, running ones too"), "{told}");
        assert!(told.contains(machine.davit().root().to_str().unwrap()), "{told}");
    }
    assert_eq!(machine.ok(&["ps", "--format", "{{.Names}}"]), "kept");
}

#[test]
fn a_failing_test_leaves_nothing() {
    let Some(machine) = Machine::new() else { return };
    let id = root_id(&machine);
    let folder = machine.davit().dir().to_owned();
    let failed = std::thread::spawn(move || {
        machine.ok(&["run", "-d", "--memory", "64m", "-p", "80:80", "busybox", "sleep", "600"]);
        // Unlike a panic it prints nothing, so that the suite's output shows no failure.
        std::panic::resume_unwind(Box::new(machine));
    });
    drop(failed.join().unwrap_err());
    assert_eq!(cgroups(&id), BTreeSet::new());
    assert_eq!(processes(&format!("davit-{id}")), BTreeSet::new());
    assert!(!Path::new(&folder).exists());
}

#[test]
fn a_prune_withdraws_what_is_idle() {
    let Some(machine) = Machine::new() else { return };
    let id = root_id(&machine);
    let bridge = format!("davit-{id}");
    let address =
        || machine.ok(&["run", "--rm", "busybox", "ip", "-4", "-o", "addr", "show", "eth0"]);
    let first = address();
    assert!(left(&machine, &id).links.contains(&format!("{bridge}:")));
    // Its monitor may still be leaving its cgroup.
    until("nothing of the idle root is left", || {
        machine.ok(&["system", "prune", "--force"]);
        let now = left(&machine, &id);
        now.links.len() == 1 && now.tables.is_empty() && now.cgroups.is_empty()
    });
    assert_eq!(address().split_whitespace().nth(3), first.split_whitespace().nth(3));
    // While a container runs, its network stays.
    let web =
        machine.ok(&["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sleep", "600"]);
    // The interface of the one before goes with its namespace, a moment after its end; so does its monitor.
    until("one container is left", || {
        let now = machine.traces();
        let is_webs = |group: &String| group.ends_with(&web);
        now.links.len() == 1 && now.processes.len() == 1 && now.cgroups.iter().all(is_webs)
    });
    let before = left(&machine, &id);
    let rules = machine.tool("nft list ruleset");
    assert!(rules.contains("8080"), "{rules}");
    machine.ok(&["system", "prune", "--force"]);
    assert_eq!(left(&machine, &id), before);
    assert_eq!(machine.tool("nft list ruleset"), rules);
}

#[test]
fn a_prune_never_breaks_a_start() {
    let Some(machine) = Machine::new() else { return };
    let context = machine.davit().dir().join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM busybox\nRUN true\n").unwrap();
    let context = context.to_str().unwrap();
    std::thread::scope(|scope| {
        let runs = scope.spawn(|| {
            for number in 0..15 {
                let limit = if number % 3 == 0 { "--pids-limit=20" } else { "--label=x=y" };
                machine.ok(&["run", "--rm", limit, "-p", "8080:80", "busybox", "true"]);
            }
        });
        let builds = scope.spawn(|| {
            for _ in 0..10 {
                machine.ok(&["build", "-q", "--no-cache", context]);
            }
        });
        while !runs.is_finished() || !builds.is_finished() {
            machine.ok(&["system", "prune", "--force"]);
        }
    });
}

#[test]
fn a_prune_removes_unused_networks() {
    let Some(machine) = Machine::new() else { return };
    for name in ["unused", "used"] {
        machine.ok(&["network", "create", name]);
    }
    machine.ok(&["run", "-d", "--network", "used", "busybox", "sleep", "600"]);
    let mut command = machine.command(&["system", "prune"]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let warning = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(warning.contains("- all networks not used by at least one container"), "{warning}");
    let pruned = machine.ok(&["system", "prune", "-f"]);
    assert!(pruned.starts_with("Deleted Networks:\nunused\n\n"), "{pruned}");
    let names = machine.ok(&["network", "ls", "--format", "{{.Name}}"]);
    assert_eq!(names, "bridge\nhost\nnone\nused");
}
