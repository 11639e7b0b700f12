//! Cgroups without limits: tracking, killing, freezing.

use davit_runtime::{cgroup::CgroupError, plan::Limits, process::ExitStatus};

use crate::fixture::{Fixture, finish};

#[test]
fn members_are_listed_killed_and_removed() {
    let Some(fixture) = Fixture::new() else { return };
    let running = fixture.start(&fixture.shell("sleep 60 & sleep 60 & echo up; wait")).unwrap();
    let davit_runtime::Streams::Pipes { stdout, .. } = &running.streams else { panic!() };
    let mut byte = [0; 3];
    rustix::io::read(stdout, &mut byte).unwrap();
    let pids = running.cgroup.processes().unwrap();
    assert_eq!(pids.len(), 3);
    assert!(pids.contains(&running.process.identity().pid));
    assert!(running.cgroup.stats().unwrap().cpu.is_some());
    assert_eq!(running.cgroup.stats().unwrap().pids, Some(3));
    running.cgroup.kill().unwrap();
    let path = running.cgroup.path().to_owned();
    assert_eq!(finish(running).status, ExitStatus::Signaled(9));
    assert!(fixture.cgroups.open(&path).unwrap_err().is_not_found());
}

#[test]
fn frozen_members_do_nothing_until_thawed() {
    let Some(fixture) = Fixture::new() else { return };
    let running = fixture.start(&fixture.shell("while :; do :; done")).unwrap();
    running.cgroup.freeze().unwrap();
    assert!(running.cgroup.is_frozen().unwrap());
    let before = running.cgroup.stats().unwrap().cpu;
    let still = running.cgroup.stats().unwrap().cpu;
    assert_eq!(before, still);
    running.cgroup.thaw().unwrap();
    assert!(!running.cgroup.is_frozen().unwrap());
    // Killing works on frozen ones.
    running.cgroup.freeze().unwrap();
    running.cgroup.kill().unwrap();
    assert_eq!(finish(running).status, ExitStatus::Signaled(9));
}

/// Joining a hierarchy of version 1 costs a grace period of RCU, some 10 ms, so devices are filtered
/// by BPF on machines that have both.
#[test]
fn devices_are_filtered_by_bpf_alone() {
    let Some(fixture) = Fixture::new() else { return };
    let running = fixture.start(&fixture.shell("sleep 60")).unwrap();
    assert_eq!(davit_sys::bpf::device_filter_count(&running.cgroup).unwrap(), 1);
    let pid = running.process.identity().pid;
    let of_process = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let ours = |line: &&str| line.ends_with(running.cgroup.path());
    assert_eq!(of_process.lines().filter(ours).count(), 1, "{of_process}");
    running.cgroup.kill().unwrap();
    finish(running);
}

#[test]
fn names_are_taken_once() {
    let Some(fixture) = Fixture::new() else { return };
    let plan = fixture.shell("sleep 60");
    let running = fixture.start(&plan).unwrap();
    let again = fixture.cgroups.create(&plan.cgroup.path, &Limits::default());
    assert!(matches!(again, Err(CgroupError::InUse(_))));
    running.cgroup.kill().unwrap();
    finish(running);
    // A left-over without members is replaced.
    let path = fixture.cgroup("old");
    drop(fixture.cgroups.create(&path, &Limits::default()).unwrap());
    let new = fixture.cgroups.create(&path, &Limits::default()).unwrap();
    assert!(!new.is_populated().unwrap());
    new.remove().unwrap();
    fixture.cgroups.remove(&path).unwrap();
}

#[test]
fn nested_cgroups_are_removed_with_their_members() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan = fixture.shell(
        "mkdir -p /sys/fs/cgroup/a/b; sh -c 'echo 0 >/sys/fs/cgroup/a/b/cgroup.procs; sleep 60' & \
         until grep -q . /sys/fs/cgroup/a/b/cgroup.procs; do :; done; echo up; wait",
    );
    plan.make_privileged();
    let running = fixture.start(&plan).unwrap();
    let davit_runtime::Streams::Pipes { stdout, .. } = &running.streams else { panic!() };
    let mut byte = [0; 3];
    rustix::io::read(stdout, &mut byte).unwrap();
    assert!(running.cgroup.processes().unwrap().len() >= 2);
    running.cgroup.kill().unwrap();
    let path = running.cgroup.path().to_owned();
    finish(running);
    assert!(fixture.cgroups.open(&path).unwrap_err().is_not_found());
}
