//! The redirect inside a container's network namespace: 127.0.0.11:53 to the resolver's ports, so
//! that a name server in the container may have port 53.

use crate::{
    NAME_SERVER, NetworkError, PortMapping, Protocol, firewall,
    netlink::Socket,
    nft::{Family, Transaction},
};

/// Name of the table in the container.
const TABLE: &str = "davit-names";

/// Makes the redirect in the calling thread's namespace.
pub(super) fn redirect(udp: u16, tcp: u16) -> Result<(), NetworkError> {
    let mapping = |protocol, container_port| PortMapping {
        host_address: NAME_SERVER.into(),
        host_port: 53,
        container_port,
        protocol,
    };
    let mut transaction = Transaction::new(Family::Inet, TABLE);
    firewall::redirect_own(
        &mut transaction,
        NAME_SERVER.into(),
        &[mapping(Protocol::Udp, udp), mapping(Protocol::Tcp, tcp)],
    );
    let sent = Socket::netfilter()?.transact(&transaction.finish());
    sent.map_err(|refusal| {
        refusal.or(|source| NetworkError::Firewall {
            action: "create",
            table: TABLE.to_owned(),
            source,
        })
    })
}
