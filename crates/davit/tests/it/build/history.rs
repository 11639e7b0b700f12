//! What is remembered of builds: `davit builder history`, and `docker buildx history`.

use std::{
    cell::RefCell,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use davit_test::{Outcome, until};
use serde_json::Value;

use super::{
    bench::{Bench, alpine},
    cancel::interrupt,
    docker::Docker,
};

fn history(bench: &Bench, args: &[&str]) -> Outcome {
    bench.davit.run(["builder", "history"].iter().chain(args))
}

fn ok(bench: &Bench, args: &[&str]) -> String {
    let outcome = history(bench, args);
    assert_eq!(outcome.code, 0, "{args:?}: {}{}", outcome.stdout, outcome.stderr);
    outcome.stdout.trim_end().to_owned()
}

fn inspect(bench: &Bench, reference: &str) -> Value {
    serde_json::from_str(&ok(bench, &["inspect", "--format", "json", reference])).unwrap()
}

/// The lines of a build's log without numbers of steps and times.
fn log(bench: &Bench, reference: &str) -> Vec<String> {
    let outcome = history(bench, &["logs", reference]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let text = |line: &str| {
        let rest = line.split_once(' ').map_or("", |(_, rest)| rest);
        let (first, more) = rest.split_once(' ').unwrap_or((rest, ""));
        let is_time = first.parse::<f64>().is_ok();
        if is_time { more.to_owned() } else { rest.to_owned() }
    };
    outcome.stderr.lines().map(text).collect()
}

/// Files of the logs.
fn logs_on_disk(bench: &Bench) -> Vec<PathBuf> {
    let entries = fs::read_dir(bench.davit.root().join("builds")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// All bytes below a directory, and those of logs as they were written.
fn everything(bench: &Bench) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut stack = vec![bench.davit.root()];
    while let Some(folder) = stack.pop() {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                stack.push(path);
            } else if path.is_file() {
                bytes.extend(fs::read(path).unwrap());
            }
        }
    }
    for id in ok(bench, &["ls", "--format", "{{.Ref}}"]).lines() {
        bytes.extend(history(bench, &["logs", "--progress", "rawjson", id]).stderr.into_bytes());
        bytes.extend(history(bench, &["inspect", id]).stdout.into_bytes());
    }
    bytes
}

/// Somebody who reads the log of a build that runs.
struct Follower {
    child: RefCell<Child>,
    file: PathBuf,
}

impl Follower {
    fn of(bench: &Bench, id: &str) -> Self {
        let file = bench.davit.dir().join(format!("followed-{}", followed(bench)));
        let log = fs::File::create(&file).unwrap();
        let mut command = bench.davit.command(["builder", "history", "logs", id]);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child: RefCell::new(child), file }
    }

    /// Of the newest build, as soon as one runs.
    fn of_a_build_that_begins(bench: &Bench) -> Self {
        let id = RefCell::new(String::new());
        until("a build runs", || {
            let running = history(bench, &["ls", "--format", "{{.Ref}} {{.Status}}"]).stdout;
            let mut ids = running.lines().filter_map(|line| line.strip_suffix(" Running"));
            *id.borrow_mut() = ids.next().unwrap_or_default().to_owned();
            !id.borrow().is_empty()
        });
        Self::of(bench, &id.borrow())
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.file).unwrap()
    }

    fn wait_for(&self, text: &str) {
        until(text, || self.text().contains(text));
    }

    /// All that it saw; it ends by itself.
    fn end(self) -> String {
        until("it ends", || self.child.borrow_mut().try_wait().unwrap().is_some());
        assert!(self.child.borrow_mut().wait().unwrap().success(), "{}", self.text());
        self.text()
    }
}

fn followed(bench: &Bench) -> usize {
    let names = fs::read_dir(bench.davit.dir()).unwrap().map(|it| it.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("followed-")).count()
}

#[test]
fn a_build_is_remembered_with_all_that_it_wrote() {
    let dockerfile = "FROM alpine AS one\nARG WHO=nobody\n\
                      RUN echo to $WHO && echo err >&2\n\
                      FROM one AS two\nRUN seq 30000 | sed 's/^/line /'\nRUN echo 'a  b' && exit 3\n";
    let Some(bench) = alpine(dockerfile) else { return };
    let metadata = bench.davit.dir().join("metadata.json");
    let options = [
        "--target",
        "one",
        "--build-arg",
        "WHO=you",
        "--build-arg",
        "PROXY=http://user:hunter2@h/p?token=hunter3",
        "--label",
        "k=v",
        "--progress",
        "quiet",
        "--metadata-file",
        metadata.to_str().unwrap(),
    ];
    assert_eq!(bench.run(&options).code, 0);
    // What is quiet on the terminal is in the log.
    let lines = log(&bench, "");
    for line in ["to you", "err", "[one 1/1] RUN echo to you && echo err >&2"] {
        assert!(lines.iter().any(|it| it == line), "{line}: {lines:?}");
    }
    let first = inspect(&bench, "");
    let id = first["Ref"].as_str().unwrap().to_owned();
    let metadata: Value = serde_json::from_slice(&fs::read(metadata).unwrap()).unwrap();
    assert_eq!(metadata["buildx.build.ref"], format!("default/default/{id}"));
    assert_eq!(first["Name"], "context (one)");
    assert_eq!(first["Dockerfile"], "Dockerfile");
    assert_eq!(first["Status"], "completed");
    assert_eq!(first["Target"], "one");
    assert_eq!(first["Config"]["Network"], "none");
    assert_eq!(first["Labels"], serde_json::json!([{"Name": "k", "Value": "v"}]));
    let args = serde_json::json!([
        {"Name": "PROXY", "Value": "http://h/p"}, {"Name": "WHO", "Value": "you"}
    ]);
    assert_eq!(first["BuildArgs"], args);
    assert_eq!((&first["NumTotalSteps"], &first["NumCompletedSteps"]), (&2.into(), &2.into()));
    let step = &first["Steps"][1];
    assert_eq!((&step["Status"], &step["Lines"]), (&"done".into(), &serde_json::json!([5, 5])));
    let image = bench.davit.ok(["images", "-aq", "--no-trunc"]);
    let attached = ["inspect", "attachment", "--type", "image", "^0"];
    let config: Value = serde_json::from_str(&ok(&bench, &attached)).unwrap();
    assert_eq!(config["config"]["Labels"]["k"], "v", "{image}");
    let digest = first["Attachments"][0]["Digest"].as_str().unwrap();
    assert!(ok(&bench, &["inspect", "attachment", &id, digest]).contains("schemaVersion"));
    let bytes = String::from_utf8_lossy(&everything(&bench)).into_owned();
    assert!(bytes.contains("to you") && !bytes.contains("hunter"), "accounts are not kept");
    a_failed_build_is_remembered(&bench, &id);
}

/// More output than any terminal shows; `before` is the build before.
fn a_failed_build_is_remembered(bench: &Bench, before: &str) {
    let failed = bench.run(&["--progress", "quiet"]);
    assert_eq!(failed.code, 1);
    let second = inspect(bench, "^0");
    let newest = second["Ref"].as_str().unwrap();
    let hint = format!("hint: davit builder history logs {newest} shows its whole log");
    assert!(failed.stderr.contains(&hint), "{}", failed.stderr);
    let lines = log(bench, newest);
    let numbered = lines.iter().filter(|line| line.starts_with("line ")).count();
    assert_eq!(numbered, 30_000);
    assert!(lines.iter().any(|line| line == "a  b"));
    assert_eq!(second["Status"], "failed");
    assert_eq!(second["Error"]["Logs"], serde_json::json!(["a  b"]));
    assert!(second["Error"]["Name"].as_str().unwrap().contains("exit 3"));
    let counts =
        (&second["NumTotalSteps"], &second["NumCompletedSteps"], &second["NumCachedSteps"]);
    assert_eq!(counts, (&4.into(), &3.into(), &1.into()), "the base and a step without WHO");
    assert_eq!(inspect(bench, "^1")["Ref"], before);
    let pretty = ok(bench, &["inspect"]);
    for part in ["(25% cached)", "Logs:\n> => [", "> a  b\n", ">>> RUN echo 'a  b'", "Error:"] {
        assert!(pretty.contains(part), "{part}: {pretty}");
    }
    let packed: u64 = logs_on_disk(bench).iter().map(|it| fs::metadata(it).unwrap().len()).sum();
    assert!(packed < 200_000, "it is compressed: {packed}");
}

#[test]
fn lists_traces_and_forgets() {
    let Some(bench) = Bench::new(&[("f", "1"), ("Dockerfile", "FROM scratch\nCOPY f /\n")]) else {
        return;
    };
    for args in [&["ls"][..], &["ls", "--format", "json"]] {
        assert!(ok(&bench, args).lines().count() <= 1);
    }
    for verb in ["inspect", "logs", "trace"] {
        assert!(history(&bench, &[verb]).stderr.contains("no build is recorded"), "{verb}");
    }
    bench.build(&[]);
    bench.build(&[]);
    bench.write("Dockerfile", "FROM scratch\nCOPY gone /\n");
    bench.write("other.Dockerfile", "FROM\n");
    assert_eq!(bench.run(&[]).code, 1);
    let other = bench.context.join("other.Dockerfile");
    assert_eq!(bench.run(&["-f", other.to_str().unwrap()]).code, 1);
    let lines = ok(&bench, &["ls", "--format", "{{.Name}} {{.Status}}"]);
    let expected =
        "context/other.Dockerfile Error\ncontext Error\ncontext Completed\ncontext Completed";
    assert_eq!(lines, expected);
    let table = ok(&bench, &["ls"]);
    assert!(table.starts_with("BUILD ID") && table.lines().count() == 5, "{table}");
    assert!(!log(&bench, "^2").is_empty() && log(&bench, "^2").contains(&"CACHED".to_owned()));
    let json = ok(&bench, &["ls", "--format", "json"]);
    let line: Value = serde_json::from_str(json.lines().nth(2).unwrap()).unwrap();
    let id = line["ref"].as_str().unwrap();
    assert!(id.starts_with("default/default/"));
    assert_eq!((&line["total_steps"], &line["cached_steps"]), (&1.into(), &1.into()));
    let only = |filter: &str| ok(&bench, &["ls", "--format", "{{.Ref}}", "--filter", filter]);
    assert_eq!(only("status=completed").lines().count(), 2);
    assert_eq!(only("startedAt<24h").lines().count(), 0);
    assert_eq!(only("duration<1h").lines().count(), 4);
    assert!(history(&bench, &["ls", "--filter", "nonsense=1"]).stderr.contains("`nonsense`"));
    let trace: Value = serde_json::from_str(&ok(&bench, &["trace", "^3"])).unwrap();
    let spans = trace["data"][0]["spans"].as_array().unwrap();
    assert!(spans.len() == 2 && spans[1]["references"][0]["spanID"] == spans[0]["spanID"]);
    // Those of a repository.
    let local = |folder: &Path| {
        let mut local = bench.davit.command(["builder", "history", "ls", "--local"]);
        Outcome::from(local.current_dir(folder).output().unwrap())
    };
    assert!(local(bench.davit.dir()).stderr.contains("no git repository"));
    bench.write(".git/HEAD", &"a".repeat(40));
    bench.write(".git/config", "[remote \"origin\"]\nurl = https://u:p@h/o.git\n");
    assert_eq!(bench.run(&[]).code, 1);
    let local = local(&bench.context);
    assert_eq!(local.stdout.lines().count(), 2, "{}{}", local.stdout, local.stderr);
    assert_eq!(inspect(&bench, "")["VCSRepository"], "https://h/o.git");
    assert_eq!(inspect(&bench, "")["VCSRevision"], "a".repeat(40));
    // What davit has not is refused by name.
    for verb in ["export", "import", "open"] {
        let outcome = history(&bench, &[verb, "--all", "x"]);
        assert!(outcome.code == 1 && outcome.stderr.contains(verb), "{}", outcome.stderr);
    }
    assert!(history(&bench, &["rm"]).code != 0 && history(&bench, &["rm", "--all", "x"]).code != 0);
    let unknown = history(&bench, &["rm", id, "feedfeed"]);
    assert!(unknown.code == 1 && unknown.stderr.contains("no record of a build `feedfeed`"));
    assert!(ok(&bench, &["ls", "--format", "{{.FullRef}}"]).contains(id), "none has gone");
    ok(&bench, &["rm", id]);
    assert!(!ok(&bench, &["ls", "--format", "{{.FullRef}}"]).contains(id));
    let du = bench.davit.ok(["builder", "du", "--filter", "type=history"]);
    assert!(du.contains("records and logs of 4 builds") || du.contains("history"), "{du}");
    ok(&bench, &["rm", "--all"]);
    assert_eq!(ok(&bench, &["ls", "--format", "{{.Ref}}"]), "");
    assert!(logs_on_disk(&bench).is_empty());
}

#[test]
fn records_are_bounded_and_pruned() {
    let Some(bench) = Bench::new(&[("f", "1"), ("Dockerfile", "FROM scratch\nCOPY f /\n")]) else {
        return;
    };
    let folder = bench.davit.dir().join(".config/davit");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.toml"), "[gc]\nkeep_builds = 3\n").unwrap();
    for _ in 0..5 {
        bench.build(&["--no-cache"]);
    }
    let count = || ok(&bench, &["ls", "--format", "{{.Ref}}"]).lines().count();
    assert_eq!((count(), logs_on_disk(&bench).len()), (3, 3));
    bench.davit.ok(["builder", "prune", "-f"]);
    assert_eq!(count(), 3, "what is unused of the cache is no record");
    bench.davit.ok(["builder", "prune", "-f", "--filter", "type=history"]);
    assert_eq!((count(), logs_on_disk(&bench).len()), (0, 0));
    bench.build(&["--no-cache"]);
    fs::write(folder.join("config.toml"), "[gc]\nkeep_build_days = 0\n").unwrap();
    bench.build(&["--no-cache"]);
    assert_eq!(count(), 1, "but that of the build itself all are too old");
    fs::write(folder.join("config.toml"), "").unwrap();
    bench.build(&["--no-cache"]);
    bench.davit.ok(["builder", "prune", "-af"]);
    assert_eq!((count(), logs_on_disk(&bench).len()), (0, 0));
}

#[test]
fn builds_that_are_killed_cancelled_or_run_are_read() {
    let Some(bench) = alpine("FROM alpine\nRUN echo begun && sleep 600\n") else { return };
    let context = bench.context.to_str().unwrap().to_owned();
    let start = || {
        let arguments =
            ["build", "--progress", "plain", "--network", "none", "--no-cache", &context];
        let mut command = bench.davit.command(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut child = start();
    let follower = Follower::of_a_build_that_begins(&bench);
    follower.wait_for(" begun\n");
    let running = inspect(&bench, "");
    assert_eq!(running["Status"], "running");
    assert_eq!((&running["NumTotalSteps"], &running["NumCompletedSteps"]), (&2.into(), &1.into()));
    let refused = history(&bench, &["rm", "^0"]);
    assert!(refused.code == 1 && refused.stderr.contains("runs"), "{}", refused.stderr);
    ok(&bench, &["rm", "--all"]);
    assert!(ok(&bench, &["ls"]).contains("Running"));
    // Beside it, others build.
    std::thread::scope(|scope| {
        for name in ["x", "y", "z"] {
            let bench = &bench;
            scope.spawn(move || {
                let dockerfile = format!("FROM scratch\nENV A={name}\n");
                assert_eq!(bench.feed(dockerfile.as_bytes(), &["--target", "0"]).code, 0);
            });
        }
    });
    assert_eq!(ok(&bench, &["ls", "--filter", "status=completed"]).lines().count(), 4);
    // Another one begins to follow in the midst of it, and sees the same.
    let id = running["Ref"].as_str().unwrap();
    let second = Follower::of(&bench, id);
    second.wait_for(" begun\n");
    child.kill().unwrap();
    child.wait().unwrap();
    for text in [follower.end(), second.end()] {
        assert!(text.contains(" begun\n") && !text.contains("DONE 6"), "{text}");
    }
    let killed = inspect(&bench, id);
    assert_eq!(
        (&killed["Status"], &killed["Error"]["Message"]),
        (&"failed".into(), &"the build was killed".into())
    );
    assert_eq!(killed["Steps"][1]["Status"], "running");
    assert!(log(&bench, id).contains(&"begun".to_owned()));
    assert_eq!(ok(&bench, &["ls", "--filter", "status=error"]).lines().count(), 2);

    let child = start();
    let follower = Follower::of_a_build_that_begins(&bench);
    let outcome = interrupt(child, |_| follower.text().contains(" begun\n"));
    assert_eq!(outcome.code, 130, "{}", outcome.stderr);
    assert_eq!(follower.end().matches(" begun\n").count(), 1);
    assert_eq!(inspect(&bench, "")["Status"], "canceled");
    assert!(ok(&bench, &["ls"]).contains("Canceled"));
    assert!(log(&bench, "").contains(&"begun".to_owned()));
}

#[test]
fn a_secret_is_in_no_record() {
    let dockerfile = "FROM alpine\nARG TOKEN\nRUN --mount=type=secret,id=s cat /run/secrets/s >/dev/null\n\
                      RUN --mount=type=secret,id=s,env=S test -n \"$S\" && exit 4\n";
    let Some(bench) = alpine(dockerfile) else { return };
    let secret = bench.davit.dir().join("secret");
    fs::File::create(&secret).unwrap().write_all(b"correct horse battery\n").unwrap();
    let spec = format!("id=s,src={}", secret.display());
    let arg = "TOKEN=correct horse battery";
    let outcome = bench.run(&["--secret", &spec, "--build-arg", arg]);
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert_eq!(inspect(&bench, "")["BuildArgs"][0]["Value"], "****");
    let bytes = everything(&bench);
    let shown = String::from_utf8_lossy(&bytes);
    assert!(shown.contains("exit 4"));
    let records = ok(&bench, &["inspect", "--format", "json"]) + &log(&bench, "").join("\n");
    assert!(!records.contains("correct horse"), "{records}");
}

/// What a build read and what is attested of it, as `docker buildx history inspect` shows them.
#[test]
fn materials_and_statements_are_remembered() {
    let Some(bench) = alpine("FROM alpine\n") else { return };
    bench.build(&["-t", "base:1"]);
    assert_eq!(inspect(&bench, "")["Materials"], Value::Null, "an archive of the context is none");
    bench.write("Dockerfile", "FROM base:1\nLABEL a=b\n");
    bench.build(&["--provenance", "mode=max", "--sbom", "true"]);
    let shown = inspect(&bench, "");
    let material = &shown["Materials"][0];
    assert_eq!(material["URI"], "pkg:docker/base@1?platform=linux%2Famd64");
    let digest = material["Digests"][0].as_str().unwrap();
    assert!(digest.starts_with("sha256:"), "{material}");
    let pretty = ok(&bench, &["inspect"]);
    assert!(pretty.contains("Materials:\nURI") && pretty.contains(digest), "{pretty}");
    let types = ["https://slsa.dev/provenance/v1", "https://spdx.dev/Document"];
    let attachment = |args: &[&str]| -> Value {
        let all = [&["inspect", "attachment"], args].concat();
        serde_json::from_str(&ok(&bench, &all)).unwrap()
    };
    for (word, kind, field) in
        [("provenance", types[0], "buildDefinition"), ("sbom", types[1], "spdxVersion")]
    {
        let listed = shown["Attachments"].as_array().unwrap().iter();
        let entry = listed.clone().find(|it| it["Type"] == kind).unwrap();
        assert_eq!(entry["Platform"], "linux/amd64");
        for name in [word, kind] {
            assert!(!attachment(&["--type", name])[field].is_null(), "{name}");
        }
        let statement = attachment(&["^0", entry["Digest"].as_str().unwrap()]);
        assert_eq!(statement["predicateType"], kind);
    }
}

#[test]
fn docker_asks_for_the_history() {
    let Some(bench) = Bench::new(&[("f", "1"), ("Dockerfile", "FROM scratch\nCOPY f /\n")]) else {
        return;
    };
    let Some(docker) = Docker::new(&bench.davit) else { return };
    docker.ok(&["buildx", "build", "-q", bench.context.to_str().unwrap()]);
    let id = docker.ok(&["buildx", "history", "ls", "--format", "{{.Ref}}"]);
    let shown =
        docker.ok(&["buildx", "history", "inspect", "--format", "{{.Name}} {{.Status}}", &id]);
    assert_eq!(shown, "context completed");
    let pretty = docker.ok(&["buildx", "--builder", "x", "history", "inspect"]);
    assert!(pretty.contains(&format!("docker buildx history logs {id}")), "{pretty}");
    let logs = docker.run(&["buildx", "history", "logs", "--progress", "rawjson", &id]);
    assert!(logs.code == 0 && logs.stderr.contains("\"vertexes\""), "{logs:?}");
    bench.write("Dockerfile", "FROM scratch\nRUN [\"/none\"]\n");
    let failed = docker.run(&["buildx", "build", bench.context.to_str().unwrap()]);
    assert!(failed.stderr.contains("hint: docker buildx history logs "), "{}", failed.stderr);
    assert_eq!(docker.run(&["buildx", "history", "open"]).code, 1);
    docker.ok(&["buildx", "history", "rm", "--all"]);
    assert_eq!(docker.ok(&["buildx", "history", "ls", "--format", "{{.Ref}}"]), "");
}

/// A log that cannot be written costs no build.
#[test]
fn a_build_without_room_for_its_record_is_built() {
    let Some(bench) = alpine("FROM alpine\nRUN echo out\n") else { return };
    bench.build(&[]);
    let folder = bench.davit.root().join("builds");
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "in the way").unwrap();
    let context = bench.context.to_str().unwrap();
    let arguments = ["--debug", "build", "--network", "none", "--no-cache", context];
    let mut command: Command = bench.davit.command(arguments);
    let outcome = Outcome::from(command.output().unwrap());
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("the log of the build is lost"), "{}", outcome.stderr);
    fs::remove_file(folder).unwrap();
    assert_eq!(inspect(&bench, "")["Status"], "completed");
}
