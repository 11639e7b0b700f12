//! Limits of resources, OOM, freezing, statistics.

use davit_runtime::{LaunchError, cgroup::CgroupError, plan::Limits, process::ExitStatus};
use davit_test::skip;

use crate::fixture::{Fixture, finish};

/// Starts with limits, or records that the machine lacks the controller.
fn with_limits(fixture: &Fixture, script: &str, limits: Limits) -> Option<davit_runtime::Running> {
    let mut plan = fixture.shell(script);
    plan.cgroup.limits = limits;
    match fixture.start(&plan) {
        Err(LaunchError::Cgroup(CgroupError::NoController(what))) => {
            skip(&format!("needs the cgroup controller for {what}"));
            None
        }
        result => Some(result.unwrap()),
    }
}

#[test]
fn processes_are_limited() {
    let Some(fixture) = Fixture::new() else { return };
    // None of them ends before the last one has been refused.
    let script = "for i in $(seq 50); do sleep 600 & done 2>&1; echo";
    let limits = Limits { pids: Some(10), ..Limits::default() };
    let Some(running) = with_limits(&fixture, script, limits) else { return };
    assert_eq!(running.cgroup.stats().unwrap().pids_limit, Some(10));
    let outcome = finish(running);
    assert!((outcome.stdout + &outcome.stderr).contains("fork"));
}

#[test]
fn memory_is_limited_and_the_kill_is_seen() {
    let Some(fixture) = Fixture::new() else { return };
    let script =
        "head -c 200000000 /dev/zero | tr '\\0' x | dd bs=150M of=/dev/null 2>/dev/null; exit $?";
    let script = format!("sh -c \"{script}\"; dd if=/dev/zero of=/dev/null bs=120M count=1");
    let limits = Limits {
        memory_bytes: Some(24 << 20),
        memory_swap_bytes: Some(24 << 20),
        ..Limits::default()
    };
    let Some(running) = with_limits(&fixture, &script, limits) else { return };
    assert_eq!(running.cgroup.stats().unwrap().memory_limit_bytes, Some(24 << 20));
    let status = running.process.wait().unwrap();
    assert_eq!(status.code(), 137, "{status:?}");
    assert!(running.cgroup.oom_killed());
    running.cgroup.remove().unwrap();
}

#[test]
fn cpu_and_sets_are_written_and_updated() {
    let Some(fixture) = Fixture::new() else { return };
    let limits = Limits {
        cpu_quota_us: Some(50_000),
        cpu_shares: Some(512),
        cpuset_cpus: Some("0".to_owned()),
        memory_bytes: Some(64 << 20),
        ..Limits::default()
    };
    let script = "grep Cpus_allowed_list /proc/self/status; sleep 60";
    let Some(mut running) = with_limits(&fixture, script, limits.clone()) else { return };
    let davit_runtime::Streams::Pipes { stdout, .. } = &running.streams else { panic!() };
    let mut line = [0; 64];
    let length = rustix::io::read(stdout, &mut line).unwrap();
    assert_eq!(&line[..length], b"Cpus_allowed_list:\t0\n");
    for memory in [256 << 20, 32 << 20] {
        let limits = Limits { memory_bytes: Some(memory), ..limits.clone() };
        running.cgroup.update(&limits).unwrap();
        assert_eq!(running.cgroup.stats().unwrap().memory_limit_bytes, Some(memory));
    }
    running.cgroup.kill().unwrap();
    let outcome = finish(running);
    assert_eq!(outcome.status, ExitStatus::Signaled(9));
}

#[test]
fn refused_limits_name_the_file_and_leave_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan = fixture.plan(&["true"]);
    plan.cgroup.limits = Limits { cpuset_cpus: Some("4000".to_owned()), ..Limits::default() };
    match fixture.run(&plan) {
        Err(LaunchError::Cgroup(CgroupError::NoController(_))) => skip("needs cpuset"),
        Err(LaunchError::Cgroup(CgroupError::Limit { path, value, .. })) => {
            assert!(path.ends_with("cpuset.cpus"));
            assert_eq!(value, "4000");
        }
        other => panic!("{other:?}"),
    }
    assert!(fixture.cgroups.open(&plan.cgroup.path).unwrap_err().is_not_found());
}
