//! Further processes in a running container.

use davit_runtime::{
    ExecFailure, ExecPlan, Executed, LaunchError, Running, StdioPlan, Streams, Target, exec,
    launch::StdinPlan,
    plan::{ProcessPlan, UserChoice},
    process::ExitStatus,
};

use crate::fixture::{Fixture, finish, read_all};

fn target(running: &Running) -> Target {
    Target { process: running.process.identity(), cgroup: running.cgroup.path().to_owned() }
}

fn plan(script: &str) -> ExecPlan {
    let args = ["sh", "-c", script].map(str::to_owned).to_vec();
    let stdio = StdioPlan::Pipes { stdin: StdinPlan::Null };
    ExecPlan { process: ProcessPlan::new(args), stdio }
}

fn outcome(executed: Executed) -> (ExitStatus, String) {
    let Streams::Pipes { stdout, stderr, .. } = executed.streams else { panic!("no pipes") };
    let text = read_all(stdout) + &read_all(stderr);
    (executed.process.wait().unwrap(), text)
}

fn sleeper(fixture: &Fixture) -> Running {
    fixture.start(&fixture.shell("while :; do sleep 1; done")).unwrap()
}

fn stop(running: Running) {
    running.cgroup.kill().unwrap();
    finish(running);
}

#[test]
fn it_joins_everything() {
    let Some(fixture) = Fixture::new() else { return };
    let running = sleeper(&fixture);
    let script = "grep ^0: /proc/self/cgroup; for n in mnt pid net ipc uts cgroup; do \
                  test $(readlink /proc/self/ns/$n) = $(readlink /proc/1/ns/$n) || echo $n; done; \
                  grep -E '^(CapBnd|Seccomp:|NoNewPrivs)' /proc/self/status; pwd; exit 5";
    let (status, text) = outcome(exec(&target(&running), plan(script)).unwrap());
    let expected = "0::/\nCapBnd:\t00000000a80425fb\nNoNewPrivs:\t0\nSeccomp:\t2\n/\n";
    assert_eq!((status, text.as_str()), (ExitStatus::Exited(5), expected));
    stop(running);
}

#[test]
fn the_caller_stays_where_it_is() {
    let Some(fixture) = Fixture::new() else { return };
    let running = sleeper(&fixture);
    let own = || fs_err::read_link("/proc/thread-self/ns/pid_for_children").unwrap();
    let before = own();
    outcome(exec(&target(&running), plan("true")).unwrap());
    assert_eq!(own(), before);
    stop(running);
}

#[test]
fn users_directories_and_failures() {
    let Some(fixture) = Fixture::new() else { return };
    let running = sleeper(&fixture);
    let mut plan_app = plan("id -u; pwd; echo $HOME; grep CapEff /proc/self/status");
    plan_app.process.user = UserChoice::Named { user: "app".to_owned(), groups: Vec::new() };
    plan_app.process.cwd = "/tmp".to_owned();
    let (_, text) = outcome(exec(&target(&running), plan_app).unwrap());
    assert_eq!(text, "1000\n/tmp\n/home/app\nCapEff:\t0000000000000000\n");
    let mut missing = plan("");
    missing.process.args = vec!["nothing".to_owned()];
    let error = exec(&target(&running), missing).unwrap_err();
    let LaunchError::Exec { failure: ExecFailure::NotFoundInPath, .. } = error else {
        panic!("{error}");
    };
    let mut nowhere = plan("pwd");
    nowhere.process.cwd = "/no/such".to_owned();
    nowhere.process.create_cwd = false;
    assert!(matches!(exec(&target(&running), nowhere), Err(LaunchError::Child { .. })));
    stop(running);
}

#[test]
fn a_container_that_has_ended_is_not_running() {
    let Some(fixture) = Fixture::new() else { return };
    let running = sleeper(&fixture);
    let target = target(&running);
    let other = Target {
        process: davit_runtime::Identity { start_time: 1, ..target.process },
        cgroup: target.cgroup.clone(),
    };
    assert!(matches!(exec(&other, plan("true")), Err(LaunchError::NotRunning)));
    stop(running);
    assert!(matches!(exec(&target, plan("true")), Err(LaunchError::NotRunning)));
}

#[test]
fn it_dies_with_the_container() {
    let Some(fixture) = Fixture::new() else { return };
    let running = sleeper(&fixture);
    let executed = exec(&target(&running), plan("echo up; while :; do sleep 1; done")).unwrap();
    let Streams::Pipes { stdout, .. } = &executed.streams else { panic!("no pipes") };
    let mut line = [0; 3];
    rustix::io::read(stdout, &mut line).unwrap();
    running.cgroup.kill().unwrap();
    // The container's process 1 ends only after whoever joined was reaped by its parent.
    assert_eq!(outcome(executed), (ExitStatus::Signaled(9), String::new()));
    finish(running);
}
