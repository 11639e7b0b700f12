//! Processes that are killed, disks that fail or are full, a database that goes away or is old.
//!
//! The docstrings number the cases as `docs/registry-storage.md` lists them.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use davit_image::Digest;
use davit_registry::{
    check::Repair,
    fault::Fault,
    gc::{GcSettings, Scan},
};
use davit_test::{Postgres, TempDir, kills, need_root, need_tool};

use crate::bench::{Bench, image};

mod database;
mod power;
mod requests;
mod steps;
mod upgrade;

/// Says to the test binary, executed again, what to do; and where.
const PART: &str = "DAVIT_REGISTRY_PART";
const FOLDER: &str = "DAVIT_REGISTRY_FOLDER";

/// Everything that may go goes at once.
const AT_ONCE: GcSettings = GcSettings {
    lease: Duration::ZERO,
    trash_delay: Duration::ZERO,
    undo: Duration::ZERO,
    referrers: Duration::ZERO,
    orphan_age: Duration::ZERO,
    scan: Scan::Never,
};

/// What the processes that these tests start do; without a part, nothing.
#[test]
#[allow(clippy::disallowed_methods, reason = "the part comes by the environment")]
fn part() {
    let (Ok(part), Ok(folder)) = (std::env::var(PART), std::env::var(FOLDER)) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match &*part {
        "push" => runtime.block_on(push_for_ever(Path::new(&folder))),
        "fill" => runtime.block_on(fill(Path::new(&folder))),
        "import" => runtime.block_on(crate::import::import_beside(Path::new(&folder))),
        "work" => runtime.block_on(steps::work(Path::new(&folder))),
        "read-only" => runtime.block_on(steps::read_only(Path::new(&folder))),
        "ready" => crate::operation::readiness_follows_the_disk(Path::new(&folder)),
        "power" => power::cuts(Path::new(&folder)),
        "send" => runtime.block_on(crate::nodes::send_for_ever(Path::new(&folder))),
        "serve" => crate::soak::serve(Path::new(&folder)),
        "lying medium" => power::lies(Path::new(&folder)),
        _ => panic!("no part `{part}`"),
    }
}

pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

async fn push_for_ever(folder: &Path) {
    let bench = Bench::at(folder, AT_ONCE).await;
    for number in 0_u32.. {
        let tag = format!("t{}", number % 4);
        let layer = format!("{number} of {}", std::process::id());
        say(&format!("begun {tag} {}", Digest::of(image(&layer, None).as_bytes())));
        let digest = bench.push_image("a/b", &[&tag], &layer).await;
        say(&format!("done {tag} {digest}"));
        if number % 3 == 2 {
            bench.collect().await;
        }
    }
}

pub(crate) fn start(part: &str, folder: &Path, before: &[&str]) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut words: Vec<_> = before.iter().map(std::ffi::OsString::from).collect();
    words.push(program.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["failures::part", "--exact", "--nocapture"]);
    command.env(PART, part).env(FOLDER, folder).env("RUST_BACKTRACE", "0");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().unwrap()
}

/// Case 1: SIGKILL at whatever comes after so many lines.
#[test]
fn what_was_acknowledged_outlives_a_kill() {
    let folder = TempDir::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut expected = BTreeMap::<String, Expected>::new();
    for round in 0..kills(6) {
        let mut child = start("push", folder.path(), &[]);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Another instant in each round: after some lines, at whatever follows them.
        let enough = 6 + 5 * round;
        for (count, line) in lines.map_while(Result::ok).enumerate() {
            note(&mut expected, &line);
            if count == enough {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        runtime.block_on(recovers(folder.path(), &expected));
    }
}

/// Takes down what a process said of a tag.
fn note(expected: &mut BTreeMap<String, Expected>, line: &str) {
    // The first line begins with the test runner's words.
    let words: Vec<&str> = line.rsplitn(4, ' ').collect();
    let [digest, tag, word, ..] = words[..] else { return };
    match word {
        "begun" => expected.entry(tag.to_owned()).or_default().may_be.push(digest.to_owned()),
        "done" => {
            let one = Expected { must_be: true, may_be: vec![digest.to_owned()] };
            expected.insert(tag.to_owned(), one);
        }
        _ => {}
    }
}

/// What a tag names after a kill.
#[derive(Debug, Default)]
struct Expected {
    /// Some push of it was acknowledged.
    must_be: bool,
    /// The last acknowledged one, and what was begun since.
    may_be: Vec<String>,
}

async fn recovers(folder: &Path, expected: &BTreeMap<String, Expected>) {
    let bench = Bench::at(folder, GcSettings { scan: Scan::Always, ..AT_ONCE }).await;
    assert_eq!(bench.check(Repair::No).await, []);
    for (tag, of_tag) in expected.iter().filter(|(_, of_tag)| !of_tag.may_be.is_empty()) {
        let tagged = "SELECT COUNT(*) FROM tag t JOIN manifest m ON m.id = t.manifest_id \
                      WHERE t.name = $1 AND m.digest = $2";
        let mut found = 0;
        for digest in &of_tag.may_be {
            found += bench.ask(tagged, vec![tag.into(), digest.into()]).await[0];
        }
        let tags = bench.ask("SELECT version FROM tag WHERE name = $1", vec![tag.into()]).await;
        assert!(found == 1 || (!of_tag.must_be && tags.is_empty()), "{tag}: {of_tag:?}");
    }
    // The first run finds the orphans that the kill left, and what it frees goes step by step.
    for _ in 0..4 {
        bench.pass(Duration::from_secs(1));
        bench.collect().await;
    }
    assert_eq!(bench.check(Repair::No).await, []);
    let blobs = bench.ask("SELECT size_bytes FROM blob", Vec::new()).await;
    assert_eq!(bench.objects().len(), blobs.len(), "no object is left over");
    bench.registry.database.clone().close().await;
}

/// Pushes until the disk is full; nothing half-done is seen, and room that comes back is used.
async fn fill(folder: &Path) {
    let bench = Bench::at(folder, GcSettings { scan: Scan::Always, ..AT_ONCE }).await;
    let mut pushed = 0_usize;
    let fault = loop {
        let content = vec![u8::try_from(pushed % 251).unwrap(); 200_000 + pushed];
        match bench.try_push_blob("a/b", &content).await {
            Ok(_) => pushed += 1,
            Err(fault) => break fault,
        }
        assert!(pushed < 100, "the disk is small");
    };
    assert!(pushed > 0);
    match fault {
        Fault::Store(error) => assert!(error.is_full(), "{error:?}"),
        Fault::Database(_) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.check(Repair::No).await, []);
    let left = bench.objects().len();
    assert!(left == pushed || left == pushed + 1, "one may have no row: {left} of {pushed}");
    fs_err::remove_file(folder.join("ballast")).unwrap();
    for _ in 0..3 {
        bench.pass(Duration::from_secs(1));
        bench.collect().await;
    }
    assert!(bench.objects().is_empty());
    bench.push_image("a/b", &["t"], "after").await;
    assert_eq!(bench.check(Repair::No).await, []);
}

/// Case 2: ENOSPC.
#[test]
fn a_full_disk_loses_nothing() {
    if !need_root() || need_tool("unshare").is_none() {
        return;
    }
    let folder = TempDir::new();
    let script = "mount -t tmpfs -o size=4m davit-test \"$DAVIT_REGISTRY_FOLDER\" && \
                  head -c 1000000 /dev/zero >\"$DAVIT_REGISTRY_FOLDER/ballast\" && exec \"$0\" \"$@\"";
    let child = start("fill", folder.path(), &["unshare", "--mount", "sh", "-c", script]);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Case 4: PostgreSQL crashes and comes back.
#[test]
fn a_database_server_that_comes_back_is_used_again() {
    let Some(postgres) = Postgres::start() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = Arc::new(Bench::new(Some(postgres), AT_ONCE).await);
        let over = AtomicBool::new(false);
        let pushes = async {
            let (mut kept, mut failed) = (Vec::new(), 0);
            for number in 0.. {
                let layer = format!("layer {number}");
                match bench.try_push_blob("a/b", layer.as_bytes()).await {
                    Ok(digest) => kept.push(digest),
                    Err(Fault::Database(_)) => failed += 1,
                    Err(fault) => panic!("{fault:?}"),
                }
                if over.load(Ordering::SeqCst) && kept.len() > 20 {
                    return (kept, failed);
                }
            }
            unreachable!("the loop has no end")
        };
        let restart = async {
            let bench = Arc::clone(&bench);
            tokio::task::spawn_blocking(move || bench.restart_postgres()).await.unwrap();
            over.store(true, Ordering::SeqCst);
        };
        let ((kept, failed), ()) = tokio::join!(pushes, restart);
        eprintln!("{} pushes acknowledged, {failed} refused", kept.len());
        for digest in kept {
            assert!(bench.has_blob("a/b", &digest).await, "what was acknowledged is there");
        }
        assert_eq!(bench.check(Repair::No).await, []);
    });
}
