//! The network of one root: its bridge, subnets and firewall table.

use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

use crate::{Endpoint, Ipv4Subnet, Ipv6Subnet, NetworkError, firewall, forward, link};

/// A bridge network; its kernel objects are found by their names alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Name of the interface: `davit0`, or `davit-` and the beginning of another root's id.
    pub name: String,
    /// Name of the firewall table (`inet` family): `davit` or `davit-` and the id's beginning.
    pub table: String,
    /// Addresses of containers.
    pub ipv4: Ipv4Subnet,
    /// IPv6 addresses of containers; `None` where the host has no IPv6.
    pub ipv6: Option<Ipv6Subnet>,
    /// MTU of the interfaces, in bytes; `None` is the kernel's default of 1500.
    pub mtu: Option<u32>,
}

/// Whether [`Bridge::ensure`] found the firewall table or had to make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// Bridge and firewall table were there.
    Present,
    /// The firewall table was missing (first use, or somebody flushed it): published ports of
    /// running containers must be added again by [`Bridge::publish`].
    Created,
}

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

    /// Makes whatever is missing of the forwarding settings and the firewall table of a bridge that
    /// is up.
    ///
    /// Idempotent and safe against a second process doing the same; costs a netlink round trip
    /// when everything is there.
    ///
    /// # Errors
    ///
    /// Fails when the kernel refuses a setting or the table.
    pub fn ensure(&self) -> Result<Ensured, NetworkError> {
        if !forward::enabled(self) {
            forward::enable(self)?;
        }
        if firewall::ensure(self)? { Ok(Ensured::Created) } else { Ok(Ensured::Present) }
    }

    /// Removes bridge, pairs of endpoints in it, and table; what does not exist is no error.
    ///
    /// # Errors
    ///
    /// Fails when the kernel refuses a removal.
    pub fn remove(&self) -> Result<(), NetworkError> {
        firewall::remove(self)?;
        forward::withdraw(self);
        link::remove_bridge(&self.name)
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
