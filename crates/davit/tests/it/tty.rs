//! Terminals, detaching, signals: `run -it`, `exec -it`, `attach`, `start -ai`.

use std::process::Stdio;

use davit_test::{Outcome, need_tool, until};

use crate::{machine::Machine, terminal::Terminal};

/// A machine where commands can be given a terminal.
fn machine() -> Option<Machine> {
    need_tool("setsid")?;
    Machine::new()
}

fn state(machine: &Machine, name: &str) -> String {
    machine.ok(&["inspect", "-f", "{{.State.Status}}", name])
}

/// Sends a signal to a process of the test's own.
fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("kill").args(["-s", name, &pid.to_string()]).status();
    assert!(status.expect("kill starts").success());
}

#[test]
fn run_has_a_terminal_of_the_callers_size() {
    let Some(machine) = machine() else { return };
    let mut terminal = Terminal::start(&machine, &["run", "--rm", "-it", "busybox", "sh"]);
    terminal.expect("# ");
    assert!(terminal.is_raw());
    terminal.keys("tty; stty size; echo $TERM\r");
    terminal.expect("/dev/pts/0\r\n24 80\r\nxterm\r\n");
    terminal.resize(50, 132);
    until("the container's terminal has the size", || {
        machine
            .run(&["exec", &machine.ok(&["ps", "-q"]), "sh", "-c", "stty size </dev/pts/0"])
            .stdout
            == "50 132\n"
    });
    // Ctrl-C is a key for the command inside.
    terminal.keys("sleep 600\r");
    let id = machine.ok(&["ps", "-q"]);
    until("it sleeps", || machine.run(&["top", &id]).stdout.contains("sleep 600"));
    terminal.keys("\x03");
    terminal.expect("^C");
    terminal.keys("exit 7\r");
    assert_eq!(terminal.end(), 7);
    assert_eq!(machine.ok(&["ps", "-aq"]), "");
}

#[test]
fn exit_codes_on_a_terminal() {
    let Some(machine) = machine() else { return };
    let cases: [(&[&str], i32); 5] = [
        (&["busybox", "sh", "-c", "exit 3"], 3),
        (&["busybox", "sh", "-c", "kill -9 $$; sleep 60 & kill -9 $!; wait $!"], 137),
        (&["busybox", "nosuch"], 127),
        (&["busybox", "/etc"], 126),
        (&["--pull", "never", "nosuch"], 125),
    ];
    for (command, code) in cases {
        let terminal = Terminal::start(&machine, &[&["run", "--rm", "-it"][..], command].concat());
        assert_eq!(terminal.end(), code, "{command:?}");
    }
    for verb in ["run", "exec"] {
        // Standard input is no terminal here.
        let refused = machine.run(&[verb, "-it", "busybox", "true"]);
        assert!(refused.code == 1 && refused.stderr.contains("not a TTY"), "{}", refused.stderr);
    }
}

#[test]
fn detaching_and_attaching_again() {
    let Some(machine) = machine() else { return };
    let mut terminal = Terminal::start(&machine, &["run", "-it", "--name", "box", "busybox", "sh"]);
    terminal.expect("# ");
    terminal.keys("x=kept\r");
    terminal.keys("\x10\x11");
    assert_eq!(terminal.end(), 0);
    assert_eq!(state(&machine, "box"), "running");
    let mut terminal = Terminal::start(&machine, &["attach", "--detach-keys", "ctrl-a,z", "box"]);
    until("the terminal is raw", || terminal.is_raw());
    terminal.keys("\x10\x11\r");
    terminal.keys("echo still $x\r");
    terminal.expect("still kept");
    terminal.resize(10, 20);
    terminal.keys("\x01");
    terminal.keys("z");
    assert_eq!(terminal.end(), 0);
    assert_eq!(state(&machine, "box"), "running");
    let mut terminal = Terminal::start(&machine, &["attach", "box"]);
    until("the terminal is raw", || terminal.is_raw());
    terminal.keys("exit 9\r");
    assert_eq!(terminal.end(), 9, "the container's exit code");
    let mut terminal = Terminal::start(&machine, &["start", "-ai", "box"]);
    terminal.expect("# ");
    terminal.keys("exit 4\r");
    assert_eq!(terminal.end(), 4);
    let bad = machine.run(&["attach", "--detach-keys", "ctrl-1", "box"]);
    assert_ne!(bad.code, 0);
}

#[test]
fn exec_has_a_terminal_of_its_own() {
    let Some(machine) = machine() else { return };
    machine.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]);
    let mut terminal = Terminal::start(&machine, &["exec", "-it", "-e", "A=b", "box", "sh"]);
    terminal.expect("# ");
    terminal.keys("tty; stty size; echo $A\r");
    terminal.expect("/dev/pts/0\r\n24 80\r\nb\r\n");
    terminal.resize(33, 99);
    until("it has the size", || {
        machine.run(&["exec", "box", "sh", "-c", "stty size </dev/pts/0"]).stdout == "33 99\n"
    });
    terminal.keys("exit 5\r");
    assert_eq!(terminal.end(), 5);
    for (command, code) in [("nosuch", 127), ("/etc", 126)] {
        assert_eq!(Terminal::start(&machine, &["exec", "-it", "box", command]).end(), code);
    }
    // What is left behind goes on, with a terminal that still takes its output.
    let line = "echo up; i=0; while [ ! -e /done ]; do echo $i; i=$((i+1)); done; echo over >/over";
    let mut terminal = Terminal::start(&machine, &["exec", "-it", "box", "sh", "-c", line]);
    terminal.expect("up");
    terminal.keys("\x10\x11");
    assert_eq!(terminal.end(), 0);
    machine.ok(&["exec", "box", "touch", "/done"]);
    until("the command has ended by itself", || {
        machine.run(&["exec", "box", "test", "-e", "/over"]).code == 0
    });
}

#[test]
fn signals_go_to_the_container_or_end_the_command() {
    let Some(machine) = Machine::new() else { return };
    let line = "trap 'exit 21' TERM; trap 'echo hup' HUP; trap 'echo many' WINCH TSTP 40; \
                trap 'echo urgent' URG; echo up; while true; do sleep 0.02; done";
    let start = |verb: &[&str], more: &[&str]| {
        let mut command = machine.command(&[verb, more].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("davit starts")
    };
    let up = |name: &str| {
        until("it is up", || machine.run(&["logs", name]).stdout.contains("up"));
    };
    let child = start(&["run", "--name", "proxied"], &["busybox", "sh", "-c", line]);
    up("proxied");
    signal(child.id(), "HUP");
    until("the signal has arrived", || machine.run(&["logs", "proxied"]).stdout.contains("hup"));
    let count = |word| machine.run(&["logs", "proxied"]).stdout.matches(word).count();
    for (index, name) in ["WINCH", "TSTP", "40"].into_iter().enumerate() {
        signal(child.id(), "URG");
        signal(child.id(), name);
        until("the signal has arrived", || count("many") == index + 1);
    }
    signal(child.id(), "TERM");
    let ended = Outcome::from(child.wait_with_output().expect("it ends"));
    assert_eq!((ended.code, ended.stdout.as_str()), (21, "up\nhup\nmany\nmany\nmany\n"));
    let child =
        start(&["run", "--sig-proxy=false", "--name", "own"], &["busybox", "sh", "-c", line]);
    up("own");
    signal(child.id(), "TERM");
    assert_eq!(Outcome::from(child.wait_with_output().expect("it ends")).code, 143);
    assert_eq!(state(&machine, "own"), "running");
    let child = start(&["attach", "--sig-proxy=false", "own"], &[]);
    signal(child.id(), "INT");
    let code = Outcome::from(child.wait_with_output().expect("it ends")).code;
    assert_eq!((code, state(&machine, "own").as_str()), (130, "running"));
    let mut child = start(&["attach", "own"], &[]);
    let mut stdout = child.stdout.take().expect("piped");
    let heard = std::thread::spawn(move || {
        std::io::Read::read_exact(&mut stdout, &mut [0; 4]).map(|()| stdout)
    });
    until("it is attached, and says what the container says", || {
        machine.ok(&["kill", "-s", "HUP", "own"]);
        heard.is_finished()
    });
    let _kept = heard.join().expect("no panic").expect("a word");
    machine.ok(&["kill", "-s", "TERM", "own"]);
    assert_eq!(Outcome::from(child.wait_with_output().expect("it ends")).code, 21);
}

#[test]
fn a_terminals_owner_that_is_killed_leaves_the_container_alone() {
    let Some(machine) = machine() else { return };
    let terminal = Terminal::start(&machine, &["run", "-it", "--name", "box", "busybox", "sh"]);
    terminal.expect("# ");
    signal(terminal.pid(), "TERM");
    assert_eq!(terminal.end(), 143);
    assert_eq!(state(&machine, "box"), "running");
}

#[test]
fn a_failed_build_shows_its_line_in_colour_and_its_output_as_text() {
    let Some(machine) = machine() else { return };
    let context = machine.davit().dir().join("context");
    std::fs::create_dir(&context).expect("a folder");
    let step = "RUN printf '\\033]0;title\\007 \\302\\233m'; exit 3 # \x1b]0;\u{9b}m\n";
    std::fs::write(context.join("Dockerfile"), format!("FROM busybox\n{step}")).expect("a file");
    let context = context.to_str().expect("UTF-8");
    let terminal = Terminal::start(&machine, &["build", "--network", "none", context]);
    terminal.expect("\x1b[1m\x1b[94m--> ");
    terminal.expect("> \\x1b]0;title\\x07 \\x9bm");
    let shown = terminal.text();
    assert!(!shown.contains("\x1b]") && !shown.contains('\u{9b}'), "{shown:?}");
    assert!(!shown.contains("\\x1b[1m"), "{shown:?}");
    assert_eq!(terminal.end(), 1);
}

#[test]
fn the_first_client_of_a_created_container_ends_its_input() {
    let Some(machine) = Machine::new() else { return };
    let format = "{{.Config.OpenStdin}} {{.Config.StdinOnce}} {{.Config.AttachStdin}} \
                  {{.Config.AttachStdout}} {{.Config.AttachStderr}}";
    let cases: [(&str, &[&str], &str); 5] = [
        ("first", &["create", "-i"], "true true true true true"),
        ("plain", &["create"], "false false false true true"),
        ("out", &["create", "-i", "-a", "stdout"], "true true true true false"),
        ("none", &["run", "-d"], "false false false false false"),
        ("open", &["run", "-di"], "true false false false false"),
    ];
    for (name, verb, expected) in cases {
        machine.ok(&[verb, &["--name", name, "--network", "none", "busybox", "cat"]].concat());
        assert_eq!(machine.ok(&["inspect", "-f", format, name]), expected, "{verb:?}");
    }
    let mut command = machine.command(&["start", "-ai", "first"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("davit starts");
    let mut stdin = child.stdin.take().expect("piped");
    std::io::Write::write_all(&mut stdin, b"x\n").expect("written");
    drop(stdin);
    until("cat has seen the end", || state(&machine, "first") == "exited");
    let outcome = Outcome::from(child.wait_with_output().expect("it ends"));
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, "x\n"));
}

#[test]
fn attaching_without_a_terminal() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&[
        "run",
        "-d",
        "-i",
        "--name",
        "cat",
        "busybox",
        "sh",
        "-c",
        "echo ready; cat; exit 6",
    ]);
    until("it is ready", || machine.run(&["logs", "cat"]).stdout.contains("ready"));
    let mut child = machine
        .command(&["attach", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("davit starts");
    let mut stdin = child.stdin.take().expect("piped");
    std::io::Write::write_all(&mut stdin, b"hello\n").expect("written");
    until("it came back", || machine.run(&["logs", "cat"]).stdout.contains("hello"));
    // `run -di` keeps its standard input open when a client ends its own.
    drop(stdin);
    assert_eq!(state(&machine, "cat"), "running");
    machine.ok(&["kill", "-s", "KILL", "cat"]);
    let outcome = Outcome::from(child.wait_with_output().expect("it ends"));
    assert_eq!((outcome.code, outcome.stdout.as_str()), (137, "hello\n"), "{}", outcome.stderr);
    let refused = machine.run(&["attach", "cat"]);
    assert!(
        refused.code == 1 && refused.stderr.contains("cannot attach to a stopped"),
        "{}",
        refused.stderr
    );
    machine.ok(&["run", "-d", "--name", "box", "busybox", "sleep", "600"]);
    machine.ok(&["pause", "box"]);
    let refused = machine.run(&["attach", "box"]);
    assert!(refused.code == 1 && refused.stderr.contains("paused"), "{}", refused.stderr);
}
