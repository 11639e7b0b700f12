//! Ports of `EXPOSE`: `[[ip:]host:]port[-port][/protocol]`.

use std::net::IpAddr;

/// A port or range as written, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExposedPorts {
    /// Each port as `number/protocol`, the protocol in lower case.
    pub ports: Vec<String>,
    /// Whether the protocol was written otherwise than in lower case.
    pub upper_case: bool,
    /// Whether an address or a port of the host was given, which means nothing here.
    pub mapped: bool,
}

/// Why a text is no port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// There is no port.
    #[error("`{0}` has no port")]
    Missing(String),
    /// The protocol is none of tcp, udp and sctp.
    #[error("protocol `{0}` is not tcp, udp or sctp")]
    Protocol(String),
    /// The address is none.
    #[error("`{0}` is no IP address")]
    Address(String),
    /// The port is no number from 0 to 65535 and no range of them.
    #[error("`{0}` is no port or range of ports")]
    Range(String),
    /// Two ranges of different length.
    #[error("ranges `{host}` and `{container}` differ in length")]
    Lengths {
        /// Range of the host.
        host: String,
        /// Range of the container.
        container: String,
    },
}

impl ExposedPorts {
    /// Reads one word of an `EXPOSE`, variables expanded.
    ///
    /// # Errors
    /// As [`PortError`] says.
    pub fn parse(text: &str) -> Result<Self, PortError> {
        let (mapping, container) = match text.rsplit_once(':') {
            Some((mapping, container)) => (Some(mapping), container),
            None => (None, text),
        };
        let (address, host) = match mapping.map(|mapping| (mapping, mapping.rsplit_once(':'))) {
            None => ("", ""),
            Some((mapping, None)) => ("", mapping),
            Some((_, Some(both))) => both,
        };
        let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
        if port.is_empty() {
            return Err(PortError::Missing(text.to_owned()));
        }
        let lower = protocol.to_lowercase();
        let name = match lower.as_str() {
            "" => "tcp",
            "tcp" | "udp" | "sctp" => &lower,
            _ => return Err(PortError::Protocol(protocol.to_owned())),
        };
        check_address(address)?;
        let (first, last) = range(port)?;
        if !host.is_empty() {
            let (host_first, host_last) = range(host)?;
            if last != first && last - first != host_last - host_first {
                let (host, container) = (host.to_owned(), port.to_owned());
                return Err(PortError::Lengths { host, container });
            }
        }
        Ok(Self {
            ports: (first..=last).map(|port| format!("{port}/{name}")).collect(),
            upper_case: protocol != lower,
            mapped: !address.is_empty() || !host.is_empty(),
        })
    }
}

fn check_address(text: &str) -> Result<(), PortError> {
    let wrong = || PortError::Address(text.to_owned());
    let inner = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(wrong)?,
        None => text,
    };
    if !text.is_empty() {
        inner.parse::<IpAddr>().map_err(|_| wrong())?;
    }
    Ok(())
}

fn range(text: &str) -> Result<(u16, u16), PortError> {
    let wrong = || PortError::Range(text.to_owned());
    let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if last < first { Err(wrong()) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ports() {
        for (text, ports) in [
            ("80", "80/tcp"),
            ("80/udp", "80/udp"),
            ("80/", "80/tcp"),
            ("80/SCTP", "80/sctp"),
            ("8000-8002/tcp", "8000/tcp 8001/tcp 8002/tcp"),
            ("80-80", "80/tcp"),
            ("8080:80", "80/tcp"),
            ("127.0.0.1:8080:80", "80/tcp"),
            ("127.0.0.1::80", "80/tcp"),
            ("[::1]:8080:80/udp", "80/udp"),
            ("::1:8080:80", "80/tcp"),
            ("8000-8010:80", "80/tcp"),
            ("8000-8001:80-81", "80/tcp 81/tcp"),
            ("0", "0/tcp"),
            ("65535", "65535/tcp"),
        ] {
            assert_eq!(ExposedPorts::parse(text).unwrap().ports.join(" "), ports, "{text}");
        }
        assert_eq!(ExposedPorts::parse("0-65535").unwrap().ports.len(), 65_536);
        assert!(ExposedPorts::parse("80/Tcp").unwrap().upper_case);
        assert!(ExposedPorts::parse("80:80").unwrap().mapped);
        assert!(!ExposedPorts::parse("80/tcp").unwrap().upper_case);
    }

    #[test]
    fn refuses_ports() {
        for text in [
            "",
            "/tcp",
            "80/x",
            "65536",
            "-1",
            "a",
            "81-80",
            "80-",
            "-80",
            "80-x",
            "x:80",
            "1.2.3:1:80",
            "[::1:1:80",
            "80-82:90-91",
            "1.2.3.4:1:2:80",
            "80/tcp/udp",
        ] {
            assert!(ExposedPorts::parse(text).is_err(), "{text}");
        }
    }
}
