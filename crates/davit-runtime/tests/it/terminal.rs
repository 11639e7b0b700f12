//! Pseudo-terminals.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
};

use davit_runtime::{
    ExecPlan, Running, StdioPlan, Streams, Target, exec,
    plan::{Init, ProcessPlan, UserChoice},
    process::ExitStatus,
};

use crate::fixture::Fixture;

/// Reads until the other side is closed, which a terminal answers with EIO.
fn drain(master: OwnedFd) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    let mut file = File::from(master);
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&text).replace('\r', "")
}

fn start(fixture: &Fixture, script: &str) -> Running {
    let plan = fixture.shell(script);
    let stdio = StdioPlan::Terminal { size: Some((33, 77)) };
    fixture.launch_with(&plan, stdio).unwrap().start().unwrap()
}

fn finish(running: Running) -> (ExitStatus, String) {
    let Streams::Terminal(master) = running.streams else { panic!("no terminal") };
    let text = drain(master);
    let status = running.process.wait().unwrap();
    running.cgroup.remove().unwrap();
    (status, text)
}

#[test]
fn terminal_is_the_containers_own() {
    let Some(fixture) = Fixture::new() else { return };
    let script = "tty; stty size; stat -c '%F %t:%T' /dev/console; cat /proc/self/stat | \
                  (read a b c d e s t rest; test $t != 0 && echo controlled); ls -1 /dev/pts";
    let (status, text) = finish(start(&fixture, script));
    let expected = "/dev/pts/0\n33 77\ncharacter special file 88:0\ncontrolled\n0\nptmx\n";
    assert_eq!((status, text.as_str()), (ExitStatus::Exited(0), expected));
}

#[test]
fn control_characters_reach_the_command() {
    let Some(fixture) = Fixture::new() else { return };
    for init in [Init::Command, Init::Reaper] {
        let mut plan = fixture.shell(
            "trap 'echo; echo interrupted; exit 4' INT; echo ready; \
                                      while :; do sleep 0.02; done",
        );
        plan.init = init;
        let stdio = StdioPlan::Terminal { size: None };
        let running = fixture.launch_with(&plan, stdio).unwrap().start().unwrap();
        let Streams::Terminal(master) = &running.streams else { panic!("no terminal") };
        let mut file = File::from(master.try_clone().unwrap());
        let mut seen = String::new();
        let mut byte = [0];
        while !seen.contains("ready") {
            file.read_exact(&mut byte).unwrap();
            seen.push(char::from(byte[0]));
        }
        file.write_all(&[3]).unwrap();
        drop(file);
        let (status, text) = finish(running);
        assert_eq!(status, ExitStatus::Exited(4), "{init:?} {text}");
        assert!(text.contains("interrupted"), "{init:?} {text}");
    }
}

#[test]
fn users_own_their_terminal() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan = fixture.shell("stat -c %u:%g /dev/pts/0");
    plan.process.user = UserChoice::Ids { uid: 1000, gid: 1000, groups: Vec::new() };
    let stdio = StdioPlan::Terminal { size: None };
    let running = fixture.launch_with(&plan, stdio).unwrap().start().unwrap();
    assert_eq!(finish(running).1, "1000:5\n");
}

#[test]
fn exec_opens_another_one_in_the_container() {
    let Some(fixture) = Fixture::new() else { return };
    let running = start(&fixture, "while :; do sleep 1; done");
    let target =
        Target { process: running.process.identity(), cgroup: running.cgroup.path().to_owned() };
    let args = ["sh", "-c", "tty; stty size"].map(str::to_owned).to_vec();
    let stdio = StdioPlan::Terminal { size: Some((5, 6)) };
    let executed = exec(&target, ExecPlan { process: ProcessPlan::new(args), stdio }).unwrap();
    let Streams::Terminal(master) = executed.streams else { panic!("no terminal") };
    assert_eq!(drain(master), "/dev/pts/1\n5 6\n");
    executed.process.wait().unwrap();
    running.cgroup.kill().unwrap();
    finish(running);
}
