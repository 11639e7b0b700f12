//! Names of the containers in a network, in the file that their resolvers read.
//!
//! Whoever changes what is in a network writes the file anew from the rows, afterwards and under the
//! network's lock: of two, the later one knows what both did.

use std::{collections::BTreeMap, io, path::PathBuf};

use davit_network::{NameEntry, Names, write_names};
use davit_store::{AddressRow, NetworkRow, StoreError};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::{BUILT_IN_NETWORKS, NetworkSpec};
use crate::{
    Engine,
    container::{ContainerError, ContainerSpec, NetworkMode, files},
};

impl Engine {
    /// What names are answered by in a network; in those that every root has nobody has a name.
    pub(crate) fn names(
        &self,
        row: &NetworkRow,
        spec: &ContainerSpec,
    ) -> Result<Option<Names>, ContainerError> {
        if BUILT_IN_NETWORKS.contains(&row.network.name.as_str()) {
            return Ok(None);
        }
        let servers = match NetworkSpec::of(&row.network)?.internal {
            // A question is a way out, too.
            true => Vec::new(),
            false => files::upstream_servers(spec),
        };
        Ok(Some(Names { file: self.names_file(&row.network.id), servers }))
    }

    fn names_file(&self, id: &str) -> PathBuf {
        self.store().layout().run_networks().join(id)
    }

    /// Writes the names of the containers that run, or are about to, in a network.
    pub(crate) fn write_network_names(&self, row: &NetworkRow) -> Result<(), ContainerError> {
        let directory = self.store().layout().run_networks();
        self.store().make_dir(&directory)?;
        let path = directory.join(format!("{}.lock", row.network.id));
        let failed = |errno| ContainerError::io("lock", &path, errno);
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(failed)?;
        let file = self.names_file(&row.network.id);
        let mut containers = BTreeMap::<String, Vec<AddressRow>>::new();
        for held in self.store().network_addresses(&row.network.id)? {
            containers.entry(held.container_id.clone()).or_default().push(held);
        }
        let mut entries = Vec::new();
        for (id, held) in containers {
            let container = match self.store().container(&id) {
                Err(StoreError::NotFound { .. }) => continue,
                container => container?,
            };
            entries.push(entry(&container.name, &id, &held, &row.network.name));
        }
        write_names(&file, &entries).map_err(|error| ContainerError::io("write", file, error))
    }

    /// After what was in a network has changed: other containers do without, if need be.
    pub(crate) fn tell_names(&self, mode: &NetworkMode) {
        let NetworkMode::Network(name) = mode else { return };
        let written = match self.network_row(name) {
            // It has been removed meanwhile.
            Err(error) if error.is_not_found() => return,
            row => row.and_then(|row| self.write_network_names(&row)),
        };
        if let Err(error) = written {
            tracing::warn!(%error, network = name, "cannot write the names of a network");
        }
    }

    /// Removes the file of a network that is gone.
    pub(super) fn forget_names(&self, id: &str) {
        let file = self.names_file(id);
        for path in [file.with_extension("lock"), file] {
            match fs_err::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, "cannot remove the names of a network");
                }
                _ => {}
            }
        }
    }
}

/// What a container is found by: name, the beginning of its id, aliases; each also with the
/// network's name behind it.
fn entry(name: &str, id: &str, held: &[AddressRow], network: &str) -> NameEntry {
    let mut names = vec![name.to_owned(), id.get(..12).unwrap_or(id).to_owned()];
    for alias in held.iter().flat_map(|held| &held.aliases) {
        if !names.contains(alias) {
            names.push(alias.clone());
        }
    }
    let full: Vec<_> = names.iter().map(|name| format!("{name}.{network}")).collect();
    names.extend(full);
    NameEntry { addresses: held.iter().map(|held| held.address).collect(), names }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_several_names() {
        let held = |address: &str| AddressRow {
            network_id: "n".to_owned(),
            address: address.parse().unwrap(),
            container_id: "c".to_owned(),
            mac: String::new(),
            aliases: vec!["db".to_owned()],
        };
        let made = entry("web", &"0a".repeat(32), &[held("10.9.0.2"), held("fd00::2")], "mine");
        assert_eq!(made.addresses.len(), 2);
        let expected = ["web", "0a0a0a0a0a0a", "db", "web.mine", "0a0a0a0a0a0a.mine", "db.mine"];
        assert_eq!(made.names, expected);
    }
}
