//! What is done once: the cache between builds, between processes, and its budget.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::SystemTime,
};

use davit_test::{Access, Outcome, Registry, until};
use serde_json::Value;

use super::bench::{Bench, alpine};
use crate::davit;

const IDENTITY: &str = "cat /proc/sys/kernel/random/uuid";

fn layers(config: &Value) -> Vec<Value> {
    config["rootfs"]["diff_ids"].as_array().unwrap().clone()
}

/// A build in the background whose output goes to a file.
fn start(bench: &Bench, log: &str, args: &[&str]) -> Child {
    let fixed = ["build", "--progress", "plain", "--network", "none"];
    let context = bench.context.to_str().unwrap();
    let mut command = bench.davit.command(fixed.iter().chain(args).chain([&context]));
    let log = fs::File::create(bench.davit.dir().join(log)).unwrap();
    command.stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

fn log(bench: &Bench, name: &str) -> String {
    fs::read_to_string(bench.davit.dir().join(name)).unwrap_or_default()
}

#[test]
fn two_processes_run_a_step_once() {
    let steps = format!("RUN echo begun; {IDENTITY} > /id; sleep 2; echo done\n");
    let Some(bench) = alpine(&steps) else { return };
    let mut first = start(&bench, "one", &[]);
    until("the step runs", || log(&bench, "one").contains(" begun\n"));
    let mut second = start(&bench, "two", &["--explain"]);
    assert!(first.wait().unwrap().success() && second.wait().unwrap().success());
    let (one, two) = (log(&bench, "one"), log(&bench, "two"));
    assert!(!two.contains(" begun\n") && !two.contains("not cached"), "{two}");
    let id = |text: &str| text.split("Built ").nth(1).unwrap().get(..71).unwrap().to_owned();
    assert_eq!(id(&one), id(&two));
}

#[test]
fn a_waiting_build_goes_on_when_the_first_is_killed() {
    let step = "RUN --mount=type=cache,target=/c echo begun; i=0; while ! test -e /c/go; do \
                i=$((i+1)); test $i -lt 30000 || exit 1; sleep 0.02; done; echo done\n";
    let Some(bench) = alpine(step) else { return };
    let mut first = start(&bench, "one", &[]);
    until("the step runs", || log(&bench, "one").contains(" begun\n"));
    let mut second = start(&bench, "two", &[]);
    until("the second is there", || log(&bench, "two").contains("alpine.tar.gz"));
    first.kill().unwrap();
    first.wait().unwrap();
    let mount = fs::read_dir(bench.davit.root().join("cache/mounts")).unwrap().next().unwrap();
    fs::write(mount.unwrap().path().join("data/go"), "").unwrap();
    assert!(second.wait().unwrap().success());
    assert!(log(&bench, "two").contains(" done\n"), "{}", log(&bench, "two"));
}

#[test]
fn no_cache_runs_everything_again() {
    let Some(bench) = alpine(&format!("RUN {IDENTITY} > /id\n")) else { return };
    let first = layers(&bench.build(&[]));
    assert_eq!(layers(&bench.build(&[])), first);
    let again = layers(&bench.build(&["--no-cache"]));
    assert_eq!(again[0], first[0], "the same files are the same layer");
    assert_ne!(again[1], first[1]);
    assert_eq!(layers(&bench.build(&[])), again, "the newest result counts");
}

#[test]
fn pull_looks_for_a_newer_base() {
    let (Some(bench), Some(registry)) = (Bench::new(&[("f", "1")]), Registry::start(Access::Open))
    else {
        return;
    };
    let base = format!("{}/base:1", registry.host());
    let publish = |label: &str| {
        let other = davit();
        let context = other.dir().join("c");
        fs::create_dir_all(&context).unwrap();
        fs::write(context.join("Dockerfile"), format!("FROM scratch\nLABEL version={label}\n"))
            .unwrap();
        other.ok(["build", "-q", "-t", &base, context.to_str().unwrap()]);
        other.ok(["push", "-q", &base]);
    };
    publish("one");
    bench.write("Dockerfile", &format!("FROM {base}\nCOPY f /\n"));
    let version = |outcome: &Outcome| {
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        bench.config(outcome)["config"]["Labels"]["version"].as_str().unwrap().to_owned()
    };
    let never = bench.run(&["--pull=never"]);
    assert!(never.code == 1 && never.stderr.contains("Dockerfile:1"), "{}", never.stderr);
    assert_eq!(version(&bench.run(&[])), "one");
    publish("two");
    assert_eq!(version(&bench.run(&[])), "one", "it is here");
    assert_eq!(version(&bench.run(&["--pull=never"])), "one");
    assert_eq!(version(&bench.run(&["--pull"])), "two");
    assert_eq!(version(&bench.run(&[])), "two");
    drop(registry);
    let gone = bench.run(&["--pull"]);
    assert!(gone.code == 1 && gone.stderr.contains(&base), "{}", gone.stderr);
}

const MIB: usize = 1 << 20;
/// More than the files beside the cache take here.
const FILES: u64 = 64 << 10;

/// A bench whose cache may take this many bytes.
fn with_budget(bench: &Bench, bytes: usize) {
    let folder = bench.davit.dir().join(".config/davit");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), format!("[gc]\nkeep_storage = {bytes}\n")).unwrap();
}

fn cache_size(bench: &Bench) -> u64 {
    let rows = bench.davit.ok(["system", "df", "--json"]);
    let rows: Value = serde_json::from_str(&rows).unwrap();
    let cache = rows.as_array().unwrap().iter().find(|row| row["Type"] == "Build Cache");
    cache.unwrap()["Size"].as_u64().unwrap()
}

/// Content that no two numbers share.
fn filler(number: u8) -> String {
    char::from(b'a' + number).to_string().repeat(MIB)
}

const STAGES: &str = "FROM scratch AS big\nCOPY big /big\nFROM scratch\nCOPY small /small\nCOPY --from=big /big /x\n";

#[test]
fn the_cache_stays_within_its_budget() {
    let Some(bench) = Bench::new(&[("small", "1"), ("Dockerfile", STAGES)]) else { return };
    with_budget(&bench, 4 * MIB);
    for number in 0..8 {
        bench.write("big", &filler(number));
        assert_eq!(bench.run(&["-o", "type=cacheonly"]).code, 0);
        let size = cache_size(&bench);
        assert!(size <= 4 * MIB as u64, "{size} bytes after build {number}");
    }
    // Something went; what, depends on how long each step took.
    let is_cached = |number| {
        bench.write("big", &filler(number));
        bench.run(&["-o", "type=cacheonly"]).stderr.contains("(3 of 3 steps cached)")
    };
    assert!(!(0..8).all(is_cached), "all that was built is still there");
    // What images keep is not the cache's.
    with_budget(&bench, 0);
    bench.write("small", "2");
    bench.build(&["-t", "app:2"]);
    let again = bench.run(&[]);
    assert!(again.stderr.contains("(3 of 3 steps cached)"), "{}", again.stderr);
}

#[test]
fn a_result_in_use_is_never_dropped() {
    let Some(bench) = alpine(
        "FROM scratch AS used\nCOPY big /big\nFROM alpine\nCOPY --from=used /big /\nRUN echo begun; sleep 1000\n",
    ) else {
        return;
    };
    bench.write("big", &filler(0));
    with_budget(&bench, 0);
    let mut slow = start(&bench, "slow", &[]);
    until("the step runs", || log(&bench, "slow").contains(" begun\n"));
    // Another build ends meanwhile and brings the cache under its budget: nothing.
    let other = bench.davit.dir().join("other");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("f"), filler(1)).unwrap();
    fs::write(other.join("Dockerfile"), "FROM scratch\nCOPY f /f\n").unwrap();
    let other = other.to_str().unwrap();
    bench.davit.ok(["build", "-q", "-o", "type=cacheonly", other]);
    bench.davit.ok(["system", "prune", "-f"]);
    let cached = bench.run(&["--target", "used", "-o", "type=cacheonly"]);
    assert!(cached.stderr.contains("(1 of 1 steps cached)"), "{}", cached.stderr);
    slow.kill().unwrap();
    slow.wait().unwrap();
    bench.davit.ok(["builder", "prune", "-f"]);
    assert!(cache_size(&bench) < FILES, "logs and digests alone are left");
}

#[test]
fn steps_are_counted_and_causes_named() {
    let dockerfile = "FROM scratch\nCOPY small /s/\nWORKDIR /one/two\nCOPY big /s/b\n";
    let files = [("small", "1"), ("big", "2"), ("Dockerfile", dockerfile)];
    let Some(bench) = Bench::new(&files) else { return };
    let first = bench.run(&["-t", "base:1"]);
    for words in ["[1/3] COPY small", "[3/3] COPY big", "(0 of 3 steps cached)"] {
        assert!(first.stderr.contains(words), "{words}: {}", first.stderr);
    }
    bench.write("small", "changed");
    let again = bench.run(&["--explain"]);
    let words = "not cached: [1/3] COPY small /s/ gave another result";
    assert_eq!(again.stderr.matches(words).count(), 1, "{}", again.stderr);
    bench.write("Dockerfile", "FROM base:1\nCOPY big /b\n");
    let fresh = bench.run(&["--no-cache", "--pull=never"]);
    for words in ["[1/2] FROM", "[2/2] COPY big", "(0 of 2 steps cached)"] {
        assert!(fresh.stderr.contains(words), "{words}: {}", fresh.stderr);
    }
}

#[test]
fn programs_are_told_why_steps_run_and_people_what_it_takes() {
    let dockerfile = "FROM scratch\nCOPY f /\nCOPY g /\n";
    let files = [("f", "1"), ("g", "1"), ("Dockerfile", dockerfile)];
    let Some(bench) = Bench::new(&files) else { return };
    let why = |args: &[&str]| {
        let outcome = bench.run(&[&["--explain=json"], args].concat());
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let lines = outcome.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let fact = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let short = |line: Value| ["step", "why", "path"].map(|key| fact(&line, key)).join(" ");
        lines.map(|line| short(line).trim().to_owned()).collect::<Vec<_>>()
    };
    let never = ["[1/2] COPY f / first", "[2/2] COPY g / first"];
    assert_eq!(why(&["-t", "kept:1"]), never);
    bench.write("g", "12");
    let changed = ["[2/2] COPY g / component", "[2/2] COPY g / file g"];
    assert_eq!(why(&[]), changed);
    assert_eq!(why(&["--no-cache-from", "3"]), ["[2/2] COPY g / not-asked"]);
    assert_eq!(why(&[]), [""; 0]);
    let refused = bench.run(&["--explain=json", "-o", "-"]);
    assert!(refused.code != 0 && refused.stderr.contains("standard output"), "{}", refused.stderr);
    // Steps by their names, and in the end all that they take, each layer once.
    let shown = bench.davit.ok(["builder", "du"]);
    assert!(shown.contains("[1/2] COPY f /") && shown.contains("\nReclaimable:\t"), "{shown}");
    let verbose = bench.davit.ok(["builder", "du", "--verbose"]);
    assert!(verbose.contains("Description:\t[2/2] COPY g /\n"), "{verbose}");
    assert!(verbose.contains("\nTotal:\t\t"), "{verbose}");
    let part = bench.davit.ok(["builder", "du", "--filter", "type=copy"]);
    assert!(!part.contains("Total:"), "{part}");
}

#[test]
fn builder_prune_has_dockers_words() {
    let Some(bench) = Bench::new(&[("small", "1"), ("Dockerfile", STAGES)]) else { return };
    bench.write("big", &filler(0));
    bench.build(&["-t", "kept:1"]);
    bench.write("big", &filler(1));
    assert_eq!(bench.run(&["-o", "type=cacheonly"]).code, 0);
    let full = cache_size(&bench);
    assert!(full > 2 * MIB as u64, "{full}");
    let asked = bench.davit.run(["builder", "prune"]);
    assert!(asked.stderr.contains("[y/N]"), "{}", asked.stderr);
    assert_eq!(cache_size(&bench), full, "no answer is no");
    for filter in ["until=1h", "unused-for=1h", "id=nothing", "type=nothing"] {
        let kept = bench.davit.ok(["builder", "prune", "--all", "--force", "--filter", filter]);
        assert_eq!(kept, "Total reclaimed space: 0B", "{filter}");
    }
    for filter in ["bogus=1", "until=bogus"] {
        let refused = bench.davit.run(["builder", "prune", "-f", "--filter", filter]);
        assert_eq!(refused.code, 1, "{filter}: {}", refused.stderr);
    }
    assert_eq!(cache_size(&bench), full);
    let kept = bench.davit.ok(["builder", "prune", "-f", "--keep-storage", "100MB"]);
    assert_eq!(kept, "Total reclaimed space: 0B");
    let enough = bench.davit.ok(["builder", "prune", "-f", "--min-free-space", "1B"]);
    assert_eq!(enough, "Total reclaimed space: 0B");
    assert!(bench.davit.ok(["builder", "du", "--verbose"]).contains("Type:\t\tcopy\n"));
    let bounded =
        ["--max-used-space", "1.5MB", "--reserved-space", "1MB", "--filter", "until=2999-01-01"];
    bench.davit.ok(["builder", "prune", "-f"].iter().chain(&bounded));
    let left = cache_size(&bench);
    assert!(left < 1_500_000 + FILES && left > 1_000_000, "{left}");
    let pruned = bench.davit.ok(["buildx", "prune", "-f", "--filter", "until=2999-01-01"]);
    assert!(pruned.contains("Deleted build cache objects:\n"), "{pruned}");
    assert!(!pruned.contains("Total reclaimed space: 0B"), "{pruned}");
    assert!(cache_size(&bench) < FILES, "logs and digests alone are left");
    // What an image keeps serves the next build, until all is asked for.
    bench.write("big", &filler(0));
    let cached = bench.run(&["-t", "kept:1"]);
    assert!(cached.stderr.contains("(3 of 3 steps cached)"), "{}", cached.stderr);
    bench.davit.ok(["builder", "prune", "-af", "--filter", "until=2999-01-01"]);
    let fresh = bench.run(&["-t", "kept:1"]);
    assert!(!fresh.stderr.contains("(3 of 3 steps cached)"), "{}", fresh.stderr);
    let context = bench.context.to_str().unwrap();
    assert_eq!(bench.davit.run(["builder", "build", "-q", context]).code, 0);
}

#[test]
fn what_is_known_of_contexts_and_logs_is_bounded_and_goes_with_the_cache() {
    let Some(bench) = Bench::new(&[("f", "1"), ("Dockerfile", "FROM scratch\nCOPY f /\n")]) else {
        return;
    };
    bench.build(&[]);
    let folder = bench.davit.root().join("builds");
    for number in 0..60 {
        fs::write(folder.join(format!("old-{number}.log")), "text").unwrap();
    }
    // The first build may be too soon after the writing of its context to remember it.
    bench.build(&["--no-cache"]);
    let digests = context_digests(&bench);
    let [of_context] = &digests[..] else { panic!("{digests:?}") };
    let of_context = bench.davit.root().join("cache").join(of_context);
    fs::File::open(&of_context).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    for number in 0..60 {
        fs::write(of_context.with_file_name(format!("context-{number}")), "text").unwrap();
    }
    let written = of_context.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&written, "text").unwrap();
    fs::File::open(&written).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    bench.build(&["--no-cache"]);
    assert!(of_context.exists(), "what is used is not the oldest");
    assert!(written.exists(), "it is being written");
    fs::remove_file(written).unwrap();
    assert_eq!(context_digests(&bench).len(), 50);
    let logs = || fs::read_dir(&folder).unwrap().count();
    assert_eq!(logs(), 3, "those of the builds: no record names the others");
    // A log that cannot be removed costs no build.
    let busy = folder.join("busy.log");
    fs::write(&busy, "text").unwrap();
    fs::File::open(&busy).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let line = "mount --bind \"$1\" \"$1\" && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", line, "sh"]).arg(&busy);
    let context = bench.context.to_str().unwrap();
    let own = bench.davit.command(["--debug", "build", "--no-cache", context]);
    let variables = own.get_envs().filter_map(|(name, value)| Some((name, value?)));
    command.arg(own.get_program()).args(own.get_args()).envs(variables);
    let outcome = Outcome::from(command.output().unwrap());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("old logs of builds remain"), "{}", outcome.stderr);
    assert!(cache_size(&bench) >= 3 * 4096);
    let pruned = bench.davit.ok(["builder", "prune", "--all", "--force"]);
    assert!(!pruned.ends_with(" 0B"), "{pruned}");
    assert_eq!((logs(), cache_size(&bench)), (0, 0));
    assert_eq!(context_digests(&bench), [""; 0]);
}

/// Names of the files with the digests of contexts.
fn context_digests(bench: &Bench) -> Vec<String> {
    let cache = fs::read_dir(bench.davit.root().join("cache")).unwrap().flatten();
    let names = cache.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with("context-")).collect()
}
