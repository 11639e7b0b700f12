//! Clients of a registry that cost little themselves: they share the processors with the server.

use std::{
    io::{IoSlice, Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use davit_image::{Algorithm, Digester};

use super::{REPOSITORY, servers::Server};

/// Bytes of a reply that are read at once.
const PIECE: usize = 256 << 10;
/// Bytes by which two blobs of one size differ.
const TAIL: usize = 16;

/// As many different blobs of one size as are wanted, each for the price of one block's digest.
pub(super) struct Blobs {
    common: Vec<u8>,
    digester: Vec<u8>,
}

/// One of them.
pub(super) struct Blob<'b> {
    common: &'b [u8],
    tail: [u8; TAIL],
    pub(super) digest: String,
}

impl Blobs {
    pub(super) fn of(size: usize) -> Self {
        let common = davit_test::noise(size - TAIL);
        let mut digester = Digester::new(Algorithm::Sha256);
        digester.update(&common);
        Self { digester: digester.state(), common }
    }

    pub(super) fn number(&self, number: usize) -> Blob<'_> {
        let mut tail = [0; TAIL];
        tail[..8].copy_from_slice(&number.to_be_bytes());
        let digester = Digester::resume(Algorithm::Sha256, &self.digester);
        let mut digester = digester.expect("the state is one of its own");
        digester.update(&tail);
        Blob { common: &self.common, tail, digest: digester.finish().to_string() }
    }
}

impl Blob<'_> {
    pub(super) const fn size(&self) -> usize {
        self.common.len() + TAIL
    }
}

/// Clients at work.
pub(super) struct Clients;

impl Clients {
    /// Does so many pieces of work, as many at once as there are clients; pieces per second.
    pub(super) fn run(
        server: &Server,
        clients: usize,
        count: usize,
        work: impl Fn(&mut Connection, usize) -> Result<()> + Sync,
    ) -> Result<f64> {
        let (next, work) = (AtomicUsize::new(0), &work);
        let connections: Vec<Connection> =
            (0..clients).map(|_| Connection::open(server)).collect::<Result<_>>()?;
        let start = Instant::now();
        std::thread::scope(|scope| {
            let run = |mut connection: Connection| {
                let next = &next;
                scope.spawn(move || {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= count {
                            return Ok::<_, anyhow::Error>(());
                        }
                        work(&mut connection, number)?;
                    }
                })
            };
            let running: Vec<_> = connections.into_iter().map(run).collect();
            running.into_iter().try_for_each(|client| client.join().expect("it does not panic"))
        })?;
        #[allow(clippy::cast_precision_loss, reason = "some thousands")]
        let count = count as f64;
        Ok(count / start.elapsed().as_secs_f64())
    }
}

/// A connection that is kept.
pub(super) struct Connection {
    stream: TcpStream,
    /// Fields of every request.
    fields: String,
    piece: Vec<u8>,
}

/// A reply's head, and what was read of its body with it.
struct Head {
    status: u16,
    location: Option<String>,
    length: usize,
    /// Whether the body comes in pieces, each with its length; only [`Connection::fetch`] reads such.
    is_chunked: bool,
    body: Vec<u8>,
}

impl Connection {
    pub(super) fn open(server: &Server) -> Result<Self> {
        let stream = TcpStream::connect(server.address())?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, fields: server.fields(), piece: vec![0; PIECE] })
    }

    /// Pushes a blob as most clients do: a session, and all of it at once.
    pub(super) fn push(&mut self, blob: &Blob<'_>) -> Result<()> {
        let target = format!("/v2/{REPOSITORY}/blobs/uploads/");
        let head = self.request("POST", &target, "", [b"", b""])?;
        ensure!(head.status == 202, "a session was answered with {}", head.status);
        let location = head.location.context("a session has a location")?;
        // It may be a whole URL.
        let target = location.find("/v2/").map_or(&*location, |at| &location[at..]);
        let mark = if target.contains('?') { '&' } else { '?' };
        let target = format!("{target}{mark}digest={}", blob.digest);
        let kind = "Content-Type: application/octet-stream\r\n";
        let head = self.request("PUT", &target, kind, [blob.common, &blob.tail])?;
        ensure!(head.status == 201, "a blob was answered with {}", head.status);
        Ok(())
    }

    /// Reads what is there, and forgets it.
    pub(super) fn get(&mut self, path: &str) -> Result<()> {
        let head = self.request("GET", path, "", [b"", b""])?;
        ensure!(head.status == 200, "{path} was answered with {}", head.status);
        Ok(())
    }

    /// Reads what is there.
    pub(super) fn fetch(&mut self, path: &str) -> Result<Vec<u8>> {
        let mut head = self.send("GET", path, "", [b"", b""])?;
        ensure!(head.status == 200, "{path} was answered with {}", head.status);
        if head.is_chunked {
            return self.chunks(head.body);
        }
        let start = head.body.len();
        head.body.resize(head.length, 0);
        self.stream.read_exact(&mut head.body[start..])?;
        Ok(head.body)
    }

    /// Sends a request with a manifest.
    pub(super) fn put_manifest(&mut self, target: &str, body: &[u8]) -> Result<()> {
        let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
        let head = self.request("PUT", target, kind, [body, b""])?;
        ensure!(head.status == 201, "a manifest was answered with {}", head.status);
        Ok(())
    }

    /// Deletes what is there.
    pub(super) fn delete(&mut self, path: &str) -> Result<()> {
        let head = self.request("DELETE", path, "", [b"", b""])?;
        ensure!(head.status == 202, "{path} was answered with {}", head.status);
        Ok(())
    }

    /// Sends a request and reads the reply away.
    fn request(
        &mut self,
        method: &str,
        target: &str,
        fields: &str,
        body: [&[u8]; 2],
    ) -> Result<Head> {
        let head = self.send(method, target, fields, body)?;
        let mut left = head.length - head.body.len();
        while left > 0 {
            let size = left.min(PIECE);
            let read = self.stream.read(&mut self.piece[..size])?;
            ensure!(read > 0, "a reply was cut off");
            left -= read;
        }
        Ok(head)
    }

    fn send(&mut self, method: &str, target: &str, fields: &str, body: [&[u8]; 2]) -> Result<Head> {
        let length = body[0].len() + body[1].len();
        let length =
            if method == "GET" { String::new() } else { format!("Content-Length: {length}\r\n") };
        let head = format!("{method} {target} HTTP/1.1\r\n{}{length}{fields}\r\n", self.fields);
        let mut parts =
            [IoSlice::new(head.as_bytes()), IoSlice::new(body[0]), IoSlice::new(body[1])];
        let mut left = &mut parts[..];
        // Empty ones at the front would look like an end.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let written = self.stream.write_vectored(left)?;
            IoSlice::advance_slices(&mut left, written);
        }
        self.read_head()
    }

    fn read_head(&mut self) -> Result<Head> {
        let mut bytes = Vec::new();
        let end = loop {
            self.read_more(&mut bytes)?;
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
        };
        let body = bytes.split_off(end + 4);
        let text = String::from_utf8(bytes)?;
        let field = |name: &str| {
            let mut fields = text.lines().filter_map(|line| line.split_once(": "));
            fields
                .find(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.to_owned())
        };
        let status = text.split(' ').nth(1).context("a reply has a status")?.parse()?;
        let length = field("content-length").map_or(Ok(0), |length| length.parse())?;
        let is_chunked = field("transfer-encoding").is_some();
        Ok(Head { status, location: field("location"), length, is_chunked, body })
    }

    /// A body in pieces (RFC 9112 § 7.1), of which some bytes were read already.
    fn chunks(&mut self, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = loop {
                match bytes.windows(2).position(|two| two == b"\r\n") {
                    Some(line) => break line,
                    None => self.read_more(&mut bytes)?,
                }
            };
            let size = usize::from_str_radix(std::str::from_utf8(&bytes[..line])?, 16)?;
            let (start, end) = (line + 2, line + 2 + size);
            while bytes.len() < end + 2 {
                self.read_more(&mut bytes)?;
            }
            body.extend_from_slice(&bytes[start..end]);
            bytes.drain(..end + 2);
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn read_more(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let read = self.stream.read(&mut self.piece)?;
        ensure!(read > 0, "the server closed the connection");
        bytes.extend_from_slice(&self.piece[..read]);
        Ok(())
    }
}
