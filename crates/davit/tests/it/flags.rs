//! Flags of `run` and `create`, one table for each theme: what the container sees, and what is
//! refused in Docker's words (those of Docker 26 where none are davit's own).

mod codes;
mod files;
mod limits;
mod listing;
mod logs;
mod names;
mod security;

use crate::machine::Machine;

/// Flags, a shell line in the container, and what it prints.
type Seen<'a> = (&'a [&'a str], &'a str, &'a str);
/// Flags, and a part of the error.
type Refused<'a> = (&'a [&'a str], &'a str);

/// Runs each line in a container without network of its own.
fn see(machine: &Machine, cases: &[Seen<'_>]) {
    for (flags, line, expected) in cases {
        let base = ["run", "--rm", "--network", "none"];
        let outcome = machine.run(&[&base, *flags, &["busybox", "sh", "-c", line]].concat());
        let seen = (outcome.code, outcome.stdout.trim_end());
        assert_eq!(seen, (0, *expected), "{flags:?} {line}: {}", outcome.stderr);
    }
}

/// Each must end with 125 and leave no container.
fn refuse(machine: &Machine, cases: &[Refused<'_>]) {
    refuse_in(machine, cases);
    assert_eq!(machine.ok(&["ps", "-aq"]), "", "what is refused leaves nothing");
}

/// Each must end with 125.
fn refuse_in(machine: &Machine, cases: &[Refused<'_>]) {
    for (flags, expected) in cases {
        let base = ["run", "--network", "none", "--pull", "never"];
        let outcome = machine.run(&[&base, *flags, &["busybox", "true"]].concat());
        assert_eq!(outcome.code, 125, "{flags:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(expected), "{flags:?}: {}", outcome.stderr);
    }
}

/// A file beside the roots, by its path.
fn file(machine: &Machine, name: &str, content: &str) -> String {
    let path = machine.davit().dir().join(name);
    std::fs::write(&path, content).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}
