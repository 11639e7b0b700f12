//! Webhooks, mirrors and replication of `davit registry` as an administrator and stock clients meet them.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStderr, Command, Stdio},
};

use davit_test::{Davit, HttpServer, Outcome, Reply, TempDir, need_tool, until};

/// A server without accounts on a free port, ended when dropped.
struct Served {
    davit: Davit,
    dir: TempDir,
    server: Child,
    _words: BufReader<ChildStderr>,
    address: String,
}

impl Served {
    fn start() -> Self {
        let davit = Davit::new(env!("CARGO_BIN_EXE_davit"));
        let dir = TempDir::new();
        let words = ["registry", "serve", "--auth", "off", "--listen", "127.0.0.1:0", "--root"];
        let mut command = davit.command(words);
        command.arg(dir.join("registry")).stderr(Stdio::piped());
        let mut server = command.spawn().unwrap();
        let (mut line, mut words) = (String::new(), BufReader::new(server.stderr.take().unwrap()));
        words.read_line(&mut line).unwrap();
        let address = line.trim().split("http://").nth(1).expect(&line).to_owned();
        Self { davit, dir, server, _words: words, address }
    }

    fn run(&self, words: &[&str], input: &str) -> Outcome {
        let mut command = self.davit.command(["registry"]);
        command.args(words).arg("--root").arg(self.dir.join("registry"));
        given(command, input)
    }

    fn ok(&self, words: &[&str]) -> String {
        let outcome = self.run(words, "");
        assert_eq!(outcome.code, 0, "{words:?}: {}", outcome.stderr);
        outcome.stdout.trim_end().to_owned()
    }

    /// Builds an image and pushes it here.
    fn push(&self, name: &str) {
        let context = self.dir.join("context");
        fs::create_dir_all(&context).unwrap();
        fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
        let image = format!("{}/{name}", self.address);
        for words in [
            vec!["build", "--quiet", "--tag", &image, context.to_str().unwrap()],
            vec!["push", &image],
        ] {
            let outcome = given(self.davit.command(words.iter().copied()), "");
            assert_eq!(outcome.code, 0, "{words:?}: {}", outcome.stderr);
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ended = self.server.kill();
        let _reaped = self.server.wait();
    }
}

fn given(mut command: Command, input: &str) -> Outcome {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Whoever asks nothing may be gone.
    let _unread = child.stdin.take().unwrap().write_all(input.as_bytes());
    Outcome::from(child.wait_with_output().unwrap())
}

#[test]
fn a_webhook_is_told_of_a_push() {
    let receiver = HttpServer::start(|_| Reply::status(200).body("thanks"));
    let url = format!("http://{}/hook", receiver.host());
    let served = Served::start();
    let add = ["webhook", "add", "ci", &url, "--repositories", "team/*", "--allow-private"];
    assert!(served.ok(&add).starts_with("whsec_"));
    assert_ne!(served.run(&add, "").code, 0, "the name is taken");
    assert_eq!(served.ok(&["webhook", "test", "ci"]), "200 thanks");
    served.push("team/app:v1");
    let events =
        || served.ok(&["webhook", "deliveries", "ci", "--format", "{{.Event}} {{.State}}"]);
    until("the push is told", || {
        let events = events();
        events.starts_with("push delivered") && events.ends_with("repository.create delivered")
    });
    let told = receiver.requests().len();
    let newest = served.ok(&["webhook", "deliveries", "ci", "--format", "{{.Id}}"]);
    let newest = newest.lines().next().unwrap().to_owned();
    served.ok(&["webhook", "redeliver", "ci", &newest]);
    until("it is told again", || receiver.requests().len() > told);
    let table = served.ok(&["webhook", "ls"]);
    assert!(table.contains("NAME") && table.contains(&url), "{table}");
    served.ok(&["webhook", "rm", "ci"]);
    let bad = served.run(&["webhook", "add", "x", "ftp://a/b"], "");
    assert!(bad.stderr.contains("a webhook's URL is"), "{}", bad.stderr);
    let closed = served.run(&["webhook", "add", "x", &url], "");
    assert_eq!(closed.code, 0, "{}", closed.stderr);
    let refused = served.run(&["webhook", "test", "x"], "");
    assert!(refused.stderr.contains("private network"), "{}", refused.stderr);
}

#[test]
fn stock_clients_pull_through_a_mirror() {
    let Some(skopeo) = need_tool("skopeo") else { return };
    let upstream = Served::start();
    upstream.push("library/app:v1");
    let mirror = Served::start();
    let add = ["mirror", "add", "up.test", "--upstream", &upstream.address, "--default"];
    mirror.ok(&[&add[..], &["--pull", "everyone", "--fill", "everyone"]].concat());
    let raw = |image: &str, settings: &str| {
        let conf = mirror.dir.join("registries.conf");
        fs::write(&conf, settings).unwrap();
        let target = format!("dir:{}", mirror.dir.join("copy").display());
        let mut command = Command::new(&skopeo);
        command.arg("--registries-conf").arg(conf).args(["copy", "--src-tls-verify=false"]);
        command.arg(format!("docker://{image}")).arg(target);
        given(command, "")
    };
    let place = &mirror.address;
    for image in [format!("{place}/up.test/library/app:v1"), format!("{place}/library/app:v1")] {
        let copied = raw(&image, "");
        assert_eq!(copied.code, 0, "{image}: {}", copied.stderr);
    }
    drop(upstream);
    let settings = format!(
        "[[registry]]\nprefix = \"gone.test\"\nlocation = \"gone.test\"\n\
         [[registry.mirror]]\nlocation = \"{place}/up.test\"\ninsecure = true\n"
    );
    let copied = raw("gone.test/library/app:v1", &settings);
    assert_eq!(copied.code, 0, "the upstream has gone, what is kept has not: {}", copied.stderr);
    assert!(mirror.ok(&["mirror", "ls"]).contains("up.test"));
    mirror.ok(&["mirror", "rm", "up.test"]);
}

#[test]
fn rules_copy_images_between_registries() {
    let (from, to) = (Served::start(), Served::start());
    let add = ["replicate", "add", "out", "push", &to.address, "--repositories", "team/*"];
    from.ok(&[&add[..], &["--prefix", "copy"]].concat());
    from.push("team/app:v1");
    let result = || from.ok(&["replicate", "ls", "--format", "{{.Result}}"]);
    until("the image went on", || result().contains("0 failed"));
    let names = || to.ok(&["repo", "ls", "--format", "{{.Name}}"]);
    assert_eq!(names(), "copy/team/app");
    let add = ["replicate", "add", "in", "pull", &from.address, "--repositories", "team/app"];
    to.ok(&[&add[..], &["--prefix", "pulled"]].concat());
    let run = to.run(&["replicate", "run", "in"], "");
    assert_eq!(run.code, 0, "{}", run.stderr);
    until("it came", || names() == "copy/team/app\npulled/team/app");
    let push_by_clock =
        ["replicate", "add", "x", "push", "h", "--repositories", "a", "--every", "5"];
    assert_ne!(from.run(&push_by_clock, "").code, 0);
}
