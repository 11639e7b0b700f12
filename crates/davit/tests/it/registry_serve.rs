//! `davit registry serve` as a team meets it: log in, push, pull, collect, check.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
};

use davit_test::{Davit, Outcome, TempDir};

/// A server on a free port, ended when dropped.
pub(crate) struct Served {
    davit: Davit,
    pub(crate) dir: TempDir,
    server: Child,
    /// What it says later goes there.
    words: BufReader<ChildStderr>,
    pub(crate) address: String,
}

impl Served {
    fn start() -> Self {
        Self::start_in(TempDir::new(), &[])
    }

    /// With the certificate `server.crt`; skips where none can be made.
    pub(crate) fn start_with_tls() -> Option<Self> {
        let dir = TempDir::new();
        davit_test::need_certificate(&dir)?;
        Some(Self::start_in(dir, &["--tls-cert", "server.crt", "--tls-key", "server.key"]))
    }

    fn start_in(dir: TempDir, options: &[&str]) -> Self {
        let davit = Davit::new(env!("CARGO_BIN_EXE_davit"));
        let mut command = davit.command(["registry", "serve", "--listen", "127.0.0.1:0", "--root"]);
        command.arg(dir.join("registry")).args(options).current_dir(dir.path());
        command.stderr(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let (mut line, mut words) = (String::new(), BufReader::new(server.stderr.take().unwrap()));
        words.read_line(&mut line).unwrap();
        let address = line.trim().split("://").nth(1).expect(&line).to_owned();
        Self { davit, dir, server, words, address }
    }

    /// Adds a user.
    pub(crate) fn add(&self, user: &str, password: &str) {
        let add = self.registry(&["user", "add", user, "--password-stdin"]);
        let added = given(add, password);
        assert_eq!(added.code, 0, "{}", added.stderr);
    }

    fn registry(&self, words: &[&str]) -> Command {
        let mut command = self.davit.command(["registry"]);
        command.args(words).arg("--root").arg(self.dir.join("registry"));
        command
    }

    fn run(&self, words: &[&str], input: &str) -> Outcome {
        given(self.davit.command(words.iter().copied()), input)
    }

    pub(crate) fn ok(&self, words: &[&str], input: &str) -> String {
        let outcome = self.run(words, input);
        assert_eq!(outcome.code, 0, "{words:?}: {}", outcome.stderr);
        outcome.stdout.trim_end().to_owned()
    }

    fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Every file that holds a blob.
    fn blobs(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut stack = vec![self.dir.join("registry/blobs")];
        while let Some(directory) = stack.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { stack.push(path) } else { found.push(path) }
            }
        }
        found
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ended = self.server.kill();
        let _reaped = self.server.wait();
    }
}

/// What comes of a command that is given `input`.
pub(crate) fn given(mut command: Command, input: &str) -> Outcome {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Whoever asks nothing may be gone.
    let _unread = child.stdin.take().unwrap().write_all(input.as_bytes());
    Outcome::from(child.wait_with_output().unwrap())
}

#[test]
fn a_user_logs_in_pushes_and_pulls_and_the_store_is_sound() {
    let served = Served::start();
    let password = "wonderland\n";
    for user in ["alice", "bob"] {
        served.add(user, password);
    }
    let context = served.dir.join("context");
    fs::create_dir(&context).unwrap();
    fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let image = served.image("alice/app:1");
    served.ok(&["build", "--quiet", "--tag", &image, context.to_str().unwrap()], "");

    let stranger = served.run(&["push", &image], "");
    assert_ne!(stranger.code, 0, "nobody is logged in");
    let login =
        |user: &'static str| ["login", "-u", user, "--password-stdin", served.address.as_str()];
    assert_ne!(served.run(&login("alice"), "looking-glass\n").code, 0);
    served.ok(&login("alice"), password);
    served.ok(&["push", &image], "");
    served.ok(&["rmi", &image], "");
    served.ok(&["pull", &image], "");
    served.ok(&login("bob"), password);
    let other = served.run(&["push", &image], "");
    assert_ne!(other.code, 0, "the namespace is alice's");

    assert_eq!(given(served.registry(&["repo", "rm", "alice/app"]), "").code, 0);
    assert_ne!(served.run(&["pull", &image], "").code, 0, "it is deleted");
    let listed = given(served.registry(&["repo", "ls", "--deleted", "--format", "{{.Name}}"]), "");
    assert_eq!(listed.stdout.trim(), "alice/app");
    let back = given(served.registry(&["repo", "restore", "alice/app"]), "");
    assert_eq!(back.code, 0, "{}", back.stderr);
    let back = given(served.registry(&["repo", "restore", "alice/app:1"]), "");
    assert!(back.stderr.contains("nothing of `alice/app:1` can be had back"), "{}", back.stderr);

    let dry = given(served.registry(&["gc", "--dry-run"]), "");
    assert_eq!((dry.code, dry.stdout.trim()), (0, "nothing to remove"), "{}", dry.stderr);
    let sound = given(served.registry(&["check", "--read"]), "");
    assert_eq!((sound.code, sound.stdout.trim()), (0, "nothing is wrong"), "{}", sound.stderr);
    let blobs = served.blobs();
    assert_eq!(blobs.len(), 2, "a config and a layer: {blobs:?}");
    fs::remove_file(&blobs[0]).unwrap();
    let broken = given(served.registry(&["check"]), "");
    assert_eq!(broken.code, 1, "{}", broken.stdout);
    let repaired = given(served.registry(&["check", "--repair"]), "");
    assert_eq!(repaired.code, 1, "it tells what it mended: {}", repaired.stdout);
    served.ok(&login("alice"), password);
    served.ok(&["push", &image], "");
    let healed = given(served.registry(&["check", "--read"]), "");
    assert_eq!((healed.code, healed.stdout.trim()), (0, "nothing is wrong"), "{}", healed.stderr);
}

#[test]
fn an_operator_sets_quotas_and_which_tags_stay() {
    let served = Served::start();
    served.add("alice", "wonderland\n");
    served.ok(&["login", "-u", "alice", "--password-stdin", &served.address], "wonderland\n");
    let image = served.image("alice/app:1");
    let push = |content: &str| {
        let dockerfile = format!("FROM scratch\nLABEL content={content}\n");
        served.ok(&["build", "--quiet", "--tag", &image, "-"], &dockerfile);
        served.run(&["push", &image], "")
    };
    let registry = |words: &[&str], input: &str| given(served.registry(words), input);
    let set = ["repo", "set", "alice/app", "--settings", "-"];
    let early = registry(&set, "{}");
    assert!(early.stderr.contains("there is no repository `alice/app`"), "{}", early.stderr);
    assert_eq!(push("first").code, 0);

    for (wrong, reason) in [
        (r#"{"immutable": []}"#, "unknown field `immutable`"),
        (r#"{"immutable_tags": ["("]}"#, "unclosed group"),
        (r#"{"retention": [{"tags": ".*"}]}"#, "says nothing that keeps a tag"),
    ] {
        let refused = registry(&set, wrong);
        assert_eq!(refused.code, 1, "{wrong}");
        assert!(refused.stderr.contains(reason), "{wrong}: {}", refused.stderr);
    }
    let rules = r#"{"immutable_tags": ["[0-9]+"], "retention": [{"tags": ".*", "newest": 5}]}"#;
    assert_eq!(registry(&set, rules).code, 0);
    assert_eq!(registry(&set, r#"{"keep_untagged": true}"#).code, 0, "the rest stays");
    let shown = registry(&["repo", "show", "alice/app"], "").stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).expect(&shown);
    assert_eq!(shown["immutable_tags"], serde_json::json!(["[0-9]+"]), "{shown}");
    assert_eq!(
        (&shown["retention"][0]["newest"], &shown["keep_untagged"]),
        (&5.into(), &true.into())
    );
    let moved = push("second");
    assert!(moved.code == 1 && moved.stderr.contains("DENIED"), "{}", moved.stderr);
    assert_eq!(registry(&set, r#"{"immutable_tags": []}"#).code, 0);

    let user = ["user", "set", "alice", "--quota"];
    assert_eq!(registry(&[&user[..], &["1k"]].concat(), "").stdout.trim(), "alice");
    let listed = ["user", "ls", "--format", "{{.Name}}:{{.Quota}}"];
    assert_eq!(registry(&listed, "").stdout.trim(), "alice:1.02kB");
    let much = push(&"x".repeat(2000));
    assert!(much.code == 1 && much.stderr.contains("quota"), "{}", much.stderr);
    assert_eq!(registry(&[&user[..], &["none"]].concat(), "").code, 0);
    assert_eq!(registry(&listed, "").stdout.trim(), "alice:none");
    assert_eq!(push(&"x".repeat(2000)).code, 0);
    assert_eq!(registry(&["user", "set", "alice"], "").code, 125, "nothing is to be set");
}

#[test]
fn clients_of_http_2_are_told_where_tokens_are() {
    let (Some(curl), Some(served)) = (davit_test::need_tool("curl"), Served::start_with_tls())
    else {
        return;
    };
    let url = format!("https://{}/v2/", served.address);
    for version in ["--http1.1", "--http2"] {
        let mut command = Command::new(&curl);
        command.args(["--silent", "--insecure", "--include", version, &url]);
        let said = given(command, "").stdout;
        let realm = format!("realm=\"https://{}/token\"", served.address);
        assert!(said.contains(&realm), "{version}: {said}");
    }
}

#[test]
fn the_log_has_a_line_of_json_for_each_request() {
    let mut served = Served::start_in(TempDir::new(), &["--log", "json"]);
    let mut stream = std::net::TcpStream::connect(&served.address).unwrap();
    let head = "GET /v2/a/b/manifests/t HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: id-7\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let line = loop {
        let mut line = String::new();
        assert_ne!(served.words.read_line(&mut line).unwrap(), 0, "the log goes on");
        let line: serde_json::Value = serde_json::from_str(&line).expect(&line);
        if line["message"] == "request" {
            break line;
        }
    };
    assert_eq!(line["request_id"], "id-7");
    assert_eq!((&line["method"], &line["status"]), (&"GET".into(), &401.into()));
    assert_eq!((&line["path"], &line["level"]), (&"/v2/a/b/manifests/t".into(), &"INFO".into()));
    assert!(line["timestamp"].is_string() && line["microseconds"].is_u64(), "{line}");
}

#[test]
fn the_log_does_not_tell_the_key_of_a_webhook() {
    let mut served = Served::start_in(TempDir::new(), &["--log", "json"]);
    let mut stream = std::net::TcpStream::connect(&served.address).unwrap();
    let key = "5ec2e7".repeat(8);
    let head =
        format!("POST /hooks/{key} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    loop {
        let mut line = String::new();
        assert_ne!(served.words.read_line(&mut line).unwrap(), 0, "the log goes on");
        assert!(!line.contains("5ec2e7"), "{line}");
        if line.contains(r#""/hooks/****""#) {
            break;
        }
    }
}
