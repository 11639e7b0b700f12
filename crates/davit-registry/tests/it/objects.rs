//! An object store that fails: replies are lost or cut off, requests refused.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use davit_image::{Algorithm, Digest};
use davit_registry::{
    blobs,
    check::Repair,
    config::Places,
    store::{Store, StoreLocation},
    uploads::{self, Owner},
};
use davit_test::{S3, TempDir, noise};
use futures_util::{TryStreamExt as _, stream};

use crate::bench::{Bench, SETTINGS, name, runtime};

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    /// The server never sees it.
    Lost,
    /// It is done, and the reply is lost.
    ReplyLost,
    /// It is done, and half of the reply comes.
    ReplyHalf,
    /// It is not done, and answered with this.
    Refused(&'static str),
}

const TROUBLES: [Trouble; 5] = [
    Trouble::Lost,
    Trouble::ReplyLost,
    Trouble::ReplyHalf,
    Trouble::Refused("500 Internal Server Error"),
    Trouble::Refused("503 Slow Down"),
];

/// Passes requests on, some with trouble; the listener lives as long as the process.
struct Proxy {
    host: String,
    requests: Arc<AtomicUsize>,
}

impl Proxy {
    /// Every second request has trouble.
    fn start(to: &str, trouble: Trouble) -> Self {
        Self::start_by(to, move |number| (number % 2 == 0).then_some(trouble))
    }

    fn start_by(to: &str, trouble: impl Fn(usize) -> Option<Trouble> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(AtomicUsize::new(0));
        let (to, counted) = (to.to_owned(), Arc::clone(&requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let trouble = trouble(number);
                let to = to.clone();
                // A client that goes away is no matter here.
                std::thread::spawn(move || pass(stream, &to, trouble).ok());
            }
        });
        Self { host, requests }
    }
}

/// Reads one request, and answers it once: the connection is closed then.
fn pass(client: TcpStream, to: &str, trouble: Option<Trouble>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
        head += &line;
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut client = client;
    match trouble {
        Some(Trouble::Lost) => return Ok(()),
        Some(Trouble::Refused(status)) => {
            let code = "<Error><Code>SlowDown</Code></Error>";
            let length = code.len();
            return write!(
                client,
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{code}"
            );
        }
        _ => {}
    }
    let mut server = TcpStream::connect(to)?;
    server.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    server.write_all(&body)?;
    let mut reply = Vec::new();
    server.read_to_end(&mut reply)?;
    match trouble {
        Some(Trouble::ReplyLost) => Ok(()),
        Some(_) => client.write_all(&reply[..reply.len() / 2]),
        None => client.write_all(&reply),
    }
}

/// SQLite and the object store at this host.
async fn bench(s3: &S3, host: &str, dir: &TempDir) -> Bench {
    let location = StoreLocation::parse(&s3.url_by(host, "p"), []).unwrap();
    let places = Places { root: dir.path().to_owned(), database: None, store: Some(location) };
    Bench::open(places, s3.folder("p"), SETTINGS).await
}

fn body(
    content: &[u8],
) -> impl futures_util::Stream<Item = Result<Bytes, davit_registry::fault::Fault>> + Send + Unpin + use<>
{
    stream::iter([Ok(Bytes::copy_from_slice(content))])
}

/// Pushes in every way, reads in parts, checks, collects.
async fn works(bench: &Bench) {
    let node = &bench.registry;
    let owner = Owner { name: name("a/b"), account: None };
    let small = bench.push_blob("a/b", b"small").await;
    let large = noise(20 << 20);
    let whole = bench.push_blob("a/b", &large).await;
    let session = uploads::begin(node, &owner, Algorithm::Sha256).await.unwrap();
    let (head, tail) = large.split_at(11 << 20);
    uploads::append(node, &owner, session.id, None, body(tail)).await.unwrap();
    let turned = Digest::of(&[tail, head].concat());
    uploads::finish(node, &owner, (session.id, None), turned, body(head)).await.unwrap();
    let empty = bench.push_blob("a/b", b"").await;
    for (digest, expected) in
        [(small, &b"small"[..]), (whole, &large), (turned, &[tail, head].concat()), (empty, b"")]
    {
        let blob = blobs::find(node, &name("a/b"), &digest).await.unwrap();
        let length = expected.len();
        for range in [0..length, length / 2..length, length / 3..length / 2, 0..0] {
            let asked = range.start as u64..range.end as u64;
            let pieces = node.store.read(&blob.key).unwrap().part(asked).await.unwrap();
            let read: Vec<_> = pieces.try_collect().await.unwrap();
            assert!(read.concat() == expected[range.clone()], "{digest} {range:?}");
        }
    }
    assert_eq!(bench.check(Repair::No).await, []);
    bench.pass(std::time::Duration::from_secs(30 * 24 * 3600));
    for _ in 0..3 {
        bench.pass(std::time::Duration::from_secs(24 * 3600));
        assert_eq!(bench.collect().await.lost, 0);
    }
    assert_eq!(bench.check(Repair::No).await, []);
    assert!(bench.objects().is_empty(), "what was done without a reply is collected too");
}

#[test]
fn requests_and_replies_may_be_lost() {
    let Some(s3) = S3::start() else { return };
    runtime().block_on(async {
        for trouble in TROUBLES {
            let (proxy, dir) = (Proxy::start(s3.host(), trouble), TempDir::new());
            works(&bench(&s3, &proxy.host, &dir).await).await;
            assert!(proxy.requests.load(Ordering::SeqCst) > 20, "{trouble:?}");
        }
    });
}

/// Credentials that ended: everything is refused until there are others.
#[test]
fn what_is_refused_leaves_nothing_and_can_be_done_later() {
    let Some(s3) = S3::start() else { return };
    let is_over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_over);
    let proxy = Proxy::start_by(s3.host(), move |_number| {
        seen.load(Ordering::SeqCst).then_some(Trouble::Refused("403 Forbidden"))
    });
    runtime().block_on(async {
        let dir = TempDir::new();
        let bench = bench(&s3, &proxy.host, &dir).await;
        let (node, owner) = (&bench.registry, Owner { name: name("a/b"), account: None });
        let kept = bench.push_blob("a/b", b"kept").await;
        let large = noise(9 << 20);
        let digest = Digest::of(&large);
        let session = uploads::begin(node, &owner, Algorithm::Sha256).await.unwrap();
        is_over.store(true, Ordering::SeqCst);
        uploads::append(node, &owner, session.id, None, body(&large)).await.unwrap_err();
        assert!(node.store.probe().await.is_err());
        is_over.store(false, Ordering::SeqCst);
        assert_eq!(bench.check(Repair::No).await, []);
        uploads::finish(node, &owner, (session.id, None), digest, body(&large)).await.unwrap();
        for digest in [kept, digest] {
            blobs::find(node, &name("a/b"), &digest).await.unwrap();
        }
        assert_eq!(bench.check(Repair::No).await, []);
    });
}

#[test]
fn another_server_works_too() {
    let Some(s3) = S3::start_moto() else { return };
    runtime().block_on(async {
        let dir = TempDir::new();
        let bench = bench(&s3, s3.host(), &dir).await;
        bench.registry.store.probe().await.unwrap();
        works(&bench).await;
    });
}

#[test]
fn wrong_settings_show_at_once() {
    let Some(s3) = S3::start() else { return };
    runtime().block_on(async {
        for (right, wrong) in [("wonderland", "looking-glass"), ("s3://bucket", "s3://absent")] {
            let url = s3.url("p").replace(right, wrong);
            let location = StoreLocation::parse(&url, []).unwrap();
            let refused = Store::open(&location).unwrap().probe().await;
            assert!(refused.is_err(), "{wrong}");
        }
    });
}
