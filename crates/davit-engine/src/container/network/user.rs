//! Networks that a user makes: create, remove and prune them.

use std::{collections::BTreeMap, net::IpAddr};

use davit_network::{Ipv6Subnet, Turn};
use davit_store::{ContainerFilter, NetworkRow, NewNetwork, Pool, StoreError};
use serde::{Deserialize, Serialize};

use super::{
    BRIDGE, BUILT_IN_NETWORKS,
    addresses::{Asked, overlap},
    pool4, pool6,
};
use crate::{
    Engine,
    container::{Container, ContainerError, name},
};

/// The one option of the driver.
const MTU: &str = "com.docker.network.driver.mtu";
/// What the kernel's bridges and IPv6 hosts take, in bytes.
const MTU_BYTES: std::ops::RangeInclusive<u32> = 68..=65_535;
/// Numbers of unique local subnets that are tried.
const LOCAL_SUBNETS: std::ops::RangeInclusive<u16> = 1..=u16::MAX;

/// A network to be made.
#[derive(Clone, Debug, Default)]
pub struct NetworkRequest {
    /// Its name.
    pub name: String,
    /// `bridge`.
    pub driver: String,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Subnets, `ADDRESS/PREFIX`, at most one of each family; one is chosen if there is none.
    pub subnets: Vec<String>,
    /// The bridge's addresses in them; the first of each by default.
    pub gateways: Vec<IpAddr>,
    /// Parts of them, `ADDRESS/PREFIX`, from which addresses are given unasked.
    pub ip_ranges: Vec<String>,
    /// Whether it has no way out.
    pub internal: bool,
    /// Whether it has IPv6 addresses.
    pub ipv6: bool,
    /// What `--attachable` says; it means nothing on one machine.
    pub attachable: bool,
}

/// What is kept of a network beside its name, labels and pools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSpec {
    /// Whether it has no way out.
    pub internal: bool,
    /// As it was asked for.
    pub attachable: bool,
    /// Whether the user chose the IPv4 subnet, so that it never moves.
    pub is_fixed: bool,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Parts of the subnets from which addresses are given unasked.
    pub ip_ranges: Vec<String>,
}

impl NetworkSpec {
    /// That of a network's row.
    ///
    /// # Errors
    /// [`ContainerError::Row`] when it cannot be read.
    pub fn of(network: &NewNetwork) -> Result<Self, ContainerError> {
        serde_json::from_value(network.spec.clone())
            .map_err(|source| ContainerError::Row { id: network.id.clone(), source })
    }

    /// MTU of the interfaces in bytes, if one was asked for.
    ///
    /// # Errors
    /// [`ContainerError::Invalid`] when it is no number or the kernel would refuse it.
    pub(super) fn mtu(&self) -> Result<Option<u32>, ContainerError> {
        let Some(text) = self.options.get(MTU) else { return Ok(None) };
        match text.parse() {
            Ok(0) => Ok(None),
            Ok(mtu) if MTU_BYTES.contains(&mtu) => Ok(Some(mtu)),
            _ => Err(ContainerError::Invalid(format!(
                "invalid value {text:?} for option {MTU}: a number of bytes from {} to {}",
                MTU_BYTES.start(),
                MTU_BYTES.end()
            ))),
        }
    }
}

impl Engine {
    /// Makes a network; its id. Its bridge is made with the first container.
    ///
    /// # Errors
    /// [`ContainerError::Conflict`] when the name or an address is another network's,
    /// [`ContainerError::PoolTaken`] when addresses are the machine's, [`ContainerError::Invalid`].
    pub fn create_network(&self, request: &NetworkRequest) -> Result<String, ContainerError> {
        // One letter is enough for a network, as with Docker.
        if !matches!(request.name.as_bytes(), [only] if only.is_ascii_alphanumeric()) {
            name::check("network", &request.name)?;
        }
        if is_built_in(&request.name) || request.name == "default" {
            let name = &request.name;
            return Err(ContainerError::Conflict(format!(
                "operation is not permitted on predefined {name} network"
            )));
        }
        check_driver(&request.driver, &request.options)?;
        let asked = Asked::of(request)?;
        // What others are choosing now must be seen.
        let _turn = Turn::take()?;
        let rows = self.network_rows()?;
        let spec = NetworkSpec {
            internal: request.internal,
            attachable: request.attachable,
            is_fixed: asked.subnet4.is_some(),
            options: request.options.clone(),
            ip_ranges: request.ip_ranges.clone(),
        };
        spec.mtu()?;
        let pools = self.pools(&asked, request.ipv6, &rows)?;
        let mut network = NewNetwork {
            id: name::random_id()?,
            name: request.name.clone(),
            driver: BRIDGE.to_owned(),
            labels: request.labels.clone(),
            pools,
            spec: serde_json::to_value(&spec)
                .map_err(|source| ContainerError::Row { id: request.name.clone(), source })?,
        };
        // The beginning of the id names the interface.
        let interface = |id: &str| self.interface(&request.name, id);
        while rows.iter().any(|row| interface(&row.network.id) == interface(&network.id)) {
            network.id = name::random_id()?;
        }
        if spec.is_fixed {
            self.check_rival(&network)?;
        }
        self.store().create_network(&network).map_err(|error| match error {
            StoreError::Exists { name, .. } => {
                ContainerError::Conflict(format!("network with name {name} already exists"))
            }
            error => error.into(),
        })?;
        self.tell_of_network("create", &network);
        Ok(network.id)
    }

    fn check_rival(&self, network: &NewNetwork) -> Result<(), ContainerError> {
        let bridge = self.bridge(&NetworkRow { network: network.clone(), created: 0 })?;
        let (network, subnet) = (network.name.clone(), bridge.ipv4.to_string());
        match bridge.rival()? {
            Some(rival) => Err(ContainerError::PoolTaken { network, subnet, rival }),
            None => Ok(()),
        }
    }

    fn tell_of_network(&self, action: &str, network: &NewNetwork) {
        let facts = [("name", network.name.clone()), ("type", network.driver.clone())];
        self.append_event("network", action, &network.id, &facts);
    }

    /// The pools of a new network, none of which is another network's.
    fn pools(
        &self,
        asked: &Asked,
        has_ipv6: bool,
        rows: &[NetworkRow],
    ) -> Result<Vec<Pool>, ContainerError> {
        let four = match asked.subnet4 {
            Some(subnet) => subnet,
            None => self.choose_pool(None)?,
        };
        let mut pools = vec![pool4(four)];
        if has_ipv6 {
            pools.push(pool6(match asked.subnet6 {
                Some(subnet) => subnet,
                None => self.local_subnet(rows)?,
            }));
        }
        for pool in &pools {
            let is_rival = |row: &&NetworkRow| row.network.pools.iter().any(|it| overlap(it, pool));
            if let Some(rival) = rows.iter().find(is_rival) {
                return Err(ContainerError::Conflict(format!(
                    "invalid pool request: Pool overlaps with other one on this address space: \
                     {}/{} is of network {}",
                    pool.subnet, pool.prefix, rival.network.name
                )));
            }
        }
        asked.narrow(&mut pools)?;
        Ok(pools)
    }

    /// A subnet of this root's unique local addresses that no network has.
    fn local_subnet(&self, rows: &[NetworkRow]) -> Result<Ipv6Subnet, ContainerError> {
        let root_id = self.store().format().root_id.as_str();
        let mut subnets = LOCAL_SUBNETS.map(|number| Ipv6Subnet::unique_local(root_id, number));
        let is_free = |subnet: &Ipv6Subnet| {
            let mut pools = rows.iter().flat_map(|row| &row.network.pools);
            !pools.any(|pool| overlap(pool, &pool6(*subnet)))
        };
        subnets.find(is_free).ok_or_else(|| {
            ContainerError::Conflict("all IPv6 subnets of this root are in use".to_owned())
        })
    }

    /// The network of this name, id, or beginning of an id.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`]; [`ContainerError::Conflict`] when several ids fit.
    pub(crate) fn find_network(&self, name: &str) -> Result<NetworkRow, ContainerError> {
        self.network_rows()?;
        self.store().network(name).map_err(|error| match error {
            StoreError::NotFound { .. } => {
                ContainerError::NotFound { kind: "network", name: name.to_owned() }
            }
            StoreError::Ambiguous { .. } => ContainerError::Conflict(format!(
                "network {name} is ambiguous (several found based on ID prefix)"
            )),
            error => error.into(),
        })
    }

    /// Removes a network that a user made, with its bridge. A container that is in it but does not
    /// run is not asked; it cannot be started until there is a network of that name again.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`]; [`ContainerError::Conflict`] for those that every root has and
    /// while a container or a build is in it.
    pub fn remove_network(&self, name: &str) -> Result<(), ContainerError> {
        let row = self.find_network(name)?;
        let network = &row.network;
        if is_built_in(&network.name) {
            let name = &network.name;
            return Err(ContainerError::Conflict(format!(
                "{name} is a pre-defined network and cannot be removed"
            )));
        }
        // Those that were killed with their monitors give back what they hold when they are looked
        // at, which may start one again: outside of the turn.
        for held in self.store().network_addresses(&network.id)? {
            match self.container(&held.container_id) {
                Err(error) if error.is_not_found() => {}
                found => found.map(drop)?,
            }
        }
        let bridge = self.bridge(&row)?;
        let turn = Turn::take()?;
        let removed = self.store().remove_network(&network.id, || bridge.remove());
        let users = match removed {
            Err(StoreError::NotFound { .. }) => {
                return Err(ContainerError::NotFound { kind: "network", name: name.to_owned() });
            }
            users => users??,
        };
        drop(turn);
        if !users.is_empty() {
            return Err(self.is_in_use(network, &users));
        }
        self.forget_names(&network.id);
        self.tell_of_network("destroy", network);
        Ok(())
    }

    fn is_in_use(&self, network: &NewNetwork, users: &[String]) -> ContainerError {
        let users = users.iter().map(|id| match self.store().container(id) {
            Ok(row) => format!("name:{:?} id:{:?}", row.name, id.get(..12).unwrap_or(id)),
            Err(_) => "a build".to_owned(),
        });
        let users: Vec<_> = users.collect();
        ContainerError::Conflict(format!(
            "error while removing network: network {} id {} has active endpoints ({})",
            network.name,
            network.id,
            users.join(", ")
        ))
    }

    /// Removes those networks that users made, that fit, and that no container is in, running or
    /// not; their names.
    ///
    /// # Errors
    /// What the store says, or the kernel.
    pub fn prune_networks(
        &self,
        fits: impl Fn(&NetworkRow) -> bool,
    ) -> Result<Vec<String>, ContainerError> {
        let mut removed = Vec::new();
        for row in self.idle_networks()?.into_iter().filter(fits) {
            match self.remove_network(&row.network.id) {
                Ok(()) => removed.push(row.network.name),
                // Another command was faster, in one way or the other.
                Err(ContainerError::NotFound { .. } | ContainerError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(removed)
    }

    /// Networks that users made and no container is in, running or not.
    ///
    /// # Errors
    /// What the store says.
    pub fn idle_networks(&self) -> Result<Vec<NetworkRow>, ContainerError> {
        let mut idle = self.store().networks()?;
        let mut used = Vec::new();
        for row in self.store().containers(&ContainerFilter::default())? {
            used.extend(Container::of_row(row)?.spec.network.bridge().map(str::to_owned));
        }
        idle.retain(|row| !is_built_in(&row.network.name) && !used.contains(&row.network.name));
        Ok(idle)
    }
}

/// Whether a network is one of those that every root has.
#[must_use]
pub fn is_built_in(name: &str) -> bool {
    BUILT_IN_NETWORKS.contains(&name)
}

fn check_driver(driver: &str, options: &BTreeMap<String, String>) -> Result<(), ContainerError> {
    match driver {
        BRIDGE => {}
        "host" | "null" => {
            return Err(ContainerError::Conflict(format!(
                "only one instance of {driver:?} network is allowed"
            )));
        }
        _ => {
            return Err(ContainerError::Invalid(format!(
                "network driver {driver:?} is not there: davit has bridge"
            )));
        }
    }
    match options.keys().find(|option| *option != MTU) {
        Some(option) => Err(ContainerError::Invalid(format!(
            "option {option:?} of network driver bridge is not there: davit has {MTU}"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_and_options_are_refused_by_name() {
        let check = |driver: &str, options: &[(&str, &str)]| {
            let options: BTreeMap<String, String> =
                options.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
            check_driver(driver, &options)
                .and_then(|()| NetworkSpec { options, ..NetworkSpec::default() }.mtu())
                .map_err(|error| error.to_string())
        };
        assert_eq!(check("bridge", &[]), Ok(None));
        assert_eq!(check("bridge", &[(MTU, "1400")]), Ok(Some(1400)));
        for (driver, options, expected) in [
            ("overlay", &[][..], "\"overlay\""),
            ("host", &[], "only one instance of \"host\""),
            (
                "bridge",
                &[("com.docker.network.bridge.name", "br7")],
                "com.docker.network.bridge.name",
            ),
            ("bridge", &[(MTU, "9")], "from 68 to 65535"),
            ("bridge", &[(MTU, "x")], "\"x\""),
        ] {
            let error = check(driver, options).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
