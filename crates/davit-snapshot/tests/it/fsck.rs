//! `fsck.erofs` of erofs-utils 1.8 or later; Debian 12's 1.5 knows no 512-byte blocks.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The command, from PATH or from the cached trixie root; records a skip where there is none.
pub(crate) fn command() -> Option<Command> {
    static FOUND: OnceLock<Option<(PathBuf, Vec<OsString>)>> = OnceLock::new();
    let Some((program, arguments)) = FOUND.get_or_init(find) else {
        davit_test::skip("fsck.erofs 1.8 or later is neither on PATH nor in the cache");
        return None;
    };
    let mut command = Command::new(program);
    command.args(arguments);
    Some(command)
}

/// The program and its first arguments.
fn find() -> Option<(PathBuf, Vec<OsString>)> {
    let root = davit_test::cache_dir().join("erofs-trixie");
    let cached = root.join("usr/bin/fsck.erofs");
    if let Some(own) = davit_test::find_tool("fsck.erofs").filter(|program| is_new(program)) {
        return Some((own, Vec::new()));
    }
    make(&root);
    let libraries = root.join("usr/lib/x86_64-linux-gnu").into_os_string();
    let arguments = vec!["--library-path".into(), libraries, cached.clone().into_os_string()];
    cached.exists().then(|| (root.join("usr/lib64/ld-linux-x86-64.so.2"), arguments))
}

/// Makes a root of Debian trixie with erofs-utils, once for all runs; fails quietly without the
/// tool or a mirror.
fn make(root: &Path) {
    let Some(mmdebstrap) = davit_test::find_tool("mmdebstrap").filter(|_| !root.exists()) else {
        return;
    };
    let partial = root.with_extension(std::process::id().to_string());
    let made = Command::new(mmdebstrap)
        .args(["--variant=apt", "--include=erofs-utils", "trixie"])
        .arg(&partial)
        .output();
    if made.is_ok_and(|output| output.status.success()) {
        let _another_was_first = fs_err::rename(&partial, root);
    }
    if partial.exists() {
        let _best_effort = fs_err::remove_dir_all(&partial);
    }
}

fn is_new(program: &Path) -> bool {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let version = text.ok().and_then(|text| {
        let number =
            text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        number.split('.').nth(1)?.parse::<u32>().ok()
    });
    version.is_some_and(|minor| minor >= 8)
}

/// Fails unless `fsck.erofs` accepts the tree with its devices; without it nothing is checked.
pub(crate) fn check(tree: &Path, devices: &[&Path]) {
    let Some(mut command) = command() else { return };
    let copy = tree.with_extension("fsck");
    fs_err::write(&copy, without_checksum(fs_err::read(tree).unwrap())).unwrap();
    for device in devices {
        command.arg(format!("--device={}", device.display()));
    }
    let output = command.arg(&copy).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}: {text}");
}

/// erofs-utils 1.8 subtracts the superblock's offset from the block size before it sums, and ends
/// by a fault at blocks of 512 bytes (its own `mkfs.erofs -b512` writes no checksum). The kernel
/// and our reader check it.
fn without_checksum(mut tree: Vec<u8>) -> Vec<u8> {
    tree[1024 + 4..1024 + 8].fill(0);
    tree[1024 + 8] &= !1;
    tree
}
