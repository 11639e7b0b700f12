//! Names of containers: a resolver for one network namespace, at 127.0.0.11 as Docker's is.
//!
//! ```text
//! program -> 127.0.0.11:53 -> (redirect in the namespace) -> sockets of the resolver, which lives
//!            outside: names of the network by its file, all else by the machine's resolvers
//! ```
//!
//! The sockets are in the container's namespace, so that no firewall of the host and no name server
//! of it or of the container is in the way, and only this container asks here. The process that has
//! them (a monitor, a build's supervisor) polls one descriptor and calls [`Resolver::turn`].
//!
//! What comes in is hostile: questions are bounded, an answer is never larger than 512 bytes unless
//! it is a name server's own, and only so many questions are on their way at a time.

mod file;
mod message;
mod stream;
mod table;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    rand::{GetRandomFlags, getrandom},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags},
};
use serde::{Deserialize, Serialize};

pub use self::file::{NameEntry, write_names};
use self::{
    file::NamesFile,
    message::{Code, Question},
    stream::Stream,
};
use crate::NetworkError;

/// Where programs ask.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Largest message over UDP.
const DATAGRAM_BYTES: usize = 4096;
/// Questions on their way to other servers at a time.
const MOST_EXCHANGES: usize = 64;
/// Connections at a time.
const MOST_STREAMS: usize = 16;
/// How long a server may take before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a connection may last.
const STREAM_PATIENCE: Duration = Duration::from_secs(10);
/// Messages of one socket that are handled in one turn, so that others have theirs.
const AT_ONCE: usize = 32;

const UDP: u64 = 0;
const TCP: u64 = 1;
const TIMER: u64 = 2;
const FIRST: u64 = 3;

/// What a resolver answers by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The file of the network's names, as [`write_names`] writes it; it may change, and be missing.
    pub file: PathBuf,
    /// Servers that are asked for other names, in this order; without any there are none.
    pub servers: Vec<IpAddr>,
}

/// The resolver of a network namespace; ends when it is dropped.
#[derive(Debug)]
pub struct Resolver {
    epoll: OwnedFd,
    timer: OwnedFd,
    udp: UdpSocket,
    tcp: TcpListener,
    lookup: Lookup,
    exchanges: BTreeMap<u64, Exchange>,
    streams: BTreeMap<u64, Stream>,
    next: u64,
}

/// Names and servers.
#[derive(Debug)]
struct Lookup {
    names: NamesFile,
    servers: Vec<SocketAddr>,
}

/// What becomes of a question.
enum Fate {
    Answer(Vec<u8>),
    /// Somebody else may know.
    Ask,
}

impl Lookup {
    fn decide(&mut self, message: &[u8], question: &Question) -> Fate {
        if let Some(addresses) = self.names.addresses(question) {
            return Fate::Answer(question.answer(message, addresses));
        }
        if self.servers.is_empty() {
            return Fate::Answer(question.refuse(message, Code::NoName));
        }
        Fate::Ask
    }
}

/// A question that another server has been asked by UDP.
#[derive(Debug)]
struct Exchange {
    socket: UdpSocket,
    client: SocketAddr,
    query: Vec<u8>,
    id: [u8; 2],
    server: usize,
    deadline: Instant,
}

impl Resolver {
    /// Makes the resolver of a namespace, which asks other servers from the calling thread's one.
    ///
    /// The calling process must be single-threaded or own its thread's namespace: the thread enters
    /// `netns` for some microseconds and returns.
    ///
    /// # Errors
    /// Fails when the kernel refuses a socket or the redirect.
    pub fn start(netns: BorrowedFd<'_>, names: &Names) -> Result<Self, NetworkError> {
        let (udp, tcp) = crate::link::inside(netns, || {
            let udp = UdpSocket::bind((NAME_SERVER, 0)).map_err(NetworkError::Resolver)?;
            let tcp = TcpListener::bind((NAME_SERVER, 0)).map_err(NetworkError::Resolver)?;
            let port = |address: io::Result<SocketAddr>| {
                address.map(|address| address.port()).map_err(NetworkError::Resolver)
            };
            table::redirect(port(udp.local_addr())?, port(tcp.local_addr())?)?;
            Ok((udp, tcp))
        })?;
        Self::of(udp, tcp, names).map_err(NetworkError::Resolver)
    }

    fn of(udp: UdpSocket, tcp: TcpListener, names: &Names) -> io::Result<Self> {
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let level = epoll::EventFlags::IN;
        for (fd, token) in [(udp.as_fd(), UDP), (tcp.as_fd(), TCP), (timer.as_fd(), TIMER)] {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(token), level)?;
        }
        let servers = names.servers.iter().map(|&address| SocketAddr::new(address, 53)).collect();
        Ok(Self {
            epoll,
            timer,
            udp,
            tcp,
            lookup: Lookup { names: NamesFile::new(names.file.clone()), servers },
            exchanges: BTreeMap::new(),
            streams: BTreeMap::new(),
            next: FIRST,
        })
    }

    /// Handles what has come, without waiting. To be called when the descriptor is readable.
    pub fn turn(&mut self) {
        let mut events = Vec::with_capacity(AT_ONCE);
        let now = Some(&Timespec { tv_sec: 0, tv_nsec: 0 });
        if epoll::wait(&self.epoll, spare_capacity(&mut events), now).is_err() {
            return;
        }
        for event in events {
            match event.data.u64() {
                UDP => self.receive(),
                TCP => self.accept(),
                TIMER => {
                    // Only that it went off matters; who reads it twice finds nothing.
                    if let Err(errno) = rustix::io::read(&self.timer, &mut [0_u8; 8]) {
                        tracing::debug!(%errno, "the timer did not go off");
                    }
                }
                token if self.streams.contains_key(&token) => self.advance(token),
                token => self.finish(token),
            }
        }
        self.expire();
        self.set_timer();
    }

    /// Takes questions from the container.
    fn receive(&mut self) {
        let mut buffer = [0; DATAGRAM_BYTES];
        for _ in 0..AT_ONCE {
            let Ok((length, client)) = self.udp.recv_from(&mut buffer) else { return };
            let message = &buffer[..length];
            // What is no question gets no answer.
            let Some(question) = Question::read(message) else { continue };
            match self.lookup.decide(message, &question) {
                Fate::Answer(answer) => self.reply(&answer, client),
                Fate::Ask => self.ask(message, &question, client),
            }
        }
    }

    /// A client that is gone, or does not read, asks again if it cares.
    fn reply(&self, answer: &[u8], client: SocketAddr) {
        drop(self.udp.send_to(answer, client));
    }

    fn ask(&mut self, message: &[u8], question: &Question, client: SocketAddr) {
        let full = self.exchanges.len() >= MOST_EXCHANGES;
        let asked = (!full).then(|| self.begin(message.to_vec(), client, 0)).flatten();
        if asked.is_none() {
            self.reply(&question.refuse(message, Code::Failure), client);
        }
    }

    /// Asks the first server from `server` on that can be sent to.
    fn begin(&mut self, query: Vec<u8>, client: SocketAddr, server: usize) -> Option<()> {
        let mut id = [0; 2];
        getrandom(&mut id, GetRandomFlags::empty()).ok()?;
        let own = message::with_id(&query, id);
        let mut servers = self.lookup.servers.iter().enumerate().skip(server);
        let (server, socket) =
            servers.find_map(|(index, address)| Some((index, send(&own, *address).ok()?)))?;
        let token = self.token();
        let data = epoll::EventData::new_u64(token);
        epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN).ok()?;
        let deadline = Instant::now() + PATIENCE;
        self.exchanges.insert(token, Exchange { socket, client, query, id, server, deadline });
        Some(())
    }

    fn token(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Passes on what a server answered.
    fn finish(&mut self, token: u64) {
        let Some(exchange) = self.exchanges.get(&token) else { return };
        let mut buffer = [0; DATAGRAM_BYTES];
        match exchange.socket.recv(&mut buffer) {
            Ok(length) if message::answers(&buffer[..length], &exchange.query, exchange.id) => {
                let answer = message::with_id(&buffer[..length], message::id(&exchange.query));
                self.reply(&answer, exchange.client);
                self.exchanges.remove(&token);
            }
            // Somebody guesses: the right answer may still come.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Nobody listens there.
            Err(_) => self.ask_next(token),
        }
    }

    fn ask_next(&mut self, token: u64) {
        let Some(Exchange { client, query, server, .. }) = self.exchanges.remove(&token) else {
            return;
        };
        let again = query.clone();
        if self.begin(query, client, server + 1).is_none()
            && let Some(question) = Question::read(&again)
        {
            self.reply(&question.refuse(&again, Code::Failure), client);
        }
    }

    fn accept(&mut self) {
        for _ in 0..AT_ONCE {
            let Ok((client, _)) = self.tcp.accept() else { return };
            if self.streams.len() >= MOST_STREAMS {
                continue;
            }
            let token = self.token();
            let stream = Stream::new(client, &self.epoll, token, Instant::now() + STREAM_PATIENCE);
            if let Ok(stream) = stream {
                self.streams.insert(token, stream);
                self.advance(token);
            }
        }
    }

    fn advance(&mut self, token: u64) {
        let Some(stream) = self.streams.get_mut(&token) else { return };
        if stream.advance(&mut self.lookup, (&self.epoll, token)).is_err() {
            self.streams.remove(&token);
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        self.streams.retain(|_, stream| stream.deadline > now);
        let late = self.exchanges.iter().filter(|(_, exchange)| exchange.deadline <= now);
        for token in late.map(|(&token, _)| token).collect::<Vec<_>>() {
            self.ask_next(token);
        }
    }

    /// Wakes the caller at the next deadline.
    fn set_timer(&self) {
        let deadlines = self.exchanges.values().map(|exchange| exchange.deadline);
        let next = deadlines.chain(self.streams.values().map(|stream| stream.deadline)).min();
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let wait = next.map_or(none, |next| {
            // Never zero, which would switch it off.
            let rest = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: rest.as_secs().cast_signed(), tv_nsec: rest.subsec_nanos().into() }
        });
        let setting = Itimerspec { it_interval: none, it_value: wait };
        if let Err(errno) =
            rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting)
        {
            tracing::warn!(%errno, "cannot wait for name servers");
        }
    }
}

impl AsFd for Resolver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Sends a question from a port of its own, to which only the server can send.
fn send(query: &[u8], server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(server)?;
    socket.send(query)?;
    Ok(socket)
}
