//! davit as `docker-buildx`, called by Docker's command line.

use std::{
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use davit_test::{Content, Davit, End, HttpServer, Outcome, need_tool};
use serde_json::Value;

use super::{bench::Bench, cancel::interrupt};

/// Docker's command line with davit for its plugin.
pub(crate) struct Docker<'a> {
    program: PathBuf,
    davit: &'a Davit,
}

impl<'a> Docker<'a> {
    /// Links davit into the folder of plugins of the test's user.
    pub(crate) fn new(davit: &'a Davit) -> Option<Self> {
        let program = need_tool("docker")?;
        let plugins = davit.dir().join(".docker/cli-plugins");
        fs::create_dir_all(&plugins).unwrap();
        symlink(env!("CARGO_BIN_EXE_davit"), plugins.join("docker-buildx")).unwrap();
        Some(Self { program, davit })
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let davit = self.davit.command([""; 0]);
        let mut command = Command::new(&self.program);
        for (name, value) in davit.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let daemon = ["DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_BUILDKIT", "BUILDX_BUILDER"];
        for name in daemon {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).args(args);
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        Outcome::from(self.command(args).output().unwrap())
    }

    /// Runs a command that must succeed; returns its output without the last line end.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.code, 0, "{args:?}: {}{}", outcome.stdout, outcome.stderr);
        outcome.stdout.trim_end_matches('\n').to_owned()
    }
}

#[test]
fn docker_builds_with_davit() {
    let Some(bench) = Bench::new(&[("Dockerfile", "FROM scratch\nCOPY f /\n"), ("f", "f")]) else {
        return;
    };
    let Some(docker) = Docker::new(&bench.davit) else { return };
    let (config, context) = (bench.davit.dir().join(".docker"), bench.context.to_str().unwrap());
    let config = config.to_str().unwrap();
    for words in [
        &["buildx", "build"][..],
        &["buildx", "b"],
        &["build"],
        &["image", "build"],
        &["builder", "build"],
        &["-D", "--config", config, "-H", "unix:///none.sock", "-l", "warn", "buildx", "build"],
        &["buildx", "--builder", "some", "build"],
        &["buildx", "build", "--builder=some"],
    ] {
        let id = docker.ok(&[words, &["-q", "-t", "made:1", context]].concat());
        let here = bench.davit.ok(["images", "-q", "--no-trunc", "made:1"]);
        assert_eq!(id, here, "{words:?}");
        bench.davit.ok(["rmi", "made:1"]);
    }
    let mut command = docker.command(&["build", "-q", context]);
    let chosen = Outcome::from(command.env("DOCKER_BUILDKIT", "1").output().unwrap());
    assert!(chosen.stdout.starts_with("sha256:"), "{chosen:?}");
    let missing = docker.run(&["buildx", "build", "--target", "none", context]);
    assert!(missing.code == 1 && missing.stderr.contains("none"), "{missing:?}");
    assert_eq!(docker.run(&["build", "--no-such", context]).code, 125);
    let format = ["--format", "{{.ID}} {{.CacheType}} {{.Size}}"];
    let used = bench.davit.ok([&["builder", "du"], &format[..]].concat());
    assert!(used.contains(' '), "{used}");
    for words in [&["buildx", "du"][..], &["buildx", "du", "--builder", "some", "--verbose"]] {
        assert_eq!(docker.ok(&[words, &format[..]].concat()), used, "{words:?}");
    }
    let pruned = docker.ok(&["builder", "prune", "--all", "-f"]);
    assert!(pruned.contains("Total reclaimed space: "), "{pruned}");
    assert_eq!(docker.ok(&["buildx", "du"]).lines().count(), 1);
    for far in ["tcp://192.0.2.1:2375", "ssh://a@192.0.2.1"] {
        let refused = docker.run(&["-H", far, "buildx", "build", context]);
        assert!(refused.code == 1 && refused.stderr.contains(far), "{refused:?}");
    }
    // A context of Docker's names a daemon, too.
    let far = "tcp://192.0.2.2:2375";
    docker.ok(&["context", "create", "far", "--docker", &format!("host={far}")]);
    docker.ok(&["context", "create", "near", "--docker", "host=unix:///none.sock"]);
    let refused = docker.run(&["-c", "far", "buildx", "build", context]);
    assert!(refused.code == 1 && refused.stderr.contains(far), "{refused:?}");
    docker.ok(&["-c", "near", "buildx", "build", context]);
    docker.ok(&["context", "use", "far"]);
    let refused = docker.run(&["buildx", "build", context]);
    assert!(refused.code == 1 && refused.stderr.contains(far), "{refused:?}");
    docker.ok(&["-H", "unix:///none.sock", "buildx", "build", context]);
    docker.ok(&["buildx", "version"]);
}

#[test]
fn docker_sees_one_builder() {
    let davit = crate::davit();
    let Some(docker) = Docker::new(&davit) else { return };
    let plugins = docker.ok(&["info", "--format", "{{json .ClientInfo.Plugins}}"]);
    let plugins: Value = serde_json::from_str(&plugins).unwrap();
    let buildx = plugins.as_array().unwrap().iter().find(|it| it["Name"] == "buildx").unwrap();
    assert_eq!((&buildx["Err"], &buildx["SchemaVersion"]), (&Value::Null, &"0.1.0".into()));
    // Docker Compose leaves the first letter out and wants 0.17 or later.
    assert!(buildx["Version"].as_str().unwrap().starts_with("v0.36."), "{buildx}");
    let version = docker.ok(&["buildx", "version"]);
    assert!(version.starts_with("davit/buildx v0.36."), "{version}");

    let listed = docker.ok(&["buildx", "ls"]);
    let heads = ["NAME/NODE", "DRIVER/ENDPOINT", "STATUS", "BUILDKIT", "PLATFORMS"];
    let lines: Vec<Vec<&str>> =
        listed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((&lines[0][..], &lines[1][..]), (&heads[..], &["default*", "davit"][..]));
    assert_eq!(lines[2][..4], ["\\_", "default", "default", "running"]);
    let host = davit_engine::image::Platform::host().to_string();
    assert!(listed.contains(&host), "{listed}");
    let names = docker.ok(&["buildx", "ls", "--format", "{{.Name}} {{.DriverEndpoint}}"]);
    assert_eq!(names, "default davit\ndefault default");
    let json: Value =
        serde_json::from_str(&docker.ok(&["buildx", "ls", "--format", "json"])).unwrap();
    assert_eq!((&json["Name"], &json["Current"]), (&"default".into(), &true.into()));
    assert_eq!(json["Nodes"][0]["Platforms"][0], host.as_str());
    for words in
        [&["inspect"][..], &["inspect", "--bootstrap", "any"], &["--builder", "any", "inspect"]]
    {
        let shown = docker.ok(&[&["buildx"], words].concat());
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[..2], ["Name:   default", "Driver: davit"], "{words:?}");
        assert!(shown.contains("Status:           running\n") && shown.contains(&host), "{shown}");
    }
    let node = ["buildx", "inspect", "--format", "{{(index .Nodes 0).Status}}"];
    assert_eq!(docker.ok(&node), "running");

    let create = ["buildx", "create", "--use", "--name", "mine", "--driver", "docker-container"];
    assert_eq!(docker.ok(&create), "mine");
    let with_option = docker.run(&[&create[..], &["--driver-opt", "network=host"]].concat());
    assert!(with_option.stderr.contains("--driver-opt changes nothing"), "{with_option:?}");
    docker.ok(&["buildx", "use", "mine"]);
    docker.ok(&["buildx", "stop", "mine"]);
    assert_eq!(docker.ok(&["buildx", "rm", "-f", "mine"]), "mine removed");
    for refused in [
        &["create", "--driver", "kubernetes"][..],
        &["create", "tcp://192.0.2.1:1234"],
        &["create", "--append", "--name", "mine"],
        &["create", "--name", "default"],
        &["rm"],
        &["rm", "default"],
        &["nothing"],
    ] {
        let outcome = docker.run(&[&["buildx"], refused].concat());
        assert!(outcome.code == 1 && outcome.stderr.starts_with("error: "), "{outcome:?}");
    }
    for words in [&["buildx", "--help"][..], &["help", "buildx"], &["buildx", "help"]] {
        assert!(docker.ok(words).contains("Manage builds"), "{words:?}");
    }
    let offered = docker.ok(&["__complete", "buildx", "imagetools", "insp"]);
    assert!(offered.starts_with("inspect\t") && offered.ends_with(":4"), "{offered}");
    assert!(docker.ok(&["build", "--help"]).contains("--build-arg"));
}

/// Docker tells its plugin that it is to end by closing a socket.
#[test]
fn a_build_ends_with_docker() {
    let server = HttpServer::start(|request| {
        let reply = Content::default().serve(request);
        if request.path == "/v2/" { reply } else { reply.end(End::Silence) }
    });
    let dockerfile = format!("FROM {}/x:1\n", server.host());
    let Some(bench) = Bench::new(&[("Dockerfile", &dockerfile)]) else { return };
    let Some(docker) = Docker::new(&bench.davit) else { return };
    let mut command = docker.command(&["buildx", "build", bench.context.to_str().unwrap()]);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let asked = |_: &Child| server.requests().iter().any(|it| it.path.contains("/x/"));
    let outcome = interrupt(child, asked);
    assert_eq!(outcome.code, 143, "{}", outcome.stderr);
}
