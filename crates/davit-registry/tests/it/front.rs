//! Requests on one connection, as clients and attackers send them.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
};

use davit_registry::config::Limits;
use davit_test::TempDir;

use crate::fixture::{Reply, TestRegistry, blob};

/// Reads one reply, whose body has the length that its head says.
fn read_reply(stream: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        bytes.push(byte[0]);
    }
    let head = Reply::parse(&bytes);
    let length = head.header("content-length").map_or(0, |length| length.parse().unwrap());
    let start = bytes.len();
    bytes.resize(start + length, 0);
    stream.read_exact(&mut bytes[start..]).unwrap();
    Reply::parse(&bytes)
}

fn get(target: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n").into_bytes()
}

/// What a server sends until it closes the connection.
fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn many_requests_share_a_connection_whichever_way_they_take() {
    let registry = TestRegistry::start();
    let content = davit_test::noise(5 << 20);
    let digest = registry.push_blob("a", &content);
    let target = blob("a", &digest);
    let mut stream = registry.connect();
    // All at once, and the heads cut anywhere.
    let both = [get("/v2/", ""), get(&target, "Range: bytes=0-9\r\n"), get("/v2/b", "")].concat();
    for cut in [1, 15, both.len() / 2, both.len() - 3] {
        stream.write_all(&both[..cut]).unwrap();
        stream.write_all(&both[cut..]).unwrap();
        assert_eq!(read_reply(&mut stream).status, 200);
        assert_eq!(read_reply(&mut stream).body, content[..10]);
        assert_eq!(read_reply(&mut stream).status, 404);
    }
    // A reply that does not fit into the socket's buffers, to a client that reads late.
    stream.write_all(&get(&target, "")).unwrap();
    std::thread::yield_now();
    assert_eq!(read_reply(&mut stream).body, content);
    // A body that comes with the head of the next request.
    let session = registry.begin("a", "");
    let part =
        format!("PATCH {session} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello");
    let both = [part.as_bytes(), &get(&session, "")].concat();
    stream.write_all(&both).unwrap();
    assert_eq!(read_reply(&mut stream).status, 202);
    assert_eq!(read_reply(&mut stream).header("range"), Some("0-4"));
    // Hyper's for the rest of the connection, with what was read ahead.
    let both = [get("/healthz", ""), get(&target, "Range: bytes=5-9\r\n")].concat();
    stream.write_all(&both).unwrap();
    assert_eq!(read_reply(&mut stream).body, b"ok\n");
    assert_eq!(read_reply(&mut stream).body, content[5..10]);
    stream.write_all(&get(&target, "Connection: close\r\n")).unwrap();
    assert!(rest(stream).ends_with(&content[content.len() - 100..]));
}

#[test]
fn a_connection_ends_when_it_was_asked_to() {
    let registry = TestRegistry::start();
    let mut stream = registry.connect();
    stream.write_all(&get("/v2/", "Connection: close\r\n")).unwrap();
    let reply = Reply::parse(&rest(stream));
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    // A head that is cut off.
    let mut stream = registry.connect();
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHo").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(stream), b"");
    // One that waits does not keep the server from its end.
    let mut stream = registry.connect();
    stream.write_all(&get("/v2/", "")).unwrap();
    assert_eq!(read_reply(&mut stream).status, 200);
    registry.stop();
    assert_eq!(rest(stream), b"");
}

#[test]
fn requests_whose_end_is_disputed_are_refused() {
    let registry = TestRegistry::start();
    let hidden = "GET /v2/hidden/tags/list HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // Hyper's bound is one of what it has read before it reads more: what comes at once may be twice as long.
    let long = format!("A: {}\r\n", "b".repeat(1 << 20));
    for (fields, status) in [
        ("Content-Length: 5\r\nContent-Length: 6\r\n", 400),
        ("Content-Length: +5\r\n", 400),
        ("Content-Length : 5\r\n", 400),
        ("Transfer-Encoding : chunked\r\n", 400),
        ("Transfer-Encoding: identity\r\n", 400),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", 400),
        ("A: b\r\n c\r\n", 400),
        (&*long, 431),
        (&*"A: b\r\n".repeat(101), 431),
    ] {
        let mut stream = registry.connect();
        let head = format!("POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        // It may have refused before all is sent.
        let _refused = stream.write_all(head.as_bytes());
        let _refused = stream.write_all(hidden.as_bytes());
        let mut bytes = Vec::new();
        let _reset = stream.read_to_end(&mut bytes);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{fields:.80}: {text}");
        assert!(!text.contains("NAME_UNKNOWN"), "{fields:.80}: {text}");
    }
}

#[test]
fn a_refusal_is_read_though_the_body_was_not() {
    let registry = TestRegistry::with(Limits { blob_bytes: 1000, ..Limits::default() });
    let session = registry.begin("a", "");
    let body = vec![1; 3 << 20];
    let head = format!(
        "PATCH {session} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = registry.connect();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    let reply = Reply::parse(&rest(stream));
    assert_eq!((reply.status, reply.header("connection")), (413, Some("close")));
}

#[test]
fn trusted_proxies_say_who_asks() {
    let serving = |networks: &[&str]| {
        let networks = networks.iter().map(|text| text.parse().unwrap()).collect();
        TestRegistry::serving(TempDir::new(), |settings| {
            settings.limits.pulls.address = Some("100/6h".parse().unwrap());
            settings.proxies.networks = networks;
        })
    };
    let source = |registry: &TestRegistry, fields: &[(&str, &str)]| {
        let reply = registry.send("HEAD", "/v2/a/b/manifests/v1", fields, b"");
        reply.header("docker-ratelimit-source").unwrap().to_owned()
    };
    let told = [("X-Forwarded-For", "203.0.113.1, 198.51.100.7"), ("Forwarded", "for=203.0.113.1")];
    assert_eq!(source(&serving(&[]), &told), "127.0.0.1", "nobody is believed");
    let registry = serving(&["192.0.2.0/24", "127.0.0.1"]);
    assert_eq!(source(&registry, &told), "198.51.100.7");
    assert_eq!(source(&registry, &told[1..]), "127.0.0.1", "proxies do not write that one");
    assert_eq!(source(&registry, &[]), "127.0.0.1");
}

/// A page whose own name leads to this machine may not ask as if it were this machine.
#[test]
fn without_authentication_other_sites_names_are_refused() {
    let ask = |registry: &TestRegistry, method: &str, target: &str, host: &str| {
        let mut stream = registry.connect();
        let fields = "Connection: close\r\nContent-Length: 0\r\n";
        let head = format!("{method} {target} HTTP/1.1\r\n{host}{fields}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let reply = Reply::parse(&rest(stream));
        (reply.status, String::from_utf8_lossy(&reply.body).into_owned())
    };
    let is_refused = |registry: &TestRegistry, host: &str| {
        let upload = ask(registry, "POST", "/v2/a/blobs/uploads/", host);
        let pages = ["/", "/v2/", "/api/v1/repositories", "/healthz"]
            .map(|target| ask(registry, "GET", target, host));
        let refused = pages.iter().chain([&upload]).filter(|(status, text)| {
            assert_eq!(*status == 421, text.contains("--public-url"), "{text}");
            *status == 421
        });
        match refused.count() {
            0 => false,
            5 => true,
            other => panic!("{other} of 5 are refused"),
        }
    };
    let open = TestRegistry::serving(TempDir::new(), |settings| {
        settings.auth = false;
        settings.public_url = Some("https://registry.example:8443".to_owned());
    });
    for host in ["localhost:5000", "127.0.0.1:5000", "[::1]", "registry.example"] {
        assert!(!is_refused(&open, &format!("Host: {host}\r\n")), "{host}");
    }
    for host in
        ["rebound.example:5000", "localhost.rebound.example", "registry.example.rebound.example"]
    {
        assert!(is_refused(&open, &format!("Host: {host}\r\n")), "{host}");
    }
    assert!(is_refused(&open, "Host: localhost\r\nHost: rebound.example\r\n"));
    // The connection goes on behind a refusal without a body.
    let mut stream = open.connect();
    let asks = ["HEAD /v2/ HTTP/1.1\r\nHost: rebound.example\r\n\r\n".as_bytes(), &get("/v2/", "")];
    stream.write_all(&asks.concat()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 421");
    while !head.ends_with(b"\r\n\r\n") {
        head.rotate_left(1);
        stream.read_exact(&mut head[11..]).unwrap();
    }
    assert_eq!(read_reply(&mut stream).status, 200);
    // Who may do what is asked there: any name may lead to the server.
    let asking = TestRegistry::with_accounts(None);
    assert!(!is_refused(&asking, "Host: rebound.example\r\n"));
}
