//! The machine restarts: another boot id, no process, no interface, no rule, no run directory.

use std::process::Command;

use davit_test::{Outcome, need_tool, until};

use crate::machine::Machine;

/// Ends everything at once, as a power cut does: no monitor gets to write a record.
fn cut_power(machine: &Machine) {
    let pids = machine.ok(&["ps", "-q"]);
    let state = |id: &str| machine.ok(&["inspect", "-f", "{{.Id}} {{.State.Pid}}", id]);
    let states: Vec<String> = pids.lines().map(state).collect();
    for state in &states {
        let (id, pid) = state.split_once(' ').unwrap();
        let records =
            std::fs::read(machine.davit().root().join("containers").join(id).join("state"));
        let records = records.unwrap();
        let monitor = records.chunks(64).find(|record| record[6] == 1).unwrap();
        let monitor = u32::from_le_bytes(monitor[20..24].try_into().unwrap()).to_string();
        for pid in [monitor.as_str(), pid] {
            assert!(Command::new("kill").args(["-9", pid]).status().unwrap().success());
        }
        until("it is gone", || {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.is_empty() || status.contains("State:\tZ")
        });
    }
    for link in machine.tool("ip -o link").lines() {
        let name = link.split(": ").nth(1).unwrap().split('@').next().unwrap();
        if name.starts_with("davit-") || name.starts_with("veth") {
            machine.tool(&format!("ip link del {name}"));
        }
    }
    machine.tool("nft flush ruleset");
    std::fs::remove_dir_all(machine.davit().run_root()).unwrap();
}

/// Runs a script in the machine's network under another boot id; `$1` is davit.
fn in_next_boot(machine: &Machine, script: &str) -> Outcome {
    let unshare = need_tool("unshare").expect("util-linux is part of every system");
    let id = machine.davit().dir().join("boot");
    std::fs::write(&id, "11111111-2222-3333-4444-555555555555\n").unwrap();
    let line = format!("mount --bind \"$0\" /proc/sys/kernel/random/boot_id\n{script}");
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", machine.namespace().display())).arg(unshare);
    command.args(["--mount", "--propagation", "private", "sh", "-euc", &line]).arg(&id);
    command.arg(env!("CARGO_BIN_EXE_davit"));
    command.env("DAVIT_ROOT", machine.davit().root());
    command.env("DAVIT_RUN_ROOT", machine.davit().run_root());
    Outcome::from(command.output().unwrap())
}

#[test]
fn containers_come_back_by_their_policy() {
    let Some(machine) = Machine::new() else { return };
    let start = |name: &str, flags: &[&str]| {
        let run = ["run", "-d", "--name", name];
        machine.ok(&[&run[..], flags, &["busybox", "sleep", "600"]].concat());
    };
    start("always", &["--restart", "always", "-p", "8080:80"]);
    start("always-stopped", &["--restart", "always"]);
    start("unless", &["--restart", "unless-stopped"]);
    start("unless-stopped", &["--restart", "unless-stopped"]);
    start("failure", &["--restart", "on-failure:3"]);
    start("never", &[]);
    start("gone", &["--rm"]);
    machine.ok(&["create", "--name", "created", "--restart", "always", "busybox", "sleep", "600"]);
    machine.ok(&["stop", "-t", "0", "always-stopped", "unless-stopped"]);
    // Before the machine restarts there is nothing to do.
    assert_eq!(machine.ok(&["boot"]), "");
    cut_power(&machine);
    let outcome = in_next_boot(
        &machine,
        "$1 ps -a --format '{{.Names}} {{.State}}' | sort
         echo started; $1 boot
         echo running; $1 ps --format '{{.Names}}' | sort
         $1 port always; $1 exec always true
         echo again; $1 stop -t 0 always unless >/dev/null; $1 boot
         $1 ps --format '{{.Names}}' | sort",
    );
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    let expected = "always exited\nalways-stopped exited\ncreated created\nfailure exited\n\
                    never exited\nunless exited\nunless-stopped exited\n\
                    started\nalways\nalways-stopped\nunless\nfailure\n\
                    running\nalways\nalways-stopped\nfailure\nunless\n\
                    80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n\
                    again\nalways-stopped\nfailure\n";
    let without_ipv6 = expected.replace("80/tcp -> [::]:8080\n", "");
    assert!([expected, &without_ipv6].contains(&outcome.stdout.as_str()), "{}", outcome.stdout);
    assert_eq!(machine.ok(&["inspect", "-f", "{{.State.ExitCode}}", "never"]), "137");
}

#[test]
fn one_that_does_not_start_stops_no_other() {
    let Some(machine) = Machine::new() else { return };
    let folder = machine.davit().dir().join("bound");
    std::fs::create_dir(&folder).unwrap();
    let bind = format!("{}:/bound", folder.display());
    let run = ["run", "-d", "--restart", "always"];
    for (name, flags) in [("broken", &["-v", &bind][..]), ("whole", &[])] {
        let tail = ["--name", name, "busybox", "sleep", "600"];
        machine.ok(&[&run[..], flags, &tail].concat());
    }
    cut_power(&machine);
    std::fs::remove_dir(&folder).unwrap();
    let outcome = in_next_boot(&machine, "$1 boot");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, "whole\n"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("error: ") && outcome.stderr.contains("bound"), "{outcome:?}");
}
