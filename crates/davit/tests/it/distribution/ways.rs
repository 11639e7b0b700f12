//! Ways to a registry: mirrors, proxies, client certificates; and what is told on the way.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use davit_engine::image::Platform;
use davit_test::{Access, Content, Davit, HttpServer, Outcome, Registry, Reply, noise, tar_of};

use super::{configure, davit, layer, serve};

fn run_with(davit: &Davit, variables: &[(&str, &str)], arguments: &[&str]) -> Outcome {
    let mut command = davit.command(arguments);
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_lowercase());
    }
    Outcome::from(command.envs(variables.iter().copied()).output().unwrap())
}

#[test]
fn a_mirror_with_wrong_bytes_is_left() {
    let mut content = Content::default();
    let big = tar_of(&[("noise", &noise(400_000))]);
    let image = content.add_image("1", &Platform::host(), &[layer("a"), big]);
    // One bit of a layer at its end, of a small layer, of the config; and a wrong length.
    let blobs = [image.layers[1].digest, image.layers[0].digest, image.id, image.layers[1].digest];
    for (case, blob) in blobs.into_iter().enumerate() {
        let (wrong, right) = (content.clone(), content.clone());
        let mirror = HttpServer::start(move |request| {
            if request.method != "GET" || !request.path.ends_with(&blob.to_string()) {
                return wrong.serve(request);
            }
            let mut bytes = wrong.blob(&blob).unwrap().to_vec();
            match case {
                3 => bytes.truncate(1000),
                _ => *bytes.last_mut().unwrap() ^= 1,
            }
            Reply::ok(bytes)
        });
        let server = HttpServer::start(move |request| right.serve(request));
        let davit = davit();
        let mirrors = format!("mirrors = [\"http://{}\"]", mirror.host());
        configure(&davit, &format!("[registry.\"{}\"]\n{mirrors}\n", server.host()));
        let name = format!("{}/x:1", server.host());
        let outcome = davit.run(["pull", &name]);
        let told = format!("{case}: {}", outcome.stderr);
        assert_eq!(outcome.code, 0, "{told}");
        assert!(outcome.stderr.contains(&format!("Digest: {}", image.manifest.digest)), "{told}");
        assert!(outcome.stderr.lines().any(|line| line.starts_with("warning: ")), "{told}");
        assert!(mirror.requests().iter().any(|r| r.path.ends_with(&blob.to_string())), "{told}");
        assert!(server.requests().iter().any(|r| r.path.ends_with(&blob.to_string())), "{told}");
        davit.ok(["system", "check"]);
    }
}

#[test]
fn another_try_is_told() {
    let mut content = Content::default();
    content.add_image("1", &Platform::host(), &[layer("a")]);
    let asked = AtomicUsize::new(0);
    let server = HttpServer::start(move |request| match asked.fetch_add(1, Ordering::Relaxed) {
        // A GET after a HEAD is no other try yet.
        0 | 1 => Reply::status(503),
        _ => content.serve(request),
    });
    let name = format!("{}/x:1", server.host());
    let outcome = davit().run(["pull", &name]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let warned = |line: &str| line.starts_with("warning: ") && line.contains("; try 2 of ");
    assert!(outcome.stderr.lines().any(warned), "{}", outcome.stderr);
}

/// 0.0.0.0 leads here, but is no loopback address.
#[test]
fn plain_http_where_tls_is_due_is_told_at_once() {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let contacts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&contacts);
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let _refused = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").unwrap();
        }
    });
    let davit = davit();
    let name = format!("{host}/x:1");
    for arguments in [&["pull", &name][..], &["login", "-u", "a", "-p", "b", &host]] {
        let before = contacts.load(Ordering::Relaxed);
        let outcome = run_with(&davit, &[], arguments);
        assert_eq!(outcome.code, 1, "{}", outcome.stderr);
        let told = "server gave HTTP response to HTTPS client";
        assert!(outcome.stderr.contains(told), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("hint: set `insecure = true`"), "{}", outcome.stderr);
        assert_eq!(contacts.load(Ordering::Relaxed) - before, 1, "{}", outcome.stderr);
    }
}

/// Each text of a host is told once, by pull and by push.
#[test]
fn what_a_registry_warns_of_is_told() {
    let mut content = Content::default();
    content.add_image("1", &Platform::host(), &[layer("a"), layer("b")]);
    let long = "x".repeat(2000);
    let server = HttpServer::start(move |request| {
        let reply = match request.method.as_str() {
            "GET" | "HEAD" if request.path.starts_with("/v2/x/") => content.serve(request),
            "HEAD" => Reply::status(404),
            "PUT" => Reply::status(201),
            _ => Reply::status(202).header("Location", "/v2/y/blobs/uploads/1"),
        };
        let path = if request.path.contains("manifests") { "old" } else { "full" };
        reply
            .header("Warning", format!("299 - \"{path} \u{9b}2J{long}\", 110 - \"stale\""))
            .header("Warning", "299 - \"\\\"quoted\\\"\"")
    });
    let (davit, host) = (davit(), server.host());
    let (x, y) = (format!("{host}/x:1"), format!("{host}/y:1"));
    let outcomes = [davit.run(["pull", &x]), {
        davit.ok(["tag", &x, &y]);
        davit.run(["push", &y])
    }];
    for outcome in outcomes {
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let prefix = format!("warning: {host} says: ");
        let mut told: Vec<_> =
            outcome.stderr.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
        told.sort_unstable();
        let starts = ["\"quoted\"", "full  2Jxxx", "old  2Jxxx"];
        assert_eq!(told.len(), starts.len(), "{}", outcome.stderr);
        for (text, start) in told.iter().zip(starts) {
            assert!(text.starts_with(start) && text.chars().count() < 500, "{text}");
        }
        assert!(!outcome.stderr.contains('\u{9b}'), "{}", outcome.stderr);
    }
}

#[test]
fn plain_http_goes_through_a_proxy_unless_excepted() {
    let mut content = Content::default();
    content.add_image("1", &Platform::host(), &[layer("a")]);
    let proxy = serve(content);
    let davit = davit();
    configure(&davit, "[registry.\"registry.invalid\"]\ninsecure = true\n");
    let proxy_url = format!("http://{}", proxy.host());
    let pull = ["pull", "-q", "registry.invalid/x:1"];
    for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let asked = proxy.requests().len();
        let outcome = run_with(&davit, &[(name, &proxy_url)], &pull);
        assert_eq!(outcome.code, 0, "{name}: {}", outcome.stderr);
        let lines = proxy.lines().split_off(asked);
        let manifest = "http://registry.invalid/v2/x/manifests/1";
        assert!(lines.iter().any(|line| line.ends_with(manifest)), "{name}: {lines:?}");
    }
    for exception in ["registry.invalid", ".invalid", "*"] {
        let asked = proxy.requests().len();
        let variables = [("HTTP_PROXY", &*proxy_url), ("NO_PROXY", exception)];
        let outcome = run_with(&davit, &variables, &pull);
        assert_eq!(outcome.code, 1, "{exception}: nobody has that name");
        assert_eq!(proxy.requests().len(), asked, "{exception}");
    }
}

/// A proxy that tunnels to one address, whatever name it is asked for.
fn tunnel(target: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let (target, log) = (target.clone(), Arc::clone(&log));
            std::thread::spawn(move || carry(&client, &target, &log));
        }
    });
    (address, asked)
}

fn carry(mut client: &TcpStream, target: &str, log: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    log.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
    let Ok(server) = TcpStream::connect(target) else { return };
    if client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").is_err() {
        return;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            drop(std::io::copy(&mut &server, &mut &*client));
            drop(client.shutdown(Shutdown::Both));
        });
        drop(std::io::copy(&mut client, &mut &server));
        drop(server.shutdown(Shutdown::Both));
    });
}

#[test]
fn https_goes_through_a_tunnel() {
    let Some(registry) = Registry::start(Access::PasswordAndTls) else { return };
    let (address, asked) = tunnel(registry.host());
    let davit = davit();
    // Nobody but the proxy knows where that is.
    let host = "registry.invalid:65000";
    let folder = davit.dir().join(".config/containers/certs.d").join(host);
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::copy(registry.ca_file(), folder.join("ca.crt")).unwrap();
    let variables = [("HTTPS_PROXY", &*format!("http://{address}"))];
    let login = ["login", "-u", "alice", "-p", "wonderland", host];
    let outcome = run_with(&davit, &variables, &login);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let tar = davit.dir().join("layer.tar");
    fs_err::write(&tar, layer("a")).unwrap();
    let name = format!("{host}/x:1");
    davit.ok(["import", tar.to_str().unwrap(), &name]);
    let pushed = run_with(&davit, &variables, &["push", "-q", &name]);
    assert_eq!(pushed.code, 0, "{}", pushed.stderr);
    davit.ok(["rmi", "-f", &name]);
    let pulled = run_with(&davit, &variables, &["pull", "-q", &name]);
    assert_eq!(pulled.code, 0, "{}", pulled.stderr);
    let asked = asked.lock().unwrap();
    assert!(!asked.is_empty());
    assert!(
        asked.iter().all(|line| line == "CONNECT registry.invalid:65000 HTTP/1.1"),
        "{asked:?}"
    );
}

#[test]
fn a_client_certificate_is_shown() {
    let Some(registry) = Registry::start(Access::ClientCertificate) else { return };
    let davit = davit();
    let host = registry.host();
    let folder = davit.dir().join(".docker/certs.d").join(&host);
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::copy(registry.ca_file(), folder.join("ca.crt")).unwrap();
    let tar = davit.dir().join("layer.tar");
    fs_err::write(&tar, layer("a")).unwrap();
    let name = format!("{host}/x:1");
    davit.ok(["import", tar.to_str().unwrap(), &name]);
    let nameless = davit.run(["push", "-q", &name]);
    assert_eq!(nameless.code, 1, "the registry wants a certificate: {}", nameless.stderr);
    for (file, extension) in registry.client_files().into_iter().zip(["cert", "key"]) {
        fs_err::copy(file, folder.join("client").with_extension(extension)).unwrap();
    }
    davit.ok(["push", "-q", &name]);
    davit.ok(["rmi", "-f", &name]);
    davit.ok(["pull", "-q", &name]);
}

/// `keep_blobs = "never"`: no compressed layer stays, and everything works without.
#[test]
fn blobs_need_not_be_kept() {
    let Some(registry) = Registry::start(Access::Open) else { return };
    let mut content = Content::default();
    let tars = [layer("a"), tar_of(&[("noise", &noise(100_000))])];
    let image = content.add_image("1", &Platform::host(), &tars);
    let server = serve(content);
    let davit = davit();
    configure(&davit, "[store]\nkeep_blobs = \"never\"\n");
    let name = format!("{}/x:1", server.host());
    davit.ok(["pull", "-q", &name]);
    let blob = |digest: &davit_engine::image::Digest| {
        davit.root().join("blobs/sha256").join(digest.hex()).exists()
    };
    assert!(image.layers.iter().all(|layer| !blob(&layer.digest)));
    assert!(blob(&image.id) && blob(&image.manifest.digest));
    let again = davit.run(["pull", &name]);
    assert!(again.stderr.contains("Image is up to date"), "{}", again.stderr);
    davit.ok(["system", "check"]);
    let archive = davit.dir().join("image.tar");
    davit.ok(["save", "-o", archive.to_str().unwrap(), &name]);
    let pushed = format!("{}/x:1", registry.host());
    davit.ok(["tag", &name, &pushed]);
    davit.ok(["push", "-q", &pushed]);
    davit.ok(["rmi", "-f", &name, &pushed]);
    davit.ok(["load", "-q", "-i", archive.to_str().unwrap()]);
    davit.ok(["rmi", "-f", &name]);
    let other = super::davit();
    other.ok(["pull", "-q", &pushed]);
    let id = other.ok(["images", "-q", "--no-trunc"]);
    assert_eq!(id, image.id.to_string(), "the config is the same, whatever was compressed anew");
}
