//! Verbs that look into containers and at the machine.

use crate::machine::{Machine, until};

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
    until("both run", || machine.ok(&["top", "busy"]).matches("sleep 60").count() == 2);
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
    let refused = machine.run(&["top", "busy", "-o", "pid,secrets"]);
    assert!(refused.code == 1 && refused.stderr.contains("\"secrets\""), "{}", refused.stderr);
    machine.ok(&["kill", "busy"]);
    let gone = machine.run(&["top", "busy"]);
    assert!(gone.code == 1 && gone.stderr.contains("is not running"), "{}", gone.stderr);
}
