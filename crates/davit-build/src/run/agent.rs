//! Lets a command use an SSH agent of the caller: a socket whose other end is here.
//!
//! Of the agent's protocol only the list of keys and signatures pass; a command can neither read
//! keys, which no agent gives out, nor add, remove or lock any. Messages are
//! `length u32 (big-endian), type u8, content` (draft-ietf-sshm-ssh-agent).

pub(crate) mod keys;

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid};

use self::keys::Keys;

/// Longest message in bytes, as OpenSSH's agent has it.
const LIMIT: u32 = 256 * 1024;
/// Connections of one command at a time.
const MOST_CONNECTIONS: usize = 64;
const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const SIGN_REQUEST: u8 = 13;

/// What signs for a command.
#[derive(Clone, Debug)]
pub enum Agent {
    /// An agent that listens on this socket.
    Socket(PathBuf),
    /// Whatever listens on this socket: all bytes pass, as the caller asked.
    Raw(PathBuf),
    /// Keys of files.
    Keys(Arc<Keys>),
}

/// A socket in front of an agent, until it is dropped.
#[derive(Debug)]
pub struct AgentSocket {
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    listener: UnixListener,
    agent: Agent,
    ended: AtomicBool,
    /// The ends of each connection: the command's and, if there is one, the agent's.
    open: Mutex<Vec<Connection>>,
}

type Connection = Vec<UnixStream>;

impl AgentSocket {
    /// Makes the socket `name` in `directory`, in front of the agent.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen(
        agent: &Agent,
        (directory, name): (&Path, &str),
        (mode, uid, gid): (u32, u32, u32),
    ) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory, flags, Mode::empty())?;
        // An address holds about a hundred bytes, a path of the store may have more.
        let short = format!("/proc/self/fd/{}/{name}", opened.as_raw_fd());
        let listener = UnixListener::bind(short)?;
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(opened.as_fd(), name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(mode);
        rustix::fs::chmodat(opened.as_fd(), name, mode, AtFlags::empty())?;
        let shared = Arc::new(Shared {
            listener,
            agent: agent.clone(),
            ended: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let served = Arc::clone(&shared);
        let thread = Some(thread::spawn(move || served.serve()));
        Ok(Self { path: directory.join(name), shared, thread })
    }

    /// Where the socket is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AgentSocket {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        if let Err(error) =
            rustix::net::shutdown(&self.shared.listener, rustix::net::Shutdown::Both)
        {
            tracing::debug!(%error, "cannot close the socket of an agent");
            return;
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of an agent's socket panicked");
        }
        for connection in self.shared.connections().drain(..) {
            close(&connection);
        }
    }
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(self: &Arc<Self>) {
        while let Ok((client, _)) = self.listener.accept() {
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            if let Err(error) = self.connect(client) {
                tracing::debug!(%error, "a command does not reach the agent");
            }
        }
    }

    fn connect(self: &Arc<Self>, client: UnixStream) -> io::Result<()> {
        let mut open = self.connections();
        if open.len() >= MOST_CONNECTIONS {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let agent = match &self.agent {
            Agent::Socket(path) | Agent::Raw(path) => Some(UnixStream::connect(path)?),
            Agent::Keys(_) => None,
        };
        let ends = |client: &UnixStream| -> io::Result<Connection> {
            let own = [Some(client), agent.as_ref()].into_iter().flatten();
            own.map(UnixStream::try_clone).collect()
        };
        open.push(ends(&client)?);
        drop(open);
        let shared = Arc::clone(self);
        thread::spawn(move || {
            let ended = match (&shared.agent, &agent) {
                (Agent::Keys(keys), _) => relay(&client, |request| Ok(keys.answer(request))),
                (Agent::Socket(_), Some(agent)) => relay(&client, |request| ask(agent, request)),
                (Agent::Raw(_), Some(agent)) => pass(&client, agent),
                (Agent::Socket(_) | Agent::Raw(_), None) => Ok(()),
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection to the agent ended");
            }
            let connection: Connection = [Some(client), agent].into_iter().flatten().collect();
            close(&connection);
            shared.forget(&connection);
        });
        Ok(())
    }

    /// Drops the copies of a connection that has ended.
    fn forget(&self, ended: &Connection) {
        let inode = |connection: &Connection| {
            connection.first().and_then(|end| rustix::fs::fstat(end).map(|it| it.st_ino).ok())
        };
        self.connections().retain(|connection| inode(connection) != inode(ended));
    }
}

fn close(connection: &Connection) {
    for stream in connection {
        if let Err(error) = stream.shutdown(Shutdown::Both) {
            tracing::debug!(%error, "a connection to the agent is closed already");
        }
    }
}

/// Answers requests until one side ends; those that a command must not make are refused.
fn relay(
    mut client: impl Read + Write,
    mut answer: impl FnMut(&[u8]) -> io::Result<Vec<u8>>,
) -> io::Result<()> {
    while let Some(request) = read_message(&mut client)? {
        let answer = match request.first() {
            Some(&(REQUEST_IDENTITIES | SIGN_REQUEST)) => answer(&request)?,
            _ => vec![FAILURE],
        };
        write_message(&mut client, &answer)?;
    }
    Ok(())
}

/// Passes all bytes in both directions until both sides have ended.
fn pass(client: &UnixStream, other: &UnixStream) -> io::Result<()> {
    let one_way = |mut from: &UnixStream, mut to: &UnixStream| {
        let copied = io::copy(&mut from, &mut to);
        // The other direction may go on.
        let ended = to.shutdown(Shutdown::Write);
        copied.and(ended)
    };
    thread::scope(|scope| {
        let back = scope.spawn(|| one_way(other, client));
        let forth = one_way(client, other);
        back.join().unwrap_or(Ok(())).and(forth)
    })
}

fn ask(mut agent: impl Read + Write, request: &[u8]) -> io::Result<Vec<u8>> {
    write_message(&mut agent, request)?;
    read_message(&mut agent)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

fn read_message(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    }
    let length = u32::from_be_bytes(length);
    if length == 0 || length > LIMIT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message)?;
    Ok(Some(message))
}

fn write_message(stream: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut whole = length.to_be_bytes().to_vec();
    whole.extend_from_slice(message);
    stream.write_all(&whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that answers each request with its type and `!`.
    fn agent(path: &Path) -> JoinHandle<Vec<u8>> {
        let listener = UnixListener::bind(path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut seen = Vec::new();
            while let Ok(Some(request)) = read_message(&mut stream) {
                seen.push(request[0]);
                write_message(&mut stream, &[request[0], b'!']).unwrap();
            }
            seen
        })
    }

    #[test]
    fn only_keys_names_and_signatures_pass() {
        let temp = davit_test::TempDir::new();
        let agent_path = temp.join("agent");
        let agent = agent(&agent_path);
        let deep = temp.join("d".repeat(120));
        fs_err::create_dir(&deep).unwrap();
        let front = Agent::Socket(agent_path);
        let socket = AgentSocket::listen(&front, (&deep, "s"), (0o600, 0, 0)).unwrap();
        let directory = fs_err::File::open(&deep).unwrap();
        let short = format!("/proc/self/fd/{}/s", directory.as_raw_fd());
        assert_eq!(socket.path(), deep.join("s"));
        let mut client = UnixStream::connect(short).unwrap();
        let mut ask = |request: &[u8]| {
            write_message(&mut client, request).unwrap();
            read_message(&mut client).unwrap().unwrap()
        };
        assert_eq!(ask(&[REQUEST_IDENTITIES]), [REQUEST_IDENTITIES, b'!']);
        // To add a key, to remove all of them, to lock the agent, an extension.
        for refused in [17, 19, 22, 27] {
            assert_eq!(ask(&[refused, 1, 2, 3]), [FAILURE]);
        }
        assert_eq!(ask(&[SIGN_REQUEST, 9]), [SIGN_REQUEST, b'!']);
        drop(socket);
        assert!(read_message(&mut client).unwrap().is_none(), "it ends with the command");
        assert_eq!(agent.join().unwrap(), [REQUEST_IDENTITIES, SIGN_REQUEST]);
    }

    #[test]
    fn a_raw_socket_passes_everything() {
        let temp = davit_test::TempDir::new();
        let path = temp.join("other");
        let listener = UnixListener::bind(&path).unwrap();
        let other = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(b"answer").unwrap();
            all
        });
        let socket =
            AgentSocket::listen(&Agent::Raw(path), (temp.path(), "s"), (0o600, 0, 0)).unwrap();
        let mut client = UnixStream::connect(socket.path()).unwrap();
        client.write_all(b"no message of an agent").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"answer");
        assert_eq!(other.join().unwrap(), b"no message of an agent");
    }

    #[test]
    fn a_message_has_a_largest_size() {
        let mut long = (LIMIT + 1).to_be_bytes().to_vec();
        long.push(11);
        assert!(read_message(&mut &long[..]).is_err());
        assert!(read_message(&mut &[0, 0, 0, 0][..]).is_err());
        assert!(read_message(&mut &[0, 0, 0, 2, 1][..]).is_err());
        assert!(read_message(&mut &[0, 0][..]).unwrap().is_none());
    }
}
