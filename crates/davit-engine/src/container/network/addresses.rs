//! The addresses of a network that a user makes: what is asked for, as pools.

use std::net::IpAddr;

use davit_network::{Ipv4Subnet, Ipv6Subnet};
use davit_store::Pool;

use super::NetworkRequest;
use crate::container::ContainerError;

/// Whether two pools share an address.
pub(super) fn overlap(one: &Pool, other: &Pool) -> bool {
    let wider = if one.prefix <= other.prefix { one } else { other };
    wider.contains(one.subnet) && wider.contains(other.subnet)
}

/// What a request says of addresses.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) subnet4: Option<Ipv4Subnet>,
    pub(super) subnet6: Option<Ipv6Subnet>,
    gateways: Vec<IpAddr>,
    ranges: Vec<Range>,
}

impl Asked {
    pub(super) fn of(request: &NetworkRequest) -> Result<Self, ContainerError> {
        let mut asked = Self { gateways: request.gateways.clone(), ..Self::default() };
        for text in &request.subnets {
            let is_second = if text.contains(':') {
                let subnet: Ipv6Subnet = canonical(text)?;
                asked.subnet6.replace(subnet).is_some()
            } else {
                let subnet: Ipv4Subnet = canonical(text)?;
                asked.subnet4.replace(subnet).is_some()
            };
            if is_second {
                let message = "a network of driver bridge has one subnet of each family";
                return Err(ContainerError::Invalid(format!("{message}: {text} is another")));
            }
        }
        if let Some(subnet) = asked.subnet6.filter(|_| !request.ipv6) {
            let message = "without --ipv6 the network has no IPv6 addresses";
            return Err(ContainerError::Invalid(format!("subnet {subnet}: {message}")));
        }
        let ranges = request.ip_ranges.iter();
        asked.ranges = ranges.map(|text| Range::parse(text)).collect::<Result<_, _>>()?;
        Ok(asked)
    }

    /// Sets gateways and ranges; each is of one of the pools.
    pub(super) fn narrow(&self, pools: &mut [Pool]) -> Result<(), ContainerError> {
        let unmatched = |what: &str, text: String| {
            ContainerError::Invalid(format!("no matching subnet for {what} {text}"))
        };
        // A subnet that was chosen may be another one tomorrow.
        let is_own = |pool: &&mut Pool| match pool.subnet {
            IpAddr::V4(_) => self.subnet4.is_some(),
            IpAddr::V6(_) => self.subnet6.is_some(),
        };
        for &gateway in &self.gateways {
            let pool = pools.iter_mut().filter(is_own).find(|pool| pool.contains(gateway));
            let pool = pool.ok_or_else(|| unmatched("gateway", gateway.to_string()))?;
            if pool.is_edge(gateway) {
                let message = "is the address of the network itself, or of all its hosts";
                return Err(ContainerError::Invalid(format!("gateway {gateway} {message}")));
            }
            // The first address of all is free then.
            pool.first = pool.first.min(pool.gateway);
            pool.gateway = gateway;
        }
        for range in &self.ranges {
            let pool = pools
                .iter_mut()
                .filter(is_own)
                .find(|pool| pool.contains(range.first) && pool.contains(range.last));
            let pool = pool.ok_or_else(|| unmatched("range", range.text.clone()))?;
            (pool.first, pool.last) = (pool.first.max(range.first), pool.last.min(range.last));
        }
        Ok(())
    }
}

/// Reads a subnet whose address is its first.
fn canonical<S: std::str::FromStr + std::fmt::Display>(text: &str) -> Result<S, ContainerError> {
    let subnet: S = text.parse().map_err(|_| {
        let bounds = "an IPv4 subnet has 8 to 30 bits of prefix, an IPv6 subnet 48 to 112";
        ContainerError::Invalid(format!("invalid subnet {text}: {bounds}"))
    })?;
    let right = subnet.to_string();
    // IPv6 is written in many ways.
    let is_right = |text: &str| match (text.split_once('/'), right.split_once('/')) {
        (Some((one, _)), Some((other, _))) => one.parse::<IpAddr>() == other.parse::<IpAddr>(),
        _ => false,
    };
    if is_right(text) {
        return Ok(subnet);
    }
    Err(ContainerError::Invalid(format!("invalid subnet {text}: it should be {right}")))
}

/// A range of addresses, written as a subnet of any size.
#[derive(Debug)]
struct Range {
    text: String,
    first: IpAddr,
    last: IpAddr,
}

impl Range {
    fn parse(text: &str) -> Result<Self, ContainerError> {
        let invalid =
            || ContainerError::Invalid(format!("invalid range {text}: expected ADDRESS/PREFIX"));
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        let (address, prefix): (IpAddr, u32) =
            (address.parse().map_err(|_| invalid())?, prefix.parse().map_err(|_| invalid())?);
        let (first, last) = match address {
            IpAddr::V4(address) if prefix <= 32 => {
                let hosts = u32::MAX.checked_shr(prefix).unwrap_or(0);
                let first = u32::from(address) & !hosts;
                (IpAddr::V4(first.into()), IpAddr::V4((first | hosts).into()))
            }
            IpAddr::V6(address) if prefix <= 128 => {
                let hosts = u128::MAX.checked_shr(prefix).unwrap_or(0);
                let first = u128::from(address) & !hosts;
                (IpAddr::V6(first.into()), IpAddr::V6((first | hosts).into()))
            }
            _ => return Err(invalid()),
        };
        Ok(Self { text: text.to_owned(), first, last })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{pool4, pool6},
        *,
    };

    fn asked(
        subnets: &[&str],
        gateways: &[&str],
        ranges: &[&str],
    ) -> Result<Vec<Pool>, ContainerError> {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let request = NetworkRequest {
            subnets: texts(subnets),
            gateways: gateways.iter().map(|text| text.parse().unwrap()).collect(),
            ip_ranges: texts(ranges),
            ipv6: subnets.len() != 1,
            ..NetworkRequest::default()
        };
        let asked = Asked::of(&request)?;
        let mut pools = vec![pool4(asked.subnet4.unwrap_or("172.20.0.0/16".parse().unwrap()))];
        pools.extend(asked.subnet6.map(pool6));
        asked.narrow(&mut pools)?;
        Ok(pools)
    }

    #[test]
    fn addresses_are_those_that_were_asked_for() {
        let shown = |pool: &Pool| format!("{} {}-{}", pool.gateway, pool.first, pool.last);
        for (gateways, ranges, expected) in [
            (&[][..], &[][..], "10.9.0.1 10.9.0.2-10.9.0.254"),
            (&["10.9.0.254"], &[], "10.9.0.254 10.9.0.1-10.9.0.254"),
            (&[], &["10.9.0.128/25"], "10.9.0.1 10.9.0.128-10.9.0.254"),
            (&[], &["10.9.0.7/32"], "10.9.0.1 10.9.0.7-10.9.0.7"),
            (&["10.9.0.9"], &["10.9.0.0/28"], "10.9.0.9 10.9.0.1-10.9.0.15"),
        ] {
            let pools = asked(&["10.9.0.0/24"], gateways, ranges).unwrap();
            assert_eq!(shown(&pools[0]), expected);
        }
        let both = ["10.9.0.0/24", "fd00:9::/64"];
        let pools = asked(&both, &["fd00:9::5"], &["fd00:9::100/120"]).unwrap();
        assert_eq!(shown(&pools[1]), "fd00:9::5 fd00:9::100-fd00:9::1ff");
    }

    #[test]
    fn addresses_that_make_no_sense_are_refused() {
        let four = &["10.9.0.0/24"][..];
        for (subnets, gateways, ranges, expected) in [
            (&["10.9.0.1/24"][..], &[][..], &[][..], "it should be 10.9.0.0/24"),
            (&["10.9.0.0/31"], &[], &[], "8 to 30 bits"),
            (&["10.9.0.0"], &[], &[], "invalid subnet 10.9.0.0"),
            (&["10.9.0.0/24", "10.8.0.0/24"], &[], &[], "one subnet of each family"),
            (&["fd00:9::/64"], &[], &[], "without --ipv6"),
            (four, &["10.8.0.1"], &[], "no matching subnet for gateway 10.8.0.1"),
            (four, &["10.9.0.255"], &[], "gateway 10.9.0.255 is the address"),
            (four, &[], &["10.9.0.0/23"], "no matching subnet for range 10.9.0.0/23"),
            (four, &[], &["10.9.0.0/33"], "invalid range"),
            (&[], &["172.20.0.5"], &[], "no matching subnet"),
        ] {
            let error = asked(subnets, gateways, ranges).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn pools_overlap() {
        let pool = |text: &str| pool4(text.parse().unwrap());
        assert!(overlap(&pool("10.9.0.0/16"), &pool("10.9.4.0/24")));
        assert!(overlap(&pool("10.9.4.0/24"), &pool("10.9.0.0/16")));
        assert!(!overlap(&pool("10.9.0.0/24"), &pool("10.9.1.0/24")));
        assert!(!overlap(&pool("10.9.0.0/24"), &pool6("fd00::/64".parse().unwrap())));
    }
}
