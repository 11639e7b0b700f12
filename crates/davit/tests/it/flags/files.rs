//! What is mounted: tmpfs, volumes, binds, a read-only root.

use std::process::Command;

use davit_test::Outcome;

use super::{refuse, see};
use crate::machine::Machine;

const SUBPATH: &str =
    "invalid mount config for type \"volume\": subpath must be a relative path within the volume";

#[test]
fn missing_directories_are_made_by_a_create_alone() {
    let Some(machine) = Machine::new() else { return };
    let missing = machine.davit().dir().join("missing/below");
    let bind = format!("{}:/x", missing.display());
    refuse(
        &machine,
        &[
            (&["-v", &bind, "-v", "a:b"], "mount path must be absolute"),
            (&["-v", &bind, "-m", "1m"], "Minimum memory limit"),
            (
                &["--mount", "type=tmpfs,dst=rel"],
                "invalid mount config for type \"tmpfs\": invalid mount path: 'rel' mount path must be absolute",
            ),
            (
                &["--mount", "src=a,dst=/"],
                "invalid mount config for type \"volume\": invalid specification: destination can't be '/'",
            ),
            (&["--tmpfs", "rel"], "invalid mount config for type \"tmpfs\""),
            (&["--mount", "src=a,dst=/a,volume-subpath=../.."], SUBPATH),
            (&["--mount", "src=a,dst=/a,volume-subpath=b/../../c"], SUBPATH),
            (&["--mount", "src=a,dst=/a,volume-subpath=/b"], SUBPATH),
            (&["--storage-opt", "size=1m"], "--storage-opt size is not supported"),
            (&["--storage-opt", "bogus=1"], "unknown option bogus"),
            (&["--storage-opt", "xino=maybe"], "xino is on, off or auto"),
        ],
    );
    assert!(!missing.exists());
    machine.ok(&["create", "-v", &bind, "busybox"]);
    assert!(missing.is_dir());
    for flag in [["--tmpfs", "/t:mode=41770"], ["--mount", "type=tmpfs,dst=/t,tmpfs-mode=41770"]] {
        see(&machine, &[(&flag, "stat -c %a /t", "1770")]);
    }
}

#[test]
fn tmpfs_options() {
    let Some(machine) = Machine::new() else { return };
    // Some kernels are configured to add `inode64`.
    let options = "grep ' /t ' /proc/self/mountinfo | sed 's/.* \\/t //; s/,inode64//'";
    see(
        &machine,
        &[
            // Docker hides what the image has there; podman would copy it.
            (
                &["--tmpfs", "/etc"],
                "ls -A /etc | grep -v -e hosts -e hostname -e resolv.conf; true",
                "",
            ),
            (&["--tmpfs", "/t"], options, "rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw"),
            (
                &["--tmpfs", "/t:rw,size=64k,mode=1770,exec,uid=5,gid=6"],
                options,
                "rw,nosuid,nodev,relatime - tmpfs tmpfs rw,size=64k,mode=1770,uid=5,gid=6",
            ),
            (
                &["--tmpfs", "/t:ro,nr_inodes=10,noatime"],
                options,
                "ro,nosuid,nodev,noexec,noatime - tmpfs tmpfs rw,nr_inodes=10",
            ),
            (&["--tmpfs", "/t:suid,dev,exec,strictatime"], options, "rw - tmpfs tmpfs rw"),
            (&["--tmpfs", "/t:size=1%"], "df /t | grep -c tmpfs", "1"),
            // The mode of what it covers, the owner root; the kernel's mode where nothing was.
            (&["--tmpfs", "/home"], "stat -c '%a %u' /home", "755 0"),
            (&["--tmpfs", "/tmp"], "stat -c '%a %u' /tmp", "1777 0"),
            (&["--tmpfs", "/new"], "stat -c '%a %u' /new", "1777 0"),
            (
                &["--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700,ro"],
                options,
                "ro,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,size=1024k,mode=700",
            ),
        ],
    );
    refuse(
        &machine,
        &[
            (&["--tmpfs", "/t:bogus"], "invalid tmpfs option \"bogus\""),
            (&["--tmpfs", "t"], "mount path must be absolute"),
            (&["--tmpfs", "/t:size=x"], "invalid size: 'x'"),
        ],
    );
}

#[test]
fn a_read_only_root() {
    let Some(machine) = Machine::new() else { return };
    see(
        &machine,
        &[
            (&["--read-only"], "touch /x 2>&1 | grep -c 'Read-only file system'", "1"),
            (&["--read-only", "--tmpfs", "/tmp"], "touch /tmp/x /dev/shm/x && echo both", "both"),
            (&["--read-only", "-v", "kept:/d"], "touch /d/x && echo written", "written"),
            (&[], "grep ' /dev/shm ' /proc/mounts | cut -d' ' -f1", "shm"),
            (&[], "test -e /proc/kcore || ! test -L /dev/core && echo whole", "whole"),
        ],
    );
}

#[test]
fn mounts_in_long_form() {
    let Some(machine) = Machine::new() else { return };
    let folder = machine.davit().dir().join("shown");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("file"), "host").expect("a file");
    let bind = format!("type=bind,src={},dst=/t", folder.display());
    let read_only = format!("{bind},readonly");
    see(
        &machine,
        &[
            (&["--mount", &bind], "cat /t/file", "host"),
            (&["--mount", &read_only], "touch /t/x 2>/dev/null || echo refused", "refused"),
            (
                &["--mount", "src=fresh,dst=/etc,volume-label=a=b,volume-label=c"],
                "test -f /etc/passwd && echo filled",
                "filled",
            ),
            (
                &["--mount", "src=empty,dst=/etc,volume-nocopy"],
                "test -f /etc/passwd || echo empty",
                "empty",
            ),
            (
                &["--mount", "src=fresh,dst=/s,volume-subpath=network"],
                "test -d /s && test ! -e /s/passwd && echo below",
                "below",
            ),
            (
                &[
                    "--mount",
                    "src=ram,dst=/t,volume-opt=type=tmpfs,volume-opt=device=tmpfs,volume-opt=o=size=64k",
                ],
                "grep ' /t ' /proc/self/mountinfo | sed 's/.* - //; s/,inode64//'",
                "tmpfs tmpfs rw,size=64k",
            ),
        ],
    );
    let labels = machine.ok(&["volume", "inspect", "-f", "{{json .Labels}} {{.Driver}}", "fresh"]);
    assert_eq!(labels, r#"{"a":"b","c":""} local"#);
    let options = machine.ok(&["volume", "inspect", "-f", "{{json .Options}}", "ram"]);
    assert_eq!(options, r#"{"device":"tmpfs","o":"size=64k","type":"tmpfs"}"#);
    // A directory of the host behind a volume's name.
    let device = format!("device={}", folder.display());
    machine.ok(&[
        "volume",
        "create",
        "--opt",
        "type=none",
        "--opt",
        &device,
        "--opt",
        "o=bind",
        "linked",
    ]);
    see(&machine, &[(&["-v", "linked:/l"], "cat /l/file && touch /l/back", "host")]);
    assert!(folder.join("back").exists());
    refuse_mounts(&machine);
}

fn refuse_mounts(machine: &Machine) {
    refuse(
        machine,
        &[
            (&["--mount", "type=bind,src=/tmp"], "target is required"),
            (&["--mount", "type=bogus,dst=/t"], "mount type unknown"),
            (
                &["--mount", "type=bind,src=/nosuch/x,dst=/t"],
                "bind source path does not exist: /nosuch/x",
            ),
            (&["--mount", "type=bind,src=rel,dst=/t"], "mount path must be absolute"),
            (&["--mount", "type=bind,src=/tmp,dst=/t,foo=1"], "unexpected key 'foo' in 'foo=1'"),
            (&["--mount", "type=bind,src=/tmp,dst=/"], "destination can't be '/'"),
            (
                &["--mount", "type=bind,src=/tmp,dst=/t,bind-propagation=x"],
                "invalid propagation mode: x",
            ),
            (
                &["--mount", "type=tmpfs,dst=/t,volume-nocopy"],
                "cannot mix 'volume-*' options with mount type 'tmpfs'",
            ),
            (
                &["--mount", "dst=/t,tmpfs-size=1"],
                "cannot mix 'tmpfs-*' options with mount type 'volume'",
            ),
            (&["--mount", "type=tmpfs,src=/a,dst=/t"], "field Source must not be specified"),
            (&["--mount", "dst=/t,volume-driver=nosuch"], "plugin \"nosuch\" not found"),
            (&["--mount", "dst=/t,volume-opt=bogus=1"], "invalid option: \"bogus\""),
            (&["-v", "/tmp:/t:bogus"], "invalid mode: bogus"),
            (&["-v", "a:b:c:d"], "invalid volume specification"),
            (&["-v", "b@d:/t"], "includes invalid characters for a local volume name"),
            (&["-v", "x:/t"], "volume name is too short"),
            (&["-v", "/tmp:/t", "-v", "/usr:/t"], "Duplicate mount point: /t"),
        ],
    );
}

/// Runs a script in a mount namespace of its own; `$0` is a shared mount, `"$@"` davit.
fn with_shared_mount(machine: &Machine, script: &str) -> Outcome {
    let place = machine.davit().dir().join("place");
    std::fs::create_dir_all(&place).expect("a folder");
    let line = format!("mount -t tmpfs t \"$0\"; mount --make-shared \"$0\"; {script}");
    let inner = machine.command(&[]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-euc"]);
    command.arg(line);
    command.arg(&place).arg(inner.get_program()).args(inner.get_args());
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Outcome::from(command.output().expect("unshare starts"))
}

#[test]
fn mounts_are_shared_both_ways() {
    let Some(machine) = Machine::new() else { return };
    for mount in
        ["-v \"$0:/t:rshared\"", "--mount \"type=bind,src=$0,dst=/t,bind-propagation=shared\""]
    {
        let script = format!(
            "\"$@\" run -d --privileged --network none --name both --restart always {mount} busybox \
               sh -c 'mkdir -p /t/in; mount -t tmpfs i /t/in; touch /t/in/own; sleep 600'
             until test -e \"$0/in/own\"; do sleep 0.01; done
             mkdir \"$0/out\"; mount -t tmpfs o \"$0/out\"; touch \"$0/out/theirs\"
             \"$@\" exec both ls /t/out
             \"$@\" rm -f both; umount \"$0/in\""
        );
        let outcome = with_shared_mount(&machine, &script);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert!(outcome.stdout.contains("\ntheirs\n"), "{}", outcome.stdout);
    }
    // What is private has nothing to share.
    let source = machine.davit().dir().join("place");
    let script = "mount --make-private \"$0\"; \"$@\" run --rm -v \"$0:/t:rshared\" busybox true";
    let refused = with_shared_mount(&machine, script);
    let words =
        format!("path {0} is mounted on {0} but it is not a shared mount", source.display());
    assert!(refused.code == 125 && refused.stderr.contains(&words), "{}", refused.stderr);
}

#[test]
fn anonymous_volumes_go_with_their_container() {
    let Some(machine) = Machine::new() else { return };
    let create = |name: &str| {
        machine.ok(&["create", "--name", name, "-v", "/data", "-v", "named:/n", "busybox"])
    };
    create("first");
    // The image's volume, or an unnamed one, makes room for one with a name.
    machine.ok(&[
        "create", "--name", "second", "-v", "/data", "-v", "named:/n", "-v", "/n", "busybox",
    ]);
    assert_eq!(machine.ok(&["volume", "ls", "-q"]).lines().count(), 3);
    machine.ok(&["rm", "first"]);
    assert_eq!(machine.ok(&["volume", "ls", "-q"]).lines().count(), 3, "without -v they stay");
    machine.ok(&["rm", "-v", "second"]);
    let left = machine.ok(&["volume", "ls", "-q"]);
    assert!(left.lines().count() == 2 && left.contains("named"), "{left}");
    // The other container's volumes, all but a target of one's own.
    machine.ok(&[
        "run", "--name", "giver", "-v", "one:/a", "-v", "two:/b", "busybox", "touch", "/a/x",
        "/b/x",
    ]);
    let line = "test -e /a/x && test ! -e /b/x && (touch /a/y 2>/dev/null || echo read)";
    see(&machine, &[(&["--volumes-from", "giver:ro", "-v", "/b"], line, "read")]);
}
