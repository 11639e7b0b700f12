//! `davit cp`, with running and stopped containers, friendly and hostile.

mod names;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Stdio,
};

use davit_test::{Outcome, until};

use crate::machine::Machine;

/// Containers to copy with: one that runs, one that never did.
const STATES: [&str; 2] = ["running", "stopped"];

/// A machine with both containers, which have what `script` makes, and an empty host directory.
fn machine(script: &str) -> Option<(Machine, PathBuf)> {
    let machine = Machine::new()?;
    let script = format!("{script}\n[ $0 = stopped ] || exec sleep 900");
    for name in STATES {
        let state = if name == "running" { "-d" } else { "-i" };
        machine.ok(&["run", state, "--name", name, "busybox", "sh", "-ec", &script, name]);
    }
    until("the script is done", || {
        machine.run(&["exec", "running", "test", "-e", "/ready"]).code == 0
    });
    let host = machine.davit().dir().join("host");
    fs::create_dir(&host).expect("made");
    Some((machine, host))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path.as_ref())
        .unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// The content of a file of a container, through standard output.
fn content(machine: &Machine, name: &str, path: &str) -> String {
    let output =
        machine.command(&["cp", &format!("{name}:{path}"), "-"]).output().expect("davit starts");
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    let mut archive = tar::Archive::new(&output.stdout[..]);
    let mut entry = archive.entries().expect("a tar").next().expect("an entry").expect("whole");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut entry, &mut text).expect("text");
    text
}

fn with_input(machine: &Machine, arguments: &[&str], input: &[u8]) -> Outcome {
    let mut child = machine
        .command(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("davit starts");
    // It may refuse before it has read everything.
    drop(child.stdin.take().expect("piped").write_all(input));
    Outcome::from(child.wait_with_output().expect("it ends"))
}

#[test]
fn files_and_directories_both_ways() {
    let script = "mkdir -p /d/s; echo one >/d/f; ln /d/f /d/h; ln -s f /d/l; echo two >/d/s/g
        chown 7:8 /d/f; chmod 640 /d/f; echo old >/file; mkdir /in; touch /ready";
    let Some((machine, host)) = machine(script) else { return };
    for name in STATES {
        let host = host.join(name);
        fs::create_dir(&host).expect("made");
        let from = |path: &str| format!("{name}:{path}");
        let to = |path: &str| format!("{}/{path}", text(&host));
        // A missing destination takes the name, an existing one gets the directory, `/.` its content.
        machine.ok(&["cp", &from("/d"), &to("new")]);
        machine.ok(&["cp", &from("d/"), &to("new")]);
        fs::create_dir(host.join("flat")).expect("made");
        machine.ok(&["cp", "-a", &from("/d/."), &to("flat")]);
        for directory in ["new", "new/d", "flat"] {
            let directory = host.join(directory);
            assert_eq!((read(directory.join("f")), read(directory.join("s/g"))), {
                ("one\n".to_owned(), "two\n".to_owned())
            });
            assert_eq!(fs::read_link(directory.join("l")).expect("a link"), Path::new("f"));
            let (first, second) = (directory.join("f"), directory.join("h"));
            let inode = |path: &Path| fs::metadata(path).expect("there").ino();
            assert_eq!(inode(&first), inode(&second), "one file");
            assert_eq!(fs::metadata(&first).expect("there").mode() & 0o7777, 0o640);
        }
        let owner = |path: &str| fs::metadata(host.join(path)).expect("there").uid();
        assert_eq!((owner("new/f"), owner("flat/f")), (0, 7));
        machine.ok(&["cp", &from("/d/l"), &to("link")]);
        assert_eq!(fs::read_link(host.join("link")).expect("a link"), Path::new("f"));
        machine.ok(&["cp", "-L", &from("/d/l"), &to("followed")]);
        assert_eq!(read(host.join("followed")), "one\n");

        symlink("new/f", host.join("there")).expect("linked");
        machine.ok(&["cp", "-L", &to("there"), &from("/in/followed")]);
        assert_eq!(content(&machine, name, "/in/followed"), "one\n");

        machine.ok(&["cp", &to("new/s"), &from("/in")]);
        machine.ok(&["cp", &to("new/s/."), &from("/in/n")]);
        let quiet = machine.run(&["cp", "-q", &to("new/f"), &from("/file")]);
        assert_eq!((quiet.code, quiet.stderr.as_str()), (0, ""));
        let unasked = machine.run(&["cp", &to("new/f"), &from("/file")]);
        assert_eq!((unasked.code, unasked.stderr.as_str()), (0, ""), "no terminal is there");
        let told = machine.run(&["cp", "-q=false", &to("new/f"), &from("/in/")]);
        assert!(told.stderr.starts_with("Successfully copied "), "{}", told.stderr);
        for (path, expected) in
            [("/in/s/g", "two\n"), ("/in/n/g", "two\n"), ("/file", "one\n"), ("/in/f", "one\n")]
        {
            assert_eq!(content(&machine, name, path), expected, "{name}:{path}");
        }
    }
    machine.ok(&["start", "stopped"]);
    assert_eq!(machine.ok(&["exec", "running", "cat", "/in/s/g"]), "two");
}

#[test]
fn refusals_in_the_words_of_docker() {
    let Some((machine, host)) = machine("mkdir /d; touch /f /ready") else { return };
    fs::create_dir(host.join("dir")).expect("made");
    fs::write(host.join("file"), "x").expect("written");
    let at = |path: &str| format!("{}/{path}", text(&host));
    for name in STATES {
        let of = |path: &str| format!("{name}:{path}");
        let none = |path: &str| format!("Could not find the file {path} in container {name}");
        for (from, to, words) in [
            (of("/none"), at("x"), none("/none")),
            (at("none"), of("/d"), format!("lstat {}: no such file or directory", at("none"))),
            (of("/d"), at("file"), "cannot copy directory".to_owned()),
            (at("dir"), of("/f"), "cannot copy directory".to_owned()),
            (of("/f"), at("x/"), "no such directory".to_owned()),
            (at("file"), of("/x/"), "no such directory".to_owned()),
            (at("file"), of("/none/x"), none("/none")),
            (at("file"), of("/f/x"), "not a directory".to_owned()),
            (of("/f"), of("/d"), "copying between containers is not supported".to_owned()),
            (at("file"), at("x"), "must specify at least one container source".to_owned()),
            ("nobody:/f".to_owned(), at("x"), "No such container: nobody".to_owned()),
            (String::new(), of("/d"), "source can not be empty".to_owned()),
            (of("/f"), of(""), "destination can not be empty".to_owned()),
            ("-".to_owned(), of("/f"), format!("destination \"{name}:/f\" must be a directory")),
        ] {
            let outcome = machine.run(&["cp", &from, &to]);
            assert!(
                outcome.code == 1 && outcome.stderr.contains(&words),
                "{from} {to}: {}",
                outcome.stderr
            );
        }
    }
}

#[test]
fn archives_on_the_standard_streams() {
    let Some((machine, host)) = machine("mkdir /d /e; echo deep >/d/f; touch /ready") else {
        return;
    };
    for name in STATES {
        let output =
            machine.command(&["cp", &format!("{name}:/d"), "-"]).output().expect("davit starts");
        let mut archive = tar::Archive::new(&output.stdout[..]);
        let names: Vec<_> = archive
            .entries()
            .expect("a tar")
            .map(|entry| entry.expect("whole").path().expect("a path").into_owned())
            .collect();
        assert_eq!(names, [Path::new("d/"), Path::new("d/f")]);
        let into = format!("{name}:/e");
        let outcome = with_input(&machine, &["cp", "-", &into], &output.stdout);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert_eq!(content(&machine, name, "/e/d/f"), "deep\n");
        let cut = with_input(&machine, &["cp", "-", &into], &output.stdout[..700]);
        assert_eq!(cut.code, 1, "a torn archive is told");
    }
    assert!(fs::read_dir(host).expect("there").next().is_none());
}

#[test]
fn volumes_and_binds_are_seen_whether_it_runs() {
    let Some(machine) = Machine::new() else { return };
    let at = |name: &str| machine.davit().dir().join(name);
    fs::create_dir(at("bound")).expect("made");
    fs::write(at("bound/old"), "bound").expect("written");
    fs::write(at("single"), "single").expect("written");
    let bind = format!("{}:/b/in", text(&at("bound")));
    let single = format!("{}:/b/in/single", text(&at("single")));
    let mounts = ["-v", "data:/d", "-v", &bind, "-v", &single, "-v", "data:/r:ro"];
    let command = ["--name", "holder", "busybox", "sleep", "900"];
    machine.ok(&[&["run", "-d"][..], &mounts, &command].concat());
    for state in STATES {
        if state == "stopped" {
            machine.ok(&["kill", "holder"]);
            assert_eq!(machine.ok(&["wait", "holder"]), "137");
        }
        fs::write(at("file"), state).expect("written");
        for target in ["/d/f", "/b/in/new"] {
            machine.ok(&["cp", text(&at("file")), &format!("holder:{target}")]);
        }
        assert_eq!(machine.ok(&["run", "--rm", "-v", "data:/x", "busybox", "cat", "/x/f"]), state);
        assert_eq!(read(at("bound/new")), state);
        for (path, expected) in
            [("/d/f", state), ("/r/f", state), ("/b/in/old", "bound"), ("/b/in/single", "single")]
        {
            assert_eq!(content(&machine, "holder", path), expected, "{state} {path}");
        }
        let refused = machine.run(&["cp", text(&at("file")), "holder:/r/f"]);
        assert_eq!(refused.code, 1);
        assert!(
            refused.stderr.contains("mounted volume is marked read-only"),
            "{state}: {}",
            refused.stderr
        );
    }
    // An empty volume shows what a start would fill it with.
    machine.ok(&["create", "--name", "fresh", "-v", "filled:/bin", "busybox"]);
    machine.ok(&["cp", "fresh:/bin/sh", text(&at("shell"))]);
    let mounts = read("/proc/self/mounts");
    assert!(!mounts.contains(text(machine.davit().dir())), "{mounts}");
}

/// A container that puts a link where its volume was mounted gets the volume mounted inside.
#[test]
fn mounts_of_a_stopped_container_stay_inside() {
    let Some(machine) = Machine::new() else { return };
    let victim = machine.davit().dir().join("victim");
    fs::create_dir(&victim).expect("made");
    let file = machine.davit().dir().join("file");
    fs::write(&file, "kept").expect("written");
    for (name, link) in
        [("abs", text(&victim).to_owned()), ("up", format!("../../../../../..{}", text(&victim)))]
    {
        let script = format!("mv /m /old; mkdir -p {}; ln -s {link} /m", text(&victim));
        let volume = format!("{name}:/m/sub");
        machine.ok(&["run", "--name", name, "-v", &volume, "busybox", "sh", "-ec", &script]);
        machine.ok(&["cp", text(&file), &format!("{name}:/m/sub/f")]);
        let volume = format!("{name}:/x");
        assert_eq!(machine.ok(&["run", "--rm", "-v", &volume, "busybox", "cat", "/x/f"]), "kept");
        let inside = format!("{}/sub/f", text(&victim));
        assert_eq!(content(&machine, name, &inside), "kept", "the link leads to it inside");
    }
    assert!(fs::read_dir(&victim).expect("there").next().is_none(), "nothing was made outside");
}

#[test]
fn a_read_only_root_is_not_written() {
    let Some(machine) = Machine::new() else { return };
    let file = machine.davit().dir().join("file");
    fs::write(&file, "kept").expect("written");
    let command = ["--read-only", "-v", "data:/d", "busybox", "sleep", "900"];
    machine.ok(&[&["run", "-d", "--name", "running"][..], &command].concat());
    machine.ok(&[&["create", "--name", "stopped"][..], &command].concat());
    for name in STATES {
        let archive = machine.command(&["cp", &format!("{name}:/bin"), "-"]).output();
        let archive = archive.expect("davit starts");
        assert!(archive.status.success());
        for target in ["/tmp", "/new"] {
            let into = format!("{name}:{target}");
            let refused = machine.run(&["cp", text(&file), &into]);
            assert_eq!(refused.code, 1, "{into}");
            let words = "container rootfs is marked read-only";
            assert!(refused.stderr.contains(words), "{into}: {}", refused.stderr);
        }
        let refused = with_input(&machine, &["cp", "-", &format!("{name}:/")], &archive.stdout);
        assert!(refused.code == 1 && refused.stderr.contains("rootfs is marked read-only"));
        machine.ok(&["cp", text(&file), &format!("{name}:/d/{name}")]);
        assert_eq!(content(&machine, name, &format!("/d/{name}")), "kept");
    }
}

/// Links of a hostile container never lead a copy to the machine's files.
#[test]
fn links_of_a_container_stay_inside() {
    let Some(machine) = Machine::new() else { return };
    let victim = machine.davit().dir().join("victim");
    fs::create_dir(&victim).expect("made");
    fs::write(victim.join("secret"), "host").expect("written");
    let path = text(&victim).to_owned();
    // The container has a directory of the same path, so that a link resolved inside works.
    let script = format!(
        "mkdir -p {path}; echo inside >{path}/secret
         ln -s {path} /abs; ln -s ../../../../../../../../..{path} /up; ln -s {path}/secret /f
         ln -s /proc/1/root{path} /magic; mkdir /tree; ln -s {path} /tree/sub; touch /ready
         [ $0 = stopped ] || exec sleep 900"
    );
    for name in STATES {
        let state = if name == "running" { "-d" } else { "-i" };
        machine.ok(&["run", state, "--name", name, "busybox", "sh", "-ec", &script, name]);
    }
    until("the script is done", || {
        machine.run(&["exec", "running", "test", "-e", "/ready"]).code == 0
    });
    let new = machine.davit().dir().join("new");
    fs::write(&new, "new").expect("written");
    for name in STATES {
        for link in ["abs", "up"] {
            assert_eq!(content(&machine, name, &format!("/{link}/secret")), "inside\n");
            let inner = format!("{name}:/{link}/");
            assert_eq!(machine.run(&["cp", text(&new), &inner]).code, 0, "{name} {link}");
            let inner = format!("{name}:/{link}/{link}");
            assert_eq!(machine.run(&["cp", text(&new), &inner]).code, 0, "{name} {link}");
            assert_eq!(content(&machine, name, &format!("{path}/{link}")), "new");
        }
        assert_eq!(machine.run(&["cp", text(&new), &format!("{name}:/f")]).code, 0);
        assert_eq!(content(&machine, name, &format!("{path}/secret")), "new");
        let magic = machine.run(&["cp", &format!("{name}:/magic/secret"), "-"]);
        assert_ne!(magic.code, 0, "{}", magic.stdout);
        assert_ne!(machine.run(&["cp", text(&new), &format!("{name}:/magic/x")]).code, 0);

        // A link of the container as a directory's name, then an archive that goes through it.
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(3);
        header.set_mode(0o644);
        archive.append_data(&mut header, "sub/planted", &b"new"[..]).expect("appended");
        let archive = archive.into_inner().expect("finished");
        let into = format!("{name}:/tree");
        let outcome = with_input(&machine, &["cp", "-", &into], &archive);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        assert_eq!(content(&machine, name, &format!("{path}/planted")), "new");
    }
    assert_eq!(read(victim.join("secret")), "host");
    assert_eq!(fs::read_dir(&victim).expect("there").count(), 1, "nothing was planted");
}

/// A copy to the machine follows no link below its destination, and leaves set-id bits behind.
#[test]
fn what_is_copied_out_stays_in_its_place() {
    let script = "mkdir -p /d/sub; echo evil >/d/sub/f; chmod 4755 /d/sub/f; touch /ready";
    let Some((machine, host)) = machine(script) else { return };
    let victim = host.join("victim");
    fs::create_dir(&victim).expect("made");
    for name in STATES {
        let target = host.join(name);
        fs::create_dir(&target).expect("made");
        symlink(&victim, target.join("sub")).expect("linked");
        let outcome = machine.run(&["cp", &format!("{name}:/d/."), text(&target)]);
        assert!(
            outcome.code == 1 && outcome.stderr.contains("cannot overwrite non-directory"),
            "{}",
            outcome.stderr
        );
        fs::remove_file(target.join("sub")).expect("removed");
        machine.ok(&["cp", &format!("{name}:/d/."), text(&target)]);
        let mode = fs::metadata(target.join("sub/f")).expect("there").permissions().mode();
        assert_eq!(mode & 0o7777, 0o755);
    }
    assert!(fs::read_dir(victim).expect("there").next().is_none());
}

/// Attributes go both ways, also binary ones; capabilities to the machine only with their owner.
#[test]
fn extended_attributes_are_kept() {
    let Some((machine, host)) = machine("mkdir /in; touch /ready") else { return };
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty())
    };
    let get = |path: &Path, name: &str| {
        let mut buffer = [0; 64];
        let length = rustix::fs::getxattr(path, name, &mut buffer).ok()?;
        Some(buffer[..length].to_vec())
    };
    let (user, capability) = ("user.davit", "security.capability");
    let (line, capable) = (b"a\nb\0", b"\x01\0\0\x02\x0a\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let tree = host.join("tree");
    fs::create_dir(&tree).expect("made");
    fs::write(tree.join("f"), "x".repeat(700)).expect("written");
    fs::write(tree.join("g"), "plain").expect("written");
    if set(&tree, user, b"directory").is_err() || set(&tree.join("f"), user, line).is_err() {
        davit_test::skip("extended attributes on the temporary directory");
        return;
    }
    set(&tree.join("f"), capability, capable).expect("root may");
    for name in STATES {
        machine.ok(&["cp", text(&tree), &format!("{name}:/in")]);
        let outcome = machine.command(&["cp", &format!("{name}:/in/tree"), "-"]).output();
        let archive = outcome.expect("davit starts").stdout;
        let record = b"SCHILY.xattr.user.davit=a\nb\0\n";
        assert!(archive.windows(record.len()).any(|part| part == record), "{name}");
        assert_eq!(with_input(&machine, &["cp", "-", &format!("{name}:/")], &archive).code, 0);
        for (flag, kept) in [("-a", Some(capable.to_vec())), ("-q", None)] {
            let out = host.join(format!("{name}{flag}"));
            machine.ok(&["cp", flag, &format!("{name}:/tree"), text(&out)]);
            assert_eq!(get(&out, user).as_deref(), Some(&b"directory"[..]), "{name} {flag}");
            assert_eq!(get(&out.join("f"), user).as_deref(), Some(&line[..]), "{name} {flag}");
            assert_eq!(get(&out.join("f"), capability), kept, "{name} {flag}");
            assert_eq!(get(&out.join("g"), user), None, "{name} {flag}");
            assert_eq!((read(out.join("f")).len(), read(out.join("g")).len()), (700, 5));
        }
    }
}

/// Names of an archive that lead up are refused.
#[test]
fn archives_that_lead_out_are_refused() {
    let Some((machine, _)) = machine("mkdir -p /a/b; touch /ready") else { return };
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_mode(0o644);
    header.as_gnu_mut().expect("GNU").name[..8].copy_from_slice(b"../stray");
    header.set_cksum();
    archive.append(&header, std::io::empty()).expect("appended");
    let archive = archive.into_inner().expect("finished");
    for name in STATES {
        let outcome = with_input(&machine, &["cp", "-", &format!("{name}:/a/b")], &archive);
        assert!(
            outcome.code == 1 && outcome.stderr.contains("outside of the destination"),
            "{}",
            outcome.stderr
        );
        assert_eq!(machine.run(&["cp", &format!("{name}:/a/stray"), "-"]).code, 1);
    }
}
