//! Containers of a network find one another by their names.

use davit_test::until;

use crate::machine::Machine;

/// The page that a container of a network gets from a server by its name.
fn page(machine: &Machine, network: &str, name: &str) -> Option<String> {
    let url = format!("http://{name}/hostname");
    let ask = ["--network", network, "busybox", "wget", "-qO-", "-T", "60", &url];
    let outcome = machine.run(&[&["run", "--rm"], &ask[..]].concat());
    (outcome.code == 0).then(|| outcome.stdout.trim().to_owned())
}

fn serve(machine: &Machine, options: &[&str]) -> String {
    let server = ["busybox", "httpd", "-f", "-p", "80", "-h", "/etc"];
    machine.ok(&[&["run", "-d"], options, &server].concat())
}

#[test]
fn containers_find_one_another_by_name() {
    let Some(machine) = Machine::new() else { return };
    let before = machine.settled();
    for name in ["one", "two"] {
        machine.ok(&["network", "create", "--ipv6", name]);
    }
    let names = ["--name", "web", "--network-alias", "app", "--network-alias", "www"];
    let id = serve(&machine, &[&["--network", "one"], &names[..]].concat());
    until("the server answers", || page(&machine, "one", "web").is_some());
    let short = id[..12].to_owned();
    for name in ["web", "WEB", &short, "app", "www", "web.one"] {
        assert_eq!(page(&machine, "one", name).as_deref(), Some(&*short), "{name}");
    }
    for (network, name) in [("two", "web"), ("bridge", "web"), ("one", "nobody")] {
        assert_eq!(page(&machine, network, name), None, "{name} in {network}");
    }
    let look = |name: &str| {
        let look = ["run", "--rm", "--network", "one", "busybox", "nslookup", name];
        machine.run(&look).stdout
    };
    let found = look("web");
    assert!(found.contains("Server:\t\t127.0.0.11"), "{found}");
    assert!(found.matches("Address: ").count() == 2 && found.contains("Address: fd"), "{found}");
    let resolv = ["run", "--rm", "--network", "one", "busybox", "cat", "/etc/resolv.conf"];
    assert!(machine.ok(&resolv).starts_with("nameserver 127.0.0.11\n"));
    let names = ["inspect", "-f", "{{json .NetworkSettings.Networks.one.DNSNames}}", "web"];
    assert_eq!(machine.ok(&names), format!("[\"web\",\"app\",\"www\",\"{short}\"]"));
    machine.ok(&["rename", "web", "better"]);
    assert_eq!(page(&machine, "one", "better").as_deref(), Some(&*short));
    assert_eq!(page(&machine, "one", "web"), None);
    // Two of one alias, then the other alone.
    let other = serve(&machine, &["--network", "one", "--name", "other", "--network-alias", "app"]);
    assert_eq!(look("app").matches("Address: ").count(), 4);
    machine.ok(&["kill", "better"]);
    assert_eq!(look("app").matches("Address: ").count(), 2);
    until("the other answers", || page(&machine, "one", "app").as_deref() == Some(&other[..12]));
    assert_eq!(page(&machine, "one", "better"), None);
    let refused = machine.run(&["run", "--rm", "--network-alias", "a", "busybox", "true"]);
    assert_eq!(refused.code, 125, "{}", refused.stderr);
    assert!(refused.stderr.contains("only supported for user-defined"), "{}", refused.stderr);
    machine.ok(&["rm", "-f", "better", "other"]);
    machine.ok(&["network", "rm", "one", "two"]);
    machine.await_traces(&before);
}

#[test]
fn other_names_are_asked_for_where_the_container_says() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["network", "create", "open"]);
    machine.ok(&["network", "create", "--internal", "closed"]);
    // A name server of the machine that knows one answer.
    let (namespace, address) = (std::fs::File::open(machine.namespace()).unwrap(), "127.0.0.1:53");
    let (sender, bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        let inside = std::os::fd::AsFd::as_fd(&namespace);
        move_into_link_name_space(inside, Some(LinkNameSpaceType::Network)).unwrap();
        let server = std::net::UdpSocket::bind(address).unwrap();
        sender.send(()).unwrap();
        let mut buffer = [0; 512];
        while let Ok((length, client)) = server.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            (answer[2], answer[3]) = (0x81, 0x80);
            if answer[length - 3] == 1 {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 192, 0, 2, 77]);
            }
            drop(server.send_to(&answer, client));
        }
    });
    bound.recv().unwrap();
    let look = |network: &str| {
        let options = ["run", "--rm", "--network", network, "--dns", "127.0.0.1"];
        machine.run(&[&options[..], &["busybox", "nslookup", "example.org"]].concat()).stdout
    };
    assert!(look("open").contains("Address: 192.0.2.77"), "{}", look("open"));
    assert!(!look("closed").contains("192.0.2.77"), "a question is a way out");
}
