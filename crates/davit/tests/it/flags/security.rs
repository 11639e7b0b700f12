//! Capabilities, privileges, devices, kernel parameters, filters.

use super::{file, refuse, refuse_in, see};
use crate::machine::Machine;

/// Refuses to make directories, allows everything else.
const NO_MKDIR: &str = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
    "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}"#;

#[test]
fn capabilities_add_and_drop() {
    let Some(machine) = Machine::new() else { return };
    let line = "grep CapEff /proc/self/status | awk '{print $2}'";
    see(
        &machine,
        &[
            (&[], line, "00000000a80425fb"),
            (&["--cap-add", "NET_ADMIN"], line, "00000000a80435fb"),
            (&["--cap-add", "cap_net_admin"], line, "00000000a80435fb"),
            (&["--cap-drop", "ALL", "--cap-add", "chown"], line, "0000000000000001"),
            (&["--cap-drop", "CAP_CHOWN"], line, "00000000a80425fa"),
            (
                &["--cap-drop", "ALL"],
                "chown 1:1 /etc/passwd 2>/dev/null || echo refused",
                "refused",
            ),
        ],
    );
    refuse(
        &machine,
        &[
            (&["--cap-add", "NOSUCH"], "unknown capability"),
            (&["--cap-drop", "NOSUCH"], "unknown capability"),
        ],
    );
}

#[test]
fn privileged_means_everything() {
    let Some(machine) = Machine::new() else { return };
    let own = std::fs::read_to_string("/proc/self/status").expect("readable");
    let bounding = own.lines().find_map(|line| line.strip_prefix("CapBnd:")).expect("a set").trim();
    let seccomp = "grep ^Seccomp: /proc/self/status | awk '{print $2}'";
    let effective = "grep CapEff /proc/self/status | awk '{print $2}'";
    let sys = "grep ' /sys ' /proc/self/mountinfo | awk '{print $6}' | cut -d, -f1";
    see(
        &machine,
        &[
            (&["--privileged"], effective, bounding),
            (&["--privileged", "--cap-drop", "ALL"], effective, bounding),
            (&["--privileged", "--cap-drop", "SYS_ADMIN"], effective, bounding),
            (&["--privileged"], seccomp, "0"),
            (&["--privileged"], sys, "rw"),
            (&["--privileged"], "mkdir /m && mount -t tmpfs none /m && echo mounted", "mounted"),
            (&["--privileged"], "test -c /dev/ptmx && test -L /dev/ptmx && echo own", "own"),
            (&[], "mkdir /m && mount -t tmpfs none /m 2>/dev/null || echo refused", "refused"),
        ],
    );
}

#[test]
fn security_options() {
    let Some(machine) = Machine::new() else { return };
    let profile = format!("seccomp={}", file(&machine, "profile.json", NO_MKDIR));
    let seccomp = "grep ^Seccomp: /proc/self/status | awk '{print $2}'";
    let privileges = "grep NoNewPrivs /proc/self/status | awk '{print $2}'";
    see(
        &machine,
        &[
            (&[], seccomp, "2"),
            (&["--security-opt", "seccomp=unconfined"], seccomp, "0"),
            (&["--security-opt", &profile], "mkdir /x 2>/dev/null || echo no", "no"),
            (&["--security-opt", &profile], "touch /x && echo yes", "yes"),
            (&[], privileges, "0"),
            (&["--security-opt", "no-new-privileges"], privileges, "1"),
            (&["--security-opt", "no-new-privileges:false"], privileges, "0"),
            (&["--security-opt", "label=disable"], "echo fine", "fine"),
            (&["--security-opt", "apparmor=unconfined"], "echo fine", "fine"),
            (
                &["--security-opt", "systempaths=unconfined"],
                "grep -c ' /proc/' /proc/self/mountinfo || true",
                "0",
            ),
        ],
    );
    let inspected =
        machine.ok(&["create", "--name", "so", "--security-opt", "label=disable", "busybox"]);
    let format = "{{json .HostConfig.SecurityOpt}}";
    assert_eq!(machine.ok(&["inspect", "-f", format, &inspected]), r#"["label=disable"]"#);
    machine.ok(&["rm", "so"]);
    refuse(
        &machine,
        &[
            (&["--security-opt", "seccomp=/nosuch"], "opening seccomp profile (/nosuch) failed"),
            (&["--security-opt", "no-new-privileges=maybe"], "invalid --security-opt"),
            (&["--security-opt", "nosuch"], "invalid --security-opt: \"nosuch\""),
            (&["--security-opt", "nosuch=1"], "invalid --security-opt: \"nosuch=1\""),
        ],
    );
    let malformed = format!("seccomp={}", file(&machine, "bad.json", "{"));
    let refused = machine.run(&["run", "--rm", "--security-opt", &malformed, "busybox", "true"]);
    assert_eq!(refused.code, 125, "{}", refused.stderr);
}

#[test]
fn devices_of_the_host() {
    let Some(machine) = Machine::new() else { return };
    if !std::path::Path::new("/dev/net/tun").exists() {
        return davit_test::skip("needs /dev/net/tun");
    }
    see(
        &machine,
        &[
            (
                &["--device", "/dev/null:/dev/hole"],
                "test -c /dev/hole && echo x >/dev/hole && echo in",
                "in",
            ),
            (
                &["--device", "/dev/net/tun:/dev/wire:r"],
                ": </dev/wire && (: <>/dev/wire) 2>/dev/null || echo readable",
                "readable",
            ),
            (&[], "mknod /k c 10 200 && (: </k) 2>/dev/null || echo filtered", "filtered"),
            (
                &["--device-cgroup-rule", "c 10:200 rwm"],
                "mknod /k c 10 200 && : <>/k && echo opened",
                "opened",
            ),
        ],
    );
    refuse(
        &machine,
        &[
            (
                &["--device", "/dev/nosuch"],
                "adding custom device \"/dev/nosuch\": no such file or directory",
            ),
            (&["--device", "/proc/self"], "not a device node"),
            (&["--device", "null"], "null is not an absolute path"),
            (&["--device", "/dev/null:/dev/x:z"], "bad mode specified: z"),
            (&["--device", "/dev/null:/dev/x:rwmr"], "bad mode specified: rwmr"),
            (&["--device", "/a:/b:r:w"], "invalid device specification"),
            (&["--device-cgroup-rule", "c 1"], "invalid device cgroup format"),
        ],
    );
}

#[test]
fn kernel_parameters() {
    let Some(machine) = Machine::new() else { return };
    see(
        &machine,
        &[
            (&["--sysctl", "net.ipv4.ip_forward=1"], "cat /proc/sys/net/ipv4/ip_forward", "1"),
            (&["--sysctl", "kernel.shmmax=65536"], "cat /proc/sys/kernel/shmmax", "65536"),
            (&[], "cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
        ],
    );
    refuse(
        &machine,
        &[
            (&["--sysctl", "kernel.panic=1"], "sysctl 'kernel.panic' is not allowed"),
            (&["--sysctl", "bogus"], "expected KEY=VALUE"),
            (
                &["--network", "host", "--sysctl", "net.ipv4.ip_forward=1"],
                "shares the host's namespace",
            ),
        ],
    );
}

#[test]
fn the_ipc_namespace_is_shared_by_those_that_say_so() {
    let Some(machine) = Machine::new() else { return };
    for mode in ["", "private", "none", "shareable", "host"] {
        let name = format!("ipc-{mode}");
        machine.ok(&["run", "-d", "--name", &name, "--ipc", mode, "busybox", "sleep", "600"]);
    }
    machine.ok(&[
        "run",
        "-d",
        "--name",
        "guest",
        "--ipc",
        "container:ipc-shareable",
        "busybox",
        "sleep",
        "600",
    ]);
    let words = "non-shareable IPC";
    refuse_in(
        &machine,
        &[
            (&["--ipc", "container:ipc-"], words),
            (&["--ipc", "container:ipc-private"], words),
            (&["--ipc", "container:ipc-none"], words),
        ],
    );
    let own = machine.ok(&["exec", "ipc-shareable", "readlink", "/proc/self/ns/ipc"]);
    let line = "readlink /proc/self/ns/ipc";
    let host = std::fs::read_link("/proc/self/ns/ipc").expect("own namespace");
    see(
        &machine,
        &[
            (&["--ipc", "container:ipc-shareable"], line, &own),
            (&["--ipc", "container:guest"], line, &own),
            (&["--ipc", "container:ipc-host"], line, host.to_str().expect("UTF-8")),
        ],
    );
    let format = "{{.HostConfig.IpcMode}}";
    assert_eq!(machine.ok(&["inspect", "-f", format, "ipc-shareable"]), "shareable");
}

#[test]
fn users_and_groups() {
    let Some(machine) = Machine::new() else { return };
    let ids = "id -u; id -g; id -G";
    see(
        &machine,
        &[
            (&["-u", "1000"], ids, "1000\n0\n0"),
            (&["-u", "1000:7"], ids, "1000\n7\n7"),
            (&["-u", "daemon"], ids, "1\n1\n1"),
            (&["-u", "1000", "--group-add", "99"], "id -G", "0 99"),
        ],
    );
    for (user, words) in
        [("nosuch", "unable to find user nosuch"), ("0:nosuch", "unable to find group nosuch")]
    {
        let refused = machine.run(&["run", "--rm", "-u", user, "busybox", "true"]);
        assert!(refused.code == 125 && refused.stderr.contains(words), "{}", refused.stderr);
    }
}

#[test]
fn a_reaper_is_the_first_process() {
    let Some(machine) = Machine::new() else { return };
    // Process 1 is not the shell, an orphan is reaped, and the exit code is the command's.
    let line = "test $$ -ne 1 || exit 1; (sleep 0.01 & echo $! >/orphan); pid=$(cat /orphan); n=0; \
                while test -d /proc/$pid; do n=$((n+1)); test $n -lt 6000 || exit 2; sleep 0.01; done; exit 7";
    let flags = ["run", "--rm", "--init", "--network", "none", "busybox", "sh", "-c", line];
    let outcome = machine.run(&flags);
    assert_eq!(outcome.code, 7, "{}", outcome.stderr);
    let command = ["busybox", "sh", "-c", "kill -TERM $$; sleep 5"];
    // As process 1 the shell ignores the signal; below a reaper it does not.
    let outcome =
        machine.run(&[&["run", "--rm", "--init", "--network", "none"][..], &command].concat());
    assert_eq!(outcome.code, 143, "{}", outcome.stderr);
    machine.ok(&["create", "--init", "--name", "in", "busybox"]);
    assert_eq!(machine.ok(&["inspect", "-f", "{{.HostConfig.Init}}", "in"]), "true");
}
