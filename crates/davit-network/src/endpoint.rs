//! One container's place in a network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

use crate::{Mac, NetworkError, PortMapping};

/// Name of the interface inside the container.
pub const INTERFACE: &str = "eth0";

/// One container's addresses, interface names and published ports in a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// IPv4 address.
    pub ipv4: Ipv4Addr,
    /// IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Hardware address of the container's interface.
    pub mac: Mac,
    /// Name of the host's end of the pair; random, since a name just deleted may still be busy.
    pub veth: String,
    /// Published ports.
    pub ports: Vec<PortMapping>,
}

impl Endpoint {
    /// Makes the endpoint for allocated addresses of both families.
    ///
    /// `random` gives the host interface its name (28 bits are used).
    #[must_use]
    pub fn new(
        addresses: (Ipv4Addr, Option<Ipv6Addr>),
        random: u32,
        ports: Vec<PortMapping>,
    ) -> Self {
        let (ipv4, ipv6) = addresses;
        let veth = format!("veth{:07x}", random & 0x0fff_ffff);
        Self { ipv4, ipv6, mac: Mac::of_address(ipv4), veth, ports }
    }

    /// Tells whether an interface is named as a host's end is.
    pub(crate) fn is_pair(name: &str) -> bool {
        let number = name.strip_prefix("veth");
        number.is_some_and(|hex| hex.len() == 7 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// A number for [`Endpoint::new`].
    ///
    /// # Errors
    /// [`NetworkError::Random`].
    pub fn random() -> Result<u32, NetworkError> {
        let mut bytes = [0; 4];
        getrandom(&mut bytes, GetRandomFlags::empty()).map_err(NetworkError::Random)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    /// The mappings as firewall elements want them: host address (`None` is every one of the
    /// family), and the container's address of that family.
    pub(crate) fn mappings(
        &self,
    ) -> impl Iterator<Item = (Option<IpAddr>, IpAddr, PortMapping)> + '_ {
        self.ports.iter().filter_map(|port| {
            let container = match port.host_address {
                IpAddr::V4(_) => self.ipv4.into(),
                IpAddr::V6(_) => self.ipv6?.into(),
            };
            let host = Some(port.host_address).filter(|address| !address.is_unspecified());
            Some((host, container, *port))
        })
    }
}
