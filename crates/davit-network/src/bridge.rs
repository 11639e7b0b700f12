//! A network: its bridge, its subnets, and its part of its root's firewall table.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::BorrowedFd,
};

use serde::{Deserialize, Serialize};

use crate::{Endpoint, Ipv4Subnet, Ipv6Subnet, NetworkError, firewall, forward, link};

/// A bridge network; its kernel objects are found by their names alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Name of the interface: `davit0`, or `davit-` and the beginning of another root's id; of a
    /// network that a user made [`Bridge::name_of`].
    pub name: String,
    /// Name of the root's firewall table (`inet` family): `davit` or `davit-` and the id's beginning.
    pub table: String,
    /// Addresses of containers.
    pub ipv4: Ipv4Subnet,
    /// IPv6 addresses of containers; `None` where the network or the host has none.
    pub ipv6: Option<Ipv6Subnet>,
    /// The bridge's own address.
    pub gateway: Ipv4Addr,
    /// The bridge's own IPv6 address; it counts where `ipv6` is set.
    pub gateway6: Option<Ipv6Addr>,
    /// MTU of the interfaces, in bytes; `None` is the kernel's default of 1500.
    pub mtu: Option<u32>,
    /// How far its containers get.
    pub reach: Reach,
}

/// How far containers of a network get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reach {
    /// Wherever the machine gets.
    #[default]
    Outside,
    /// One another and the machine's address in the network.
    Internal,
}

/// Letters of a root's and of a network's id in the name of a user's network.
const SHORT_ID: usize = 6;

impl Bridge {
    /// Interface and table names of a root; `root_id` is `None` for the machine's default root.
    #[must_use]
    pub fn names(root_id: Option<&str>) -> (String, String) {
        match root_id {
            None => ("davit0".to_owned(), "davit".to_owned()),
            Some(id) => {
                // 15 bytes is the kernel's limit for interface names.
                let short: String = id.chars().take(8).collect();
                (format!("davit-{short}"), format!("davit-{short}"))
            }
        }
    }

    /// A network whose bridge has the first address of each subnet, with a way out.
    #[must_use]
    pub fn new(
        (name, table): (String, String),
        ipv4: Ipv4Subnet,
        ipv6: Option<Ipv6Subnet>,
    ) -> Self {
        let (gateway, gateway6) = (ipv4.gateway(), ipv6.map(|subnet| subnet.gateway()));
        Self { name, table, ipv4, ipv6, gateway, gateway6, mtu: None, reach: Reach::Outside }
    }

    /// Interface name of a network that a user made, by its id and that of its root, even of the
    /// machine's default root: `dv0123ab-4567cd`, all of the 15 bytes that the kernel takes.
    #[must_use]
    pub fn name_of(root_id: &str, network_id: &str) -> String {
        let short = |id: &str| id.chars().take(SHORT_ID).collect::<String>();
        format!("dv{}-{}", short(root_id), short(network_id))
    }

    /// Interfaces in the calling thread's network namespace that are named as those of users'
    /// networks of a root.
    ///
    /// # Errors
    ///
    /// Fails when the kernel cannot be asked.
    pub fn names_of_root(root_id: &str) -> Result<Vec<String>, NetworkError> {
        let prefix = Self::name_of(root_id, "");
        let mut names = link::names()?;
        names.retain(|name| {
            name.strip_prefix(&prefix).is_some_and(|id| {
                id.len() == SHORT_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
        });
        Ok(names)
    }

    /// Whether the calling thread's network namespace has a bridge of this name, and it is up: one
    /// netlink round trip.
    ///
    /// # Errors
    ///
    /// Fails when the kernel cannot be asked.
    pub fn is_up(name: &str) -> Result<bool, NetworkError> {
        link::is_up(name)
    }

    /// Who has IPv4 addresses of the bridge by the machine's routes, in words: to be asked before
    /// [`Bridge::raise`], since the subnet may have been chosen long ago.
    ///
    /// A wider route, as a VPN's to all private addresses, is no rival: the bridge's own comes
    /// first, and every pool may lie under it.
    ///
    /// # Errors
    ///
    /// Fails when the routes cannot be read.
    pub fn rival(&self) -> Result<Option<String>, NetworkError> {
        let routes = link::ipv4_routes(&self.name)?;
        let rival = routes.into_iter().find(|route| {
            route.subnet.overlaps(&self.ipv4) && route.subnet.prefix() >= self.ipv4.prefix()
        });
        Ok(rival.map(|route| match route.interface.and_then(link::name_of) {
            Some(name) => format!("interface {name}"),
            None => format!("the route to {}", route.subnet),
        }))
    }

    /// Makes the bridge with its addresses and sets it up, in the calling thread's network
    /// namespace. Idempotent.
    ///
    /// # Errors
    ///
    /// Fails when the kernel refuses the interface, an address or a setting.
    pub fn raise(&self) -> Result<(), NetworkError> {
        link::raise_bridge(self)?;
        forward::enable(self)
    }

    /// Makes whatever is missing of the settings by which packets to and from a bridge that is up
    /// are forwarded. Idempotent; a netlink round trip when everything is there.
    ///
    /// # Errors
    ///
    /// Fails when the kernel refuses a setting.
    pub fn open(&self) -> Result<(), NetworkError> {
        if forward::enabled(self) { Ok(()) } else { forward::enable(self) }
    }

    /// Whether the firewall table is there, in this version of its rules, and knows the bridge: two
    /// netlink round trips.
    ///
    /// # Errors
    ///
    /// Fails when the kernel cannot be asked.
    pub fn is_guarded(&self) -> Result<bool, NetworkError> {
        firewall::knows(self)
    }

    /// Writes the firewall table of a root with all its networks, in one transaction: others that
    /// the table knew it does not know any more. What is published stays.
    ///
    /// The caller has the [`crate::Turn`], and learned the networks in it: of two who write, the
    /// later one must not know less. After the table was missing, the published ports of running
    /// containers must be added again by [`Bridge::publish`].
    ///
    /// # Errors
    ///
    /// Fails when the kernel refuses the table.
    pub fn guard(table: &str, networks: &[Self]) -> Result<(), NetworkError> {
        firewall::write(table, networks)
    }

    /// Removes a root's firewall table; a missing one is no error.
    ///
    /// # Errors
    ///
    /// Fails when the kernel refuses.
    pub fn remove_table(table: &str) -> Result<(), NetworkError> {
        firewall::remove(table)
    }

    /// Removes bridge, pairs of endpoints in it, and what the firewall table knows of it; what does
    /// not exist is no error.
    ///
    /// # Errors
    ///
    /// Fails when the kernel refuses a removal.
    pub fn remove(&self) -> Result<(), NetworkError> {
        firewall::forget(self)?;
        Self::remove_interface(&self.name)
    }

    /// Removes a bridge of which the name alone is known, and pairs of endpoints in it.
    ///
    /// # Errors
    ///
    /// Fails when the kernel refuses a removal.
    pub fn remove_interface(name: &str) -> Result<(), NetworkError> {
        forward::withdraw(name);
        link::remove_bridge(name)
    }

    /// Gives the container in `netns` its interface, addresses, routes and published ports.
    ///
    /// The calling process must be single-threaded or own its thread's namespace: the thread enters
    /// `netns` for some microseconds and returns.
    ///
    /// # Errors
    ///
    /// Fails when the kernel refuses a step; nothing of the endpoint is then left.
    pub fn attach(&self, endpoint: &Endpoint, netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
        link::attach(self, endpoint, netns)?;
        if let Err(error) = self.publish(endpoint) {
            // The first error is the one to report.
            drop(link::remove(&endpoint.veth));
            return Err(error);
        }
        Ok(())
    }

    /// Adds the published ports of an endpoint to the firewall table; idempotent.
    ///
    /// # Errors
    ///
    /// Fails when the table is missing or a port belongs to another endpoint.
    pub fn publish(&self, endpoint: &Endpoint) -> Result<(), NetworkError> {
        firewall::publish(self, endpoint)
    }

    /// Removes the published ports of an endpoint; idempotent.
    ///
    /// # Errors
    ///
    /// Fails when the kernel refuses; missing elements or a missing table are no error.
    pub fn unpublish(&self, endpoint: &Endpoint) -> Result<(), NetworkError> {
        firewall::unpublish(self, endpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_into_the_kernels_15_bytes() {
        let (root, network) = ("0123456789abcdef", "fedcba9876543210");
        assert_eq!(Bridge::name_of(root, network), "dv012345-fedcba");
        assert_eq!(Bridge::name_of(root, network).len(), 15);
        assert_eq!(Bridge::names(Some(root)).0, "davit-01234567");
    }
}
