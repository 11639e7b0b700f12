//! One fixed piece of work, whose every system call of a kind is the last one, or fails.

use std::{collections::BTreeMap, path::Path, process::Command};

use davit_image::{Algorithm, Digest};
use davit_registry::{
    blobs,
    check::Repair,
    db::DbError,
    fault::Fault,
    gc::{GcSettings, Scan},
    manifests,
    store::StoreError,
    uploads::{self, Owner},
};
use davit_test::{TempDir, kills, need_root, need_tool};
use futures_util::stream;

use super::{AT_ONCE, Expected, recovers, say, start};
use crate::bench::{Bench, image, name, to_put};

/// Calls that change what a crash leaves, and how many of each a thread of the work makes at least.
const CALLS: &[(&str, usize)] = &[
    ("fdatasync", 12),
    ("fsync", 4),
    ("linkat", 2),
    ("pwrite64", 16),
    ("unlink", 3),
    ("write", 4),
];

/// Does all that the registry writes: sessions, blobs, mounts, manifests, tags, deletions, collection.
/// Says what is begun and done; a step may fail as a faulty medium lets it.
pub(super) async fn work(folder: &Path) {
    let bench = Bench::at(folder, AT_ONCE).await;
    let node = &bench.registry;
    for number in 0..2 {
        let (tag, layer) = (format!("t{number}"), format!("{number} of {}", std::process::id()));
        let body = image(&layer, None);
        say(&format!("begun {tag} {}", Digest::of(body.as_bytes())));
        let done = async {
            bench.try_push_blob("a/b", b"{}").await?;
            in_parts(&bench, &layer).await?;
            manifests::put(node, to_put("a/b", &[&tag], body)).await
        };
        if let Some(digest) = tolerated(done.await) {
            say(&format!("done {tag} {digest}"));
        }
        tolerated(bench.try_push_blob("c/d", b"elsewhere").await);
        tolerated(blobs::mount(node, name("c/d"), name("e/f"), Digest::of(b"elsewhere")).await);
        if number == 0 {
            let passing = bench.push_image_if(&layer).await;
            if let Some(digest) = tolerated(passing) {
                tolerated(manifests::delete(node, &name("g/h"), &digest, None).await);
            }
        }
        bench.pass(std::time::Duration::from_secs(1));
        let collected = davit_registry::gc::run_once(
            &node.database,
            &node.store,
            &GcSettings { scan: Scan::Always, ..AT_ONCE },
            davit_registry::gc::Mode::Collect,
        );
        // What it did not come to is the next run's.
        let _later = collected.await;
    }
}

/// A blob by a session of two parts.
async fn in_parts(bench: &Bench, content: &str) -> Result<(), Fault> {
    let owner = Owner { name: name("a/b"), account: None };
    let node = &bench.registry;
    let session = uploads::begin(node, &owner, Algorithm::Sha256).await?;
    let (first, second) = content.split_at(content.len() / 2);
    let part = |text: &str| stream::iter([Ok(text.to_owned().into())]);
    uploads::append(node, &owner, session.id, None, part(first)).await?;
    let digest = Digest::of(content.as_bytes());
    uploads::finish(node, &owner, (session.id, None), digest, part(second)).await
}

/// What was done, or nothing where the medium failed; any other reason is a fault of ours.
fn tolerated<T>(outcome: Result<T, Fault>) -> Option<T> {
    match outcome {
        Ok(done) => Some(done),
        Err(
            Fault::Store(StoreError::File { .. } | StoreError::Truncated(_))
            | Fault::Database(DbError::Sqlite(_) | DbError::Commit(_)),
        ) => None,
        // The collector has taken what a failed step left behind: leases are none here.
        Err(Fault::Missing(_) | Fault::Unknown(_)) => None,
        Err(fault) => panic!("{fault:?}"),
    }
}

/// Runs the work with strace's fault in it; tells what it said, and whether it ended well.
fn with_fault(folder: &Path, fault: &str) -> (BTreeMap<String, Expected>, bool) {
    let inject = format!("inject={fault}");
    let calls = format!("trace={}", fault.split(':').next().unwrap());
    let strace = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &calls, "-e", &inject];
    let output = start("work", folder, &strace).wait_with_output().unwrap();
    let mut expected = BTreeMap::<String, Expected>::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        super::note(&mut expected, line);
    }
    (expected, output.status.success())
}

/// Every `stride`th of the instants, so that a usual run takes few of them and a longer one all.
fn instants(usual: usize) -> impl Iterator<Item = (&'static str, usize)> {
    let all = CALLS.iter().flat_map(|&(calls, most)| (1..=most).map(move |n| (calls, n)));
    let count = CALLS.iter().map(|(_, most)| most).sum::<usize>();
    all.step_by(count.div_ceil(kills(usual).min(count)))
}

/// Case 1: SIGKILL before each call that a crash could come between.
#[test]
fn a_kill_before_any_call_leaves_no_fault() {
    if need_tool("strace").is_none() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut killed = 0;
    for (calls, n) in instants(14) {
        let folder = TempDir::new();
        let fault = format!("{calls}:signal=KILL:when={n}");
        let (expected, ended) = with_fault(folder.path(), &fault);
        killed += usize::from(!ended);
        runtime.block_on(recovers(folder.path(), &expected));
    }
    assert!(killed > 0, "strace killed none");
}

/// Case 2: each call fails with EIO once; what was acknowledged is there, and the next start is sound.
#[test]
fn a_medium_that_fails_once_costs_only_what_was_refused() {
    if need_tool("strace").is_none() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (calls, n) in instants(14) {
        // Its own words go by `write` as well.
        if calls == "write" {
            continue;
        }
        let folder = TempDir::new();
        // The first calls make the schema: a start that fails is refused as a whole.
        runtime.block_on(async {
            let bench = Bench::at(folder.path(), AT_ONCE).await;
            bench.registry.database.clone().close().await;
        });
        let (expected, ended) = with_fault(folder.path(), &format!("{calls}:error=EIO:when={n}"));
        assert!(ended || expected.is_empty(), "{calls} {n}: it went on after the fault");
        runtime.block_on(recovers(folder.path(), &expected));
    }
}

/// Case 2: a file system that is only read any more.
#[test]
fn what_cannot_be_written_is_refused_and_reading_goes_on() {
    if !need_root() || need_tool("unshare").is_none() {
        return;
    }
    let folder = TempDir::new();
    let script = "mount -t tmpfs davit-test \"$DAVIT_REGISTRY_FOLDER\" && exec \"$0\" \"$@\"";
    let child = start("read-only", folder.path(), &["unshare", "--mount", "sh", "-c", script]);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

pub(super) async fn read_only(folder: &Path) {
    let bench = Bench::at(folder, AT_ONCE).await;
    bench.push_image("a/b", &["t"], "before").await;
    let digest = Digest::of(b"before");
    let remount = |how: &str| {
        let folder = folder.to_str().unwrap();
        let done = Command::new("mount").args(["-o", how, folder]).status().unwrap();
        assert!(done.success());
    };
    // SQLite's files stay open for writing, and only their mount refuses it.
    let sealed = Command::new("mount").args(["-o", "bind"]).args([folder, folder]).status();
    assert!(sealed.unwrap().success());
    remount("remount,bind,ro");
    let refused = bench.try_push_blob("a/b", b"now").await;
    assert!(matches!(refused, Err(Fault::Store(_) | Fault::Database(_))), "{refused:?}");
    assert!(bench.has_blob("a/b", &digest).await);
    assert_eq!(bench.check(Repair::No).await, []);
    remount("remount,bind,rw");
    bench.push_image("a/b", &["t"], "after").await;
    assert_eq!(bench.check(Repair::No).await, []);
}
