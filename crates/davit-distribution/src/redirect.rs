//! Where a server may send the client: redirects, upload locations, token servers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;
use url::Host;

/// Most redirects that one request follows.
pub(crate) const MOST_REDIRECTS: usize = 8;

/// Tells whether both name one server, so that credentials for one are for the other too.
pub(crate) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host() == b.host()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Resolves a server's `Location` and checks that it is one that may be followed.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn follow(from: &Url, location: &str) -> Result<Url, String> {
    let malformed = || "points to a malformed location".to_owned();
    // An account in the first address is for that address alone.
    let mut base = from.clone();
    base.set_username("").and_then(|()| base.set_password(None)).map_err(|()| malformed())?;
    let to = base.join(location).map_err(|_| malformed())?;
    check(from, &to)?;
    Ok(to)
}

/// Checks a target that `from`'s server names: HTTP(S), never from HTTPS down to HTTP, without
/// credentials in it, and not to an address of this machine or link unless `from` is one.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(from: &Url, to: &Url) -> Result<(), String> {
    if !matches!(to.scheme(), "http" | "https") || !to.has_host() {
        return Err(format!("points to a `{}:` location", to.scheme()));
    }
    if to.scheme() == "http" && from.scheme() == "https" {
        return Err(format!("leads from HTTPS down to {}", shown(to)));
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err("points to a location with credentials in it".to_owned());
    }
    if reach(to) == Reach::Local && reach(from) != Reach::Local {
        return Err(format!("leads to {}, an address of this machine or link", shown(to)));
    }
    Ok(())
}

/// Checks the server that hands out tokens: as [`check`], and a private address only on the
/// registry's own host or from a private address.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_realm(registry: &Url, realm: &str) -> Result<Url, String> {
    let to: Url = realm.parse().map_err(|_| "names a malformed token server".to_owned())?;
    if registry.host() == to.host() && matches!(to.scheme(), "http" | "https") {
        let downgrade = registry.scheme() == "https" && to.scheme() == "http";
        return if downgrade {
            Err(format!("names the insecure token server {}", shown(&to)))
        } else {
            Ok(to)
        };
    }
    check(registry, &to).map_err(|problem| format!("names a token server that {problem}"))?;
    if reach(&to) == Reach::Private && reach(registry) == Reach::World {
        return Err(format!("names the token server {}, a private address", shown(&to)));
    }
    Ok(to)
}

/// How far an address literal reaches; names count as the world, but for `localhost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// This machine or its link: loopback, link-local (cloud metadata lives there), unspecified.
    Local,
    /// A private network.
    Private,
    /// Anywhere.
    World,
}

fn reach(url: &Url) -> Reach {
    match url.host() {
        Some(Host::Ipv4(address)) => reach_v4(address),
        Some(Host::Ipv6(address)) => reach_v6(address),
        Some(Host::Domain(name)) if is_localhost(name) => Reach::Local,
        Some(Host::Domain(_)) | None => Reach::World,
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
}

const fn reach_v4(address: Ipv4Addr) -> Reach {
    if address.is_loopback()
        || address.is_link_local()
        || address.is_unspecified()
        || address.is_broadcast()
        || address.is_multicast()
    {
        Reach::Local
    } else if address.is_private() {
        Reach::Private
    } else {
        Reach::World
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return reach_v4(mapped);
    }
    if address.is_loopback()
        || address.is_unspecified()
        || address.is_unicast_link_local()
        || address.is_multicast()
    {
        Reach::Local
    } else if address.is_unique_local() {
        Reach::Private
    } else {
        Reach::World
    }
}

/// Tells a registry host on this machine, which may speak plain HTTP.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::from(address).is_loopback(),
        Some(Host::Domain(name)) => is_localhost(name),
        None => false,
    }
}

/// A URL as messages show it: without query, which may hold a signature, and credentials.
pub(crate) fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{host}{port}{}", url.scheme(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn follows_only_where_it_may() {
        let good = [
            ("https://r.io/v2/a", "https://cdn.io/x?sig=1"),
            ("https://r.io/v2/a", "/x"),
            ("https://r.io/v2/a", "https://10.0.0.1/x"),
            ("http://r.io/v2/a", "https://cdn.io/x"),
            ("http://r.io:80/v2/a", "http://cdn.io/x"),
            ("http://127.0.0.1:5000/v2/a", "http://127.0.0.2:5001/x"),
            ("http://localhost:5000/v2/a", "http://[::1]:5001/x"),
        ];
        for (from, to) in good {
            assert!(follow(&url(from), to).is_ok(), "{from} -> {to}");
        }
        let bad = [
            ("https://r.io/v2/a", "http://cdn.io/x"),
            ("https://r.io/v2/a", "http://r.io/x"),
            ("https://r.io/v2/a", "file:///etc/passwd"),
            ("https://r.io/v2/a", "https://u:p@cdn.io/x"),
            ("https://r.io/v2/a", "https://127.0.0.1/x"),
            ("https://r.io/v2/a", "https://localhost/x"),
            ("https://r.io/v2/a", "https://x.localhost./x"),
            ("http://r.io/v2/a", "http://169.254.169.254/latest/meta-data"),
            ("http://r.io/v2/a", "http://0x7f000001/x"),
            ("http://r.io/v2/a", "http://[::ffff:127.0.0.1]/x"),
            ("http://r.io/v2/a", "http://[fe80::1]/x"),
            ("http://r.io/v2/a", "http://0.0.0.0/x"),
            ("https://r.io/v2/a", "https://[/x"),
        ];
        for (from, to) in bad {
            assert!(follow(&url(from), to).is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn token_servers_are_bound_to_the_registry() {
        for (registry, realm) in [
            ("https://registry-1.docker.io/v2/", "https://auth.docker.io/token"),
            ("https://r.io/v2/", "https://r.io:8443/token"),
            ("http://10.0.0.1:5000/v2/", "http://10.0.0.2:5001/token"),
            ("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5001/token"),
            ("https://10.0.0.1/v2/", "https://10.0.0.1:5001/token"),
        ] {
            assert!(check_realm(&url(registry), realm).is_ok(), "{registry} -> {realm}");
        }
        for (registry, realm) in [
            ("https://r.io/v2/", "http://auth.r.io/token"),
            ("https://r.io/v2/", "http://r.io/token"),
            ("https://r.io/v2/", "https://10.0.0.1/token"),
            ("https://r.io/v2/", "https://192.168.0.1/token"),
            ("https://r.io/v2/", "https://[fd00::1]/token"),
            ("https://r.io/v2/", "https://127.0.0.1/token"),
            ("https://r.io/v2/", "https://169.254.169.254/token"),
            ("https://r.io/v2/", "/token"),
            ("https://r.io/v2/", ""),
        ] {
            assert!(check_realm(&url(registry), realm).is_err(), "{registry} -> {realm}");
        }
    }

    #[test]
    fn origins_count_default_ports() {
        assert!(same_origin(&url("https://a/x"), &url("https://A:443/y")));
        assert!(!same_origin(&url("https://a/x"), &url("https://a:444/y")));
        assert!(!same_origin(&url("https://a/x"), &url("http://a/y")));
        assert!(!same_origin(&url("https://a/x"), &url("https://b/x")));
    }

    #[test]
    fn shown_urls_hide_secrets() {
        assert_eq!(shown(&url("https://u:p@h:1/a/b?X-Signature=s#f")), "https://h:1/a/b");
    }
}
