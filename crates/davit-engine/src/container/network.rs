//! Networks of a root, and what containers hold of them.

mod addresses;
mod names;
mod user;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use davit_network::{
    Bridge, Endpoint, Ipv4Subnet, Ipv6Subnet, PortMapping, Protocol, Reach, Turn, both_families,
    choose_pool,
};
use davit_runtime::monitor::state::Summary;
use davit_store::{
    AddressClaim, Claimed, NetworkRow, NewNetwork, Pool, PortClaim, PortProtocol, PublishedPort,
    StoreError,
};

pub use self::user::{NetworkRequest, NetworkSpec, is_built_in};
use super::{
    Container, ContainerError, ContainerSpec, name,
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
        let mut pools = vec![pool4(self.choose_pool(None)?)];
        if davit_network::ipv6_available() {
            pools.push(pool6(Ipv6Subnet::unique_local(self.store().format().root_id.as_str(), 0)));
        }
        Ok(NewNetwork { pools, ..simple_network(BRIDGE)? })
    }

    /// The bridge of a network's row.
    pub(crate) fn bridge(&self, row: &NetworkRow) -> Result<Bridge, ContainerError> {
        let network = &row.network;
        let damaged =
            || ContainerError::Conflict(format!("network {} has no usable subnet", network.name));
        let spec = NetworkSpec::of(network)?;
        let four = network.pools.iter().find_map(|pool| match (pool.subnet, pool.gateway) {
            (IpAddr::V4(subnet), IpAddr::V4(gateway)) => {
                Some((Ipv4Subnet::new(subnet, pool.prefix)?, gateway))
            }
            _ => None,
        });
        let six = network.pools.iter().find_map(|pool| match (pool.subnet, pool.gateway) {
            (IpAddr::V6(subnet), IpAddr::V6(gateway)) => {
                Some((Ipv6Subnet::new(subnet, pool.prefix)?, gateway))
            }
            _ => None,
        });
        // It may have been switched off since the row was made.
        let six = six.filter(|_| davit_network::ipv6_available());
        let (ipv4, gateway) = four.ok_or_else(damaged)?;
        Ok(Bridge {
            name: self.interface(&network.name, &network.id),
            table: Bridge::names(self.kernel_id()).1,
            ipv4,
            ipv6: six.map(|(subnet, _)| subnet),
            gateway,
            gateway6: six.map(|(_, gateway)| gateway),
            mtu: spec.mtu()?,
            reach: if spec.internal { Reach::Internal } else { Reach::Outside },
        })
    }

    fn interface(&self, network: &str, id: &str) -> String {
        if network == BRIDGE {
            return Bridge::names(self.kernel_id()).0;
        }
        Bridge::name_of(self.store().format().root_id.as_str(), id)
    }

    /// All bridges that containers ever wanted or may want, and the name of their firewall table.
    pub(crate) fn known_bridges(&self) -> Result<(Vec<Bridge>, String), ContainerError> {
        let rows = self.store().networks()?;
        let bridges = rows.iter().filter(|row| row.network.driver == BRIDGE);
        let bridges = bridges.map(|row| self.bridge(row)).collect::<Result<_, _>>()?;
        Ok((bridges, Bridge::names(self.kernel_id()).1))
    }

    /// Takes bridges and firewall table off the machine; of bridges without row, too.
    pub(crate) fn withdraw_bridges(
        root_id: &str,
        (bridges, table): &(Vec<Bridge>, String),
    ) -> Result<(), ContainerError> {
        bridges.iter().try_for_each(Bridge::remove)?;
        for name in Bridge::names_of_root(root_id)? {
            Bridge::remove_interface(&name)?;
        }
        Ok(Bridge::remove_table(table)?)
    }

    /// The row of the network of this name.
    ///
    /// # Errors
    /// [`ContainerError::NotFound`].
    pub(crate) fn network_row(&self, name: &str) -> Result<NetworkRow, ContainerError> {
        let mut rows = self.network_rows()?;
        let index = rows.iter().position(|row| row.network.name == name);
        let index = index
            .ok_or_else(|| ContainerError::NotFound { kind: "network", name: name.to_owned() })?;
        Ok(rows.swap_remove(index))
    }

    /// A network with its bridge, which is made unless it is there; that may move the network, with
    /// the addresses that are held, to another pool. After the firewall table was lost, the ports of
    /// running containers are published again.
    pub(crate) fn ensure_network(
        &self,
        name: &str,
    ) -> Result<(NetworkRow, Bridge), ContainerError> {
        let interface = match name {
            BRIDGE => self.interface(name, ""),
            _ => self.interface(name, &self.network_row(name)?.network.id),
        };
        if !Bridge::is_up(&interface)? {
            self.raise_bridge(name)?;
        }
        // Read now: as long as the bridge is up the network does not move.
        let row = self.network_row(name)?;
        let bridge = self.bridge(&row)?;
        bridge.open()?;
        if !bridge.is_guarded()? {
            self.guard(&bridge)?;
        }
        Ok((row, bridge))
    }

    /// Writes the firewall table, with the ports of running containers.
    fn guard(&self, bridge: &Bridge) -> Result<(), ContainerError> {
        let _turn = Turn::take()?;
        let (bridges, table) = self.known_bridges()?;
        Bridge::guard(&table, &bridges)?;
        self.publish_again(bridge)
    }

    fn raise_bridge(&self, name: &str) -> Result<(), ContainerError> {
        let _turn = Turn::take()?;
        let row = self.network_row(name)?;
        let mut bridge = self.bridge(&row)?;
        if Bridge::is_up(&bridge.name)? {
            // Another process was faster.
            return Ok(());
        }
        if let Some(rival) = bridge.rival()? {
            self.give_way(&row.network, &bridge, rival)?;
            bridge = self.bridge(&self.network_row(name)?)?;
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
        let (name, subnet) = (network.name.clone(), bridge.ipv4.to_string());
        if NetworkSpec::of(network)?.is_fixed {
            return Err(ContainerError::PoolTaken { network: name, subnet, rival });
        }
        for held in self.store().network_addresses(&network.id)? {
            let container = held.container_id;
            if self.was_attached(&container)? {
                return Err(ContainerError::PoolLost { network: name, subnet, rival, container });
            }
        }
        let pool = pool4(self.choose_pool(Some(&network.id))?);
        // The firewall table knows the old pool.
        bridge.remove()?;
        Ok(self.store().move_network(&network.id, &pool)?)
    }

    /// A pool that neither the machine nor another network of the root has.
    fn choose_pool(&self, own_id: Option<&str>) -> Result<Ipv4Subnet, ContainerError> {
        let rows = self.store().networks()?;
        let others = rows.iter().filter(|row| Some(row.network.id.as_str()) != own_id);
        let pools = others.flat_map(|row| &row.network.pools);
        let pools: Vec<_> = pools
            .filter_map(|pool| match pool.subnet {
                IpAddr::V4(subnet) => Ipv4Subnet::new(subnet, pool.prefix),
                IpAddr::V6(_) => None,
            })
            .collect();
        Ok(choose_pool(self.kernel_id(), &pools)?)
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
        let Some(network) = container.spec.network.bridge() else { return Ok(()) };
        let Some(endpoint) = self.endpoint(&container.id)? else { return Ok(()) };
        Ok(self.bridge(&self.network_row(network)?)?.unpublish(&endpoint)?)
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

/// What a container must hold before it can start in a network with a bridge.
pub(crate) fn claims(
    spec: &ContainerSpec,
    row: &NetworkRow,
) -> Result<(Vec<AddressClaim>, Vec<PortClaim>), ContainerError> {
    let address = AddressClaim {
        network_id: row.network.id.clone(),
        wanted: spec.addresses.clone(),
        aliases: spec.aliases.clone(),
        ..AddressClaim::default()
    };
    if NetworkSpec::of(&row.network)?.internal {
        // Nobody would reach what is published there.
        return Ok((vec![address], Vec::new()));
    }
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
    Ok((vec![address], ports.collect()))
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
