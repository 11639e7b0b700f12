//! What a build's commands have of the machine: how they are launched, volumes, networks.

use davit_build::{BridgeNetwork, JoinedNetwork, Network, RunSettings, StepVolume, VolumeSource};
use davit_runtime::Cgroups;

use super::SUPERVISOR;
use crate::{
    Engine,
    container::{BRIDGE, ContainerError, ContainerSpec, files},
};

const RESOLV_CONF: &str = "/etc/resolv.conf";

impl Engine {
    pub(super) fn run_settings(&self) -> RunSettings {
        RunSettings {
            executable: self.config().executable.clone(),
            arguments: vec![SUPERVISOR.into()],
            cgroup_parent: self.cgroup_root(),
            resolv_conf: files::private_resolv_conf().into_bytes(),
            // A machine without resolver still builds what needs none.
            host_resolv_conf: fs_err::read(RESOLV_CONF).unwrap_or_default(),
            devices: self.config().settings.cdi.directories(),
            programs: self.config().programs.clone(),
        }
    }

    /// Removes the cgroups of builds that were killed together with their supervisor.
    pub(super) fn sweep_cgroups(&self) {
        let parent = self.cgroup_root();
        let Ok(cgroups) = Cgroups::discover() else { return };
        for name in cgroups.children(&parent).unwrap_or_default() {
            let id = name.strip_prefix("build-").and_then(|rest| rest.split('-').next());
            let Some(id) = id else { continue };
            if self.store().is_lease_live(id).unwrap_or(true) {
                continue;
            }
            if let Err(error) = cgroups.remove_if_empty(&format!("{parent}/{name}")) {
                tracing::debug!(%error, "the next build tries again");
            }
        }
    }

    /// The network of commands that have one with a bridge, made where it is missing.
    pub(super) fn build_network(&self, name: &str) -> Result<BridgeNetwork, ContainerError> {
        let (row, bridge) = self.ensure_network(name)?;
        let names = self.names(&row, &ContainerSpec::default())?;
        let names = names.map(|names| (names, files::named_resolv_conf().into_bytes()));
        Ok(BridgeNetwork { id: row.network.id, bridge, names })
    }

    /// Name of the network with a bridge that commands are in unless they ask for another; there
    /// must be one. A name is put in the place of an id.
    pub(super) fn find_build_network(
        &self,
        network: &mut Network,
    ) -> Result<String, ContainerError> {
        let Network::Named(name) = network else { return Ok(BRIDGE.to_owned()) };
        let found = self.find_network(name)?.network;
        if found.driver != BRIDGE {
            // Not by the way round entitlements.
            let message = format!("a build cannot be in network {name} by its id");
            return Err(ContainerError::Invalid(message));
        }
        *network = match found.name.as_str() {
            BRIDGE => Network::Default,
            name => Network::Named(name.to_owned()),
        };
        Ok(found.name)
    }

    /// The network of a container that commands are to be in, if they are to be in one's.
    pub(super) fn joined_network(
        &self,
        network: &Network,
    ) -> Result<Option<JoinedNetwork>, ContainerError> {
        let Network::Container(name) = network else { return Ok(None) };
        let container = self.container(name)?;
        let process = container.status.process.ok_or_else(|| {
            let name = container.short_id();
            let message = format!("cannot join the network of container {name}: it is not running");
            ContainerError::Conflict(message)
        })?;
        let directory = self.store().layout().run_container(&container.id);
        let read = |name: &str| {
            let path = directory.join(name);
            fs_err::read(&path).map_err(|error| ContainerError::io("read", path, error))
        };
        let (hosts, resolv_conf) = (read("hosts")?, read("resolv.conf")?);
        Ok(Some(JoinedNetwork { process, hosts, resolv_conf }))
    }

    /// Puts the directories of volumes in the place of their names; a directory must be there.
    pub(super) fn find_volumes(&self, volumes: &mut [StepVolume]) -> Result<(), ContainerError> {
        for volume in volumes {
            let directory = match &volume.source {
                VolumeSource::Directory(path) => path.clone(),
                VolumeSource::Named(name) => {
                    let found = self.store().volume(name)?;
                    let missing =
                        || ContainerError::NotFound { kind: "volume", name: name.clone() };
                    if !found.ok_or_else(missing)?.volume.options.is_empty() {
                        let message = format!(
                            "volume {name} is mounted by its driver's options, which a build does \
                             not do"
                        );
                        return Err(ContainerError::Invalid(message));
                    }
                    self.store().layout().volume_data(name)
                }
            };
            let facts = fs_err::metadata(&directory)
                .map_err(|error| ContainerError::io("use", &directory, error))?;
            if !facts.is_dir() {
                let path = directory.display();
                let message = format!("a volume of a build is a directory, which {path} is not");
                return Err(ContainerError::Invalid(message));
            }
            volume.source = VolumeSource::Directory(directory);
        }
        Ok(())
    }
}
