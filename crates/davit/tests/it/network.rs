//! Networks of containers from the outside.

use davit_test::{need_tool, until};

use crate::machine::Machine;

#[path = "network/names.rs"]
mod names;
#[path = "network/pools.rs"]
mod pools;
#[path = "network/user.rs"]
mod user;

#[test]
fn published_ports_are_reached_and_freed() {
    let Some(machine) = Machine::new() else { return };
    let before = machine.settled();
    let serve = "while true; do echo -e 'HTTP/1.0 200 OK\\r\\n\\r\\nhello' | nc -l -p 80; done";
    machine.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "-p",
        "127.0.0.1:8080:80",
        "busybox",
        "sh",
        "-c",
        serve,
    ]);
    assert_eq!(machine.ok(&["port", "web", "80"]), "127.0.0.1:8080");
    until("the page arrives", || {
        let page = machine.run(&[
            "run",
            "--rm",
            "--network",
            "host",
            "busybox",
            "wget",
            "-qO-",
            "-T",
            "2",
            "http://127.0.0.1:8080/",
        ]);
        page.stdout.contains("hello")
    });
    let port = ["run", "-d", "-v", "/data", "-p", "127.0.0.1:8080:81", "busybox", "true"];
    let name = ["create", "--name", "web", "-v", "/data", "busybox"];
    for (taken, code) in [(&port[..], 125), (&name, 1)] {
        let outcome = machine.run(taken);
        assert_eq!(outcome.code, code, "{}", outcome.stderr);
        assert_eq!(machine.ok(&["volume", "ls", "-q"]), "", "{taken:?}");
    }
    machine.ok(&["rm", "-f", "web"]);
    for id in machine.ok(&["ps", "-aq"]).lines() {
        machine.ok(&["rm", "-f", id]);
    }
    machine.await_traces(&before);
}

#[test]
fn modes_of_the_network() {
    let Some(machine) = Machine::new() else { return };
    let addresses = machine.ok(&["run", "--rm", "busybox", "ip", "-o", "addr"]);
    assert!(addresses.contains("172.") && addresses.contains("eth0"), "{addresses}");
    let none = machine.ok(&["run", "--rm", "--network", "none", "busybox", "ip", "-o", "link"]);
    assert!(none.contains("lo") && !none.contains("eth0"), "{none}");
    let host = machine.ok(&["run", "--rm", "--network", "host", "busybox", "ip", "-o", "link"]);
    assert!(host.contains("davit-"), "{host}");
    let hosts = machine.ok(&[
        "run",
        "--rm",
        "--hostname",
        "web",
        "--add-host",
        "db:10.9.8.7",
        "busybox",
        "cat",
        "/etc/hosts",
    ]);
    assert!(hosts.contains("10.9.8.7\tdb") && hosts.contains("\tweb"), "{hosts}");
    assert_eq!(
        machine.ok(&["network", "ls", "--format", "{{.Name}} {{.Driver}}"]),
        "bridge bridge\nhost host\nnone null"
    );
}

#[test]
fn a_host_may_lose_ipv6() {
    let Some(machine) = Machine::new() else { return };
    if need_tool("sysctl").is_none() {
        return;
    }
    let show =
        ["run", "--rm", "-p", "8080:80", "busybox", "sh", "-c", "ip -o addr; cat /etc/hosts"];
    let before = machine.ok(&show);
    assert!(before.contains("inet6 fd") && before.contains("\nfd"), "{before}");
    machine.tool("sysctl -q -w net.ipv6.conf.all.disable_ipv6=1");
    let links = machine.tool("ip -o link");
    let bridge = links.split(": ").find(|word| word.starts_with("davit-")).expect("the bridge");
    machine.tool(&format!("ip link del {bridge}"));
    for _ in 0..2 {
        let after = machine.ok(&show);
        assert!(after.contains("inet 172.") && !after.contains("inet6 fd"), "{after}");
        assert!(!after.contains("\nfd"), "{after}");
    }
}

#[test]
fn a_port_is_free_when_the_end_is_told() {
    let Some(machine) = Machine::new() else { return };
    for _ in 0..20 {
        machine.ok(&["run", "--rm", "-p", "8080:80", "-p", "8080:80/udp", "busybox", "true"]);
    }
    machine.ok(&["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sleep", "600"]);
    machine.ok(&["kill", "web"]);
    machine.ok(&["run", "--rm", "-p", "8080:80", "busybox", "true"]);
}

#[test]
fn hundreds_of_ports_are_published_and_freed() {
    let Some(machine) = Machine::new() else { return };
    let before = machine.settled();
    // Another port of the container each time: a redirect that was left would be in the way.
    for to in ["20000-20300", "30000-30300"] {
        let publish = format!("20000-20300:{to}");
        machine.ok(&["run", "-d", "--name", "many", "-p", &publish, "busybox", "sleep", "600"]);
        assert_eq!(machine.ok(&["port", "many"]).lines().count(), 602);
        machine.ok(&["rm", "-f", "many"]);
    }
    machine.await_traces(&before);
}

#[test]
fn a_port_on_the_ipv6_loopback_is_told_to_be_out_of_reach() {
    let Some(machine) = Machine::new() else { return };
    let told = |publish: &str| {
        let outcome = machine.run(&["run", "--rm", "-p", publish, "busybox", "true"]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stderr
    };
    assert!(told("[::1]:8080:80").contains("WARNING: Ports published on [::1] are held, but not"));
    assert_eq!(told("127.0.0.1:8080:80"), "");
}
