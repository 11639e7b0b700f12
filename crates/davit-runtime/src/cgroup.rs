//! Cgroups: version 2 for tracking, killing, freezing and devices; version 1 only for limits that
//! were asked and that version 2 lacks (a hybrid machine).
//!
//! Attaching to a hierarchy of version 1 waits for a grace period (10 ms), being born in a cgroup of
//! version 2 costs nothing: a container without limits never touches version 1. Where no hierarchy
//! of version 2 is mounted davit mounts it for itself, detached.

mod devices;
mod directory;
mod discover;
mod group;
mod settings;
mod stats;

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd as _, BorrowedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use thiserror::Error;

use self::directory::Directory;
use self::settings::Controller;
pub use self::stats::Stats;
use crate::plan::{DeviceRule, Limits};

/// How long removing waits for members that are dying.
const REMOVE_PATIENCE: Duration = Duration::from_secs(2);
/// How often a cgroup is tried whose parent vanishes.
const MAKE_ATTEMPTS: u32 = 3;
/// A cgroup operation that failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// No cgroup filesystem is there.
    #[error("no cgroup hierarchy is mounted")]
    NoHierarchy,
    /// A limit was asked whose controller the machine lacks.
    #[error("the machine has no cgroup controller for {0}")]
    NoController(&'static str),
    /// A path that would leave the hierarchy.
    #[error("cgroup path {0:?}")]
    Path(String),
    /// A cgroup of that name has members.
    #[error("cgroup {0} exists and has processes")]
    InUse(PathBuf),
    /// A file or directory of the hierarchy.
    #[error("{path}")]
    Io {
        /// File or directory.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A limit that the kernel refuses.
    #[error("{value:?} for {path}")]
    Limit {
        /// File.
        path: PathBuf,
        /// What was written.
        value: String,
        /// Cause.
        source: io::Error,
    },
    /// The device filter.
    #[error("device filter of cgroup {path}")]
    Devices {
        /// Directory.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
}

impl CgroupError {
    /// Whether the cgroup does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// The machine's hierarchies; found once per process.
#[derive(Debug)]
pub struct Cgroups {
    unified: Directory,
    /// Controllers of version 2.
    controllers: Vec<String>,
    v1: Vec<Hierarchy>,
}

/// A hierarchy of version 1.
#[derive(Debug)]
struct Hierarchy {
    controllers: Vec<String>,
    directory: Directory,
}

/// A cgroup of ours: one directory per hierarchy in use.
#[derive(Debug)]
pub struct Cgroup {
    path: String,
    unified: Directory,
    controllers: Vec<String>,
    v1: Vec<Hierarchy>,
}

impl Cgroups {
    /// Reads `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`] where version 2 is neither mounted nor can be.
    pub fn discover() -> Result<Self, CgroupError> {
        discover::discover()
    }

    /// Version as `docker info` shows it: 2 where every controller is in the unified hierarchy,
    /// else 1.
    #[must_use]
    pub fn version(&self) -> u8 {
        if self.v1.iter().any(|hierarchy| !hierarchy.controllers.is_empty()) { 1 } else { 2 }
    }

    /// Names of the controllers that limits can be set with, of both versions, sorted.
    #[must_use]
    pub fn controllers(&self) -> Vec<&str> {
        let v1 = self.v1.iter().flat_map(|hierarchy| &hierarchy.controllers);
        let mut names: Vec<&str> = self.controllers.iter().chain(v1).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The root of the unified hierarchy.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.unified.as_fd()
    }

    /// Makes a cgroup with limits; parents too. One of that name without members is replaced.
    ///
    /// # Errors
    /// [`CgroupError`]; nothing but parents is left behind.
    pub fn create(&self, path: &str, limits: &Limits) -> Result<Cgroup, CgroupError> {
        let settings = settings::needed(limits);
        let mut cgroup = self.make(path, &settings)?;
        match self.equip(&mut cgroup, limits, &settings) {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                // The first error counts; the directory is empty, so this works.
                drop(cgroup.remove());
                Err(error)
            }
        }
    }

    /// Opens a cgroup without limits of its own, made if missing: where monitors live.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn open_or_create(&self, path: &str) -> Result<Cgroup, CgroupError> {
        match self.open(path) {
            Err(error) if error.is_not_found() => match self.make(path, &[]) {
                // Somebody else made it meanwhile and lives in it.
                Err(CgroupError::InUse(_)) => self.open(path),
                result => result,
            },
            result => result,
        }
    }

    /// Makes the directory in the unified hierarchy.
    fn make(&self, path: &str, settings: &[Controller]) -> Result<Cgroup, CgroupError> {
        for _ in 0..MAKE_ATTEMPTS {
            match self.make_once(path, settings) {
                // A prune removed the empty parent in between.
                Err(error) if error.is_not_found() => {}
                result => return result,
            }
        }
        self.make_once(path, settings)
    }

    fn make_once(&self, path: &str, settings: &[Controller]) -> Result<Cgroup, CgroupError> {
        let components = components(path)?;
        let (last, parents) =
            components.split_last().ok_or_else(|| CgroupError::Path(path.to_owned()))?;
        let mut directory = self.unified.try_clone()?;
        self.delegate(&directory, settings)?;
        for component in parents {
            directory = directory.make_or_open(component)?;
            self.delegate(&directory, settings)?;
        }
        let unified = match directory.make(last) {
            Err(CgroupError::Io { source, .. })
                if source.kind() == io::ErrorKind::AlreadyExists =>
            {
                replace(&directory, last)?
            }
            result => result?,
        };
        let controllers = self.controllers.clone();
        Ok(Cgroup { path: path.to_owned(), unified, controllers, v1: Vec::new() })
    }

    /// Hands the controllers of version 2 on to the children of a directory: those that statistics
    /// need where possible, those that limits need always.
    fn delegate(&self, directory: &Directory, asked: &[Controller]) -> Result<(), CgroupError> {
        const USUAL: [&str; 4] = ["cpu", "io", "memory", "pids"];
        if self.controllers.iter().all(|name| name == "hugetlb") {
            return Ok(());
        }
        let enabled = directory.read("cgroup.subtree_control")?;
        let is_enabled = |name: &str| enabled.split_whitespace().any(|word| word == name);
        for name in &self.controllers {
            let is_asked = asked.iter().any(|controller| controller.v2_name() == name);
            let is_wanted = is_asked || USUAL.contains(&name.as_str());
            if !is_wanted || is_enabled(name) {
                continue;
            }
            match directory.write("cgroup.subtree_control", &format!("+{name}")) {
                Err(error) if is_asked => return Err(error),
                // Statistics will lack something.
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Writes the limits, each in the version that has its controller.
    fn equip(
        &self,
        cgroup: &mut Cgroup,
        limits: &Limits,
        asked: &[Controller],
    ) -> Result<(), CgroupError> {
        for controller in asked {
            if self.controllers.iter().any(|name| name == controller.v2_name()) {
                continue;
            }
            self.join_v1(cgroup, controller.v1_name(), controller.purpose())?;
        }
        cgroup.apply(limits)
    }

    /// Makes the cgroup in the hierarchy of version 1 that has `controller`.
    fn join_v1(
        &self,
        cgroup: &mut Cgroup,
        controller: &str,
        purpose: &'static str,
    ) -> Result<(), CgroupError> {
        let has =
            |hierarchy: &&Hierarchy| hierarchy.controllers.iter().any(|name| name == controller);
        if cgroup.v1.iter().any(|hierarchy| has(&hierarchy)) {
            return Ok(());
        }
        let hierarchy = self.v1.iter().find(has).ok_or(CgroupError::NoController(purpose))?;
        let mut directory = hierarchy.directory.try_clone()?;
        for component in components(&cgroup.path)? {
            let below = directory.make_or_open(component)?;
            if controller == "cpuset" {
                inherit_cpuset(&directory, &below)?;
            }
            directory = below;
        }
        cgroup.v1.push(Hierarchy { controllers: hierarchy.controllers.clone(), directory });
        Ok(())
    }

    /// Allows the members of a cgroup these devices only; `member` is its one process. The kernel
    /// checks the filter for 0.4 ms, time in which the member mounts.
    ///
    /// # Errors
    /// [`CgroupError::Devices`] where neither version can do it.
    pub(crate) fn filter_devices(
        &self,
        cgroup: &mut Cgroup,
        rules: &[DeviceRule],
        member: i32,
    ) -> Result<(), CgroupError> {
        if rules.is_empty() {
            return Ok(());
        }
        let Err(source) = devices::attach(&cgroup.unified, rules) else { return Ok(()) };
        let failed = CgroupError::Devices { path: cgroup.unified.path().to_owned(), source };
        // Without BPF the old controller does the same, at the price of an attachment.
        if self.join_v1(cgroup, "devices", "devices").is_err() {
            return Err(failed);
        }
        match cgroup.v1_of("devices") {
            Some(directory) => {
                devices::write_v1(directory, rules)?;
                directory.write("cgroup.procs", &member.to_string())
            }
            None => Err(failed),
        }
    }

    /// Opens an existing cgroup.
    ///
    /// # Errors
    /// [`CgroupError::Io`] with `NotFound` if it is gone.
    pub fn open(&self, path: &str) -> Result<Cgroup, CgroupError> {
        let components = components(path)?;
        let unified = self.unified.descend(&components)?;
        let v1 = self
            .v1
            .iter()
            .filter_map(|hierarchy| {
                let directory = hierarchy.directory.descend(&components).ok()?;
                Some(Hierarchy { controllers: hierarchy.controllers.clone(), directory })
            })
            .collect();
        let controllers = self.controllers.clone();
        Ok(Cgroup { path: path.to_owned(), unified, controllers, v1 })
    }

    /// Removes a cgroup and those below it from every hierarchy; a missing one is no error.
    /// Members must be gone or going (retries for 2 s). Blocks.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let deadline = Instant::now() + REMOVE_PATIENCE;
        self.in_every_hierarchy(path, |directory| remove_tree(&directory, deadline))
    }

    /// Names of the cgroups below one, in whatever hierarchy; none where it is missing.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn children(&self, path: &str) -> Result<BTreeSet<String>, CgroupError> {
        let names = std::cell::RefCell::new(BTreeSet::new());
        self.in_every_hierarchy(path, |directory| {
            names.borrow_mut().extend(directory.children()?);
            Ok(())
        })?;
        Ok(names.into_inner())
    }

    /// Removes a cgroup that has neither members nor cgroups below it; another one stays.
    ///
    /// # Errors
    /// [`CgroupError`].
    pub fn remove_if_empty(&self, path: &str) -> Result<(), CgroupError> {
        self.in_every_hierarchy(path, |directory| match directory.remove(Instant::now()) {
            Err(CgroupError::Io { source, .. }) if source.kind() == io::ErrorKind::ResourceBusy => {
                Ok(())
            }
            result => result,
        })
    }

    /// Does something with a cgroup wherever it exists; the first error counts, but ends nothing.
    fn in_every_hierarchy(
        &self,
        path: &str,
        act: impl Fn(Directory) -> Result<(), CgroupError>,
    ) -> Result<(), CgroupError> {
        let components = components(path)?;
        let v1 = self.v1.iter().map(|hierarchy| &hierarchy.directory);
        let mut result = Ok(());
        for hierarchy in std::iter::once(&self.unified).chain(v1) {
            let done = match hierarchy.descend(&components) {
                Err(error) if error.is_not_found() => Ok(()),
                found => found.and_then(&act),
            };
            result = result.and(done);
        }
        result
    }
}

/// Splits a path; `.`, `..` and names of the kernel's own files are refused.
fn components(path: &str) -> Result<Vec<&str>, CgroupError> {
    let is_bad = |component: &&str| {
        matches!(*component, "" | "." | "..")
            || component.contains(['\0', '\n'])
            || component.starts_with("cgroup.")
    };
    let components: Vec<&str> = path.split('/').collect();
    if components.iter().any(is_bad) {
        return Err(CgroupError::Path(path.to_owned()));
    }
    Ok(components)
}

/// Replaces a left-over cgroup, which may have another one's limits and filters.
fn replace(parent: &Directory, name: &str) -> Result<Directory, CgroupError> {
    let old = parent.open(name)?;
    if old.is_populated()? {
        return Err(CgroupError::InUse(old.path().to_owned()));
    }
    remove_tree(&old, Instant::now() + REMOVE_PATIENCE)?;
    parent.make(name)
}

/// A new directory of `cpuset` has neither CPUs nor memory until they are copied.
fn inherit_cpuset(parent: &Directory, child: &Directory) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if child.read(file)?.trim().is_empty() {
            child.write(file, parent.read(file)?.trim())?;
        }
    }
    Ok(())
}

/// Removes a directory and those below it, the deepest first.
fn remove_tree(directory: &Directory, deadline: Instant) -> Result<(), CgroupError> {
    for name in directory.children()? {
        match directory.open(&name) {
            Ok(child) => remove_tree(&child, deadline)?,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    directory.remove(deadline)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_hierarchy() {
        assert_eq!(components("davit/abc").unwrap(), ["davit", "abc"]);
        for path in ["", "/", "/davit", "davit/", "a//b", "..", "a/../b", "a/cgroup.procs", "a\n"] {
            assert!(matches!(components(path), Err(CgroupError::Path(_))), "{path:?}");
        }
    }
}
