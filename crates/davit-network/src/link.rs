//! Interfaces, addresses and routes (rtnetlink).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::{
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    Bridge, Endpoint, INTERFACE, Ipv4Subnet, Mac, NetworkError, Reach,
    address::octets,
    forward,
    netlink::{self, Attributes, Batch, CREATE, EXCL, REPLACE, Socket},
};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;

const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_MTU: u16 = 4;
const LINK_MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const LINK_FAMILIES: u16 = 26;
const LINK_NAMESPACE: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const PORT_HAIRPIN: u16 = 4;
const VETH_PEER: u16 = 1;
const INET6_ADDRESS_MODE: u16 = 8;
const ADDRESS_MODE_NONE: u8 = 1;

const ADDRESS_ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_BROADCAST: u16 = 4;
const ADDRESS_FLAGS: u16 = 8;
/// Permanent, and used at once: the address is ours by the store's row, so no probing.
const NO_DETECTION: u32 = 0x80 | 0x02;

const ROUTE_DESTINATION: u16 = 1;
const ROUTE_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const TABLE_MAIN: u8 = 254;
const PROTOCOL_BOOT: u8 = 3;
const UNICAST: u8 = 1;

const FAMILY_INET: u8 = 2;
const FAMILY_INET6: u8 = 10;
const UP: u32 = 1;
const LOOPBACK_INDEX: u32 = 1;

/// `struct ifinfomsg` for an interface by index (0: by name or new).
fn link_header(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// Whether there is an interface of this name that is up.
pub(crate) fn is_up(name: &str) -> Result<bool, NetworkError> {
    Ok(find(&Socket::route()?, name)?.is_some_and(|link| link.up))
}

/// The name of an interface that may be gone by now.
pub(crate) fn name_of(index: u32) -> Option<String> {
    let socket = Socket::route().ok()?;
    rustix::net::netdevice::index_to_name(&socket, index).ok()
}

/// Makes the bridge, or what is missing of one that is there.
pub(crate) fn raise_bridge(bridge: &Bridge) -> Result<(), NetworkError> {
    let socket = Socket::route()?;
    let mut batch = Batch::default();
    batch.message(NEW_LINK, CREATE | EXCL, &link_header(0, 0), |link| {
        link.text(LINK_NAME, &bridge.name);
        link.bytes(LINK_ADDRESS, &Mac::of_address(bridge.gateway).bytes());
        if let Some(mtu) = bridge.mtu {
            link.u32(LINK_MTU, mtu);
        }
        link.nest(LINK_INFO, |info| {
            info.text(INFO_KIND, "bridge");
        });
    });
    match socket.transact(&batch) {
        Ok(()) => {}
        Err(refusal) if refusal.is(Errno::EXIST) => {}
        Err(refusal) => return Err(refusal.or(link_error("create", &bridge.name))),
    }
    let index = index_of(&socket, &bridge.name)?;
    // Before the interface is up: the kernel reads these settings when it makes addresses.
    forward::prepare_bridge(bridge)?;
    let mut batch = Batch::default();
    add_address(&mut batch, index, bridge.gateway, &bridge.ipv4);
    if let Some((ipv6, gateway)) = bridge.ipv6.zip(bridge.gateway6) {
        add_address6(&mut batch, index, gateway, ipv6.prefix());
    }
    let configure =
        |batch| socket.transact(batch).map_err(|r| r.or(link_error("configure", &bridge.name)));
    configure(&batch)?;
    // Alone, since the kernel goes on after a refusal: one that is up counts as made.
    let mut batch = Batch::default();
    batch.message(NEW_LINK, 0, &link_header(index, UP), |_| {});
    configure(&batch)
}

/// Makes the veth pair with its far end inside `netns` and configures that end.
pub(crate) fn attach(
    bridge: &Bridge,
    endpoint: &Endpoint,
    netns: BorrowedFd<'_>,
) -> Result<(), NetworkError> {
    let inside = inside(netns, || {
        forward::prepare_container(endpoint.ipv6.is_some() && bridge.ipv6.is_some())?;
        Socket::route()
    })?;
    let outside = Socket::route()?;
    make_pair(&outside, bridge, endpoint, netns)?;
    configure(&inside, bridge, endpoint).inspect_err(|_| {
        // The pair may be half configured; the first error is the one to report.
        drop(remove(&endpoint.veth));
    })
}

fn make_pair(
    socket: &Socket,
    bridge: &Bridge,
    endpoint: &Endpoint,
    netns: BorrowedFd<'_>,
) -> Result<(), NetworkError> {
    let master = index_of(socket, &bridge.name)?;
    let fd = u32::try_from(netns.as_raw_fd()).expect("file descriptors are not negative");
    let mut batch = Batch::default();
    batch.message(NEW_LINK, CREATE | EXCL, &link_header(0, 0), |link| {
        link.text(LINK_NAME, &endpoint.veth).u32(LINK_MASTER, master);
        if let Some(mtu) = bridge.mtu {
            link.u32(LINK_MTU, mtu);
        }
        link.nest(LINK_INFO, |info| {
            info.text(INFO_KIND, "veth");
            info.nest(INFO_DATA, |data| {
                data.nest(VETH_PEER, |peer| {
                    peer.raw(&link_header(0, 0)).text(LINK_NAME, INTERFACE);
                    peer.bytes(LINK_ADDRESS, &endpoint.mac.bytes()).u32(LINK_NAMESPACE, fd);
                    if let Some(mtu) = bridge.mtu {
                        peer.u32(LINK_MTU, mtu);
                    }
                });
            });
        });
    });
    // The host's end needs no address; without one it sends no router solicitations either. The
    // kernel takes this setting only of an interface that exists.
    batch.message(NEW_LINK, 0, &link_header(0, UP), |link| {
        link.text(LINK_NAME, &endpoint.veth);
        if endpoint.ipv6.is_some() && bridge.ipv6.is_some() {
            link.nest(LINK_FAMILIES, |families| {
                families.nest(u16::from(FAMILY_INET6), |inet6| {
                    inet6.bytes(INET6_ADDRESS_MODE, &[ADDRESS_MODE_NONE]);
                });
            });
        }
        // With `br_netfilter` a redirect happens while the packet is still bridged: one from a
        // container to its own published port must leave by the port it came from.
        if forward::bridged_packets_are_filtered() {
            link.nest(LINK_INFO, |info| {
                info.text(INFO_SLAVE_KIND, "bridge").nest(INFO_SLAVE_DATA, |port| {
                    port.bytes(PORT_HAIRPIN, &[1]);
                });
            });
        }
    });
    socket.transact(&batch).map_err(|refusal| refusal.or(link_error("create", &endpoint.veth)))
}

fn configure(socket: &Socket, bridge: &Bridge, endpoint: &Endpoint) -> Result<(), NetworkError> {
    let index = index_of(socket, INTERFACE)?;
    let mut batch = Batch::default();
    batch.message(NEW_LINK, 0, &link_header(LOOPBACK_INDEX, UP), |_| {});
    add_address(&mut batch, index, endpoint.ipv4, &bridge.ipv4);
    let six = endpoint.ipv6.zip(bridge.ipv6);
    if let Some((address, subnet)) = six {
        add_address6(&mut batch, index, address, subnet.prefix());
    }
    batch.message(NEW_LINK, 0, &link_header(index, UP), |_| {});
    if bridge.reach == Reach::Outside {
        add_default_route(&mut batch, index, bridge.gateway.into());
        if let Some(gateway) = bridge.gateway6.filter(|_| six.is_some()) {
            add_default_route(&mut batch, index, gateway.into());
        }
    }
    socket.transact(&batch).map_err(|refusal| refusal.or(link_error("configure", INTERFACE)))
}

/// Sets the loopback interface of the calling thread's namespace up.
///
/// # Errors
///
/// Fails when the kernel refuses.
pub fn loopback_up() -> Result<(), NetworkError> {
    let mut batch = Batch::default();
    batch.message(NEW_LINK, 0, &link_header(LOOPBACK_INDEX, UP), |_| {});
    Socket::route()?.transact(&batch).map_err(|refusal| refusal.or(link_error("configure", "lo")))
}

/// Sets the loopback interface of another namespace up; the calling thread enters it for some
/// microseconds.
///
/// # Errors
///
/// Fails when the kernel refuses.
pub fn loopback_up_in(netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
    inside(netns, loopback_up)
}

/// Removes an interface; a missing one is no error.
pub(crate) fn remove(name: &str) -> Result<(), NetworkError> {
    let mut batch = Batch::default();
    batch.message(DELETE_LINK, 0, &link_header(0, 0), |link| {
        link.text(LINK_NAME, name);
    });
    match Socket::route()?.transact(&batch) {
        Err(refusal) if !refusal.is(Errno::NODEV) => Err(refusal.or(link_error("remove", name))),
        _ => Ok(()),
    }
}

/// Removes a bridge and the pairs that still hang on it; a missing one is no error.
///
/// The kernel removes the pair of a container that has ended when it comes to it.
pub(crate) fn remove_bridge(name: &str) -> Result<(), NetworkError> {
    let socket = Socket::route()?;
    let Some(bridge) = find(&socket, name)? else { return Ok(()) };
    let mut links = links(&socket)?;
    links.retain(|(name, master)| *master == Some(bridge.index) && Endpoint::is_pair(name));
    links.iter().try_for_each(|(pair, _)| remove(pair))?;
    remove(name)
}

/// Names of all interfaces.
pub(crate) fn names() -> Result<Vec<String>, NetworkError> {
    Ok(links(&Socket::route()?)?.into_iter().map(|(name, _)| name).collect())
}

/// All interfaces: name, and index of the bridge that each hangs on.
fn links(socket: &Socket) -> Result<Vec<(String, Option<u32>)>, NetworkError> {
    let mut links = Vec::new();
    let dump =
        socket.dump(GET_LINK, &link_header(0, 0), |_| {}, |link| links.extend(parse_link(link)));
    dump.map_err(|refusal| refusal.or(NetworkError::Socket))?;
    Ok(links)
}

fn parse_link(link: &[u8]) -> Option<(String, Option<u32>)> {
    let (_, attributes) = link.split_at_checked(16)?;
    let master = netlink::attribute(attributes, LINK_MASTER).and_then(netlink::number);
    let name = netlink::attribute(attributes, LINK_NAME)?.strip_suffix(b"\0")?;
    Some((std::str::from_utf8(name).ok()?.to_owned(), master))
}

/// Where packets to a subnet go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Route {
    pub(crate) subnet: Ipv4Subnet,
    /// Index of the interface; a route that drops packets, or has several ways, has none.
    pub(crate) interface: Option<u32>,
}

/// Every IPv4 destination of every routing table, the machine's own addresses among them, except
/// default routes and routes over `own`.
pub(crate) fn ipv4_routes(own: &str) -> Result<Vec<Route>, NetworkError> {
    let socket = Socket::route()?;
    let own = find(&socket, own)?.map(|link| link.index);
    let mut routes = Vec::new();
    let mut header = [0; 12];
    header[0] = FAMILY_INET;
    let dump = socket.dump(
        GET_ROUTE,
        &header,
        |_| {},
        |route| {
            routes.extend(parse_route(route, own));
        },
    );
    dump.map_err(|refusal| refusal.or(NetworkError::Socket))?;
    Ok(routes)
}

fn parse_route(route: &[u8], own: Option<u32>) -> Option<Route> {
    let (header, attributes) = route.split_at_checked(12)?;
    let interface = netlink::attribute(attributes, ROUTE_INTERFACE).and_then(netlink::number);
    if own.is_some() && interface == own {
        return None;
    }
    let address: [u8; 4] = netlink::attribute(attributes, ROUTE_DESTINATION)?.try_into().ok()?;
    // A wider route than /8 (a VPN's halves of the address space) leaves no pool; as with the
    // default route, the more specific bridge wins.
    let subnet = Ipv4Subnet::new(Ipv4Addr::from(address), header[1].min(30))?;
    Some(Route { subnet, interface })
}

#[derive(Debug, Clone, Copy)]
struct Link {
    index: u32,
    up: bool,
}

fn find(socket: &Socket, name: &str) -> Result<Option<Link>, NetworkError> {
    let mut batch = Batch::default();
    batch.message(GET_LINK, 0, &link_header(0, 0), |link| {
        link.text(LINK_NAME, name);
    });
    let parse = |body: &[u8]| {
        let index = netlink::number(body.get(4..)?)?;
        let flags = netlink::number(body.get(8..)?)?;
        Some(Link { index, up: flags & UP != 0 })
    };
    socket.get(&batch, parse).map_err(|refusal| refusal.or(link_error("find", name)))
}

fn index_of(socket: &Socket, name: &str) -> Result<u32, NetworkError> {
    let link = find(socket, name)?;
    link.map(|link| link.index).ok_or_else(|| link_error("find", name)(Errno::NODEV))
}

fn add_address(batch: &mut Batch, index: u32, address: Ipv4Addr, subnet: &Ipv4Subnet) {
    let header = address_header(FAMILY_INET, subnet.prefix(), index);
    batch.message(NEW_ADDRESS, CREATE | REPLACE, &header, |attributes| {
        attributes.bytes(ADDRESS_LOCAL, &address.octets());
        attributes.bytes(ADDRESS_ADDRESS, &address.octets());
        attributes.bytes(ADDRESS_BROADCAST, &subnet.broadcast().octets());
    });
}

fn add_address6(batch: &mut Batch, index: u32, address: Ipv6Addr, prefix: u8) {
    let header = address_header(FAMILY_INET6, prefix, index);
    batch.message(NEW_ADDRESS, CREATE | REPLACE, &header, |attributes| {
        attributes.bytes(ADDRESS_ADDRESS, &address.octets()).u32(ADDRESS_FLAGS, NO_DETECTION);
    });
}

/// `struct ifaddrmsg`.
fn address_header(family: u8, prefix: u8, index: u32) -> [u8; 8] {
    let mut header = [family, prefix, 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

fn add_default_route(batch: &mut Batch, index: u32, gateway: IpAddr) {
    let family = if gateway.is_ipv4() { FAMILY_INET } else { FAMILY_INET6 };
    // `struct rtmsg`: family, destination and source bits, service, table, protocol, scope, type.
    let header = [family, 0, 0, 0, TABLE_MAIN, PROTOCOL_BOOT, 0, UNICAST, 0, 0, 0, 0];
    batch.message(NEW_ROUTE, CREATE | REPLACE, &header, |route: &mut Attributes<'_>| {
        route.bytes(ROUTE_GATEWAY, &octets(gateway)).u32(ROUTE_INTERFACE, index);
    });
}

/// Runs `action` inside the network namespace and returns to the present one.
pub(crate) fn inside<T>(
    netns: BorrowedFd<'_>,
    action: impl FnOnce() -> Result<T, NetworkError>,
) -> Result<T, NetworkError> {
    let home = fs_err::File::open("/proc/thread-self/ns/net").map_err(NetworkError::Setting)?;
    let enter = |fd: BorrowedFd<'_>| {
        move_into_link_name_space(fd, Some(LinkNameSpaceType::Network))
            .map_err(NetworkError::Namespace)
    };
    enter(netns)?;
    let result = action();
    enter(std::os::fd::AsFd::as_fd(&home))?;
    result
}

fn link_error(action: &'static str, name: &str) -> impl FnOnce(Errno) -> NetworkError {
    let name = name.to_owned();
    move |source| NetworkError::Link { action, name, source }
}
