//! Where a webhook may be sent: a registry shall not be made to speak to what only it can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Why a URL is not sent to.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// It is none, or of another scheme.
    #[error("a webhook's URL is http://HOST/… or https://HOST/…, without an account in it")]
    Url,
    /// The name has no address.
    #[error("cannot find the address of {0}")]
    Resolve(String, #[source] std::io::Error),
    /// All addresses of the name are such.
    #[error("{0} is an address of a private network or of this machine")]
    Private(IpAddr),
}

/// Checks a webhook's URL, but no address.
///
/// # Errors
/// [`GuardError::Url`].
pub fn check_url(text: &str) -> Result<(), GuardError> {
    parse(text).map(drop)
}

fn parse(text: &str) -> Result<Url, GuardError> {
    let url: Url = text.parse().map_err(|_error| GuardError::Url)?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.has_host();
    if is_plain && matches!(url.scheme(), "http" | "https") {
        Ok(url)
    } else {
        Err(GuardError::Url)
    }
}

/// The address to connect to: the first one that may be sent to.
///
/// # Errors
/// See [`GuardError`].
pub async fn check_address(text: &str, allow_private: bool) -> Result<(Url, IpAddr), GuardError> {
    let url = parse(text)?;
    let addresses = match url.host().ok_or(GuardError::Url)? {
        Host::Ipv4(address) => vec![IpAddr::V4(address)],
        Host::Ipv6(address) => vec![IpAddr::V6(address)],
        Host::Domain(name) => {
            let port = url.port_or_known_default().unwrap_or(443);
            let found = tokio::net::lookup_host((name, port)).await;
            let found = found.map_err(|error| GuardError::Resolve(name.to_owned(), error))?;
            found.map(|address| address.ip()).collect()
        }
    };
    let good = addresses.iter().find(|address| allow_private || is_public(**address));
    match (good, addresses.first()) {
        (Some(address), _) => Ok((url, *address)),
        (None, Some(address)) => Err(GuardError::Private(*address)),
        (None, None) => {
            Err(GuardError::Resolve(text.to_owned(), std::io::ErrorKind::NotFound.into()))
        }
    }
}

/// Tells whether an address is one of the internet (IANA's special-purpose registries).
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

const fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = matches!(
        (a, b, c),
        (0 | 10 | 127 | 224..=255, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18..=19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    );
    !is_special
}

/// Global unicast without what embeds or documents: translations lead to addresses of version 4.
fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(mapped) = address.to_ipv4_mapped() {
        return is_public_v4(mapped);
    }
    let [first, second, ..] = address.segments();
    let is_global = first & 0xe000 == 0x2000;
    // 6to4, Teredo and other protocol assignments, documentation.
    let is_special = first == 0x2002
        || (first == 0x2001 && (second < 0x0200 || second == 0x0db8))
        || (first == 0x3fff && second < 0x1000);
    is_global && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_internet_is_public() {
        for good in
            ["1.1.1.1", "8.8.8.8", "172.15.0.1", "172.32.0.1", "2606:4700::1111", "192.0.1.1"]
        {
            assert!(is_public(good.parse().unwrap()), "{good}");
        }
        for bad in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.255.255",
            "198.18.0.1",
            "192.0.2.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "fec0::1",
        ] {
            assert!(!is_public(bad.parse().unwrap()), "{bad}");
        }
    }

    #[tokio::test]
    async fn urls_are_checked_by_their_address() {
        for bad in ["", "ftp://h/", "http://u:p@h/", "file:///etc/passwd"] {
            assert!(matches!(check_address(bad, true).await, Err(GuardError::Url)), "{bad}");
        }
        // All these are 127.0.0.1, however it is written.
        for sly in
            ["http://127.1/", "http://0x7f000001/", "http://2130706433/", "http://localhost/"]
        {
            let refused = check_address(sly, false).await;
            assert!(matches!(refused, Err(GuardError::Private(_))), "{sly}: {refused:?}");
            assert!(check_address(sly, true).await.unwrap().1.is_loopback(), "{sly}");
        }
        let (_, address) = check_address("https://[2606:4700::1111]/x", false).await.unwrap();
        assert_eq!(address, "2606:4700::1111".parse::<IpAddr>().unwrap());
    }
}
