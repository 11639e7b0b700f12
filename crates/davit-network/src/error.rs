//! Errors of the kernel's network interfaces.

use rustix::io::Errno;

/// What went wrong with a bridge, an interface or the firewall table.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A netlink socket could not be opened or used.
    #[error("cannot talk to the kernel's network configuration")]
    Socket(#[source] Errno),
    /// The kernel sent something that is no netlink message.
    #[error("malformed netlink answer")]
    Malformed,
    /// An interface could not be made or changed.
    #[error("cannot {action} interface {name}")]
    Link {
        /// What was tried.
        action: &'static str,
        /// The interface.
        name: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// The firewall table could not be made or changed.
    #[error("cannot {action} firewall table {table}")]
    Firewall {
        /// What was tried.
        action: &'static str,
        /// The table.
        table: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// A kernel setting could not be written.
    #[error("cannot write network setting")]
    Setting(#[source] std::io::Error),
    /// A namespace could not be entered.
    #[error("cannot enter network namespace")]
    Namespace(#[source] Errno),
    /// The sockets of a container's resolver cannot be made.
    #[error("cannot make the container's resolver")]
    Resolver(#[source] std::io::Error),
    /// The kernel gives no random number.
    #[error("cannot name the network interface")]
    Random(#[source] Errno),
    /// Every default pool overlaps a route of this machine.
    #[error("no free address pool: every default subnet overlaps a route of this machine")]
    PoolExhausted,
    /// A host port cannot be held at this address.
    #[error("failed to bind host port {address}")]
    PortBind {
        /// Address and port.
        address: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// A host port is taken by another process.
    #[error("bind for {address} failed: port is already allocated")]
    PortTaken {
        /// Address and port.
        address: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
}
