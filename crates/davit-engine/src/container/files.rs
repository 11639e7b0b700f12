//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.

use std::{fmt::Write as _, io, net::IpAddr, path::Path};

use davit_network::NAME_SERVER;

use super::{ContainerError, ContainerSpec, NetworkMode, plan};

/// What systemd-resolved tells programs that cannot use its stub on 127.0.0.53.
const RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Who is asked where the machine names nobody, as Docker does.
const FALLBACK: [[u8; 4]; 2] = [[8, 8, 8, 8], [8, 8, 4, 4]];

/// The three files.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HostFiles {
    hosts: String,
    hostname: String,
    resolv: String,
}

impl HostFiles {
    /// Writes them for a container with these addresses.
    pub(crate) fn of(
        spec: &ContainerSpec,
        id: &str,
        addresses: &[IpAddr],
        gateway: Option<IpAddr>,
    ) -> Self {
        let host_network = spec.network == NetworkMode::Host;
        let hostname = plan::hostname(spec, id);
        Self {
            hosts: hosts(spec, &hostname, addresses, gateway),
            hostname: format!("{hostname}\n"),
            resolv: match spec.network {
                NetworkMode::Network(_) => resolv(&named(spec), false),
                _ => resolv(spec, host_network),
            },
        }
    }
}

const NAMES: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Lets a container have the files of another one, whose network it is in.
pub(crate) fn share(directory: &Path, other: &Path) -> Result<(), ContainerError> {
    for name in NAMES {
        let (path, theirs) = (directory.join(name), other.join(name));
        match fs_err::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ContainerError::io("remove", path, error));
            }
            _ => fs_err::hard_link(&theirs, &path)
                .map_err(|error| ContainerError::io("share", theirs, error))?,
        }
    }
    Ok(())
}

/// Puts them into the container's run directory.
pub(crate) fn write(directory: &Path, files: &HostFiles) -> Result<(), ContainerError> {
    for (name, text) in NAMES.into_iter().zip([&files.hosts, &files.hostname, &files.resolv]) {
        let path = directory.join(name);
        fs_err::write(&path, text).map_err(|error| ContainerError::io("write", &path, error))?;
        rustix::fs::chmod(&path, rustix::fs::Mode::from_raw_mode(0o644))
            .map_err(|errno| ContainerError::io("protect", &path, errno))?;
    }
    Ok(())
}

fn hosts(
    spec: &ContainerSpec,
    hostname: &str,
    addresses: &[IpAddr],
    gateway: Option<IpAddr>,
) -> String {
    let mut text = if spec.network == NetworkMode::Host {
        fs_err::read_to_string("/etc/hosts").unwrap_or_default()
    } else {
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
            .to_owned()
    };
    let full = match spec.domainname.as_str() {
        "" => hostname.to_owned(),
        domain => format!("{hostname}.{domain}"),
    };
    let names = match full.split_once('.') {
        Some((short, _)) => format!("{full} {short}"),
        None => full,
    };
    for (name, address) in &spec.extra_hosts {
        let address = match (address.as_str(), gateway) {
            ("host-gateway", Some(gateway)) => gateway.to_string(),
            ("host-gateway", None) => "127.0.0.1".to_owned(),
            (address, _) => address.to_owned(),
        };
        let _ = writeln!(text, "{address}\t{name}");
    }
    for address in addresses {
        let _ = writeln!(text, "{address}\t{names}");
    }
    text
}

/// Servers that the resolver of a network asks for a container. It asks from the host's network, so
/// that a server there on a loopback address serves, too.
pub(crate) fn upstream_servers(spec: &ContainerSpec) -> Vec<IpAddr> {
    if !spec.dns.is_empty() {
        return spec.dns.clone();
    }
    let found = servers(&fs_err::read_to_string("/etc/resolv.conf").unwrap_or_default());
    if found.is_empty() { FALLBACK.map(IpAddr::from).into() } else { found }
}

/// `resolv.conf` for who is in a network with names, and asks for nothing else.
pub(crate) fn named_resolv_conf() -> String {
    resolv(&named(&ContainerSpec::default()), false)
}

/// The wishes of a container in a network with names: its resolver is the only one it asks. A name
/// without a dot is asked for as it is first, as Docker has it.
fn named(spec: &ContainerSpec) -> ContainerSpec {
    let mut named = ContainerSpec { dns: vec![NAME_SERVER.into()], ..spec.clone() };
    if !named.dns_options.iter().any(|option| option.starts_with("ndots:")) {
        named.dns_options.push("ndots:0".to_owned());
    }
    named
}

/// `resolv.conf` for who is not in the host's network and asks for nothing.
pub(crate) fn private_resolv_conf() -> String {
    resolv(&ContainerSpec::default(), false)
}

fn resolv(spec: &ContainerSpec, host_network: bool) -> String {
    let host = fs_err::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let asked = !spec.dns.is_empty() || !spec.dns_search.is_empty() || !spec.dns_options.is_empty();
    if host_network && !asked {
        return host;
    }
    let stub = servers(&host).iter().all(IpAddr::is_loopback);
    let host = if stub { fs_err::read_to_string(RESOLVED).unwrap_or(host) } else { host };
    compose(spec, &host)
}

/// Name servers of a resolver's configuration; loopback ones mean nothing inside a container.
fn compose(spec: &ContainerSpec, host: &str) -> String {
    let lines = |key: &str| -> Vec<String> {
        let values = host.lines().filter_map(|line| line.trim().strip_prefix(key));
        let values = values.filter(|rest| rest.starts_with(char::is_whitespace));
        values.flat_map(str::split_whitespace).map(str::to_owned).collect()
    };
    let mut servers: Vec<String> = spec.dns.iter().map(ToString::to_string).collect();
    if servers.is_empty() {
        let usable = self::servers(host).into_iter().filter(|server| !server.is_loopback());
        servers = usable.map(|server| server.to_string()).collect();
    }
    if servers.is_empty() {
        // As Docker does: a container without a resolver would only time out.
        servers = FALLBACK.map(|server| IpAddr::from(server).to_string()).into();
    }
    let or_host =
        |own: &[String], key: &str| if own.is_empty() { lines(key) } else { own.to_vec() };
    let search = or_host(&spec.dns_search, "search");
    let options = or_host(&spec.dns_options, "options");
    let mut text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    if !search.is_empty() && search != ["."] {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

fn servers(text: &str) -> Vec<IpAddr> {
    let values = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    values.filter_map(|value| value.trim().split('%').next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_configurations() {
        let mut spec = ContainerSpec::default();
        let host = "# x\nnameserver 127.0.0.1\nnameserver 10.0.0.1\nsearch a.example b.example\noptions ndots:2\n";
        assert_eq!(
            compose(&spec, host),
            "nameserver 10.0.0.1\nsearch a.example b.example\noptions ndots:2\n"
        );
        assert_eq!(compose(&spec, "nameserver ::1\n"), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        assert_eq!(
            compose(&named(&spec), "nameserver ::1\nsearch a.example\n"),
            "nameserver 127.0.0.11\nsearch a.example\noptions ndots:0\n"
        );
        spec.dns = vec!["1.1.1.1".parse().unwrap()];
        spec.dns_search = vec![".".to_owned()];
        assert_eq!(compose(&spec, host), "nameserver 1.1.1.1\noptions ndots:2\n");
    }

    #[test]
    fn hosts_name_the_container() {
        let mut spec =
            ContainerSpec { domainname: "example".to_owned(), ..ContainerSpec::default() };
        spec.extra_hosts = vec![
            ("db".to_owned(), "10.1.2.3".to_owned()),
            ("h".to_owned(), "host-gateway".to_owned()),
        ];
        let address = "172.17.0.2".parse().unwrap();
        let text = hosts(&spec, "web", &[address], "172.17.0.1".parse().ok());
        let whole = ContainerSpec::default();
        assert!(hosts(&whole, "foo.bar", &[address], None).ends_with("172.17.0.2\tfoo.bar foo\n"));
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(
            text.ends_with("10.1.2.3\tdb\n172.17.0.1\th\n172.17.0.2\tweb.example web\n"),
            "{text}"
        );
    }
}
