//! A root's traces on the machine beside its files: bridges, firewall table, cgroups.

use std::time::Duration;

use davit_runtime::{Cgroups, cgroup::CgroupError};
use davit_store::ContainerFilter;

use crate::{ContainerError, Engine, container::RemoveRequest};

/// How long a reset waits for what it has killed: to free a tree of a million files takes seconds.
const ENDING_PATIENCE: Duration = Duration::from_secs(60);

impl Engine {
    /// Takes bridges, firewall table and empty cgroups off the machine unless a container runs. The
    /// next container makes them again, with the same subnet unless somebody has it by then.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn withdraw_idle(&self) -> Result<(), ContainerError> {
        let bridges = self.known_bridges()?;
        let root_id = self.store().format().root_id.as_str();
        let cgroups = Cgroups::discover()?;
        let root = self.cgroup_root();
        let withdraw = || -> Result<(), ContainerError> {
            Self::withdraw_bridges(root_id, &bridges)?;
            cgroups.remove_if_empty(&format!("{root}/monitors"))?;
            Ok(cgroups.remove_if_empty(&root)?)
        };
        self.store().while_idle(withdraw)?.unwrap_or(Ok(()))
    }

    /// Ends every container and removes all that this root has: containers, images, volumes, build
    /// cache, bridges, firewall table, cgroups, and the files.
    ///
    /// # Errors
    /// The first thing that cannot be removed; the same call goes on from there.
    pub fn reset(self) -> Result<(), ContainerError> {
        let everything = RemoveRequest { force: true, volumes: true };
        for row in self.store().containers(&ContainerFilter::default())? {
            match self.remove_container(&row.id, everything) {
                // It was to go with its end.
                Err(error) if error.is_not_found() => {}
                result => result?,
            }
        }
        let cgroups = Cgroups::discover()?;
        let root = self.cgroup_root();
        // Before the bridge goes: a step of a build may be about to make its interface.
        end_all(&cgroups, &root)?;
        Self::withdraw_bridges(self.store().format().root_id.as_str(), &self.known_bridges()?)?;
        cgroups.remove(&root)?;
        Ok(self.into_store().erase()?)
    }
}

/// Kills what still runs (monitors that settle, steps of builds) and waits for its end.
fn end_all(cgroups: &Cgroups, path: &str) -> Result<(), CgroupError> {
    match cgroups.open(path) {
        Err(error) if error.is_not_found() => Ok(()),
        found => {
            let found = found?;
            found.kill()?;
            // Whoever is left then is named by the error of removing the cgroup.
            found.wait_until_empty(ENDING_PATIENCE).map(drop)
        }
    }
}
