//! `--log-driver` and `--log-opt`.

use super::refuse;
use crate::machine::Machine;

/// The log file of a container.
fn log(machine: &Machine, name: &str) -> std::path::PathBuf {
    machine.ok(&["inspect", "-f", "{{.LogPath}}", name]).into()
}

#[test]
fn files_rotate_by_size() {
    let Some(machine) = Machine::new() else { return };
    let line = "i=0; while [ $i -lt 400 ]; do echo line $i of a long story; i=$((i+1)); done";
    machine.ok(&[
        "run",
        "--name",
        "rot",
        "--network",
        "none",
        "--log-opt",
        "max-size=4k",
        "--log-opt",
        "max-file=3",
        "busybox",
        "sh",
        "-c",
        line,
    ]);
    let newest = log(&machine, "rot");
    let numbered = |number: u32| std::path::PathBuf::from(format!("{}.{number}", newest.display()));
    for file in [newest.clone(), numbered(1), numbered(2)] {
        let size = std::fs::metadata(&file).expect("kept").len();
        assert!(size > 0 && size <= 4096, "{} has {size} bytes", file.display());
    }
    assert!(!numbered(3).exists(), "three files are kept");
    let shown = machine.ok(&["logs", "rot"]);
    assert!(shown.ends_with("line 399 of a long story"), "{shown}");
    assert!(shown.lines().count() < 400 && shown.lines().count() > 50, "the oldest are gone");
    assert_eq!(machine.ok(&["logs", "--tail", "1", "rot"]), "line 399 of a long story");
}

#[test]
fn attributes_of_labels_environment_and_tag() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&[
        "run",
        "--name",
        "attrs",
        "--network",
        "none",
        "--log-opt",
        "labels=l1,l2",
        "--log-opt",
        "env=E1",
        "--log-opt",
        "env-regex=^F",
        "--log-opt",
        "tag=t-{{.Name}}-{{.ImageName}}",
        "--label",
        "l1=x",
        "--label",
        "l3=z",
        "-e",
        "E1=1",
        "-e",
        "F2=2",
        "-e",
        "G=3",
        "busybox",
        "echo",
        "hello",
    ]);
    let details = machine.ok(&["logs", "--details", "attrs"]);
    assert_eq!(details, "E1=1,F2=2,l1=x,tag=t-attrs-busybox hello");
    let line = std::fs::read_to_string(log(&machine, "attrs")).expect("a log");
    let expected = concat!(
        r#"{"log":"hello\n","stream":"stdout","#,
        r#""attrs":{"E1":"1","F2":"2","l1":"x","tag":"t-attrs-busybox"},"time":""#
    );
    assert!(line.starts_with(expected), "{line}");
    let run = ["run", "--name", "plain", "--network", "none", "busybox", "echo", "hello"];
    machine.ok(&run);
    assert_eq!(machine.ok(&["logs", "--details", "plain"]), " hello");
}

#[test]
fn drivers() {
    let Some(machine) = Machine::new() else { return };
    let run = |name: &str, driver: &str| {
        let flags = ["run", "--name", name, "--network", "none", "--log-driver", driver];
        assert_eq!(machine.ok(&[&flags[..], &["busybox", "echo", "seen"]].concat()), "seen");
    };
    run("local", "local");
    assert_eq!(machine.ok(&["logs", "local"]), "seen");
    run("none", "none");
    let none = machine.run(&["logs", "none"]);
    assert!(none.code == 1 && none.stderr.contains("does not support reading"), "{}", none.stderr);
    machine.ok(&["rm", "local", "none"]);
    refuse(
        &machine,
        &[
            (&["--log-driver", "nosuch"], "no log driver named 'nosuch'"),
            (
                &["--log-driver", "none", "--log-opt", "max-size=1k"],
                "invalid logging opts for driver none",
            ),
            (&["--log-opt", "max-size=bogus"], "invalid size: 'bogus'"),
            (&["--log-opt", "max-file=0"], "max-file"),
            (&["--log-opt", "max-file=4000000000"], "max-file"),
            (&["--log-opt", "bogus=1"], "unknown log opt 'bogus' for json-file log driver"),
            (&["--log-opt", "tag={{.Bogus}}"], "{{.Bogus}}"),
            (&["--log-opt", "labels-regex=("], "labels-regex"),
        ],
    );
}
