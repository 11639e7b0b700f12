//! Docker's default address pools, checked against the machine's routes.

use std::net::Ipv4Addr;

use crate::{Ipv4Subnet, NetworkError, link};

/// Chooses the first default subnet that overlaps neither a route of the machine nor `taken`.
///
/// The order is Docker's: 172.17.0.0/16 to 172.31.0.0/16, then /20s of 192.168.0.0/16. Routes over
/// the interface `own` do not count.
///
/// # Errors
///
/// Fails when the routes cannot be read or every pool is taken.
pub fn choose_pool(own: &str, taken: &[Ipv4Subnet]) -> Result<Ipv4Subnet, NetworkError> {
    first_beside(&[&link::ipv4_routes(own)?, taken]).ok_or(NetworkError::PoolExhausted)
}

/// The first default pool that overlaps none of what is used.
fn first_beside(used: &[&[Ipv4Subnet]]) -> Option<Ipv4Subnet> {
    defaults().find(|pool| !used.iter().copied().flatten().any(|used| used.overlaps(pool)))
}

fn defaults() -> impl Iterator<Item = Ipv4Subnet> {
    let sixteens =
        (17..=31).filter_map(|second| Ipv4Subnet::new(Ipv4Addr::new(172, second, 0, 0), 16));
    let twenties = (0..=15).filter_map(|n| Ipv4Subnet::new(Ipv4Addr::new(192, 168, n * 16, 0), 20));
    sixteens.chain(twenties)
}

/// Whether the calling thread's namespace has IPv6 and does not disable it.
#[must_use]
pub fn ipv6_available() -> bool {
    fs_err::read_to_string("/proc/sys/net/ipv6/conf/all/disable_ipv6")
        .is_ok_and(|text| text.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_pools_are_dockers() {
        let pools: Vec<_> = defaults().map(|pool| pool.to_string()).collect();
        assert_eq!(pools.len(), 31);
        assert_eq!(pools[0], "172.17.0.0/16");
        assert_eq!(pools[14], "172.31.0.0/16");
        assert_eq!(pools[15], "192.168.0.0/20");
        assert_eq!(pools[30], "192.168.240.0/20");
    }

    #[test]
    fn taken_pools_are_passed_over() {
        let all: Vec<_> = defaults().collect();
        assert!(matches!(choose_pool("davit0", &all), Err(NetworkError::PoolExhausted)));
        let (head, tail) = (&all[..7], &all[8..]);
        assert_eq!(first_beside(&[head, tail]), Some(all[7]));
        assert_eq!(first_beside(&[head]), Some(all[7]));
        assert_eq!(first_beside(&[&["172.16.0.0/12".parse().expect("a subnet")]]), Some(all[15]));
    }
}
