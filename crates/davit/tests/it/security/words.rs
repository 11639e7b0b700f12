//! Text that a hostile image or container makes others show or keep.

use davit_test::until;

use super::Lair;

/// Sets a terminal's title, then colours what follows.
const ESCAPE: &str = "\x1b]0;owned\x07\x1b[31m";

#[test]
fn lists_neither_steer_a_terminal_nor_gain_rows() {
    let Some(lair) = Lair::new() else { return };
    let label = format!("LABEL a=\"x{ESCAPE}\"");
    let command = format!("CMD [\"sh\", \"-c\", \"sleep 600 # {ESCAPE}\"]");
    let command = command.replace('\x1b', "\\u001b").replace('\x07', "\\u0007");
    lair.image("loud", "true", &[&label, &command]);
    let twice = "a=b\nINJECTED   row";
    lair.ok(&["run", "-d", "--name", "loud", "--network", "none", "--label", twice, "loud"]);
    let process = format!("printf '{ESCAPE}\\n' >/dev/null; cp /bin/busybox '/{ESCAPE}'; ");
    let process = format!("{process} exec '/bin/sh' -c 'sleep 600' '{ESCAPE}'");
    lair.ok(&["exec", "-d", "loud", "sh", "-c", &process]);
    until("it sleeps", || lair.run(&["top", "loud"]).stdout.lines().count() > 2);
    let lists: [&[&str]; 8] = [
        &["ps", "-a", "--no-trunc"],
        &["ps", "-a", "--format", "table {{.ID}}\t{{.Labels}}\t{{.Command}}"],
        &["top", "loud"],
        &["images", "--no-trunc"],
        &["history", "--no-trunc", "loud"],
        &["system", "df", "-v"],
        &["inspect", "loud"],
        &["image", "inspect", "loud"],
    ];
    for list in lists {
        let shown = lair.ok(list);
        assert!(!shown.contains(['\x1b', '\x07']), "{list:?}: {shown:?}");
        assert!(!shown.lines().any(|line| line.starts_with("INJECTED")), "{list:?}: {shown}");
    }
    assert!(lair.ok(&["ps", "-a", "--no-trunc"]).contains("\\x1b]0;owned\\x07"));
    // Errors repeat what was asked.
    let asked = lair.run(&["inspect", &format!("no{ESCAPE}")]);
    assert!(asked.code != 0 && !asked.stderr.contains('\x1b'), "{asked:?}");
}

/// Environment and labels with line ends are one variable and one label.
#[test]
fn line_ends_stay_within_their_value() {
    let Some(lair) = Lair::new() else { return };
    let value = "FIRST=1\nSECOND=2";
    let line = "tr '\\0' '|' </proc/self/environ; test -z \"$SECOND\" && echo one";
    let run = ["run", "--network", "none", "--name", "lines", "-e", value, "--label", "k=v\nk2=v2"];
    let seen = lair.ok(&[&run[..], &["busybox", "sh", "-c", line]].concat());
    assert!(seen.contains("|FIRST=1\nSECOND=2|") && seen.ends_with("one"), "{seen:?}");
    let labels = lair.ok(&["inspect", "-f", "{{json .Config.Labels}}", "lines"]);
    assert_eq!(labels, r#"{"k":"v\nk2=v2"}"#);
    assert_eq!(lair.ok(&["ps", "-aq", "--filter", "label=k2=v2"]), "");
    assert_ne!(lair.ok(&["ps", "-aq", "--filter", "label=k"]), "");
    lair.image("lines", "true", &["ENV FIRST=\"1\\\n2\""]);
    let hostname = lair.run(&["run", "--rm", "--hostname", "a\n127.0.0.1 evil", "busybox", "true"]);
    assert_ne!(hostname.code, 0, "{hostname:?}");
    let host = lair.run(&["run", "--rm", "--add-host", "a\nb:127.0.0.1", "busybox", "true"]);
    assert_ne!(host.code, 0, "{host:?}");
}

/// A container that never stops talking fills its log's share of the disk and no more.
#[test]
fn a_flood_of_output_is_bounded() {
    let Some(lair) = Lair::new() else { return };
    let flood =
        format!("yes '{ESCAPE}{}' | head -c 4000000; echo; echo last; sleep 600", "x".repeat(90));
    let options = ["--log-opt", "max-size=100k", "--log-opt", "max-file=3"];
    let start = ["run", "-d", "--network", "none", "--name", "flood"];
    let id = lair.ok(&[&start[..], &options, &["busybox", "sh", "-c", &flood]].concat());
    // While it is written no reader sees more than it asked for.
    until("all is written", || {
        let tail = lair.run(&["logs", "--tail", "2", "flood"]).stdout;
        assert!(tail.lines().count() <= 2, "{}", tail.lines().count());
        tail.ends_with("\nlast\n")
    });
    until("all is there", || lair.run(&["logs", "--tail", "1", "flood"]).stdout == "last\n");
    let folder = lair.machine.davit().root().join("containers").join(id);
    let sizes = std::fs::read_dir(folder).unwrap().flatten().filter_map(|entry| {
        let is_log = entry.file_name().to_string_lossy().starts_with("log");
        is_log.then(|| entry.metadata().unwrap().len())
    });
    let sizes: Vec<u64> = sizes.collect();
    assert!(sizes.len() <= 3 && sizes.iter().sum::<u64>() <= 320_000, "{sizes:?}");
    // A line without an end is split, not collected.
    let endless = "head -c 3000000 /dev/zero | tr '\\0' y";
    let seen =
        lair.machine.ok(&["run", "--rm", "--network", "none", "busybox", "sh", "-c", endless]);
    assert_eq!(seen.len(), 3_000_000);
}
