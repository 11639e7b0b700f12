//! Removing containers.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use davit_runtime::Cgroups;
use davit_snapshot::Upper;
use davit_store::{ContainerFilter, Durability, GcOptions};

use super::{Container, ContainerError, MountSource, Phase, start::runs_already};
use crate::Engine;

const KILL_PATIENCE: Duration = Duration::from_secs(30);

/// What to remove with a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoveRequest {
    /// Ends a running one first.
    pub force: bool,
    /// Removes its anonymous volumes too.
    pub volumes: bool,
}

impl Engine {
    /// Removes a container.
    ///
    /// # Errors
    /// [`ContainerError::Conflict`] when it runs and is not to be forced.
    pub fn remove_container(
        &self,
        name: &str,
        request: RemoveRequest,
    ) -> Result<(), ContainerError> {
        let mut container = self.container(name)?;
        if container.status.phase.is_alive() {
            if !request.force {
                let advice = match container.status.phase {
                    Phase::Paused => "unpause and then stop the container",
                    _ => "stop the container",
                };
                return Err(ContainerError::Conflict(format!(
                    "cannot remove container \"/{}\": container is {}: {advice} before removing or force remove",
                    container.name,
                    container.status.phase.word(),
                )));
            }
            self.end(&mut container)?;
        }
        let lock = self.lock_container(&container.id)?;
        let _lock = lock.ok_or_else(|| runs_already(&container.id))?;
        let volumes = if request.volumes { anonymous_volumes(&container) } else { Vec::new() };
        let image = container.image_id;
        self.erase_with(&container, &volumes)?;
        self.append_event(
            "container",
            "destroy",
            &container.id,
            &[("name", container.name.clone())],
        );
        if image.is_some_and(|image| self.is_unnamed(&image)) {
            self.store().collect(&GcOptions::default())?;
        }
        Ok(())
    }

    fn is_unnamed(&self, image: &davit_image::ImageId) -> bool {
        self.store().image(image).is_ok_and(|row| row.is_none_or(|row| row.targets.is_empty()))
    }

    /// Kills a container and waits for its monitor to leave.
    fn end(&self, container: &mut Container) -> Result<(), ContainerError> {
        self.request_stop(container)?;
        let (cgroups, path) = (Cgroups::discover()?, self.cgroup_of(&container.id));
        if let Ok(cgroup) = cgroups.open(&path) {
            if container.status.phase == Phase::Paused {
                cgroup.thaw()?;
            }
            cgroup.kill()?;
        }
        self.send_signal(container, 9)?;
        if self.await_end(&container.id, Some(Instant::now() + KILL_PATIENCE))? {
            // A monitor that was killed meanwhile has left its work undone.
            match self.container(&container.id) {
                Err(error) if error.is_not_found() => {}
                found => drop(found?),
            }
            cgroups.remove(&path)?;
            return Ok(());
        }
        Err(ContainerError::Conflict(format!("container {} does not end", container.short_id())))
    }

    /// Removes all traces of a container that does not run, with its anonymous volumes.
    pub(crate) fn erase(&self, container: &Container) -> Result<(), ContainerError> {
        self.erase_with(container, &anonymous_volumes(container))
    }

    fn erase_with(&self, container: &Container, volumes: &[String]) -> Result<(), ContainerError> {
        let layout = self.store().layout();
        remove_tree(&layout.run_container(&container.id))?;
        let directory = layout.container(&container.id);
        Upper::discard(&directory)?;
        remove_tree(&directory)?;
        let durability =
            if container.spec.auto_remove.is_on() { Durability::Lazy } else { Durability::Durable };
        self.store().remove_container(&container.id, durability)?;
        for volume in volumes {
            // Another container may use it by now (`--volumes-from`).
            if let Err(error) = self.store().remove_volume(volume) {
                tracing::warn!(%error, volume, "cannot remove an anonymous volume");
            }
        }
        Ok(())
    }

    /// Removes every container that does not run and fits; their ids and the space they took.
    ///
    /// # Errors
    /// What the store says.
    pub fn prune_containers(
        &self,
        fits: impl Fn(&Container) -> bool,
    ) -> Result<(Vec<String>, u64), ContainerError> {
        let (mut removed, mut bytes) = (Vec::new(), 0);
        for row in self.store().containers(&ContainerFilter::default())? {
            let Some(container) = self.examine(row)? else { continue };
            if container.status.phase.is_alive() || !fits(&container) {
                continue;
            }
            bytes += self.size_of(&container.id);
            match self.remove_container(&container.id, RemoveRequest::default()) {
                Ok(()) => removed.push(container.id),
                // Started or removed in between.
                Err(ContainerError::Conflict(_) | ContainerError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((removed, bytes))
    }

    /// Bytes that a container has written.
    pub(crate) fn size_of(&self, id: &str) -> u64 {
        written_bytes(&self.store().layout().container(id), disk_usage)
    }
}

fn anonymous_volumes(container: &Container) -> Vec<String> {
    let names = container.spec.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume { name, anonymous: true, .. } => Some(name.clone()),
        _ => None,
    });
    names.collect()
}

pub(crate) fn remove_tree(path: &Path) -> Result<(), ContainerError> {
    match fs_err::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ContainerError::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

/// What a container whose directory is `folder` has written, as `measure` counts a directory.
pub(crate) fn written_bytes(folder: &Path, measure: impl Fn(&Path) -> u64) -> u64 {
    let elsewhere = Upper::elsewhere(folder).ok().flatten();
    let upper = elsewhere.as_deref().unwrap_or(folder).join("upper");
    measure(&upper) + measure(&folder.join("rootfs"))
}

/// Sum of the sizes of all files below a directory of ours.
pub(crate) fn disk_usage(path: &Path) -> u64 {
    let entries = fs_err::read_dir(path).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_usage(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
