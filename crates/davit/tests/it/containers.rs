//! Containers from the outside, as a user has them.

use std::io::Write as _;

use davit_test::until;

use crate::machine::Machine;

#[test]
fn output_exit_codes_and_nothing_left() {
    let Some(machine) = Machine::new() else { return };
    let before = machine.settled();
    let cases: [(&[&str], i32, &str); 8] = [
        (&["true"], 0, ""),
        (&["sh", "-c", "echo out; exit 3"], 3, "out\n"),
        (&["sh", "-c", "sleep 60 & kill -9 $!; wait $!"], 137, ""),
        (&["sh", "-c", "kill -TERM $$; sleep 1; exit 4"], 4, ""),
        (&["/nonexistent"], 127, ""),
        (&["nonexistent"], 127, ""),
        (&["/etc"], 126, ""),
        (&["id", "-u"], 0, "0\n"),
    ];
    for (command, code, stdout) in cases {
        let outcome = machine.run(&[&["run", "--rm", "busybox"], command].concat());
        assert_eq!(
            (outcome.code, outcome.stdout.as_str()),
            (code, stdout),
            "{command:?}: {}",
            outcome.stderr
        );
    }
    assert_eq!(machine.run(&["run", "--pull", "never", "nosuchimage"]).code, 125);
    assert_eq!(machine.run(&["run", "--nosuchflag", "busybox"]).code, 125);
    assert_eq!(machine.ok(&["ps", "-aq"]), "");
    machine.await_traces(&before);
}

#[test]
fn standard_input_reaches_the_container() {
    let Some(machine) = Machine::new() else { return };
    let mut child = machine
        .command(&["run", "--rm", "-i", "busybox", "wc", "-c"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("davit starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(&vec![b'x'; 300_000]).expect("written");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "300000");
}

#[test]
fn much_output_arrives_whole() {
    let Some(machine) = Machine::new() else { return };
    let outcome =
        machine.run(&["run", "--rm", "busybox", "sh", "-c", "yes davit | head -c 5000000"]);
    assert_eq!((outcome.code, outcome.stdout.len()), (0, 5_000_000), "{}", outcome.stderr);
}

#[test]
fn a_life_in_the_background() {
    let Some(machine) = Machine::new() else { return };
    let id = machine.ok(&[
        "run",
        "-d",
        "--name",
        "web",
        "-e",
        "A=1",
        "busybox",
        "sh",
        "-c",
        "echo up; echo err >&2; exec sleep 600",
    ]);
    assert_eq!(id.len(), 64);
    until("the log has both lines", || {
        let log = machine.run(&["logs", "web"]);
        (log.stdout.as_str(), log.stderr.as_str()) == ("up\n", "err\n")
    });
    assert_eq!(machine.ok(&["ps", "--format", "{{.Names}} {{.State}}"]), "web running");
    assert_eq!(machine.ok(&["ps", "-q", "--no-trunc"]), id);
    assert_eq!(machine.ok(&["exec", "web", "sh", "-c", "echo $A"]), "1");
    assert_eq!(machine.run(&["exec", "web", "sh", "-c", "exit 7"]).code, 7);
    assert_eq!(machine.run(&["exec", "web", "nonexistent"]).code, 127);
    assert_eq!(
        machine.ok(&["container", "inspect", "-f", "{{.State.Running}}", &id[..12]]),
        "true"
    );
    let refused = machine.run(&["rm", "web"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("container is running"),
        "{}",
        refused.stderr
    );
    machine.ok(&["pause", "web"]);
    assert_eq!(machine.ok(&["ps", "--format", "{{.State}}"]), "paused");
    machine.ok(&["unpause", "web"]);
    machine.ok(&["rename", "web", "site"]);
    machine.ok(&["stop", "-t", "0", "site"]);
    assert_eq!(machine.ok(&["ps", "-q"]), "");
    assert_eq!(machine.ok(&["container", "inspect", "-f", "{{.State.ExitCode}}", "site"]), "137");
    machine.ok(&["start", "site"]);
    assert_eq!(machine.ok(&["kill", "site"]), "site");
    assert_eq!(machine.ok(&["wait", "site"]), "137");
    machine.ok(&["rm", "site"]);
    let gone = machine.run(&["logs", "site"]);
    assert!(gone.code == 1 && gone.stderr.contains("No such container: site"), "{}", gone.stderr);
}

#[test]
fn volumes_keep_and_are_filled() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&[
        "run",
        "--rm",
        "-v",
        "data:/etc",
        "busybox",
        "sh",
        "-c",
        "test -f /etc/passwd && echo kept > /etc/mark",
    ]);
    assert_eq!(
        machine.ok(&["run", "--rm", "-v", "data:/d:ro", "busybox", "cat", "/d/mark"]),
        "kept"
    );
    assert_ne!(
        machine.run(&["run", "--rm", "-v", "data:/d:ro", "busybox", "touch", "/d/x"]).code,
        0
    );
    assert_eq!(machine.ok(&["volume", "ls", "-q"]), "data");
    machine.ok(&["run", "--rm", "-v", "/anonymous", "busybox", "true"]);
    assert_eq!(machine.ok(&["volume", "ls", "-q"]), "data", "anonymous ones go with --rm");
    machine.ok(&["create", "--name", "user", "-v", "data:/d", "busybox"]);
    assert_eq!(machine.run(&["volume", "rm", "data"]).code, 1);
    machine.ok(&["rm", "user"]);
    machine.ok(&["volume", "rm", "data"]);
}

#[test]
fn restart_policies() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&[
        "run",
        "-d",
        "--name",
        "again",
        "--restart",
        "on-failure:2",
        "busybox",
        "sh",
        "-c",
        "exit 5",
    ]);
    until("it has given up", || {
        machine.ok(&["container", "inspect", "-f", "{{.State.Status}}", "again"]) == "exited"
    });
    assert_eq!(
        machine.ok(&[
            "container",
            "inspect",
            "-f",
            "{{.RestartCount}} {{.State.ExitCode}}",
            "again"
        ]),
        "2 5"
    );
}
