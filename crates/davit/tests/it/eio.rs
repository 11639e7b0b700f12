//! A medium that fails: each system call of its kind fails in turn with EIO, in the real binary.
//! The error is clear, nothing that was reported is lost, and the next command just works.

use std::process::{Command, Stdio};

use davit_test::{Davit, Outcome, need_root, need_tool, noise, tar_of};

use crate::davit;

/// Kinds of calls, and the first so many of each kind that fail; strace counts by thread.
const FAULTS: &[(&str, usize)] = &[
    ("fsync,fdatasync", 10),
    ("pwrite64,pwritev", 8),
    ("write", 6),
    ("read,pread64", 8),
    ("rename,renameat,renameat2", 3),
    ("openat", 8),
    ("ftruncate,fallocate", 2),
];

struct Job {
    name: &'static str,
    arguments: fn(&Davit) -> Vec<String>,
    /// What is there when it has reported done.
    brings: &'static str,
}

const JOBS: &[Job] = &[
    Job {
        name: "load",
        arguments: |davit| words(&["load", "-i", davit.dir().join("image.tar").to_str().unwrap()]),
        brings: "loaded:1",
    },
    Job {
        name: "build",
        arguments: |davit| words(&["build", "-t", "built:1", davit.dir().to_str().unwrap()]),
        brings: "built:1",
    },
    Job { name: "tag", arguments: |_| words(&["tag", "kept:1", "tagged:1"]), brings: "tagged:1" },
];

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn prepare() -> Davit {
    let davit = davit();
    let tar = davit.dir().join("layer.tar");
    for (name, size) in [("loaded:1", 90_000), ("kept:1", 40_000)] {
        fs_err::write(&tar, tar_of(&[("file", &noise(size))])).unwrap();
        davit.ok(["import", tar.to_str().unwrap(), name]);
    }
    davit.ok(["save", "-o", davit.dir().join("image.tar").to_str().unwrap(), "loaded:1"]);
    davit.ok(["rmi", "loaded:1"]);
    fs_err::write(davit.dir().join("Dockerfile"), "FROM scratch\nCOPY layer.tar /a\n").unwrap();
    davit
}

/// Runs a command of which the `n`th call of a kind fails, in each thread.
fn run_failing(davit: &Davit, arguments: &[String], (calls, n): (&str, usize)) -> Outcome {
    let output = Command::new("strace")
        .args(["-f", "-qqq", "-o", "/dev/null", "-e", &format!("trace={calls}")])
        .args(["-e", &format!("inject={calls}:error=EIO:when={n}")])
        .arg(env!("CARGO_BIN_EXE_davit"))
        .args(arguments)
        .env("DAVIT_ROOT", davit.root())
        .env("DAVIT_RUN_ROOT", davit.run_root())
        .env("HOME", davit.dir())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Outcome::from(output)
}

fn names(davit: &Davit) -> String {
    davit.ok(["images", "--format", "{{.Repository}}:{{.Tag}}"])
}

#[test]
fn every_failing_call_is_a_clear_error_and_costs_nothing() {
    if !need_root() || need_tool("strace").is_none() {
        return;
    }
    for job in JOBS {
        let davit = prepare();
        let arguments = (job.arguments)(&davit);
        let mut failed = 0;
        for &(calls, most) in FAULTS {
            for n in 1..=most {
                let outcome = run_failing(&davit, &arguments, (calls, n));
                let told = format!("{}: {calls} {n}: {}", job.name, outcome.stderr);
                assert!(!outcome.stderr.contains("panicked"), "{told}");
                let now = names(&davit);
                assert!(now.lines().any(|name| name == "kept:1"), "{told}");
                let is_there = now.lines().any(|name| name == job.brings);
                let check = davit.run(["system", "check"]);
                assert_eq!(check.code, 0, "{told}{}", check.stdout);
                if is_there {
                    davit.ok(["rmi", "-f", job.brings]);
                    davit.ok(["system", "prune", "-f"]);
                }
                match outcome.code {
                    0 => assert!(is_there, "{told}"),
                    // What fails before the program's first line is the loader's to report.
                    127 => assert!(outcome.stdout.is_empty(), "{told}"),
                    code => {
                        assert_eq!(code, 1, "{told}");
                        failed += 1;
                        if calls == "write" && !outcome.stderr.contains("error: ") {
                            // The message was the call that failed.
                            continue;
                        }
                        let clear = outcome.stderr.lines().any(|line| line.starts_with("error: "));
                        let named = outcome.stderr.to_lowercase();
                        // SQLite calls a schema that it cannot read malformed, and a file that
                        // it cannot open for writing it opens for reading.
                        let named = ["input/output", "i/o error", "is malformed", "readonly"]
                            .iter()
                            .any(|words| named.contains(words));
                        assert!(clear && named, "{told}");
                    }
                }
            }
        }
        assert!(failed > 10, "{}: only {failed} calls failed", job.name);
        davit.ok(&arguments);
        assert!(names(&davit).lines().any(|name| name == job.brings), "{}", job.name);
    }
}
