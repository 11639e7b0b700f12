//! Work by hand: a shell in a step that failed, a command in the state behind a step.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::{Command, Stdio},
    thread,
};

use davit_test::{Outcome, need_tool, until};

use super::{
    bench::{Bench, alpine},
    cancel::interrupt,
};
use crate::terminal::Terminal;

const STAGES: &str = "FROM alpine AS one\nENV A=one\nWORKDIR /w\n\
                      RUN echo made > made && echo buil''ding\nUSER nobody\n\
                      FROM one AS two\nRUN id -un > /tmp/user\nENV A=two\nRUN false\n";

fn build(bench: &Bench, args: &[&str], command: &[&str]) -> Command {
    let context = bench.context.to_str().unwrap();
    let fixed = ["build", "--progress", "plain", "--network", "none"];
    let mut all: Vec<&str> = fixed.iter().chain(args).chain([&context]).copied().collect();
    if !command.is_empty() {
        all.push("--");
        all.extend(command);
    }
    bench.davit.command(all)
}

/// Runs a command behind a step.
fn at(bench: &Bench, place: &str, command: &[&str]) -> Outcome {
    let mut command = build(bench, &["--at", place], command);
    Outcome::from(command.stdin(Stdio::null()).output().unwrap())
}

/// What a build leaves behind while it works.
fn unfinished(bench: &Bench) -> usize {
    fs::read_dir(bench.davit.root().join("tmp")).unwrap().count()
}

/// Whether a process has these words.
fn runs(words: &str) -> bool {
    let text = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).unwrap_or_default();
    let mut all = fs::read_dir("/proc").unwrap().flatten().map(text);
    all.any(|text| String::from_utf8_lossy(&text).replace('\0', " ").trim_end() == words)
}

#[test]
fn a_command_runs_behind_a_step() {
    let Some(bench) = alpine(STAGES) else { return };
    // Line 6 is the RUN: two lines stand above.
    let first = at(&bench, "6", &["sh", "-c", "cat made; echo $A; id -un; pwd; echo err >&2"]);
    assert_eq!((first.code, &*first.stdout), (0, "made\none\nroot\n/w\n"), "{}", first.stderr);
    assert!(first.stderr.contains("building") && first.stderr.contains("err\n"));
    let stage = at(&bench, "one", &["id", "-un"]);
    assert_eq!((stage.code, &*stage.stdout), (0, "nobody\n"));
    assert!(stage.stderr.contains("CACHED") && !stage.stderr.contains("building"));
    let below = at(&bench, "9", &["sh", "-c", "cat /tmp/user; echo $A"]);
    assert_eq!(below.stdout, "nobody\none\n", "the ENV below is not there yet");
    assert_eq!(at(&bench, "10", &["sh", "-c", "echo $A"]).stdout, "two\n");
    let failed = at(&bench, "two", &["true"]);
    assert!(failed.code == 1 && failed.stderr.contains("`/bin/sh -c false`"), "{}", failed.stderr);
    // Nothing is kept, and the exit code is the command's.
    assert_eq!(at(&bench, "6", &["sh", "-c", "rm made; exit 7"]).code, 7);
    assert_eq!(at(&bench, "6", &["cat", "made"]).stdout, "made\n");
    assert_eq!(bench.davit.ok(["images", "-aq"]), "");
    assert_eq!(unfinished(&bench), 0);
    let status = bench.davit.ok(["builder", "history", "ls", "--format", "{{.Status}}"]);
    assert_eq!(status.lines().filter(|it| *it == "Completed").count(), 6, "{status}");
    // What cannot be.
    for (place, command, message) in [
        ("tow", &["true"][..], "did you mean `two`?"),
        ("0", &["true"], "no stage has a line 0"),
        ("99", &["true"], "Dockerfile has no line 99, its last one is"),
        ("6", &["/nosuch"], "nosuch"),
        ("6", &[], "a shell needs a terminal"),
    ] {
        let outcome = at(&bench, place, command);
        assert!(outcome.code > 0 && outcome.stderr.contains(message), "{}", outcome.stderr);
    }
    for options in [
        &["-t", "x"][..],
        &["-o", "x"],
        &["--target", "one"],
        &["--check"],
        &["--squash"],
        &["--sbom", "true"],
    ] {
        let mut command = build(&bench, &[&["--at", "6"], options].concat(), &["true"]);
        let refused = Outcome::from(command.output().unwrap());
        assert!(refused.code != 0 && refused.stderr.contains("--at"), "{}", refused.stderr);
    }
    let refused = Outcome::from(build(&bench, &[], &["true"]).output().unwrap());
    assert!(refused.code == 1 && refused.stderr.contains("argument 'true'"), "{}", refused.stderr);
}

#[test]
fn bytes_go_through_a_command_behind_a_step() {
    let Some(bench) = alpine("FROM alpine AS x\n") else { return };
    let secret = bench.davit.dir().join("secret");
    fs::write(&secret, "hunter2").unwrap();
    let spec = format!("id=s,src={}", secret.display());
    let shown = build(&bench, &["--at", "x", "--secret", &spec], &["cat", "/run/secrets/s"]);
    assert_eq!(Outcome::from({ shown }.output().unwrap()).stdout, "hunter2");
    // More than any pipe holds, both ways at once.
    let mut command = build(&bench, &["--at", "x"], &["tr", "a", "b"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let writer = thread::spawn(move || stdin.write_all(&vec![b'a'; 8 << 20]).unwrap());
    let mut bytes = Vec::new();
    stdout.read_to_end(&mut bytes).unwrap();
    writer.join().unwrap();
    assert!(bytes.len() == 8 << 20 && bytes.iter().all(|byte| *byte == b'b'));
    assert!(child.wait().unwrap().success());
    // One that reads nothing does not wait for what nobody writes, or writes for ever.
    for endless in [false, true] {
        let mut command = build(&bench, &["--at", "x"], &["true"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        if endless {
            while stdin.write_all(&[0; 4096]).is_ok() {}
        }
        assert!(child.wait().unwrap().success());
    }
    // One whose reader has gone ends.
    let mut command = build(&bench, &["--at", "x"], &["yes"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    assert!(!child.wait().unwrap().success());
    // One Ctrl-C ends it.
    let mut command = build(&bench, &["--at", "x"], &["sh", "-c", "echo up; exec sleep 86399"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let outcome = interrupt(command.spawn().unwrap(), |_| runs("sleep 86399"));
    assert_eq!(outcome.code, 130, "{}", outcome.stderr);
    assert!(!runs("sleep 86399"));
    assert_eq!(unfinished(&bench), 0);
}

#[test]
fn a_shell_behind_a_step_has_a_terminal() {
    if need_tool("setsid").is_none() {
        return;
    }
    let Some(bench) = alpine(STAGES) else { return };
    let mut terminal = Terminal::of(&build(&bench, &["--at", "one"], &[]));
    terminal.expect("/w $ ");
    assert!(terminal.is_raw());
    terminal.keys("tty; stty size; echo $TERM-$A\r");
    terminal.expect("/dev/pts/0\r\n24 80\r\nxterm-one\r\n");
    terminal.resize(50, 132);
    terminal.keys("while test \"$(stty size)\" != '50 132'; do :; done; echo has'-'it\r");
    terminal.expect("has-it");
    // Ctrl-C is a key for the command inside.
    terminal.keys("sleep 86398\r");
    until("it sleeps", || runs("sleep 86398"));
    terminal.keys("\x03");
    until("it has ended", || !runs("sleep 86398"));
    terminal.keys("exit 7\r");
    assert_eq!(terminal.end(), 7);
    assert_eq!(unfinished(&bench), 0);
}

#[test]
fn a_shell_opens_in_the_step_that_failed() {
    if need_tool("setsid").is_none() {
        return;
    }
    let dockerfile = "FROM alpine\nENV A=env\nARG B=arg\nWORKDIR /w\n\
                      RUN --mount=type=secret,id=s --mount=type=cache,target=/c \
                      touch left /c/kept && exit 5\n";
    let Some(bench) = alpine(dockerfile) else { return };
    let secret = bench.davit.dir().join("secret");
    fs::write(&secret, "hunter2\n").unwrap();
    let spec = format!("id=s,src={}", secret.display());
    let options = ["--on-error", "shell", "--secret", &spec];
    let refused = bench.run(&options);
    assert!(refused.code != 0 && refused.stderr.contains("needs a terminal"), "{}", refused.stderr);
    assert_eq!(bench.davit.ok(["builder", "history", "ls", "--format", "{{.Ref}}"]), "");

    for progress in ["plain", "tty"] {
        let options = [&options[..], &["--progress", progress]].concat();
        let mut terminal = Terminal::of(&build(&bench, &options, &[]));
        terminal.expect("the build fails when it ends");
        terminal.expect("/w # ");
        terminal.keys("echo $A $B /w/* /c/*; cat /run/secrets/s; tty; touch more\r");
        terminal.expect("env arg /w/left /c/kept\r\nhunter2\r\n/dev/pts/0\r\n");
        terminal.keys("exit 0\r");
        terminal.expect("ended with exit code 5");
        terminal.expect("history logs");
        assert_eq!(terminal.end(), 1);
        assert_eq!(unfinished(&bench), 0);
    }
    let log = bench.davit.run(["builder", "history", "logs"]);
    assert!(!log.stderr.contains("hunter2"), "what is done by hand is in no log: {}", log.stderr);
    // What has no shell says so, and fails as it did.
    let without = "FROM scratch AS alpine\nADD alpine.tar.gz /\nFROM alpine\n\
                   SHELL [\"/bin/busybox\", \"sh\", \"-c\"]\nRUN rm /bin/sh && exit 6\n";
    bench.write("Dockerfile", without);
    let terminal = Terminal::of(&build(&bench, &["--on-error=shell"], &[]));
    terminal.expect("no shell opens");
    assert_eq!(terminal.end(), 1);
}

#[test]
fn a_shell_ends_with_its_build() {
    if need_tool("setsid").is_none() {
        return;
    }
    let Some(bench) = alpine("FROM alpine\nRUN exit 5\n") else { return };
    for (signal, code, sleep) in [("TERM", 143, "sleep 86397"), ("KILL", -1, "sleep 86396")] {
        let mut terminal = Terminal::of(&build(&bench, &["--on-error=shell"], &[]));
        terminal.expect("# ");
        terminal.keys(&format!("trap '' TERM HUP INT; {sleep}\r"));
        until("it sleeps", || runs(sleep));
        let pid = terminal.pid().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        if signal == "TERM" {
            assert_eq!(terminal.end(), code);
            assert!(!runs(sleep));
            assert_eq!(unfinished(&bench), 0);
        } else {
            until("the shell has gone, too", || !runs(sleep));
        }
    }
    // The next build tidies up and is as any.
    let outcome = bench.run(&[]);
    assert!(outcome.code == 1 && outcome.stderr.contains("exit code 5"), "{}", outcome.stderr);
    until("nothing is left", || unfinished(&bench) == 0);
}
