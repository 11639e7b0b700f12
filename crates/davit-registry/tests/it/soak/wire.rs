//! A client that keeps its connection, and goes to another server when one goes away, as behind a load
//! balancer. All that it asks for may be asked for twice.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

/// How long no server may answer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Where the servers are.
pub(super) type Addresses = Arc<Mutex<Vec<SocketAddr>>>;

pub(super) struct Wire {
    addresses: Addresses,
    /// Which of them is asked.
    at: usize,
    connection: Option<BufReader<TcpStream>>,
}

#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) location: Option<String>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn says(&self, word: &str) -> bool {
        String::from_utf8_lossy(&self.body).contains(word)
    }
}

impl Wire {
    pub(super) const fn new(addresses: Addresses, at: usize) -> Self {
        Self { addresses, at, connection: None }
    }

    /// The body of a good answer; `None` where nothing is.
    pub(super) async fn found(&mut self, method: &str, path: &str) -> Option<Vec<u8>> {
        let answer = self.send(method, path, b"").await;
        assert!(matches!(answer.status, 200..=299 | 404), "{method} {path}: {answer:?}");
        (answer.status != 404).then_some(answer.body)
    }

    /// Asks until a server answers.
    pub(super) async fn send(&mut self, method: &str, path: &str, body: &[u8]) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.once(method, path, body).await {
                Ok(answer) => return answer,
                Err(error) => {
                    assert!(Instant::now() < deadline, "{method} {path}: {error}");
                    self.connection = None;
                    self.at += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn once(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let address = {
                    let addresses = self.addresses.lock().unwrap();
                    addresses[self.at % addresses.len()]
                };
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        let length = body.len();
        let kind = if method == "PUT" {
            "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n"
        } else {
            ""
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\n{kind}Content-Length: {length}\r\n\r\n"
        );
        connection.write_all(&[head.as_bytes(), body].concat()).await?;
        let answer = read(&mut connection, method == "HEAD").await?;
        self.connection = Some(connection);
        Ok(answer)
    }
}

async fn read(connection: &mut BufReader<TcpStream>, is_head: bool) -> io::Result<Answer> {
    let mut answer = Answer::default();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if answer.status == 0 {
            let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
            answer.status = status.ok_or(io::ErrorKind::InvalidData)?;
            continue;
        }
        let Some((header, value)) = line.split_once(':') else { break };
        match &*header.to_ascii_lowercase() {
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            "location" => answer.location = Some(value.trim().to_owned()),
            "transfer-encoding" => panic!("a length is always known here"),
            _ => {}
        }
    }
    if !is_head && answer.status != 204 {
        answer.body = vec![0; length];
        connection.read_exact(&mut answer.body).await?;
    }
    Ok(answer)
}
