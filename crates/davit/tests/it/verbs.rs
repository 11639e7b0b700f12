//! Verbs on objects: health checks, restart, wait, prune with filters, volumes, networks.

use davit_test::until;

use crate::machine::Machine;

/// The last health checks of a container, as `inspect` shows them.
fn probes(machine: &Machine, name: &str) -> Vec<serde_json::Value> {
    let json = machine.ok(&["inspect", "-f", "{{json .State.Health.Log}}", name]);
    serde_json::from_str(&json).expect("a list")
}

#[test]
fn health_is_checked_and_shown() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&[
        "run",
        "-d",
        "--name",
        "sick",
        "--network",
        "none",
        "--health-cmd",
        "test -e /ok && echo well || { echo sick; echo worse >&2; exit 3; }",
        "--health-interval",
        "100ms",
        "--health-retries",
        "2",
        "--health-timeout",
        "60s",
        "busybox",
        "sleep",
        "600",
    ]);
    let health = || machine.ok(&["inspect", "-f", "{{.State.Health.Status}}", "sick"]);
    let young = ["--name", "young", "--network", "none", "--health-cmd", "true"];
    let late = ["--health-interval", "1h", "busybox", "sleep", "600"];
    machine.ok(&[&["run", "-d"], &young[..], &late[..]].concat());
    let format = "{{.State.Health.Status}} {{.State.Health.FailingStreak}}";
    assert_eq!(machine.ok(&["inspect", "-f", format, "young"]), "starting 0");
    machine.ok(&["rm", "-f", "young"]);
    until("it is unhealthy", || health() == "unhealthy");
    assert!(machine.ok(&["ps", "--format", "{{.Status}}"]).ends_with("(unhealthy)"));
    assert_eq!(machine.ok(&["ps", "-q", "--filter", "health=healthy"]), "");
    let streak = machine.ok(&["inspect", "-f", "{{.State.Health.FailingStreak}}", "sick"]);
    assert!(streak.parse::<u32>().is_ok_and(|streak| streak >= 2), "{streak}");
    let log = probes(&machine, "sick");
    for probe in &log {
        assert_eq!((&probe["ExitCode"], &probe["Output"]), (&3.into(), &"sick\nworse\n".into()));
    }
    until("five are kept", || probes(&machine, "sick").len() == 5);
    // Without their `Z`, times sort as texts.
    let time = |probe: &serde_json::Value, name: &str| {
        probe[name].as_str().expect("a time").trim_end_matches('Z').to_owned()
    };
    let (before, after) = (log.last().expect("two"), &probes(&machine, "sick")[4]);
    assert!(time(before, "Start") <= time(before, "End"));
    assert!(time(before, "Start") <= time(after, "Start"), "the newest is the last");
    machine.ok(&["exec", "sick", "touch", "/ok"]);
    until("it is healthy", || health() == "healthy");
    let log = probes(&machine, "sick");
    let newest = log.last().expect("there");
    assert_eq!((&newest["ExitCode"], &newest["Output"]), (&0.into(), &"well\n".into()));
    assert!(log.len() == 5, "{log:?}");
    assert!(machine.ok(&["ps", "--format", "{{.Status}}"]).ends_with("(healthy)"));
    machine.ok(&["create", "--name", "none", "--no-healthcheck", "busybox"]);
    assert_eq!(
        machine.ok(&["inspect", "-f", "{{json .Config.Healthcheck.Test}}", "none"]),
        r#"["NONE"]"#
    );
}

#[test]
fn health_checks_are_cut_short() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&[
        "run",
        "-d",
        "--name",
        "slow",
        "--network",
        "none",
        "--health-cmd",
        "echo begun; exec sleep 60",
        "--health-interval",
        "100ms",
        "--health-retries",
        "1",
        "--health-timeout",
        "200ms",
        "busybox",
        "sleep",
        "600",
    ]);
    let slow = || machine.ok(&["inspect", "-f", "{{.State.Health.Status}}", "slow"]);
    until("a check that takes too long has failed", || slow() == "unhealthy");
    let log = probes(&machine, "slow");
    let (code, output) = (&log[0]["ExitCode"], log[0]["Output"].as_str().expect("text"));
    assert!(*code == -1 && output.starts_with("Health check exceeded timeout (200ms)"), "{output}");
    let loud = ["--health-cmd", "yes | head -c 200000", "--health-interval", "100ms"];
    let command = ["--name", "loud", "--network", "none", "busybox", "sleep", "600"];
    machine.ok(&[&["run", "-d"][..], &loud, &command].concat());
    until("a check that says more than a pipe holds", || !probes(&machine, "loud").is_empty());
    let probe = &probes(&machine, "loud")[0];
    assert_eq!(probe["ExitCode"], 0);
    assert_eq!(probe["Output"], format!("{}...", "y\n".repeat(2048)));
}

#[test]
fn restart_and_wait() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "600"]);
    let pid = || machine.ok(&["inspect", "-f", "{{.State.Pid}}", "box"]);
    let before = pid();
    assert_eq!(machine.ok(&["restart", "-t", "0", "box"]), "box");
    assert_ne!(pid(), before);
    assert_eq!(machine.ok(&["inspect", "-f", "{{.RestartCount}}", "box"]), "0");
    let waiting = machine.command(&["wait", "box"]).stdout(std::process::Stdio::piped()).spawn();
    machine.ok(&["kill", "box"]);
    let output = waiting.expect("davit starts").wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "137\n");
    assert_eq!(machine.ok(&["container", "wait", "box"]), "137");
    // A stopped one is started.
    machine.ok(&["restart", "box"]);
    assert_eq!(machine.ok(&["inspect", "-f", "{{.State.Running}}", "box"]), "true");
    for verb in ["restart", "wait", "stop", "kill", "pause", "unpause", "top", "port", "diff"] {
        let refused = machine.run(&[verb, "nosuch"]);
        assert_eq!(refused.code, 1, "{verb}");
        assert!(refused.stderr.contains("No such container: nosuch"), "{verb}: {}", refused.stderr);
    }
}

#[test]
fn containers_are_pruned_by_filters() {
    let Some(machine) = Machine::new() else { return };
    for (name, label) in [("c1", "k=1"), ("c2", "k=2"), ("c3", "other")] {
        machine.ok(&["create", "--name", name, "--label", label, "busybox"]);
    }
    let left = || machine.ok(&["ps", "-a", "--format", "{{.Names}}"]);
    machine.ok(&["container", "prune", "-f", "--filter", "until=1h"]);
    assert_eq!(left().lines().count(), 3);
    machine.ok(&["container", "prune", "-f", "--filter", "label=k=1"]);
    machine.ok(&["container", "prune", "-f", "--filter", "label!=k"]);
    assert_eq!(left(), "c2");
    assert_eq!(machine.run(&["container", "prune"]).code, 0, "no answer is a no");
    assert_eq!(left(), "c2");
    let pruned = machine.ok(&["container", "prune", "-f"]);
    assert!(pruned.contains("Deleted Containers:") && left().is_empty(), "{pruned}");
    assert_eq!(machine.run(&["container", "prune", "-f", "--filter", "bogus=1"]).code, 1);
    assert_eq!(machine.run(&["container", "prune", "-f", "--filter", "until=bogus"]).code, 1);
}

#[test]
fn images_are_pruned_by_filters() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["create", "--name", "box", "busybox"]);
    for (name, label) in [("i1", "k=1"), ("i2", "k=2"), ("i3", "other=")] {
        machine.ok(&["commit", "-c", &format!("LABEL {label}"), "box", name]);
    }
    let left = || {
        let all =
            machine.ok(&["images", "--format", "{{.Repository}}", "--filter", "reference=i*"]);
        let mut names: Vec<String> = all.lines().map(str::to_owned).collect();
        names.sort();
        names.join(" ")
    };
    let prune = |args: &[&str]| machine.ok(&[&["image", "prune", "-f"], args].concat());
    prune(&["--filter", "label=k=1"]);
    assert_eq!(left(), "i1 i2 i3", "they have names");
    prune(&["-a", "--filter", "until=1h"]);
    assert_eq!(left(), "i1 i2 i3", "they are young");
    let pruned = prune(&["-a", "--filter", "label=k=1"]);
    assert!(
        pruned.starts_with("Deleted Images:\nuntagged: i1:latest\ndeleted: sha256:"),
        "{pruned}"
    );
    assert_eq!(left(), "i2 i3");
    prune(&["--filter", "dangling=false", "--filter", "label!=k"]);
    assert_eq!(left(), "i2");
    prune(&["-a", "--filter", "until=2999-01-01", "--filter", "label=k=3"]);
    assert_eq!(left(), "i2", "filters add up");
    machine.ok(&["tag", "i2", "i4"]);
    machine.ok(&["commit", "box", "i4"]);
    machine.ok(&["tag", "i4", "i2"]);
    assert_eq!(left(), "i2 i4");
    let pruned = prune(&["--filter", "label=k", "--filter", "until=2999-01-01"]);
    assert!(pruned.contains("deleted: sha256:"), "{pruned}");
    assert_eq!(left(), "i2 i4", "they have names");
    for bad in ["bogus=1", "until=bogus", "dangling=maybe", "label"] {
        assert_ne!(machine.run(&["image", "prune", "-f", "--filter", bad]).code, 0, "{bad}");
    }
    assert_eq!(machine.ok(&["ps", "-a", "--format", "{{.Image}}"]), "busybox", "used ones stay");
    machine.ok(&["image", "inspect", "busybox"]);
}

#[test]
fn an_image_in_use_loses_its_name_by_force() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "600"]);
    let id = machine.ok(&["image", "inspect", "-f", "{{.Id}}", "busybox"]);
    for name in machine.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]).lines() {
        if name != "busybox:latest" {
            machine.ok(&["rmi", name]);
        }
    }
    let refused = machine.run(&["rmi", "busybox"]);
    let words = "unable to remove repository reference \"busybox:latest\" (must force) - container";
    assert!(refused.code == 1 && refused.stderr.contains(words), "{refused:?}");
    let refused = machine.run(&["rmi", "-f", &id]);
    let words = "(cannot be forced) - image is being used by running container";
    assert!(refused.code == 1 && refused.stderr.contains(words), "{refused:?}");
    assert_eq!(machine.ok(&["rmi", "-f", "busybox"]), "Untagged: busybox:latest");
    let names = machine.ok(&["images", "--format", "{{.Repository}}:{{.Tag}}"]);
    assert_eq!(names, "<none>:<none>");
    assert_eq!(machine.ok(&["ps", "--format", "{{.Image}}"]), id[7..19]);
    assert_eq!(machine.ok(&["ps", "--no-trunc", "--format", "{{.Image}}"]), id);
    machine.ok(&["rm", "-f", "box"]);
    assert!(machine.ok(&["rmi", &id[7..19]]).starts_with(&format!("Deleted: {id}")));
}

#[test]
fn top_takes_options_of_ps() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["run", "-d", "--name", "box", "--network", "none", "busybox", "sleep", "600"]);
    let pid = machine.ok(&["inspect", "-f", "{{.State.Pid}}", "box"]);
    let cases: [(&[&str], &str); 6] = [
        (&[], "UID PID PPID C STIME TTY TIME CMD"),
        (&["-ef"], "UID PID PPID C STIME TTY TIME CMD"),
        (&["aux"], "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND"),
        (&["-o", "pid,user,args=WHAT"], "PID USER WHAT"),
        (&["-eo", "pid,comm"], "PID COMMAND"),
        (&["-e -o pid,stat"], "PID STAT"),
    ];
    for (options, titles) in cases {
        let table = machine.ok(&[&["top", "box"], options].concat());
        let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let (head, row) = (lines.next().unwrap(), lines.next().unwrap());
        assert_eq!(head.join(" "), titles, "{options:?}");
        let column = head.iter().position(|title| *title == "PID").unwrap();
        assert_eq!(row[column], pid, "{options:?}: {table}");
    }
    for bad in [&["--forest"][..], &["-o", "comm"], &["-o", "pid,nothing"], &["-o"]] {
        assert_eq!(machine.run(&[&["top", "box"], bad].concat()).code, 1, "{bad:?}");
    }
}

#[test]
fn volumes_by_label_and_use() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["volume", "create", "--label", "a=b", "v1"]);
    machine.ok(&["volume", "create", "--label", "a=c", "v2"]);
    let anonymous = machine.ok(&["volume", "create"]);
    assert_eq!(machine.ok(&["volume", "create", "v1"]), "v1", "one that is there stays");
    machine.ok(&["create", "--name", "user", "-v", "v2:/v", "busybox"]);
    let listed = |filter: &str| machine.ok(&["volume", "ls", "-q", "--filter", filter]);
    assert_eq!(listed("label=a"), "v1\nv2");
    assert_eq!(listed("label=a=c"), "v2");
    assert_eq!(listed("name=v"), "v1\nv2");
    assert_eq!(listed("dangling=false"), "v2");
    for bad in ["bogus=1", "dangling=maybe"] {
        assert_eq!(machine.run(&["volume", "ls", "--filter", bad]).code, 1, "{bad}");
    }
    // Values of one key are alternatives, but for labels.
    for (verb, filters, expected) in [
        ("volume", ["name=v1", "name=v2"], "v1\nv2"),
        ("volume", ["label=a=b", "label=a=c"], ""),
        ("network", ["name=none", "name=host"], "host\nnone"),
        ("network", ["driver=null", "driver=bridge"], "bridge\nnone"),
    ] {
        let [one, two] = filters;
        let listed = machine.ok(&[verb, "ls", "-f", one, "-f", two, "--format", "{{.Name}}"]);
        assert_eq!(listed, expected, "{verb} {filters:?}");
    }
    for bad in ["type=bogus", "bogus=1"] {
        assert_eq!(machine.run(&["network", "ls", "--filter", bad]).code, 1, "{bad}");
    }
    for kind in ["volume", "container"] {
        let refused = machine.run(&[kind, "prune", "--filter", "bogus=1"]).stderr;
        assert!(refused.contains("bogus") && !refused.contains("WARNING"), "{kind}: {refused}");
    }
    let format = "{{.Name}} {{.Driver}} {{.Scope}} {{.Labels}}";
    assert_eq!(
        machine.ok(&["volume", "ls", "--filter", "name=v1", "--format", format]),
        "v1 local local a=b"
    );
    machine.ok(&["volume", "prune", "-f"]);
    assert_eq!(machine.ok(&["volume", "ls", "-q"]), "v1\nv2", "anonymous ones alone: {anonymous}");
    machine.ok(&["volume", "prune", "-af", "--filter", "label=a=c"]);
    assert_eq!(machine.ok(&["volume", "ls", "-q"]), "v1\nv2", "v2 is used");
    machine.ok(&["volume", "prune", "-af", "--filter", "label!=a=c"]);
    assert_eq!(machine.ok(&["volume", "ls", "-q"]), "v2");
    assert_eq!(machine.ok(&["volume", "rm", "-f", "nosuch"]), "nosuch");
    for bad in
        [&["volume", "create", "bad/name"][..], &["volume", "create", "--opt", "bogus=1", "vv"]]
    {
        assert_eq!(machine.run(bad).code, 1, "{bad:?}");
    }
}

#[test]
fn networks_are_listed_and_described() {
    let Some(machine) = Machine::new() else { return };
    let format = ["--format", "{{.Name}} {{.Driver}} {{.Scope}}"];
    let listed = machine.ok(&[&["network", "ls"][..], &format].concat());
    assert_eq!(listed, "bridge bridge local\nhost host local\nnone null local");
    let id = machine.ok(&["network", "ls", "-q", "--no-trunc", "--filter", "driver=host"]);
    assert_eq!(id.len(), 64);
    assert_eq!(machine.ok(&["network", "inspect", "-f", "{{.Name}}", &id[..12]]), "host");
    machine.ok(&["run", "-d", "--name", "member", "busybox", "sleep", "600"]);
    let members = machine.ok(&[
        "network",
        "inspect",
        "-f",
        "{{range .Containers}}{{.Name}}{{end}}",
        "bridge",
    ]);
    assert_eq!(members, "member");
    assert_eq!(machine.run(&["network", "ls", "--filter", "bogus=1"]).code, 1);
}
