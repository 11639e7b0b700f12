//! The one firewall table of a root: static chains, and maps whose elements are the published ports.
//!
//! ```text
//! table inet davit {
//!   set bridges   { ifname }                    our bridges
//!   set same      { ifname . ifname }           traffic within one bridge
//!   set internal  { ifname }                    bridges without a way in or out
//!   set nets4/6   { address, interval }         our subnets
//!   map ports4/6  { proto . port            : address . port }   published on every address
//!   map local4/6  { address . proto . port  : address . port }   published on one address
//!   chain admin         for the machine's administrator; davit never writes it
//!   chain raw           prerouting -300   nobody outside reaches container addresses directly,
//!                                         no container reaches the host's 127.0.0.0/8
//!   chain dstnat        prerouting -100   \ destination of this machine -> publish
//!   chain output        output -100       /
//!   chain publish       redirects by the maps
//!   chain srcnat        postrouting 100   masquerade of what leaves, of loopback, of hairpins
//!   chain forward       forward 0         admin, then isolation
//!   chain rules-2       empty; its name is the version of these rules
//! }
//! ```

use std::net::IpAddr;

use rustix::io::Errno;

use crate::{
    Bridge, Endpoint, NetworkError, PortMapping, Reach,
    address::octets,
    conntrack,
    netlink::{Refusal, Socket},
    nft::{
        Compare, Element, Family, Hook, Meta, R0, R1, R2, R4, R5, Rule, Set, Transaction, Verdict,
        get_chain, get_element, interface,
    },
};

/// Changes whenever the rules below do; an older table is then rewritten in place.
const VERSION: &str = "rules-2";

const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// Type numbers of nft's user interface, so that `nft list table` reads well.
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_PORT: u32 = 13;
const TYPE_NAME: u32 = 41;

const fn concatenated(types: &[u32]) -> u32 {
    let mut all = 0;
    let mut n = 0;
    while n < types.len() {
        all = (all << 6) | types[n];
        n += 1;
    }
    all
}

const SETS: [Set; 9] = [
    Set { name: "bridges", key: (TYPE_NAME, 16), value: None, interval: false },
    Set { name: "internal", key: (TYPE_NAME, 16), value: None, interval: false },
    Set {
        name: "same",
        key: (concatenated(&[TYPE_NAME, TYPE_NAME]), 32),
        value: None,
        interval: false,
    },
    Set { name: "nets4", key: (TYPE_IPV4, 4), value: None, interval: true },
    Set { name: "nets6", key: (TYPE_IPV6, 16), value: None, interval: true },
    Set {
        name: "ports4",
        key: (concatenated(&[TYPE_PROTOCOL, TYPE_PORT]), 8),
        value: Some((concatenated(&[TYPE_IPV4, TYPE_PORT]), 8)),
        interval: false,
    },
    Set {
        name: "ports6",
        key: (concatenated(&[TYPE_PROTOCOL, TYPE_PORT]), 8),
        value: Some((concatenated(&[TYPE_IPV6, TYPE_PORT]), 20)),
        interval: false,
    },
    Set {
        name: "local4",
        key: (concatenated(&[TYPE_IPV4, TYPE_PROTOCOL, TYPE_PORT]), 12),
        value: Some((concatenated(&[TYPE_IPV4, TYPE_PORT]), 8)),
        interval: false,
    },
    Set {
        name: "local6",
        key: (concatenated(&[TYPE_IPV6, TYPE_PROTOCOL, TYPE_PORT]), 24),
        value: Some((concatenated(&[TYPE_IPV6, TYPE_PORT]), 20)),
        interval: false,
    },
];

/// Those that tell of networks; the others tell of published ports.
const NETWORK_SETS: [&str; 5] = ["bridges", "same", "internal", "nets4", "nets6"];

const FILTER: &str = "filter";
const NAT: &str = "nat";

const CHAINS: [(&str, Option<Hook>); 7] = [
    ("raw", Some(Hook { kind: FILTER, hook: 0, priority: -300 })),
    ("publish", None),
    ("dstnat", Some(Hook { kind: NAT, hook: 0, priority: -100 })),
    ("output", Some(Hook { kind: NAT, hook: 3, priority: -100 })),
    ("srcnat", Some(Hook { kind: NAT, hook: 4, priority: 100 })),
    ("forward", Some(Hook { kind: FILTER, hook: 2, priority: 0 })),
    (VERSION, None),
];

/// Whether the table is there in this version and has the bridge.
pub(crate) fn knows(bridge: &Bridge) -> Result<bool, NetworkError> {
    let socket = Socket::netfilter()?;
    let own =
        Element { set: "bridges", key: interface(&bridge.name).to_vec(), value: None, end: false };
    let version = get_chain(Family::Inet, &bridge.table, VERSION);
    for question in [version, get_element(Family::Inet, &bridge.table, &own)] {
        let found = socket.get(&question, |_| Some(()));
        if found.map_err(|refusal| refusal.or(context("read", &bridge.table)))?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the table, or what is missing of it, with these networks and no others.
pub(crate) fn write(table: &str, networks: &[Bridge]) -> Result<(), NetworkError> {
    let mut transaction = Transaction::new(Family::Inet, table);
    transaction.table();
    transaction.chain("admin", None);
    for (name, hook) in CHAINS {
        transaction.chain(name, hook);
        transaction.flush(name);
    }
    for set in &SETS {
        transaction.set(set);
    }
    for set in NETWORK_SETS {
        transaction.empty(set);
    }
    let elements: Vec<_> = networks.iter().flat_map(network_elements).collect();
    transaction.add(&elements);
    for (chain, rule) in rules() {
        transaction.rule(chain, &rule);
    }
    let sent = Socket::netfilter()?.transact(&transaction.finish());
    sent.map_err(|refusal| refusal.or(context("write", table)))
}

/// Removes the table; a missing one is no error.
pub(crate) fn remove(table: &str) -> Result<(), NetworkError> {
    let mut transaction = Transaction::new(Family::Inet, table);
    transaction.delete_table();
    match Socket::netfilter()?.transact(&transaction.finish()) {
        Err(refusal) if !refusal.is(Errno::NOENT) => Err(refusal.or(context("remove", table))),
        _ => Ok(()),
    }
}

/// Removes what the table knows of a network; a missing table is no error.
pub(crate) fn forget(bridge: &Bridge) -> Result<(), NetworkError> {
    withdraw(bridge, &network_elements(bridge))
}

/// Adds the elements of an endpoint's ports: all of them, or none and an error.
pub(crate) fn publish(bridge: &Bridge, endpoint: &Endpoint) -> Result<(), NetworkError> {
    if endpoint.ports.is_empty() {
        return Ok(());
    }
    let socket = Socket::netfilter()?;
    let elements: Vec<_> = port_elements(endpoint).collect();
    let mut transaction = Transaction::new(Family::Inet, &bridge.table);
    transaction.add(&elements);
    let sent = socket.transact(&transaction.finish());
    sent.map_err(|refusal| {
        // A refusal leaves nothing, and the elements in the way may be another endpoint's. Without
        // the kernel's answer the transaction may have been done.
        if matches!(refusal, Refusal::Network(_))
            && let Err(error) = withdraw(bridge, &elements)
        {
            tracing::warn!(%error, "cannot withdraw published ports");
        }
        refusal.or(context("publish ports in", &bridge.table))
    })?;
    conntrack::forget(&socket, &endpoint.ports)
}

/// Removes the elements of an endpoint's ports.
pub(crate) fn unpublish(bridge: &Bridge, endpoint: &Endpoint) -> Result<(), NetworkError> {
    if endpoint.ports.is_empty() {
        return Ok(());
    }
    let elements: Vec<_> = port_elements(endpoint).collect();
    withdraw(bridge, &elements)?;
    conntrack::forget(&Socket::netfilter()?, &endpoint.ports)
}

/// Removes elements; missing ones are no error.
fn withdraw(bridge: &Bridge, elements: &[Element]) -> Result<(), NetworkError> {
    let socket = Socket::netfilter()?;
    let delete = |elements: &[Element]| {
        let mut transaction = Transaction::new(Family::Inet, &bridge.table);
        transaction.delete(elements);
        socket.transact(&transaction.finish())
    };
    let result = match delete(elements) {
        // One transaction each: a missing element undoes the removal of the others.
        Err(refusal) if refusal.is(Errno::NOENT) => elements
            .iter()
            .map(|element| delete(std::slice::from_ref(element)))
            .find(|result| matches!(result, Err(refusal) if !refusal.is(Errno::NOENT)))
            .unwrap_or(Ok(())),
        result => result,
    };
    result.map_err(|refusal| refusal.or(context("withdraw elements from", &bridge.table)))
}

fn context(action: &'static str, table: &str) -> impl FnOnce(Errno) -> NetworkError {
    let table = table.to_owned();
    move |source| NetworkError::Firewall { action, table, source }
}

/// What the sets hold for one bridge.
fn network_elements(bridge: &Bridge) -> Vec<Element> {
    let name = interface(&bridge.name);
    let element = |set, key| Element { set, key, value: None, end: false };
    let end = |set, key| Element { set, key, value: None, end: true };
    let after4 = u32::from(bridge.ipv4.broadcast()).wrapping_add(1);
    let mut elements = vec![
        element("bridges", name.to_vec()),
        element("same", [name, name].concat()),
        element("nets4", bridge.ipv4.network().octets().to_vec()),
        end("nets4", after4.to_be_bytes().to_vec()),
    ];
    if bridge.reach == Reach::Internal {
        elements.push(element("internal", name.to_vec()));
    }
    if let Some(ipv6) = bridge.ipv6 {
        let size = 1_u128 << (128 - u32::from(ipv6.prefix()));
        let after6 = u128::from(ipv6.network()).wrapping_add(size);
        elements.push(element("nets6", ipv6.network().octets().to_vec()));
        elements.push(end("nets6", after6.to_be_bytes().to_vec()));
    }
    elements
}

/// Adds to a transaction on a table of its own what lets programs of the namespace reach ports of
/// their own machine's address under other ones.
pub(crate) fn redirect_own(transaction: &mut Transaction<'_>, own: IpAddr, ports: &[PortMapping]) {
    transaction.table();
    for (name, hook) in CHAINS.into_iter().filter(|(name, _)| *name == "output") {
        transaction.chain(name, hook);
    }
    for set in SETS.iter().filter(|set| set.name == "local4") {
        transaction.set(set);
    }
    let elements: Vec<_> = ports.iter().map(|port| port_element(Some(own), own, *port)).collect();
    transaction.add(&elements);
    transaction.rule("output", &local4_rule());
}

/// Map elements of all published ports.
fn port_elements(endpoint: &Endpoint) -> impl Iterator<Item = Element> + '_ {
    endpoint.mappings().map(|(host, container, port)| port_element(host, container, port))
}

fn port_element(host: Option<IpAddr>, container: IpAddr, port: PortMapping) -> Element {
    let set = match (host.is_some(), container.is_ipv4()) {
        (false, true) => "ports4",
        (false, false) => "ports6",
        (true, true) => "local4",
        (true, false) => "local6",
    };
    let mut key = host.map(octets).unwrap_or_default();
    key.extend([port.protocol.number(), 0, 0, 0]);
    key.extend(port.host_port.to_be_bytes());
    key.extend([0, 0]);
    let mut value = octets(container);
    value.extend(port.container_port.to_be_bytes());
    value.extend([0, 0]);
    Element { set, key, value: Some(value), end: false }
}

fn rules() -> Vec<(&'static str, Rule)> {
    let mut rules = Vec::new();
    rules.extend(raw_rules().map(|rule| ("raw", rule)));
    for chain in ["dstnat", "output"] {
        let rule = Rule::default().destination_is_local().verdict(Verdict::Jump("publish"));
        rules.push((chain, rule));
    }
    rules.extend(publish_rules().map(|rule| ("publish", rule)));
    rules.extend(srcnat_rules().map(|rule| ("srcnat", rule)));
    rules.extend(forward_rules().map(|rule| ("forward", rule)));
    rules
}

fn family(family: u8) -> Rule {
    Rule::default().meta(Meta::Family, R0).compare(R0, Compare::Is, &[family])
}

fn source4(rule: Rule) -> Rule {
    rule.network(12, 4, R0)
}

fn destination4(rule: Rule) -> Rule {
    rule.network(16, 4, R0)
}

fn source6(rule: Rule) -> Rule {
    rule.network(8, 16, R0)
}

fn destination6(rule: Rule) -> Rule {
    rule.network(24, 16, R0)
}

fn from_loopback_addresses(rule: Rule) -> Rule {
    rule.mask(R0, &[255, 0, 0, 0]).compare(R0, Compare::Is, &[127, 0, 0, 0])
}

fn raw_rules() -> impl Iterator<Item = Rule> {
    let foreign = |rule: Rule| {
        rule.meta(Meta::InName, R0)
            .compare(R0, Compare::Not, &interface("lo"))
            .no_member("bridges", R0)
    };
    let loopback = family(IPV4).meta(Meta::InName, R0).member("bridges", R0);
    [
        // `route_localnet` on the bridge would otherwise open services bound to 127.0.0.1 to
        // containers that can write packets of their own (CVE-2020-8558).
        from_loopback_addresses(destination4(loopback)).counter().verdict(Verdict::Drop),
        destination4(foreign(family(IPV4))).member("nets4", R0).counter().verdict(Verdict::Drop),
        destination6(foreign(family(IPV6))).member("nets6", R0).counter().verdict(Verdict::Drop),
    ]
    .into_iter()
}

fn publish_rules() -> impl Iterator<Item = Rule> {
    let not_loopback6 = destination6(family(IPV6)).compare(
        R0,
        Compare::Not,
        &std::net::Ipv6Addr::LOCALHOST.octets(),
    );
    let port = |rule: Rule| rule.meta(Meta::Transport, R0).destination_port(R1);
    [
        local4_rule(),
        port(family(IPV4)).map("ports4", R0).redirect(Family::Ipv4, R0, R1),
        // The kernel does not route ::1 to another interface, so a redirect would only swallow
        // connections that are refused at once without it.
        destination6(not_loopback6)
            .meta(Meta::Transport, R4)
            .destination_port(R5)
            .map("local6", R0)
            .redirect(Family::Ipv6, R0, R4),
        port(destination6(family(IPV6)).compare(
            R0,
            Compare::Not,
            &std::net::Ipv6Addr::LOCALHOST.octets(),
        ))
        .map("ports6", R0)
        .redirect(Family::Ipv6, R0, R4),
    ]
    .into_iter()
}

fn local4_rule() -> Rule {
    destination4(family(IPV4))
        .meta(Meta::Transport, R1)
        .destination_port(R2)
        .map("local4", R0)
        .redirect(Family::Ipv4, R0, R1)
}

fn srcnat_rules() -> impl Iterator<Item = Rule> {
    let leaving = |rule: Rule| rule.meta(Meta::OutName, R0).no_member("bridges", R0);
    let entering = |rule: Rule| rule.meta(Meta::OutName, R0).member("bridges", R0);
    [
        // Loopback publishing: 127.0.0.1 cannot be the source of a packet on the bridge.
        from_loopback_addresses(source4(entering(family(IPV4)))).masquerade(),
        source4(leaving(family(IPV4))).member("nets4", R0).masquerade(),
        source6(leaving(family(IPV6))).member("nets6", R0).masquerade(),
        // Hairpin: a container that reaches a published port of its own network must get its
        // answer from the address it asked.
        source4(entering(family(IPV4)).redirected()).member("nets4", R0).masquerade(),
        source6(entering(family(IPV6)).redirected()).member("nets6", R0).masquerade(),
    ]
    .into_iter()
}

fn forward_rules() -> impl Iterator<Item = Rule> {
    const ESTABLISHED_OR_RELATED: u32 = 0b110;
    let from = || Rule::default().meta(Meta::InName, R0).member("bridges", R0);
    let to = |rule: Rule| rule.meta(Meta::OutName, R0).member("bridges", R0);
    let within = Rule::default().meta(Meta::InName, R0).meta(Meta::OutName, R4).member("same", R0);
    let closed = |meta| Rule::default().meta(meta, R0).member("internal", R0);
    [
        Rule::default().verdict(Verdict::Jump("admin")),
        Rule::default().connection_state(ESTABLISHED_OR_RELATED).verdict(Verdict::Accept),
        within.verdict(Verdict::Accept),
        closed(Meta::InName).counter().verdict(Verdict::Drop),
        closed(Meta::OutName).counter().verdict(Verdict::Drop),
        // What is published is so for everybody, containers of other networks among them.
        to(from()).redirected().verdict(Verdict::Accept),
        to(from()).counter().verdict(Verdict::Drop),
        from().verdict(Verdict::Accept),
        to(Rule::default()).redirected().verdict(Verdict::Accept),
        to(Rule::default()).counter().verdict(Verdict::Drop),
    ]
    .into_iter()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;
    use crate::{Mac, Protocol};

    #[test]
    fn elements_of_both_families() {
        let mapping = |host_address: IpAddr| PortMapping {
            host_address,
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        let endpoint = Endpoint {
            ipv4: Ipv4Addr::new(172, 17, 0, 2),
            ipv6: Some("fd00::2".parse().expect("an address")),
            mac: Mac::of_address(Ipv4Addr::new(172, 17, 0, 2)),
            veth: "veth0000001".to_owned(),
            ports: vec![
                mapping(Ipv4Addr::UNSPECIFIED.into()),
                mapping(Ipv6Addr::UNSPECIFIED.into()),
                mapping(Ipv4Addr::LOCALHOST.into()),
                mapping(Ipv6Addr::LOCALHOST.into()),
            ],
        };
        let elements: Vec<_> = port_elements(&endpoint).collect();
        let sets: Vec<_> = elements.iter().map(|element| element.set).collect();
        assert_eq!(sets, ["ports4", "ports6", "local4", "local6"]);
        assert_eq!(elements[0].key, [6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        assert_eq!(elements[0].value.as_deref(), Some(&[172, 17, 0, 2, 0, 80, 0, 0][..]));
        assert_eq!(elements[2].key, [127, 0, 0, 1, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        for element in &elements {
            let set = SETS.iter().find(|set| set.name == element.set).expect("a set of the table");
            assert_eq!(element.key.len(), set.key.1 as usize, "{}", element.set);
            let length = element.value.as_ref().map(Vec::len);
            assert_eq!(length, set.value.map(|value| value.1 as usize), "{}", element.set);
        }
    }
}
