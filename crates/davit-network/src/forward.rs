//! Forwarding: kernel settings, and the rules of other firewalls that would drop it.

use std::{io, process::Command};

use crate::{
    Bridge, NetworkError,
    netlink::{self, Socket},
    nft::{
        ACCEPT, CHAIN_POLICY, Compare, Family, GET_RULE, Meta, R0, RULE_CHAIN, RULE_EXPRESSIONS,
        RULE_HANDLE, Rule, Transaction, Verdict, get_chain, header, interface,
    },
};

const FORWARD4: &str = "/proc/sys/net/ipv4/ip_forward";
const FORWARD6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
const SETTINGS6: &str = "/proc/sys/net/ipv6/conf";

/// Whether forwarding is on and no other firewall drops it by default.
pub(crate) fn enabled(bridge: &Bridge) -> bool {
    let on = |path: &str| fs_err::read(path).is_ok_and(|text| text.first() == Some(&b'1'));
    on(FORWARD4) && (bridge.ipv6.is_none() || on(FORWARD6)) && blocked_families(bridge).is_empty()
}

/// Whether `br_netfilter` hands bridged packets to the firewall.
pub(crate) fn bridged_packets_are_filtered() -> bool {
    let file = fs_err::read("/proc/sys/net/bridge/bridge-nf-call-iptables");
    file.is_ok_and(|text| text.first() == Some(&b'1'))
}

/// Turns forwarding on and gets the bridge past other firewalls.
pub(crate) fn enable(bridge: &Bridge) -> Result<(), NetworkError> {
    write(FORWARD4, "1")?;
    if bridge.ipv6.is_some() {
        keep_router_advertisements()?;
        write(FORWARD6, "1")?;
    }
    for family in blocked_families(bridge) {
        let (table, chain) = ("filter", admin_chain(family));
        let mut transaction = Transaction::new(family, table);
        for key in [Meta::InName, Meta::OutName] {
            // Exactly what `iptables -I CHAIN -i BRIDGE -j ACCEPT` makes, so that it lists the rule.
            let name =
                Rule::default().meta(key, R0).compare(R0, Compare::Is, &interface(&bridge.name));
            transaction.first_rule(chain, &name.counter().verdict(Verdict::Accept));
        }
        let sent = Socket::netfilter()?.transact(&transaction.finish());
        sent.map_err(|refusal| {
            refusal.or(|source| NetworkError::Firewall {
                action: "open",
                table: table.to_owned(),
                source,
            })
        })?;
    }
    legacy(&bridge.name, "-I");
    Ok(())
}

/// Takes the rules back that [`enable`] put into other firewalls.
pub(crate) fn withdraw(bridge: &str) {
    for family in [Family::Ipv4, Family::Ipv6] {
        for chain in ["DOCKER-USER", "FORWARD"] {
            let Ok(socket) = Socket::netfilter() else { return };
            let mut transaction = Transaction::new(family, "filter");
            let handles = our_rules(&socket, family, chain, bridge);
            if handles.is_empty() {
                continue;
            }
            for handle in handles {
                transaction.delete_rule(chain, &handle);
            }
            if let Err(refusal) = socket.transact(&transaction.finish()) {
                tracing::warn!(?refusal, chain, "cannot withdraw rules from another firewall");
            }
        }
    }
    legacy(bridge, "-D");
}

/// Settings of a bridge that is about to go up.
pub(crate) fn prepare_bridge(bridge: &Bridge) -> Result<(), NetworkError> {
    let name = &bridge.name;
    // Publishing on 127.0.0.1 sends packets with that destination rewritten over the bridge.
    write(&format!("/proc/sys/net/ipv4/conf/{name}/route_localnet"), "1")?;
    let setting = |key: &str| format!("{SETTINGS6}/{name}/{key}");
    match bridge.ipv6 {
        // Containers must not be able to configure the host (CVE-2020-13401).
        Some(_) => write(&setting("accept_ra"), "0"),
        None if exists(SETTINGS6) => write(&setting("disable_ipv6"), "1"),
        None => Ok(()),
    }
}

/// Settings inside a new container's namespace, before its interface exists.
pub(crate) fn prepare_container(ipv6: bool) -> Result<(), NetworkError> {
    let setting = |key: &str| format!("{SETTINGS6}/default/{key}");
    if ipv6 {
        write(&setting("accept_ra"), "0")?;
        // A link-local address is usable at once instead of after a second of probing.
        write(&setting("accept_dad"), "0")
    } else if exists(SETTINGS6) {
        write(&setting("disable_ipv6"), "1")
    } else {
        Ok(())
    }
}

/// A forwarding host ignores router advertisements unless told so: interfaces that live by them
/// would lose their default route.
fn keep_router_advertisements() -> Result<(), NetworkError> {
    for entry in fs_err::read_dir(SETTINGS6).map_err(NetworkError::Setting)? {
        let path = entry.map_err(NetworkError::Setting)?.path();
        let (advertised, forwarding) = (path.join("accept_ra"), path.join("forwarding"));
        let is = |path: &std::path::Path, byte| {
            fs_err::read(path).is_ok_and(|text| text.first() == Some(&byte))
        };
        if is(&advertised, b'1') && is(&forwarding, b'0') {
            write(&advertised.to_string_lossy(), "2")?;
        }
    }
    Ok(())
}

/// Families whose iptables (nft variant) drops forwarded packets by policy and lacks our rules.
fn blocked_families(bridge: &Bridge) -> Vec<Family> {
    const DROP: [u8; 4] = [0; 4];
    let Ok(socket) = Socket::netfilter() else { return Vec::new() };
    let drops = |family: &Family| {
        let policy =
            |body: &[u8]| netlink::attribute(body.get(4..)?, CHAIN_POLICY).map(<[u8]>::to_vec);
        let answer = socket.get(&get_chain(*family, "filter", "FORWARD"), policy);
        answer.is_ok_and(|policy| policy.as_deref() == Some(&DROP))
    };
    let families = [Family::Ipv4, Family::Ipv6];
    families
        .into_iter()
        .filter(|family| *family == Family::Ipv4 || bridge.ipv6.is_some())
        .filter(drops)
        .filter(|family| {
            our_rules(&socket, *family, admin_chain_in(&socket, *family), &bridge.name).is_empty()
        })
        .collect()
}

fn admin_chain(family: Family) -> &'static str {
    Socket::netfilter().map_or("FORWARD", |socket| admin_chain_in(&socket, family))
}

/// Docker's chain for the administrator outlives its own rewrites of `FORWARD`.
fn admin_chain_in(socket: &Socket, family: Family) -> &'static str {
    let found = socket.get(&get_chain(family, "filter", "DOCKER-USER"), |_| Some(()));
    if found.is_ok_and(|found| found.is_some()) { "DOCKER-USER" } else { "FORWARD" }
}

/// Handles of the rules in a chain of iptables' table that [`enable`] has put there.
fn our_rules(socket: &Socket, family: Family, chain: &str, bridge: &str) -> Vec<Vec<u8>> {
    let name = interface(bridge);
    let mut handles = Vec::new();
    let question = |attributes: &mut netlink::Attributes<'_>| {
        attributes.text(1, "filter").text(2, chain);
    };
    let dump = socket.dump(GET_RULE, &header(family), question, |rule| {
        let attribute = |kind| rule.get(4..).and_then(|rest| netlink::attribute(rest, kind));
        let found = attribute(RULE_CHAIN).and_then(|found| found.strip_suffix(&[0]));
        let ours = || attribute(RULE_EXPRESSIONS).is_some_and(|list| accepts(list, &name));
        if found == Some(chain.as_bytes()) && ours() {
            handles.extend(attribute(RULE_HANDLE).map(<[u8]>::to_vec));
        }
    });
    if dump.is_err() { Vec::new() } else { handles }
}

/// Whether a rule accepts everything from or to an interface, and does nothing else: others that
/// name it are the administrator's.
fn accepts(expressions: &[u8], interface: &[u8; 16]) -> bool {
    let parts: Vec<_> = netlink::attributes(expressions)
        .filter_map(|(_, part)| Some((netlink::attribute(part, 1)?, netlink::attribute(part, 2)?)))
        .collect();
    let [(b"meta\0", meta), (b"cmp\0", compare), (b"counter\0", _), (b"immediate\0", last)] =
        parts[..]
    else {
        return false;
    };
    let is = |value: Option<&[u8]>, number: u32| value == Some(&number.to_be_bytes()[..]);
    let within = |data, outer, inner| {
        netlink::attribute(data, outer).and_then(|value| netlink::attribute(value, inner))
    };
    let verdict = within(last, 2, 2).and_then(|verdict| netlink::attribute(verdict, 1));
    let key = netlink::attribute(meta, 2);
    [Meta::InName, Meta::OutName].into_iter().any(|meta| is(key, meta as u32))
        && is(netlink::attribute(compare, 2), Compare::Is as u32)
        && within(compare, 3, 1) == Some(interface)
        && is(verdict, ACCEPT)
}

/// The old iptables has no netlink interface: where its table is loaded and drops forwarded packets,
/// its own program is asked, once per bridge.
fn legacy(bridge: &str, action: &str) {
    let loaded = |path: &str| {
        fs_err::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == "filter"))
    };
    let programs = [
        ("/proc/net/ip_tables_names", "/usr/sbin/iptables-legacy"),
        ("/proc/net/ip6_tables_names", "/usr/sbin/ip6tables-legacy"),
    ];
    for (_, program) in programs.into_iter().filter(|(names, _)| loaded(names)) {
        let ask = |arguments: &[&str]| Command::new(program).arg("-w").args(arguments).output();
        let policy = ask(&["-S", "FORWARD"]).map(|output| output.stdout).unwrap_or_default();
        if action == "-I" && !policy.starts_with(b"-P FORWARD DROP") {
            continue;
        }
        for direction in ["-i", "-o"] {
            let rule = ["FORWARD", direction, bridge, "-j", "ACCEPT"];
            let run = |action: &str| Command::new(program).args(["-w", action]).args(rule).output();
            let present = run("-C").is_ok_and(|output| output.status.success());
            if present == (action == "-I") {
                continue;
            }
            if let Err(error) = run(action) {
                tracing::warn!(program, %error, "cannot change the rules of iptables-legacy");
            }
        }
    }
}

fn exists(path: &str) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXISTS).is_ok()
}

fn write(path: &str, value: &str) -> Result<(), NetworkError> {
    // Not `fs_err::write`: a setting is opened without truncation, in one write.
    let result = fs_err::OpenOptions::new().write(true).open(path);
    result
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
        .map_err(NetworkError::Setting)
}
