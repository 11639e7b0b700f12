//! Processes of a hostile container, and of davit inside it.

use std::{io::Write as _, os::unix::fs::PermissionsExt as _, process::Stdio};

use davit_test::until;

use super::{Lair, binary};

/// CVE-2019-5736: davit's own file, through `/proc/PID/exe` of davit inside a container and as the
/// interpreter of a script.
#[test]
fn the_binary_survives_its_containers() {
    let Some(lair) = Lair::new() else { return };
    let before = binary();
    let script = "printf '#!/proc/self/exe\\n' > self; chmod +x self";
    lair.image("self", script, &["ENTRYPOINT [\"/self\"]"]);
    let own = lair.run(&["run", "--rm", "--network", "none", "self"]);
    assert_ne!(own.code, 0, "{own:?}");
    lair.sleeper("target", "busybox", &[]);
    // Here davit itself stays alive inside the container, reading its standard input.
    let inside =
        ["exec", "-i", "target", "/proc/self/exe", "--root", "/r", "--run-root", "/q", "load"];
    let mut child =
        lair.machine.command(&inside).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let find = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '[/]q load' && \
                echo $p; done";
    let found = || lair.run(&["exec", "target", "sh", "-c", find]).stdout;
    until("davit runs inside", || found().lines().count() > 0);
    let attack = "pid=PID; for way in $pid/exe; do
        echo x >$way; echo x >>$way; dd if=/dev/zero of=$way count=1 conv=notrunc; done
        exec 9<$pid/exe; echo x >/proc/self/fd/9; echo x >>/proc/self/fd/9
        touch /waiting; while test -e $pid/cmdline && test -s $pid/cmdline; do :; done
        echo x >/proc/self/fd/9; dd if=/dev/zero of=/proc/self/fd/9 count=1 conv=notrunc; touch /done";
    for pid in found().lines() {
        lair.ok(&["exec", "-d", "target", "sh", "-c", &attack.replace("PID", pid)]);
    }
    until("it was attacked", || lair.run(&["exec", "target", "test", "-e", "/waiting"]).code == 0);
    drop(child.stdin.take().map(|mut stdin| stdin.write_all(b"no archive")));
    child.wait().unwrap();
    until("it was attacked again", || {
        lair.run(&["exec", "target", "test", "-e", "/done"]).code == 0
    });
    assert!(binary() == before, "the binary was changed");
}

/// CVE-2019-5736, CVE-2016-9962: while a command enters the container, nothing of davit can be opened.
#[test]
fn davit_is_closed_to_those_it_joins() {
    let Some(lair) = Lair::new() else { return };
    let before = binary();
    let size = std::fs::metadata(lair.busybox.join("bin/busybox")).unwrap().len();
    // With SYS_PTRACE it may look into every process that it sees, as on every engine.
    lair.sleeper("target", "busybox", &[]);
    let spy = format!(
        "while true; do for p in /proc/[0-9]*; do
           n=$(stat -Lc %s $p/exe 2>/dev/null) && test $n != {size} && echo \"exe $n\" >>/spied
           for f in $p/fd/*; do case $f in */0|*/1|*/2|*/10|*/fd/\\*) ;; *)
             l=$(readlink $f) && case $l in /proc/*|/dev/*|pipe:*|'') ;; *) echo \"fd $l\" >>/spied ;; esac ;; esac
           done
           (echo x >>$p/exe) 2>/dev/null && echo \"written $p\" >>/spied
         done; touch /looked; done"
    );
    lair.ok(&["exec", "-d", "target", "sh", "-c", &spy]);
    until("it looks", || lair.run(&["exec", "target", "test", "-e", "/looked"]).code == 0);
    for _ in 0..25 {
        lair.ok(&["exec", "target", "true"]);
    }
    let spied = lair.run(&["exec", "target", "cat", "/spied"]);
    assert_eq!(spied.stdout, "", "a container saw davit");
    assert!(binary() == before, "the binary was changed");
}

/// CVE-2024-21626, CVE-2016-9962: descriptors of the host.
#[test]
fn only_the_standard_streams_are_open() {
    let Some(lair) = Lair::new() else { return };
    lair.sleeper("target", "busybox", &["--init"]);
    // The shell's own look at the directory is over when the names are tested.
    let line = "cd /proc/$$/fd; for f in *; do if test -L $f; then echo -n \"$f \"; fi; done";
    let run = ["run", "--rm", "--network", "none"];
    let cases: [(&[&str], &[&str]); 6] = [
        (&run, &["busybox"]),
        (&run, &["-i", "busybox"]),
        (&run, &["-t", "busybox"]),
        (&run, &["--init", "busybox"]),
        (&["exec"], &["target"]),
        (&["exec", "-t"], &["target"]),
    ];
    for (verb, rest) in cases {
        let seen = lair.ok(&[verb, rest, &["sh", "-c", line]].concat());
        // A shell on a terminal opens it once more, under a number of its own.
        let open = seen.trim().trim_end_matches(" 10");
        assert_eq!(open, "0 1 2", "{verb:?} {rest:?}");
    }
    assert_eq!(lair.ok(&["exec", "target", "ls", "/proc/1/fd"]), "0\n1\n2");
    // It is there as a whole, and stays.
    let health = "test -e /health || { ls /proc/self/fd | wc -l > /new && mv /new /health; }";
    let flags = ["--health-cmd", health, "--health-interval", "100ms"];
    lair.sleeper("checked", "busybox", &flags);
    until("it was checked", || lair.run(&["exec", "checked", "test", "-s", "/health"]).code == 0);
    assert_eq!(lair.ok(&["exec", "checked", "cat", "/health"]), "4");
}

/// CVE-2022-24769, CVE-2022-27649, CVE-2022-29162, CVE-2022-0492, CVE-2023-25809.
#[test]
fn capabilities_and_cgroups_give_no_hold() {
    let Some(lair) = Lair::new() else { return };
    lair.sleeper("target", "busybox", &["--cap-add", "NET_ADMIN"]);
    let line = "grep -E '^Cap(Inh|Amb|Eff)' /proc/self/status | cut -f2 | tr '\\n' ' '";
    let none = "0000000000000000";
    let seen = lair.ok(&["exec", "-u", "1000:1000", "target", "sh", "-c", line]);
    assert_eq!(seen.trim(), format!("{none} {none} {none}"));
    let seen = lair.ok(&["exec", "target", "sh", "-c", line]);
    assert_eq!(seen.trim(), format!("{none} 00000000a80435fb {none}"));
    let line = "mkdir /sys/fs/cgroup/x; mkdir /c; mount -t cgroup -o memory none /c; \
                unshare -Urm true; find /sys/fs/cgroup -name release_agent; echo end";
    let outcome = lair.run(&["exec", "target", "sh", "-c", line]);
    assert_eq!(outcome.stdout, "end\n", "{outcome:?}");
    assert!(
        outcome.stderr.matches("ermi").count() + outcome.stderr.matches("ead-only").count() >= 3
    );
}

/// CVE-2026-53495: a process that keeps the streams of an `exec` whose own process has ended.
#[test]
fn an_exec_ends_with_its_process() {
    let Some(lair) = Lair::new() else { return };
    lair.sleeper("target", "busybox", &[]);
    for flags in [&["exec"][..], &["exec", "-i"], &["exec", "-t"]] {
        let line = "(trap '' HUP; exec sleep 600) & echo here; exit 3";
        let outcome = lair.run(&[flags, &["target", "sh", "-c", line]].concat());
        assert_eq!((outcome.code, outcome.stdout.trim()), (3, "here"), "{flags:?} {outcome:?}");
    }
    // One that goes on writing.
    let line = "yes >&2 & exit 4";
    let mut command = lair.machine.command(&["exec", "target", "sh", "-c", line]);
    assert_eq!(command.stderr(Stdio::null()).status().unwrap().code(), Some(4));
    let mut command = lair.machine.command(&["exec", "target", "sh", "-c", line]);
    assert_eq!(command.output().unwrap().status.code(), Some(4));
}

/// CVE-2020-15257, CVE-2024-25621: sockets and folders that others of the machine could open.
#[test]
fn state_is_roots_alone() {
    let Some(lair) = Lair::new() else { return };
    lair.sleeper("target", "busybox", &["-v", "data:/data"]);
    let davit = lair.machine.davit();
    for path in [davit.root(), davit.run_root()] {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{}", path.display());
    }
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let abstract_ones =
        sockets.lines().filter(|line| line.contains(" @") && line.contains("davit"));
    assert_eq!(abstract_ones.count(), 0, "{sockets}");
}

/// CVE-2020-14370: the environment of whoever starts a container stays outside.
#[test]
fn the_callers_environment_stays_outside() {
    let Some(lair) = Lair::new() else { return };
    let call = |arguments: &[&str]| {
        let mut command = lair.machine.command(arguments);
        command.env("OWN_SECRET", "hidden").env("ASKED", "for");
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    let run = ["run", "--rm", "--network", "none", "-e", "ASKED", "busybox", "env"];
    let mut seen: Vec<String> = call(&run).lines().map(str::to_owned).collect();
    seen.retain(|line| !line.starts_with("HOSTNAME=") && !line.starts_with("PATH="));
    seen.sort();
    assert_eq!(seen, ["ASKED=for", "HOME=/root"]);
    call(&["run", "-d", "--name", "target", "--network", "none", "busybox", "sleep", "600"]);
    let seen = call(&["exec", "-e", "ASKED", "target", "sh", "-c", "cat /proc/1/environ; env"]);
    assert!(seen.contains("ASKED=for") && !seen.contains("hidden"), "{seen:?}");
}
