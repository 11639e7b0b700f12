//! Automated builds: a push to a real git repository, a build by real workers, the image pulled back.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
};

use davit_test::{Davit, Outcome, TempDir, need_image, need_root, until};
use serde_json::{Value, json};

use crate::build::git_server::{Allow, GitServer, Repository};

/// How long a worker that is to be killed keeps its build. The others have the usual time: a machine that is
/// busy may renew late.
const LEASE_SECONDS: &str = "10";
/// What no log and no image may show.
const SECRET: &str = "hunter22-of-the-forest";

/// A process that is killed when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// A server, git repositories beside it, and workers.
struct Site {
    workers: Vec<Process>,
    server: Process,
    /// What it says later goes there.
    _words: BufReader<ChildStderr>,
    address: String,
    git: GitServer,
    davit: Davit,
    dir: TempDir,
}

impl Site {
    /// A server with alice, whose password is `wonderland`, and her public image `base:1`.
    fn start(more: &[&str]) -> Option<Self> {
        Self::with(more, |_| true)
    }

    /// As `start`, with git repositories that these may read.
    fn with(more: &[&str], allow: Allow) -> Option<Self> {
        let busybox = need_image("busybox-musl-amd64")?;
        let git = GitServer::start(allow).filter(|_| need_root())?;
        let davit = Davit::new(env!("CARGO_BIN_EXE_davit"));
        let dir = TempDir::new();
        let mut command = davit.command(["registry", "serve", "--listen", "127.0.0.1:0"]);
        command.args(["--build-from-private", "--root"]).arg(dir.join("registry")).args(more);
        let mut server = command.stderr(Stdio::piped()).spawn().unwrap();
        let (mut line, mut words) = (String::new(), BufReader::new(server.stderr.take().unwrap()));
        words.read_line(&mut line).unwrap();
        let address = line.trim().split("http://").nth(1).expect(&line).to_owned();
        let (server, workers) = (Process(server), Vec::new());
        let site = Self { workers, server, _words: words, address, git, davit, dir };
        given(site.registry(&["user", "add", "alice", "--password-stdin"]), "wonderland\n");
        let login = ["login", "-u", "alice", "--password-stdin", &*site.address];
        assert_eq!(given(site.davit.command(login), "wonderland\n").code, 0);
        site.push_base(&busybox, "first");
        site.ok(&["repo", "set", "alice/base", "--visibility", "public"]);
        Some(site)
    }

    /// Pushes another `alice/base:1`.
    fn push_base(&self, busybox: &Path, content: &str) {
        let context = self.dir.join("base");
        fs::create_dir_all(&context).unwrap();
        fs::write(context.join("version"), content).unwrap();
        fs::write(context.join("Dockerfile"), "FROM busybox\nCOPY version /version\n").unwrap();
        let layout = format!("busybox=oci-layout://{}", busybox.display());
        let (image, context) = (self.image("base:1"), context.to_str().unwrap().to_owned());
        let words = ["build", "--quiet", "--push", "--build-context", &layout, "--tag", &image];
        self.davit.ok([&words[..], &[&context]].concat());
    }

    fn image(&self, name: &str) -> String {
        format!("{}/alice/{name}", self.address)
    }

    fn registry(&self, words: &[&str]) -> Command {
        let mut command = self.davit.command(["registry"]);
        command.args(words).arg("--root").arg(self.dir.join("registry"));
        command
    }

    /// Runs `davit registry` with these words, which must succeed.
    fn ok(&self, words: &[&str]) -> String {
        let outcome = given(self.registry(words), "");
        assert_eq!(outcome.code, 0, "{words:?}: {}", outcome.stderr);
        outcome.stdout.trim_end().to_owned()
    }

    /// Connects `alice/NAME` to a new git repository; path and secret of its webhook.
    fn source(&self, name: &str, more: &[&str]) -> (Repository, String, String) {
        let repository = self.git.repository(name);
        let (path, url) = (format!("alice/{name}"), self.git.url(name));
        let hook = self.ok(&[&["build", "source", "add", &path, &*url], more].concat());
        let (hook, secret) = hook.split_once(' ').unwrap();
        (repository, hook.to_owned(), secret.to_owned())
    }

    fn rule(&self, name: &str, more: &[&str]) {
        let path = format!("alice/{name}");
        self.ok(&[&["build", "rule", "add", &*path], more].concat());
    }

    /// Starts a worker that may ask this machine.
    fn work(&mut self) {
        self.work_with(&["--build-from-private"]);
    }

    fn work_with(&mut self, more: &[&str]) {
        let mut command = self.registry(&["worker"]);
        command.args(more);
        command.arg("--server").arg(format!("http://{}", self.address));
        command.arg("--hook-image").arg(self.image("base:1"));
        self.workers.push(Process(command.stdin(Stdio::null()).spawn().unwrap()));
    }

    /// Sends a webhook as GitLab does; status and reply.
    fn hook(&self, (path, secret): (&str, &str), branch: &str, commit: &str) -> (u16, String) {
        let body = json!({ "ref": format!("refs/heads/{branch}"), "after": commit,
                           "checkout_sha": commit, "user_username": "ann" });
        let body = body.to_string();
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\
             X-Gitlab-Event: Push Hook\r\nX-Gitlab-Token: {secret}\r\n\r\n"
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let status = reply.split(' ').nth(1).unwrap().parse().unwrap();
        (status, reply.split_once("\r\n\r\n").unwrap().1.trim().to_owned())
    }

    /// The log of a build, once it is over, and whether it is done.
    fn log(&self, id: &str) -> (bool, String) {
        let outcome = given(self.registry(&["build", "logs", "--follow", id]), "");
        (outcome.code == 0, outcome.stdout + &outcome.stderr)
    }

    /// The log of a build that is done.
    fn done(&self, id: &str) -> String {
        let (is_done, log) = self.log(id);
        assert!(is_done, "{log}");
        log
    }

    fn show(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["build", "show", id])).unwrap()
    }

    fn builds(&self) -> String {
        self.ok(&["build", "ls", "--format", "{{.Id}} {{.State}} {{.Cause}}"])
    }

    /// What a command prints in the image.
    fn run(&self, name: &str, words: &[&str]) -> String {
        let image = self.image(name);
        self.davit.ok([&["run", "--rm", "--pull=always", "--network=none", &image], words].concat())
    }

    /// Folder of davit's own that the builds of alice have.
    fn store(&self) -> PathBuf {
        self.dir.join("registry/build/alice")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Workers first, so that they start nothing any more.
        self.workers.clear();
        let _ended = self.server.0.kill();
        let _reaped = self.server.0.wait();
        let is_own = |path: &PathBuf| {
            fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(self.dir.path()))
        };
        until("the workers to end", || !processes("__build-task").iter().any(is_own));
        let store = self.store();
        if store.join("store/format").exists() {
            let mut reset = self.davit.command(["system", "reset", "--force", "--root"]);
            reset.arg(store.join("store")).arg("--run-root").arg(store.join("run"));
            let outcome = Outcome::from(reset.output().unwrap());
            assert!(outcome.code == 0 || std::thread::panicking(), "{}", outcome.stderr);
        }
    }
}

fn given(mut command: Command, input: &str) -> Outcome {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Whoever asks nothing may be gone.
    let _unread = child.stdin.take().unwrap().write_all(input.as_bytes());
    Outcome::from(child.wait_with_output().unwrap())
}

/// Processes whose command line has this word.
fn processes(word: &str) -> Vec<PathBuf> {
    let has = |path: &PathBuf| {
        let line = fs::read(path.join("cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|part| part == word.as_bytes())
    };
    fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path()).filter(has).collect()
}

/// What a build that is shown has spent time with.
fn phases(shown: &Value) -> Vec<&str> {
    let phases = shown["Report"]["phases"].as_array().unwrap();
    phases.iter().map(|phase| phase[0].as_str().unwrap()).collect()
}

#[test]
fn a_push_becomes_an_image() {
    let Some(site) = Site::start(&["--workers", "1"]) else { return };
    let (repository, path, secret) = site.source("app", &[]);
    site.rule("app", &["--branch", "main", "--context", "/image", "--tag", "latest,g-{commit}"]);
    repository.commit("image/hello", "one");
    let commit = repository.commit("image/Dockerfile", "FROM scratch\nCOPY hello /\n");

    assert_eq!(site.hook((&path, "wrong"), "main", &commit).0, 401);
    assert_eq!(site.hook(("/hooks/none", &secret), "main", &commit).0, 404);
    let told = site.hook((&path, &secret), "main", &commit);
    assert_eq!(told, (200, "{\"queued\":[1],\"discarded\":0}".to_owned()));
    assert_eq!(site.hook((&path, &secret), "main", &commit).1, "{\"queued\":[],\"discarded\":0}");
    let log = site.done("1");
    assert!(log.contains("==> checkout of http://") && log.contains("==> push latest"), "{log}");

    let shown = site.show("1");
    assert_eq!((&shown["State"], &shown["Commit"]), (&json!("done"), &json!(commit)));
    assert_eq!((&shown["By"], &shown["Attempts"]), (&json!("ann"), &json!(1)));
    assert_eq!(phases(&shown), ["checkout", "build", "push"], "there is no test");
    let inspect = |tag: &str, format: &str| {
        let image = site.image(tag);
        site.davit.ok(["builder", "imagetools", "inspect", "--format", format, &image])
    };
    let digest = "{{.Manifest.Digest}}";
    assert_eq!(json!(inspect("app:latest", digest)), shown["Digest"]);
    let short = &commit[..12];
    assert_eq!(json!(inspect(&format!("app:g-{short}"), digest)), shown["Digest"]);
    let provenance = inspect("app:latest", "{{json .Provenance}}");
    assert!(provenance.contains("/app/-/builds/1") && provenance.contains(&commit), "{provenance}");
    let image = site.image("app:latest");
    site.davit.ok(["pull", "--quiet", &image]);
    let out = site.dir.join("image.tar");
    site.davit.ok(["save", "--output", out.to_str().unwrap(), &image]);
    assert!(site.ok(&["robot", "ls", "-q"]).contains("alice+builds"));
    assert_eq!(site.ok(&["token", "ls", "alice+builds", "--format", "{{.Id}}"]), "", "revoked");

    // Paths, a failing build, and one that a poll finds: the webhook says no more than `look`.
    site.rule(
        "app",
        &["--branch", "docs", "--context", "image", "--path", "image", "--no-rebuild"],
    );
    repository.git(&["checkout", "-q", "-b", "docs"]);
    let first = repository.commit("other/x", "x");
    assert_eq!(site.hook((&path, &secret), "docs", &first).1, "{\"queued\":[2],\"discarded\":0}");
    site.done("2");
    let second = repository.commit("other/x", "y");
    site.hook((&path, &secret), "docs", &second);
    let skipped = site.done("3");
    assert!(skipped.contains("==> skipped: none of 1 paths"), "{skipped}");
    let third = repository.commit("image/Dockerfile", "FROM scratch\nCOPY absent /\n");
    site.hook((&path, &secret), "docs", &third);
    let (is_done, log) = site.log("4");
    assert!(!is_done && log.contains("error: build failed with exit code 1"), "{log}");
    assert_eq!(site.builds(), "4 failed push\n3 skipped push\n2 done push\n1 done push");
    assert_eq!(site.ok(&["build", "retry", "4"]), "5");
    assert!(!site.log("5").0);
    // Whoever asks for a build knows no commit; what was built is told by it.
    assert_eq!(site.ok(&["build", "run", "alice/app", "--branch", "main"]), "6");
    site.done("6");
    assert_eq!(site.show("6")["Plan"]["tags"], json!(["latest", format!("g-{short}")]));
}

#[test]
fn hooks_tests_secrets_and_base_images() {
    let Some(mut site) = Site::start(&[]) else { return };
    let test = "grep -q plain /colour && test ! -e /version-of-none";
    let (repository, path, hook_secret) = site.source("web", &["--test", test]);
    site.rule("web", &["--branch", "main"]);
    site.ok(&["build", "source", "env", "alice/web", "COLOUR=plain"]);
    let secret = site.registry(&["build", "source", "env", "alice/web", "--secret-stdin", "TOKEN"]);
    assert_eq!(given(secret, SECRET).code, 0);
    repository.commit(
        "hooks/pre_build",
        "#!/bin/bash\necho \"hook of $DOCKER_TAG at $SOURCE_BRANCH with $TOKEN\"\n\
         test $IMAGE_NAME = $DOCKER_REPO:latest && echo made > made\n",
    );
    let base = site.image("base:1");
    let commit = repository.commit(
        "Dockerfile",
        &format!(
            "FROM {base}\nARG COLOUR\nCOPY made /made\n\
             RUN --mount=type=secret,id=TOKEN \
             echo \"step with $(cat /run/secrets/TOKEN)\" && echo $COLOUR > /colour\n"
        ),
    );
    site.work();
    site.hook((&path, &hook_secret), "main", &commit);
    let log = site.done("1");
    assert!(log.contains("hook of latest at main with ****"), "{log}");
    assert!(log.contains("step with ****"), "{log}");
    assert!(log.contains("==> test") && !log.contains(SECRET), "{log}");
    assert_eq!(
        site.run("web:latest", &["cat", "/made", "/colour", "/version"]),
        "made\nplain\nfirst"
    );
    let out = site.dir.join("image.tar");
    let image = site.image("web:latest");
    site.davit.ok(["save", "--output", out.to_str().unwrap(), &image]);
    let saved = fs::read(out).unwrap();
    assert!(!saved.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()));
    let shown = site.show("1");
    assert_eq!(shown["Report"]["bases"][0][0], json!(base));
    assert_eq!(phases(&shown), ["checkout", "build", "test", "push"]);

    // Another base image: the branch is built again, once.
    site.push_base(&need_image("busybox-musl-amd64").unwrap(), "second");
    until("the base image to be noticed", || site.builds().starts_with("2 "));
    site.done("2");
    assert_eq!(site.run("web:latest", &["cat", "/version"]), "second");
    assert_eq!(site.builds(), "2 done base\n1 done push");

    // What fails its test is not pushed.
    let broken = repository.commit("Dockerfile", &format!("FROM {base}\nRUN echo > /colour\n"));
    site.hook((&path, &hook_secret), "main", &broken);
    let (is_done, log) = site.log("3");
    assert!(!is_done && log.contains("error: test failed with exit code 1"), "{log}");
    assert_eq!(site.run("web:latest", &["cat", "/version"]), "second");
}

#[test]
fn a_killed_worker_leaves_its_build_to_the_next() {
    let Some(mut site) = Site::start(&[]) else { return };
    let (repository, ..) = site.source("slow", &[]);
    site.rule("slow", &["--branch", "main"]);
    // A time that no other sleeper of this machine has.
    let time = format!("61{}", std::process::id());
    let dockerfile = format!("FROM {}\nRUN echo begun; sleep {time}\n", site.image("base:1"));
    repository.commit("Dockerfile", &dockerfile);
    site.work_with(&["--build-from-private", "--lease-seconds", LEASE_SECONDS]);
    assert_eq!(site.ok(&["build", "run", "alice/slow", "--branch", "main"]), "1");
    until("the step to begin", || !processes(&time).is_empty());
    // As `kill -9`, in the middle.
    let worker = site.workers.pop().unwrap();
    drop(worker);
    until("what it had begun to end", || processes(&time).is_empty());
    site.work();
    until("the next attempt", || site.show("1")["Attempts"].as_i64() >= Some(2));
    until("its step", || !processes(&time).is_empty());
    site.ok(&["build", "cancel", "1"]);
    let (is_done, log) = site.log("1");
    assert!(!is_done && log.contains("==> begun again: attempt "), "{log}");
    until("the step to end", || processes(&time).is_empty());
    assert_eq!(site.builds(), "1 cancelled manual");
    assert_eq!(site.show("1")["Error"], json!("cancelled by operator"));
    assert_eq!(site.ok(&["token", "ls", "alice+builds", "--format", "{{.Id}}"]), "");
    let left = fs::read_dir(site.dir.join("registry/build/tasks")).unwrap().count();
    assert_eq!(left, 1, "the folder of the killed worker is swept, with the secrets in it");
}

#[test]
fn private_repositories_and_private_addresses() {
    // The password `git-secret-of-alice`.
    let allow: Allow = |request| {
        let wanted = "Basic eC1hY2Nlc3MtdG9rZW46Z2l0LXNlY3JldC1vZi1hbGljZQ==";
        request.header("authorization") == Some(wanted)
    };
    let Some(mut site) = Site::with(&[], allow) else { return };
    let (repository, ..) = site.source("app", &[]);
    repository.commit("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    site.rule("app", &["--branch", "main"]);
    // Without leave no address of this machine is asked.
    site.work_with(&[]);
    site.ok(&["build", "run", "alice/app", "--branch", "main"]);
    let (is_done, log) = site.log("1");
    assert!(!is_done && log.contains("127.0.0.1, an address of a private network"), "{log}");
    assert_eq!(site.git.server.requests().len(), 0);
    site.workers.clear();
    site.work();
    site.ok(&["build", "run", "alice/app", "--branch", "main"]);
    let (is_done, log) = site.log("2");
    assert!(!is_done && log.contains("error: git says: "), "{log}");
    // Rules stay, and a look from time to time is as good as none here.
    let set = ["build", "source", "set", "alice/app", "--token-stdin", "--poll", "1d"];
    assert_eq!(given(site.registry(&set), "git-secret-of-alice\n").code, 0);
    let list = site.ok(&["build", "source", "ls", "--format", "{{.Poll}} {{.Credential}}"]);
    assert_eq!(list.trim(), "1440m true");
    site.ok(&["build", "run", "alice/app", "--branch", "main"]);
    let log = site.done("3");
    assert!(!log.contains("git-secret"), "{log}");
    assert!(!site.ok(&["build", "source", "ls", "--json"]).contains("git-secret"));
    let elsewhere = ["build", "source", "set", "alice/app", "--url", "https://git.example/b"];
    let refused = given(site.registry(&elsewhere), "");
    assert!(refused.code == 1 && refused.stderr.contains("its credential"), "{refused:?}");
    site.ok(&[&elsewhere[..], &["--no-credential", "--no-poll"]].concat());
    let list = site.ok(&["build", "source", "ls", "--format", "{{.Url}}{{.Poll}}"]);
    assert_eq!(list.trim(), "https://git.example/b");
    site.ok(&["build", "source", "rm", "alice/app"]);
}
