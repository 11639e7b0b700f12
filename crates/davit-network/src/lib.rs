//! Container networks: bridges, address pools, nftables and published ports.
//!
//! Everything is netlink on blocking sockets; a program is executed only where the old iptables
//! drops forwarded packets, which has no other interface. A [`Bridge`] is a network, of which a root
//! has several under one firewall table, an [`Endpoint`] one container in it:
//!
//! ```text
//! choose_pool -> Bridge::raise -> Bridge::guard -> Endpoint::new -> Bridge::attach ... Bridge::unpublish
//! ```
//!
//! Which address and which ports an endpoint has is decided by rows of the store, not here.

#![forbid(unsafe_code)]

mod address;
mod bridge;
mod conntrack;
mod endpoint;
mod error;
mod firewall;
mod forward;
mod link;
mod names;
mod netlink;
mod nft;
mod pool;
mod port;
mod reserve;
mod turn;

pub use address::{InvalidMac, InvalidSubnet, Ipv4Subnet, Ipv6Subnet, Mac, both_families};
pub use bridge::{Bridge, Reach};
pub use endpoint::{Endpoint, INTERFACE};
pub use error::NetworkError;
pub use link::{loopback_up, loopback_up_in};
pub use names::{NAME_SERVER, NameEntry, Names, Resolver, write_names};
pub use pool::{choose_pool, ipv6_available};
pub use port::{ExposedPorts, InvalidPort, PortMapping, PortRequest, Protocol, PublishSpec};
pub use reserve::{Reservation, reserve};
pub use turn::Turn;
