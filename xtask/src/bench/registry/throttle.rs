//! A disk of a known speed: blkio of cgroup v1 bounds what this process and its children write, where
//! that goes past the page cache (Linux, Documentation/admin-guide/cgroup-v1/blkio-controller.rst).

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

const CONTROLLER: &str = "/sys/fs/cgroup/blkio";

/// As long as it lives, writes are bounded.
pub(super) struct Throttle {
    group: PathBuf,
}

impl Throttle {
    /// Whether this machine can do it.
    pub(super) fn is_possible() -> bool {
        rustix::fs::access(CONTROLLER, rustix::fs::Access::WRITE_OK).is_ok()
    }

    /// Bounds writes to the disk that has the folder.
    pub(super) fn start(folder: &Path, bytes_per_second: usize) -> Result<Self> {
        let group = Path::new(CONTROLLER).join(format!("davit-bench-{}", std::process::id()));
        fs_err::create_dir(&group)?;
        let throttle = Self { group };
        let limit = format!("{} {bytes_per_second}", disk(folder)?);
        fs_err::write(throttle.group.join("blkio.throttle.write_bps_device"), limit)?;
        enter(&throttle.group)?;
        Ok(throttle)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        let left = enter(Path::new(CONTROLLER)).and_then(|()| Ok(fs_err::remove_dir(&self.group)?));
        if let Err(error) = left {
            eprintln!("{} stays: {error:#}", self.group.display());
        }
    }
}

fn enter(group: &Path) -> Result<()> {
    Ok(fs_err::write(group.join("cgroup.procs"), std::process::id().to_string())?)
}

/// Major and minor number of the whole disk, which are what is bounded, not a part's.
fn disk(folder: &Path) -> Result<String> {
    let device = fs_err::metadata(folder)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let part = fs_err::canonicalize(format!("/sys/dev/block/{major}:{minor}"))?;
    let whole = if part.join("partition").exists() { part.parent() } else { Some(&*part) };
    let numbers = fs_err::read_to_string(whole.context("a part has a disk")?.join("dev"))?;
    Ok(numbers.trim().to_owned())
}
