//! The client behind proxies that are trusted: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Each proxy adds at the right end whom it was asked by. What stands left of the last address that is
//! no trusted proxy's was written by that client, and means nothing.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use http::HeaderMap;

/// Proxies in a row; what stands before them is not looked at.
const MOST_HOPS: usize = 32;

/// An address, or all that begin alike: `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// Bits that count.
    prefix: u32,
}

/// The text is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a network is an address, or ADDRESS/BITS with all other bits zero: `{0}` is none")]
pub struct NetworkError(String);

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError(text.to_owned());
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_error| error())?;
        let bits = width(address);
        let prefix = prefix.map_or(Ok(bits), str::parse).map_err(|_error| error())?;
        if prefix > bits || after(address, prefix) != 0 {
            return Err(error());
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && before(self.address, self.prefix) == before(address, self.prefix)
    }
}

const fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { u32::BITS } else { u128::BITS }
}

/// The address at the upper end of 128 bits.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The bits that a prefix has, and nothing else.
fn before(address: IpAddr, prefix: u32) -> u128 {
    bits(address) & !u128::MAX.checked_shr(prefix).unwrap_or(0)
}

/// The bits that it has not.
fn after(address: IpAddr, prefix: u32) -> u128 {
    bits(address) & u128::MAX.checked_shr(prefix).unwrap_or(0)
}

/// The header by which proxies tell: one, since whoever is asked by a client may pass on what the client
/// wrote into the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded`.
    Forwarded,
}

/// Who is believed when it says for whom it asks; the usual is nobody.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    /// Where they are.
    pub networks: Arc<[Network]>,
    /// How they tell.
    pub header: ForwardedHeader,
}

impl TrustedProxies {
    fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// Who asks, by the connection and what trusted proxies say; without a port where they say it.
    pub(super) fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        let mut client = peer.ip().to_canonical();
        if !self.trusts(client) {
            return peer;
        }
        let name = match self.header {
            ForwardedHeader::XForwardedFor => "x-forwarded-for",
            ForwardedHeader::Forwarded => "forwarded",
        };
        let lines = headers.get_all(name).iter().rev();
        // No element of a proxy has a comma in it: what a client wrote cannot reach over the last ones.
        let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        for hop in hops.take(MOST_HOPS) {
            // Where one does not say for whom it asks, it is itself the last that is known.
            let Some(address) = std::str::from_utf8(hop).ok().and_then(|hop| self.address(hop))
            else {
                break;
            };
            client = address;
            if !self.trusts(address) {
                break;
            }
        }
        SocketAddr::new(client, 0)
    }

    fn address(&self, hop: &str) -> Option<IpAddr> {
        match self.header {
            ForwardedHeader::XForwardedFor => address(hop.trim()),
            ForwardedHeader::Forwarded => {
                let pairs = hop.split(';').filter_map(|pair| pair.split_once('='));
                let mut whom = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("for"));
                let (_, node) = whom.next()?;
                let node = node.trim();
                let bare = node.strip_prefix('"').and_then(|node| node.strip_suffix('"'));
                address(bare.unwrap_or(node)).filter(|_| whom.next().is_none())
            }
        }
    }
}

/// An address, with brackets and a port or without.
fn address(node: &str) -> Option<IpAddr> {
    let bare = || node.strip_prefix('[')?.strip_suffix(']');
    let parsed = node.parse::<IpAddr>().ok();
    let parsed = parsed.or_else(|| Some(node.parse::<SocketAddr>().ok()?.ip()));
    parsed.or_else(|| bare()?.parse().ok()).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(header: ForwardedHeader, peer: &str, lines: &[&str]) -> String {
        let networks = ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().unwrap());
        let proxies = TrustedProxies { networks: networks.into(), header };
        let mut headers = HeaderMap::new();
        for line in lines {
            let name = if line.contains('=') { "forwarded" } else { "x-forwarded-for" };
            headers.append(name, line.parse().unwrap());
        }
        proxies.client(SocketAddr::new(peer.parse().unwrap(), 9), &headers).to_string()
    }

    #[test]
    fn the_last_hop_that_is_no_proxy_is_the_client() {
        use ForwardedHeader::{Forwarded, XForwardedFor};

        let long = vec!["10.0.0.2"; 100].join(", ");
        let cases: &[(ForwardedHeader, &str, &[&str], &str)] = &[
            // Nobody else is believed.
            (XForwardedFor, "192.0.2.9", &["198.51.100.1"], "192.0.2.9:9"),
            (XForwardedFor, "10.0.0.1", &[], "10.0.0.1:0"),
            (XForwardedFor, "10.0.0.1", &["198.51.100.1"], "198.51.100.1:0"),
            (XForwardedFor, "::ffff:10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1:0"),
            // What the client wrote stands to the left.
            (XForwardedFor, "10.0.0.1", &["1.1.1.1, 198.51.100.1,10.0.0.2"], "198.51.100.1:0"),
            (XForwardedFor, "10.0.0.1", &["1.1.1.1", "198.51.100.1", "10.0.0.2"], "198.51.100.1:0"),
            (XForwardedFor, "10.0.0.1", &["\", 198.51.100.1"], "198.51.100.1:0"),
            (XForwardedFor, "10.0.0.1", &["1.1.1.1, nonsense"], "10.0.0.1:0"),
            (XForwardedFor, "10.0.0.1", &["1.1.1.1, , 10.0.0.3"], "10.0.0.3:0"),
            (XForwardedFor, "10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1:0"),
            (XForwardedFor, "10.0.0.1", &["[2001:db9::1]:4711"], "[2001:db9::1]:0"),
            (XForwardedFor, "2001:db8::1", &["2001:db9::1"], "[2001:db9::1]:0"),
            (XForwardedFor, "10.0.0.1", &[&format!("1.1.1.1, {long}")], "10.0.0.2:0"),
            // The header that proxies do not write may be the client's.
            (XForwardedFor, "10.0.0.1", &["for=1.1.1.1"], "10.0.0.1:0"),
            (Forwarded, "10.0.0.1", &["1.1.1.1"], "10.0.0.1:0"),
            (Forwarded, "10.0.0.1", &["for=198.51.100.1;proto=https"], "198.51.100.1:0"),
            (Forwarded, "10.0.0.1", &["for=\"a,for=1.1.1.1, For=198.51.100.1"], "198.51.100.1:0"),
            (Forwarded, "10.0.0.1", &["by=_x; for=\"[2001:db9::1]:47\""], "[2001:db9::1]:0"),
            (Forwarded, "10.0.0.1", &["for=1.1.1.1, for=unknown"], "10.0.0.1:0"),
            (Forwarded, "10.0.0.1", &["for=1.1.1.1;for=2.2.2.2"], "10.0.0.1:0"),
            (Forwarded, "10.0.0.1", &["for=1.1.1.1, proto=http"], "10.0.0.1:0"),
        ];
        for (header, peer, lines, expected) in cases {
            assert_eq!(client(*header, peer, lines), *expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn networks_are_read() {
        let contains = |network: &str, address: &str| {
            network.parse::<Network>().unwrap().contains(address.parse().unwrap())
        };
        assert!(contains("0.0.0.0/0", "255.1.2.3") && !contains("0.0.0.0/0", "::1"));
        assert!(contains("10.1.0.0/16", "10.1.255.1") && !contains("10.1.0.0/16", "10.2.0.1"));
        assert!(contains("10.1.2.3", "10.1.2.3") && !contains("10.1.2.3", "10.1.2.2"));
        assert!(contains("fd00::/8", "fdff::1") && !contains("fd00::/8", "fe00::1"));
        for bad in ["", "10.0.0.0/", "10.0.0.0/33", "10.0.0.1/8", "::/129", "a/8", "10.0.0.0/-1"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        assert_eq!("10.0.0.0/8".parse::<Network>().unwrap().to_string(), "10.0.0.0/8");
    }
}
