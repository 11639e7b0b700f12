//! A port for a program that has to be told where to listen.

use std::{net::SocketAddr, os::fd::OwnedFd};

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};

/// A port of 127.0.0.1 that nobody is given by chance, and that whoever names it may listen on, as long
/// as the program sets `SO_REUSEADDR`, as servers do.
#[derive(Debug)]
pub struct Port(OwnedFd);

impl Port {
    /// Takes one that is free.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn reserve() -> Self {
        Self(bound(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a loopback port is free"))
    }

    /// `127.0.0.1:PORT`.
    ///
    /// # Panics
    /// Never: a bound socket has an address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        let address = getsockname(&self.0).expect("it is bound");
        address.try_into().expect("it is of IPv4")
    }
}

/// Tells whether somebody listens at an address of IPv4: then nobody else may.
#[must_use]
pub fn is_taken(address: SocketAddr) -> bool {
    bound(address).is_err()
}

/// A socket that does not listen: it has its address unless somebody listens there.
fn bound(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn whoever_names_a_port_may_listen_there() {
        let port = Port::reserve();
        assert!(TcpStream::connect(port.address()).is_err(), "nobody listens");
        assert!(!is_taken(port.address()));
        let first = TcpListener::bind(port.address()).unwrap();
        assert!(is_taken(port.address()));
        drop(TcpStream::connect(port.address()).unwrap());
        drop(first);
        crate::until("it is free again", || !is_taken(port.address()));
        TcpListener::bind(port.address()).unwrap();
    }
}
