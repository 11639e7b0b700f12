//! Verbs that look into containers and at the machine.

use std::collections::BTreeMap;

use davit_test::until;

use crate::machine::Machine;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn inspect_finds_objects_of_every_kind() {
    let Some(machine) = Machine::new() else { return };
    let id = machine.ok(&["create", "--name", "box", "-v", "data:/d", "busybox", "true"]);
    let both = json(&machine.ok(&["inspect", "box", "busybox", "bridge", "data"]));
    assert_eq!(both.as_array().map(Vec::len), Some(4));
    assert_eq!(both[0]["Id"], id.as_str());
    assert!(both[1]["RepoTags"].is_array(), "{}", both[1]);
    assert_eq!(both[2]["Driver"], "bridge");
    assert_eq!(both[3]["Name"], "data");
    let format = machine.ok(&["inspect", "-f", "{{.Id}}", "--type", "container", &id[..12]]);
    assert_eq!(format, id);
    // A container comes before an image of the same name, unless the type says otherwise.
    machine.ok(&["create", "--name", "busybox", "busybox", "true"]);
    assert_eq!(machine.ok(&["inspect", "-f", "{{.Name}}", "busybox"]), "/busybox");
    let tags = machine.ok(&["inspect", "--type", "image", "-f", "{{json .RepoTags}}", "busybox"]);
    assert!(tags.contains("busybox:latest"), "{tags}");
    let sized = json(&machine.ok(&["inspect", "-s", "box"]));
    assert!(sized[0]["SizeRootFs"].as_u64().is_some_and(|size| size > 0));
    let refusals: [(&[&str], &str); 5] = [
        (&["inspect", "nothing"], "no such object: nothing"),
        (&["inspect", "--type", "container", "data"], "No such container: data"),
        (&["inspect", "--type", "image", "box"], "No such image: box"),
        (&["inspect", "--type", "volume", "box"], "get box: no such volume"),
        (&["inspect", "--type", "network", "box"], "network box not found"),
    ];
    for (command, expected) in refusals {
        let refused = machine.run(command);
        assert_eq!((refused.code, refused.stdout.trim()), (1, "[]"), "{command:?}");
        assert!(refused.stderr.contains(expected), "{command:?}: {}", refused.stderr);
    }
    let partly = machine.run(&["inspect", "nothing", "box"]);
    assert_eq!(json(&partly.stdout)[0]["Id"], id.as_str());
    assert_eq!(partly.code, 1);
}

#[test]
fn info_counts() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["create", "busybox", "true"]);
    machine.ok(&["run", "-d", "--name", "busy", "busybox", "sleep", "600"]);
    let info = json(&machine.ok(&["info", "--format", "json"]));
    let counts = ["Containers", "ContainersRunning", "ContainersPaused", "ContainersStopped"]
        .map(|name| info[name].as_u64().unwrap_or(99));
    assert_eq!(counts, [2, 1, 0, 1]);
    assert_eq!(info["Images"], 1);
    machine.ok(&["pause", "busy"]);
    let format = "{{.ContainersRunning}} {{.ContainersPaused}} {{.DockerRootDir}}";
    let root = machine.davit().root().display().to_string();
    assert_eq!(machine.ok(&["system", "info", "-f", format]), format!("0 1 {root}"));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("release");
    let text = machine.ok(&["info"]);
    for line in [
        "Containers: 2",
        " Paused: 1",
        &format!("Kernel Version: {}", kernel.trim()),
        &format!("Docker Root Dir: {root}"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
    }
    let form = info["DriverStatus"][0][1].as_str().expect("a form");
    assert!(["erofs", "dirs", "dirs-volume", "copy"].contains(&form), "{form}");
    assert!(matches!(info["CgroupVersion"].as_str(), Some("1" | "2")));
}

#[test]
fn top_shows_processes() {
    let Some(machine) = Machine::new() else { return };
    let line = "sleep 601 & exec sleep 602";
    machine.ok(&["run", "-d", "--name", "busy", "-u", "65533", "busybox", "sh", "-c", line]);
    let pid = machine.ok(&["inspect", "-f", "{{.State.Pid}}", "busy"]);
    // Not the shell that becomes one of them, nor its child before that is the other.
    let is_sleep = |row: &str| row.split_whitespace().nth(7) == Some("sleep");
    until("both run", || {
        machine.ok(&["top", "busy"]).lines().filter(|row| is_sleep(row)).count() == 2
    });
    let table = machine.ok(&["top", "busy"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|it| it.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    let first = rows.iter().find(|row| row.ends_with(&["sleep", "602"])).expect("the command");
    assert_eq!((first[0], first[1], first[5]), ("65533", pid.as_str(), "?"));
    assert!(first[6].starts_with("00:00:"), "{table}");
    let child = rows.iter().find(|row| row.ends_with(&["sleep", "601"])).expect("its child");
    assert_eq!(child[2], pid);
    assert_eq!(table.find("PID"), Some(20), "columns are as wide as Docker's");
    let chosen = machine.ok(&["container", "top", "busy", "-o", "pid,comm=NAME"]);
    assert!(chosen.lines().any(|row| row.split_whitespace().eq([pid.as_str(), "sleep"])));
    assert!(chosen.lines().next().is_some_and(|row| row.split_whitespace().eq(["PID", "NAME"])));
    assert!(machine.ok(&["top", "busy", "aux"]).starts_with("USER"));
    let bsd = machine.ok(&["top", "busy", "axo", "pid,comm"]);
    assert!(bsd.lines().any(|row| row.split_whitespace().eq([pid.as_str(), "sleep"])), "{bsd}");
    let key = machine.ok(&["inspect", "-f", "{{.NetworkSettings.SandboxKey}}", "busy"]);
    let (known, inner) = (std::fs::read_link(key), format!("/proc/{pid}/ns/net"));
    assert_eq!(known.expect("a namespace"), std::fs::read_link(inner).expect("a namespace"));
    let refused = machine.run(&["top", "busy", "-o", "pid,secrets"]);
    assert!(refused.code == 1 && refused.stderr.contains("\"secrets\""), "{}", refused.stderr);
    machine.ok(&["kill", "busy"]);
    let gone = machine.run(&["top", "busy"]);
    assert!(gone.code == 1 && gone.stderr.contains("is not running"), "{}", gone.stderr);
}

/// A script that adds, changes and removes, and its lines in `diff`.
const WORK: &str = "mkdir /new && echo one > /new/file && ln /new/file /new/link \
    && echo more >> /etc/passwd && rm /etc/group && echo v > /d/in-volume && echo d > /dev/shm/x";
const DIFFERENCE: &str = "C /etc\nD /etc/group\nC /etc/passwd\nA /new\nA /new/file\nA /new/link";

/// The lines of a `diff` without the mountpoint of the volume.
fn difference(machine: &Machine, name: &str) -> String {
    let text = machine.ok(&["diff", name]);
    let lines = text.lines().filter(|line| *line != "A /d");
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn diff_tells_what_a_container_changed() {
    let Some(machine) = Machine::new() else { return };
    let command = ["-v", "data:/d", "busybox", "sh", "-c"];
    machine.ok(&[&["create", "--name", "box"][..], &command, &[WORK]].concat());
    assert_eq!(machine.ok(&["diff", "box"]), "", "nothing before it ran");
    machine.ok(&["start", "-a", "box"]);
    assert_eq!(difference(&machine, "box"), DIFFERENCE);
    let line = format!("{WORK} && touch /ready && exec sleep 600");
    machine.ok(&[&["run", "-d", "--name", "busy"][..], &command, &[&line]].concat());
    until("it has written", || machine.run(&["exec", "busy", "test", "-e", "/ready"]).code == 0);
    assert_eq!(difference(&machine, "busy"), format!("{DIFFERENCE}\nA /ready"));
    machine.ok(&["run", "--name", "idle", "busybox", "cat", "/etc/passwd"]);
    assert_eq!(machine.ok(&["container", "diff", "idle"]), "");
    let gone = machine.run(&["diff", "nothing"]);
    assert!(gone.code == 1 && gone.stderr.contains("No such container: nothing"));
}

/// Paths, kinds, sizes and link targets of a tar.
fn members(archive: &[u8]) -> BTreeMap<String, (tar::EntryType, u64, Option<String>)> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().expect("a tar").map(|entry| {
        let entry = entry.expect("whole");
        let text = |path: &std::path::Path| path.display().to_string();
        let path = text(&entry.path().expect("a path")).trim_end_matches('/').to_owned();
        let link = entry.link_name().expect("a link").map(|link| text(&link));
        (path, (entry.header().entry_type(), entry.size(), link))
    });
    entries.collect()
}

#[test]
fn export_writes_the_whole_tree() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["run", "--name", "box", "-v", "data:/d", "busybox", "sh", "-c", WORK]);
    let file = machine.davit().dir().join("box.tar");
    let path = file.to_str().expect("UTF-8");
    assert_eq!(machine.ok(&["export", "-o", path, "box"]), "");
    let archive = std::fs::read(&file).expect("written");
    let found = members(&archive);
    assert_eq!(found["new/file"], (tar::EntryType::Regular, 4, None));
    let link = (tar::EntryType::Link, 0, Some("new/file".to_owned()));
    assert_eq!(found["new/link"], link);
    assert!(found.contains_key("bin/busybox") || found.contains_key("bin/sh"), "{found:?}");
    for absent in ["etc/group", "d/in-volume", "dev/shm/x", "etc/.wh.group"] {
        assert!(!found.contains_key(absent), "{absent}");
    }
    let output = machine.command(&["container", "export", "box"]).output().expect("it runs");
    assert!(output.status.success() && output.stdout == archive, "standard output has the same");
    machine.ok(&["import", path, "again"]);
    assert_eq!(machine.ok(&["run", "--rm", "again", "/bin/sh", "-c", "cat /new/link"]), "one");
    let left: Vec<_> = std::fs::read_dir(machine.davit().dir()).expect("read").flatten().collect();
    assert!(!left.iter().any(|it| it.file_name().to_string_lossy().starts_with(".davit-")));
    let gone = machine.run(&["export", "-o", path, "nothing"]);
    assert!(gone.code == 1 && gone.stderr.contains("No such container: nothing"));
    assert_eq!(std::fs::read(&file).expect("still there"), archive);
}

#[test]
fn commit_makes_an_image() {
    let Some(machine) = Machine::new() else { return };
    machine
        .ok(&["run", "--name", "box", "-v", "data:/d", "-e", "A=1", "busybox", "sh", "-c", WORK]);
    let id = machine.ok(&[
        "commit",
        "-a",
        "me",
        "-m",
        "remark",
        "-c",
        "CMD [\"cat\", \"/new/link\"]",
        "-c",
        "ENV B=2",
        "box",
        "made:one",
    ]);
    assert!(id.starts_with("sha256:"), "{id}");
    let image = &json(&machine.ok(&["image", "inspect", "made:one"]))[0];
    assert_eq!((image["Id"].as_str(), image["Author"].as_str()), (Some(&*id), Some("me")));
    assert_eq!(machine.ok(&["run", "--rm", "made:one"]), "one");
    let script =
        "echo $A$B; test ! -e /etc/group && ! test -e /d/in-volume && tail -n1 /etc/passwd";
    assert_eq!(machine.ok(&["run", "--rm", "made:one", "sh", "-c", script]), "12\nmore");
    let history = machine.ok(&["history", "--format", "{{.Comment}}", "made:one"]);
    assert_eq!(history.lines().next(), Some("remark"));
    let layers = |name: &str| {
        json(&machine.ok(&["image", "inspect", name]))[0]["RootFS"]["Layers"]
            .as_array()
            .map(Vec::len)
    };
    assert_eq!(layers("made:one"), layers("busybox").map(|count| count + 1));
    // Nothing changed: no layer.
    machine.ok(&["create", "--name", "idle", "busybox", "true"]);
    machine.ok(&["container", "commit", "idle", "made:two"]);
    assert_eq!(layers("made:two"), layers("busybox"));
    assert_eq!(machine.ok(&["run", "--rm", "made:two", "echo", "runs"]), "runs");
    let refused = machine.run(&["commit", "-c", "RUN true", "box", "made:three"]);
    assert!(refused.code == 1 && refused.stderr.contains("RUN true"), "{}", refused.stderr);
    assert_eq!(machine.run(&["image", "inspect", "made:three"]).code, 1);
    assert_eq!(machine.run(&["commit", "box", "BAD:name"]).code, 1);
    let check = machine.run(&["system", "check"]);
    assert_eq!(check.code, 0, "{}{}", check.stdout, check.stderr);
}

#[test]
fn commit_of_a_running_container_lets_it_go_on() {
    let Some(machine) = Machine::new() else { return };
    let line = "echo first > /file; i=0; while true; do i=$((i+1)); echo $i > /tick; done";
    machine.ok(&["run", "-d", "--name", "busy", "busybox", "sh", "-c", line]);
    until("it has written", || machine.run(&["exec", "busy", "test", "-s", "/tick"]).code == 0);
    // A loop that writes all the time: only a frozen one can be copied for sure.
    machine.ok(&["commit", "busy", "live"]);
    assert_eq!(machine.ok(&["inspect", "-f", "{{.State.Status}}", "busy"]), "running");
    let tick = machine.ok(&["exec", "busy", "cat", "/tick"]);
    until("it goes on", || machine.run(&["exec", "busy", "cat", "/tick"]).stdout.trim() != tick);
    assert_eq!(machine.ok(&["run", "--rm", "live", "cat", "/file"]), "first");
    // One that was paused already stays so.
    machine.ok(&["pause", "busy"]);
    machine.ok(&["commit", "-p", "busy", "frozen"]);
    assert_eq!(machine.ok(&["inspect", "-f", "{{.State.Status}}", "busy"]), "paused");
    machine.ok(&["unpause", "busy"]);
    machine.ok(&["run", "-d", "--name", "calm", "busybox", "sleep", "600"]);
    machine.ok(&["commit", "--pause=false", "calm", "unpaused"]);
    assert_eq!(machine.ok(&["inspect", "-f", "{{.State.Status}}", "calm"]), "running");
}

#[test]
fn a_commit_that_is_killed_lets_its_container_go_on() {
    let Some(machine) = Machine::new() else { return };
    let line = "dd if=/dev/urandom of=/big bs=1M count=200 2>/dev/null; echo ready; exec sleep 600";
    machine.ok(&["run", "-d", "--name", "busy", "busybox", "sh", "-c", line]);
    until("it has written", || machine.run(&["logs", "busy"]).stdout.contains("ready"));
    let state = || machine.ok(&["inspect", "-f", "{{.State.Status}}", "busy"]);
    let mut commit = machine.command(&["commit", "busy", "half"]).spawn().expect("davit starts");
    until("it is frozen", || state() == "paused");
    commit.kill().expect("killed");
    let status = commit.wait().expect("ended");
    assert_eq!(status.code(), None, "it was killed half-way, not done already");
    until("it goes on", || state() == "running");
    machine.ok(&["exec", "busy", "true"]);
    assert_eq!(machine.run(&["image", "inspect", "half"]).code, 1);
    machine.ok(&["commit", "busy", "whole"]);
    // What somebody paused stays so, also when a commit is killed.
    machine.ok(&["pause", "busy"]);
    machine.ok(&["commit", "busy", "again"]);
    assert_eq!(state(), "paused");
}

/// make, shells and CI runners leave descriptors open.
#[test]
fn inherited_descriptors_disturb_nothing() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["run", "-d", "--name", "up", "--network", "none", "busybox", "sleep", "600"]);
    for last in 3..10 {
        let open: String = (3..=last).map(|number| format!("{number}</dev/null ")).collect();
        let line = format!("exec {open}; exec \"$@\"");
        let run = |arguments: &[&str]| {
            let inner = machine.command(arguments);
            let mut command = std::process::Command::new("sh");
            command.args(["-c", &line, "sh"]).arg(inner.get_program()).args(inner.get_args());
            command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let output = command.output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{last} {arguments:?}: {stderr}");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        assert_eq!(run(&["exec", "up", "ls", "/proc/self/fd"]), "0\n1\n2\n3\n");
        let once = ["run", "--rm", "--network", "none", "busybox", "ls", "/proc/self/fd"];
        assert_eq!(run(&once), "0\n1\n2\n3\n");
        assert!(!run(&["cp", "up:/bin/busybox", "-"]).is_empty());
    }
}
