//! Kills at random instants, full disks, and power loss: nothing durable is lost, nothing torn is
//! visible, and the next process just works.

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use davit_image::Digest;
use davit_store::{
    CheckOptions, Durability, GcOptions, ImageCommit, Partials, Store, StoreError, StoreOptions,
    TagUpdate,
};
use davit_test::TempDir;

use crate::fixture::{content_files, diff_id, facts, image, open, reference, tagged_image};

/// Names the root for the child that is to be killed.
const CHILD: &str = "DAVIT_STORE_TEST_CHILD";
const KILLS: usize = 60;

/// What the child does: commits images for ever, says so, and removes older ones.
#[test]
fn child() {
    #[allow(clippy::disallowed_methods, reason = "a test's child is told its part by its parent")]
    let Some(root) = std::env::var_os(CHILD) else { return };
    let root = PathBuf::from(root);
    let store = Store::open(StoreOptions::new(root.join("root"), root.join("run"))).unwrap();
    let mut out = std::io::stdout().lock();
    let start: u32 = fs_err::read_to_string(root.join("start")).unwrap().parse().unwrap();
    for round in start.. {
        let one = content(round);
        let two = content(round / 3);
        commit(&store, &format!("app:{round}"), &[&one, &two]);
        writeln!(out, "committed {round}").unwrap();
        out.flush().unwrap();
        if round % 4 == 3 {
            writeln!(out, "removing {}", round - 2).unwrap();
            out.flush().unwrap();
            store
                .edit_images(|edit| edit.untag(&reference(&format!("app:{}", round - 2))))
                .unwrap();
            store.collect(&GcOptions::default()).unwrap();
            writeln!(out, "removed {}", round - 2).unwrap();
            out.flush().unwrap();
        }
    }
}

fn content(round: u32) -> Vec<u8> {
    format!("layer {round} ").repeat(2000).into_bytes()
}

fn commit(store: &Store, name: &str, layers: &[&[u8]]) {
    let lease = store.lease("test").unwrap();
    for (position, content) in layers.iter().enumerate() {
        let durability = if position == 0 { Durability::Durable } else { Durability::Lazy };
        let ingest = store.begin_layer(&lease).unwrap();
        ingest.create_tar().unwrap().write_all(content).unwrap();
        ingest.create_table().unwrap().write_all(b"table").unwrap();
        ingest.commit(&facts(content, durability)).unwrap();
    }
    let (documents, target) = image(layers);
    let tags = vec![TagUpdate { reference: reference(name), target }];
    store.commit_images(&lease, &ImageCommit { documents, tags, ..Default::default() }).unwrap();
}

fn spawn(temp: &TempDir) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child", "--nocapture", "--test-threads=1"])
        .env(CHILD, temp.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets a child commit once; how long it takes until then.
fn first_commit(temp: &TempDir) -> Duration {
    fs_err::write(temp.join("start"), "0").unwrap();
    let since = Instant::now();
    let mut child = spawn(temp);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("committed 0")));
    let elapsed = since.elapsed();
    child.kill().unwrap();
    child.wait().unwrap();
    elapsed
}

#[test]
fn killed_at_random_instants() {
    let temp = TempDir::new();
    let (mut committed, mut removed) = (std::collections::BTreeSet::new(), None);
    let mut seed = u64::from(std::process::id());
    committed.insert(0);
    let span = u64::try_from(6 * first_commit(&temp).as_micros()).unwrap();
    for kill in 0..davit_test::kills(KILLS) {
        let next: u32 = committed.last().map_or(0, |last: &u32| last + 1);
        fs_err::write(temp.join("start"), next.to_string()).unwrap();
        let mut child = spawn(&temp);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let delay = Duration::from_micros((seed >> 33) % span);
        let pid = rustix::process::Pid::from_child(&child);
        let killer = std::thread::spawn(move || {
            // The one place where time must pass: the instant of the kill is the test's input.
            std::thread::sleep(delay);
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        });
        for line in lines.map_while(Result::ok) {
            // The harness prints the test's name on the first line of its output.
            let Some((_, rest)) = line.rsplit_once("committed ").map_or_else(
                || line.rsplit_once("remov").map(|(_, rest)| ("", rest)),
                |(_, round)| {
                    committed.insert(round.parse::<u32>().unwrap());
                    Some(("", ""))
                },
            ) else {
                continue;
            };
            if let Some(round) = rest.strip_prefix("ing ") {
                removed = Some(round.parse::<u32>().unwrap());
                committed.remove(&removed.unwrap());
            }
        }
        killer.join().unwrap();
        child.wait().unwrap();
        verify(&temp, &committed, kill);
    }
    assert!(committed.len() > 10, "the child came too seldom to its work: {committed:?}");
    assert!(removed.is_some(), "no removal was ever under way");
}

/// The next process works, finds no fault, and finds everything that was reported done.
fn verify(temp: &TempDir, committed: &std::collections::BTreeSet<u32>, kill: usize) {
    let store = open(temp);
    for round in committed {
        let found = store.find_image(&format!("app:{round}"));
        let target = found.unwrap_or_else(|e| panic!("after kill {kill}: {e}")).target;
        for layer in store.image_layers(&target.image_id.unwrap()).unwrap() {
            let row = store.layer(&layer).unwrap().expect("a tagged image has its layers");
            assert_eq!(row.durable_boot, None);
        }
    }
    let report = store.check(&CheckOptions::default()).unwrap();
    assert_eq!(report.faults, [], "after kill {kill}");
    store.collect(&GcOptions::default()).unwrap();
    let unfinished = fs_err::read_dir(temp.join("root/tmp")).unwrap().count();
    assert_eq!(unfinished, 0, "after kill {kill}");
}

/// Power is lost while nothing is being written: whatever was not synced is cut or zeroed.
#[test]
fn power_loss_takes_only_what_was_not_durable() {
    let temp = TempDir::new();
    {
        let store = open(&temp);
        tagged_image(&store, "kept:1", &[b"one", b"two"]);
        let lease = store.lease("build").unwrap();
        for content in [&b"three"[..], b"four", b"five"] {
            crate::fixture::layer(&store, &lease, content, Durability::Lazy);
        }
        let layout = store.layout();
        crate::fixture::overwrite(&layout.layer_tar(&diff_id(b"three")), b"\0\0\0\0\0");
        fs_err::remove_dir_all(layout.layer(&diff_id(b"four"))).unwrap();
        std::mem::forget(lease);
    }
    let store = crate::fixture::reopen_after_reboot(&temp);
    let lease = store.lease("test").unwrap();
    assert!(lease.hold_layer(&diff_id(b"three")).unwrap().is_none());
    assert!(lease.hold_layer(&diff_id(b"four")).unwrap().is_none());
    assert!(lease.hold_layer(&diff_id(b"five")).unwrap().is_some());
    store.find_image("kept:1").unwrap();
    assert_eq!(store.check(&CheckOptions::default()).unwrap().faults, []);
    drop(lease);
    let report = store.collect(&GcOptions::default()).unwrap();
    assert_eq!(report.layers, [diff_id(b"five")], "the build's lease died with its boot");
}

#[test]
fn a_sweep_leaves_what_somebody_writes() {
    let temp = TempDir::new();
    let (one, two) = (open(&temp), open(&temp));
    let lease = one.lease("test").unwrap();
    let ingest = one.begin_layer(&lease).unwrap();
    ingest.create_tar().unwrap().write_all(b"one").unwrap();
    ingest.create_table().unwrap();
    fs_err::create_dir(temp.join("root/tmp/layer-of-a-dead-process")).unwrap();
    fs_err::write(temp.join("root/tmp/gone-0"), "x").unwrap();
    let report = two.sweep_orphans(Partials::All).unwrap();
    assert_eq!(report.unfinished, 2);
    ingest.commit(&facts(b"one", Durability::Durable)).unwrap();
}

/// On a tmpfs of a few MiB, in a mount namespace of its own.
#[test]
fn a_full_disk_is_a_clear_error_and_costs_nothing() {
    if !davit_test::need_root() {
        return;
    }
    let temp = TempDir::new();
    let script = "mount -t tmpfs -o size=6m davit-test \"$0\" && exec \"$@\"";
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", script])
        .arg(temp.path())
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_on_a_small_disk", "--nocapture"])
        .env(CHILD, temp.path())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn child_on_a_small_disk() {
    #[allow(clippy::disallowed_methods, reason = "a test's child is told its part by its parent")]
    let Some(path) = std::env::var_os(CHILD) else { return };
    let path = PathBuf::from(path);
    let open = || Store::open(StoreOptions::new(path.join("root"), path.join("run"))).unwrap();
    let store = open();
    tagged_image(&store, "kept:1", &[b"one"]);
    let before = free(&path);
    // Different sizes hit the end of the disk in different steps.
    for size in [700_000_usize, 1_300_000, 2_900_000, 5_500_000, 9_000_000] {
        let mut errors = 0;
        for round in 0..40_usize {
            let content = vec![u8::try_from(round).unwrap(); size];
            match try_commit(&store, &format!("big:{round}"), &content) {
                Ok(()) => {}
                Err(error) => {
                    assert!(error.is_no_space(), "{error:?}");
                    errors += 1;
                    break;
                }
            }
        }
        assert_eq!(errors, 1, "{size} bytes never filled the disk");
        store.find_image("kept:1").unwrap();
        assert_eq!(store.check(&CheckOptions::default()).unwrap().faults, []);
        for row in store.images().unwrap() {
            if row.layers != [diff_id(b"one")] {
                store.edit_images(|edit| edit.forget(&row.id)).unwrap();
            }
        }
        store.collect(&GcOptions::default()).unwrap();
        store.sweep(Partials::All).unwrap();
        // The database and its log may have grown.
        assert!(free(&path) + 1_500_000 > before, "{} of {before} bytes came back", free(&path));
    }
    drop(store);
    open().find_image("kept:1").unwrap();
}

fn free(path: &Path) -> u64 {
    let facts = rustix::fs::statvfs(path).unwrap();
    facts.f_bavail * facts.f_frsize
}

fn try_commit(store: &Store, name: &str, content: &[u8]) -> Result<(), StoreError> {
    let lease = store.lease("test")?;
    let digest = Digest::of(content);
    // The compressed blob and the layer, as a pull has both.
    let mut blob = store.begin_new_blob(&lease)?;
    blob.append(&content[..content.len() / 3])?;
    let blob_digest = Digest::of(&content[..content.len() / 3]);
    blob.commit(&blob_digest, None, Durability::Lazy)?;
    let ingest = store.begin_layer(&lease)?;
    let path = ingest.tar_path();
    ingest.create_tar()?.write_all(content).map_err(|source| StoreError::NoSpace {
        action: "write",
        path,
        source,
    })?;
    ingest.create_table()?;
    ingest.commit(&facts(content, Durability::Lazy))?;
    assert!(store.layer(&davit_image::DiffId::new(digest))?.is_some());
    let (documents, target) = image(&[content]);
    let tags = vec![TagUpdate { reference: reference(name), target }];
    store.commit_images(&lease, &ImageCommit { documents, tags, ..Default::default() })
}

#[test]
fn an_unreadable_file_names_its_path() {
    let temp = TempDir::new();
    let store = open(&temp);
    let lease = store.lease("test").unwrap();
    let digest = store.put_blob(&lease, b"hello", None, Durability::Durable).unwrap();
    fs_err::remove_file(store.layout().blob(&digest)).unwrap();
    fs_err::create_dir(store.layout().blob(&digest)).unwrap();
    let error = store.read_blob(&digest, 5).unwrap_err();
    assert!(error.to_string().contains(&digest.hex()), "{error}");
    assert!(!content_files(&temp).is_empty() || temp.path().exists());
}
