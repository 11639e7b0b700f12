//! Names, environment, labels, network files, images: what a container is told.

use std::os::unix::ffi::OsStrExt as _;

use davit_test::{Outcome, until};

use super::{file, refuse, see};
use crate::machine::Machine;

#[test]
fn host_names_and_addresses() {
    let Some(machine) = Machine::new() else { return };
    see(
        &machine,
        &[
            (
                &["--hostname", "web.example.org"],
                "hostname; cat /etc/hostname; echo $HOSTNAME",
                "web.example.org\nweb.example.org\nweb.example.org",
            ),
            (
                &["--hostname", "web", "--domainname", "d.org"],
                "hostname; cat /proc/sys/kernel/domainname",
                "web\nd.org",
            ),
            (
                &["--add-host", "db:10.0.0.1", "--add-host", "six:::1", "--add-host", "br=[::2]"],
                "tail -3 /etc/hosts | tr '\\t' ' '",
                "10.0.0.1 db\n::1 six\n::2 br",
            ),
            (
                &[
                    "--dns",
                    "1.2.3.4",
                    "--dns",
                    "::5",
                    "--dns-search",
                    "a.b",
                    "--dns-option",
                    "ndots:3",
                ],
                "grep -v '^#' /etc/resolv.conf | grep .",
                "nameserver 1.2.3.4\nnameserver ::5\nsearch a.b\noptions ndots:3",
            ),
        ],
    );
    let gateway = machine.ok(&[
        "run",
        "--rm",
        "--add-host",
        "up:host-gateway",
        "busybox",
        "grep",
        "up$",
        "/etc/hosts",
    ]);
    let bridge =
        machine.ok(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "bridge"]);
    assert_eq!(gateway.split_whitespace().next(), Some(bridge.as_str()));
    refuse(
        &machine,
        &[
            (&["--add-host", "db"], "bad format for add-host: \"db\""),
            (&["--add-host", "db:x"], "invalid IP address in add-host: \"x\""),
            (&["--dns", "x"], "'--dns <IP>'"),
            (
                &["--uts", "host", "--hostname", "x"],
                "conflicting options: hostname and the UTS mode",
            ),
            (
                &["--network", "container:x", "--hostname", "y"],
                "conflicting options: hostname and the network mode",
            ),
            (
                &["--network", "container:x", "-p", "80"],
                "conflicting options: port publishing and the container type network mode",
            ),
        ],
    );
}

#[test]
fn environment_and_labels() {
    let Some(machine) = Machine::new() else { return };
    let good = file(&machine, "good.env", "# words\nA=1\n  B=2 3\nNOT_SET_ANYWHERE\n");
    let bad = file(&machine, "bad.env", "A=1\nB =x\n");
    let labels = file(&machine, "labels", "# words\none=1\ntwo\n");
    see(
        &machine,
        &[
            (&["--env-file", &good], "env | grep -e ^A -e ^B -e NOT_SET", "A=1\nB=2 3"),
            (&["--env-file", &good, "-e", "A=2", "-e", "A=3"], "echo $A", "3"),
            (&["-e", "HOME=/x"], "echo $HOME", "/x"),
            (&["-w", "/made/here"], "pwd", "/made/here"),
        ],
    );
    machine.ok(&[
        "create",
        "--name",
        "lab",
        "--label-file",
        &labels,
        "--label",
        "two=2",
        "-l",
        "three",
        "--stop-signal",
        "USR1",
        "--stop-timeout",
        "7",
        "busybox",
    ]);
    let format = "{{json .Config.Labels}} {{.Config.StopSignal}} {{.Config.StopTimeout}}";
    assert_eq!(
        machine.ok(&["inspect", "-f", format, "lab"]),
        r#"{"one":"1","three":"","two":"2"} USR1 7"#
    );
    machine.ok(&["rm", "lab"]);
    let nameless = file(&machine, "nameless", "A=1\n=x\n");
    let mut foreign = machine.command(&["create", "-e", "NOT_UTF_8", "busybox"]);
    let foreign = foreign.env("NOT_UTF_8", std::ffi::OsStr::from_bytes(b"\xff"));
    let foreign = Outcome::from(foreign.output().unwrap());
    assert!(foreign.code == 125 && foreign.stderr.contains("NOT_UTF_8"), "{}", foreign.stderr);
    refuse(
        &machine,
        &[
            (&["--env-file", &bad], "variable 'B ' contains whitespaces"),
            (&["--env-file", "/nosuch"], "/nosuch"),
            (&["--env-file", &nameless], "no variable name on line '=x'"),
            (&["-e", "=x"], "invalid environment variable: =x"),
            (&["--label", ""], "invalid label"),
            (&["-w", "rel"], "it needs to be an absolute path"),
            (&["--name", "-bad"], "Invalid container name (-bad)"),
            (&["--stop-signal", "BOGUS"], "invalid signal: BOGUS"),
            (&["--stop-timeout", "x"], "--stop-timeout"),
            (
                &["--health-cmd", "x", "--no-healthcheck"],
                "--no-healthcheck conflicts with --health-* options",
            ),
            (&["--health-interval", "1us"], "Interval in Healthcheck cannot be less than 1ms"),
        ],
    );
}

#[test]
fn the_signal_and_time_of_a_stop() {
    let Some(machine) = Machine::new() else { return };
    let line = "trap 'exit 9' USR1; trap '' TERM; echo up; while true; do sleep 0.05; done";
    let flags = ["run", "-d", "--network", "none", "--stop-timeout", "60"];
    let run = |name: &str, more: &[&str]| {
        let all = [&flags[..], &["--name", name], more, &["busybox", "sh", "-c", line]].concat();
        machine.ok(&all);
        until("it is up", || machine.run(&["logs", name]).stdout.contains("up"));
    };
    let code = |name: &str| machine.ok(&["inspect", "-f", "{{.State.ExitCode}}", name]);
    run("asked", &["--stop-signal", "USR1"]);
    machine.ok(&["stop", "asked"]);
    assert_eq!(code("asked"), "9");
    run("named", &[]);
    machine.ok(&["stop", "-s", "SIGUSR1", "named"]);
    assert_eq!(code("named"), "9");
    run("deaf", &["--stop-timeout", "0"]);
    machine.ok(&["stop", "deaf"]);
    assert_eq!(code("deaf"), "137");
    run("patient", &[]);
    machine.ok(&["stop", "-t", "0", "patient"]);
    assert_eq!(code("patient"), "137");
}

#[test]
fn the_file_of_the_id() {
    let Some(machine) = Machine::new() else { return };
    let path = machine.davit().dir().join("cid");
    let name = path.to_str().expect("UTF-8");
    let create = ["create", "--cidfile", name, "--name", "ided"];
    let failed = machine.run(&[&create[..], &["--pull", "never", "nosuchimage"]].concat());
    assert!(failed.code == 1 && !path.exists(), "{}", failed.stderr);
    let id = machine.ok(&[&create[..], &["busybox"]].concat());
    assert_eq!(std::fs::read_to_string(&path).expect("written"), id);
    let again = machine.run(&["create", "--cidfile", name, "busybox"]);
    assert!(
        again.code == 1 && again.stderr.contains("container ID file found"),
        "{}",
        again.stderr
    );
    assert_eq!(machine.ok(&["ps", "-aq"]).lines().count(), 1, "nothing was created");
}

#[test]
fn images_by_policy_and_platform() {
    let Some(machine) = Machine::new() else { return };
    see(&machine, &[(&["--platform", "linux/amd64"], "echo here", "here")]);
    refuse(
        &machine,
        &[
            (
                &["--platform", "linux/arm64"],
                "does not match the specified platform: wanted linux/arm64, actual: linux/amd64",
            ),
            (&["--platform", "a/b/c/d"], "--platform"),
            (&["--pull", "bogus"], "invalid pull option: 'bogus'"),
        ],
    );
    let missing = machine.run(&["run", "localhost:1/nosuch", "true"]);
    let words = "Unable to find image 'localhost:1/nosuch:latest' locally\n";
    assert!(missing.code == 125 && missing.stderr.contains(words), "{}", missing.stderr);
    let missing = machine.run(&["run", "--pull", "never", "nosuch", "true"]);
    assert!(
        missing.code == 125 && missing.stderr.contains("No such image: nosuch"),
        "{}",
        missing.stderr
    );
}

#[test]
fn ports_are_published_and_listed() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&[
        "run",
        "-d",
        "--name",
        "open",
        "-P",
        "--expose",
        "80",
        "--expose",
        "90-91/udp",
        "-p",
        "127.0.0.1:8088:88",
        "-p",
        "127.0.0.1:7000:7000",
        "busybox",
        "sleep",
        "600",
    ]);
    let lines = machine.ok(&["port", "open"]);
    let mut order: Vec<_> =
        lines.lines().map(|line| line.split(' ').next().unwrap_or("")).collect();
    // One line for each family.
    order.dedup();
    assert_eq!(order, ["80/tcp", "88/tcp", "90/udp", "91/udp", "7000/tcp"], "{lines}");
    for port in [
        "80/tcp -> 0.0.0.0:",
        "90/udp -> 0.0.0.0:",
        "91/udp -> 0.0.0.0:",
        "88/tcp -> 127.0.0.1:8088",
    ] {
        assert!(lines.contains(port), "{port} is not in {lines}");
    }
    assert_eq!(machine.ok(&["port", "open", "88"]), "127.0.0.1:8088");
    assert_eq!(machine.ok(&["container", "port", "open", "88/tcp"]), "127.0.0.1:8088");
    for (port, words) in [("89", "89"), ("88/udp", "88/udp"), ("bogus", "bogus")] {
        let refused = machine.run(&["port", "open", port]);
        assert!(refused.code == 1 && refused.stderr.contains(words), "{port}: {}", refused.stderr);
    }
    let named = |filter: &str| machine.ok(&["ps", "-f", filter, "--format", "{{.Names}}"]);
    let by_host = ["publish=8088", "publish=8088/tcp", "publish=8000-9000"];
    for filter in [&by_host[..], &["expose=88", "expose=88/tcp", "expose=85-90"]].concat() {
        assert_eq!(named(filter), "open", "{filter}");
    }
    for filter in ["publish=88", "publish=8088/udp", "publish=85-90", "expose=8088"] {
        assert_eq!(named(filter), "", "{filter}");
    }
    refuse_ports(&machine);
    let words = "Published ports are discarded when using host network mode";
    for (network, count) in [("host", 1), ("none", 0)] {
        let flags = ["run", "--rm", "--network", network, "-p", "18078:80", "busybox", "true"];
        let told = machine.run(&flags);
        assert_eq!((told.code, told.stderr.matches(words).count()), (0, count), "{network}");
    }
}

fn refuse_ports(machine: &Machine) {
    for flags in [["--expose", "bogus"], ["-p", "99999:80"], ["-p", "80:bogus"]] {
        let refused = machine.run(&[&["create"][..], &flags, &["busybox"]].concat());
        assert!(refused.code == 125 && refused.stderr.contains("invalid"), "{}", refused.stderr);
    }
    let refused = machine.run(&["run", "--rm", "-p", "9.9.9.9:18077:80", "busybox", "true"]);
    let words = "failed to bind host port 9.9.9.9:18077: Cannot assign requested address";
    assert!(refused.code == 125 && refused.stderr.contains(words), "{}", refused.stderr);
}

#[test]
fn a_flag_that_is_repeated_replaces_itself() {
    let Some(machine) = Machine::new() else { return };
    let flags =
        ["run", "--rm", "--rm", "--network", "host", "--network", "none", "--hostname", "a"];
    let more = ["--hostname", "b", "busybox", "hostname"];
    assert_eq!(machine.ok(&[&flags[..], &more].concat()), "b");
}
