//! Resource limits: cgroup files on the host, `setrlimit` inside.

use std::path::Path;

use super::{refuse, see};
use davit_test::until;

use crate::machine::Machine;

/// What a file of the container's cgroup says, by its names in version 2 and version 1.
fn cgroup_file(id: &str, names: [&str; 2]) -> Option<String> {
    let controllers = ["", "unified", "memory", "cpu", "pids", "cpuset"];
    let folders = controllers.map(|controller| Path::new("/sys/fs/cgroup").join(controller));
    let parents = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok());
    let candidates = parents
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("davit"));
    let mut files = candidates.flat_map(|entry| names.map(|name| entry.path().join(id).join(name)));
    files.find_map(|path| std::fs::read_to_string(path).ok()).map(|text| text.trim().to_owned())
}

#[test]
fn limits_arrive_in_the_cgroup() {
    let Some(machine) = Machine::new() else { return };
    let id = machine.ok(&[
        "run",
        "-d",
        "--name",
        "lim",
        "--network",
        "none",
        "--memory",
        "64m",
        "--memory-reservation",
        "32m",
        "--cpus",
        "0.5",
        "--pids-limit",
        "20",
        "--cpu-shares",
        "512",
        "--cpuset-cpus",
        "0",
        "busybox",
        "sleep",
        "600",
    ]);
    let cases: [(&str, &str, [&str; 2]); 5] = [
        ("67108864", "67108864", ["memory.max", "memory.limit_in_bytes"]),
        ("33554432", "33554432", ["memory.low", "memory.soft_limit_in_bytes"]),
        ("50000 100000", "50000", ["cpu.max", "cpu.cfs_quota_us"]),
        ("20", "20", ["pids.max", "pids.max"]),
        ("0", "0", ["cpuset.cpus", "cpuset.cpus"]),
    ];
    for (two, one, names) in cases {
        let found = cgroup_file(&id, names);
        assert!(
            found == Some(two.to_owned()) || found == Some(one.to_owned()),
            "{names:?} {found:?}"
        );
    }
    let format = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} \
                  {{.HostConfig.CpuQuota}} {{.HostConfig.CpusetCpus}}";
    assert_eq!(machine.ok(&["inspect", "-f", format, "lim"]), "67108864 500000000 20 0 0");
    // Too many processes fail inside, not the container.
    let line = "for i in $(seq 40); do sleep 5 & done; wait";
    let crowded = machine.run(&["exec", "lim", "sh", "-c", line]);
    assert!(crowded.stderr.contains("can't fork"), "{}", crowded.stderr);
}

#[test]
fn too_much_memory_is_told() {
    let Some(machine) = Machine::new() else { return };
    // A shell variable that doubles until the limit ends its holder.
    let line = "a=x; while true; do a=$a$a; done";
    let limits = ["--memory", "16m", "--memory-swap", "16m"];
    let command = ["--name", "greedy", "--network", "none", "busybox", "sh", "-c", line];
    let outcome = machine.run(&[&["run"][..], &limits, &command].concat());
    assert_eq!(outcome.code, 137, "{}", outcome.stderr);
    let format = "{{.State.OOMKilled}} {{.State.ExitCode}}";
    assert_eq!(machine.ok(&["inspect", "-f", format, "greedy"]), "true 137");
}

#[test]
fn rlimits_and_shared_memory_inside() {
    let Some(machine) = Machine::new() else { return };
    see(
        &machine,
        &[
            (&["--ulimit", "nofile=100:200"], "ulimit -n; ulimit -Hn", "100\n200"),
            (&["--ulimit", "core=0", "--ulimit", "nofile=50"], "ulimit -c; ulimit -n", "0\n50"),
            (&["--ulimit", "core=-1"], "ulimit -c", "unlimited"),
            (&["--shm-size", "1m"], "df -k /dev/shm | tail -1 | awk '{print $2}'", "1024"),
            (&["--shm-size", "0"], "df -k /dev/shm | tail -1 | awk '{print $2}'", "65536"),
            (&["--oom-score-adj", "500"], "cat /proc/self/oom_score_adj", "500"),
        ],
    );
}

#[test]
fn limits_that_cannot_be_are_refused() {
    let Some(machine) = Machine::new() else { return };
    refuse(
        &machine,
        &[
            (&["--memory", "4m"], "Minimum memory limit allowed is 6MB"),
            (&["--memory", "much"], "invalid size: 'much'"),
            (&["--memory", " 64m"], "invalid size: ' 64m'"),
            (&["--memory", "64M "], "invalid size: '64M '"),
            (&["-c", "1"], "minimum allowed cpu-shares is 2"),
            (&["--cpus", "1/3"], "value is too precise"),
            (&["--uts", "private"], "--uts: invalid UTS mode"),
            (&["--pid", "shareable"], "--pid: invalid PID mode"),
            (
                &["--memory", "64m", "--memory-swap", "32m"],
                "Minimum memoryswap limit should be larger than memory limit",
            ),
            (&["--memory-swap", "32m"], "You should always set the Memory limit"),
            (
                &["--memory", "64m", "--memory-reservation", "128m"],
                "Minimum memory limit can not be less than memory reservation limit",
            ),
            (&["--memory-swappiness", "101"], "valid memory swappiness range is 0-100"),
            (&["--cpus", "100000"], "Range of CPUs is from 0.01 to "),
            (&["--cpus", "-1"], "Range of CPUs is from 0.01 to "),
            (&["--cpus", "x"], "failed to parse x as a rational number"),
            (
                &["--cpus", "1", "--cpu-quota", "5000"],
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set",
            ),
            (&["--cpuset-cpus", "0,8191"], "Requested CPUs are not available - requested 0,8191, "),
            (&["--cpuset-mems", "8191"], "Requested memory nodes are not available"),
            (&["--cpuset-cpus", "2-1"], "invalid list of CPUs"),
            (&["--cpu-period", "10"], "CPU cfs period can not be less than 1ms"),
            (&["--oom-score-adj", "5000"], "range for oom score adj is [-1000, 1000]"),
            (
                &["--ulimit", "nofile=200:100"],
                "soft limit must be less than or equal to hard limit",
            ),
            (&["--ulimit", "nosuch=1"], "invalid ulimit type: nosuch"),
        ],
    );
}

#[test]
fn restarts_follow_their_policy() {
    let Some(machine) = Machine::new() else { return };
    let run = |name: &str, policy: &str, line: &str| {
        let flags = ["run", "-d", "--name", name, "--network", "none", "--restart", policy];
        machine.ok(&[&flags[..], &["busybox", "sh", "-c", line]].concat())
    };
    let seen = |name: &str, format: &str| machine.ok(&["inspect", "-f", format, name]);
    run("fails", "on-failure:1", "exit 3");
    run("works", "on-failure", "exit 0");
    run("never", "no", "exit 4");
    run("again", "always", "exit 0");
    run("still", "unless-stopped", "exit 5");
    let format = "{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}";
    for (name, expected) in
        [("fails", "exited 1 3"), ("works", "exited 0 0"), ("never", "exited 0 4")]
    {
        until(name, || seen(name, format) == expected);
    }
    for name in ["again", "still"] {
        let count = || seen(name, "{{.RestartCount}}").parse::<u32>().unwrap_or(0);
        until(name, || count() >= 2);
        machine.ok(&["stop", "-t", "0", name]);
        assert_eq!(seen(name, "{{.State.Status}} {{.State.Restarting}}"), "exited false");
    }
    let policy =
        "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}";
    assert_eq!(seen("fails", policy), "on-failure 1");
    // A start by hand counts from nothing.
    machine.run(&["start", "fails"]);
    until("fails again", || seen("fails", format) == "exited 1 3");
    let both = machine.run(&["run", "--rm", "--restart", "always", "busybox", "true"]);
    assert!(both.code == 125 && both.stderr.contains("--restart and --rm"), "{}", both.stderr);
}
