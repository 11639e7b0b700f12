//! Figures for people; nothing is asserted about time.

use std::time::Instant;

use crate::fixture::{Fixture, finish};

/// `DAVIT_TEST_LOOPS=200 cargo test --release -p davit-runtime --test it speed -- --nocapture`.
#[test]
fn launch_to_exit() {
    let Some(fixture) = Fixture::new() else { return };
    let loops = std::env::var("DAVIT_TEST_LOOPS").ok().and_then(|text| text.parse().ok());
    let plan = fixture.plan(&["/bin/true"]);
    let mut times: Vec<_> = (0..loops.unwrap_or(3))
        .map(|_| {
            let root = fixture.root();
            let begin = Instant::now();
            let running = davit_runtime::launch(davit_runtime::Launch {
                plan: &plan,
                root: std::os::fd::AsFd::as_fd(&root),
                descriptors: &[],
                stdio: davit_runtime::StdioPlan::Pipes {
                    stdin: davit_runtime::launch::StdinPlan::Null,
                },
                cgroups: &fixture.cgroups,
                network: None,
                sharing: None,
            })
            .unwrap()
            .start()
            .unwrap();
            let started = begin.elapsed();
            running.process.wait().unwrap();
            let ended = begin.elapsed();
            finish_rest(running);
            (started, ended, begin.elapsed())
        })
        .collect();
    times.sort();
    println!("started, ended, cleaned: {:?}", times[times.len() / 2]);
}

fn finish_rest(running: davit_runtime::Running) {
    let davit_runtime::Running { cgroup, .. } = running;
    cgroup.remove().unwrap();
}

/// The other half: joining a running container.
#[test]
fn exec_to_exit() {
    let Some(fixture) = Fixture::new() else { return };
    let loops = std::env::var("DAVIT_TEST_LOOPS").ok().and_then(|text| text.parse().ok());
    let running = fixture.start(&fixture.shell("while :; do sleep 1; done")).unwrap();
    let target = davit_runtime::Target {
        process: running.process.identity(),
        cgroup: running.cgroup.path().to_owned(),
    };
    let mut times: Vec<_> = (0..loops.unwrap_or(3))
        .map(|_| {
            let process = davit_runtime::plan::ProcessPlan::new(vec!["/bin/true".to_owned()]);
            let stdio =
                davit_runtime::StdioPlan::Pipes { stdin: davit_runtime::launch::StdinPlan::Null };
            let begin = Instant::now();
            let plan = davit_runtime::ExecPlan { process, stdio };
            let executed = davit_runtime::exec(&target, plan).unwrap();
            executed.process.wait().unwrap();
            begin.elapsed()
        })
        .collect();
    times.sort();
    println!("exec to exit: {:?}", times[times.len() / 2]);
    running.cgroup.kill().unwrap();
    finish(running);
}
