//! What a command wrote goes, whoever removes it.

use std::{fs, os::unix::process::ExitStatusExt as _, process::Command, thread};

use davit_engine::process::Interrupts;
use davit_test::until;

use super::bench::{Bench, alpine};

#[test]
fn a_great_many_files_are_removed_behind_the_build() {
    let step = "RUN mkdir /d && cd /d && for i in $(seq 1500); do : > f$i; done\n";
    let Some(bench) = alpine(step) else { return };
    let files = bench.files(&[]);
    assert_eq!(fs::read_dir(files.join("d")).unwrap().count(), 1500);
    let unfinished = bench.davit.root().join("tmp");
    until("nothing is left", || fs::read_dir(&unfinished).unwrap().count() == 0);
}

#[test]
fn what_removes_can_be_ended_though_its_caller_blocks_the_signal() {
    const SIGTERM: i32 = 15;
    let temp = davit_test::TempDir::new();
    let directory = temp.join("directory");
    fs::create_dir(&directory).unwrap();
    // The signal waits while it is blocked, also for the program that is executed.
    let script = r#"kill -TERM $$; exec "$0" __remove-scratch "$1""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_davit")]).arg(&directory);
    let status = thread::spawn(move || {
        let _blocked = Interrupts::block().unwrap();
        command.status().unwrap()
    });
    assert_eq!(status.join().unwrap().signal(), Some(SIGTERM));
    assert!(directory.exists());
}

#[test]
fn what_a_killed_export_left_goes_with_the_next_one() {
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n")]) else {
        return;
    };
    let out = bench.davit.dir().join("out");
    let left = |name: &str| {
        let directory = out.join(format!(".davit-export-{name}"));
        fs::create_dir_all(directory.join("0/a")).unwrap();
        fs::File::open(directory).unwrap()
    };
    let (dead, alive) = (left("dead"), left("alive"));
    alive.lock().unwrap();
    drop(dead);
    let outcome = bench.run(&["-o", out.to_str().unwrap()]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let names = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.collect();
    names.sort();
    assert_eq!(names, [".davit-export-alive", "Dockerfile"]);
}
