//! The resolver of a network namespace, asked from within.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    sync::mpsc,
    time::Duration,
};

use davit_network::{NAME_SERVER, NameEntry, Names, Resolver, write_names};
use davit_test::TempDir;
use rustix::{
    event::{PollFd, PollFlags, poll},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::namespace::Namespace;

/// A namespace whose resolver runs on a thread in another one, the machine's.
struct World {
    machine: Namespace,
    container: Namespace,
    directory: TempDir,
}

const FAILURE: u8 = 2;
const NO_NAME: u8 = 3;

impl World {
    /// A network in which `web` is 10.9.0.2 and fd00::2, and these servers for the rest.
    fn new(servers: &[&str]) -> Option<Self> {
        let world = Self {
            machine: Namespace::new()?,
            container: Namespace::new()?,
            directory: TempDir::new(),
        };
        world.name("web");
        let servers = servers.iter().map(|text| text.parse().unwrap()).collect();
        let names = Names { file: world.directory.join("names"), servers };
        let (machine, container) = (world.machine.open(), world.container.open());
        let (sender, started) = mpsc::channel();
        std::thread::spawn(move || {
            move_into_link_name_space(machine.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            let mut resolver = Resolver::start(container.as_fd(), &names).unwrap();
            sender.send(()).unwrap();
            // As long as the tests run.
            loop {
                poll(&mut [PollFd::new(&resolver, PollFlags::IN)], None).unwrap();
                resolver.turn();
            }
        });
        started.recv().unwrap();
        Some(world)
    }

    fn name(&self, name: &str) {
        let addresses = ["10.9.0.2", "fd00::2"].map(|text| text.parse().unwrap()).into();
        let entry = NameEntry { addresses, names: vec![name.to_owned()] };
        write_names(&self.directory.join("names"), &[entry]).unwrap();
    }

    fn client(&self) -> UdpSocket {
        let socket = self.container.inside(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        socket
    }

    fn ask(&self, name: &str, kind: u8) -> Vec<u8> {
        let client = self.client();
        client.send_to(&query(name, kind), (NAME_SERVER, 53)).unwrap();
        receive(&client)
    }

    /// A server of the machine that answers every question with 192.0.2.N.
    fn serve(&self, address: &str, last: u8) {
        let address: SocketAddr = address.parse().unwrap();
        let udp = self.machine.inside(|| UdpSocket::bind(address)).unwrap();
        let tcp = self.machine.inside(|| TcpListener::bind(address)).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = udp.recv_from(&mut buffer) {
                drop(udp.send_to(&answer(&buffer[..length], last), client));
            }
        });
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                while let Some(question) = read_framed(&mut stream) {
                    stream.write_all(&framed(&answer(&question, last))).unwrap();
                }
            }
        });
    }
}

fn query(name: &str, kind: u8) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.bytes());
    }
    query.extend([0, 0, kind, 0, 1]);
    query
}

fn answer(question: &[u8], last: u8) -> Vec<u8> {
    let mut answer = question.to_vec();
    (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 192, 0, 2, last]);
    answer
}

fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 4096];
    let (length, from) = client.recv_from(&mut buffer).expect("an answer");
    assert_eq!(from, (NAME_SERVER, 53).into(), "from where it was asked");
    assert_eq!(buffer[..2], [0x12, 0x34]);
    buffer[..length].to_vec()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

fn read_framed(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

#[test]
fn names_of_the_network_are_known_and_others_asked_for() {
    let Some(world) = World::new(&["127.0.0.1"]) else { return };
    world.serve("127.0.0.1:53", 7);
    assert!(world.ask("WEB", 1).ends_with(&[0, 4, 10, 9, 0, 2]));
    let six = world.ask("web", 28);
    assert_eq!((six[7], six.last()), (1, Some(&2)));
    assert_eq!(world.ask("web", 15)[6..8], [0, 0], "it has no mail server, and nobody is asked");
    assert!(world.ask("example.org", 1).ends_with(&[192, 0, 2, 7]));
    world.name("other");
    assert!(world.ask("other", 1).ends_with(&[10, 9, 0, 2]), "the file is another one");
    assert!(world.ask("web", 1).ends_with(&[192, 0, 2, 7]));
}

#[test]
fn a_server_that_is_not_there_is_followed_by_the_next() {
    // The second is silent: nobody reads what is sent there.
    let Some(world) = World::new(&["127.0.0.2", "127.0.0.3", "127.0.0.1"]) else { return };
    let silent = world.machine.inside(|| UdpSocket::bind("127.0.0.3:53")).unwrap();
    world.serve("127.0.0.1:53", 7);
    assert!(world.ask("example.org", 1).ends_with(&[192, 0, 2, 7]));
    drop(silent);
    let Some(world) = World::new(&["127.0.0.2"]) else { return };
    assert_eq!(world.ask("example.org", 1)[3], 0x80 | FAILURE, "there is no other");
}

#[test]
fn without_servers_there_are_no_other_names() {
    let Some(world) = World::new(&[]) else { return };
    assert_eq!(world.ask("example.org", 1)[3], 0x80 | NO_NAME);
    assert!(world.ask("web", 1).ends_with(&[10, 9, 0, 2]));
}

#[test]
fn questions_by_tcp_follow_one_another() {
    let Some(world) = World::new(&["127.0.0.2", "127.0.0.1"]) else { return };
    world.serve("127.0.0.1:53", 7);
    let mut stream =
        world.container.inside(|| TcpStream::connect((NAME_SERVER, 53))).expect("connected");
    let all: Vec<u8> =
        ["web", "example.org", "web"].iter().flat_map(|name| framed(&query(name, 1))).collect();
    // In two pieces, of which the first ends within a question.
    stream.write_all(&all[..7]).unwrap();
    stream.write_all(&all[7..]).unwrap();
    for last in [[0, 2], [2, 7], [0, 2]] {
        assert!(read_framed(&mut stream).expect("an answer").ends_with(&last));
    }
    // What is no question ends the connection.
    stream.write_all(&[0, 3, 1, 2, 3]).unwrap();
    assert_eq!(read_framed(&mut stream), None);
}

#[test]
fn a_name_server_in_the_container_has_its_port() {
    let Some(world) = World::new(&[]) else { return };
    let own = world.container.inside(|| UdpSocket::bind("0.0.0.0:53")).expect("it is free");
    let _tcp = world.container.inside(|| TcpListener::bind("0.0.0.0:53")).expect("it is free");
    assert!(world.ask("web", 1).ends_with(&[10, 9, 0, 2]));
    let client = world.client();
    client.send_to(b"to the other", "127.0.0.1:53").unwrap();
    let mut buffer = [0; 64];
    assert_eq!(own.recv(&mut buffer).unwrap(), 12);
}

#[test]
fn a_flood_is_bounded_and_outlived() {
    let Some(world) = World::new(&["127.0.0.3"]) else { return };
    let _silent = world.machine.inside(|| UdpSocket::bind("127.0.0.3:53")).unwrap();
    let client = world.client();
    for number in 0..50_u8 {
        client.send_to(&[number; 40], (NAME_SERVER, 53)).unwrap();
    }
    // More than are on their way at a time: what is too much is told so at once, the rest later.
    for number in 0..100 {
        client.send_to(&query(&format!("n{number}.example"), 1), (NAME_SERVER, 53)).unwrap();
        if number >= 64 {
            assert_eq!(receive(&client)[3], 0x80 | FAILURE);
        }
    }
    assert!(world.ask("web", 1).ends_with(&[10, 9, 0, 2]));
    for _ in 0..64 {
        assert_eq!(receive(&client)[3], 0x80 | FAILURE);
    }
    let streams: Vec<_> = (0..40)
        .filter_map(|_| world.container.inside(|| TcpStream::connect((NAME_SERVER, 53))).ok())
        .collect();
    assert!(world.ask("web", 1).ends_with(&[10, 9, 0, 2]));
    drop(streams);
}
