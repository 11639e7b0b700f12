//! Subnets and hardware addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// The IPv4 address with the IPv6 one beside it.
#[must_use]
pub fn both_families(addresses: &[IpAddr]) -> Option<(Ipv4Addr, Option<Ipv6Addr>)> {
    let four = addresses.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let six = addresses.iter().find_map(|address| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    });
    four.map(|four| (four, six))
}

/// A text that is no subnet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid subnet {0:?}: expected ADDRESS/PREFIX")]
pub struct InvalidSubnet(String);

/// An IPv4 subnet of 8 to 30 prefix bits; its text is `172.17.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

impl Ipv4Subnet {
    /// Makes the subnet that holds `address`; `None` unless 8 <= `prefix` <= 30.
    #[must_use]
    pub fn new(address: Ipv4Addr, prefix: u8) -> Option<Self> {
        if !(8..=30).contains(&prefix) {
            return None;
        }
        Some(Self { network: Ipv4Addr::from(u32::from(address) & mask4(prefix)), prefix })
    }

    /// The lowest address, which is no host's.
    #[must_use]
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// Number of leading bits that all addresses share.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The first host address: the bridge's own.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    /// The highest address, which is no host's.
    #[must_use]
    pub fn broadcast(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) | !mask4(self.prefix))
    }

    /// Whether `address` lies in the subnet.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask4(self.prefix) == u32::from(self.network)
    }

    /// Whether the two subnets share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

fn mask4(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Ipv4Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Ipv4Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let invalid = || InvalidSubnet(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: Ipv4Addr = address.parse().map_err(|_| invalid())?;
        let prefix = prefix.parse().map_err(|_| invalid())?;
        Self::new(address, prefix).ok_or_else(invalid)
    }
}

/// An IPv6 subnet of 48 to 112 prefix bits; its text is `fd5d:6a76:17::/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv6Subnet {
    network: Ipv6Addr,
    prefix: u8,
}

impl Ipv6Subnet {
    /// Makes the subnet that holds `address`; `None` unless 48 <= `prefix` <= 112.
    #[must_use]
    pub fn new(address: Ipv6Addr, prefix: u8) -> Option<Self> {
        if !(48..=112).contains(&prefix) {
            return None;
        }
        let mask = u128::MAX << (128 - u32::from(prefix));
        Some(Self { network: Ipv6Addr::from(u128::from(address) & mask), prefix })
    }

    /// The unique local /64 (RFC 4193) of network number `number` of the root `root_id`.
    ///
    /// The 40-bit global id is a digest of the id, so that two machines rarely share one.
    #[must_use]
    pub fn unique_local(root_id: &str, number: u16) -> Self {
        let global = u128::from((fingerprint(root_id) >> 24) & 0xff_ffff_ffff);
        let network = (0xfd_u128 << 120) | (global << 80) | (u128::from(number) << 64);
        Self { network: Ipv6Addr::from(network), prefix: 64 }
    }

    /// The lowest address.
    #[must_use]
    pub fn network(&self) -> Ipv6Addr {
        self.network
    }

    /// Number of leading bits that all addresses share.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The bridge's own address.
    #[must_use]
    pub fn gateway(&self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.network) + 1)
    }

    /// Whether the two subnets share an address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let shared = u128::MAX << (128 - u32::from(self.prefix.min(other.prefix)));
        u128::from(self.network) & shared == u128::from(other.network) & shared
    }
}

impl fmt::Display for Ipv6Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Ipv6Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let invalid = || InvalidSubnet(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let address: Ipv6Addr = address.parse().map_err(|_| invalid())?;
        let prefix = prefix.parse().map_err(|_| invalid())?;
        Self::new(address, prefix).ok_or_else(invalid)
    }
}

/// An Ethernet address; its text is `02:42:ac:11:00:02`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

/// A text that is no Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid MAC address {0:?}: expected six pairs of hexadecimal digits separated by colons")]
pub struct InvalidMac(String);

impl Mac {
    /// The locally administered address that Docker derives from an IPv4 address: a container that
    /// gets the address of an earlier one leaves no stale neighbour entries behind.
    #[must_use]
    pub fn of_address(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x42, a, b, c, d])
    }

    /// The six bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let invalid = || InvalidMac(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let digits =
                |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            let part = parts.next().filter(digits).ok_or_else(invalid)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() || bytes[0] & 1 == 1 {
            return Err(invalid());
        }
        Ok(Self(bytes))
    }
}

/// FNV-1a of a root's id: what is chosen by it is the same in every version.
pub(crate) fn fingerprint(root_id: &str) -> u64 {
    root_id.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

macro_rules! text_conversions {
    ($($type:ty: $error:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = $error;

            fn try_from(text: String) -> Result<Self, $error> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}
text_conversions!(Ipv4Subnet: InvalidSubnet, Ipv6Subnet: InvalidSubnet, Mac: InvalidMac);

/// Bytes of an address in network order.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Ipv4Subnet {
        text.parse().expect("a subnet")
    }

    #[test]
    fn subnets_parse_and_print() {
        assert_eq!(subnet("172.17.3.4/16").to_string(), "172.17.0.0/16");
        for bad in
            ["", "1.2.3.4", "1.2.3.4/", "1.2.3.4/31", "1.2.3/8", "1.2.3.4/7", "::/64", "1.2.3.4/-8"]
        {
            assert!(bad.parse::<Ipv4Subnet>().is_err(), "{bad:?} is no subnet");
        }
    }

    #[test]
    fn overlap_is_symmetric() {
        let cases = [
            ("172.17.0.0/16", "172.17.4.0/24", true),
            ("172.17.0.0/16", "172.18.0.0/16", false),
            ("10.0.0.0/8", "10.88.0.0/16", true),
        ];
        for (a, b, expected) in cases {
            assert_eq!(subnet(a).overlaps(&subnet(b)), expected, "{a} {b}");
            assert_eq!(subnet(b).overlaps(&subnet(a)), expected, "{b} {a}");
        }
    }

    #[test]
    fn unique_local_is_stable() {
        let six = Ipv6Subnet::unique_local("3f9a", 0);
        assert_eq!(six, Ipv6Subnet::unique_local("3f9a", 0));
        assert_ne!(six, Ipv6Subnet::unique_local("3f9b", 0));
        assert_eq!(six.network().octets()[0], 0xfd);
    }

    #[test]
    fn mac_addresses() {
        let mac = Mac::of_address(Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        assert_eq!(mac.to_string().parse(), Ok(mac));
        for bad in ["", "02:42", "02:42:ac:11:00:02:03", "+2:42:ac:11:00:02", "01:42:ac:11:00:02"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?} is no address of a host");
        }
    }
}
