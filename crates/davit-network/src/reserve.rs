//! Host ports held by a socket, so that a clash with another program shows at once.

use std::{net::SocketAddr, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt},
};

use crate::{NetworkError, PortMapping, Protocol};

/// A socket that is bound, never listened on: traffic is redirected before it reaches it.
///
/// Dropping it frees the port.
#[derive(Debug)]
pub struct Reservation {
    _socket: Option<OwnedFd>,
}

/// Binds the host's side of a published port.
///
/// SCTP ports are not held: most kernels have no SCTP sockets.
///
/// # Errors
///
/// [`NetworkError::PortTaken`] when another socket of the machine has the port;
/// [`NetworkError::PortBind`] when the address is none of the machine, or the caller may not.
pub fn reserve(mapping: &PortMapping) -> Result<Reservation, NetworkError> {
    let kind = match mapping.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Sctp => return Ok(Reservation { _socket: None }),
    };
    let target = SocketAddr::new(mapping.host_address, mapping.host_port);
    let socket = match hold(kind, target) {
        Ok(socket) => Some(socket),
        // A host without IPv6.
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) if target.ip().is_unspecified() => None,
        Err(source) => {
            let address = target.to_string();
            return Err(match source {
                Errno::ADDRINUSE => NetworkError::PortTaken { address, source },
                _ => NetworkError::PortBind { address, source },
            });
        }
    };
    Ok(Reservation { _socket: socket })
}

fn hold(kind: SocketType, address: SocketAddr) -> Result<OwnedFd, Errno> {
    match hold_with(kind, address, Reuse::No) {
        // Closed connections of a server that had the port before linger for a minute; with the
        // option they do not count, a listening server still does.
        Err(Errno::ADDRINUSE) if kind == SocketType::STREAM => {
            hold_with(kind, address, Reuse::Lingering)
        }
        result => result,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reuse {
    No,
    Lingering,
}

fn hold_with(kind: SocketType, address: SocketAddr, reuse: Reuse) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let protocol = if kind == SocketType::STREAM { ipproto::TCP } else { ipproto::UDP };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if reuse == Reuse::Lingering {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    use super::*;

    fn mapping(port: u16, protocol: Protocol) -> PortMapping {
        let host_address = Ipv4Addr::LOCALHOST.into();
        PortMapping { host_address, host_port: port, container_port: 80, protocol }
    }

    #[test]
    fn a_listening_server_is_noticed() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a server");
        let port = server.local_addr().expect("an address").port();
        let taken = reserve(&mapping(port, Protocol::Tcp));
        assert!(matches!(taken, Err(NetworkError::PortTaken { .. })), "{taken:?}");
        drop(server);
        let held = reserve(&mapping(port, Protocol::Tcp)).expect("free now");
        assert!(TcpListener::bind(("127.0.0.1", port)).is_err(), "the port is held");
        drop(held);
    }

    #[test]
    fn a_udp_server_is_noticed() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("a server");
        let port = server.local_addr().expect("an address").port();
        assert!(reserve(&mapping(port, Protocol::Udp)).is_err());
    }
}
