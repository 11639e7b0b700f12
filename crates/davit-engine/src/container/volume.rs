//! Volumes.

use std::{collections::BTreeMap, path::Path};

use davit_image::Timestamp;
use davit_store::{NewVolume, StoreError, VolumeRow};

use super::{
    ContainerError, ContainerSpec, MountSource,
    copy_up::CopyUp,
    name,
    remove::disk_usage,
    volume_mount::{self, VolumeMount},
};
use crate::Engine;

/// A volume to be made.
#[derive(Clone, Debug, Default)]
pub struct VolumeRequest {
    /// Its name; random when `None`.
    pub name: Option<String>,
    /// Driver; only `local` is known.
    pub driver: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
}

/// A volume as lists and `inspect` show it.
#[derive(Clone, Debug)]
pub struct VolumeSummary {
    /// Its name.
    pub name: String,
    /// Driver.
    pub driver: String,
    /// Where its content lies.
    pub mountpoint: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it was made for a container that did not name it.
    pub anonymous: bool,
    /// Ids of containers that use it.
    pub containers: Vec<String>,
}

impl Engine {
    /// Makes a volume; one that exists is left as it is. Its name.
    ///
    /// # Errors
    /// [`ContainerError::Invalid`]: name, driver or option.
    pub fn create_volume(&self, request: &VolumeRequest) -> Result<String, ContainerError> {
        if !matches!(request.driver.as_str(), "" | "local") {
            return Err(ContainerError::Invalid(format!(
                "error looking up volume plugin {0}: plugin \"{0}\" not found",
                request.driver
            )));
        }
        volume_mount::check(&request.options)?;
        let anonymous = request.name.is_none();
        let name = match &request.name {
            Some(name) => name.clone(),
            None => name::random_id()?,
        };
        name::check_volume(&name)?;
        let driver = "local".to_owned();
        let (labels, options) = (request.labels.clone(), request.options.clone());
        let new = NewVolume { name: name.clone(), driver, anonymous, labels, options };
        if self.store().create_volume(&new)? {
            self.append_event("volume", "create", &name, &[("driver", "local".to_owned())]);
        }
        Ok(name)
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// What the store says.
    pub fn volumes(&self) -> Result<Vec<VolumeSummary>, ContainerError> {
        Ok(self.store().volumes()?.into_iter().map(|row| self.volume_summary(row)).collect())
    }

    /// One volume.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`].
    pub fn volume(&self, name: &str) -> Result<VolumeSummary, ContainerError> {
        let row = self.store().volume(name)?;
        let row =
            row.ok_or_else(|| ContainerError::NotFound { kind: "volume", name: name.to_owned() })?;
        Ok(self.volume_summary(row))
    }

    /// Removes a volume with its content.
    ///
    /// # Errors
    /// [`ContainerError::Conflict`] while a container uses it; [`ContainerError::NotFound`].
    pub fn remove_volume(&self, name: &str) -> Result<(), ContainerError> {
        let users = self.store().remove_volume(name).map_err(|error| match error {
            StoreError::NotFound { .. } => {
                ContainerError::NotFound { kind: "volume", name: name.to_owned() }
            }
            error => error.into(),
        })?;
        if users.is_empty() {
            self.append_event("volume", "destroy", name, &[("driver", "local".to_owned())]);
            return Ok(());
        }
        Err(ContainerError::Conflict(format!(
            "remove {name}: volume is in use - [{}]",
            users.join(", ")
        )))
    }

    /// Removes every volume that no container uses and that fits; names and bytes.
    ///
    /// # Errors
    /// What the store says.
    pub fn prune_volumes(
        &self,
        fits: impl Fn(&VolumeSummary) -> bool,
    ) -> Result<(Vec<String>, u64), ContainerError> {
        let (mut removed, mut bytes) = (Vec::new(), 0);
        for volume in self.volumes()?.into_iter().filter(|volume| volume.containers.is_empty()) {
            if !fits(&volume) {
                continue;
            }
            let size = disk_usage(Path::new(&volume.mountpoint));
            match self.remove_volume(&volume.name) {
                Ok(()) => {
                    removed.push(volume.name);
                    bytes += size;
                }
                Err(ContainerError::Conflict(_) | ContainerError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((removed, bytes))
    }

    fn volume_summary(&self, row: VolumeRow) -> VolumeSummary {
        let VolumeRow { volume, created, containers } = row;
        VolumeSummary {
            mountpoint: self.store().layout().volume_data(&volume.name).display().to_string(),
            name: volume.name,
            driver: volume.driver,
            labels: volume.labels,
            options: volume.options,
            created: Timestamp::from_unix(created.div_euclid(1_000_000_000), 0)
                .unwrap_or(Timestamp::EPOCH),
            anonymous: volume.anonymous,
            containers,
        }
    }

    /// Makes the volumes and directories of a specification that do not exist, and names the
    /// anonymous volumes.
    pub(crate) fn make_volumes(&self, spec: &mut ContainerSpec) -> Result<(), ContainerError> {
        for mount in &mut spec.mounts {
            match &mut mount.source {
                MountSource::Volume { name, making, .. } => {
                    let making = making.clone();
                    *name = self.create_volume(&VolumeRequest {
                        name: Some(name.clone()).filter(|name| !name.is_empty()),
                        driver: making.driver,
                        labels: making.labels,
                        options: making.options,
                    })?;
                }
                MountSource::Bind { path, made: true, .. } => {
                    let path = Path::new(path);
                    // A link that leads nowhere is there.
                    if fs_err::symlink_metadata(path).is_err() {
                        fs_err::create_dir_all(path)
                            .map_err(|error| ContainerError::io("create", path, error))?;
                    }
                }
                MountSource::Bind { .. } | MountSource::Tmpfs { .. } => {}
            }
        }
        Ok(())
    }

    /// Volumes of a specification that are mounts of their own.
    pub(crate) fn volume_mounts(
        &self,
        spec: &ContainerSpec,
    ) -> Result<Vec<VolumeMount>, ContainerError> {
        let mut mounts = Vec::new();
        for name in spec.volume_names() {
            let Some(row) = self.store().volume(name)? else { continue };
            let target = self.store().layout().volume_data(name);
            let mount = VolumeMount::of(target, &row.volume.options);
            mounts.extend(mount.filter(|mount| !mounts.contains(mount)));
        }
        Ok(mounts)
    }

    /// Volumes of a specification that are filled from the image if they are empty.
    pub(crate) fn copies(&self, spec: &ContainerSpec) -> Vec<CopyUp> {
        let copies = spec.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Volume { name, copy_up: true, subpath: None, .. } => Some(CopyUp {
                volume: self.store().layout().volume_data(name),
                path: mount.target.clone(),
            }),
            _ => None,
        });
        copies.collect()
    }
}
