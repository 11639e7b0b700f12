//! Paths that a hostile image or container chooses.

use std::sync::atomic::{AtomicBool, Ordering};

use davit_test::until;

use super::Lair;

/// CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, CVE-2026-41579: the image's own `/proc`, `/sys`,
/// `/dev` or `/etc` is a link.
#[test]
fn linked_directories_of_the_kernel_are_not_followed() {
    let Some(lair) = Lair::new() else { return };
    for (number, to) in ["$OUT", "../../../../../..$OUT", "/proc/1/root", "."].iter().enumerate() {
        let image = format!("linked-{number}");
        let links = "for name in proc sys dev etc; do rm -rf $name; ln -s TO $name; done";
        lair.image(&image, &links.replace("TO", &format!("\"{to}\"")), &[]);
        let seen = lair.shell(
            &image,
            "for name in /proc /sys /dev /etc; do test -d $name && test ! -L $name && echo $name; done
             test -e /proc/self/status && test -d /sys/kernel && test -c /dev/null && echo kernel
             grep -c localhost /etc/hosts && echo x >/dev/null; echo 1 >/proc/sys/kernel/panic; true",
        );
        assert_eq!(seen, "/proc\n/sys\n/dev\n/etc\nkernel\n2", "{to}");
        lair.sleeper("linked", &image, &["-t"]);
        assert_eq!(lair.ok(&["exec", "linked", "readlink", "/dev/fd"]), "/proc/self/fd");
        let copied = lair.run(&["cp", "linked:/etc/hosts", "-"]);
        assert!(copied.stdout.contains("localhost"), "{copied:?}");
        lair.ok(&["rm", "-f", "linked"]);
        lair.host_is_unharmed();
    }
}

/// CVE-2024-9676, CVE-2022-36109, CVE-2024-40635, CVE-2023-25173: files of users that are pipes,
/// devices, endless, links; numbers that wrap around.
#[test]
fn users_come_from_small_regular_files_of_the_root() {
    let Some(lair) = Lair::new() else { return };
    let cases = [
        ("mkfifo etc/NAME", "not a regular file"),
        ("mknod etc/NAME c 1 5", "not a regular file"),
        ("mkdir etc/NAME", "not a regular file"),
        ("truncate -s 9M etc/NAME", "file too large"),
        ("ln -s \"$OUT/secret\" etc/NAME", "unable to find"),
        ("ln -s ../../../../../..\"$OUT/secret\" etc/NAME", "unable to find"),
        ("ln -s /proc/1/root\"$OUT/secret\" etc/NAME", "unable to find"),
        ("ln -s NAME etc/NAME", "ymbolic link"),
    ];
    for (number, (script, words)) in cases.iter().enumerate() {
        for (file, user) in [("passwd", "host"), ("group", "0:host")] {
            let image = format!("{file}-{number}");
            let script = format!("rm -f etc/{file}; {}", script.replace("NAME", file));
            lair.image(&image, &script, &[]);
            lair.refused(&["run", "--rm", "-u", user, &image, "id"], words);
        }
    }
    let inside = [
        ("mkfifo /etc/passwd", "not a regular file"),
        ("ln -s /proc/self/environ /etc/passwd", "unable to find user host"),
        ("ln -s /proc/1/root/etc/shadow /etc/passwd", "ymbolic link"),
        ("truncate -s 3G /etc/passwd", "file too large"),
    ];
    for (number, (line, words)) in inside.into_iter().enumerate() {
        let name = format!("target-{number}");
        lair.sleeper(&name, "busybox", &[]);
        lair.ok(&["exec", &name, "sh", "-c", &format!("rm -f /etc/passwd; {line}")]);
        lair.refused(&["exec", "-u", "host", &name, "id"], words);
    }
    for user in ["4294967295", "4294967296", "0:4294967295", "2147483648"] {
        lair.refused(&["run", "--rm", "-u", user, "busybox", "id"], "out of range 0-2147483647");
    }
    lair.host_is_unharmed();
}

/// CVE-2024-21626: a working directory outside the root, by a descriptor or a link.
#[test]
fn working_directories_lie_inside() {
    let Some(lair) = Lair::new() else { return };
    let words = "entering the working directory";
    lair.image("fd", "ln -s /proc/self/fd/5 link", &["WORKDIR /proc/self/fd/7"]);
    lair.refused(&["run", "--rm", "fd", "pwd"], words);
    lair.refused(&["run", "--rm", "-w", "/link", "fd", "pwd"], words);
    lair.sleeper("target", "busybox", &[]);
    lair.ok(&["exec", "target", "ln", "-s", "/proc/self/fd/6", "/link"]);
    for number in 3..14 {
        let path = format!("/proc/self/fd/{number}");
        lair.refused(&["run", "--rm", "-w", &path, "busybox", "pwd"], words);
        lair.refused(&["exec", "-w", &path, "target", "pwd"], words);
    }
    for path in
        ["/link", "/proc/self/cwd", "/proc/self/root", "/proc/1/root", "/proc/thread-self/cwd"]
    {
        lair.refused(&["exec", "-w", path, "target", "pwd"], words);
        if path != "/link" {
            lair.refused(&["run", "--rm", "-w", path, "busybox", "pwd"], words);
        }
    }
    // A directory that becomes such a link while it is entered.
    let swap = "mkdir /w /v; while true; do mv /w /x; ln -s /proc/1/root /w; rm /w; mv /x /w; done";
    lair.ok(&["exec", "-d", "target", "sh", "-c", swap]);
    let line = format!("pwd; cat ../../../..{}/secret", lair.outside());
    for _ in 0..15 {
        let outcome = lair.run(&["exec", "-w", "/w", "target", "sh", "-c", &line]);
        assert!(!outcome.stdout.contains("4242"), "{outcome:?}");
        assert!(!outcome.stdout.contains("unreachable"), "{outcome:?}");
    }
    lair.host_is_unharmed();
}

/// CVE-2021-30465, CVE-2023-0778, CVE-2024-45310, CVE-2025-52881: targets of mounts that lead out or into
/// procfs.
#[test]
fn mounts_stay_inside_and_off_procfs() {
    let Some(lair) = Lair::new() else { return };
    let links = "ln -s \"$OUT\" link; ln -s ../../../../..\"$OUT\" rel; ln -s /proc/self/cwd magic; \
                 ln -s loop loop; ln -s /proc kernel; mkdir -p real/deep; ln -s real way";
    lair.image("links", links, &[]);
    let volume = lair.volume("volume");
    let run = |target: &str| {
        let mount = format!("{volume}:{target}");
        lair.run(&["run", "--rm", "--network", "none", "-v", &mount, "links", "ls", "/real/deep"])
    };
    for target in ["/link", "/link/new", "/rel", "/rel/new", "/magic", "/loop/x", "/kernel/sys"] {
        let outcome = run(target);
        let told = outcome.stderr.contains(&format!("mounting {target}"));
        assert!(outcome.code == 125 && told, "{target}: {outcome:?}");
    }
    for target in ["/proc", "/proc/sys", "/proc/self/attr", "//proc/1"] {
        lair.refused(
            &["run", "--rm", "-v", &format!("{volume}:{target}"), "busybox", "true"],
            "cannot be mounted because it is inside /proc",
        );
    }
    let told = "\"/proc/x\" cannot be mounted because it is inside /proc";
    lair.refused(&["run", "--rm", "--tmpfs", "/proc/x", "busybox", "true"], told);
    // A link that stays inside is followed.
    assert_eq!(run("/way/deep").stdout, "file\n");
    // What the image declares is no better than what the user asks.
    for (image, script, change) in [
        ("declared-link", "ln -s \"$OUT\" data", "VOLUME /data"),
        ("declared-proc", "true", "VOLUME /proc/sys"),
    ] {
        lair.image(image, script, &[change]);
        lair.refused(&["run", "--rm", image, "ls", "/data/"], "mount");
    }
    // An empty volume is filled with the image's files, never with the host's.
    lair.image(
        "filled",
        "mkdir data; ln -s \"$OUT/secret\" data/link; ln -s \"$OUT\" data/dir",
        &["VOLUME /data"],
    );
    let seen =
        lair.ok(&["run", "--rm", "-v", "kept:/data", "filled", "sh", "-c", "cat /data/*; true"]);
    assert!(!seen.contains("4242"), "{seen}");
    let inside = lair.machine.davit().root().join("volumes/kept/_data");
    assert!(inside.join("link").is_symlink() && inside.join("dir").is_symlink());
    lair.host_is_unharmed();
}

/// CVE-2021-30465, CVE-2021-25741: one container swaps links in a volume while another mounts below.
#[test]
fn a_shared_volume_is_no_way_out() {
    let Some(lair) = Lair::new() else { return };
    let mine = lair.volume("mine");
    lair.sleeper("thrasher", "busybox", &["-v", "shared:/shared"]);
    let swap = format!(
        "mkdir -p /shared/place/deep; ln -s {} /shared/aside; while true; do mv /shared/place /shared/t; \
         mv /shared/aside /shared/place; mv /shared/place /shared/aside; mv /shared/t /shared/place; done",
        lair.outside()
    );
    lair.ok(&["exec", "-d", "thrasher", "sh", "-c", &swap]);
    let subpath = "type=volume,src=shared,dst=/sub,volume-subpath=place/deep";
    let done = AtomicBool::new(false);
    for round in 0..12 {
        let deeper = format!("{mine}:/shared/place/deep/new-{round}");
        // They may fail; what they reach is the volume's.
        let below = ["run", "--rm", "--network", "none", "-v", "shared:/shared", "-v", &deeper];
        drop(lair.run(&[&below[..], &["busybox", "true"]].concat()));
        let line = "ls -a /sub; echo x >/sub/written";
        let run =
            ["run", "--rm", "--network", "none", "--mount", subpath, "busybox", "sh", "-c", line];
        let outcome = lair.run(&run);
        assert!(!outcome.stdout.contains("secret"), "{outcome:?}");
        lair.host_is_unharmed();
        done.store(true, Ordering::Relaxed);
    }
    assert!(done.load(Ordering::Relaxed));
}

/// CVE-2018-15664, CVE-2019-14271, CVE-2026-41568: copies from and to a container that changes its
/// files meanwhile; and programs of the container are never executed for a copy.
#[test]
fn copies_stay_inside_whatever_happens_there() {
    let Some(lair) = Lair::new() else { return };
    lair.sleeper("target", "busybox", &["-v", "data:/data"]);
    let traps = "for name in xz unpigz gzip tar zstd; do for place in /bin /usr/bin /usr/local/bin; do \
                 mkdir -p $place; rm -f $place/$name; printf '#!/bin/sh\\ntouch /executed\\n' > $place/$name; \
                 chmod +x $place/$name; done; done; mkfifo /pipe /data/pipe";
    lair.ok(&["exec", "target", "sh", "-c", traps]);
    let swap = format!(
        "mkdir /w; while true; do mv /w /x; ln -s {} /w; rm /w; mv /x /w; done",
        lair.outside()
    );
    lair.ok(&["exec", "-d", "target", "sh", "-c", &swap]);
    let own = lair.volume("own");
    for round in 0..12 {
        drop(lair.run(&["cp", &format!("{own}/file"), &format!("target:/w/copied-{round}")]));
        drop(lair.run(&["cp", &own, "target:/w/"]));
        let outcome = lair.run(&["cp", "-L", "target:/w/secret", "-"]);
        assert!(!outcome.stdout.contains("4242"), "{outcome:?}");
        lair.host_is_unharmed();
    }
    // A pipe is copied, not read; a link is not followed on the way out.
    let out = format!("{own}/out");
    lair.ok(&["cp", "target:/pipe", &out]);
    lair.ok(&["exec", "target", "ln", "-s", &format!("{}/secret", lair.outside()), "/leak"]);
    let leak = lair.run(&["cp", "-L", "target:/leak", "-"]);
    assert!(leak.code != 0 && !leak.stdout.contains("4242"), "{leak:?}");
    assert_eq!(lair.run(&["exec", "target", "test", "-e", "/executed"]).code, 1);
    lair.host_is_unharmed();
}

/// A container that replaces the files that davit gives it, and is started again.
#[test]
fn replaced_host_files_are_not_written_through() {
    let Some(lair) = Lair::new() else { return };
    // Without privilege they cannot even be removed.
    let seen = lair.shell("busybox", "rm /etc/hosts || ln -sf /x /etc/resolv.conf || echo kept");
    assert_eq!(seen, "kept");
    let line = format!(
        "for name in hosts resolv.conf hostname; do umount /etc/$name; rm /etc/$name; \
         ln -s {}/$name /etc/$name; done; touch /ready; exec sleep 600",
        lair.outside()
    );
    let flags = ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"];
    let start = ["run", "-d", "--network", "none", "--name", "replaced"];
    lair.ok(&[&start[..], &flags, &["busybox", "sh", "-c", &line]].concat());
    until("the links are there", || {
        lair.run(&["exec", "replaced", "test", "-e", "/ready"]).code == 0
    });
    let again = lair.run(&["restart", "-t", "0", "replaced"]);
    assert!(again.code == 0 || again.stderr.contains("/etc/"), "{again:?}");
    lair.host_is_unharmed();
    // The same through an archive that is copied into a stopped container.
    lair.ok(&["create", "--name", "stopped", "--network", "none", "busybox", "cat", "/etc/hosts"]);
    let folder = lair.volume("archive");
    let link = std::path::Path::new(&folder).join("hosts");
    std::os::unix::fs::symlink(format!("{}/hosts", lair.outside()), &link).unwrap();
    drop(lair.run(&["cp", link.to_str().unwrap(), "stopped:/etc/hosts"]));
    let started = lair.run(&["start", "-a", "stopped"]);
    assert!(started.stdout.contains("localhost") || started.code != 0, "{started:?}");
    lair.host_is_unharmed();
}
