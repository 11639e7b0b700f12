//! Processes that share a store: each blob is written by one of them, whoever of them is killed.

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use davit_image::Digest;
use davit_store::{BlobBegin, Durability, Store, StoreOptions};
use davit_test::TempDir;

use crate::fixture::open;

/// Names the root for a child, and what it does there.
const ROOT: &str = "DAVIT_STORE_TEST_SHARER";
const PART: &str = "DAVIT_STORE_TEST_PART";
const BLOBS: usize = 24;

fn content(number: usize) -> Vec<u8> {
    format!("blob {number} ").repeat(500 + 37 * number).into_bytes()
}

/// A process that wants all blobs, or stops in the middle of one.
#[test]
#[allow(clippy::disallowed_methods, reason = "a test's child is told its part by its parent")]
fn sharer() {
    let Some(root) = std::env::var_os(ROOT) else { return };
    let root = PathBuf::from(root);
    let store = Store::open(StoreOptions::new(root.join("root"), root.join("run"))).unwrap();
    match std::env::var(PART).unwrap().as_str() {
        "all" => want_all(&store),
        _ => stop_halfway(&store),
    }
}

fn want_all(store: &Store) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nready").unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let lease = store.lease("share").unwrap();
    for number in 0..BLOBS {
        let bytes = content(number);
        let digest = Digest::of(&bytes);
        loop {
            match store.begin_blob(&lease, &digest, bytes.len() as u64).unwrap() {
                BlobBegin::Owner(mut ingest) => {
                    assert_eq!(ingest.resumed(), 0);
                    bytes.chunks(997).for_each(|piece| ingest.append(piece).unwrap());
                    ingest.commit(&digest, None, Durability::Lazy).unwrap();
                    writeln!(out, "wrote {number}").unwrap();
                }
                BlobBegin::Busy(wait) => assert!(wait.wait(Duration::from_secs(120)).unwrap()),
                BlobBegin::Present(record) => {
                    assert_eq!(record.size, bytes.len() as u64);
                    assert_eq!(store.read_blob(&digest, record.size).unwrap(), bytes);
                    break;
                }
            }
        }
    }
    writeln!(out, "has all").unwrap();
}

fn stop_halfway(store: &Store) {
    let lease = store.lease("share").unwrap();
    let bytes = content(1);
    let begun = store.begin_blob(&lease, &Digest::of(&bytes), bytes.len() as u64).unwrap();
    let BlobBegin::Owner(mut ingest) = begun else { panic!("{begun:?}") };
    ingest.append(&bytes[..1000]).unwrap();
    std::io::stdout().write_all(b"\nhalfway\n").unwrap();
    // Until it is killed.
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

fn start(temp: &TempDir, part: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::sharer", "--nocapture", "--test-threads=1"])
        .env(ROOT, temp.path())
        .env(PART, part)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

fn await_line(lines: &mut Lines<BufReader<ChildStdout>>, wanted: &str) {
    assert!(lines.any(|line| line.unwrap().ends_with(wanted)), "it never said `{wanted}`");
}

#[test]
fn each_blob_is_written_by_one_process() {
    let temp = TempDir::new();
    let store = open(&temp);
    let mut sharers: Vec<_> = (0..4).map(|_| start(&temp, "all")).collect();
    sharers.iter_mut().for_each(|(_, lines)| await_line(lines, "ready"));
    for (child, _) in &mut sharers {
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    }
    let mut written: Vec<_> = Vec::new();
    for (child, lines) in &mut sharers {
        let told: Vec<String> = lines.map(Result::unwrap).collect();
        assert!(told.iter().any(|line| line.ends_with("has all")), "{told:?}");
        let numbers =
            told.iter().filter_map(|line| line.split_once("wrote ")?.1.parse::<usize>().ok());
        written.extend(numbers);
        assert!(child.wait().unwrap().success());
    }
    written.sort_unstable();
    assert_eq!(written, (0..BLOBS).collect::<Vec<usize>>());
    drop(store);
}

#[test]
fn a_killed_process_hands_its_blob_on() {
    let temp = TempDir::new();
    let store = open(&temp);
    let (mut child, mut lines) = start(&temp, "half");
    await_line(&mut lines, "halfway");
    let lease = store.lease("test").unwrap();
    let bytes = content(1);
    let digest = Digest::of(&bytes);
    let begin = || store.begin_blob(&lease, &digest, bytes.len() as u64).unwrap();
    let BlobBegin::Busy(wait) = begin() else { panic!("the other process has it") };
    assert_eq!(wait.progress(), 1000);
    assert!(!wait.wait(Duration::ZERO).unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(wait.wait(Duration::from_secs(120)).unwrap());
    let BlobBegin::Owner(mut ingest) = begin() else { panic!("it is dead") };
    assert_eq!(ingest.resumed(), 1000);
    ingest.append(&bytes[1000..]).unwrap();
    ingest.commit(&digest, None, Durability::Durable).unwrap();
    assert!(matches!(begin(), BlobBegin::Present(_)));
}
