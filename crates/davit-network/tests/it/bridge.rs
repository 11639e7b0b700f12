//! A bridge with containers, a host and an outside, all in namespaces.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use davit_network::{
    Bridge, Endpoint, Ipv6Subnet, NetworkError, PortMapping, Protocol, choose_pool,
};
use davit_test::need_tool;

use crate::namespace::Namespace;

/// `outside (198.51.100.2) -- (198.51.100.1) host -- bridge -- containers`
struct World {
    host: Namespace,
    outside: Namespace,
    containers: Vec<(Namespace, Endpoint)>,
    bridge: Bridge,
}

/// How long what must come is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Id of the root.
const ROOT: &str = "0123456789abcdef";

/// Makes bridges, and the table that knows them and no others.
fn raise(networks: &[&Bridge]) -> Result<(), NetworkError> {
    networks.iter().try_for_each(|network| network.raise().and_then(|()| network.open()))?;
    let networks: Vec<Bridge> = networks.iter().map(|&network| network.clone()).collect();
    Bridge::guard(&networks[0].table, &networks)
}

impl World {
    fn new(ports: &[&[PortMapping]]) -> Option<Self> {
        need_tool("ip")?;
        let host = Namespace::new()?;
        let outside = Namespace::new()?;
        host.run(&format!("ip link add wan type veth peer name wan netns {}", outside.pid()));
        for (namespace, address) in [(&host, HOST), (&outside, OUTSIDE)] {
            namespace.run(&format!("ip addr add {address}/24 dev wan"));
            namespace.run("ip link set wan up");
        }
        let ipv4 = host.inside(|| choose_pool(Some(ROOT), &[])).expect("a pool");
        let ipv6 = Some(Ipv6Subnet::unique_local(ROOT, 0));
        let bridge = Bridge::new(Bridge::names(Some(ROOT)), ipv4, ipv6);
        assert!(!host.inside(|| Bridge::is_up(&bridge.name)).expect("an answer"));
        assert!(!host.inside(|| bridge.is_guarded()).expect("an answer"));
        host.inside(|| raise(&[&bridge])).expect("the bridge");
        assert!(host.inside(|| Bridge::is_up(&bridge.name)).expect("an answer"));
        assert!(host.inside(|| bridge.is_guarded()).expect("an answer"));
        let mut world = Self { host, outside, containers: Vec::new(), bridge };
        for ports in ports {
            world.add(ports)?;
        }
        Some(world)
    }

    fn add(&mut self, ports: &[PortMapping]) -> Option<()> {
        self.add_to(&self.bridge.clone(), ports)
    }

    fn add_to(&mut self, bridge: &Bridge, ports: &[PortMapping]) -> Option<()> {
        let container = Namespace::new()?;
        let number = u32::try_from(self.containers.len()).expect("few");
        let endpoint = Endpoint::new(addresses(bridge, number), number, ports.to_vec());
        let file = container.open();
        self.host
            .inside(|| bridge.attach(&endpoint, std::os::fd::AsFd::as_fd(&file)))
            .expect("attached");
        self.containers.push((container, endpoint));
        Some(())
    }

    /// A network beside the first one that the table does not know yet.
    fn beside(&self, ipv4: &str) -> Bridge {
        let table = self.bridge.table.clone();
        let ipv4 = ipv4.parse().expect("a subnet");
        Bridge::new((Bridge::name_of(ROOT, "fedcba"), table), ipv4, None)
    }

    /// Serves one byte per connection in container `index` on port 80, over both families.
    fn serve(&self, index: usize) {
        let listener = self.containers[index].0.inside(|| TcpListener::bind("[::]:80"));
        let listener = listener.expect("port 80 of a new namespace is free");
        let answer = u8::try_from(index).expect("few") + b'0';
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                // A client that gave up is no concern of the server.
                drop(connection.and_then(|mut stream| stream.write_all(&[answer])));
            }
        });
    }
}

/// The addresses of container `number`.
fn addresses(bridge: &Bridge, number: u32) -> (Ipv4Addr, Option<Ipv6Addr>) {
    let six = |subnet: Ipv6Subnet| u128::from(subnet.gateway()) + 1 + u128::from(number);
    let four = u32::from(bridge.ipv4.gateway()) + 1 + number;
    (four.into(), bridge.ipv6.map(|subnet| six(subnet).into()))
}

fn mapping(host_address: &str, host_port: u16) -> PortMapping {
    let host_address = host_address.parse().expect("an address");
    PortMapping { host_address, host_port, container_port: 80, protocol: Protocol::Tcp }
}

/// On every address of both families.
fn everywhere(host_port: u16) -> [PortMapping; 2] {
    [mapping("0.0.0.0", host_port), mapping("::", host_port)]
}

/// Asks the server at `address` from within `namespace`: it answers this, or, for `None`, nobody does. What
/// is expected is waited for as long as a busy machine may need.
#[track_caller]
fn answers(
    namespace: &Namespace,
    (address, port): (impl Into<IpAddr>, u16),
    expected: Option<u8>,
    what: &str,
) {
    let address = SocketAddr::new(address.into(), port);
    let patience = if expected.is_some() { PATIENCE } else { Duration::from_millis(1500) };
    let answer = namespace.inside(|| {
        let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
        let mut answer = [0];
        stream.read_exact(&mut answer).ok()?;
        Some(answer[0])
    });
    assert_eq!(answer, expected, "{address}: {what}");
}

#[test]
fn ports_are_reached_from_everywhere_they_should() {
    let published = [&everywhere(8080)[..], &[mapping("127.0.0.1", 8081)]].concat();
    let Some(world) = World::new(&[&published, &[]]) else { return };
    world.serve(0);
    world.serve(1);
    let (first, endpoint) = &world.containers[0];
    let second = &world.containers[1].0;
    let six = endpoint.ipv6.expect("an IPv6 address");
    let gateway6 = world.bridge.ipv6.expect("a subnet").gateway();
    let cases: [(&str, &Namespace, IpAddr, u16, Option<u8>); 14] = [
        ("outside, published", &world.outside, HOST.into(), 8080, Some(b'0')),
        ("outside, published on loopback only", &world.outside, HOST.into(), 8081, None),
        ("host, its address", &world.host, HOST.into(), 8080, Some(b'0')),
        ("host, loopback", &world.host, Ipv4Addr::LOCALHOST.into(), 8080, Some(b'0')),
        ("host, loopback only", &world.host, Ipv4Addr::LOCALHOST.into(), 8081, Some(b'0')),
        ("host, bridge address", &world.host, world.bridge.ipv4.gateway().into(), 8080, Some(b'0')),
        ("host, bridge IPv6 address", &world.host, gateway6.into(), 8080, Some(b'0')),
        ("host, container", &world.host, endpoint.ipv4.into(), 80, Some(b'0')),
        ("host, container IPv6", &world.host, six.into(), 80, Some(b'0')),
        ("another container", second, endpoint.ipv4.into(), 80, Some(b'0')),
        ("another container, IPv6", second, six.into(), 80, Some(b'0')),
        ("another container, published", second, HOST.into(), 8080, Some(b'0')),
        ("itself by the host's address", first, HOST.into(), 8080, Some(b'0')),
        ("host, not published", &world.host, HOST.into(), 8082, None),
    ];
    for (name, from, address, port, expected) in cases {
        answers(from, (address, port), expected, name);
    }
}

#[test]
fn containers_are_not_reached_directly_from_outside() {
    let Some(world) = World::new(&[&everywhere(8080)]) else { return };
    world.serve(0);
    world.outside.run(&format!("ip route add {} via {HOST}", world.bridge.ipv4));
    answers(&world.outside, (world.containers[0].1.ipv4, 80), None, "a raw drop");
    answers(&world.outside, (HOST, 8080), Some(b'0'), "published all the same");
}

#[test]
fn containers_reach_outside_with_the_hosts_address() {
    let Some(world) = World::new(&[&[]]) else { return };
    let listener = world.outside.inside(|| TcpListener::bind((OUTSIDE, 80))).expect("listens");
    let container = &world.containers[0].0;
    let stream = container.inside(|| TcpStream::connect((OUTSIDE, 80))).expect("connects");
    let (_, peer) = listener.accept().expect("a client");
    assert_eq!(peer.ip(), IpAddr::from(HOST));
    drop(stream);
}

#[test]
fn services_on_the_hosts_loopback_are_out_of_reach() {
    let Some(world) = World::new(&[&[]]) else { return };
    let _server = world.host.inside(|| TcpListener::bind("127.0.0.1:7000")).expect("listens");
    let container = &world.containers[0].0;
    // What a container with NET_ADMIN would try (CVE-2020-8558).
    container.run("ip addr del 127.0.0.1/8 dev lo");
    container
        .inside(|| fs_err::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1"))
        .expect("set");
    let gateway = world.bridge.ipv4.gateway();
    container.run(&format!("ip route add 127.0.0.0/8 via {gateway} dev eth0"));
    answers(container, (Ipv4Addr::LOCALHOST, 7000), None, "the host's loopback");
}

#[test]
fn the_administrators_chain_decides_first() {
    let Some(nft) = need_tool("nft") else { return };
    let nft = nft.display();
    let Some(world) = World::new(&[&everywhere(8080)]) else { return };
    world.serve(0);
    let table = &world.bridge.table;
    world.host.run(&format!("{nft} add rule inet {table} admin ip saddr {OUTSIDE} drop"));
    answers(&world.outside, (HOST, 8080), None, "the administrator drops it");
    world.host.inside(|| raise(&[&world.bridge])).expect("written again");
    answers(&world.outside, (HOST, 8080), None, "the rule is still there");
}

#[test]
fn a_flushed_table_comes_back_with_its_ports() {
    let Some(nft) = need_tool("nft") else { return };
    let nft = nft.display();
    let Some(world) = World::new(&[&everywhere(8080)]) else { return };
    world.serve(0);
    world.host.run(&format!("{nft} flush ruleset"));
    assert!(!world.host.inside(|| world.bridge.is_guarded()).expect("an answer"));
    world.host.inside(|| raise(&[&world.bridge])).expect("made again");
    world.host.inside(|| world.bridge.publish(&world.containers[0].1)).expect("published again");
    answers(&world.outside, (HOST, 8080), Some(b'0'), "all is there again");
}

#[test]
fn another_firewall_that_drops_forwarded_packets_is_passed() {
    let Some(iptables) = need_tool("iptables-nft") else { return };
    let iptables = iptables.display();
    let Some(world) = World::new(&[&everywhere(8080)]) else { return };
    world.serve(0);
    world.host.run(&format!("{iptables} -P FORWARD DROP"));
    // A rule of the administrator's, who needs no leave to name the bridge.
    let name = &world.bridge.name;
    let own = format!("FORWARD -i {name} -p tcp -m tcp --dport 9 -j ACCEPT");
    world.host.run(&format!("{iptables} -A {own}"));
    answers(&world.outside, (HOST, 8080), None, "the test's own premise");
    world.host.inside(|| world.bridge.open()).expect("opened");
    answers(&world.outside, (HOST, 8080), Some(b'0'), "it is let through");
    let listed = world.host.run(&format!("{iptables} -S FORWARD"));
    assert!(listed.contains(&format!("-A FORWARD -i {name} -j ACCEPT")), "{listed}");
    world.host.inside(|| world.bridge.open()).expect("nothing to do");
    let count = world.host.run(&format!("{iptables} -S FORWARD")).matches("ACCEPT").count();
    assert_eq!(count, 3, "one rule for each direction, and the administrator's");
    world.host.inside(|| world.bridge.remove()).expect("removed");
    let listed = world.host.run(&format!("{iptables} -S FORWARD"));
    assert_eq!(listed.trim_end(), format!("-P FORWARD DROP\n-A {own}"));
}

#[test]
fn nothing_is_left_after_removal() {
    let Some(world) = World::new(&[&everywhere(8080)]) else { return };
    let endpoint = &world.containers[0].1;
    world.host.inside(|| world.bridge.unpublish(endpoint)).expect("withdrawn");
    world.host.inside(|| world.bridge.unpublish(endpoint)).expect("twice is no error");
    world.host.inside(|| world.bridge.remove()).expect("removed");
    world.host.inside(|| world.bridge.remove()).expect("twice is no error");
    let remove_table = || Bridge::remove_table(&world.bridge.table);
    world.host.inside(|| remove_table().and_then(|()| remove_table())).expect("twice, too");
    let links = world.host.run("ip -o link");
    assert!(!links.contains("davit"), "{links}");
    if let Some(nft) = need_tool("nft") {
        assert_eq!(world.host.run(&format!("{} list ruleset", nft.display())), "");
    }
}

#[test]
fn a_port_of_two_endpoints_is_refused() {
    let Some(mut world) = World::new(&[&everywhere(8080)]) else { return };
    let container = Namespace::new().expect("as before");
    let endpoint = Endpoint::new(addresses(&world.bridge, 5), 77, everywhere(8080).to_vec());
    let file = container.open();
    let attached =
        world.host.inside(|| world.bridge.attach(&endpoint, std::os::fd::AsFd::as_fd(&file)));
    assert!(matches!(attached, Err(NetworkError::Firewall { .. })), "{attached:?}");
    let links = world.host.run("ip -o link");
    assert!(!links.contains(&endpoint.veth), "its interface is gone: {links}");
    world.add(&everywhere(8081)).expect("another port is free");
}

#[test]
fn thousands_of_ports_are_published_together() {
    let ports: Vec<_> = (20_000..23_000).flat_map(everywhere).collect();
    let Some(world) = World::new(&[&ports]) else { return };
    world.serve(0);
    answers(&world.outside, (HOST, 22_999), Some(b'0'), "the last one");
    let endpoint = &world.containers[0].1;
    let unpublish = |endpoint: &Endpoint| {
        world.host.inside(|| world.bridge.unpublish(endpoint)).expect("withdrawn");
    };
    // Some are gone already.
    unpublish(&Endpoint { ports: ports[10..20].to_vec(), ..endpoint.clone() });
    unpublish(endpoint);
    let moved = Endpoint { ipv4: world.bridge.ipv4.broadcast(), ..endpoint.clone() };
    world.host.inside(|| world.bridge.publish(&moved)).expect("no redirect was left");
    let refused = world.host.inside(|| world.bridge.publish(endpoint));
    let expected = rustix::io::Errno::EXIST;
    assert!(
        matches!(refused, Err(NetworkError::Firewall { source, .. }) if source == expected),
        "{refused:?}"
    );
}

#[test]
fn udp_clients_follow_the_port() {
    let port = PortMapping { protocol: Protocol::Udp, ..mapping("0.0.0.0", 5353) };
    let Some(mut world) = World::new(&[&[port]]) else { return };
    let echo = |namespace: &Namespace, answer: u8| {
        let socket = namespace.inside(|| UdpSocket::bind("0.0.0.0:80")).expect("binds");
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                drop(socket.send_to(&[answer], peer));
            }
        });
    };
    echo(&world.containers[0].0, b'a');
    let client = world.outside.inside(|| UdpSocket::bind((OUTSIDE, 4000))).expect("binds");
    client.set_read_timeout(Some(PATIENCE)).expect("set");
    let ask = || {
        let mut buffer = [0];
        client.send_to(b"?", (HOST, 5353)).expect("sent");
        client.recv(&mut buffer).map(|_| buffer[0]).ok()
    };
    assert_eq!(ask(), Some(b'a'));
    // The port moves to another container; the client keeps its source port, so that its flow is
    // still tracked.
    world.host.inside(|| world.bridge.unpublish(&world.containers[0].1)).expect("withdrawn");
    world.add(&[port]).expect("published again");
    echo(&world.containers[1].0, b'b');
    assert_eq!(ask(), Some(b'b'));
}

#[test]
fn pools_avoid_the_machines_routes() {
    let Some(namespace) = Namespace::new() else { return };
    if need_tool("ip").is_none() {
        return;
    }
    let choose_beside = |others: &[&str]| {
        let others: Vec<_> = others.iter().map(|text| text.parse().expect("a subnet")).collect();
        namespace.inside(|| choose_pool(None, &others)).map(|pool| pool.to_string()).ok()
    };
    let choose = || choose_beside(&[]);
    assert_eq!(choose().as_deref(), Some("172.17.0.0/16"));
    namespace.run("ip route add 172.17.4.0/24 dev lo");
    namespace.run("ip route add 172.18.0.0/15 dev lo");
    assert_eq!(choose().as_deref(), Some("172.20.0.0/16"));
    assert_eq!(choose_beside(&["172.20.9.0/24"]).as_deref(), Some("172.21.0.0/16"));
    let rival = |ipv4: &str| {
        let ipv4 = ipv4.parse().expect("a subnet");
        namespace.inside(|| Bridge::new(Bridge::names(None), ipv4, None).rival())
    };
    namespace.run("ip route add blackhole 172.22.3.0/24");
    namespace.run("ip route add blackhole 172.24.0.0/13");
    for (subnet, expected) in [
        ("172.17.0.0/16", Some("interface lo")),
        ("172.20.0.0/16", None),
        ("172.26.0.0/16", None),
        ("172.22.0.0/16", Some("the route to 172.22.3.0/24")),
    ] {
        assert_eq!(rival(subnet).expect("an answer").as_deref(), expected, "{subnet}");
    }
}

#[test]
fn networks_of_a_root_are_apart() {
    let Some(mut world) = World::new(&[&everywhere(8080)]) else { return };
    let mut other = world.beside("10.200.0.0/24");
    other.gateway = "10.200.0.254".parse().expect("an address");
    other.mtu = Some(1400);
    assert!(!world.host.inside(|| other.is_guarded()).expect("an answer"));
    world.host.inside(|| raise(&[&world.bridge, &other])).expect("both");
    for network in [&world.bridge, &other] {
        assert!(world.host.inside(|| network.is_guarded()).expect("an answer"));
    }
    world.add_to(&other, &[]).expect("a container");
    world.add_to(&other, &everywhere(8081)).expect("another");
    (0..3).for_each(|index| world.serve(index));
    let at = |index: usize| world.containers[index].1.ipv4;
    let cases: [(&str, usize, Ipv4Addr, u16, Option<u8>); 6] = [
        ("within the second network", 1, at(2), 80, Some(b'2')),
        ("from the first to the second", 0, at(1), 80, None),
        ("from the second to the first", 1, at(0), 80, None),
        ("a published port of the other network", 1, HOST, 8080, Some(b'0')),
        ("the other way round", 0, HOST, 8081, Some(b'2')),
        ("by the own gateway", 1, other.gateway, 8080, Some(b'0')),
    ];
    for (name, from, address, port, expected) in cases {
        answers(&world.containers[from].0, (address, port), expected, name);
    }
    let listener = world.outside.inside(|| TcpListener::bind((OUTSIDE, 80))).expect("listens");
    let stream = world.containers[1].0.inside(|| TcpStream::connect((OUTSIDE, 80)));
    assert_eq!(listener.accept().expect("a client").1.ip(), IpAddr::from(HOST));
    drop(stream);
    let link = world.containers[1].0.run("ip -o link show dev eth0");
    assert!(link.contains("mtu 1400"), "{link}");
    // The first stays as it was when the second goes.
    world.host.inside(|| other.remove().and_then(|()| other.remove())).expect("removed");
    answers(&world.outside, (HOST, 8080), Some(b'0'), "the first network");
    assert!(world.host.inside(|| world.bridge.is_guarded()).expect("an answer"));
    let names = world.host.inside(|| Bridge::names_of_root(ROOT)).expect("an answer");
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn what_a_crash_left_in_the_table_goes_with_the_next_writing() {
    let Some(world) = World::new(&[]) else { return };
    let lost = world.beside("10.200.0.0/24");
    world.host.inside(|| raise(&[&world.bridge, &lost])).expect("both");
    let names = world.host.inside(|| Bridge::names_of_root(ROOT)).expect("an answer");
    assert_eq!(names, std::slice::from_ref(&lost.name));
    world.host.inside(|| Bridge::remove_interface(&lost.name)).expect("removed");
    // Overlaps what the table still has of the lost one.
    let mut next = world.beside("10.200.0.0/16");
    next.name = Bridge::name_of(ROOT, "00ff00");
    world.host.inside(|| raise(&[&world.bridge, &next])).expect("written");
    assert!(!world.host.inside(|| lost.is_guarded()).expect("an answer"));
}

#[test]
fn an_internal_network_has_no_way_out_or_in() {
    let Some(mut world) = World::new(&[&everywhere(8080)]) else { return };
    let mut internal = world.beside("10.200.0.0/24");
    internal.reach = davit_network::Reach::Internal;
    world.host.inside(|| raise(&[&world.bridge, &internal])).expect("both");
    world.add_to(&internal, &[]).expect("a container");
    world.add_to(&internal, &[]).expect("another");
    (0..3).for_each(|index| world.serve(index));
    let _outside = world.outside.inside(|| TcpListener::bind((OUTSIDE, 80))).expect("listens");
    let inside = &world.containers[1].0;
    assert_eq!(inside.run("ip route show default"), "");
    // As a container with NET_ADMIN would try.
    inside.run(&format!("ip route add default via {}", internal.gateway));
    for (address, port) in [(OUTSIDE, 80), (internal.gateway, 8080), (HOST, 8080)] {
        answers(inside, (address, port), None, "a way out");
    }
    let neighbour = world.containers[2].1.ipv4;
    answers(inside, (neighbour, 80), Some(b'2'), "its neighbour");
    answers(&world.host, (neighbour, 80), Some(b'2'), "the machine itself is in it");
    answers(&world.containers[0].0, (neighbour, 80), None, "from another network");
}

/// What has ended a moment ago still has its pair: the kernel takes its time.
#[test]
fn a_bridge_goes_with_its_pairs_and_nothing_else() {
    let Some(world) = World::new(&[&[], &everywhere(8080)]) else { return };
    let bridge = &world.bridge;
    world.host.run("ip link add mine type veth peer name other");
    world.host.run(&format!("ip link set mine master {}", bridge.name));
    let remove_twice = || bridge.remove().and_then(|()| bridge.remove());
    world.host.inside(remove_twice).expect("removed");
    let devices = world.host.inside(|| fs_err::read_to_string("/proc/thread-self/net/dev"));
    let devices = devices.expect("the devices");
    let names = devices.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
    assert_eq!(names.collect::<BTreeSet<_>>(), ["lo", "mine", "other", "wan"].into());
}
