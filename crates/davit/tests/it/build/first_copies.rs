//! Copies of many files that were never built before: their layers are written while they are read.

use std::{fs, os::unix::fs::symlink, process::Command};

use davit_test::need_tool;

use super::bench::{Bench, list};

const FILES: usize = 700;

/// A context of many small files, a large one, a hard link and a symlink.
fn bench(dockerfile: &str) -> Option<Bench> {
    let bench = Bench::new(&[("Dockerfile", dockerfile), ("src/large", "")])?;
    for number in 0..FILES {
        let (folder, content) = (number % 7, "x".repeat(number % 1500));
        bench.write(&format!("src/d{folder}/f{number}"), &content);
    }
    let source = bench.context.join("src");
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[at as usize % 3]).collect();
    fs::write(source.join("large"), large).unwrap();
    fs::hard_link(source.join("d0/f0"), source.join("same")).unwrap();
    symlink("d1/f1", source.join("link")).unwrap();
    Some(bench)
}

const EPOCH: [&str; 2] = ["--build-arg", "SOURCE_DATE_EPOCH=1700000000"];

#[test]
fn a_first_copy_is_what_every_later_one_is() {
    let base = "FROM scratch\nCOPY src/d0 /real/d0\nCOPY links /\n";
    let Some(bench) = bench(base) else { return };
    fs::create_dir(bench.context.join("links")).unwrap();
    symlink("/real", bench.context.join("links/short")).unwrap();
    bench.build(&["--tag", "base"]);
    fs::remove_dir_all(bench.davit.root().join("cache")).unwrap();
    let dockerfile = "FROM base\nCOPY --chown=5:6 --chmod=700 src /short/x\nCOPY src /y/\n\
                      COPY --link --exclude=d3 src /z\n";
    bench.write("Dockerfile", dockerfile);
    let first = bench.build(&EPOCH);
    // All digests are known now, so nothing is written ahead.
    let again = bench.build(&[&EPOCH[..], &["--no-cache"]].concat());
    assert_eq!(first, again);
    let files = list(&bench.files(&[]));
    assert!(files.contains(&"real/x/d5/f12 700 xxxxxxxxxxxx".to_owned()));
    assert!(files.contains(&"y/d0/f7 644 xxxxxxx".to_owned()));
    assert!(!files.iter().any(|line| line.starts_with("z/d3")));
    assert_eq!(fs::read_dir(bench.davit.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_first_copy_reads_each_file_once() {
    let Some(strace) = need_tool("strace") else { return };
    let Some(bench) = bench("FROM scratch\nCOPY src /\n") else { return };
    let log = bench.davit.dir().join("calls");
    let context = bench.context.to_str().unwrap();
    let davit = bench.davit.command(["build", "--quiet", context]);
    let mut command = Command::new(strace);
    command.args(["--follow-forks", "--trace=openat2", "--output"]).arg(&log);
    command.arg(davit.get_program()).args(davit.get_args());
    for (name, value) in davit.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    assert!(command.status().unwrap().success());
    let calls = fs::read_to_string(&log).unwrap();
    // By whatever directory: both names are there once.
    let opened = |name: &str| calls.lines().filter(|line| line.contains(name)).count();
    assert_eq!(opened("f10\""), 1);
    assert_eq!(opened("large\""), 1);
}

#[test]
fn a_copy_that_was_made_elsewhere_takes_that_layer() {
    let Some(bench) = bench("FROM scratch\nCOPY src /\n") else { return };
    let first = bench.build(&[]);
    let elsewhere = bench.davit.dir().join("elsewhere");
    let copied = Command::new("cp").arg("-a").arg(&bench.context).arg(&elsewhere).status().unwrap();
    assert!(copied.success());
    let other = Bench { context: elsewhere, davit: bench.davit };
    let outcome = other.run(&[]);
    assert!(outcome.stderr.contains("(1 of 1 steps cached)"), "{}", outcome.stderr);
    assert_eq!(other.config(&outcome)["rootfs"], first["rootfs"]);
    // The same under another name is the same layer, and what was written ahead is gone.
    other.write("Dockerfile", "FROM scratch\nCOPY ./src /.\n");
    assert_eq!(other.build(&[])["rootfs"], first["rootfs"]);
    let layers = fs::read_dir(other.davit.root().join("layers/sha256")).unwrap().count();
    assert_eq!(layers, 1);
    assert_eq!(fs::read_dir(other.davit.root().join("tmp")).unwrap().count(), 0);
}

#[test]
fn a_capability_is_kept_by_a_first_copy() {
    let (Some(setcap), Some(getcap)) = (need_tool("setcap"), need_tool("getcap")) else { return };
    let Some(bench) = bench("FROM scratch\nCOPY src /\n") else { return };
    let file = bench.context.join("src/d2/f2");
    assert!(Command::new(setcap).arg("cap_net_raw+ep").arg(&file).status().unwrap().success());
    let id = bench.run(&["--tag", "x"]);
    assert_eq!(id.code, 0, "{}", id.stderr);
    let target = bench.files(&[]);
    let shown = Command::new(getcap).arg(target.join("d2/f2")).output().unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).contains("cap_net_raw"), "{shown:?}");
}
