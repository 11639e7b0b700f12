//! The first process: command, environment, user, directory, streams, exit.

use davit_runtime::{
    ExecFailure, LaunchError, Step,
    plan::{Init, Origin, Rlimit, UserChoice},
    process::ExitStatus,
};

use crate::fixture::Fixture;

fn named(user: &str) -> UserChoice {
    UserChoice::Named { user: user.to_owned(), groups: Vec::new() }
}

#[test]
fn command_runs_and_its_end_is_seen() {
    let Some(fixture) = Fixture::new() else { return };
    assert_eq!(fixture.output("echo $$; echo hello"), "1\nhello\n");
    let outcome = fixture.run(&fixture.shell("echo oops >&2; exit 3")).unwrap();
    assert_eq!((outcome.status, outcome.stderr.as_str()), (ExitStatus::Exited(3), "oops\n"));
    // Process 1 is not killed by its own signals; its child is.
    let outcome = fixture.run(&fixture.shell("sh -c 'kill -TERM $$'; exit $?")).unwrap();
    assert_eq!(outcome.status, ExitStatus::Exited(143));
}

#[test]
fn missing_and_unusable_commands_are_told_apart() {
    let Some(fixture) = Fixture::new() else { return };
    fs_err::write(fixture.path("bin/plain"), "text").unwrap();
    fs_err::write(fixture.path("bin/script"), "#!/no/such/interpreter\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(fixture.path("bin/script"), executable).unwrap();
    for (command, expected, code) in [
        ("nothing", ExecFailure::NotFoundInPath, 127),
        ("/bin/nothing", ExecFailure::NotFound, 127),
        ("/bin/script", ExecFailure::NotFound, 127),
        ("plain", ExecFailure::PermissionDenied, 126),
        ("/bin", ExecFailure::PermissionDenied, 126),
        ("/etc/passwd/x", ExecFailure::Other(20), 126),
    ] {
        let error = fixture.run(&fixture.plan(&[command])).unwrap_err();
        match &error {
            LaunchError::Exec { failure, .. } => assert_eq!(*failure, expected, "{command}"),
            other => panic!("{command}: {other}"),
        }
        assert_eq!(error.exit_code(), code, "{command}");
    }
}

#[test]
fn environment_is_the_plans_and_home_the_users() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan = fixture.plan(&["env"]);
    plan.process.env.push("A=b c".to_owned());
    let text = fixture.run(&plan).unwrap().text();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(lines, ["A=b c", "HOME=/root", path]);
}

#[test]
fn users_lose_capabilities_and_get_their_groups() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan = fixture.shell("id; grep ^Cap /proc/self/status; echo out >/dev/stdout");
    plan.process.user = named("app");
    let text = fixture.run(&plan).unwrap().text();
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        [
            "uid=1000(app) gid=1000(app) groups=10(wheel),1000(app)",
            "CapInh:\t0000000000000000",
            "CapPrm:\t0000000000000000",
            "CapEff:\t0000000000000000",
            "CapBnd:\t00000000a80425fb",
            "CapAmb:\t0000000000000000",
            "out",
        ]
    );
    plan.process.user = named("nobody");
    assert!(matches!(fixture.run(&plan), Err(LaunchError::User(_))));
}

#[test]
fn working_directory_is_made_and_entered() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan = fixture.plan(&["pwd"]);
    plan.process.cwd = "/work/deep/er".to_owned();
    assert_eq!(fixture.run(&plan).unwrap().text(), "/work/deep/er\n");
    plan.process.cwd = "/etc/passwd".to_owned();
    let error = fixture.run(&plan).unwrap_err();
    assert!(matches!(error, LaunchError::Child { step: Step::WorkingDirectory, .. }), "{error}");
    plan.process.cwd = "relative".to_owned();
    assert!(matches!(fixture.run(&plan), Err(LaunchError::Plan { .. })));
}

#[test]
fn directory_that_only_the_user_may_enter() {
    let Some(fixture) = Fixture::new() else { return };
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    fs_err::create_dir(fixture.path("home")).unwrap();
    fs_err::set_permissions(fixture.path("home"), mode).unwrap();
    std::os::unix::fs::chown(fixture.path("home"), Some(1000), Some(1000)).unwrap();
    let mut plan = fixture.plan(&["pwd"]);
    plan.process.user = named("app");
    plan.process.cwd = "/home".to_owned();
    plan.process.capabilities = davit_runtime::capability::Capabilities::NONE;
    assert_eq!(fixture.run(&plan).unwrap().text(), "/home\n");
}

#[test]
fn asked_limits_fail_and_default_limits_are_clamped() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan = fixture.shell("ulimit -n; ulimit -Hn; ulimit -c");
    let limit =
        |name: &str, soft, hard, origin| Rlimit { name: name.to_owned(), soft, hard, origin };
    plan.process.rlimits =
        vec![limit("nofile", 100, 200, Origin::Asked), limit("core", 0, 0, Origin::Asked)];
    assert_eq!(fixture.run(&plan).unwrap().text(), "100\n200\n0\n");
    // Fewer than are open until the command is executed.
    plan.process.rlimits = vec![limit("nofile", 7, 8, Origin::Asked)];
    assert!(fixture.run(&plan).unwrap().text().starts_with("7\n8\n"));
    plan.process.rlimits = vec![limit("nofile", 1 << 40, 1 << 40, Origin::Default)];
    let text = fixture.run(&plan).unwrap().text();
    assert!(text.lines().next().unwrap().parse::<u64>().unwrap() >= 1024, "{text}");
    plan.process.rlimits = vec![limit("nofile", 1 << 40, 1 << 40, Origin::Asked)];
    let error = fixture.run(&plan).unwrap_err();
    assert!(matches!(error, LaunchError::Child { step: Step::Rlimit, .. }), "{error}");
    assert!(error.to_string().contains("nofile"), "{error}");
}

#[test]
fn umask_and_oom_score() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan = fixture.shell("umask; cat /proc/self/oom_score_adj");
    plan.process.oom_score_adj = Some(500);
    assert_eq!(fixture.run(&plan).unwrap().text(), "0022\n500\n");
    plan.process.umask = Some(0o077);
    assert!(fixture.run(&plan).unwrap().text().starts_with("0077\n"));
}

#[test]
fn nothing_of_the_caller_is_left_open() {
    let Some(fixture) = Fixture::new() else { return };
    // Without close-on-exec, as a careless caller has it.
    let leaked = rustix::fs::open("/etc", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
    let text = fixture.output("ls /proc/self/fd");
    drop(leaked);
    // 3 is the directory that ls reads.
    assert_eq!(text, "0\n1\n2\n3\n");
}

#[test]
fn signals_have_their_defaults() {
    let Some(fixture) = Fixture::new() else { return };
    let plan = fixture.plan(&["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
    let text = fixture.run(&plan).unwrap().text();
    assert_eq!(text, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

#[test]
fn reaper_reaps_forwards_and_ends_like_the_command() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan = fixture.shell("echo $$; cat /proc/1/comm; exit 7");
    plan.init = Init::Reaper;
    let outcome = fixture.run(&plan).unwrap();
    assert_eq!(outcome.stdout, "2\ndavit-init\n");
    assert_eq!(outcome.status, ExitStatus::Exited(7));
    plan.process.args[2] = "kill -KILL $$".to_owned();
    assert_eq!(fixture.run(&plan).unwrap().status, ExitStatus::Exited(137));
    // An orphan becomes process 1's, which reaps it while the command goes on.
    let orphan = "(sh -c 'echo $$ >/tmp/orphan' &); until test -s /tmp/orphan; do sleep 0.01; done; \
        pid=$(cat /tmp/orphan); n=0; while test -d /proc/$pid && test $n -lt 6000; \
        do sleep 0.01; n=$((n+1)); done; test ! -d /proc/$pid";
    plan.process.args[2] = orphan.to_owned();
    assert_eq!(fixture.run(&plan).unwrap().status, ExitStatus::Exited(0));
    plan.process.args = vec!["nothing".to_owned()];
    assert!(matches!(fixture.run(&plan), Err(LaunchError::Exec { .. })));
}

#[test]
fn reaper_forwards_signals() {
    let Some(fixture) = Fixture::new() else { return };
    let mut plan =
        fixture.shell("trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done");
    plan.init = Init::Reaper;
    let mut running = fixture.start(&plan).unwrap();
    let davit_runtime::Streams::Pipes { stdout, .. } = &mut running.streams else { panic!() };
    let mut byte = [0; 6];
    let mut read = 0;
    while read < 6 {
        read += rustix::io::read(&*stdout, &mut byte[read..]).unwrap();
    }
    running.process.signal(15).unwrap();
    let outcome = crate::fixture::finish(running);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (ExitStatus::Exited(9), "got\n"));
}

#[test]
fn failures_leave_no_cgroup() {
    let Some(fixture) = Fixture::new() else { return };
    let plan = fixture.plan(&["nothing"]);
    assert!(fixture.run(&plan).is_err());
    assert!(fixture.cgroups.open(&plan.cgroup.path).unwrap_err().is_not_found());
    let plan = fixture.plan(&["true"]);
    drop(fixture.launch(&plan).unwrap());
    assert!(fixture.cgroups.open(&plan.cgroup.path).unwrap_err().is_not_found());
}
