//! Copies with `--link` are made beside the commands before them.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use super::{
    bench::{Bench, alpine},
    early::WAIT,
};

/// Builds, and lets the waiting command go on once all copies are done; gives what was told.
fn build(bench: &Bench, args: &[&str], copies: &[&str]) -> (i32, String) {
    let context = bench.context.to_str().unwrap();
    let fixed = ["build", "--progress", "plain", "--network", "none"];
    let mut command = bench.davit.command(fixed.iter().chain(args).chain([&context]));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mounts = bench.davit.root().join("cache/mounts");
    let mut told = String::new();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        told.extend([&line.unwrap(), "\n"]);
        if !copies.iter().all(|copy| is_done(&told, copy)) {
            continue;
        }
        // The command itself may not have begun.
        while child.try_wait().unwrap().is_none() {
            let mount = fs::read_dir(&mounts).ok().and_then(|mut it| it.next()?.ok());
            if mount.is_some_and(|mount| fs::write(mount.path().join("data/go"), "").is_ok()) {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }
    (child.wait().unwrap().code().unwrap_or(-1), told)
}

/// Whether a step was told to be done.
fn is_done(told: &str, step: &str) -> bool {
    let heading = told.lines().find(|line| line.starts_with('#') && line.ends_with(step));
    let number = heading.and_then(|line| line.split(' ').next());
    number.is_some_and(|number| told.contains(&format!("\n{number} DONE")))
}

#[test]
fn a_linked_copy_does_not_wait_for_the_command_before_it() {
    let copies = ["COPY --link f /f", "COPY --link --from=other /g /f"];
    let steps = format!(
        "FROM scratch AS other\nCOPY g /g\nFROM alpine\n{WAIT}; echo 1 > /f; echo 2 > /made\n\
         {}\n{}\nRUN cat /made /f > /all\n",
        copies[0], copies[1]
    );
    let Some(bench) = alpine(&steps) else { return };
    bench.write("f", "3");
    bench.write("g", "4");
    let (code, told) = build(&bench, &[], &copies);
    assert_eq!(code, 0, "{told}");
    // The layers lie in the order of the Dockerfile.
    assert_eq!(fs::read_to_string(bench.files(&[]).join("all")).unwrap(), "2\n4");
    assert_eq!(bench.build(&[])["rootfs"]["diff_ids"].as_array().unwrap().len(), 5);
    // A command behind them runs again because of the one before them, and they do not.
    let dockerfile = fs::read_to_string(bench.context.join("Dockerfile")).unwrap();
    bench.write("Dockerfile", &dockerfile.replace("echo 2", "echo 5"));
    let again = bench.run(&["--explain"]);
    assert!(again.stderr.contains("(4 of 6 steps cached)"), "{}", again.stderr);
    let reason = "not cached: [stage-2 1/4] RUN --mount";
    assert!(again.stderr.contains(reason), "{}", again.stderr);
    assert_eq!(fs::read_to_string(bench.files(&[]).join("all")).unwrap(), "5\n4");
}

#[test]
fn a_linked_copy_that_fails_ends_the_command_before_it() {
    let Some(bench) = alpine(&format!("{WAIT}\nCOPY --link --from=alpine /none /\n")) else {
        return;
    };
    let (code, told) = build(&bench, &[], &["nothing else lets it go on"]);
    assert!(code == 1 && told.contains("error: ") && told.contains("none"), "{told}");
}
