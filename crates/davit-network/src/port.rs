//! Published ports: the grammar of `--publish` and one mapping of a host port to a container port.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// A transport that can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The number in an IP header.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The name in `80/tcp`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Protocol {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(InvalidPort::Protocol(text.to_owned())),
        }
    }
}

/// A text that is no port specification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPort {
    /// Neither tcp, udp nor sctp.
    #[error("invalid protocol {0:?}")]
    Protocol(String),
    /// No port number or range.
    #[error("invalid port {0:?}: expected a number from 1 to 65535 or a range")]
    Number(String),
    /// The host part is no address.
    #[error("invalid IP address {0:?}")]
    Address(String),
    /// There is no container port.
    #[error("no port specified: {0:?}")]
    Empty(String),
    /// The two ranges differ in length.
    #[error("invalid ranges specified for container and host ports: {0:?}")]
    Ranges(String),
}

/// What `--publish` asks for: `[ADDRESS:][HOST[-HOST]:]PORT[-PORT][/PROTOCOL]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishSpec {
    /// Address of the host; `None` is every address.
    pub host_address: Option<IpAddr>,
    /// First and last port of the host; `None` lets the engine choose one per container port.
    pub host_ports: Option<(u16, u16)>,
    /// First and last port in the container.
    pub container_ports: (u16, u16),
    /// Transport.
    pub protocol: Protocol,
}

impl PublishSpec {
    /// The requests one container port at a time, each with the host ports it may get.
    ///
    /// As in Docker's grammar a range of host ports for one container port means any of them.
    pub fn requests(&self) -> impl Iterator<Item = PortRequest> + '_ {
        let (first, last) = self.container_ports;
        (first..=last).map(move |container_port| PortRequest {
            host_address: self.host_address,
            host_ports: self.host_ports.map(|(low, high)| {
                if first == last {
                    (low, high)
                } else {
                    (low + (container_port - first), low + (container_port - first))
                }
            }),
            container_port,
            protocol: self.protocol,
        })
    }
}

/// One container port that wants a host port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRequest {
    /// Address of the host; `None` is every address.
    pub host_address: Option<IpAddr>,
    /// First and last acceptable host port, to be tried in this order; `None` is any.
    pub host_ports: Option<(u16, u16)>,
    /// Port in the container.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
}

impl FromStr for PublishSpec {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let (ports, protocol) = match text.rsplit_once('/') {
            Some((ports, protocol)) => (ports, protocol.parse()?),
            None => (text, Protocol::Tcp),
        };
        let (before, container) = match ports.rsplit_once(':') {
            Some((before, container)) => (Some(before), container),
            None => (None, ports),
        };
        if container.is_empty() {
            return Err(InvalidPort::Empty(text.to_owned()));
        }
        let container_ports = range(container)?;
        let (address, host) =
            before.map_or(("", ""), |before| before.rsplit_once(':').unwrap_or(("", before)));
        // Port 0 is any free one.
        let host_ports = if matches!(host, "" | "0") { None } else { Some(range(host)?) };
        let spec =
            Self { host_address: address_of(address)?, host_ports, container_ports, protocol };
        if spec.lengths_differ() {
            return Err(InvalidPort::Ranges(text.to_owned()));
        }
        Ok(spec)
    }
}

impl PublishSpec {
    fn lengths_differ(&self) -> bool {
        let length = |(low, high): (u16, u16)| high - low;
        let container = length(self.container_ports);
        self.host_ports.is_some_and(|host| container != 0 && length(host) != container)
    }
}

fn address_of(text: &str) -> Result<Option<IpAddr>, InvalidPort> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if inner.is_empty() {
        return Ok(None);
    }
    let address: IpAddr = inner.parse().map_err(|_| InvalidPort::Address(text.to_owned()))?;
    Ok(Some(address))
}

/// Parses `80` or `8000-8010`.
fn range(text: &str) -> Result<(u16, u16), InvalidPort> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let number = |part: &str| -> Option<u16> {
        let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse().ok()).flatten().filter(|port| *port != 0)
    };
    match (number(low), number(high)) {
        (Some(low), Some(high)) if low <= high => Ok((low, high)),
        _ => Err(InvalidPort::Number(text.to_owned())),
    }
}

/// A container port as `EXPOSE` and `--expose` write it: `80`, `80/udp`, `8000-8010/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExposedPorts {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// Transport.
    pub protocol: Protocol,
}

impl ExposedPorts {
    /// Each of them.
    pub fn ports(self) -> impl Iterator<Item = (u16, Protocol)> {
        (self.first..=self.last).map(move |port| (port, self.protocol))
    }

    /// The same ports in ascending ranges that neither overlap nor touch: at most 65535 ports for
    /// each protocol, however many ranges there were.
    #[must_use]
    pub fn merged(mut ranges: Vec<Self>) -> Vec<Self> {
        ranges.sort_unstable_by_key(|range| (range.protocol, range.first));
        let mut merged: Vec<Self> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last)
                    if last.protocol == range.protocol
                        && range.first <= last.last.saturating_add(1) =>
                {
                    last.last = last.last.max(range.last);
                }
                _ => merged.push(range),
            }
        }
        merged
    }
}

impl FromStr for ExposedPorts {
    type Err = InvalidPort;

    fn from_str(text: &str) -> Result<Self, InvalidPort> {
        let (ports, protocol) = match text.split_once('/') {
            Some((ports, protocol)) => (ports, protocol.parse()?),
            None => (text, Protocol::Tcp),
        };
        let (first, last) = range(ports)?;
        Ok(Self { first, last, protocol })
    }
}

/// One published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// Address of the host; the unspecified one is every address of its family.
    pub host_address: IpAddr,
    /// Port of the host.
    pub host_port: u16,
    /// Port in the container.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
}

impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = SocketAddr::new(self.host_address, self.host_port);
        write!(f, "{host}->{}/{}", self.container_port, self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_grammar() {
        let cases = [
            ("80", None, None, (80, 80), Protocol::Tcp),
            ("8080:80", None, Some((8080, 8080)), (80, 80), Protocol::Tcp),
            ("8080:80/udp", None, Some((8080, 8080)), (80, 80), Protocol::Udp),
            ("8080:80/SCTP", None, Some((8080, 8080)), (80, 80), Protocol::Sctp),
            ("127.0.0.1::80", Some("127.0.0.1"), None, (80, 80), Protocol::Tcp),
            ("127.0.0.1:8080:80", Some("127.0.0.1"), Some((8080, 8080)), (80, 80), Protocol::Tcp),
            ("[::1]:8080:80", Some("::1"), Some((8080, 8080)), (80, 80), Protocol::Tcp),
            ("7000-7002:8000-8002", None, Some((7000, 7002)), (8000, 8002), Protocol::Tcp),
            ("7000-7009:80", None, Some((7000, 7009)), (80, 80), Protocol::Tcp),
        ];
        for (text, address, host_ports, container_ports, protocol) in cases {
            let host_address = address.map(|address| address.parse().expect("an address"));
            let expected = PublishSpec { host_address, host_ports, container_ports, protocol };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn publish_refusals() {
        let cases = [
            "",
            ":",
            "8080:",
            "0",
            "65536",
            "a",
            "80/foo",
            "1-3:1-2",
            "1-2:1-3",
            "9-8",
            "x:1:2",
            "1.2.3:1:2",
            "+80",
            "80-",
            "-80",
        ];
        for text in cases {
            assert!(text.parse::<PublishSpec>().is_err(), "{text:?} is refused");
        }
    }

    #[test]
    fn overlapping_ranges_are_one() {
        let cases: [(&[&str], &[&str]); 4] = [
            (&["8000-8010", "80/udp", "8005-8020/tcp", "80"], &["80", "8000-8020", "80/udp"]),
            (&["1-65535", "2-65534", "65535"], &["1-65535"]),
            (&["82", "80", "81", "84"], &["80-82", "84"]),
            (&[], &[]),
        ];
        let parse = |texts: &[&str]| -> Vec<ExposedPorts> {
            texts.iter().map(|text| text.parse().expect("ports")).collect()
        };
        for (given, expected) in cases {
            assert_eq!(ExposedPorts::merged(parse(given)), parse(expected), "{given:?}");
        }
    }

    #[test]
    fn ranges_pair_up() {
        let spec: PublishSpec = "7000-7002:8000-8002".parse().expect("a specification");
        let ports: Vec<_> = spec.requests().map(|r| (r.container_port, r.host_ports)).collect();
        assert_eq!(
            ports,
            [(8000, Some((7000, 7000))), (8001, Some((7001, 7001))), (8002, Some((7002, 7002)))]
        );
        let any: PublishSpec = "7000-7009:80".parse().expect("a specification");
        assert_eq!(any.requests().next().map(|r| r.host_ports), Some(Some((7000, 7009))));
    }
}
