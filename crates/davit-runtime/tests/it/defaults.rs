//! The defaults of a container are Docker's (moby `daemon/pkg/oci/defaults.go`).

use davit_runtime::{
    LaunchError, Plan, Step,
    capability::Capabilities,
    plan::{
        Access, BindSource, Device, DeviceKind, Mount, MountKind, MountOptions, Namespace,
        Propagation,
    },
    process::ExitStatus,
    seccomp::Profile,
};

use crate::fixture::Fixture;

fn bind(source: std::path::PathBuf, target: &str, options: MountOptions) -> Mount {
    let source = BindSource::Path(source);
    let kind = MountKind::Bind { source, recursive: true };
    Mount { target: target.to_owned(), kind, options }
}

#[test]
fn status_is_dockers() {
    let Some(fixture) = Fixture::new() else { return };
    let text = fixture.output("grep -E '^(Cap|NoNewPrivs|Seccomp:|Uid|Groups)' /proc/self/status");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "Uid:\t0\t0\t0\t0",
            "Groups:\t0 ",
            "CapInh:\t0000000000000000",
            "CapPrm:\t00000000a80425fb",
            "CapEff:\t00000000a80425fb",
            "CapBnd:\t00000000a80425fb",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t0",
            "Seccomp:\t2",
        ]
    );
}

/// Target, options, type of every mount that is not a mask.
fn mounts(fixture: &Fixture, plan: &Plan) -> Vec<(String, String, String)> {
    let text = fixture.run(plan).unwrap().text();
    text.lines()
        .map(|line| {
            let (mount, filesystem) = line.split_once(" - ").unwrap();
            let fields: Vec<&str> = mount.split(' ').collect();
            let kind = filesystem.split(' ').next().unwrap();
            (fields[4].to_owned(), fields[5].to_owned(), kind.to_owned())
        })
        .collect()
}

#[test]
fn mounts_are_dockers_and_nothing_of_the_host_shows() {
    let Some(fixture) = Fixture::new() else { return };
    let found = mounts(&fixture, &fixture.plan(&["cat", "/proc/self/mountinfo"]));
    let (masks, own): (Vec<_>, Vec<_>) = found.into_iter().partition(|(target, _, _)| {
        (target.starts_with("/proc/") || target.starts_with("/sys/")) && target != "/sys/fs/cgroup"
    });
    let locked = "rw,nosuid,nodev,noexec,relatime";
    let read_only = "ro,nosuid,nodev,noexec,relatime";
    let expected = [
        ("/proc", locked, "proc"),
        ("/dev", "rw,nosuid", "tmpfs"),
        ("/dev/pts", "rw,nosuid,noexec,relatime", "devpts"),
        ("/sys", read_only, "sysfs"),
        ("/sys/fs/cgroup", read_only, "cgroup2"),
        ("/dev/mqueue", locked, "mqueue"),
        ("/dev/shm", locked, "tmpfs"),
    ];
    assert_eq!(own[0].0, "/");
    let own: Vec<_> =
        own[1..].iter().map(|(a, b, c)| (a.as_str(), b.as_str(), c.as_str())).collect();
    assert_eq!(own, expected);
    for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"] {
        let mount = masks.iter().find(|mount| mount.0 == path);
        assert!(mount.is_none_or(|mount| mount.1.starts_with("ro,")), "{mount:?}");
    }
    assert!(masks.iter().any(|mount| mount.0 == "/proc/sys"));
}

#[test]
fn masked_paths_show_nothing() {
    let Some(fixture) = Fixture::new() else { return };
    let text = fixture.output(
        "for f in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts /proc/latency_stats; do \
         test -e $f && stat -c '%t:%T %F' $f; done; \
         for d in /proc/acpi /proc/asound /proc/scsi /sys/firmware; do test -d $d && ls $d; done; true",
    );
    assert!(!text.is_empty());
    for line in text.lines() {
        assert_eq!(line, "1:3 character special file");
    }
    let script = "echo 1 >/proc/sys/kernel/core_pattern; echo 1 >/sys/kernel/mm/x; \
                  echo h >/proc/sysrq-trigger; mkdir /sys/fs/cgroup/x; echo >/sys/firmware/x";
    let outcome = fixture.run(&fixture.shell(script)).unwrap();
    let refused = outcome.stderr.lines().filter(|line| line.contains("Read-only")).count();
    let there = ["/sys/firmware", "/proc/sysrq-trigger"];
    let there = there.iter().filter(|path| std::path::Path::new(path).exists()).count();
    assert_eq!(refused, 3 + there, "{outcome:?}");
}

#[test]
fn devices_are_dockers() {
    let Some(fixture) = Fixture::new() else { return };
    let text = fixture.output("cd /dev; for f in *; do stat -c '%n %F %a %t:%T %N' $f; done");
    let character =
        |name: &str, numbers: &str| format!("{name} character special file 666 {numbers} {name}");
    let link = |name: &str, to: &str| format!("{name} symbolic link 777 0:0 '{name}' -> '{to}'");
    let directory = |name: &str, mode: &str| format!("{name} directory {mode} 0:0 {name}");
    let mut expected = vec![
        link("fd", "/proc/self/fd"),
        character("full", "1:7"),
        directory("mqueue", "1777"),
        character("null", "1:3"),
        link("ptmx", "pts/ptmx"),
        directory("pts", "755"),
        character("random", "1:8"),
        directory("shm", "1777"),
        link("stderr", "/proc/self/fd/2"),
        link("stdin", "/proc/self/fd/0"),
        link("stdout", "/proc/self/fd/1"),
        character("tty", "5:0"),
        character("urandom", "1:9"),
        character("zero", "1:5"),
    ];
    // Not every kernel shows its memory.
    if std::path::Path::new("/proc/kcore").exists() {
        expected.push(link("core", "/proc/kcore"));
    }
    expected.sort();
    let mut found: Vec<String> = text.lines().map(|line| line.to_owned()).collect();
    for line in &mut found {
        if line.contains(" -> ") && !line.contains('\'') {
            let (name, to) = line.split_once(" -> ").unwrap();
            let (before, name) = name.rsplit_once(' ').unwrap();
            *line = format!("{before} '{name}' -> '{to}'");
        }
    }
    found.sort();
    assert_eq!(found, expected);
    // Nodes of any kind may be made, none of them used.
    let outcome = fixture
        .run(&fixture.shell(
            "mknod /tmp/mem c 1 1 && cat /tmp/mem; mknod /tmp/sda b 8 0 && cat /tmp/sda; \
                             head -c 1 /dev/zero | wc -c; echo x >/dev/null",
        ))
        .unwrap();
    assert_eq!(outcome.stdout, "1\n");
    let refused = outcome.stderr.matches("Operation not permitted").count();
    assert_eq!(refused, 2, "{}", outcome.stderr);
}

#[test]
fn system_calls_are_filtered() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan = fixture.shell("mount -t tmpfs x /tmp; unshare -m true");
    plan.process.capabilities = Capabilities::ALL;
    // The default profile opens with the capability.
    assert_eq!(fixture.run(&plan).unwrap().status, ExitStatus::Exited(0));
    plan.process.capabilities = Capabilities::DEFAULT;
    let outcome = fixture.run(&plan).unwrap();
    assert_eq!(outcome.stderr.matches("ermi").count(), 2, "{outcome:?}");
    let mut plan = fixture.shell("mkdir /tmp/x && echo made; grep ^Seccomp: /proc/self/status");
    plan.process.seccomp = Profile::Json(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],
        "action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#
            .to_owned(),
    );
    let outcome = fixture.run(&plan).unwrap();
    assert!(outcome.stderr.contains("No space left"), "{outcome:?}");
    assert_eq!(outcome.stdout, "Seccomp:\t2\n");
    plan.process.no_new_privileges = true;
    assert!(fixture.run(&plan).unwrap().stderr.contains("No space left"));
    plan.process.seccomp = Profile::Unconfined;
    assert_eq!(fixture.run(&plan).unwrap().text(), "made\nSeccomp:\t0\n");
    plan.process.seccomp = Profile::Json("{}".to_owned());
    assert!(matches!(fixture.run(&plan), Err(LaunchError::Seccomp(_))));
}

#[test]
fn namespaces_are_new_or_the_hosts() {
    let Some(fixture) = Fixture::new() else { return };
    let own = |kind: &str| {
        fs_err::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string()
    };
    let kinds = ["mnt", "pid", "net", "ipc", "uts", "cgroup"];
    let script = "for n in mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done";
    let found = fixture.output(script);
    for (kind, found) in kinds.iter().zip(found.lines()) {
        assert_ne!(own(kind), found, "{kind}");
    }
    let mut plan = fixture.shell(script);
    let host = Namespace::Host;
    plan.namespaces = davit_runtime::plan::Namespaces {
        pid: host,
        network: host,
        ipc: host,
        uts: host,
        cgroup: host,
    };
    let found = fixture.run(&plan).unwrap().text();
    for (kind, found) in kinds.iter().zip(found.lines()).skip(1) {
        assert_eq!(own(kind), found, "{kind}");
    }
}

#[test]
fn cgroup_namespace_begins_at_the_containers_cgroup() {
    let Some(fixture) = Fixture::new() else { return };
    let text =
        fixture.output("grep ^0: /proc/self/cgroup; cat /sys/fs/cgroup/cgroup.procs | head -n 1");
    assert_eq!(text, "0::/\n1\n");
}

#[test]
fn names_and_kernel_parameters() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan = fixture.shell(
        "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax \
         /proc/sys/net/ipv4/ping_group_range",
    );
    plan.hostname = Some("box".to_owned());
    plan.sysctls.insert("kernel.msgmax".to_owned(), "4711".to_owned());
    assert_eq!(fixture.run(&plan).unwrap().text(), "box\n0\n4711\n0\t2147483647\n");
    plan.sysctls.insert("net.ipv4.no_such".to_owned(), "1".to_owned());
    let error = fixture.run(&plan).unwrap_err();
    assert!(matches!(error, LaunchError::Child { step: Step::Sysctl, .. }), "{error}");
    assert!(error.to_string().contains("net.ipv4.no_such"), "{error}");
}

#[test]
fn binds_tmpfs_and_read_only_roots() {
    let Some(fixture) = Fixture::new() else { return };
    let host = davit_test::TempDir::new();
    fs_err::write(host.join("file"), "from the host\n").unwrap();
    let mut plan = fixture.shell(
        "cat /data/file /etc/one; echo x >/data/new; echo y >/ro/new; echo z >/root/z; \
         echo t >/scratch/t && cat /scratch/t; stat -c %a /scratch; test -u /data || true",
    );
    plan.read_only_root = true;
    plan.add_mount(bind(host.path().to_owned(), "/data", MountOptions::default()));
    let read_only = MountOptions { access: Access::ReadOnly, ..MountOptions::default() };
    plan.add_mount(bind(host.path().to_owned(), "/ro", read_only));
    plan.add_mount(bind(host.join("file"), "/etc/one", read_only));
    plan.add_mount(Mount {
        target: "/scratch".to_owned(),
        kind: MountKind::Tmpfs {
            size_bytes: Some(1 << 20),
            mode: Some(0o710),
            owner: None,
            options: Vec::new(),
        },
        options: MountOptions::default(),
    });
    let outcome = fixture.run(&plan).unwrap();
    assert_eq!(outcome.stdout, "from the host\nfrom the host\nt\n710\n");
    assert_eq!(outcome.stderr.matches("Read-only file system").count(), 2, "{}", outcome.stderr);
    assert_eq!(fs_err::read_to_string(host.join("new")).unwrap(), "x\n");
}

#[test]
fn subpaths_stay_in_their_volume() {
    let Some(fixture) = Fixture::new() else { return };
    let volume = davit_test::TempDir::new();
    fs_err::create_dir(volume.join("inside")).unwrap();
    fs_err::write(volume.join("inside/file"), "inside\n").unwrap();
    std::os::unix::fs::symlink("/etc", volume.join("outside")).unwrap();
    let mount = |path: &str| Mount {
        target: "/data".to_owned(),
        kind: MountKind::Bind {
            source: BindSource::Subpath { root: volume.path().to_owned(), path: path.to_owned() },
            recursive: true,
        },
        options: MountOptions::default(),
    };
    let mut plan = fixture.plan(&["cat", "/data/file"]);
    plan.add_mount(mount("inside"));
    assert_eq!(fixture.run(&plan).unwrap().text(), "inside\n");
    plan.add_mount(mount("outside"));
    assert!(matches!(fixture.run(&plan), Err(LaunchError::Prepare { .. })));
}

#[test]
fn devices_of_the_plan_are_made() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan =
        fixture.shell("stat -c '%F %a %t:%T %u:%g' /dev/net/tun /dev/null2; head -c 0 /dev/null2");
    let device = |path: &str, major, minor| Device {
        path: path.to_owned(),
        kind: DeviceKind::Char,
        major,
        minor,
        mode: 0o620,
        uid: 7,
        gid: 8,
    };
    plan.devices = vec![device("/dev/net/tun", 10, 200), device("/dev/null2", 1, 3)];
    let expected = "character special file 620 a:c8 7:8\ncharacter special file 620 1:3 7:8\n";
    assert_eq!(fixture.run(&plan).unwrap().text(), expected);
}

#[test]
fn privileged_turns_protections_off() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan = fixture.shell(
        "grep -E '^(CapEff|Seccomp:)' /proc/self/status; mknod /tmp/zero c 1 5; \
         head -c 1 /tmp/zero | wc -c; mkdir /sys/fs/cgroup/x && echo writable; \
         grep -c ' /proc/' /proc/self/mountinfo",
    );
    plan.make_privileged();
    let text = fixture.run(&plan).unwrap().stdout;
    let own = fs_err::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find(|line| line.starts_with("CapEff")).unwrap().to_owned();
    assert_eq!(text, format!("{own}\nSeccomp:\t0\n1\nwritable\n0\n"));
}

#[test]
fn shared_and_slave_binds_see_later_mounts() {
    let Some(fixture) = Fixture::new() else { return };
    let host = davit_test::TempDir::new();
    for name in ["shared", "in"] {
        fs_err::create_dir(host.join(name)).unwrap();
    }
    let options = MountOptions { propagation: Propagation::Slave, ..MountOptions::default() };
    let mut plan = fixture.shell("grep ' /data ' /proc/self/mountinfo");
    plan.add_mount(bind(host.path().to_owned(), "/data", options));
    let line = fixture.run(&plan).unwrap().text();
    // Whether the host's own mount is shared decides whether there is a master.
    assert!(!line.contains("shared:"), "{line}");
    let options = MountOptions { propagation: Propagation::Shared, ..MountOptions::default() };
    plan.add_mount(bind(host.path().to_owned(), "/data", options));
    let line = fixture.run(&plan).unwrap().text();
    assert!(line.contains("shared:"), "{line}");
}
