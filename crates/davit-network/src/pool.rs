//! Docker's default address pools, checked against the machine's routes.

use std::net::Ipv4Addr;

use crate::{Bridge, Ipv4Subnet, NetworkError, address::fingerprint, link};

/// Chooses the first default subnet of a root that overlaps no route of the machine and none of
/// `others`, those of the root's other networks; `root_id` is `None` for the machine's default root.
///
/// The default root's order is Docker's: 172.17.0.0/16 to 172.31.0.0/16, then /20s of
/// 192.168.0.0/16. Another root begins both rows at a place of its own, so that two whose bridges
/// are absent seldom choose the same; it is the one who raises the bridge that must look again, by
/// [`Bridge::rival`]. Routes over the root's own bridge do not count; where it is not the one that
/// looks for a pool it is among `others`.
///
/// # Errors
///
/// Fails when the routes cannot be read or every pool is taken.
pub fn choose_pool(
    root_id: Option<&str>,
    others: &[Ipv4Subnet],
) -> Result<Ipv4Subnet, NetworkError> {
    let (own, _) = Bridge::names(root_id);
    let routes = link::ipv4_routes(&own)?.into_iter().map(|route| route.subnet);
    let used: Vec<_> = routes.chain(others.iter().copied()).collect();
    first_beside(root_id, &used).ok_or(NetworkError::PoolExhausted)
}

/// A root's first default pool that overlaps none of what is used.
fn first_beside(root_id: Option<&str>, used: &[Ipv4Subnet]) -> Option<Ipv4Subnet> {
    defaults(root_id).find(|pool| !used.iter().any(|used| used.overlaps(pool)))
}

fn defaults(root_id: Option<&str>) -> impl Iterator<Item = Ipv4Subnet> {
    // Never 0: the first pool is left to the default root, and to Docker.
    let start = root_id.map_or(0, |id| 1 + u8::try_from(fingerprint(id) % 14).unwrap_or_default());
    let sixteens = (0..15).map(move |n| (Ipv4Addr::new(172, 17 + (start + n) % 15, 0, 0), 16));
    let twenties = (0..16).map(move |n| (Ipv4Addr::new(192, 168, (start + n) % 16 * 16, 0), 20));
    sixteens.chain(twenties).filter_map(|(network, prefix)| Ipv4Subnet::new(network, prefix))
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
        let pools: Vec<_> = defaults(None).map(|pool| pool.to_string()).collect();
        assert_eq!(pools.len(), 31);
        assert_eq!(pools[0], "172.17.0.0/16");
        assert_eq!(pools[14], "172.31.0.0/16");
        assert_eq!(pools[15], "192.168.0.0/20");
        assert_eq!(pools[30], "192.168.240.0/20");
    }

    #[test]
    fn taken_pools_are_passed_over() {
        for root_id in [None, Some("00f3a9c1d2e4b5a6")] {
            let all: Vec<_> = defaults(root_id).collect();
            assert_eq!(first_beside(root_id, &all), None);
            let (head, tail) = (&all[..7], &all[8..]);
            assert_eq!(first_beside(root_id, &[head, tail].concat()), Some(all[7]));
            assert_eq!(first_beside(root_id, head), Some(all[7]));
            let sixteens = "172.16.0.0/12".parse().expect("a subnet");
            assert_eq!(first_beside(root_id, &[sixteens]), Some(all[15]));
        }
    }

    #[test]
    fn roots_begin_at_places_of_their_own() {
        let dockers: Vec<_> = defaults(None).collect();
        let mut first = std::collections::BTreeSet::new();
        for number in 0..256_u64 {
            let pools: Vec<_> = defaults(Some(&format!("{number:016x}"))).collect();
            assert_ne!(pools[0], dockers[0]);
            first.insert(pools[0]);
            let mut sorted = pools.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, dockers, "all of them, once");
            assert_eq!(pools[15].prefix(), 20, "the larger ones first");
        }
        assert_eq!(first.len(), 14, "every place but the default root's");
    }
}
