//! Root filesystems in each form that a setting can force: containers and builds behave the same.

use davit_test::{Davit, find_tool, need_root, need_tool, until};

use crate::{davit, machine::Machine};

pub(crate) const FORMS: [&str; 4] = ["erofs", "dirs", "dirs-volume", "copy"];

pub(crate) fn configure(davit: &Davit, text: &str) {
    let folder = davit.dir().join(".config/davit");
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::write(folder.join("config.toml"), text).unwrap();
}

pub(crate) fn force(davit: &Davit, form: &str) {
    let volume = davit.dir().join("volume");
    let upper = format!("upper = {:?}\n", volume.display().to_string());
    configure(davit, &format!("[store]\nsnapshot = {form:?}\n{upper}"));
}

const DOCKERFILE: &str = "FROM busybox
RUN rm /etc/passwd && mkdir -p /new/dir && echo one > /new/dir/file && chmod 700 /tmp
RUN echo two > /new/dir/file && ln /new/dir/file /new/link && rm -r /var && ln -s /new /var
";

#[test]
fn containers_and_builds_are_the_same_in_every_form() {
    let Some(machine) = Machine::new() else { return };
    let davit = machine.davit();
    let context = davit.dir().join("context");
    fs_err::create_dir(&context).unwrap();
    fs_err::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
    let failing = davit.dir().join("Failing");
    fs_err::write(&failing, "FROM busybox\nRUN touch /new && false\n").unwrap();
    let context = context.to_str().unwrap();
    let mut told = Vec::new();
    let info = machine.ok(&["info"]);
    // The one that this machine chooses, and those behind it, work here.
    let best = FORMS.iter().position(|form| info.contains(&format!("Snapshot form: {form}\n")));
    for form in &FORMS[best.unwrap()..] {
        force(davit, form);
        assert!(machine.ok(&["info"]).contains(&format!("Snapshot form: {form}\n")));
        let (box_name, image) = (format!("box-{form}"), format!("built:{form}"));
        let script = "echo a > /a; rm /etc/group; mkdir /d; echo b > /d/b; chmod 1777 /home";
        machine.ok(&["run", "--name", &box_name, "busybox", "sh", "-c", script]);
        let difference = machine.ok(&["diff", &box_name]);
        let script = "cat /a /d/b; rm /a; echo again > /d/b";
        let committed = format!("committed:{form}");
        machine.ok(&["commit", &box_name, &committed]);
        let kept = machine.ok(&["run", "--rm", &committed, "sh", "-c", script]);
        let written = machine.ok(&["ps", "-as", "--format", "{{.Size}}"]);
        assert!(!written.starts_with("0B"), "{form}: {written}");
        machine.ok(&["rm", &box_name]);
        machine.ok(&["run", "-d", "--rm", "busybox", "touch", "/new"]);
        until("it is removed", || machine.ok(&["ps", "-aq"]).is_empty());
        machine.ok(&["build", "-q", "--no-cache", "-t", &image, context]);
        let list = "find / -xdev | sort | grep -v -e ^/dev -e ^/proc -e ^/sys; cat /new/link";
        let files = machine.ok(&["run", "--rm", &image, "sh", "-c", list]);
        told.push((form, difference, kept, files));
        let outcome = machine.run(&["build", "-q", "-f", failing.to_str().unwrap(), context]);
        assert_eq!(outcome.code, 1, "{form}: {}", outcome.stderr);
    }
    let volume = fs_err::read_dir(davit.dir().join("volume")).unwrap();
    let left: Vec<_> = volume.map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "on the volume: {left:?}");
    let (_, difference, kept, files) = &told[0];
    assert_eq!(kept, "a\nb");
    assert!(difference.contains("D /etc/group") && difference.contains("A /d/b"), "{difference}");
    assert!(files.ends_with("two") && !files.contains("/etc/passwd"), "{files}");
    for (form, other_difference, other_kept, other_files) in &told[1..] {
        assert_eq!(other_difference, difference, "{form}");
        assert_eq!(other_kept, kept, "{form}");
        assert_eq!(other_files, files, "{form}");
    }
}

#[test]
fn changes_in_memory_are_told_while_they_last() {
    let Some(machine) = Machine::new() else { return };
    configure(machine.davit(), "[store]\nsnapshot = \"dirs-volume\"\n");
    machine.ok(&["create", "--name", "new", "busybox"]);
    assert_eq!(machine.ok(&["diff", "new"]), "");
    machine.ok(&["run", "-d", "--name", "box", "busybox", "sh", "-c", "echo a > /a; sleep 600"]);
    let sees = || machine.ok(&["diff", "box"]).contains("A /a");
    until("it is written", sees);
    machine.ok(&["kill", "box"]);
    for verb in [&["diff", "box"][..], &["commit", "box"], &["export", "box", "-o", "/dev/null"]] {
        let outcome = machine.run(verb);
        assert_eq!(outcome.code, 1, "{verb:?}");
        assert!(outcome.stderr.contains("what container box changed lay in memory"), "{verb:?}");
        assert!(outcome.stderr.contains("hint: set `upper`"), "{}", outcome.stderr);
    }
}

/// strace lets the kernel answer with the file systems that this machine cannot mount.
#[test]
fn a_root_on_a_network_file_system_is_refused() {
    if !need_root() || need_tool("strace").is_none() {
        return;
    }
    let names = [("6969", "NFS"), ("517b", "SMB"), ("ff534d42", "CIFS"), ("01021997", "9p")];
    for form in ["", "erofs", "dirs", "copy"] {
        for (magic, name) in names {
            let davit = davit();
            if !form.is_empty() {
                force(&davit, form);
            }
            let number = u64::from_str_radix(magic, 16).unwrap();
            let bytes: String = number.to_le_bytes().iter().map(|b| format!("{b:02x}")).collect();
            let poke = format!("inject=statfs:poke_exit=@arg2={bytes}");
            let inner = davit.command(["info"]);
            let mut command = std::process::Command::new(find_tool("strace").unwrap());
            command.args(["-f", "-qqq", "-o", "/dev/null", "-e", "trace=statfs", "-e", &poke]);
            command.arg(inner.get_program()).args(inner.get_args());
            command.envs(inner.get_envs().filter_map(|(key, value)| Some((key, value?))));
            let outcome = davit_test::Outcome::from(command.output().unwrap());
            let told = format!("{form} {name}: {}{}", outcome.stdout, outcome.stderr);
            assert_eq!(outcome.code, 1, "{told}");
            assert!(told.contains(&format!("lies on {name}")), "{told}");
            assert!(told.contains("hint: davit --root DIR"), "{told}");
        }
    }
}
