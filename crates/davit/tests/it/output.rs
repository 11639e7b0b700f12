//! What the command line says: errors word for word, progress without a terminal, `NO_COLOR`, JSON.

use std::{fmt::Write as _, process::Command};

use davit_test::{Outcome, filter};

use crate::{davit, machine::Machine};

/// Compares with the recorded words; what differs from run to run is replaced.
fn compare(name: &str, machine: &Machine, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_snapshot_path("../words");
    settings.add_filter(r"\b[0-9a-f]{12}\b", "[ID]");
    let text = filter(text, machine.davit().dir());
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// Command lines with their exit code and standard error.
fn told(machine: &Machine, lines: &[&[&str]]) -> String {
    let mut text = String::new();
    for line in lines {
        let outcome = machine.run(line);
        write!(text, "$ davit {}\n{}[{}]\n\n", line.join(" "), outcome.stderr, outcome.code)
            .unwrap();
    }
    text
}

#[test]
fn usage_errors_word_for_word() {
    let Some(machine) = Machine::new() else { return };
    let lines: [&[&str]; 12] = [
        &["rnu", "busybox"],
        &["container", "strat", "x"],
        &["run", "--privilegd", "busybox"],
        &["run"],
        &["ps", "--al"],
        &["tag", "busybox"],
        &["pull", "--progress", "loud", "busybox"],
        &["copy", "--bad"],
        &["run", "--memory", "lots", "busybox"],
        &["run", "--network", "nosuch", "busybox"],
        &["run", "-v", "rel:rel", "busybox"],
        &["build", "--no-cach", "."],
    ];
    compare("usage", &machine, &told(&machine, &lines));
}

#[test]
fn errors_word_for_word() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["create", "--name", "taken", "-v", "used:/d", "busybox"]);
    machine.ok(&["run", "-d", "--name", "busy", "busybox", "sleep", "600"]);
    let lines: [&[&str]; 21] = [
        &["run", "--pull", "never", "nosuch"],
        &["rmi", "nosuch"],
        &["image", "inspect", "nosuch"],
        &["tag", "nosuch", "other"],
        &["start", "nosuch"],
        &["rm", "nosuch"],
        &["rm", "busy"],
        &["logs", "nosuch"],
        &["exec", "nosuch", "true"],
        &["exec", "taken", "true"],
        &["attach", "taken"],
        &["create", "--name", "taken", "busybox"],
        &["volume", "rm", "nosuch"],
        &["volume", "rm", "used"],
        &["network", "inspect", "nosuch"],
        &["pull", "BAD:name"],
        &["commit", "taken", "x:y:z"],
        &["run", "--rm", "busybox", "nosuch"],
        &["run", "--rm", "busybox", "/etc"],
        &["load", "-i", "/nosuch/archive.tar"],
        &["ps", "--filter", "bogus=1"],
    ];
    compare("errors", &machine, &told(&machine, &lines));
}

#[test]
fn a_port_in_use_word_for_word() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["run", "-d", "--name", "first", "-p", "8123:80", "busybox", "sleep", "600"]);
    let lines: [&[&str]; 1] = [&["run", "--rm", "-p", "8123:80", "busybox", "true"]];
    compare("port", &machine, &told(&machine, &lines));
}

#[test]
fn bad_dockerfiles_word_for_word() {
    let Some(machine) = Machine::new() else { return };
    let folder = machine.davit().dir().join("context");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("index.html"), "page").unwrap();
    std::fs::write(folder.join(".dockerignore"), "dist\n").unwrap();
    std::fs::create_dir(folder.join("dist")).unwrap();
    let cases = [
        ("verb", "FROM busybox\nRNU true\n"),
        ("flag", "FROM busybox\nCOPY --form=a b c\n"),
        ("stage", "FROM busybox AS base\nFROM base\nCOPY --from=9 /etc /e\n"),
        ("file", "FROM busybox\nCOPY index.htm /\n"),
        ("ignored", "FROM busybox\nCOPY dist /dist\n"),
        ("fails", "FROM busybox\nRUN echo words && exit 3\n"),
        ("empty", ""),
    ];
    let mut text = String::new();
    for (name, content) in cases {
        std::fs::write(folder.join(name), content).unwrap();
        let file = folder.join(name);
        let quiet = ["build", "-q", "-f", file.to_str().unwrap(), folder.to_str().unwrap()];
        let outcome = machine.run(&quiet);
        write!(text, "# {name}\n{}[{}]\n\n", outcome.stderr, outcome.code).unwrap();
    }
    compare("dockerfile", &machine, &text);
}

#[test]
fn who_may_not_gets_one_clear_line() {
    let Some(machine) = Machine::new() else { return };
    let Some(setpriv) = davit_test::need_tool("setpriv") else { return };
    let mut command = Command::new(setpriv);
    let binary = machine.davit().command(["ps"]);
    command.args(["--reuid=65534", "--clear-groups"]).arg(binary.get_program()).arg("ps");
    command.env("DAVIT_ROOT", machine.davit().root());
    let Ok(output) = command.output() else {
        return davit_test::skip("needs a binary that others can execute");
    };
    let outcome = Outcome::from(output);
    if matches!(outcome.code, 126 | 127) {
        return davit_test::skip("needs a binary that others can execute");
    }
    compare("permission", &machine, &format!("{}[{}]\n", outcome.stderr, outcome.code));
}

/// An archive with the machine's image.
fn archive(machine: &Machine) -> String {
    let path = machine.davit().dir().join("saved.tar").display().to_string();
    machine.ok(&["save", "-o", &path, "busybox"]);
    path
}

#[test]
fn progress_is_lines_or_json_without_a_terminal() {
    let Some(machine) = Machine::new() else { return };
    let path = archive(&machine);
    machine.ok(&["rmi", "-f", "busybox"]);
    let plain = machine.run(&["load", "-i", &path]);
    assert_eq!(plain.code, 0, "{}", plain.stderr);
    assert!(!plain.stderr.contains(['\x1b', '\r']), "{:?}", plain.stderr);
    for id in machine.ok(&["images", "-q"]).lines() {
        machine.run(&["rmi", "-f", id]);
    }
    let json = machine.run(&["load", "--progress", "json", "-i", &path]);
    assert_eq!(json.code, 0, "{}", json.stderr);
    assert!(json.stdout.starts_with("Loaded image: busybox"), "{}", json.stdout);
    let lines: Vec<serde_json::Value> =
        json.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(!lines.is_empty(), "there is progress");
    for line in &lines {
        assert!(line["status"].is_string(), "{line}");
    }
    let ended =
        lines.iter().filter(|line| line["status"] == "Pull complete" || line["id"].is_string());
    assert!(ended.count() > 0, "{}", json.stderr);
}

#[test]
fn colours_obey_the_environment_and_lists_are_json() {
    let Some(machine) = Machine::new() else { return };
    let mut command = machine.command(&["rm", "nosuch"]);
    let forced = Outcome::from(command.env("CLICOLOR_FORCE", "1").output().unwrap());
    assert!(forced.stderr.contains("\x1b["), "{:?}", forced.stderr);
    let mute = Outcome::from(command.env("NO_COLOR", "1").output().unwrap());
    assert!(!mute.stderr.contains('\x1b'), "{:?}", mute.stderr);
    machine.ok(&["create", "--name", "one", "-v", "vol:/v", "busybox"]);
    for verb in [
        &["ps", "-a"][..],
        &["images"],
        &["volume", "ls"],
        &["network", "ls"],
        &["container", "ls", "-a"],
    ] {
        let text = machine.ok(&[verb, &["--json"]].concat());
        let list: serde_json::Value = serde_json::from_str(&text).expect(&text);
        assert!(list.as_array().is_some_and(|list| !list.is_empty()), "{verb:?}: {text}");
    }
    let objects: [&[&str]; 6] = [
        &["inspect", "--json", "one"],
        &["container", "inspect", "--json", "one"],
        &["image", "inspect", "--json", "busybox"],
        &["volume", "inspect", "--json", "vol"],
        &["network", "inspect", "--json", "bridge"],
        &["history", "--json", "busybox"],
    ];
    for line in objects {
        let text = machine.ok(line);
        let found: serde_json::Value = serde_json::from_str(&text).expect(&text);
        assert!(found.is_array() || found.is_object(), "{text}");
    }
    assert_eq!(davit().run(["ps", "--json", "--format", "x"]).code, 125);
}
