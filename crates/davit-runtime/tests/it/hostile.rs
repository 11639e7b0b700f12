//! Images that attack the host: one test for each class that a runtime has fallen for.

use std::os::unix::fs::symlink;

use davit_runtime::{
    LaunchError, Step,
    plan::{BindSource, Mount, MountKind, MountOptions},
    process::ExitStatus,
};
use davit_test::TempDir;

use crate::fixture::Fixture;

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2026-41579: the image's own `/proc`, `/sys`
/// or `/dev` is a link.
#[test]
fn linked_kernel_directories_are_refused() {
    for name in ["proc", "sys", "dev"] {
        let Some(fixture) = Fixture::new() else { return };
        let outside = TempDir::new();
        fs_err::remove_dir(fixture.path(name)).unwrap();
        for to in [outside.path().to_str().unwrap(), "/tmp", "."] {
            symlink(to, fixture.path(name)).unwrap();
            let error = fixture.run(&fixture.plan(&["true"])).unwrap_err();
            assert!(
                matches!(error, LaunchError::Child { step: Step::Mount, .. }),
                "{name}: {error}"
            );
            fs_err::remove_file(fixture.path(name)).unwrap();
        }
        assert_eq!(fs_err::read_dir(outside.path()).unwrap().count(), 0);
    }
}

/// CVE-2021-30465 and its kin: the target of a mount leads out through links.
#[test]
fn mount_targets_stay_inside() {
    let Some(fixture) = Fixture::new() else { return };
    let outside = TempDir::new();
    let volume = TempDir::new();
    fs_err::write(volume.join("secret"), "volume\n").unwrap();
    symlink(outside.path(), fixture.path("absolute")).unwrap();
    symlink("../../../../../../../../tmp", fixture.path("relative")).unwrap();
    symlink("/proc/self/cwd", fixture.path("magic")).unwrap();
    symlink("loop", fixture.path("loop")).unwrap();
    let run = |target: &str| {
        let mut plan = fixture.plan(&["true"]);
        plan.add_mount(Mount {
            target: target.to_owned(),
            kind: MountKind::Bind {
                source: BindSource::Path(volume.path().to_owned()),
                recursive: true,
            },
            options: MountOptions::default(),
        });
        fixture.run(&plan)
    };
    // A link to what the root has is followed inside the root, as Docker does.
    assert_eq!(run("/relative").unwrap().status, ExitStatus::Exited(0));
    assert_eq!(run("/../../relative/x").unwrap().status, ExitStatus::Exited(0));
    assert!(fixture.path("tmp/x").is_dir());
    for target in ["/absolute/new", "/magic", "/magic/x", "/loop", "/loop/x"] {
        assert!(run(target).is_err(), "{target}");
    }
    assert_eq!(fs_err::read_dir(outside.path()).unwrap().count(), 0);
}

/// CVE-2024-21626: a working directory that is a descriptor of the host.
#[test]
fn working_directories_outside_are_refused() {
    let Some(fixture) = Fixture::new() else { return };
    let leaked =
        rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    symlink("/proc/self/fd/3", fixture.path("link")).unwrap();
    symlink("/proc/1/root", fixture.path("root-link")).unwrap();
    for number in 0..32 {
        let mut plan = fixture.plan(&["pwd"]);
        plan.process.cwd = format!("/proc/self/fd/{number}");
        let error = fixture.run(&plan).unwrap_err();
        let is_refused = matches!(error, LaunchError::Child { step: Step::WorkingDirectory, .. });
        assert!(is_refused, "{number}: {error}");
    }
    for path in ["/link", "/root-link", "/proc/self/cwd", "/proc/thread-self/root"] {
        let mut plan = fixture.plan(&["pwd"]);
        plan.process.cwd = path.to_owned();
        assert!(fixture.run(&plan).is_err(), "{path}");
    }
    drop(leaked);
}

/// CVE-2025-31133: the image brings its own `/dev/null`, and paths that are masked with it.
#[test]
fn masks_do_not_use_the_images_null() {
    let Some(fixture) = Fixture::new() else { return };
    fs_err::write(fixture.path("dev/null"), "not null").unwrap();
    symlink("/etc/passwd", fixture.path("dev/core")).unwrap();
    let text = fixture.output(
        "for f in /proc/kcore /proc/keys /proc/timer_list /dev/null; do \
                               test -e $f && stat -c '%t:%T' $f && cat $f; done",
    );
    assert!(text.lines().count() > 1, "nothing is masked");
    assert!(text.lines().all(|line| line == "1:3"), "{text}");
    assert_eq!(fs_err::read_to_string(fixture.path("dev/null")).unwrap(), "not null");
}

/// CVE-2025-52565: the image brings its own console and terminals.
#[test]
fn consoles_do_not_follow_the_image() {
    use davit_runtime::{Launched, StdioPlan, Streams};
    let Some(fixture) = Fixture::new() else { return };
    symlink("/etc/passwd", fixture.path("dev/console")).unwrap();
    fs_err::create_dir(fixture.path("dev/pts")).unwrap();
    fs_err::write(fixture.path("dev/pts/ptmx"), "").unwrap();
    let mut plan = fixture.plan(&["true"]);
    let stdio = || StdioPlan::Terminal { size: None };
    let running = fixture.launch_with(&plan, stdio()).unwrap().start().unwrap();
    assert!(matches!(running.streams, Streams::Terminal(_)));
    running.process.wait().unwrap();
    running.cgroup.remove().unwrap();
    // Without a devpts of ours what lies there is no terminal.
    plan.mounts.retain(|mount| !mount.target.starts_with("/dev"));
    // It may fail before or after its namespaces were opened.
    let error = fixture.launch_with(&plan, stdio()).and_then(Launched::start).unwrap_err();
    assert!(matches!(error, LaunchError::Child { step: Step::Terminal, .. }), "{error}");
}

/// CVE-2025-52881, CVE-2023-28642: a mount that covers what is written through procfs, named openly or
/// through a link of the image.
#[test]
fn nothing_is_mounted_over_procfs() {
    let Some(fixture) = Fixture::new() else { return };
    let trap = TempDir::new();
    fs_err::create_dir_all(trap.join("net/ipv4")).unwrap();
    fs_err::write(trap.join("file"), "covered\n").unwrap();
    symlink("/proc/sys", fixture.path("link")).unwrap();
    symlink("/proc", fixture.path("all")).unwrap();
    let with = |source: &str, target: &str, args: &[&str]| {
        let mut plan = fixture.plan(args);
        let path = std::path::Path::new(source);
        let path = if path.is_absolute() { path.to_owned() } else { trap.join(source) };
        plan.add_mount(Mount {
            target: target.to_owned(),
            kind: MountKind::Bind { source: BindSource::Path(path), recursive: true },
            options: MountOptions::default(),
        });
        fixture.run(&plan)
    };
    for target in ["/proc", "/proc/", "/proc/sys", "/x/../proc/sys/net", "/proc/self/attr"] {
        let error = with(".", target, &["true"]).unwrap_err();
        assert!(matches!(error, LaunchError::Plan { .. }), "{target}: {error}");
        assert!(error.to_string().contains("because it is inside /proc"), "{error}");
    }
    for target in ["/link", "/all", "/link/net", "/all/sys/kernel"] {
        let error = with(".", target, &["true"]).unwrap_err();
        assert!(matches!(error, LaunchError::Child { step: Step::Mount, .. }), "{target}: {error}");
    }
    // What shows a container its limits, and the host's own procfs, may be.
    for target in ["/proc/meminfo", "/proc/uptime"] {
        assert_eq!(with("file", target, &["cat", target]).unwrap().text(), "covered\n");
    }
    let shown = with("/proc", "/proc", &["test", "-e", "/proc/self/status"]);
    assert!(shown.is_ok(), "{shown:?}");
}

/// CVE-2022-24769, CVE-2022-36109: sets that survive a change of the user.
#[test]
fn nothing_is_inherited_by_another_user() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan = fixture.shell("grep -E '^(CapInh|CapAmb|CapEff|Groups)' /proc/self/status");
    plan.process.user =
        davit_runtime::plan::UserChoice::Ids { uid: 4711, gid: 4712, groups: vec![4713] };
    let expected = "Groups:\t4712 4713 \nCapInh:\t0000000000000000\n\
                    CapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n";
    assert_eq!(fixture.run(&plan).unwrap().text(), expected);
}

/// CVE-2022-0492: escaping through a cgroup's release agent needs a writable hierarchy.
#[test]
fn cgroups_are_read_only_and_version_1_is_absent() {
    let Some(fixture) = Fixture::new() else { return };
    let outcome = fixture
        .run(&fixture.shell(
            "find() { :; }; ls /sys/fs/cgroup | grep -c release_agent; \
                             echo 1 >/sys/fs/cgroup/cgroup.freeze",
        ))
        .unwrap();
    assert_eq!(outcome.stdout, "0\n");
    assert!(outcome.stderr.contains("Read-only"), "{}", outcome.stderr);
}

/// Links in a volume swapped while containers start: nothing may ever be mounted outside.
#[test]
fn swapped_links_never_lead_out() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let Some(fixture) = Fixture::new() else { return };
    let (outside, volume) = (TempDir::new(), TempDir::new());
    fs_err::create_dir_all(fixture.path("shared/real")).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (place, aside) = (fixture.path("shared/real"), fixture.path("shared/aside"));
            symlink(outside.path(), &aside).unwrap();
            while !done.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let cwd = rustix::fs::CWD;
                rustix::fs::renameat_with(cwd, &place, cwd, &aside, flags).unwrap();
            }
        });
        for _ in 0..20 {
            let mut plan = fixture.plan(&["true"]);
            plan.add_mount(Mount {
                target: "/shared/real/deep/er".to_owned(),
                kind: MountKind::Bind {
                    source: BindSource::Path(volume.path().to_owned()),
                    recursive: false,
                },
                options: MountOptions::default(),
            });
            // It may fail; it must not succeed elsewhere.
            drop(fixture.run(&plan));
        }
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!(fs_err::read_dir(outside.path()).unwrap().count(), 0);
}

/// CVE-2019-5736: a script whose interpreter is the process that executes it.
#[test]
fn the_runtimes_binary_is_not_writable() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(fixture) = Fixture::new() else { return };
    let script = fixture.path("bin/self");
    fs_err::write(&script, "#!/proc/self/exe\n").unwrap();
    fs_err::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    // The interpreter is davit's own file: of this test, on a writable mount. What protects it is
    // that davit runs from a read-only one; `davit_sys::sealed` has the test for that.
    let sealed = davit_sys::sealed::executable().unwrap();
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&sealed));
    let opened = rustix::fs::open(path, flags, rustix::fs::Mode::empty());
    assert!(
        matches!(opened, Err(rustix::io::Errno::ROFS | rustix::io::Errno::TXTBSY)),
        "{opened:?}"
    );
}
