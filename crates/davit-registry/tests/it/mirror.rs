//! Pull-through from real registries, and from servers that misbehave.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use davit_distribution::{Access, Client, ClientConfig, Secret, Target};
use davit_image::{Digest, MediaType};
use davit_registry::{
    blobs,
    config::Limits,
    gc::{self, GcSettings, Mode},
    manifests::{self, Target as ByName},
    mirror::{AddMirror, MirrorRow, MirrorSettings, Who},
    name::RepositoryName,
};
use davit_test::{HttpServer, Reply as Answer, Request};
use serde_json::json;

use crate::fixture::{INDEX, MANIFEST, TestRegistry, blob, bytes, descriptor, image};

const LAYER: &[u8] = b"a layer of some bytes";
const CONFIG: &[u8] = b"{}";

fn settings() -> MirrorSettings {
    MirrorSettings { pull: Who::Everyone, fill: Who::Everyone, ..MirrorSettings::default() }
}

fn add(registry: &TestRegistry, upstream: &str, is_default: bool, settings: MirrorSettings) {
    let (name, upstream) = ("up.test".to_owned(), upstream.to_owned());
    let add = AddMirror(MirrorRow { name, upstream, is_default, settings });
    registry.run(registry.registry().database.write(add)).unwrap();
}

/// Pushes an image to a registry without accounts; its manifest.
fn push(registry: &TestRegistry, name: &str, tag: &str, layer: &[u8]) -> Vec<u8> {
    registry.push_blob(name, CONFIG);
    registry.push_blob(name, layer);
    let manifest = image(CONFIG, &[layer]);
    assert_eq!(registry.push_manifest(name, tag, &manifest).status, 201);
    bytes(&manifest)
}

fn has_blob(registry: &TestRegistry, name: &str, digest: &Digest) -> bool {
    let name: RepositoryName = name.parse().unwrap();
    registry.run(blobs::find(&registry.registry(), &name, digest)).is_ok()
}

#[test]
fn another_registry_is_reached_by_name_path_and_default() {
    let upstream = TestRegistry::start();
    let pushed = push(&upstream, "library/app", "v1", LAYER);
    let mirror = TestRegistry::start();
    push(&mirror, "library/own", "v1", b"own");
    add(&mirror, &upstream.host(), true, settings());
    for target in [
        "/v2/library/app/manifests/v1?ns=up.test".to_owned(),
        format!("/v2/library/app/manifests/v1?ns={}", upstream.host()),
        "/v2/up.test/library/app/manifests/v1".to_owned(),
        "/v2/library/app/manifests/v1".to_owned(),
    ] {
        let got = mirror.get(&target);
        assert_eq!((got.status, &got.body), (200, &pushed), "{target}");
        assert_eq!(got.header("content-type"), Some(MANIFEST), "{target}");
    }
    let digest = Digest::of(LAYER);
    for target in ["/v2/up.test/library/app", "/v2/library/app"] {
        for _ in 0..2 {
            let got = mirror.get(&format!("{target}/blobs/{digest}"));
            assert_eq!((got.status, got.body.as_slice()), (200, LAYER));
        }
        let tags = mirror.get(&format!("{target}/tags/list"));
        assert_eq!(tags.json()["tags"], json!(["v1"]), "{target}");
    }
    let config = format!("/v2/up.test/library/app/blobs/{}", Digest::of(CONFIG));
    let part = mirror.send("GET", &config, &[("Range", "bytes=1-1")], b"");
    assert_eq!((part.status, part.body.as_slice()), (206, &b"}"[..]));
    let head = mirror.send("HEAD", &config, &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, Some("2")));
    // It is a registry all the same.
    assert_eq!(mirror.get("/v2/library/own/manifests/v1").status, 200);
    assert_eq!(mirror.get("/v2/library/none/manifests/v1").error().0, 404);
    assert_eq!(mirror.get("/v2/up.test/library/app/manifests/v2").error().0, 404);
    push(&mirror, "alice/app", "v1", LAYER);
    let refused = mirror.send("POST", "/v2/up.test/library/app/blobs/uploads/", &[], b"");
    assert_eq!(refused.error(), (405, "UNSUPPORTED".to_owned()));
    // What is here is served without the upstream.
    drop(upstream.stop());
    assert_eq!(mirror.get("/v2/up.test/library/app/manifests/v1").body, pushed);
    assert_eq!(mirror.get(&format!("/v2/up.test/library/app/blobs/{digest}")).body, LAYER);
}

#[test]
fn what_refers_to_an_image_is_found() {
    let upstream = TestRegistry::start();
    let subject = push(&upstream, "team/app", "v1", LAYER);
    let subject = descriptor(MANIFEST, &subject);
    let referrer = |kind: &str| {
        let mut manifest = image(CONFIG, &[LAYER]);
        manifest["subject"] = subject.clone();
        manifest["artifactType"] = kind.into();
        assert_eq!(upstream.push_manifest("team/app", kind, &manifest).status, 201);
        bytes(&manifest)
    };
    let (signature, bill) = (referrer("example.signature"), referrer("example.bill"));
    let mirror = TestRegistry::start();
    add(&mirror, &upstream.host(), true, settings());
    let digest = subject["digest"].as_str().unwrap();
    let listed = |registry: &TestRegistry, path: &str| {
        let reply = registry.get(path);
        assert_eq!(reply.status, 200, "{path}");
        let list = reply.json()["manifests"].as_array().unwrap().clone();
        list.iter().map(|one| one["digest"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let path = format!("/v2/up.test/team/app/referrers/{digest}");
    let all = listed(&upstream, &format!("/v2/team/app/referrers/{digest}"));
    assert_eq!(all.len(), 2);
    for target in [
        path.clone(),
        format!("/v2/team/app/referrers/{digest}?ns=up.test"),
        format!("/v2/team/app/referrers/{digest}"),
    ] {
        assert_eq!(listed(&mirror, &target), all, "{target}");
    }
    let signatures = format!("{path}?artifactType=example.signature");
    let signature_digest = Digest::of(&signature).to_string();
    assert_eq!(listed(&mirror, &signatures).concat(), signature_digest);
    assert_eq!(mirror.get(&signatures).header("oci-filters-applied"), Some("artifactType"));
    // What was pulled of them is there without the upstream; of the others it is known that they are.
    let got = mirror.get(&format!("/v2/up.test/team/app/manifests/{signature_digest}"));
    assert_eq!(got.body, signature);
    drop(upstream.stop());
    assert_eq!(listed(&mirror, &path), all);
    assert_eq!(listed(&mirror, &signatures).concat(), signature_digest);
    // That is forgotten with the server.
    let mirror = TestRegistry::at(mirror.stop(), Limits::default());
    assert_eq!(listed(&mirror, &path).concat(), signature_digest);
    let bill = mirror.get(&format!("/v2/up.test/team/app/manifests/{}", Digest::of(&bill)));
    assert_ne!(bill.status, 200);
}

/// A list of referrers is asked for once, by whoever comes first, and served while the upstream is away.
#[test]
fn referrers_are_believed_as_long_as_tags() {
    let (subject, named) = (Digest::of(b"subject"), Digest::of(b"named"));
    let (asked, is_away) = (Arc::new(AtomicU16::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, away) = (Arc::clone(&asked), Arc::clone(&is_away));
    let upstream = HttpServer::start(move |request| {
        if !request.path.contains("/referrers/") {
            return Answer::ok("{}");
        }
        count.fetch_add(1, Ordering::SeqCst);
        if away.load(Ordering::SeqCst) {
            return Answer::status(403);
        }
        let entry = json!({ "mediaType": MANIFEST, "digest": named.to_string(), "size": 2 });
        let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
        Answer::ok(list.to_string()).header("Content-Type", INDEX)
    });
    let path = format!("/v2/up.test/team/app/referrers/{subject}");
    let at_once = |mirror: &TestRegistry| {
        std::thread::scope(|scope| {
            let asks = [(); 4].map(|()| scope.spawn(|| mirror.get_once(&path).json()));
            for list in asks.map(|one| one.join().unwrap()) {
                assert_eq!(list["manifests"][0]["digest"], named.to_string(), "{list}");
            }
        });
        asked.swap(0, Ordering::SeqCst)
    };
    let insecure = MirrorSettings { insecure: true, ..settings() };
    let mirror = TestRegistry::start();
    add(&mirror, &upstream.host(), false, insecure.clone());
    assert_eq!(at_once(&mirror), 1);
    is_away.store(true, Ordering::SeqCst);
    assert_eq!(at_once(&mirror), 0, "they are believed");
    is_away.store(false, Ordering::SeqCst);
    let mirror = TestRegistry::start();
    add(&mirror, &upstream.host(), false, MirrorSettings { ttl_seconds: 0, ..insecure });
    assert_eq!(at_once(&mirror), 4, "each is a new question");
    is_away.store(true, Ordering::SeqCst);
    assert!(at_once(&mirror) > 0, "what was known is served");
}

/// What an upstream lists is not what it gives: the manifest is refused, and nothing of it is kept.
#[test]
fn a_referrer_with_other_bytes_is_refused() {
    let subject = Digest::of(b"subject");
    let named = Digest::of(b"named");
    let upstream = HttpServer::start(move |request| {
        if request.path.contains("/referrers/") {
            let entry = json!({ "mediaType": MANIFEST, "digest": named.to_string(), "size": 2 });
            let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
            return Answer::ok(list.to_string()).header("Content-Type", INDEX);
        }
        if request.path.contains("/manifests/") {
            let other = bytes(&image(CONFIG, &[LAYER]));
            return Answer::ok(other).header("Content-Type", MANIFEST);
        }
        Answer::ok("{}")
    });
    let mirror = TestRegistry::start();
    let insecure = MirrorSettings { insecure: true, ..settings() };
    add(&mirror, &upstream.host(), false, insecure);
    let listed = mirror.get(&format!("/v2/up.test/team/app/referrers/{subject}")).json();
    assert_eq!(listed["manifests"][0]["digest"], named.to_string());
    let got = mirror.get_once(&format!("/v2/up.test/team/app/manifests/{named}"));
    assert_eq!(got.status, 502);
    let name: RepositoryName = "up.test/team/app".parse().unwrap();
    let kept = mirror.run(manifests::find(&mirror.registry(), &name, &ByName::Digest(named)));
    assert!(kept.is_err());
}

#[test]
fn the_docker_registry_is_mirrored() {
    let Some(upstream) = davit_test::Registry::start(davit_test::Access::Open) else { return };
    let mirror = TestRegistry::start();
    let manifest = bytes(&image(CONFIG, &[LAYER]));
    mirror.run(async {
        let client = Client::new(ClientConfig::default());
        let repository = format!("{}/team/app", upstream.host()).parse().unwrap();
        let session = client.session(&repository, Access::Push);
        session.upload_bytes(CONFIG.to_vec().into()).await.unwrap();
        session.upload_bytes(LAYER.to_vec().into()).await.unwrap();
        let (tag, kind) = (Target::Tag("v1".parse().unwrap()), MediaType::OCI_MANIFEST);
        session.put_manifest(&tag, &kind, manifest.clone()).await.unwrap();
    });
    add(&mirror, &upstream.host(), false, settings());
    assert_eq!(mirror.get("/v2/up.test/team/app/manifests/v1").body, manifest);
    let by_digest = format!("/v2/up.test/team/app/manifests/{}", Digest::of(&manifest));
    assert_eq!(mirror.get(&by_digest).body, manifest);
    assert_eq!(mirror.get(&blob("up.test/team/app", &Digest::of(LAYER))).body, LAYER);
    assert_eq!(mirror.get("/v2/up.test/team/app/tags/list").json()["tags"], json!(["v1"]));
    assert_eq!(mirror.get("/v2/up.test/team/none/manifests/v1").status, 404);
}

/// An upstream of one blob, which sends half of it and waits for a word before the rest.
struct Slow {
    host: String,
    go_on: mpsc::Sender<()>,
    asked: Arc<AtomicU16>,
}

impl Slow {
    fn start(content: Vec<u8>, size: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (go_on, wait) = mpsc::channel();
        let (asked, wait) = (Arc::new(AtomicU16::new(0)), Arc::new(Mutex::new(wait)));
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (content, count, wait) = (content.clone(), count.clone(), wait.clone());
                thread::spawn(move || serve(&stream, (&content, size), &count, &wait));
            }
        });
        Self { host, go_on, asked }
    }
}

fn serve(
    mut stream: &TcpStream,
    (content, size): (&[u8], usize),
    count: &AtomicU16,
    wait: &Mutex<mpsc::Receiver<()>>,
) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let answer = if head.contains("/blobs/") {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")
        } else {
            "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned()
        };
        // A client that goes is part of the play.
        let _sent = stream.write_all(answer.as_bytes());
        if head.starts_with("GET") && head.contains("/blobs/") {
            count.fetch_add(1, Ordering::SeqCst);
            let _sent = stream.write_all(&content[..content.len() / 2]);
            let _told = wait.lock().unwrap().recv();
            let _sent = stream.write_all(&content[content.len() / 2..]);
            if content.len() < size {
                return;
            }
        }
    }
}

/// Asks for a blob; the stream after the head, and the declared length.
fn ask(registry: &TestRegistry, target: &str) -> (BufReader<TcpStream>, usize) {
    let mut stream = registry.connect();
    let head = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line).unwrap() > 2 {
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
        line.clear();
    }
    (reader, length)
}

#[test]
fn all_who_wait_read_while_one_fetch_is_under_way() {
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let upstream = Slow::start(content.clone(), content.len());
    let mirror = TestRegistry::start();
    add(&mirror, &upstream.host, false, settings());
    let digest = Digest::of(&content);
    let target = blob("up.test/a/b", &digest);
    let mut readers: Vec<_> = (0..4).map(|_| ask(&mirror, &target)).collect();
    // The upstream has not sent the rest: what all of them read here has come through.
    let mut first = vec![0; content.len() / 2 - 1];
    for (reader, length) in &mut readers {
        assert_eq!(*length, content.len());
        reader.read_exact(&mut first).unwrap();
        assert!(content.starts_with(&first));
    }
    upstream.go_on.send(()).unwrap();
    for (mut reader, _) in readers {
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert!(content.ends_with(&rest) && rest.len() == content.len() - first.len());
    }
    assert_eq!(upstream.asked.load(Ordering::SeqCst), 1);
    assert_eq!(mirror.get(&target).body, content);
    assert_eq!(upstream.asked.load(Ordering::SeqCst), 1);
}

/// A waiter's connection breaks off: wrong bytes never have a good end, and are never kept.
#[test]
fn wrong_bytes_break_off_and_are_not_kept() {
    let content = vec![7; 300_000];
    let digest = Digest::of(&content);
    let mut wrong = content.clone();
    wrong[299_999] = 8;
    let short = content[..200_000].to_vec();
    for sent in [wrong, short] {
        let upstream = Slow::start(sent, content.len());
        let mirror = TestRegistry::start();
        add(&mirror, &upstream.host, false, settings());
        let target = blob("up.test/a/b", &digest);
        let mut readers: Vec<_> = (0..3).map(|_| ask(&mirror, &target).0).collect();
        let mut byte = [0];
        for reader in &mut readers {
            reader.read_exact(&mut byte).unwrap();
        }
        // Once for each try; a short body is asked for again.
        for _ in 0..20 {
            upstream.go_on.send(()).unwrap();
        }
        let read = readers.into_iter().map(|mut reader| {
            let mut rest = Vec::new();
            let _reset = reader.read_to_end(&mut rest);
            rest.len() + 1
        });
        for read in read {
            assert!(read < content.len(), "{read}");
        }
        assert!(upstream.asked.load(Ordering::SeqCst) > 0);
        assert!(!has_blob(&mirror, "up.test/a/b", &digest));
        assert!(mirror.dir.join("registry/blobs/sha256").read_dir().unwrap().next().is_none());
    }
}

/// A scripted upstream of one manifest.
struct Scripted {
    server: HttpServer,
    status: Arc<AtomicU16>,
    manifest: Arc<Mutex<Vec<u8>>>,
}

impl Scripted {
    fn start() -> Self {
        let status = Arc::new(AtomicU16::new(200));
        let manifest = Arc::new(Mutex::new(bytes(&image(CONFIG, &[LAYER]))));
        let (now, body) = (Arc::clone(&status), Arc::clone(&manifest));
        let server = HttpServer::start(move |request: &Request| {
            let status = now.load(Ordering::SeqCst);
            if !request.path.contains("/manifests/") {
                return Answer::status(404);
            }
            if status != 200 {
                return Answer::status(status).header("Retry-After", 600);
            }
            let body = body.lock().unwrap().clone();
            let answer = Answer::ok(body.clone()).header("Content-Type", MANIFEST);
            answer.header("Docker-Content-Digest", Digest::of(&body))
        });
        Self { server, status, manifest }
    }

    fn answers(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    /// Methods of the requests for manifests since the last call.
    fn asked(&self, since: &mut usize) -> Vec<String> {
        let all = self.server.requests();
        let new = all[*since..].iter().filter(|request| request.path.contains("/manifests/"));
        let methods = new.map(|request| request.method.clone()).collect();
        *since = all.len();
        methods
    }
}

#[test]
fn tags_are_asked_for_again_and_stay_while_the_upstream_fails() {
    let upstream = Scripted::start();
    let mirror = TestRegistry::start();
    let none = MirrorSettings { ttl_seconds: 0, ..settings() };
    add(&mirror, &upstream.server.host(), false, none);
    let target = "/v2/up.test/a/b/manifests/v1";
    let (mut since, first) = (0, upstream.manifest.lock().unwrap().clone());
    assert_eq!(mirror.get_once(target).body, first);
    assert_eq!(upstream.asked(&mut since), ["GET"]);
    assert_eq!(mirror.get_once(target).body, first);
    assert_eq!(upstream.asked(&mut since), ["HEAD"], "it is the same");
    let second = bytes(&image(CONFIG, &[b"another"]));
    upstream.manifest.lock().unwrap().clone_from(&second);
    assert_eq!(mirror.get_once(target).body, second);
    assert_eq!(upstream.asked(&mut since), ["HEAD", "GET"], "it moved");
    for status in [500, 503, 401, 403] {
        upstream.answers(status);
        let got = mirror.get_once(target);
        assert_eq!((got.status, got.body), (200, second.clone()), "{status}");
    }
    upstream.answers(200);
    let passing = "/v2/up.test/a/b/manifests/v2";
    assert_eq!(mirror.get_once(passing).body, second);
    upstream.answers(404);
    assert_eq!(mirror.get_once(passing).error().0, 404, "it is gone there");
    upstream.asked(&mut since);
    upstream.answers(429);
    assert_eq!(mirror.get_once(target).body, second);
    assert!(!upstream.asked(&mut since).is_empty());
    upstream.answers(200);
    assert_eq!(mirror.get_once(target).body, second);
    assert!(upstream.asked(&mut since).is_empty(), "it asked for ten minutes of silence");
    let other = mirror.get_once("/v2/up.test/a/b/manifests/v9");
    assert_eq!(other.error(), (429, "TOOMANYREQUESTS".to_owned()));
}

#[test]
fn what_does_not_exist_is_not_asked_for_at_once_again() {
    let upstream = Scripted::start();
    let mirror = TestRegistry::start();
    add(&mirror, &upstream.server.host(), false, settings());
    upstream.answers(404);
    let mut since = 0;
    for _ in 0..3 {
        assert_eq!(mirror.get_once("/v2/up.test/a/b/manifests/v1").error().0, 404);
    }
    assert_eq!(upstream.asked(&mut since).len(), 1);
    upstream.answers(500);
    for _ in 0..3 {
        let got = mirror.get_once("/v2/up.test/a/b/manifests/v2");
        assert_eq!(got.error(), (502, "UNAVAILABLE".to_owned()));
    }
    let digest = Digest::of(b"another manifest");
    upstream.answers(200);
    let wrong = mirror.get_once(&format!("/v2/up.test/a/b/manifests/{digest}"));
    assert_eq!(wrong.status, 502, "other bytes than were asked for");
}

/// An account of one upstream is shown to that one alone.
#[test]
fn accounts_stay_with_their_upstream() {
    let elsewhere = HttpServer::start(|_| Answer::ok(LAYER));
    let place = format!("http://{}/stored", elsewhere.host());
    let upstream = HttpServer::start(move |request| {
        if request.header("authorization").is_none() {
            return Answer::status(401).header("WWW-Authenticate", "Basic realm=\"x\"");
        }
        let is_get = request.method == "GET";
        match request.path.contains("/blobs/") {
            true if is_get => Answer::status(307).header("Location", &place),
            true => Answer::ok(LAYER),
            false => Answer::status(404),
        }
    });
    let mirror = TestRegistry::start();
    let account = Some(("robot".to_owned(), Secret::new("secret")));
    add(&mirror, &upstream.host(), false, MirrorSettings { account, ..settings() });
    let got = mirror.get(&blob("up.test/a/b", &Digest::of(LAYER)));
    assert_eq!((got.status, got.body.as_slice()), (200, LAYER));
    let shown = upstream.requests();
    let shown: Vec<_> =
        shown.iter().filter_map(|request| request.header("authorization")).collect();
    assert!(shown.contains(&"Basic cm9ib3Q6c2VjcmV0"), "{shown:?}");
    assert!(elsewhere.requests().iter().all(|request| request.header("authorization").is_none()));
    assert_eq!(elsewhere.requests().len(), 1);
}

#[test]
fn what_nobody_pulls_any_more_goes() {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let upstream = TestRegistry::start();
    let manifest = push(&upstream, "a/b", "v1", LAYER);
    let mirror = TestRegistry::start();
    add(&mirror, &upstream.host(), false, MirrorSettings { keep_days: 3, ..settings() });
    let by_digest = format!("/v2/up.test/a/b/manifests/{}", Digest::of(&manifest));
    for target in ["/v2/up.test/a/b/manifests/v1", &by_digest] {
        assert_eq!(mirror.get(target).body, manifest);
    }
    assert_eq!(mirror.get(&blob("up.test/a/b", &Digest::of(LAYER))).status, 200);
    let registry = mirror.registry();
    let settings = GcSettings::of(&registry.limits);
    let collect = || {
        let (database, store) = (&registry.database, &registry.store);
        mirror.run(gc::run_once(database, store, &settings, Mode::Collect)).unwrap()
    };
    registry.database.advance_clock(2 * DAY);
    let early = collect();
    assert_eq!((early.tags, early.manifests), (0, 0));
    assert!(has_blob(&mirror, "up.test/a/b", &Digest::of(LAYER)));
    registry.database.advance_clock(2 * DAY);
    let late = collect();
    // What a tag lets go of in this millisecond is looked at from the next one on.
    registry.database.advance_clock(Duration::from_secs(1));
    let later = collect();
    assert_eq!((late.tags, late.manifests + later.manifests), (1, 1));
    registry.database.advance_clock(2 * DAY);
    assert_eq!(collect().links, 1, "a layer; nobody pulled the config");
    assert!(!has_blob(&mirror, "up.test/a/b", &Digest::of(LAYER)));
    // And comes again.
    assert_eq!(mirror.get(&by_digest).body, manifest);
}

#[test]
fn mirrors_are_named_so_that_no_account_is_meant() {
    let registry = TestRegistry::start();
    let try_add = |name: &str, upstream: &str| {
        let (name, upstream) = (name.to_owned(), upstream.to_owned());
        let row = MirrorRow { name, upstream, is_default: false, settings: settings() };
        registry.run(registry.registry().database.write(AddMirror(row))).map_err(|e| e.to_string())
    };
    for (name, upstream) in [
        ("hub", "docker.io"),
        ("docker.io/x", "docker.io"),
        ("Docker.io", "docker.io"),
        ("up.test", "http://docker.io"),
        ("up.test", "docker.io/x"),
        ("up.test", ""),
    ] {
        assert!(try_add(name, upstream).is_err(), "{name} {upstream}");
    }
    try_add("docker.io", "docker.io").unwrap();
    assert!(try_add("docker.io", "docker.io").unwrap_err().contains("exists already"));
    push(&registry, "quay.test/app", "v1", LAYER);
    assert!(try_add("quay.test", "quay.io").unwrap_err().contains("were pushed here"));
}
