//! SIGKILL of the command, of the monitor, and of both.

use davit_test::need_tool;

use crate::machine::{Machine, until};

fn monitor_of(machine: &Machine, id: &str) -> String {
    let directory = machine.davit().root().join("containers").join(id).join("state");
    let bytes = std::fs::read(directory).expect("state file");
    let record = bytes.chunks(64).find(|record| record[6] == 1).expect("a monitor's record");
    u32::from_le_bytes([record[20], record[21], record[22], record[23]]).to_string()
}

fn kill(pid: &str) {
    let status =
        std::process::Command::new("kill").args(["-9", pid]).status().expect("kill starts");
    assert!(status.success());
}

#[test]
fn killing_the_command_leaves_the_container() {
    let Some(machine) = Machine::new() else { return };
    let mut child = machine
        .command(&["run", "--rm", "--name", "kept", "busybox", "sleep", "600"])
        .spawn()
        .expect("starts");
    until("it runs", || machine.run(&["ps", "-q"]).stdout.len() == 13);
    // nsenter has become davit: the child is the command itself.
    child.kill().expect("killed");
    child.wait().expect("reaped");
    assert_eq!(machine.ok(&["ps", "--format", "{{.Names}}"]), "kept");
    machine.ok(&["kill", "kept"]);
    until("its end removes it", || machine.ok(&["ps", "-aq"]).is_empty());
}

#[test]
fn killing_the_monitor_ends_the_container() {
    let Some(machine) = Machine::new() else { return };
    let before = machine.settled();
    let id =
        machine.ok(&["run", "-d", "--name", "alone", "-p", "8081:80", "busybox", "sleep", "600"]);
    kill(&monitor_of(&machine, &id));
    until("ps tells the truth", || machine.ok(&["ps", "-q"]).is_empty());
    assert_eq!(
        machine.ok(&[
            "container",
            "inspect",
            "-f",
            "{{.State.Status}} {{.State.ExitCode}}",
            "alone"
        ]),
        "exited 137"
    );
    machine.ok(&["rm", "alone"]);
    machine.await_traces(&before);
}

#[test]
fn what_a_killed_monitor_watched_runs_again_by_its_policy() {
    let Some(machine) = Machine::new() else { return };
    let run = ["run", "-d", "--restart", "unless-stopped"];
    let id = machine.ok(&[&run[..], &["busybox", "sleep", "600"]].concat());
    let pid = || machine.ok(&["inspect", "-f", "{{.State.Pid}}", &id]);
    let seen: [&[&str]; 2] = [&["ps", "-q"], &["boot"]];
    for look in seen {
        let (before, monitor) = (pid(), monitor_of(&machine, &id));
        kill(&monitor);
        until("it is gone", || !std::path::Path::new(&format!("/proc/{monitor}/exe")).exists());
        machine.ok(look);
        assert_ne!(pid(), before, "{look:?}");
        machine.ok(&["exec", &id, "true"]);
    }
    // One that somebody stopped stays so.
    machine.ok(&["stop", "-t", "0", &id]);
    assert_eq!(machine.ok(&["ps", "-q"]), "");
}

#[test]
fn killing_the_monitor_in_a_start_leaves_nothing() {
    let Some(machine) = Machine::new() else { return };
    let Some(strace) = need_tool("strace") else { return };
    let before = machine.settled();
    // The container lives when its monitor begins to listen; that it does, nobody was told.
    let inner = machine.command(&["run", "-d", "--name", "half", "busybox", "sleep", "5"]);
    let mut command = std::process::Command::new(strace);
    command.args(["-f", "-qqq", "-o", "/dev/null", "-e", "trace=bind"]);
    command.args(["-e", "inject=bind:signal=KILL:when=1"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let outcome = davit_test::Outcome::from(command.output().expect("strace starts"));
    assert_eq!(outcome.code, 125, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("its monitor ended without a word"), "{}", outcome.stderr);
    assert_eq!(machine.ok(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]), "half created");
    // The kernel takes the namespace's interface away in the background.
    machine.await_traces(&before);
    machine.ok(&["rm", "half"]);
}

#[test]
fn killing_both_is_cleaned_by_force() {
    let Some(machine) = Machine::new() else { return };
    let before = machine.settled();
    let mut child = machine
        .command(&["run", "--name", "both", "busybox", "sleep", "600"])
        .spawn()
        .expect("starts");
    until("it runs", || machine.run(&["ps", "-q"]).stdout.len() == 13);
    let id = machine.ok(&["ps", "-q", "--no-trunc"]);
    child.kill().expect("killed");
    kill(&monitor_of(&machine, &id));
    child.wait().expect("reaped");
    machine.ok(&["rm", "-f", "both"]);
    assert_eq!(machine.ok(&["ps", "-aq"]), "");
    machine.await_traces(&before);
}

#[test]
fn a_hundred_containers_leave_nothing() {
    let Some(machine) = Machine::new() else { return };
    let before = machine.settled();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let machine = &machine;
            scope.spawn(move || {
                for number in 0..25 {
                    let name = format!("c{worker}-{number}");
                    machine.ok(&["run", "-d", "--name", &name, "busybox", "sleep", "600"]);
                }
            });
        }
    });
    let ids = machine.ok(&["ps", "-q"]);
    let ids: Vec<&str> = ids.lines().collect();
    assert_eq!(ids.len(), 100);
    let mut arguments = vec!["rm", "-f"];
    arguments.extend(ids);
    machine.ok(&arguments);
    machine.await_traces(&before);
}

/// Somebody stops it while its monitor decides, waits, or starts it again.
#[test]
fn a_stop_between_two_starts_counts() {
    let Some(machine) = Machine::new() else { return };
    std::thread::scope(|scope| {
        for verb in ["stop", "rm", "kill"] {
            let machine = &machine;
            scope.spawn(move || {
                for round in 0..12 {
                    let name = format!("{verb}-{round}");
                    machine.ok(&[
                        "run",
                        "-d",
                        "--restart",
                        "always",
                        "--name",
                        &name,
                        "busybox",
                        "false",
                    ]);
                    let count = || {
                        machine
                            .ok(&["inspect", "-f", "{{.RestartCount}}", &name])
                            .parse::<u32>()
                            .unwrap()
                    };
                    until("it was started again", || count() >= round % 3);
                    match verb {
                        "rm" => machine.ok(&["rm", "-f", &name]),
                        "stop" => machine.ok(&["stop", &name]),
                        // One that has just ended cannot be killed, but it is going to be restarted.
                        _ => machine.ok(&["kill", &name]),
                    };
                }
            });
        }
    });
    let states = machine.ok(&["ps", "-a", "--format", "{{.State}}"]);
    assert_eq!(states.lines().count(), 24, "{states}");
    assert!(states.lines().all(|state| state == "exited"), "{states}");
}
