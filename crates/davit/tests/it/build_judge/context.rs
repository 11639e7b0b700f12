//! Contexts and the base image, made on disk with fixed times.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid};

/// Time of the first entry; each further one is a second later.
const FIRST_TIME: i64 = 1_600_000_000;

/// A static busybox of this machine; a skip where there is none.
pub(crate) fn busybox() -> Option<PathBuf> {
    davit_test::need_tool("busybox")
}

fn unescape(text: &str) -> OsString {
    OsString::from_vec(text.replace("\\s", " ").replace("\\n", "\n").into_bytes())
}

/// Makes a context from its plan (see `context.txt`).
pub(super) fn make(plan: &str, root: &Path) {
    fs_err::create_dir_all(root).unwrap();
    let mut times = Vec::new();
    for (line, time) in plan.lines().filter(|line| !line.starts_with('#')).zip(FIRST_TIME..) {
        let mut words = line.splitn(4, ' ');
        let kind = words.next().unwrap();
        let mode = u32::from_str_radix(words.next().unwrap(), 8).unwrap();
        let path = root.join(unescape(words.next().unwrap()));
        let rest = unescape(words.next().unwrap_or_default());
        if kind == "tar" {
            // What it holds has its times before it is packed.
            set_times(&times);
        }
        entry(kind, &path, &rest, root);
        if kind != "link" {
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).unwrap();
        }
        times.push((path, time));
    }
    set_times(&times);
    set_time(root, FIRST_TIME);
}

/// From the last to the first: a directory's time changes when something is made in it.
fn set_times(times: &[(PathBuf, i64)]) {
    for (path, time) in times.iter().rev() {
        set_time(path, *time);
    }
}

/// Makes the context of all cases without one of their own.
pub(super) fn shared(root: &Path) -> PathBuf {
    make(&fs_err::read_to_string(super::data().join("context.txt")).unwrap(), root);
    root.to_path_buf()
}

fn entry(kind: &str, path: &Path, rest: &OsString, root: &Path) {
    match kind {
        "dir" => fs_err::create_dir(path).unwrap(),
        "file" => fs_err::write(path, rest.as_encoded_bytes()).unwrap(),
        "link" => std::os::unix::fs::symlink(rest, path).unwrap(),
        "hard" => fs_err::hard_link(root.join(rest), path).unwrap(),
        "fifo" => {
            rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        }
        "socket" => {
            rustix::fs::mknodat(CWD, path, FileType::Socket, Mode::from_raw_mode(0o644), 0)
                .unwrap();
        }
        "archive" => archive(path),
        "tar" => pack(&root.join(rest), path),
        _ => panic!("no kind {kind}"),
    }
}

fn set_time(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn own(path: &Path, uid: u32, gid: u32) {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Writes a tar with owners, links and a file whose directories are not in it; compressed as its
/// name says.
fn archive(path: &Path) {
    let work = davit_test::TempDir::new();
    let plan = "dir 0751 inner\nfile 0640 inner/file in\\star\\n\nlink 0777 inner/link file\n\
                hard 0640 inner/same inner/file\nfile 0600 top top\\n\ndir 0755 deep\n\
                dir 0755 deep/implied\nfile 0644 deep/implied/file deep\\n\nfile 4755 suid s\\n\n";
    make(plan, work.path());
    for name in ["inner", "inner/file", "inner/link", "suid"] {
        own(&work.join(name), 3, 4);
    }
    // A change of owner takes the bit away.
    rustix::fs::chmod(work.join("suid"), Mode::from_raw_mode(0o4755)).unwrap();
    let name = path.file_name().unwrap().to_string_lossy();
    let compress = match name.rsplit('.').next() {
        Some("gz") => &["--gzip"][..],
        Some("bz2") => &["--bzip2"],
        Some("xz") => &["--xz"],
        _ => &[],
    };
    tar(
        work.path(),
        path,
        compress,
        &["inner", "inner/file", "inner/link", "inner/same", "top", "deep/implied/file", "suid"],
    );
}

/// Writes a tar of what lies in a directory.
fn pack(folder: &Path, output: &Path) {
    let names = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<OsString> = names.collect();
    names.sort();
    let mut command = Command::new("tar");
    command.args(["--create", "--sort=name", "--numeric-owner", "--format=gnu", "--file"]);
    command.arg(output).arg("--directory").arg(folder).args(names);
    assert!(command.status().unwrap().success(), "{command:?}");
}

fn tar(folder: &Path, output: &Path, options: &[&str], names: &[&str]) {
    let mut command = Command::new("tar");
    command.args(["--create", "--no-recursion", "--numeric-owner", "--format=gnu", "--file"]);
    command.arg(output).arg("--directory").arg(folder).args(options).args(names);
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// Writes the archive of the image `base:latest`: a busybox with users and some files.
pub(crate) fn make_base(busybox: &Path, output: &Path, work: &Path) {
    let root = work.join("root");
    make(BASE, &root);
    fs_err::copy(busybox, root.join("bin/busybox")).unwrap();
    rustix::fs::chmod(root.join("bin/busybox"), Mode::from_raw_mode(0o755)).unwrap();
    for applet in APPLETS {
        let path = root.join("bin").join(applet);
        std::os::unix::fs::symlink("busybox", &path).unwrap();
        set_time(&path, FIRST_TIME);
    }
    for (name, uid, gid) in [("home/app", 100, 101), ("srv/deep/file", 100, 101)] {
        own(&root.join(name), uid, gid);
    }
    set_time(&root.join("bin/busybox"), FIRST_TIME);
    set_time(&root.join("bin"), FIRST_TIME);
    let mut names: Vec<String> =
        BASE.lines().map(|line| line.split(' ').nth(2).unwrap().to_owned()).collect();
    names.push("bin/busybox".to_owned());
    names.extend(APPLETS.iter().map(|applet| format!("bin/{applet}")));
    names.sort();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    tar(&root, &work.join("layer.tar"), &[], &names);
    let layer = fs_err::read(work.join("layer.tar")).unwrap();
    let config = serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "2020-09-13T12:26:40Z",
        "config": {
            "Env": ["PATH=/usr/bin:/bin", "BASE=yes"],
            "Cmd": ["/bin/sh"],
            "Labels": {"base": "1"},
        },
        "history": [{"created": "2020-09-13T12:26:40Z", "created_by": "base"}],
        "rootfs": {"type": "layers", "diff_ids": [davit_engine::image::Digest::of(&layer).to_string()]},
    });
    let manifest = serde_json::json!([
        {"Config": "config.json", "RepoTags": ["base:latest"], "Layers": ["layer.tar"]}
    ]);
    fs_err::write(work.join("config.json"), config.to_string()).unwrap();
    fs_err::write(work.join("manifest.json"), manifest.to_string()).unwrap();
    tar(work, output, &[], &["manifest.json", "config.json", "layer.tar"]);
    make_layout(&work.join("layout"), &layer, config.to_string().as_bytes());
}

/// The digest of a base image's manifest lies beside its layout.
pub(super) fn base_digest(layout: &Path) -> String {
    fs_err::read_to_string(layout.with_extension("digest")).unwrap()
}

/// Writes an image of one layer as an OCI layout.
fn make_layout(root: &Path, layer: &[u8], config: &[u8]) {
    fs_err::create_dir_all(root.join("blobs/sha256")).unwrap();
    let blob = |media_type: &str, bytes: &[u8]| {
        let digest = davit_engine::image::Digest::of(bytes).to_string();
        fs_err::write(root.join("blobs").join(digest.replace(':', "/")), bytes).unwrap();
        let media_type = format!("application/vnd.oci.image.{media_type}");
        serde_json::json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", config),
        "layers": [blob("layer.v1.tar", layer)],
    });
    let manifest = blob("manifest.v1+json", manifest.to_string().as_bytes());
    fs_err::write(root.with_extension("digest"), manifest["digest"].as_str().unwrap()).unwrap();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    fs_err::write(root.join("index.json"), index.to_string()).unwrap();
    fs_err::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

const BASE: &str = "dir 0755 bin\ndir 0755 etc\n\
    file 0644 etc/passwd root:x:0:0:root:/root:/bin/sh\\napp:x:100:101:App:/home/app:/bin/sh\\n\n\
    file 0644 etc/group root:x:0:\\napp:x:101:\\nstaff:x:50:app\\nwheel:x:10:root,app\\n\n\
    file 0644 etc/motd hello\\n\ndir 0700 root\ndir 0755 home\ndir 0750 home/app\ndir 0755 dev\n\
    dir 0755 proc\ndir 0755 sys\ndir 1777 tmp\ndir 0755 srv\ndir 0750 srv/deep\n\
    file 0640 srv/deep/file deep\\n\ndir 0755 srv/deep/er\nfile 0644 srv/deep/er/file er\\n\n";

const APPLETS: [&str; 25] = [
    "cat", "chmod", "chown", "cp", "echo", "env", "false", "id", "ln", "ls", "mkdir", "mkfifo",
    "mknod", "mv", "pwd", "rm", "sed", "sh", "sleep", "stat", "test", "touch", "tr", "true",
    "umask",
];
