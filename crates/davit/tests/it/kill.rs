//! SIGKILL of the command, of the monitor, and of both.

use davit_test::{need_tool, until};

use crate::machine::Machine;

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

/// Long enough for a first process to come to its end.
const HELD_UP_MICROSECONDS: u32 = 100_000;

/// Starts the container `half` and kills whoever makes a system call for the n-th time (`bpf:2`). What
/// stands behind a `/` holds everybody up (`umask:1/ioctl`). Its exit code and what it said.
fn killed_at(machine: &Machine, instant: &str) -> Option<(Option<i32>, String)> {
    let (timeout, strace) = (need_tool("timeout")?, need_tool("strace")?);
    let (instant, slow) = instant.split_once('/').unwrap_or((instant, ""));
    let (call, number) = instant.split_once(':').expect("CALL:NUMBER");
    let run = ["run", "-d", "--name", "half", "-p", "8081:80", "busybox", "sleep", "5"];
    let inner = machine.command(&run);
    let mut command = std::process::Command::new(timeout);
    // A process that nobody ends would keep strace, and the streams.
    command.args(["-s", "KILL", "300"]).arg(strace).args(["-f", "-qqq", "-o", "/dev/null", "-e"]);
    command.args([format!("trace={call},{slow}").trim_end_matches(','), "-e"]);
    command.arg(format!("inject={call}:signal=KILL:when={number}"));
    if !slow.is_empty() {
        command.args(["-e", &format!("inject={slow}:delay_enter={HELD_UP_MICROSECONDS}")]);
    }
    command.arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let path = machine.davit().dir().join("words");
    let words = std::fs::File::create(&path).expect("a file");
    let null = std::process::Stdio::null;
    let status = command.stdin(null()).stdout(null()).stderr(words).status().expect("it starts");
    Some((status.code(), std::fs::read_to_string(path).expect("readable")))
}

/// Kills at each instant of a start, which says `words`; the container is as it was before.
fn a_start_killed_at(instants: &[&str], words: &str) {
    let Some(machine) = Machine::new() else { return };
    let before = machine.settled();
    for instant in instants {
        let Some((code, said)) = killed_at(&machine, instant) else { return };
        assert_eq!(code, Some(125), "{instant}: {said}");
        assert!(said.contains(words), "{instant}: {said}");
        let state = machine.ok(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]);
        assert_eq!(state, "half created", "{instant}");
        // The kernel takes the namespace's interface away in the background.
        machine.await_traces(&before);
        machine.ok(&["rm", "half"]);
    }
}

#[test]
fn killing_the_monitor_in_a_start_leaves_nothing() {
    // Before its child, beside it, and with a container that lives, which nobody was told.
    let instants = ["mount:1", "bind:1", "bpf:1", "bpf:2", "setns:3", "recvmsg:1", "listen:1"];
    a_start_killed_at(&instants, "its monitor ended without a word");
}

#[test]
fn killing_the_first_process_in_a_start_leaves_nothing() {
    a_start_killed_at(
        &["move_mount:6", "pivot_root:1", "sethostname:1", "umask:1"],
        "first process ended before it ran",
    );
}

/// The monitor finds a zombie, where it asks for namespaces, gives the cgroup its device filter and
/// releases the barriers.
#[test]
fn a_first_process_that_ends_before_its_monitor_looks_leaves_nothing() {
    a_start_killed_at(
        &["umask:1/ioctl", "umask:1/bpf", "umask:1/sendto", "sethostname:1/bpf"],
        "first process ended before it ran",
    );
}

#[test]
fn killing_the_command_in_a_start_leaves_nothing() {
    let Some(machine) = Machine::new() else { return };
    let before = machine.settled();
    // Its monitor is next: the lock is there, the row is not.
    let Some((code, words)) = killed_at(&machine, "clone3:1") else { return };
    assert_ne!(code, Some(0), "{words}");
    assert_eq!(machine.ok(&["ps", "-aq"]), "");
    machine.await_traces(&before);
    let kept = machine.ok(&["run", "-d", "busybox", "sleep", "600"]);
    let directories = || {
        let stores = std::fs::read_dir(machine.davit().run_root()).expect("RUN_ROOT");
        let here = stores.flatten().map(|store| store.path().join("c"));
        let entries = here.filter_map(|here| std::fs::read_dir(here).ok()).flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.collect::<Vec<_>>()
    };
    assert_eq!(directories().len(), 2);
    machine.ok(&["system", "prune", "-f"]);
    assert_eq!(directories(), [kept]);
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
