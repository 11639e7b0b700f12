//! Clients that do not read, or write more than the container takes.

use std::{
    io::Read as _,
    process::{Child, Stdio},
};

use davit_test::until;

use crate::machine::Machine;

/// A client with pipes.
fn client(machine: &Machine, arguments: &[&str], stdin: Stdio) -> Child {
    let mut command = machine.command(arguments);
    command.stdin(stdin).stdout(Stdio::piped()).spawn().expect("davit starts")
}

fn signal(pid: u32, name: &str) {
    let status = std::process::Command::new("kill").args(["-s", name, &pid.to_string()]).status();
    assert!(status.expect("kill starts").success());
}

/// Waits until something stays as it is: who writes there is blocked.
fn until_still(look: impl Fn() -> u64) {
    let last = std::cell::Cell::new((0, 0));
    until("nothing moves", || {
        let (before, times) = last.get();
        let now = look();
        last.set((now, if now == before { times + 1 } else { 0 }));
        now > 0 && last.get().1 >= 20
    });
}

#[test]
fn stopped_clients_hold_up_no_end() {
    let Some(machine) = Machine::new() else { return };
    // What it has written, it also counts where the end of the pipe is of no account.
    let line = "i=0; while true; do i=$((i+1)); printf '%01000d\\n' $i; echo >>/count; done";
    machine.ok(&["run", "-d", "--name", "bystander", "busybox", "yes"]);
    let mut own =
        client(&machine, &["run", "--name", "own", "busybox", "sh", "-c", line], Stdio::null());
    let written = |name: &str| {
        let log = machine.davit().root().join("containers").join(name).join("log");
        std::fs::metadata(log).map_or(0, |data| data.len())
    };
    until("it runs", || machine.run(&["exec", "own", "true"]).code == 0);
    let id = machine.ok(&["inspect", "-f", "{{.Id}}", "own"]);
    until_still(|| written(&id));

    let mut attached = client(&machine, &["attach", "bystander"], Stdio::null());
    let mut first = [0; 2];
    attached.stdout.as_mut().expect("piped").read_exact(&mut first).expect("attached");
    signal(attached.id(), "STOP");
    let bystander = machine.ok(&["inspect", "-f", "{{.Id}}", "bystander"]);
    until_still(|| written(&bystander));
    for name in ["own", "bystander"] {
        // `davit kill` would wait for the ends.
        let pid = machine.ok(&["inspect", "-f", "{{.State.Pid}}", name]);
        signal(pid.parse().expect("a number"), "KILL");
    }
    let state = |name: &str| machine.ok(&["inspect", "-f", "{{.State.Status}}", name]);
    until("the stopped client is given up", || state("bystander") == "exited");
    machine.ok(&["rm", "-f", "bystander"]);
    signal(attached.id(), "KILL");
    attached.wait().expect("reaped");

    // The command that settles the end gets everything, however late it reads.
    let mut output = String::new();
    own.stdout.take().expect("piped").read_to_string(&mut output).expect("read");
    own.wait().expect("reaped");
    let count = machine.davit().dir().join("count");
    machine.ok(&["cp", "own:/count", count.to_str().expect("UTF-8")]);
    let count = std::fs::read(count).expect("copied").len();
    assert!(output.lines().count() >= count, "{} of {count}", output.lines().count());
}

#[test]
fn unread_input_holds_up_its_writer_alone() {
    let Some(machine) = Machine::new() else { return };
    let mut yes =
        std::process::Command::new("yes").stdout(Stdio::piped()).spawn().expect("yes starts");
    let input = yes.stdout.take().expect("piped");
    let line = "while true; do echo tick; sleep 0.02; done";
    let run = ["run", "-i", "--name", "deaf", "busybox", "sh", "-c", line];
    let mut writer = machine.command(&run);
    let writer = writer.stdin(input).stdout(Stdio::null());
    let mut writer = writer.spawn().expect("davit starts");
    until("it runs", || machine.run(&["exec", "deaf", "true"]).code == 0);
    let written = || {
        let io = std::fs::read_to_string(format!("/proc/{}/io", yes.id())).expect("readable");
        let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
        line.and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    until_still(written);
    let output = machine.davit().dir().join("ticks");
    let file = std::fs::File::create(&output).expect("created");
    let mut second = machine.command(&["attach", "--no-stdin", "deaf"]);
    let mut second = second.stdout(file).spawn().expect("davit starts");
    until("the second client is served", || {
        std::fs::metadata(&output).is_ok_and(|data| data.len() > 0)
    });
    machine.ok(&["rm", "-f", "deaf"]);
    for child in [&mut yes, &mut writer, &mut second] {
        drop(child.kill());
        child.wait().expect("reaped");
    }
}
