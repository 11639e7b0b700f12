//! A scripted HTTP/1.1 server that can misbehave, on a loopback port.

use std::{
    fmt,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// Between two bytes of a body that trickles.
const TRICKLE: Duration = Duration::from_millis(20);
/// Longest head and body that a test sends.
const LARGEST_BYTES: u64 = 64 << 20;

/// A request as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: String,
    /// Path without the query.
    pub path: String,
    /// Query, percent-encoded as received; empty if there is none.
    pub query: String,
    /// Headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body, chunks joined.
    pub body: Vec<u8>,
}

impl Request {
    /// The first header of this (lower-case) name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// `METHOD path`, for comparisons.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    end: End,
}

/// How a reply's body ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// As `Content-Length` says.
    #[default]
    Whole,
    /// After so many bytes the connection is closed, whatever `Content-Length` says.
    Cut(usize),
    /// After so many bytes nothing more comes, until the client closes.
    Stall(usize),
    /// After so many bytes the rest comes byte by byte.
    Trickle(usize),
    /// The connection is closed instead of an answer.
    NoReply,
    /// Nothing is answered, until the client closes.
    Silence,
    /// Chunked, without a length, and never ending.
    Endless,
}

impl Reply {
    /// A status without a body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// 200 with a body.
    #[must_use]
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::status(200).body(body)
    }

    /// Sets the body; `Content-Length` follows unless a header sets it.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// Sets how the body ends.
    #[must_use]
    pub const fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

type Script = dyn Fn(&Request) -> Reply + Send + Sync;

/// A running server; dropping it ends it.
pub struct HttpServer {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    stopped: Arc<AtomicBool>,
}

impl fmt::Debug for HttpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl HttpServer {
    /// Answers each request by `script`, on 127.0.0.1.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, script)
    }

    /// Answers each request by `script`, on another loopback address: another host.
    ///
    /// # Panics
    /// If no port is free.
    #[must_use]
    pub fn start_at(
        address: Ipv4Addr,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a loopback port is free");
        let address = listener.local_addr().expect("it is bound");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stopped = Arc::new(AtomicBool::new(false));
        let script: Arc<Script> = Arc::new(script);
        let (requests, stop) = (Arc::clone(&log), Arc::clone(&stopped));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (script, requests) = (Arc::clone(&script), Arc::clone(&requests));
                // A client that closes early is part of the play.
                thread::spawn(move || drop(serve(&stream, &*script, &requests)));
            }
        });
        Self { address, log, stopped }
    }

    /// `127.0.0.1:PORT`.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// The requests so far, in order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The requests so far as `METHOD path`.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.requests().iter().map(Request::line).collect()
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts; if that fails it has ended already.
        drop(TcpStream::connect(self.address));
    }
}

fn serve(stream: &TcpStream, script: &Script, log: &Mutex<Vec<Request>>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        let Some(request) = request else {
            // Not HTTP: a TLS hello. Answered as Go's servers do.
            return (&mut &*stream).write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
        };
        log.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
        let reply = script(&request);
        if !answer(stream, &request, &reply)? {
            break;
        }
    }
    Ok(())
}

/// Reads a request; `None` at the end of the stream, `Some(None)` for what is no HTTP.
fn read_request(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Option<Request>>> {
    let Some(&first) = reader.fill_buf()?.first() else { return Ok(None) };
    if !first.is_ascii_uppercase() {
        return Ok(Some(None));
    }
    let line = read_line(reader)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else { return Ok(Some(None)) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
    };
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.split_once(':') else { break };
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    request.body = read_body(reader, &request)?;
    Ok(Some(Some(request)))
}

fn read_line(reader: &mut BufReader<&TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    reader.take(LARGEST_BYTES).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn read_body(reader: &mut BufReader<&TcpStream>, request: &Request) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if request.header("transfer-encoding").is_some() {
        loop {
            let size = u64::from_str_radix(&read_line(reader)?, 16).map_err(io::Error::other)?;
            reader.take(size).read_to_end(&mut body)?;
            read_line(reader)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    let length = request.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_end(&mut body)?;
    Ok(body)
}

/// Sends a reply; false if the connection ends with it.
fn answer(mut stream: &TcpStream, request: &Request, reply: &Reply) -> io::Result<bool> {
    match reply.end {
        End::NoReply => return Ok(false),
        End::Silence => return wait_for_close(stream).map(|()| false),
        _ => {}
    }
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let has_length =
        reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if reply.end == End::Endless {
        head += "Transfer-Encoding: chunked\r\n";
    } else if !has_length && reply.status != 204 {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    head += "\r\n";
    stream.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(true);
    }
    let sent = match reply.end {
        End::Cut(bytes) | End::Stall(bytes) | End::Trickle(bytes) => bytes.min(reply.body.len()),
        _ => reply.body.len(),
    };
    match reply.end {
        End::Endless => loop {
            stream.write_all(format!("{:x}\r\n", reply.body.len()).as_bytes())?;
            stream.write_all(&reply.body)?;
            stream.write_all(b"\r\n")?;
        },
        _ => stream.write_all(&reply.body[..sent])?,
    }
    match reply.end {
        End::Stall(_) => wait_for_close(stream)?,
        End::Trickle(_) => trickle(stream, &reply.body[sent..])?,
        _ => return Ok(reply.end == End::Whole),
    }
    Ok(false)
}

fn wait_for_close(mut stream: &TcpStream) -> io::Result<()> {
    let mut byte = [0];
    while stream.read(&mut byte)? > 0 {}
    Ok(())
}

fn trickle(mut stream: &TcpStream, rest: &[u8]) -> io::Result<()> {
    stream.set_read_timeout(Some(TRICKLE))?;
    for byte in rest {
        stream.write_all(&[*byte])?;
        // Anything but the end of the stream means that the time between two bytes has passed.
        if let Ok(0) = stream.read(&mut [0]) {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(server: &HttpServer, request: &str) -> String {
        let mut stream = TcpStream::connect(server.host()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn answers_and_keeps_a_log() {
        let server = HttpServer::start(|request| {
            Reply::ok(request.body.clone()).header("X-Query", &request.query).end(End::Cut(3))
        });
        let request =
            "PUT /a?b=c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\n0\r\n\r\n";
        let answer = ask(&server, request);
        assert!(answer.ends_with("X-Query: b=c\r\nContent-Length: 4\r\n\r\nwik"), "{answer}");
        assert_eq!(server.lines(), ["PUT /a"]);
        assert_eq!(server.requests()[0].body, b"wiki");
        assert!(ask(&server, "\u{16}\u{3}").starts_with("HTTP/1.0 400"));
    }
}
