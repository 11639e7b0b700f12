//! What containers claim: names, addresses, ports, volumes.

use std::{net::IpAddr, os::unix::fs::PermissionsExt as _};

use davit_image::{Digest, ImageId};
use davit_store::{
    AddressClaim, ClaimError, Claimed, ContainerFilter, ContainerUpdate, Durability, NewNetwork,
    NewVolume, Partials, Pool, PortClaim, PortProtocol, Store, StoreError,
};
use davit_test::TempDir;

use crate::{fixture::open, images::container};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn network(store: &Store, last: &str) -> String {
    let id = "ab".repeat(32);
    let pool = |subnet, prefix, gateway, first, last| Pool {
        subnet: ip(subnet),
        prefix,
        gateway: ip(gateway),
        first: ip(first),
        last: ip(last),
    };
    store
        .create_network(&NewNetwork {
            id: id.clone(),
            name: "bridge".to_owned(),
            driver: "bridge".to_owned(),
            labels: std::collections::BTreeMap::new(),
            pools: vec![
                pool("10.9.0.0", 24, "10.9.0.1", "10.9.0.1", last),
                pool("fd00:9::", 64, "fd00:9::1", "fd00:9::1", "fd00:9::ffff"),
            ],
            spec: serde_json::json!({"mtu": 1500}),
        })
        .unwrap();
    id
}

fn on(network: &str) -> AddressClaim {
    AddressClaim { network_id: network.to_owned(), ..AddressClaim::default() }
}

fn port(addresses: &[&str], ports: Option<(u16, u16)>) -> PortClaim {
    PortClaim {
        protocol: PortProtocol::Tcp,
        host_addresses: addresses.iter().map(|text| ip(text)).collect(),
        host_ports: ports.map(|(first, last)| first..=last),
        container_port: 80,
    }
}

fn create(
    store: &Store,
    id: &str,
    network: &str,
    ports: &[PortClaim],
) -> Result<Claimed, ClaimError> {
    let mut new = container(id, None);
    new.addresses = vec![on(network)];
    new.ports = ports.to_vec();
    store.create_container(&new, Durability::Durable)
}

#[test]
fn addresses_are_the_lowest_free_ones() {
    let temp = TempDir::new();
    let store = open(&temp);
    let net = network(&store, "10.9.0.3");
    let first = create(&store, "a1", &net, &[]).unwrap();
    let addresses: Vec<IpAddr> = first.addresses.iter().map(|(_, address)| *address).collect();
    assert_eq!(addresses, [ip("10.9.0.2"), ip("fd00:9::2")]);
    create(&store, "a2", &net, &[]).unwrap();
    let error = create(&store, "a3", &net, &[]).unwrap_err();
    assert!(matches!(error, ClaimError::PoolExhausted { .. }), "{error}");
    assert!(store.container("name-a3").unwrap_err().is_not_found(), "nothing is left of a refusal");
    store.remove_container(&"a1".repeat(32), Durability::Durable).unwrap();
    let again = create(&store, "a3", &net, &[]).unwrap();
    assert_eq!(again.addresses[0].1, ip("10.9.0.2"));
}

#[test]
fn a_lease_holds_addresses_as_long_as_it_lives() {
    let temp = TempDir::new();
    let store = open(&temp);
    let net = network(&store, "10.9.0.3");
    let lease = store.lease("build").unwrap();
    assert_eq!(lease.claim_addresses(&net).unwrap(), [ip("10.9.0.2"), ip("fd00:9::2")]);
    let first = create(&store, "a1", &net, &[]).unwrap();
    assert_eq!(first.addresses[0].1, ip("10.9.0.3"));
    let error = lease.claim_addresses(&net).unwrap_err();
    assert!(matches!(error, ClaimError::PoolExhausted { .. }), "{error}");
    let mut new = container("a2", None);
    new.addresses = vec![AddressClaim { wanted: vec![ip("10.9.0.2")], ..on(&net) }];
    let error = store.create_container(&new, Durability::Lazy).unwrap_err();
    assert_eq!(error.to_string(), "address 10.9.0.2 is already in use by a build");
    drop(lease);
    store.create_container(&new, Durability::Lazy).unwrap();
}

#[test]
fn a_network_moves_with_what_is_held_on_it() {
    let temp = TempDir::new();
    let store = open(&temp);
    let net = network(&store, "10.9.0.9");
    for id in ["a1", "a2", "a3"] {
        create(&store, id, &net, &[]).unwrap();
    }
    store.remove_container(&"a1".repeat(32), Durability::Durable).unwrap();
    let mut pool = store.network(&net).unwrap().network.pools[0];
    for (address, new) in [
        (&mut pool.subnet, "10.10.0.0"),
        (&mut pool.gateway, "10.10.0.1"),
        (&mut pool.first, "10.10.0.1"),
        (&mut pool.last, "10.10.0.9"),
    ] {
        *address = ip(new);
    }
    store.move_network(&net, &pool).unwrap();
    let pools = store.network(&net).unwrap().network.pools;
    assert_eq!(pools[0], pool);
    assert_eq!((pools.len(), pools[1].subnet), (2, ip("fd00:9::")), "the other family stays");
    let held = store.network_addresses(&net).unwrap().into_iter().map(|row| row.address);
    let held: Vec<_> = held.collect();
    assert_eq!(held, [ip("10.10.0.2"), ip("10.10.0.3"), ip("fd00:9::3"), ip("fd00:9::4")]);
    let next = create(&store, "a4", &net, &[]).unwrap();
    assert_eq!(next.addresses[0].1, ip("10.10.0.4"));
}

#[test]
fn an_image_that_is_gone_gets_no_container() {
    let temp = TempDir::new();
    let store = open(&temp);
    let gone = ImageId::new(Digest::of(b"removed since it was found"));
    let error =
        store.create_container(&container("a1", Some(gone)), Durability::Durable).unwrap_err();
    assert!(matches!(&error, ClaimError::Store(error) if error.is_not_found()), "{error}");
    assert!(store.container("a1").unwrap_err().is_not_found());
}

#[test]
fn wanted_addresses_are_given_or_refused() {
    let temp = TempDir::new();
    let store = open(&temp);
    let net = network(&store, "10.9.0.9");
    let want = |id: &str, address: &str| {
        let mut new = container(id, None);
        let wanted = vec![ip(address)];
        new.addresses = vec![AddressClaim { wanted, ..on(&net) }];
        store.create_container(&new, Durability::Durable)
    };
    assert_eq!(want("b1", "10.9.0.77").unwrap().addresses[0].1, ip("10.9.0.77"));
    assert!(matches!(want("b2", "10.9.0.77").unwrap_err(), ClaimError::Address { .. }));
    for taken in ["10.9.0.1", "10.9.0.0", "10.9.0.255", "fd00:9::1", "fd00:9::"] {
        assert!(matches!(want("b2", taken).unwrap_err(), ClaimError::Address { .. }), "{taken}");
    }
    assert!(matches!(want("b2", "10.8.0.1").unwrap_err(), ClaimError::NoPool { .. }));
    assert_eq!(store.network_addresses(&net).unwrap().len(), 2);
}

#[test]
fn ports_conflict_as_the_kernel_sees_it() {
    let temp = TempDir::new();
    let store = open(&temp);
    let net = network(&store, "10.9.0.99");
    let all = port(&["0.0.0.0", "::"], Some((8080, 8080)));
    let one = port(&["127.0.0.1"], Some((8080, 8080)));
    let other = port(&["127.0.0.2"], Some((8080, 8080)));
    create(&store, "c1", &net, &[one]).unwrap();
    create(&store, "c2", &net, &[other]).unwrap();
    let error = create(&store, "c3", &net, std::slice::from_ref(&all)).unwrap_err();
    assert!(matches!(error, ClaimError::Port { host_port: 8080, .. }), "{error}");
    store.release_endpoints(&"c1".repeat(32)).unwrap();
    store.release_endpoints(&"c2".repeat(32)).unwrap();
    create(&store, "c3", &net, &[all]).unwrap();
    let mut udp = port(&["0.0.0.0"], Some((8080, 8080)));
    udp.protocol = PortProtocol::Udp;
    create(&store, "c4", &net, &[udp]).unwrap();
    assert_eq!(store.ports(None).unwrap().len(), 3);
    assert_eq!(store.ports(Some(&"c3".repeat(32))).unwrap()[1].port.host_address, ip("::"));
}

#[test]
fn ranges_and_ephemeral_ports_find_a_free_one() {
    let temp = TempDir::new();
    let store = open(&temp);
    let net = network(&store, "10.9.0.99");
    let range = || port(&["0.0.0.0", "::"], Some((9000, 9001)));
    let got: Vec<u16> = ["d1", "d2"]
        .iter()
        .map(|id| create(&store, id, &net, &[range()]).unwrap().ports[0].host_port)
        .collect();
    assert_eq!(got, [9000, 9001]);
    assert!(matches!(create(&store, "d3", &net, &[range()]).unwrap_err(), ClaimError::Port { .. }));
    let any = || port(&["0.0.0.0", "::"], None);
    let claimed = create(&store, "d4", &net, &[any(), any()]).unwrap();
    let ports: std::collections::BTreeSet<u16> =
        claimed.ports.iter().map(|port| port.host_port).collect();
    assert_eq!((claimed.ports.len(), ports.len()), (4, 2));
    assert!(ports.iter().all(|port| (32768..=60999).contains(port)));
    // As an image asks for that exposes everything.
    let all = vec![port(&["0.0.0.0"], None); 60999 - 32768];
    assert!(matches!(create(&store, "d5", &net, &all).unwrap_err(), ClaimError::Port { .. }));
}

#[test]
fn of_two_that_want_a_name_one_gets_it() {
    let temp = TempDir::new();
    let stores = [open(&temp), open(&temp), open(&temp), open(&temp)];
    let wins: usize = std::thread::scope(|scope| {
        let claims: Vec<_> = stores
            .iter()
            .zip(["e1", "e2", "e3", "e4"])
            .map(|(store, id)| {
                scope.spawn(move || {
                    let mut new = container(id, None);
                    new.name = "web".to_owned();
                    match store.create_container(&new, Durability::Durable) {
                        Ok(_) => 1,
                        Err(ClaimError::Name { name, .. }) if name == "web" => 0,
                        Err(error) => panic!("{error}"),
                    }
                })
            })
            .collect();
        claims.into_iter().map(|claim| claim.join().unwrap()).sum()
    });
    assert_eq!(wins, 1);
}

#[test]
fn containers_are_found_listed_and_updated() {
    let temp = TempDir::new();
    let store = open(&temp);
    for id in ["f1a2", "f1b2"] {
        store.create_container(&container(id, None), Durability::Durable).unwrap();
    }
    let id = "f1a2".repeat(16);
    for name in [id.as_str(), "name-f1a2", "/name-f1a2", "f1a"] {
        assert_eq!(store.container(name).unwrap().id, id, "{name}");
    }
    assert!(matches!(store.container("f1"), Err(StoreError::Ambiguous { .. })));
    assert!(store.container("").unwrap_err().is_not_found());
    let update = ContainerUpdate {
        status: Some("running".to_owned()),
        state: Some(serde_json::json!({"pid": 7})),
        ..ContainerUpdate::default()
    };
    store.update_container(&id, &update, Durability::Lazy).unwrap();
    let running = ContainerFilter { status: Some("running".to_owned()), ..Default::default() };
    let rows = store.containers(&running).unwrap();
    assert_eq!((rows.len(), rows[0].state["pid"].as_i64()), (1, Some(7)));
    assert_eq!(store.containers(&ContainerFilter::default()).unwrap().len(), 2);
    assert!(store.rename_container(&id, "name-f1b2").is_err());
    store.rename_container(&id, "better").unwrap();
    assert_eq!(store.container("better").unwrap().id, id);
    // A name that ids begin with.
    store.rename_container(&id, "f1").unwrap();
    for name in ["f1", "/f1"] {
        assert_eq!(store.container(name).unwrap().id, id, "{name}");
    }
    let gone = store.rename_container(&"0".repeat(64), "late").unwrap_err();
    assert!(matches!(gone, ClaimError::Store(error) if error.is_not_found()));
}

#[test]
fn volumes_stay_while_they_are_used() {
    let temp = TempDir::new();
    let store = open(&temp);
    let data = NewVolume { name: "data".into(), driver: "local".into(), ..NewVolume::default() };
    assert!(store.create_volume(&data).unwrap());
    assert!(!store.create_volume(&data).unwrap(), "a second one is the first one");
    let mut new = container("aa", None);
    new.volumes = vec!["data".to_owned()];
    store.create_container(&new, Durability::Durable).unwrap();
    let directory = store.layout().volume_data("data");
    fs_err::write(directory.join("file"), "x").unwrap();
    assert_eq!(store.remove_volume("data").unwrap(), std::slice::from_ref(&new.id));
    assert!(directory.join("file").exists());
    store.remove_container(&new.id, Durability::Durable).unwrap();
    assert!(store.remove_volume("data").unwrap().is_empty());
    assert!(!directory.exists());
    assert!(store.remove_volume("data").unwrap_err().is_not_found());
}

#[test]
fn what_a_removed_volume_held_never_comes_back() {
    let temp = TempDir::new();
    let store = open(&temp);
    let make = |name: &str| {
        let new = NewVolume { name: name.into(), driver: "local".into(), ..NewVolume::default() };
        assert!(store.create_volume(&new).unwrap(), "{name} is new");
    };
    // As a kill leaves it between the commit and the end of a removal.
    let left = |name: &str, file: &str| {
        let data = store.layout().volume_data(name);
        fs_err::create_dir_all(&data).unwrap();
        fs_err::write(store.layout().volume(name).join(file), "").unwrap();
    };
    left("data", "_data/secret");
    left("data", "removed");
    make("data");
    let data = store.layout().volume_data("data");
    assert_eq!(fs_err::read_dir(&data).unwrap().count(), 0);
    assert_eq!(fs_err::metadata(&data).unwrap().permissions().mode() & 0o7777, 0o755);

    // A sweep takes what was removed, no volume, and nothing whose row is lost in another way.
    left("gone", "removed");
    left("unknown", "_data/precious");
    make("kept.erofs");
    fs_err::write(store.layout().volume("kept.erofs").join("removed"), "").unwrap();
    let report = store.sweep_orphans(Partials::Old).unwrap();
    assert_eq!((report.orphans, report.unfinished), (1, 0));
    let names = fs_err::read_dir(temp.join("root/volumes")).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["data", "kept.erofs", "unknown"]);
    // Nor does a new volume: after the loss of the database it is the one that was meant.
    make("unknown");
    assert!(store.layout().volume_data("unknown").join("precious").exists());
}

#[test]
fn networks_stay_while_they_are_used() {
    let temp = TempDir::new();
    let store = open(&temp);
    let net = network(&store, "10.9.0.99");
    create(&store, "9a", &net, &[]).unwrap();
    let kept = || -> Result<(), ()> { panic!("it is used") };
    assert_eq!(store.remove_network(&net, kept).unwrap(), Ok(vec!["9a".repeat(32)]));
    store.remove_container(&"9a".repeat(32), Durability::Durable).unwrap();
    let lease = store.lease("build").unwrap();
    lease.claim_addresses(&net).unwrap();
    assert_eq!(store.remove_network(&net, kept).unwrap(), Ok(vec![lease.id().to_owned()]));
    drop(lease);
    assert_eq!(store.network("bridge").unwrap().network.pools.len(), 2);
    assert_eq!(store.network(&net[..6]).unwrap().network.name, "bridge");
    assert_eq!(store.remove_network(&net, || Err("busy")).unwrap(), Err("busy"));
    assert!(store.network("bridge").is_ok(), "what cannot be withdrawn stays");
    assert_eq!(store.remove_network(&net, || Ok::<(), ()>(())).unwrap(), Ok(Vec::new()));
    assert!(store.network("bridge").unwrap_err().is_not_found());
    let gone = store.remove_network(&net, || Ok::<(), ()>(())).unwrap_err();
    assert!(gone.is_not_found());
}
