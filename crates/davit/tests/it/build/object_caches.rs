//! Caches at services that keep objects: GitHub Actions and buckets.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
};

use davit_test::{ACTIONS_TOKEN, ActionsCache, Port, until};

use super::bench::Bench;
use crate::davit;

const DOCKERFILE: &str = "FROM scratch AS made\nARG N\nCOPY small /$N\nFROM scratch\n\
                          COPY big /\nCOPY --from=made / /made\n";

fn bench(big: usize) -> Option<Bench> {
    let bench = Bench::new(&[("small", "1"), ("Dockerfile", DOCKERFILE)])?;
    // What no server packs.
    let mut state = 1_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    });
    fs::write(bench.context.join("big"), noise.take(big).collect::<Vec<u8>>()).unwrap();
    Some(bench)
}

fn other(bench: &Bench) -> Bench {
    Bench { davit: davit(), context: bench.context.clone() }
}

fn told(bench: &Bench, args: &[&str]) -> String {
    let outcome = bench.run(args);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    outcome.stderr
}

/// Machines share a cache, keep each other's records, and do without what is lost or damaged.
fn share(
    one: &Bench,
    (to, from): (&str, &str),
    (lose_a_layer, damage): (impl Fn(), impl Fn(Blobs)),
) {
    let first = ["--build-arg", "N=1", "--cache-to", to, "--cache-from", from];
    let words = told(one, &first);
    assert!(words.contains("there is no build cache"), "{words}");
    let two = other(one);
    told(&two, &["--build-arg", "N=2", "--cache-to", to]);
    for number in ["N=1", "N=2"] {
        let three = other(one);
        let words = told(&three, &["--build-arg", number, "--cache-from", from]);
        assert!(words.contains("(3 of 3 steps cached)"), "{words}");
        let layer = three.files(&["--build-arg", number]).join("big");
        assert_eq!(fs::read(layer).unwrap(), fs::read(one.context.join("big")).unwrap());
    }
    lose_a_layer();
    let words = told(&other(one), &["--build-arg", "N=1", "--cache-from", from]);
    assert!(words.contains("is of no use"), "{words}");
    // Who has the layers brings them back.
    let two = other(one);
    told(&two, &["--build-arg", "N=1"]);
    told(&two, &["--build-arg", "N=1", "--cache-to", to]);
    let words = told(&other(one), &["--build-arg", "N=1", "--cache-from", from]);
    assert!(words.contains("(3 of 3 steps cached)") && !words.contains("no use"), "{words}");
    let whole = || {
        let words = told(&other(one), &["--build-arg", "N=1", "--cache-from", from]);
        assert!(words.contains("(3 of 3 steps cached)") && !words.contains("warning"), "{words}");
    };
    // Who finds out that layers, or the records, are something else writes them anew, as often as
    // that happens.
    for (blobs, message) in [
        (Blobs::Layers, "is of no use"),
        (Blobs::Layers, "is of no use"),
        (Blobs::Records, "is not what its digest and size say"),
    ] {
        whole();
        damage(blobs);
        let args = ["--build-arg", "N=1", "--cache-from", from, "--cache-to", to];
        let words = told(&other(one), &args);
        assert!(words.contains(message) && words.contains("(0 of 3 steps cached)"), "{words}");
    }
    whole();
    let words = told(&other(one), &["--cache-from", from, "--offline"]);
    assert!(words.contains("is not asked"), "{words}");
}

/// Blobs of a cache.
#[derive(Clone, Copy, PartialEq)]
enum Blobs {
    Layers,
    Records,
}

impl Blobs {
    fn have(self, content: &[u8]) -> bool {
        content.starts_with(b"{") == (self == Self::Records)
    }
}

#[test]
fn jobs_of_github_actions_share_a_cache() {
    let Some(one) = bench(33 << 20) else { return };
    for version in [1, 2] {
        let service = ActionsCache::start();
        let url = service.url();
        let from = format!(
            "type=gha,version={version},scope=a/b,url={url},url_v2={url},token={ACTIONS_TOKEN}"
        );
        let to = format!("{from},mode=max,compression=uncompressed");
        let machine = other(&one);
        let newest = || service.keys().into_iter().rfind(|key| key.contains("cache-1"));
        let lose = || {
            assert_eq!(newest().as_deref(), Some("davit-cache-1-a%2Fb#2"));
            let keys = service.keys();
            told(&machine, &["--build-arg", "N=1", "--cache-to", &to]);
            assert_eq!(service.keys(), keys, "nothing is new");
            service.evict(|key, content| key.contains("blob") && Blobs::Layers.have(content));
        };
        let damage = |blobs: Blobs| {
            service.damage(|key, content| {
                if key.contains("blob") && blobs.have(content) {
                    *content.last_mut().unwrap() ^= 1;
                }
            });
        };
        share(&machine, (&to, &from), (lose, damage));
        // What the newest entry names may be gone before that is.
        service.evict(|key, _| key.contains("blob"));
        told(&machine, &["--build-arg", "N=1", "--cache-to", &to]);
        let words = told(&other(&one), &["--build-arg", "N=1", "--cache-from", &from]);
        assert!(words.contains("(3 of 3 steps cached)"), "{words}");
        // Nobody waits for ever for what a job has begun that was killed.
        service.evict(|_, _| true);
        told(&machine, &["--build-arg", "N=1", "--cache-to", &to]);
        service.abandon();
        told(&machine, &["--build-arg", "N=1", "--cache-to", &to]);
        let words = told(&other(&one), &["--build-arg", "N=1", "--cache-from", &from]);
        assert!(words.contains("(3 of 3 steps cached)"), "{words}");
        let refused = to.replace(ACTIONS_TOKEN, "another");
        let failed = machine.run(&["--cache-to", &refused]);
        assert_eq!(failed.code, 1, "{}", failed.stderr);
        assert!(!failed.stderr.contains("another"), "{}", failed.stderr);
        assert!(failed.stderr.contains("refused access to the given"), "{}", failed.stderr);
        let words = told(&machine, &["--cache-to", &format!("{refused},ignore-error=true")]);
        assert!(words.contains("warning: cannot use the build cache"), "{words}");
    }
    for secret in ["token=hush", "secret_access_key=hush", "session_token=hush"] {
        let wrong = one.run(&["--cache-to", &format!("type=s3,bucket=b,{secret},bogus=1")]);
        assert!(wrong.code != 0 && !wrong.stderr.contains("hush"), "{}", wrong.stderr);
    }
    let words = told(&one, &["--cache-to", "type=gha", "--cache-from", "type=gha"]);
    assert_eq!(words.matches("the cache of GitHub Actions is passed over").count(), 2, "{words}");
}

/// An S3 server with a bucket.
struct Moto {
    child: Child,
    port: Port,
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Moto {
    fn start() -> Option<Self> {
        let program = davit_test::need_tool("moto_server")?;
        let port = Port::reserve();
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", &port.address().port().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let moto = Self { child: command.spawn().unwrap(), port };
        until("moto_server listens", || TcpStream::connect(moto.port.address()).is_ok());
        let made = moto.ask("PUT", "/cache", b"");
        assert!(made.contains(" 200 "), "{made}");
        Some(moto)
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> String {
        String::from_utf8_lossy(&self.answer(method, path, body)).into_owned()
    }

    /// The content of an object.
    fn object(&self, key: &str) -> Vec<u8> {
        let answer = self.answer("GET", &object(key), b"");
        let head = answer.windows(4).position(|end| end == b"\r\n\r\n").unwrap();
        answer[head + 4..].to_vec()
    }

    fn answer(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let host = self.port.address();
        let mut stream = TcpStream::connect(host).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=i/20260101/us-east-1/s3/aws4_request\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    /// Keys in the bucket.
    fn keys(&self) -> Vec<String> {
        let list = self.ask("GET", "/cache?list-type=2", b"");
        let keys = list.split("<Key>").skip(1).filter_map(|rest| rest.split('<').next());
        keys.map(str::to_owned).collect()
    }
}

/// The path of an object.
fn object(key: &str) -> String {
    format!("/cache/{}", key.replace(':', "%3A"))
}

#[test]
fn machines_share_a_cache_in_a_bucket() {
    let (Some(one), Some(server)) = (bench(17 << 20), Moto::start()) else { return };
    let from = format!(
        "type=s3,bucket=cache,region=us-east-1,endpoint_url=http://{},use_path_style=true,prefix=p/,\
         name=main;copy,access_key_id=i,secret_access_key=k,session_token=t",
        server.port.address()
    );
    let to =
        format!("{from},mode=max,compression=uncompressed,upload_parallelism=2,touch_refresh=0s");
    let lose = || {
        let keys = server.keys();
        assert_eq!(keys.iter().filter(|key| key.starts_with("p/manifests/")).count(), 2);
        told(&one, &["--build-arg", "N=1", "--cache-to", &to]);
        assert_eq!(server.keys(), keys, "nothing is new");
        for key in keys.iter().filter(|key| key.contains("blobs")) {
            if Blobs::Layers.have(&server.object(key)) {
                server.ask("DELETE", &object(key), b"");
            }
        }
    };
    let damage = |blobs: Blobs| {
        for key in server.keys().iter().filter(|key| key.contains("blobs")) {
            let mut content = server.object(key);
            if blobs.have(&content) {
                *content.last_mut().unwrap() ^= 1;
                server.ask("PUT", &object(key), &content);
            }
        }
    };
    share(&one, (&to, &from), (lose, damage));
    let other_bucket = to.replace("bucket=cache", "bucket=other");
    let failed = one.run(&["--cache-to", &other_bucket]);
    assert!(failed.code == 1 && failed.stderr.contains("s3://other/p/manifests/main"));
    let account = one.davit.dir().join("credentials");
    fs::write(&account, "[p]\naws_access_key_id=i\naws_secret_access_key=k\n").unwrap();
    let context = one.context.to_str().unwrap();
    let spec = format!("type=s3,bucket=cache,endpoint_url=http://{}", server.port.address());
    let mut command = one.davit.command(["build", "--cache-to", &spec, context]);
    command.env("AWS_SHARED_CREDENTIALS_FILE", account).env("AWS_PROFILE", "p");
    let output = command.env("AWS_REGION", "us-east-1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(server.keys().contains(&"manifests/buildkit".to_owned()));
}
