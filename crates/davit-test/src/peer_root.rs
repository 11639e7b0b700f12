//! Debian roots made of its packages: one as an image's base, and one with peers that are newer than the
//! machine's own.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{cache_dir, find_tool, need_root, need_tool, skip};

const PACKAGES: &str = "docker.io,docker-cli,docker-buildx,buildah,iptables,ca-certificates,\
    netavark,crun,busybox-static,xz-utils";

/// A root with Docker 26, buildx 0.13 and buildah 1.39: from the cache, or made now by mmdebstrap
/// (half a minute). Records a skip where it cannot be had.
///
/// # Panics
/// If the cache folder cannot be written.
#[must_use]
pub fn need_peer_root() -> Option<PathBuf> {
    if !need_root() {
        return None;
    }
    let root = cache_dir().join("peer-trixie-2");
    if !root.join("usr/bin/busybox").exists() && !bootstrap(&root) {
        skip("a Debian trixie root with docker.io cannot be made here");
        return None;
    }
    Some(root)
}

/// A tar of Debian's base: from the cache, or made now by mmdebstrap. Records a skip where it cannot be
/// had.
///
/// # Panics
/// If the cache folder cannot be written.
#[must_use]
pub fn need_debian_root() -> Option<PathBuf> {
    let path = cache_dir().join("debian-rootfs.tar");
    if path.exists() {
        return Some(path);
    }
    let mmdebstrap = need_tool("mmdebstrap")?;
    let partial = cache_dir().join(format!("debian-{}.tar", std::process::id()));
    let made =
        Command::new(mmdebstrap).args(["--variant=minbase", "bookworm"]).arg(&partial).output();
    if !made.is_ok_and(|output| output.status.success()) {
        skip("mmdebstrap cannot make a Debian root here");
        return None;
    }
    fs_err::rename(partial, &path).expect("the cache folder can be written");
    Some(path)
}

/// Makes the root; `false` where it cannot be made.
fn bootstrap(root: &Path) -> bool {
    if find_tool("mmdebstrap").is_none() {
        return false;
    }
    let partial = root.with_extension("partial");
    if partial.exists() {
        fs_err::remove_dir_all(&partial).expect("the cache folder can be written");
    }
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase", &format!("--include={PACKAGES}"), "trixie"]);
    command.arg(&partial).args(mirror()).stdout(Stdio::null()).stderr(Stdio::null());
    let made = command.status().is_ok_and(|status| status.success());
    made && fs_err::rename(partial, root).is_ok()
}

/// The mirror of this machine's own Debian sources, where they name one.
fn mirror() -> Option<String> {
    let folder = Path::new("/etc/apt/sources.list.d");
    let files = fs_err::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let texts = files.chain([PathBuf::from("/etc/apt/sources.list")]);
    let texts: Vec<String> = texts.filter_map(|path| fs_err::read_to_string(path).ok()).collect();
    let words = texts.iter().flat_map(|text| text.split_whitespace());
    let mut mirrors = words.filter(|word| word.starts_with("http"));
    mirrors.find(|word| word.trim_end_matches('/').ends_with("/debian")).map(str::to_owned)
}
