//! The order of system calls: data is synced, then renamed, then the directory is synced, then the
//! database commits.

use std::process::{Command, Stdio};

use davit_store::{Durability, Store, StoreOptions};
use davit_test::TempDir;

use crate::fixture::layer;

const CHILD: &str = "DAVIT_STORE_TEST_TRACED";

#[test]
fn traced_child() {
    #[allow(clippy::disallowed_methods, reason = "a test's child is told its part by its parent")]
    let Some(root) = std::env::var_os(CHILD) else { return };
    let root = std::path::PathBuf::from(root);
    let store = Store::open(StoreOptions::new(root.join("root"), root.join("run"))).unwrap();
    let lease = store.lease("test").unwrap();
    layer(&store, &lease, b"traced", Durability::Durable);
}

#[test]
fn syncs_before_it_renames_and_renames_before_it_commits() {
    let Some(strace) = davit_test::need_tool("strace") else { return };
    let temp = TempDir::new();
    let trace = temp.join("trace");
    let status = Command::new(strace)
        .args(["-f", "-y", "-s", "0", "-e"])
        .arg("trace=fsync,fdatasync,rename,renameat,renameat2,pwrite64,write")
        .arg("-o")
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "trace::traced_child", "--nocapture"])
        .env(CHILD, temp.path())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let trace = fs_err::read_to_string(&trace).unwrap();
    let lines: Vec<&str> = trace.lines().collect();
    let find = |from: usize, what: &dyn Fn(&str) -> bool, name: &str| {
        let found = lines[from..].iter().position(|line| what(line));
        from + found.unwrap_or_else(|| panic!("no {name} after line {from} of\n{trace}"))
    };
    let syncs = |line: &str, path: &str| line.contains("sync(") && line.contains(path);
    let tar = find(0, &|line| syncs(line, "/tar>"), "sync of the tar");
    let table = find(0, &|line| syncs(line, "/table>"), "sync of the table");
    let data = tar.max(table);
    let ingest = find(data, &|line| syncs(line, "/tmp/layer-"), "sync of the ingest directory");
    let rename =
        find(ingest, &|line| line.contains("rename") && line.contains("/layers/"), "rename");
    let parent = find(rename, &|line| syncs(line, "/layers/sha256>"), "sync of the parent");
    let commit = find(parent, &|line| syncs(line, "davit.db-wal>"), "sync of the database's log");
    assert!(commit > parent);
    let written_after = lines[data..]
        .iter()
        .any(|line| line.contains("write") && (line.contains("/tar>") || line.contains("/table>")));
    assert!(!written_after, "content was written after its sync");
}
