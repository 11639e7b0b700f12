//! The addresses of a root's network are nobody else's.

use std::process::{Child, Stdio};

use davit_test::{Outcome, until};

use crate::machine::Machine;

fn subnet(machine: &Machine) -> String {
    let format = "{{(index .IPAM.Config 0).Subnet}}";
    machine.ok(&["network", "inspect", "-f", format, "bridge"])
}

/// Starts a server of its own id; several may be starting at once.
fn serve(machine: &Machine) -> Child {
    let server = ["busybox", "httpd", "-f", "-p", "80", "-h", "/etc"];
    let mut command =
        machine.command(&[&["run", "-d", "-p", "127.0.0.1::80"], &server[..]].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("davit starts")
}

/// Each answers under its published port, and has an address of the subnet.
fn await_servers(machine: &Machine, servers: Vec<Child>) {
    for server in servers {
        let outcome = Outcome::from(server.wait_with_output().expect("davit ends"));
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let id = outcome.stdout.trim();
        let address = machine.ok(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", id]);
        assert!(address.split('.').take(2).eq(subnet(machine).split('.').take(2)), "{address}");
        let url = format!("http://{}/hostname", machine.ok(&["port", id, "80"]));
        let ask = ["run", "--rm", "--network", "host", "busybox", "wget", "-qO-", "-T", "2", &url];
        until("the server answers", || machine.run(&ask).stdout.trim() == &id[..12]);
    }
}

fn bridge(machine: &Machine) -> String {
    let format = "{{index .Options \"com.docker.network.bridge.name\"}}";
    machine.ok(&["network", "inspect", "-f", format, "bridge"])
}

#[test]
fn two_roots_that_begin_at_once_get_pools_of_their_own() {
    let Some(one) = Machine::new() else { return };
    let Some(other) = one.beside() else { return };
    // All but 172.30.0.0/16.
    let taken = ["172.16.0.0/13", "172.24.0.0/14", "172.28.0.0/15", "172.31.0.0/16"];
    for subnet in [&taken[..], &["192.168.0.0/16"]].concat() {
        one.tool(&format!("ip route add blackhole {subnet}"));
    }
    assert_eq!((&*subnet(&one), &*subnet(&other)), ("172.30.0.0/16", "172.30.0.0/16"));
    one.tool("ip route del blackhole 172.31.0.0/16");
    let servers = [serve(&one), serve(&other)];
    for (machine, server) in [&one, &other].into_iter().zip(servers) {
        await_servers(machine, vec![server]);
    }
    let mut subnets = [subnet(&one), subnet(&other)];
    subnets.sort();
    assert_eq!(subnets, ["172.30.0.0/16", "172.31.0.0/16"]);
}

#[test]
fn a_network_whose_addresses_were_taken_gets_others() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["run", "--rm", "busybox", "true"]);
    // As after a boot; the firewall table, which knows the addresses, is left on top.
    let take = || {
        let former = subnet(&machine);
        machine.tool(&format!("ip link del {}", bridge(&machine)));
        machine.tool(&format!("ip addr add {} dev thief", former.replace(".0/", ".1/")));
        former
    };
    machine.tool("ip link add thief type bridge");
    machine.tool("ip link set thief up");
    let former = take();
    await_servers(&machine, (0..4).map(|_| serve(&machine)).collect());
    assert_ne!(subnet(&machine), former);
    take();
    let refused = machine.run(&["run", "--rm", "busybox", "true"]);
    assert_eq!(refused.code, 125, "{}", refused.stderr);
    for word in ["those of interface thief by now", "hint: davit stop "] {
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
    for id in machine.ok(&["ps", "-q"]).lines() {
        machine.ok(&["rm", "-f", id]);
    }
    await_servers(&machine, vec![serve(&machine)]);
}
