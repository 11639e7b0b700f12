//! Containers and the commands that look after them: readers that leave, two starts at once.

use std::{
    io::Read as _,
    process::{Child, Stdio},
};

use davit_test::{Outcome, until};

use crate::machine::Machine;

fn piped(machine: &Machine, arguments: &[&str]) -> Child {
    let mut command = machine.command(arguments);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("davit starts")
}

/// Reads a little of what it says, and leaves.
fn outcome_without_reader(mut child: Child) -> Outcome {
    let mut stdout = child.stdout.take().expect("piped");
    stdout.read_exact(&mut [0; 2]).expect("output");
    drop(stdout);
    child.wait_with_output().expect("reaped").into()
}

#[test]
fn a_reader_that_leaves_ends_the_command_alone() {
    let Some(machine) = Machine::new() else { return };
    let commands: [&[&str]; 3] = [
        &["run", "--init", "-u", "1000", "--name", "talker", "busybox", "yes"],
        &["attach", "talker"],
        &["start", "-a", "talker"],
    ];
    for command in commands {
        let outcome = outcome_without_reader(piped(&machine, command));
        let expected = (1, "error: write /dev/stdout: broken pipe\n");
        assert_eq!((outcome.code, outcome.stderr.as_str()), expected, "{command:?}");
        let state = machine.ok(&["inspect", "-f", "{{.State.Status}}", "talker"]);
        assert_eq!(state, "running", "{command:?}");
    }
    // The reaper of a user's command has no more rights than the command.
    let rights = machine.ok(&["exec", "talker", "grep", "-E", "Cap(Prm|Eff)", "/proc/1/status"]);
    assert_eq!(rights, "CapPrm:\t0000000000000000\nCapEff:\t0000000000000000");
}

#[test]
fn two_may_start_a_container() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["create", "--name", "wanted", "busybox", "sleep", "600"]);
    for command in [&["start", "wanted"][..], &["restart", "-t", "0", "wanted"]] {
        let both = [piped(&machine, command), piped(&machine, command)];
        for child in both {
            let outcome = Outcome::from(child.wait_with_output().expect("reaped"));
            let told = (outcome.code, outcome.stdout.as_str());
            assert_eq!(told, (0, "wanted\n"), "{command:?}: {}", outcome.stderr);
        }
        assert_eq!(machine.ok(&["inspect", "-f", "{{.State.Running}}", "wanted"]), "true");
    }
}

#[test]
fn removing_and_starting_at_once_leave_nothing() {
    let Some(machine) = Machine::new() else { return };
    let before = machine.settled();
    for _ in 0..6 {
        machine.ok(&["run", "-d", "--name", "wanted", "busybox", "sleep", "600"]);
        let command = |index: usize| match index % 2 {
            0 => piped(&machine, &["rm", "-f", "wanted"]),
            _ => piped(&machine, &["start", "wanted"]),
        };
        let children: Vec<Child> = (0..8).map(command).collect();
        for (index, child) in children.into_iter().enumerate() {
            let outcome = Outcome::from(child.wait_with_output().expect("reaped"));
            let words = outcome.stderr.to_lowercase();
            // A start may also be overtaken while it starts: its command is then killed.
            let is_told = words.contains("no such container") || words.contains("cannot start");
            let is_right = outcome.code == 0 || (index % 2 == 1 && is_told);
            assert!(is_right, "{index}: {} {}", outcome.code, outcome.stderr);
        }
        assert_eq!(machine.ok(&["ps", "-aq"]), "");
        machine.await_traces(&before);
    }
    let davit = machine.davit();
    let here = std::fs::read_dir(davit.run_root()).unwrap().map(|entry| entry.unwrap().path());
    let containers = here.map(|here| here.join("c")).chain([davit.root().join("containers")]);
    let left = containers.flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten());
    assert_eq!(left.count(), 0);
}

#[test]
fn networks_give_names() {
    let Some(machine) = Machine::new() else { return };
    let run = |flags: &[&str], line: &str| {
        machine.ok(&[&["run", "--rm"][..], flags, &["busybox", "sh", "-c", line]].concat())
    };
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim_end();
    let all = "hostname; echo $HOSTNAME; cat /etc/hostname";
    assert_eq!(run(&["--network", "host"], all), format!("{host}\n{host}\n{host}"));
    assert_eq!(run(&["--network", "host", "--hostname", "x"], "hostname"), "x");
    let line = "grep foo.bar /etc/hosts | cut -f 2 | sort -u";
    assert_eq!(run(&["--hostname", "foo.bar"], line), "foo.bar foo");

    machine.ok(&["run", "-d", "--name", "web", "--hostname", "here", "busybox", "sleep", "600"]);
    machine.ok(&["exec", "web", "sh", "-c", "echo 10.1.2.3 db >>/etc/hosts"]);
    let files = "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf; echo >/etc/resolv.conf";
    let expected = machine.ok(&["exec", "web", "sh", "-c", files.rsplit_once(';').unwrap().0]);
    assert_eq!(run(&["--network", "container:web"], files), expected);
    assert_eq!(machine.ok(&["exec", "web", "cat", "/etc/resolv.conf"]), "");

    machine.ok(&["run", "-d", "--name", "open", "--network", "host", "busybox", "sleep", "600"]);
    let members = "{{range .Containers}}{{.Name}}{{end}}";
    assert_eq!(machine.ok(&["network", "inspect", "-f", members, "host"]), "open");
    assert_eq!(machine.ok(&["network", "inspect", "-f", members, "bridge"]), "web");
    until("it has a name", || machine.ok(&["exec", "open", "hostname"]) == host);
}
