//! The network of `RUN`: what a step reaches, what it does not, and what is left of it.

use std::{
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use davit_test::{Outcome, need_tool, until};

use crate::machine::Machine;

/// Another machine on a link to the first one.
struct Outside {
    holder: Child,
}

impl Outside {
    /// `192.0.2.2`; the first machine is `192.0.2.1` and has no other route.
    fn beside(machine: &Machine) -> Self {
        let holder = Command::new("unshare")
            .args(["--net", "--kill-child", "sh", "-c", "ip link set lo up; exec sleep 900"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let outside = Self { holder };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        until("the other machine is there", || {
            std::fs::read_link(outside.namespace()).is_ok_and(|link| link != own)
        });
        let pid = outside.holder.id();
        machine.tool(&format!("ip link add near type veth peer name far netns {pid}"));
        machine.tool("ip addr add 192.0.2.1/30 dev near");
        machine.tool("ip link set near up");
        for line in ["addr add 192.0.2.2/30 dev far", "link set far up"] {
            let namespace = format!("--net={}", outside.namespace().display());
            let mut command = Command::new("nsenter");
            command.arg(namespace).arg("ip").args(line.split(' '));
            assert!(command.status().unwrap().success());
        }
        outside
    }

    fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

/// Says `hello` to everyone who connects, inside a network namespace, as long as the test runs.
fn serve(namespace: &Path, address: &str) -> SocketAddr {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let (file, address) = (std::fs::File::open(namespace).unwrap(), address.to_owned());
    let (sender, bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let inside = std::os::fd::AsFd::as_fd(&file);
        move_into_link_name_space(inside, Some(LinkNameSpaceType::Network)).unwrap();
        let server = TcpListener::bind(address).unwrap();
        sender.send(server.local_addr().unwrap()).unwrap();
        for client in server.incoming() {
            // A client that has gone already needs no greeting.
            drop(client.and_then(|mut client| client.write_all(b"hello\n")));
        }
    });
    bound.recv().unwrap()
}

/// A context whose Dockerfile begins with busybox; gives its path.
fn context(machine: &Machine, steps: &str) -> String {
    let path = machine.davit().dir().join("context");
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("Dockerfile"), format!("FROM busybox\n{steps}")).unwrap();
    path.to_str().unwrap().to_owned()
}

fn build(machine: &Machine, steps: &str, options: &[&str]) -> Outcome {
    let context = context(machine, steps);
    let arguments = [&["build", "--progress", "plain"], options, &[&context]].concat();
    machine.run(&arguments)
}

#[test]
fn a_step_reaches_what_is_outside_and_not_the_hosts_loopback() {
    let Some(machine) = Machine::new() else { return };
    let before = machine.settled();
    let outside = Outside::beside(&machine);
    let far = serve(&outside.namespace(), "192.0.2.2:0");
    let near = serve(&machine.namespace(), "127.0.0.1:0");
    let steps = format!(
        "RUN nc -w 60 {} {} </dev/null >/far\n\
         RUN if nc -w 2 127.0.0.1 {} </dev/null; then echo the host is open; exit 1; fi\n\
         RUN ip -o addr show dev eth0 && ip route | grep default\n",
        far.ip(),
        far.port(),
        near.port()
    );
    let outcome = build(&machine, &steps, &["-t", "made"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("inet 172."), "{}", outcome.stderr);
    assert_eq!(machine.ok(&["run", "--rm", "made", "cat", "/far"]), "hello");
    // The host's network is the host's; without any there is no way out.
    let open = format!("RUN nc -w 60 127.0.0.1 {} </dev/null | grep hello\n", near.port());
    let host = build(&machine, &open, &["--network", "host"]);
    assert_eq!(host.code, 0, "{}", host.stderr);
    let none = format!(
        "RUN ! nc -w 2 {} {} </dev/null && ip -o link | wc -l | grep -x 1\n",
        far.ip(),
        far.port()
    );
    let none = build(&machine, &none, &["--network", "none"]);
    assert_eq!(none.code, 0, "{}", none.stderr);
    machine.await_traces(&before);
}

#[test]
fn steps_find_names_as_containers_do() {
    let Some(machine) = Machine::new() else { return };
    let steps = "RUN cat /etc/hosts\nRUN cat /etc/resolv.conf > /copy\n";
    let hosts = ["--add-host", "db:10.9.8.7,cache=10.9.8.6", "--add-host", "me=host-gateway"];
    let outcome = build(&machine, steps, &[&hosts[..], &["-t", "made"]].concat());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let bridge = machine.ok(&["network", "inspect", "bridge"]);
    let bridge: serde_json::Value = serde_json::from_str(&bridge).unwrap();
    let gateway = bridge[0]["IPAM"]["Config"][0]["Gateway"].as_str().unwrap();
    let me = format!("{gateway}\tme");
    for line in ["127.0.0.1\tlocalhost buildkitsandbox", "10.9.8.7\tdb", "10.9.8.6\tcache", &me] {
        assert!(outcome.stderr.contains(line), "{line}\n{}", outcome.stderr);
    }
    let container = machine.ok(&["run", "--rm", "busybox", "cat", "/etc/resolv.conf"]);
    assert_eq!(machine.ok(&["run", "--rm", "made", "cat", "/copy"]), container);
    // With the host's network it is the host's file.
    let own = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let outcome = build(&machine, steps, &["--network", "host", "-t", "made"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert_eq!(machine.ok(&["run", "--rm", "made", "cat", "/copy"]), own.trim_end_matches('\n'));
}

#[test]
fn addresses_are_the_networks_and_come_back_after_a_kill() {
    let Some(machine) = Machine::new() else { return };
    let before = machine.settled();
    let address = ["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}"];
    let held = machine.ok(&["run", "-d", "--name", "held", "busybox", "sleep", "600"]);
    let first = machine.ok(&[&address[..], &[&held]].concat());
    let steps = "RUN ip -o -4 addr show dev eth0 && sleep 1000\n";
    let context = context(&machine, steps);
    let log = machine.davit().dir().join("log");
    let mut child = machine
        .command(&["build", "--progress", "plain", &context])
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let taken = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let (_, rest) = text.split_once("inet ")?;
        rest.split_once('/').map(|(address, _)| address.to_owned())
    };
    until("the step runs", || taken().is_some());
    let step = taken().unwrap();
    assert_ne!(step, first);
    let third = machine.ok(&["run", "-d", "--name", "third", "busybox", "sleep", "600"]);
    let third = machine.ok(&[&address[..], &[&third]].concat());
    assert!(third != step && third != first, "{first} {step} {third}");
    // nsenter has become davit: the child is the command itself.
    child.kill().unwrap();
    child.wait().unwrap();
    let fourth = machine.ok(&["run", "-d", "--name", "fourth", "busybox", "sleep", "600"]);
    assert_eq!(machine.ok(&[&address[..], &[&fourth]].concat()), step);
    machine.ok(&["rm", "-f", "held", "third", "fourth"]);
    machine.await_traces(&before);
}

#[test]
fn steps_are_in_the_network_that_the_build_is_given() {
    let Some(machine) = Machine::new() else { return };
    let id = machine.ok(&["network", "create", "--subnet", "10.77.0.0/16", "mine"]);
    let server =
        ["--network", "mine", "--name", "web", "busybox", "httpd", "-f", "-p", "80", "-h", "/etc"];
    let server = machine.ok(&[&["run", "-d", "--ip", "10.77.0.9"], &server[..]].concat());
    let ask = "wget -qO- -T 5 http://10.77.0.9/hostname";
    until("the server answers", || {
        let ask = ["run", "--rm", "--network", "mine", "busybox", "sh", "-c", ask];
        machine.run(&ask).code == 0
    });
    let steps = format!(
        "RUN {ask} > /page && ip -o addr show dev eth0\nRUN wget -qO- -T 5 http://web/hostname\n"
    );
    let outcome = build(&machine, &steps, &["--network", "mine", "-t", "made"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("inet 10.77."), "{}", outcome.stderr);
    assert_eq!(machine.ok(&["run", "--rm", "made", "cat", "/page"]), server[..12]);
    let inspected = machine.ok(&["builder", "history", "inspect"]);
    assert!(inspected.contains("mine"), "{inspected}");
    // The same step elsewhere is another one, by the id it is the same.
    let other = build(&machine, &steps, &[]);
    assert_eq!(other.code, 1, "{}", other.stderr);
    let again = build(&machine, &steps, &["--network", &id[..12], "-t", "made"]);
    assert!(again.code == 0 && again.stderr.contains("CACHED"), "{}", again.stderr);
    let nowhere = build(&machine, &steps, &["--network", "nowhere"]);
    assert_eq!(nowhere.code, 1, "{}", nowhere.stderr);
    assert!(nowhere.stderr.contains("network nowhere not found"), "{}", nowhere.stderr);
    // Bake takes it as a build does.
    let definition = machine.davit().dir().join("bake.json");
    let target = serde_json::json!({"target": {"default": {
        "context": context(&machine, &steps), "network": "mine", "no-cache": true,
    }}});
    std::fs::write(&definition, target.to_string()).unwrap();
    let baked = machine.run(&["bake", "--allow", "fs=*", "-f", definition.to_str().unwrap()]);
    assert_eq!(baked.code, 0, "{}", baked.stderr);
}

#[test]
fn a_build_keeps_its_network() {
    let Some(machine) = Machine::new() else { return };
    machine.ok(&["network", "create", "mine"]);
    let context = context(&machine, "RUN echo up && sleep 1000\n");
    let log = machine.davit().dir().join("log");
    let mut child = machine
        .command(&["build", "--network", "mine", "--progress", "plain", &context])
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    until("the step runs", || std::fs::read_to_string(&log).unwrap().contains(" up\n"));
    let refused = machine.run(&["network", "rm", "mine"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("active endpoints (a build)"), "{}", refused.stderr);
    child.kill().unwrap();
    child.wait().unwrap();
    machine.ok(&["network", "rm", "mine"]);
}

/// The process that a build started to run its commands.
fn supervisor_of(build: u32) -> Option<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid: &u32| {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
        let child = read("status").is_ok_and(|it| it.contains(&format!("PPid:\t{build}\n")));
        child && read("cmdline").is_ok_and(|it| it.contains("__build-supervisor"))
    })
}

#[test]
fn a_step_ends_with_its_supervisor() {
    let Some(machine) = Machine::new() else { return };
    let before = machine.settled();
    for user in ["root", "nobody"] {
        let context = context(&machine, &format!("USER {user}\nRUN echo up && sleep 4321\n"));
        let log = machine.davit().dir().join("log");
        let mut child = machine
            .command(&["build", "--progress", "plain", "--no-cache", &context])
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        until("the step runs", || std::fs::read_to_string(&log).unwrap().contains(" up\n"));
        let supervisor = supervisor_of(child.id()).unwrap().to_string();
        // Both at once: neither can clean up behind the other.
        let pids = [&supervisor, &child.id().to_string()];
        assert!(Command::new("kill").arg("-9").args(pids).status().unwrap().success());
        child.wait().unwrap();
        let asleep = || {
            std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                line == b"sleep\x004321\0"
            })
        };
        until("the step is gone", || !asleep());
    }
    // The next build removes what they left of cgroups.
    let outcome = build(&machine, "RUN true\n", &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    machine.await_traces(&before);
}

#[test]
fn without_privilege_the_error_names_the_way_out() {
    let (Some(machine), Some(_)) = (Machine::new(), need_tool("setpriv")) else { return };
    let context = context(&machine, "RUN true\n");
    let weak = |options: &[&str]| {
        let arguments = [&["build", "--progress", "plain"], options, &[&context]].concat();
        let inner = machine.command(&arguments);
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
        command.arg(inner.get_program()).args(inner.get_args()).stdin(Stdio::null());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Outcome::from(command.output().unwrap())
    };
    let outcome = weak(&[]);
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    for text in ["Dockerfile:2", "Operation not permitted", "--network none", "--network host"] {
        assert!(outcome.stderr.contains(text), "{text}\n{}", outcome.stderr);
    }
    let outcome = weak(&["--network", "host"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
}
