//! Networks that a user makes.

use std::process::Command;

use davit_test::{need_tool, until};
use serde_json::Value;

use crate::machine::Machine;

/// Starts a server of its own name on port 80; its id.
fn serve(machine: &Machine, options: &[&str]) -> String {
    let server = ["busybox", "httpd", "-f", "-p", "80", "-h", "/etc"];
    machine.ok(&[&["run", "-d"], options, &server].concat())
}

/// Address of a container in its one network.
fn address(machine: &Machine, name: &str) -> String {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    machine.ok(&["inspect", "-f", format, name])
}

/// Whether a new container in a network gets the page at an address.
fn reaches(machine: &Machine, network: &str, address: &str) -> bool {
    let url = format!("http://{address}/hostname");
    let ask = ["--network", network, "busybox", "wget", "-qO-", "-T", "2", &url];
    machine.run(&[&["run", "--rm"], &ask[..]].concat()).code == 0
}

fn await_reach(machine: &Machine, network: &str, address: &str) {
    until("the server answers", || reaches(machine, network, address));
}

fn inspect(machine: &Machine, name: &str) -> Value {
    let text = machine.ok(&["network", "inspect", name]);
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

/// User networks' interfaces.
fn bridges(machine: &Machine) -> Vec<String> {
    let links = machine.tool("ip -o link");
    let names = links.lines().filter_map(|line| line.split(": ").nth(1));
    names.filter(|name| name.starts_with("dv")).map(str::to_owned).collect()
}

#[test]
fn what_was_asked_for_is_shown() {
    let Some(machine) = Machine::new() else { return };
    let id = machine.ok(&[
        "network",
        "create",
        "--subnet",
        "10.77.0.0/16",
        "--gateway",
        "10.77.0.254",
        "--ip-range",
        "10.77.5.0/24",
        "--internal",
        "--label",
        "a=b",
        "--opt",
        "com.docker.network.driver.mtu=1400",
        "--ipv6",
        "mine",
    ]);
    assert_eq!(id.len(), 64);
    let shown = inspect(&machine, &id[..12]);
    assert_eq!(shown["Name"], "mine");
    assert_eq!((&shown["Internal"], &shown["EnableIPv6"]), (&true.into(), &true.into()));
    assert_eq!(shown["Options"]["com.docker.network.driver.mtu"], "1400");
    assert_eq!(shown["Labels"]["a"], "b");
    let config = serde_json::json!(
        {"Subnet": "10.77.0.0/16", "IPRange": "10.77.5.0/24", "Gateway": "10.77.0.254"}
    );
    assert_eq!(shown["IPAM"]["Config"][0], config);
    let six = shown["IPAM"]["Config"][1]["Subnet"].as_str().unwrap();
    assert!(six.starts_with("fd") && six.ends_with(":1::/64"), "{six}");
    machine.ok(&["network", "create", "other"]);
    let list = |filter: &str| {
        machine.ok(&["network", "ls", "--format", "{{.Name}} {{.Internal}}", "--filter", filter])
    };
    assert_eq!(list("type=custom"), "mine true\nother false");
    assert_eq!(list("type=builtin").lines().count(), 3);
    assert_eq!(list("label=a"), "mine true");
    let script = "ip -o addr show eth0; ip -o link show eth0; ip route";
    let run = ["run", "--network", "mine", "--name", "in", "busybox", "sh", "-c", script];
    let inside = machine.ok(&run);
    for text in ["inet 10.77.5.0/16", "inet6 fd", "mtu 1400"] {
        assert!(inside.contains(text), "{text}\n{inside}");
    }
    assert!(!inside.contains("default"), "an internal network has no way out\n{inside}");
    assert_eq!(list("dangling=true"), "other false");
    assert_eq!(machine.ok(&["inspect", "-f", "{{.HostConfig.NetworkMode}}", "in"]), "mine");
    assert_eq!(
        machine.ok(&["ps", "-a", "--filter", "network=mine", "--format", "{{.Names}}"]),
        "in"
    );
    machine.ok(&["rm", "in"]);
    assert_eq!(machine.ok(&["network", "rm", "mine", "other"]), "mine\nother");
    assert_eq!(machine.ok(&["network", "ls", "-q"]).lines().count(), 3);
    assert_eq!(bridges(&machine), [""; 0]);
}

#[test]
fn what_makes_no_sense_is_refused_in_words() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["network", "create", "--subnet", "10.77.0.0/16", "mine"]);
    machine.tool("ip link add thief type bridge");
    machine.tool("ip addr add 10.78.0.1/16 dev thief");
    machine.tool("ip link set thief up");
    let cases: [(&[&str], &str); 14] = [
        (&["create", "mine"], "network with name mine already exists"),
        (&["create", "--subnet", "10.77.4.0/24", "a"], "Pool overlaps with other one"),
        (&["create", "--subnet", "10.78.0.0/16", "a"], "those of interface thief"),
        (&["create", "--subnet", "10.79.0.1/16", "a"], "it should be 10.79.0.0/16"),
        (&["create", "--driver", "overlay", "a"], "\"overlay\""),
        (&["create", "--opt", "com.docker.network.bridge.name=x", "a"], "network.bridge.name"),
        (&["create", "--ingress", "a"], "--ingress"),
        (&["create", "-bad"], "-b"),
        (&["create", "bad name"], "Invalid network name"),
        (&["create", "host"], "predefined host network"),
        (&["rm", "bridge"], "bridge is a pre-defined network and cannot be removed"),
        (&["rm", "none"], "pre-defined network"),
        (&["rm", "nowhere"], "network nowhere not found"),
        (&["inspect", "nowhere"], "network nowhere not found"),
    ];
    for (arguments, expected) in cases {
        let outcome = machine.run(&[&["network"], arguments].concat());
        let usage = arguments.iter().any(|word| ["--ingress", "-bad"].contains(word));
        assert_eq!(outcome.code, if usage { 125 } else { 1 }, "{arguments:?} {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{arguments:?} {}", outcome.stderr);
    }
    assert_eq!(machine.ok(&["network", "rm", "--force", "nowhere"]), "nowhere");
    for (arguments, expected) in [
        (&["--network", "nowhere"][..], "network nowhere not found"),
        (&["--network", "mine", "--network", "bridge"], "in one network"),
        (&["--network", "mine", "--ip", "10.80.0.2"], "10.80.0.2"),
        (&["--network", "mine", "--ip", "10.77.0.1"], "already in use by the gateway"),
    ] {
        let run = [&["run", "--rm"], arguments, &["busybox", "true"]].concat();
        let outcome = machine.run(&run);
        assert_eq!(outcome.code, 125, "{arguments:?}");
        assert!(outcome.stderr.contains(expected), "{arguments:?} {}", outcome.stderr);
    }
    assert_eq!(machine.ok(&["ps", "-aq"]), "");
    // What has a place by now can be used when that place is free again.
    machine.tool("ip addr add 10.77.0.1/16 dev thief");
    let run = ["run", "--rm", "--network", "mine", "busybox", "true"];
    let outcome = machine.run(&run);
    assert!(outcome.code == 125 && outcome.stderr.contains("thief"), "{}", outcome.stderr);
    machine.tool("ip link del thief");
    machine.ok(&run);
}

#[test]
fn containers_reach_those_of_their_network_alone() {
    let Some(machine) = Machine::new() else { return };
    for name in ["one", "two"] {
        machine.ok(&["network", "create", name]);
    }
    machine.ok(&["network", "create", "--internal", "closed"]);
    let wish = inspect(&machine, "one")["IPAM"]["Config"][0]["Subnet"].as_str().unwrap().to_owned();
    let wish = wish.replace(".0/16", ".77").replace(".0/20", ".77");
    serve(&machine, &["--network", "one", "--name", "first", "--ip", &wish, "-p", "8080:80"]);
    assert_eq!(address(&machine, "first"), wish);
    serve(&machine, &["--network", "closed", "--name", "shut", "-p", "8081:80"]);
    let shut = address(&machine, "shut");
    serve(&machine, &["--name", "usual"]);
    let usual = address(&machine, "usual");
    await_reach(&machine, "one", &wish);
    await_reach(&machine, "closed", &shut);
    await_reach(&machine, "bridge", &usual);
    for (network, to) in [
        ("two", &wish),
        ("bridge", &wish),
        ("closed", &wish),
        ("one", &shut),
        ("one", &usual),
        ("two", &usual),
    ] {
        assert!(!reaches(&machine, network, to), "{network} reaches {to}");
    }
    // What is published is so for the machine and for other networks, but not from a closed one.
    await_reach(&machine, "host", "127.0.0.1:8080");
    let gateway = |network: &str| {
        let gateway = &inspect(&machine, network)["IPAM"]["Config"][0]["Gateway"];
        format!("{}:8080", gateway.as_str().unwrap())
    };
    await_reach(&machine, "two", &gateway("two"));
    assert!(!reaches(&machine, "closed", &gateway("closed")));
    assert_eq!(machine.ok(&["port", "shut"]), "", "nothing is published of an internal network");
    let members = inspect(&machine, "one")["Containers"].clone();
    let members: Vec<_> = members.as_object().unwrap().values().collect();
    assert_eq!((members.len(), &members[0]["Name"]), (1, &"first".into()));
    // Another container in the same network namespace.
    let shared = ["--network", "container:first", "busybox", "wget", "-qO-", "localhost/hostname"];
    machine.ok(&[&["run", "--rm"], &shared[..]].concat());
}

#[test]
fn a_network_stays_while_it_is_used() {
    let Some(machine) = Machine::new() else { return };
    for name in ["used", "left", "idle"] {
        machine.ok(&["network", "create", "--label", name, name]);
    }
    machine.ok(&["run", "-d", "--name", "in", "--network", "used", "busybox", "sleep", "600"]);
    machine.ok(&["create", "--name", "made", "--network", "left", "busybox", "true"]);
    let refused = machine.run(&["network", "rm", "used"]);
    assert_eq!(refused.code, 1);
    let words = "network used id";
    for word in [words, "has active endpoints", "name:\"in\""] {
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
    let pruned =
        |arguments: &[&str]| machine.ok(&[&["network", "prune", "--force"], arguments].concat());
    assert_eq!(pruned(&["--filter", "label=nothing"]), "");
    assert_eq!(pruned(&["--filter", "until=1h"]), "");
    assert_eq!(pruned(&["--filter", "label=idle"]), "Deleted Networks:\nidle");
    assert_eq!(pruned(&[]), "", "a container that does not run keeps its network, too");
    // Docker's `rm` does not ask those.
    machine.ok(&["network", "rm", "left"]);
    let start = machine.run(&["start", "made"]);
    assert_eq!(start.code, 1, "{}", start.stderr);
    assert!(start.stderr.contains("network left not found"), "{}", start.stderr);
    machine.ok(&["network", "create", "left"]);
    machine.ok(&["start", "-a", "made"]);
    // Its monitor and all of the container are killed: nobody tells the rows.
    let pid = machine.ok(&["inspect", "-f", "{{.State.Pid}}", "in"]);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap().to_owned();
    let killed = Command::new("kill").args(["-9", &parent, &pid]).status().unwrap();
    assert!(killed.success());
    until("the network is free", || machine.run(&["network", "rm", "used"]).code == 0);
    assert_eq!(machine.ok(&["network", "ls", "-q", "--filter", "name=used"]), "");
}

#[test]
fn what_somebody_takes_away_comes_back() {
    let Some(machine) = Machine::new() else { return };
    if need_tool("nft").is_none() {
        return;
    }
    for name in ["one", "two"] {
        machine.ok(&["network", "create", name]);
    }
    serve(&machine, &["--network", "one", "--name", "first", "-p", "8080:80"]);
    serve(&machine, &["--network", "two", "--name", "second"]);
    let (first, second) = (address(&machine, "first"), address(&machine, "second"));
    await_reach(&machine, "one", &first);
    machine.tool("nft flush ruleset");
    // A start in one network brings all of them back.
    await_reach(&machine, "two", &second);
    await_reach(&machine, "host", "127.0.0.1:8080");
    assert!(!reaches(&machine, "two", &first) && !reaches(&machine, "one", &second));
    machine.ok(&["rm", "-f", "first", "second"]);
    let links = bridges(&machine);
    assert_eq!(links.len(), 2);
    for link in links {
        machine.tool(&format!("ip link del {link}"));
    }
    serve(&machine, &["--network", "one", "--name", "first"]);
    await_reach(&machine, "one", &address(&machine, "first"));
    machine.ok(&["rm", "-f", "first"]);
    machine.ok(&["network", "rm", "one", "two"]);
    let elements = machine.tool("nft list ruleset");
    assert!(!elements.contains("\"dv"), "{elements}");
    assert_eq!(bridges(&machine), [""; 0]);
}
