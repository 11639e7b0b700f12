//! The root's bridge network, and what containers hold of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use davit_network::{
    Bridge, Endpoint, Ensured, Ipv4Subnet, Ipv6Subnet, PortMapping, Protocol, Turn, both_families,
    choose_pool,
};
use davit_runtime::monitor::state::Summary;
use davit_store::{
    AddressClaim, Claimed, NetworkRow, NewNetwork, Pool, PortClaim, PortProtocol, PublishedPort,
    StoreError,
};

use super::{
    Container, ContainerError, ContainerSpec, NetworkMode, name,
    status::{LockHolder, lock_holder},
};
use crate::Engine;

const DEFAULT_ROOT: &str = "/var/lib/davit";
/// Name of the network that containers are in unless they ask for another.
pub(crate) const BRIDGE: &str = "bridge";
/// Networks that every root has.
pub(crate) const BUILT_IN_NETWORKS: [&str; 3] = [BRIDGE, "host", "none"];

impl Engine {
    /// The id that marks this root's kernel objects; `None` for the machine's default root.
    pub(crate) fn kernel_id(&self) -> Option<&str> {
        let default = self.store().layout().root() == std::path::Path::new(DEFAULT_ROOT);
        (!default).then(|| self.store().format().root_id.as_str())
    }

    /// Prefix of this root's cgroups.
    pub(crate) fn cgroup_root(&self) -> String {
        match self.kernel_id() {
            None => "davit".to_owned(),
            Some(id) => format!("davit-{}", id.chars().take(8).collect::<String>()),
        }
    }

    /// Path of a container's cgroup.
    pub(crate) fn cgroup_of(&self, id: &str) -> String {
        format!("{}/{id}", self.cgroup_root())
    }

    /// The rows of Docker's three networks, made at first use.
    ///
    /// # Errors
    /// No pool is free, or what the store says.
    pub(crate) fn network_rows(&self) -> Result<Vec<NetworkRow>, ContainerError> {
        let rows = self.store().networks()?;
        if rows.iter().any(|row| row.network.name == BRIDGE) {
            return Ok(rows);
        }
        for network in [self.new_bridge()?, simple_network("host")?, simple_network("none")?] {
            match self.store().create_network(&network) {
                // Another process was faster.
                Ok(()) | Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.store().networks()?)
    }

    fn new_bridge(&self) -> Result<NewNetwork, ContainerError> {
        let mut pools = vec![pool4(choose_pool(self.kernel_id())?)];
        if davit_network::ipv6_available() {
            pools.push(pool6(Ipv6Subnet::unique_local(self.store().format().root_id.as_str(), 0)));
        }
        Ok(NewNetwork { pools, ..simple_network(BRIDGE)? })
    }

    /// The bridge of a network's row.
    pub(crate) fn bridge(&self, row: &NetworkRow) -> Result<Bridge, ContainerError> {
        let (name, table) = Bridge::names(self.kernel_id());
        let damaged = || {
            ContainerError::Conflict(format!("network {} has no usable subnet", row.network.name))
        };
        let pools = &row.network.pools;
        let ipv4 = pools.iter().find_map(|pool| match pool.subnet {
            IpAddr::V4(subnet) => Ipv4Subnet::new(subnet, pool.prefix),
            IpAddr::V6(_) => None,
        });
        let ipv6 = pools.iter().find_map(|pool| match pool.subnet {
            IpAddr::V6(subnet) => Ipv6Subnet::new(subnet, pool.prefix),
            IpAddr::V4(_) => None,
        });
        // It may have been switched off since the row was made.
        let ipv6 = ipv6.filter(|_| davit_network::ipv6_available());
        Ok(Bridge { name, table, ipv4: ipv4.ok_or_else(damaged)?, ipv6, mtu: None })
    }

    /// The root's bridge, if a container ever wanted one.
    pub(crate) fn known_bridge(&self) -> Result<Option<Bridge>, ContainerError> {
        let rows = self.store().networks()?;
        let row = rows.iter().find(|row| row.network.name == BRIDGE);
        row.map(|row| self.bridge(row)).transpose()
    }

    /// The bridge network's row.
    pub(crate) fn bridge_row(&self) -> Result<NetworkRow, ContainerError> {
        let mut rows = self.network_rows()?;
        let index = rows.iter().position(|row| row.network.name == BRIDGE);
        let index = index
            .ok_or_else(|| ContainerError::NotFound { kind: "network", name: BRIDGE.to_owned() })?;
        Ok(rows.swap_remove(index))
    }

    /// The bridge network with its bridge, which is made unless it is there; that may move the
    /// network, with the addresses that are held, to another pool. After its firewall table was
    /// lost, the ports of running containers are published again.
    pub(crate) fn ensure_bridge(&self) -> Result<(NetworkRow, Bridge), ContainerError> {
        if !Bridge::is_up(&Bridge::names(self.kernel_id()).0)? {
            self.raise_bridge()?;
        }
        // Read now: as long as the bridge is up the network does not move.
        let row = self.bridge_row()?;
        let bridge = self.bridge(&row)?;
        if bridge.ensure()? == Ensured::Created {
            self.publish_again(&bridge)?;
        }
        Ok((row, bridge))
    }

    fn raise_bridge(&self) -> Result<(), ContainerError> {
        let _turn = Turn::take()?;
        let row = self.bridge_row()?;
        let mut bridge = self.bridge(&row)?;
        if Bridge::is_up(&bridge.name)? {
            // Another process was faster.
            return Ok(());
        }
        if let Some(rival) = bridge.rival()? {
            self.give_way(&row.network, &bridge, rival)?;
            bridge = self.bridge(&self.bridge_row()?)?;
        }
        Ok(bridge.raise()?)
    }

    /// Moves the network to a pool that nobody has.
    fn give_way(
        &self,
        network: &NewNetwork,
        bridge: &Bridge,
        rival: String,
    ) -> Result<(), ContainerError> {
        for held in self.store().network_addresses(&network.id)? {
            let container = held.container_id;
            if self.was_attached(&container)? {
                let subnet = bridge.ipv4.to_string();
                return Err(ContainerError::PoolLost { subnet, rival, container });
            }
        }
        let pool = pool4(choose_pool(self.kernel_id())?);
        // The firewall table knows the old pool.
        bridge.remove()?;
        Ok(self.store().move_network(&network.id, &pool)?)
    }

    /// Whether a container runs, or is about to again, with the addresses it holds; one that is
    /// only being started asks for them once the bridge is up.
    fn was_attached(&self, id: &str) -> Result<bool, ContainerError> {
        // Not [`Engine::examine`], which may start a container: that wants this turn, too.
        let lock = self.store().layout().run_container(id).join("lock");
        let is_watched = lock_holder(&lock)? == LockHolder::Somebody;
        Ok(is_watched && Summary::of(&self.records(id)?).process().is_some())
    }

    fn publish_again(&self, bridge: &Bridge) -> Result<(), ContainerError> {
        for row in self.store().containers(&davit_store::ContainerFilter {
            status: Some("running".to_owned()),
            ..Default::default()
        })? {
            if let Some(endpoint) = self.endpoint(&row.id)? {
                bridge.publish(&endpoint)?;
            }
        }
        Ok(())
    }

    /// What a container holds in the network, by the rows.
    pub(crate) fn endpoint(&self, id: &str) -> Result<Option<Endpoint>, ContainerError> {
        let addresses = self.store().container_addresses(id)?;
        let addresses: Vec<IpAddr> = addresses.into_iter().map(|row| row.address).collect();
        let Some((ipv4, ipv6)) = both_families(&addresses) else { return Ok(None) };
        let ports = self.store().ports(Some(id))?.into_iter().map(|row| row.port);
        Ok(Some(Endpoint::new((ipv4, ipv6), 0, mappings(ports))))
    }

    /// Withdraws a container's ports from the firewall, for one whose monitor cannot.
    pub(crate) fn unpublish(&self, container: &Container) -> Result<(), ContainerError> {
        if container.spec.network != NetworkMode::Bridge {
            return Ok(());
        }
        let Some(endpoint) = self.endpoint(&container.id)? else { return Ok(()) };
        Ok(self.bridge(&self.bridge_row()?)?.unpublish(&endpoint)?)
    }
}

fn simple_network(name: &str) -> Result<NewNetwork, ContainerError> {
    let driver = if name == "none" { "null" } else { name };
    Ok(NewNetwork {
        id: name::random_id()?,
        name: name.to_owned(),
        driver: driver.to_owned(),
        labels: std::collections::BTreeMap::new(),
        pools: Vec::new(),
        spec: serde_json::json!({}),
    })
}

fn pool4(subnet: Ipv4Subnet) -> Pool {
    Pool {
        subnet: subnet.network().into(),
        prefix: subnet.prefix(),
        gateway: subnet.gateway().into(),
        first: next4(subnet.gateway()).into(),
        last: previous4(subnet.broadcast()).into(),
    }
}

fn next4(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address).saturating_add(1))
}

fn previous4(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(address).saturating_sub(1))
}

fn pool6(subnet: Ipv6Subnet) -> Pool {
    let number = u128::from(subnet.network());
    let last = number | (u128::MAX >> subnet.prefix());
    Pool {
        subnet: subnet.network().into(),
        prefix: subnet.prefix(),
        gateway: subnet.gateway().into(),
        first: Ipv6Addr::from(number + 2).into(),
        last: Ipv6Addr::from(last).into(),
    }
}

/// What a container must hold before it can start in the bridge network.
pub(crate) fn claims(
    spec: &ContainerSpec,
    network_id: &str,
) -> (Vec<AddressClaim>, Vec<PortClaim>) {
    let address = AddressClaim {
        network_id: network_id.to_owned(),
        wanted: spec.addresses.clone(),
        ..AddressClaim::default()
    };
    let ports = spec.port_requests().into_iter().map(|request| PortClaim {
        protocol: match request.protocol {
            Protocol::Tcp => PortProtocol::Tcp,
            Protocol::Udp => PortProtocol::Udp,
            Protocol::Sctp => PortProtocol::Sctp,
        },
        host_addresses: match request.host_address {
            Some(address) => vec![address],
            None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        },
        host_ports: request.host_ports.map(|(first, last)| first..=last),
        container_port: request.container_port,
    });
    (vec![address], ports.collect())
}

/// Rows as the network crate wants them.
pub(crate) fn mappings(ports: impl Iterator<Item = PublishedPort>) -> Vec<PortMapping> {
    let mapping = |port: PublishedPort| PortMapping {
        host_address: port.host_address,
        host_port: port.host_port,
        container_port: port.container_port,
        protocol: match port.protocol {
            PortProtocol::Tcp => Protocol::Tcp,
            PortProtocol::Udp => Protocol::Udp,
            PortProtocol::Sctp => Protocol::Sctp,
        },
    };
    ports.map(mapping).collect()
}

/// Addresses of a claim's answer.
pub(crate) fn claimed_addresses(claimed: &Claimed) -> Vec<IpAddr> {
    claimed.addresses.iter().map(|(_, address)| *address).collect()
}
