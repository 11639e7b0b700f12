//! Removing containers.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    time::{Duration, Instant},
};

use davit_runtime::Cgroups;
use davit_snapshot::Upper;
use davit_store::{ContainerFilter, Durability, GcOptions};

use super::{Container, ContainerError, MountSource, Phase, start::runs_already};
use crate::Engine;

/// How long the kernel may take to end killed processes.
const KILL_PATIENCE: Duration = Duration::from_secs(30);
/// After so long a container that has not ended is looked at again: another command may have
/// started it anew.
const KILL_LOOK: Duration = Duration::from_millis(250);

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
        let container = self.container(name)?;
        let (container, _lock) = match self.take(container, request.force) {
            // Gone with its end (`--rm`), or by another command: as was wanted.
            Err(error) if request.force && error.is_not_found() => return Ok(()),
            taken => taken?,
        };
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

    /// The lock of a container that does not run; one that runs is ended if that is wanted, also
    /// when another command starts it again meanwhile.
    fn take(
        &self,
        mut container: Container,
        force: bool,
    ) -> Result<(Container, OwnedFd), ContainerError> {
        let deadline = Instant::now() + KILL_PATIENCE;
        loop {
            let is_alive = container.status.phase.is_alive();
            if is_alive && !force {
                return Err(must_stop(&container));
            }
            if is_alive && !self.end(&mut container)? {
                if Instant::now() >= deadline {
                    let words = format!("container {} does not end", container.short_id());
                    return Err(ContainerError::Conflict(words));
                }
                continue;
            }
            match self.lock_row(&container.id)? {
                Some((_, lock)) => {
                    if is_alive {
                        // A monitor that was killed meanwhile has left it.
                        Cgroups::discover()?.remove(&self.cgroup_of(&container.id))?;
                    }
                    return Ok((container, lock));
                }
                None if force && Instant::now() < deadline => {
                    container = self.container(&container.id)?;
                }
                None => return Err(runs_already(&container.id)),
            }
        }
    }

    /// Kills a container and waits a little for its monitor to leave; `false` when it has not.
    fn end(&self, container: &mut Container) -> Result<bool, ContainerError> {
        let killed = self.request_stop(container).and_then(|()| self.kill_all(container));
        if let Err(error) = killed {
            // Its folders may have gone meanwhile, and it with them.
            *container = self.container(&container.id)?;
            return if container.status.phase.is_alive() { Err(error) } else { Ok(true) };
        }
        let has_ended = self.await_end(&container.id, Some(Instant::now() + KILL_LOOK))?;
        *container = self.container(&container.id)?;
        Ok(has_ended)
    }

    fn kill_all(&self, container: &Container) -> Result<(), ContainerError> {
        if let Ok(cgroup) = Cgroups::discover()?.open(&self.cgroup_of(&container.id)) {
            if container.status.phase == Phase::Paused {
                cgroup.thaw()?;
            }
            cgroup.kill()?;
        }
        self.send_signal(container, 9)
    }

    /// Removes all traces of a container that does not run, with its anonymous volumes. The caller
    /// holds its lock.
    pub(crate) fn erase(&self, container: &Container) -> Result<(), ContainerError> {
        self.erase_with(container, &anonymous_volumes(container))
    }

    fn erase_with(&self, container: &Container, volumes: &[String]) -> Result<(), ContainerError> {
        let directory = self.store().layout().container(&container.id);
        Upper::discard(&directory)?;
        remove_tree(&directory)?;
        let durability =
            if container.spec.auto_remove.is_on() { Durability::Lazy } else { Durability::Durable };
        self.store().remove_container(&container.id, durability)?;
        // Last, for its lock: whoever waits for that then finds no row.
        self.remove_run_directory(&container.id)?;
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

fn must_stop(container: &Container) -> ContainerError {
    let advice = match container.status.phase {
        Phase::Paused => "unpause and then stop the container",
        _ => "stop the container",
    };
    ContainerError::Conflict(format!(
        "cannot remove container \"/{}\": container is {}: {advice} before removing or force remove",
        container.name,
        container.status.phase.word(),
    ))
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
