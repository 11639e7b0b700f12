//! The PORTS column: Docker's order and ranges (its CLI's `DisplayablePorts`).

use std::{collections::HashSet, net::IpAddr};

use davit_engine::container::{ExposedPorts, PortMapping};

/// One port, in the order in which ports are shown: exposed ones before published ones.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    container_port: u16,
    /// `None` if it is exposed only.
    address: Option<String>,
    host_port: u16,
    protocol: &'static str,
}

/// Neighbours of one address and protocol.
struct Range {
    address: Option<String>,
    protocol: &'static str,
    first: u16,
    last: u16,
}

/// `443/tcp, 0.0.0.0:80-82->80-82/tcp, 0.0.0.0:8080->90/tcp`: neighbours are one range where the
/// host's port is the container's; ports of another number stand at the end.
pub(super) fn text(published: &[PortMapping], exposed: &[ExposedPorts]) -> String {
    let (mut closed, mut open, mut others) = (Vec::new(), Vec::<Range>::new(), Vec::new());
    for port in sorted(published, exposed) {
        if let Some(address) = &port.address
            && port.host_port != port.container_port
        {
            let Port { container_port, host_port, protocol, .. } = port;
            others.push(format!("{address}:{host_port}->{container_port}/{protocol}"));
            continue;
        }
        let (number, protocol) = (port.container_port, port.protocol);
        let fresh = Range { address: port.address, protocol, first: number, last: number };
        let same =
            |range: &&mut Range| range.address == fresh.address && range.protocol == protocol;
        match open.iter_mut().find(same) {
            None => open.push(fresh),
            Some(range) if range.last.checked_add(1) == Some(number) => range.last = number,
            Some(range) => closed.push(std::mem::replace(range, fresh).text()),
        }
    }
    closed.extend(open.iter().map(Range::text));
    closed.extend(others);
    closed.join(", ")
}

fn sorted(published: &[PortMapping], exposed: &[ExposedPorts]) -> Vec<Port> {
    let known: HashSet<_> = published.iter().map(|p| (p.container_port, p.protocol)).collect();
    let exposed = exposed.iter().copied().flat_map(ExposedPorts::ports);
    let only_exposed = exposed.filter(|port| !known.contains(port));
    let only_exposed = only_exposed.map(|(container_port, protocol)| Port {
        container_port,
        address: None,
        host_port: 0,
        protocol: protocol.name(),
    });
    let published = published.iter().map(|port| Port {
        container_port: port.container_port,
        address: Some(match port.host_address {
            IpAddr::V6(address) => format!("[{address}]"),
            IpAddr::V4(address) => address.to_string(),
        }),
        host_port: port.host_port,
        protocol: port.protocol.name(),
    });
    let mut all: Vec<Port> = only_exposed.chain(published).collect();
    all.sort();
    all
}

impl Range {
    fn text(&self) -> String {
        let numbers = if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}-{}", self.first, self.last)
        };
        match &self.address {
            Some(address) => format!("{address}:{numbers}->{numbers}/{}", self.protocol),
            None => format!("{numbers}/{}", self.protocol),
        }
    }
}

#[cfg(test)]
mod tests {
    use davit_engine::container::Protocol;

    use super::*;

    fn published(address: &str, ports: &[(u16, u16)]) -> Vec<PortMapping> {
        let host_address = address.parse().unwrap();
        let mapping = |&(host_port, container_port): &(u16, u16)| PortMapping {
            host_address,
            host_port,
            container_port,
            protocol: Protocol::Tcp,
        };
        ports.iter().map(mapping).collect()
    }

    #[test]
    fn ports_stand_as_dockers() {
        let both = |ports| [published("0.0.0.0", ports), published("::", ports)].concat();
        let exposed = |texts: &[&str]| -> Vec<ExposedPorts> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let cases = [
            (
                both(&[(18080, 80), (9000, 90)]),
                exposed(&["80", "443"]),
                "443/tcp, 0.0.0.0:18080->80/tcp, [::]:18080->80/tcp, 0.0.0.0:9000->90/tcp, \
                 [::]:9000->90/tcp",
            ),
            (
                both(&[(80, 80), (81, 81), (82, 82)]),
                exposed(&["80"]),
                "0.0.0.0:80-82->80-82/tcp, [::]:80-82->80-82/tcp",
            ),
            (
                published("127.0.0.1", &[(8000, 80), (8001, 81)]),
                vec![],
                "127.0.0.1:8000->80/tcp, 127.0.0.1:8001->81/tcp",
            ),
            (vec![], exposed(&["1-3", "5"]), "1-3/tcp, 5/tcp"),
            (vec![], exposed(&["53", "53/udp"]), "53/tcp, 53/udp"),
        ];
        for (published, exposed, expected) in cases {
            assert_eq!(text(&published, &exposed), expected);
        }
    }
}
